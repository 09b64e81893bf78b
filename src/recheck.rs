//! After the sweep: the database is asked once more for the names of what was deleted. A row
//! that names one now was written in the moment between the fresh check and the deletion, or
//! points at an old key: nobody shall learn of that from a broken image.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Seek as _, SeekFrom, Write as _};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use thiserror::Error;

use crate::hands::{CheckError, FreshCheck, LookError, Record, RecordError};
use crate::key::ObjectKey;
use crate::object::{Orphan, Outcome};
use crate::summary::{MAX_PROBLEMS, Problem};
use crate::undelete::{Claim, TakeBack, Undone};

/// Names that are asked for at once: they are held in memory.
const WINDOW: usize = 20_000;

/// The code of an object that a row names although it was deleted.
pub const REFERENCED: &str = "ReferencedAfterDeletion";

/// The code of a sweep after which the database could not be asked again.
pub const NOT_RECHECKED: &str = "NotRechecked";

/// The deleted could not be asked about.
#[derive(Debug, Error)]
pub enum RecheckError {
    /// The database.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// The temporary file.
    #[error("what was deleted could not be read from the temporary folder")]
    Spool(#[from] io::Error),
}

/// One deletion, as it is remembered.
#[derive(Serialize, Deserialize)]
struct Deletion {
    orphan: Orphan,
    marker: Option<String>,
}

/// Remembers what was deleted, in a temporary file, while it is written down elsewhere.
#[derive(Debug)]
pub struct RememberingDeleted<'run, R> {
    record: &'run R,
    deleted: Mutex<Deleted>,
}

/// What was deleted.
#[derive(Debug)]
pub struct Deleted {
    file: BufWriter<NamedTempFile>,
    /// How many.
    count: u64,
    recoverable_bytes: u64,
}

impl<'run, R> RememberingDeleted<'run, R> {
    /// Nothing yet; all is also written down by `record`.
    ///
    /// # Errors
    /// The temporary folder cannot be written to.
    pub fn new(record: &'run R) -> io::Result<Self> {
        Ok(Self {
            record,
            deleted: Mutex::new(Deleted {
                file: BufWriter::new(NamedTempFile::new()?),
                count: 0,
                recoverable_bytes: 0,
            }),
        })
    }

    /// What was deleted.
    #[must_use]
    pub fn deleted(self) -> Deleted {
        self.deleted
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, settled: &[(Orphan, Outcome)]) -> io::Result<()> {
        let mut deleted = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        for (orphan, outcome) in settled {
            let Outcome::Deleted { marker } = outcome else {
                continue;
            };
            deleted.count += 1;
            if marker.as_deref().is_some_and(is_undoable) {
                deleted.recoverable_bytes += orphan.size;
            }
            let deletion = Deletion {
                orphan: orphan.clone(),
                marker: marker.clone(),
            };
            serde_json::to_writer(&mut deleted.file, &deletion)?;
            deleted.file.write_all(b"\n")?;
        }
        Ok(())
    }
}

/// Whether a deletion with this marker keeps what it deleted: `null` is the marker of a
/// bucket whose versioning is suspended.
fn is_undoable(marker: &str) -> bool {
    marker != "null"
}

impl<R: Record + Sync> Record for RememberingDeleted<'_, R> {
    async fn outcomes(&self, batch: u64, settled: &[(Orphan, Outcome)]) -> Result<(), RecordError> {
        let remembered = self.remember(settled).map_err(|error| RecordError {
            context: "in the temporary folder".to_owned(),
            source: error.into(),
        });
        // The ledger is worth more than the memory: it is written whatever became of that.
        self.record.outcomes(batch, settled).await?;
        remembered
    }
}

impl Deleted {
    /// Bytes below a delete marker.
    #[must_use]
    pub fn recoverable_bytes(&self) -> u64 {
        self.recoverable_bytes
    }

    /// Whether nothing was deleted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn read(self) -> io::Result<BufReader<File>> {
        let file = self
            .file
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        let mut file = file.reopen()?;
        file.seek(SeekFrom::Start(0))?;
        Ok(BufReader::new(file))
    }
}

/// What the question brought to light.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rechecked {
    /// Deleted objects that a row names now.
    pub referenced: u64,
    /// Those of them that were restored.
    pub restored: u64,
}

/// What a look back has found so far: it stands, even if the look ends early.
#[derive(Debug, Default)]
pub struct Findings {
    /// How many.
    pub counts: Rechecked,
    /// The first, by name.
    pub problems: Vec<Problem>,
}

/// Asks the primary for everything that was deleted, and takes back what a row names, where
/// the right to do so is there.
///
/// # Errors
/// The question could not be asked to its end.
pub async fn recheck(
    deleted: Deleted,
    check: &impl FreshCheck,
    hands: &impl TakeBack,
    findings: &mut Findings,
) -> Result<(), RecheckError> {
    let mut lines = deleted.read()?.lines();
    loop {
        let window = lines
            .by_ref()
            .take(WINDOW)
            .map(|line| Ok(serde_json::from_str(&line?)?))
            .collect::<io::Result<Vec<Deletion>>>()?;
        if window.is_empty() {
            return Ok(());
        }
        let keys: Vec<&ObjectKey> = window.iter().map(|deletion| &deletion.orphan.key).collect();
        let named = check.referenced(&keys).await?;
        if named.len() != window.len() {
            return Err(CheckError("the check did not answer for every key".into()).into());
        }
        let named: Vec<&Deletion> = window
            .iter()
            .zip(named)
            .filter_map(|(deletion, named)| named.then_some(deletion))
            .collect();
        findings.take_back(&named, hands).await;
    }
}

impl Findings {
    async fn take_back(&mut self, named: &[&Deletion], hands: &impl TakeBack) {
        self.counts.referenced += named.len() as u64;
        let (undoable, lost): (Vec<_>, Vec<_>) = named
            .iter()
            .map(|deletion| (&deletion.orphan, deletion.marker.as_deref()))
            .partition(|(_, marker)| marker.is_some_and(is_undoable));
        for (orphan, _) in lost {
            self.tell(orphan, "the bucket keeps no versions, so it is lost");
        }
        // Said before it is tried: nobody knows whether there is time for an answer.
        let first = self.problems.len();
        for (orphan, _) in &undoable {
            self.tell(orphan, "there was no time to see whether it is restored");
        }
        let wanted: Vec<(&Orphan, Claim)> = undoable
            .iter()
            .filter_map(|&(orphan, marker)| Some((orphan, Claim::Marker(marker?.to_owned()))))
            .collect();
        if wanted.is_empty() {
            return;
        }
        let ended = hands.take_back(&wanted).await;
        self.problems.truncate(first);
        for ((orphan, _), ended) in wanted.into_iter().zip(ended) {
            let how = told(ended);
            self.counts.restored += u64::from(how.is_ok());
            match how {
                Ok(how) | Err(how) => self.tell(orphan, &how),
            }
        }
    }

    fn tell(&mut self, orphan: &Orphan, how: &str) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem {
                key: Some(orphan.key.clone()),
                code: REFERENCED.to_owned(),
                message: format!("a row names it now, although it was deleted; {how}"),
            });
        }
    }
}

/// Whether the object is there again, and how that is said.
fn told(ended: Result<Undone, LookError>) -> Result<String, String> {
    match ended {
        Ok(Undone::Restored) => Ok("it was restored".to_owned()),
        Ok(Undone::Present) => Ok("it was restored already".to_owned()),
        // An upload, which is as good, or another deletion, which is not.
        Ok(Undone::Newer) => Err(
            "something newer stands above its deletion, and was left alone: look at it".to_owned(),
        ),
        Ok(Undone::Lost | Undone::Untouched | Undone::Restorable) => {
            Err("its version is not kept any more".to_owned())
        }
        Err(LookError { code, message }) => Err(format!(
            "it was not restored ({}: {message}): `orphan-sweeper restore` with this run's id does it, by a role with s3:DeleteObjectVersion",
            code.as_deref().unwrap_or("NoAnswer")
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use futures::FutureExt as _;
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::object::{ETag, SparedBy};

    /// Keeps the batches that it was given, and fails where it shall.
    #[derive(Default)]
    struct Ledger {
        fails: bool,
        batches: Mutex<Vec<u64>>,
    }

    impl Record for Ledger {
        async fn outcomes(&self, batch: u64, _: &[(Orphan, Outcome)]) -> Result<(), RecordError> {
            self.batches.lock().unwrap().push(batch);
            if self.fails {
                return Err(RecordError {
                    context: "on a full disk".to_owned(),
                    source: "no space left".into(),
                });
            }
            Ok(())
        }
    }

    /// What a row names now, and what becomes of the wish to take it back.
    #[derive(Default)]
    struct World {
        named: HashMap<ObjectKey, bool>,
        ends: HashMap<ObjectKey, Option<Undone>>,
        /// Answers too few.
        forgets: usize,
    }

    impl FreshCheck for World {
        async fn referenced(&self, keys: &[&ObjectKey]) -> Result<Vec<bool>, CheckError> {
            let answers = keys.iter().skip(self.forgets).map(|key| self.named[*key]);
            Ok(answers.collect())
        }
    }

    impl TakeBack for World {
        async fn take_back(&self, wanted: &[(&Orphan, Claim)]) -> Vec<Result<Undone, LookError>> {
            wanted
                .iter()
                .map(|(orphan, claim)| {
                    assert_eq!(*claim, Claim::Marker("marker".to_owned()));
                    self.ends[&orphan.key].ok_or_else(|| LookError {
                        code: None,
                        message: "reset".to_owned(),
                    })
                })
                .collect()
        }
    }

    fn orphan(number: usize) -> Orphan {
        Orphan {
            key: ObjectKey::new(number.to_string()),
            etag: ETag::new("\"e\""),
            size: 1 + number as u64,
            last_modified: Timestamp::UNIX_EPOCH,
        }
    }

    fn deleted(marker: Option<&str>) -> Outcome {
        Outcome::Deleted {
            marker: marker.map(str::to_owned),
        }
    }

    /// An outcome, whether a row names the key now, and how taking it back ends.
    fn cases() -> impl Strategy<Value = Vec<(Outcome, bool, Option<Undone>)>> {
        let outcome = prop_oneof![
            4 => Just(deleted(Some("marker"))),
            1 => Just(deleted(Some("null"))),
            1 => Just(deleted(None)),
            1 => Just(Outcome::Gone),
            1 => Just(Outcome::Spared(SparedBy::Check)),
        ];
        let end = proptest::option::of(prop_oneof![
            Just(Undone::Restored),
            Just(Undone::Present),
            Just(Undone::Newer),
            Just(Undone::Lost),
            Just(Undone::Untouched),
        ]);
        proptest::collection::vec((outcome, any::<bool>(), end), 0..50)
    }

    proptest! {
        #[test]
        fn whatever_was_deleted_and_is_named_now_is_told_and_taken_back_where_it_can_be(
            cases in cases(),
            batch in 1_usize..9,
        ) {
            let mut world = World::default();
            let mut settled = Vec::new();
            for (number, (outcome, named, end)) in cases.iter().enumerate() {
                let orphan = orphan(number);
                world.named.insert(orphan.key.clone(), *named);
                world.ends.insert(orphan.key.clone(), *end);
                settled.push((orphan, outcome.clone()));
            }
            let ledger = Ledger::default();
            let memory = RememberingDeleted::new(&ledger).unwrap();
            for (number, batch) in (0..).zip(settled.chunks(batch)) {
                memory.outcomes(number, batch).now_or_never().unwrap().unwrap();
            }
            let remembered = memory.deleted();
            let batches = ledger.batches.into_inner().unwrap();
            prop_assert_eq!(batches.len(), settled.len().div_ceil(batch));
            prop_assert!((0..).zip(batches).all(|(number, batch): (u64, u64)| number == batch));

            let is_deleted = |outcome: &Outcome| matches!(outcome, Outcome::Deleted { .. });
            let keeps = |outcome: &Outcome| *outcome == deleted(Some("marker"));
            let recoverable = settled.iter().filter(|(_, outcome)| keeps(outcome)).map(|(orphan, _)| orphan.size);
            prop_assert_eq!(remembered.recoverable_bytes(), recoverable.sum::<u64>());
            prop_assert_eq!(remembered.is_empty(), !cases.iter().any(|(outcome, _, _)| is_deleted(outcome)));

            let mut findings = Findings::default();
            recheck(remembered, &world, &world, &mut findings).now_or_never().unwrap().unwrap();
            let named: Vec<_> = (0..).zip(&cases).filter(|(_, (outcome, named, _))| is_deleted(outcome) && *named).collect();
            let is_back = |outcome: &Outcome, end: Option<Undone>| keeps(outcome) && matches!(end, Some(Undone::Restored | Undone::Present));
            let back = named.iter().filter(|(_, (outcome, _, end))| is_back(outcome, *end)).count();
            prop_assert_eq!(findings.counts, Rechecked { referenced: named.len() as u64, restored: back as u64 });
            prop_assert_eq!(findings.problems.len(), named.len().min(MAX_PROBLEMS));
            for problem in &findings.problems {
                let key = problem.key.as_ref().unwrap();
                let (_, (outcome, _, end)) = named.iter().find(|(number, _)| orphan(*number).key == *key).unwrap();
                prop_assert_eq!(problem.message.contains("it was restored"), is_back(outcome, *end), "{:?}", problem);
                prop_assert_eq!(problem.message.contains("it is lost"), !keeps(outcome), "{:?}", problem);
            }
        }
    }

    #[test]
    fn what_the_ledger_lost_is_remembered_and_told() {
        let ledger = Ledger {
            fails: true,
            ..Ledger::default()
        };
        let memory = RememberingDeleted::new(&ledger).unwrap();
        let settled = [(orphan(1), deleted(None))];
        let ended = memory.outcomes(0, &settled).now_or_never().unwrap();
        assert!(ended.is_err());
        assert!(!memory.deleted().is_empty());
    }

    #[test]
    fn an_answer_for_fewer_keys_says_nothing() {
        let ledger = Ledger::default();
        let memory = RememberingDeleted::new(&ledger).unwrap();
        let settled = [(orphan(1), deleted(None)), (orphan(2), deleted(None))];
        memory
            .outcomes(0, &settled)
            .now_or_never()
            .unwrap()
            .unwrap();
        let named = HashMap::from([1, 2].map(|number| (orphan(number).key, true)));
        let world = World {
            named,
            forgets: 1,
            ..World::default()
        };
        let mut findings = Findings::default();
        let ended = recheck(memory.deleted(), &world, &world, &mut findings).now_or_never();
        assert!(matches!(ended, Some(Err(RecheckError::Check(_)))));
        assert_eq!(findings.counts, Rechecked::default());
    }
}
