//! After the sweep: the database is asked once more for the names of what was deleted. A row
//! that names one now was written in the moment between the fresh check and the deletion, or
//! points at an old key: nobody shall learn of that from a broken image.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Seek as _, SeekFrom, Write as _};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use thiserror::Error;

use crate::guards::Versioning;
use crate::hands::{CheckError, FreshCheck, LookError, Record, RecordError};
use crate::key::ObjectKey;
use crate::object::{Orphan, Outcome};
use crate::reconcile::may_act_later;
use crate::summary::{MAX_PROBLEMS, Problem, Rechecked};
use crate::undelete::{AT_ONCE, Claim, KEPT_BELOW, NULL_VERSION, Span, TakeBack, Undone};

/// Names that are asked for at once: they are held in memory.
const WINDOW: usize = 20_000;

/// The code of an object that a row names although it was deleted.
pub const REFERENCED: &str = "ReferencedAfterDeletion";

/// The code of an object that a row names, and of which nobody knows whether it was deleted.
pub const UNSURE: &str = "ReferencedAndUnknown";

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

/// One deletion, or what may be one, as it is remembered.
#[derive(Serialize, Deserialize)]
struct Deletion {
    orphan: Orphan,
    told: Told,
}

/// What S3 told of it.
#[derive(Serialize, Deserialize)]
enum Told {
    /// It was deleted, and left this marker.
    Deleted(Option<String>),
    /// Nothing that can be relied on.
    Nothing,
}

/// Remembers what was or may have been deleted, in a temporary file, while it is written down elsewhere.
#[derive(Debug)]
pub struct RememberingDeleted<'run, R> {
    record: &'run R,
    deleted: Mutex<Deleted>,
}

/// What was, or may have been, deleted.
#[derive(Debug)]
pub struct Deleted {
    file: BufWriter<NamedTempFile>,
    /// Why the file does not hold all of it.
    torn: Option<io::Error>,
    versioning: Versioning,
    /// When the first could have been deleted, by S3's clock.
    since: Timestamp,
    /// How many S3 confirmed.
    count: u64,
    /// How many more it may have deleted.
    unknown: u64,
    /// Those of which S3's answer does not tell what became of the data.
    unclear: u64,
    bytes: Bytes,
}

/// What became of the bytes that were deleted, as far as it is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bytes {
    /// Free now.
    pub freed: u64,
    /// Below a delete marker that can be taken away.
    pub recoverable: u64,
    /// Below a delete marker that is left alone.
    pub kept: u64,
}

impl<'run, R> RememberingDeleted<'run, R> {
    /// Nothing yet; all is also written down by `record`. Nothing is deleted before `since`, by
    /// S3's clock.
    ///
    /// # Errors
    /// The temporary folder cannot be written to.
    pub fn new(record: &'run R, versioning: Versioning, since: Timestamp) -> io::Result<Self> {
        Ok(Self {
            record,
            deleted: Mutex::new(Deleted {
                file: BufWriter::new(NamedTempFile::new()?),
                torn: None,
                versioning,
                since,
                count: 0,
                unknown: 0,
                unclear: 0,
                bytes: Bytes::default(),
            }),
        })
    }

    /// What was, or may have been, deleted.
    #[must_use]
    pub fn deleted(self) -> Deleted {
        self.deleted
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, settled: &[(Orphan, Outcome)]) -> io::Result<()> {
        let mut deleted = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        let deletions: Vec<Deletion> = settled
            .iter()
            .filter_map(|(orphan, outcome)| {
                let told = match outcome {
                    Outcome::Deleted { marker } => Told::Deleted(marker.clone()),
                    Outcome::Unknown { .. } => Told::Nothing,
                    Outcome::Failed { code, .. } if may_act_later(code) => Told::Nothing,
                    _ => return None,
                };
                let orphan = orphan.clone();
                Some(Deletion { orphan, told })
            })
            .collect();
        // Before anything can go wrong: S3 confirmed them all.
        for deletion in &deletions {
            let size = deletion.orphan.size;
            let fate = deletion.fate(deleted.versioning);
            match fate {
                Fate::Undoable => deleted.bytes.recoverable += size,
                Fate::Final => deleted.bytes.freed += size,
                Fate::Unclear => deleted.unclear += 1,
                Fate::Unknown => deleted.unknown += 1,
            }
            deleted.count += u64::from(fate != Fate::Unknown);
        }
        let written = deleted.write(&deletions);
        if let Err(error) = &written {
            deleted.torn = Some(io::Error::new(error.kind(), error.to_string()));
        }
        written
    }
}

/// What S3's answer tells of the data that was deleted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is below a delete marker of the run's own.
    Undoable,
    /// It is destroyed.
    Final,
    /// A look tells. A bucket whose versioning is suspended makes a marker `null` over what was
    /// written before, and in place of what was written since; some storages name no marker.
    Unclear,
    /// It may stand there still.
    Unknown,
}

impl Deletion {
    /// Which marker is its own, where nothing was deleted before `since`.
    fn claim(&self, since: Timestamp) -> Claim {
        match &self.told {
            Told::Deleted(Some(marker)) => Claim::Marker(marker.clone()),
            Told::Deleted(None) => Claim::Unnamed,
            Told::Nothing => Claim::Within(Span {
                from: since,
                until: Timestamp::MAX,
            }),
        }
    }

    fn fate(&self, versioning: Versioning) -> Fate {
        match &self.told {
            Told::Deleted(Some(marker)) if marker != NULL_VERSION => Fate::Undoable,
            Told::Deleted(None) if versioning == Versioning::Off => Fate::Final,
            Told::Deleted(_) => Fate::Unclear,
            Told::Nothing => Fate::Unknown,
        }
    }
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
    /// What became of the bytes, as far as S3's answers tell.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.bytes
    }

    /// Whether nothing was, or may have been, deleted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count + self.unknown == 0
    }

    /// Whether anything of it may be kept.
    #[must_use]
    pub fn may_be_kept(&self) -> bool {
        self.unclear > 0 || self.bytes.recoverable > 0
    }

    fn write(&mut self, deletions: &[Deletion]) -> io::Result<()> {
        for deletion in deletions {
            serde_json::to_writer(&mut self.file, deletion)?;
            self.file.write_all(b"\n")?;
        }
        Ok(())
    }

    fn read(&mut self) -> io::Result<Windows> {
        if let Some(error) = &self.torn {
            return Err(io::Error::new(error.kind(), error.to_string()));
        }
        self.file.flush()?;
        let mut file = self.file.get_ref().reopen()?;
        file.seek(SeekFrom::Start(0))?;
        Ok(Windows(BufReader::new(file).lines()))
    }
}

/// The deletions, so many at a time.
struct Windows(io::Lines<BufReader<File>>);

impl Windows {
    /// The next ones; none at the end.
    fn next_window(&mut self) -> io::Result<Vec<Deletion>> {
        self.0
            .by_ref()
            .take(WINDOW)
            .map(|line| Ok(serde_json::from_str(&line?)?))
            .collect()
    }
}

/// Looks what became of the bytes of which S3's answers do not tell.
///
/// # Errors
/// The temporary file cannot be read. What a look cannot tell is counted nowhere.
pub async fn weigh(
    deleted: &mut Deleted,
    hands: &impl TakeBack,
    bytes: &mut Bytes,
) -> io::Result<()> {
    if deleted.unclear == 0 {
        return Ok(());
    }
    let mut windows = deleted.read()?;
    loop {
        let window = windows.next_window()?;
        if window.is_empty() {
            return Ok(());
        }
        let unclear: Vec<(&Orphan, Claim)> = window
            .iter()
            .filter(|deletion| deletion.fate(deleted.versioning) == Fate::Unclear)
            .map(|deletion| (&deletion.orphan, deletion.claim(deleted.since)))
            .collect();
        // Few at a time, so that what was seen counts even if the time ends.
        for unclear in unclear.chunks(AT_ONCE) {
            let seen = hands.only_look(unclear).await;
            for ((orphan, _), seen) in unclear.iter().zip(seen) {
                match seen {
                    Ok(Undone::Lost) => bytes.freed += orphan.size,
                    Ok(Undone::Restorable) => bytes.recoverable += orphan.size,
                    Ok(Undone::Kept) => bytes.kept += orphan.size,
                    Ok(_) => {}
                    Err(LookError { code, message }) => {
                        tracing::warn!(
                            key = %orphan.key,
                            code,
                            error = message,
                            "could not see whether a deleted object is kept (s3:ListBucketVersions)"
                        );
                        // Who may not look at one may not look at the next.
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// What a look back has found so far: it stands, even if the look ends early.
#[derive(Debug, Default)]
pub struct Findings {
    /// How many.
    pub counts: Rechecked,
    /// The first, by name.
    pub problems: Vec<Problem>,
    /// The bytes of those that are not to be recovered any more: they are current again, or
    /// something newer stands there.
    pub settled_bytes: u64,
}

/// Asks the primary for everything that was deleted, and takes back what a row names, where
/// the right to do so is there.
///
/// # Errors
/// The question could not be asked to its end.
pub async fn recheck(
    deleted: &mut Deleted,
    check: &impl FreshCheck,
    hands: &impl TakeBack,
    findings: &mut Findings,
) -> Result<(), RecheckError> {
    let mut windows = deleted.read()?;
    loop {
        let window = windows.next_window()?;
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
        findings.take_back(deleted, &named, hands).await;
    }
}

impl Findings {
    async fn take_back(&mut self, deleted: &Deleted, named: &[&Deletion], hands: &impl TakeBack) {
        let is_sure = |deletion: &&&Deletion| deletion.fate(deleted.versioning) != Fate::Unknown;
        self.counts.referenced += named.iter().filter(is_sure).count() as u64;
        let keeps_none = deleted.versioning == Versioning::Off;
        let (lost, wanted): (Vec<&Deletion>, Vec<&Deletion>) =
            named
                .iter()
                .partition(|deletion| match deletion.fate(deleted.versioning) {
                    Fate::Final => true,
                    Fate::Unknown => keeps_none,
                    Fate::Undoable | Fate::Unclear => false,
                });
        for deletion in lost {
            let how = match deletion.told {
                Told::Deleted(_) => "the bucket keeps no versions, so it is lost",
                Told::Nothing => {
                    "the bucket keeps no versions: if it does not stand there, it is lost"
                }
            };
            self.tell(deletion, how);
        }
        // Said before it is tried: nobody knows whether there is time for an answer.
        let first = self.problems.len();
        for deletion in &wanted {
            self.tell(deletion, "there was no time to see whether it is restored");
        }
        let claims: Vec<(&Orphan, Claim)> = wanted
            .iter()
            .map(|deletion| (&deletion.orphan, deletion.claim(deleted.since)))
            .collect();
        if claims.is_empty() {
            return;
        }
        let ended = hands.take_back(&claims).await;
        self.problems.truncate(first);
        for (deletion, ended) in wanted.into_iter().zip(ended) {
            let fate = deletion.fate(deleted.versioning);
            let is_undoable = fate == Fate::Undoable;
            let is_settled = matches!(
                ended,
                Ok(Undone::Restored | Undone::Present | Undone::Newer | Undone::Lost)
            );
            if is_undoable && is_settled {
                self.settled_bytes += deletion.orphan.size;
            }
            let how = match ended {
                Ok(Undone::Restored) if fate == Fate::Unknown => {
                    self.counts.referenced += 1;
                    Ok("a delete marker that was made since the run began stood over it: it was restored".to_owned())
                }
                Ok(Undone::Untouched | Undone::Present) if fate == Fate::Unknown => Err(
                    "no delete marker that can be the run's stands over it: look whether it stands there, and look again, since its request may yet take effect"
                        .to_owned(),
                ),
                // Nobody took a marker away: the same bytes were uploaded again.
                Ok(Undone::Present) if !is_undoable => Err("it stands there again".to_owned()),
                ended => told(ended),
            };
            self.counts.restored += u64::from(how.is_ok());
            match how {
                Ok(how) | Err(how) => self.tell(deletion, &how),
            }
        }
    }

    fn tell(&mut self, deletion: &Deletion, how: &str) {
        let (code, what) = match deletion.told {
            Told::Deleted(_) => (REFERENCED, "although it was deleted"),
            Told::Nothing => (UNSURE, "and whether it was deleted is not known"),
        };
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem {
                key: Some(deletion.orphan.key.clone()),
                code: code.to_owned(),
                message: format!("a row names it now, {what}; {how}"),
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
        Ok(Undone::Kept) => Err(format!("it {KEPT_BELOW}")),
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

    const SINCE: Timestamp = Timestamp::UNIX_EPOCH;

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
                    match claim {
                        Claim::Marker(id) => assert!(matches!(&**id, "marker" | "null")),
                        Claim::Unnamed => {}
                        Claim::Within(span) => assert_eq!(span.from, SINCE),
                    }
                    self.ends[&orphan.key].ok_or_else(|| LookError {
                        code: None,
                        message: "reset".to_owned(),
                    })
                })
                .collect()
        }

        async fn only_look(&self, wanted: &[(&Orphan, Claim)]) -> Vec<Result<Undone, LookError>> {
            self.take_back(wanted).await
        }
    }

    fn remembering(ledger: &Ledger, versioning: Versioning) -> RememberingDeleted<'_, Ledger> {
        RememberingDeleted::new(ledger, versioning, SINCE).unwrap()
    }

    fn orphan(number: usize) -> Orphan {
        Orphan {
            key: ObjectKey::new(number.to_string()),
            etag: ETag::new("\"e\""),
            size: 1 + number as u64,
            last_modified: Timestamp::UNIX_EPOCH,
        }
    }

    fn failed(code: &str) -> Outcome {
        Outcome::Failed {
            code: code.to_owned(),
            message: "We encountered an internal error".to_owned(),
        }
    }

    fn unknown() -> Outcome {
        Outcome::Unknown {
            reason: "its answer was lost".to_owned(),
        }
    }

    fn deleted(marker: Option<&str>) -> Outcome {
        Outcome::Deleted {
            marker: marker.map(str::to_owned),
        }
    }

    #[test]
    fn only_what_is_known_to_be_free_is_not_looked_for() {
        let remembered = |versioning, outcome: Option<Outcome>| {
            let ledger = Ledger::default();
            let memory = remembering(&ledger, versioning);
            let settled: Vec<_> = outcome
                .map(|outcome| (orphan(0), outcome))
                .into_iter()
                .collect();
            let written = memory.outcomes(0, &settled).now_or_never();
            written.expect("nothing waits").expect("written");
            let deleted = memory.deleted();
            (deleted.may_be_kept(), deleted.is_empty())
        };
        for (versioning, outcome, expected) in [
            (
                Versioning::Enabled,
                Some(deleted(Some("marker"))),
                (true, false),
            ),
            (
                Versioning::Suspended,
                Some(deleted(Some("null"))),
                (true, false),
            ),
            (Versioning::Enabled, Some(deleted(None)), (true, false)),
            (Versioning::Off, Some(deleted(None)), (false, false)),
            // It is asked about, and nothing of it is counted.
            (Versioning::Enabled, Some(unknown()), (false, false)),
            (
                Versioning::Enabled,
                Some(failed("InternalError")),
                (false, false),
            ),
            (
                Versioning::Enabled,
                Some(failed("AccessDenied")),
                (false, true),
            ),
            (Versioning::Enabled, Some(Outcome::Gone), (false, true)),
            (Versioning::Enabled, None, (false, true)),
        ] {
            assert_eq!(
                remembered(versioning, outcome.clone()),
                expected,
                "{outcome:?}"
            );
        }
    }

    /// An outcome, whether a row names the key now, and how taking it back ends.
    fn cases() -> impl Strategy<Value = Vec<(Outcome, bool, Option<Undone>)>> {
        let outcome = prop_oneof![
            4 => Just(deleted(Some("marker"))),
            2 => Just(deleted(Some("null"))),
            2 => Just(deleted(None)),
            2 => Just(unknown()),
            1 => Just(failed("InternalError")),
            1 => Just(failed("AccessDenied")),
            1 => Just(Outcome::Gone),
            1 => Just(Outcome::Spared(SparedBy::Check)),
        ];
        let end = proptest::option::of(prop_oneof![
            Just(Undone::Restored),
            Just(Undone::Present),
            Just(Undone::Newer),
            Just(Undone::Kept),
            Just(Undone::Lost),
            Just(Undone::Restorable),
            Just(Undone::Untouched),
        ]);
        proptest::collection::vec((outcome, any::<bool>(), end), 0..50)
    }

    proptest! {
        #[test]
        fn whatever_was_deleted_and_is_named_now_is_told_and_taken_back_where_it_can_be(
            cases in cases(),
            batch in 1_usize..9,
            versioning in prop_oneof![Just(Versioning::Enabled), Just(Versioning::Suspended), Just(Versioning::Off)],
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
            let memory = remembering(&ledger, versioning);
            for (number, batch) in (0..).zip(settled.chunks(batch)) {
                memory.outcomes(number, batch).now_or_never().unwrap().unwrap();
            }
            let mut remembered = memory.deleted();
            let batches = ledger.batches.into_inner().unwrap();
            prop_assert_eq!(batches.len(), settled.len().div_ceil(batch));
            prop_assert!((0..).zip(batches).all(|(number, batch): (u64, u64)| number == batch));

            let is_deleted = |outcome: &Outcome| matches!(outcome, Outcome::Deleted { .. });
            let is_final = |outcome: &Outcome| versioning == Versioning::Off && *outcome == deleted(None);
            let is_unclear = |outcome: &Outcome| is_deleted(outcome) && !is_final(outcome) && *outcome != deleted(Some("marker"));
            let sum = |counts: &dyn Fn(&Outcome, Option<Undone>) -> bool| -> u64 {
                settled.iter().zip(&cases).filter(|(_, (outcome, _, end))| counts(outcome, *end)).map(|((orphan, _), _)| orphan.size).sum()
            };
            let mut bytes = remembered.bytes();
            prop_assert_eq!(bytes, Bytes {
                freed: sum(&|outcome, _| is_final(outcome)),
                recoverable: sum(&|outcome, _| *outcome == deleted(Some("marker"))),
                kept: 0,
            });
            weigh(&mut remembered, &world, &mut bytes).now_or_never().unwrap().unwrap();
            let all_seen = cases.iter().all(|(outcome, _, end)| !is_unclear(outcome) || end.is_some());
            let looked_up = |outcome: &Outcome, end, what| is_unclear(outcome) && end == Some(what);
            let seen = Bytes {
                freed: sum(&|outcome, end| is_final(outcome) || looked_up(outcome, end, Undone::Lost)),
                recoverable: sum(&|outcome, end| *outcome == deleted(Some("marker")) || looked_up(outcome, end, Undone::Restorable)),
                kept: sum(&|outcome, end| looked_up(outcome, end, Undone::Kept)),
            };
            if all_seen {
                prop_assert_eq!(bytes, seen);
            } else {
                prop_assert!(bytes.freed <= seen.freed && bytes.recoverable <= seen.recoverable && bytes.kept <= seen.kept);
            }
            let is_unsure = |outcome: &Outcome| [unknown(), failed("InternalError")].contains(outcome);
            let may_be = |outcome: &Outcome| is_deleted(outcome) || is_unsure(outcome);
            prop_assert_eq!(remembered.is_empty(), !cases.iter().any(|(outcome, _, _)| may_be(outcome)));

            let mut findings = Findings::default();
            recheck(&mut remembered, &world, &world, &mut findings).now_or_never().unwrap().unwrap();
            let named: Vec<_> = (0..).zip(&cases).filter(|(_, (outcome, named, _))| may_be(outcome) && *named).collect();
            let undoable = |outcome: &Outcome| matches!(outcome, Outcome::Deleted { marker: Some(marker) } if marker != "null");
            let is_back = |outcome: &Outcome, end: Option<Undone>| match end {
                Some(Undone::Restored) => !is_final(outcome) && (!is_unsure(outcome) || versioning != Versioning::Off),
                Some(Undone::Present) => undoable(outcome),
                _ => false,
            };
            let back = named.iter().filter(|(_, (outcome, _, end))| is_back(outcome, *end)).count();
            let was_deleted = named.iter().filter(|(_, (outcome, _, end))| is_deleted(outcome) || is_back(outcome, *end)).count();
            prop_assert_eq!(findings.counts, Rechecked { referenced: was_deleted as u64, restored: back as u64 });
            let is_settled = |end: Option<Undone>| matches!(end, Some(Undone::Restored | Undone::Present | Undone::Newer | Undone::Lost));
            let bytes: u64 = named.iter().filter(|(_, (outcome, _, end))| is_settled(*end) && undoable(outcome)).map(|(number, _)| orphan(*number).size).sum();
            prop_assert_eq!(findings.settled_bytes, bytes);
            prop_assert_eq!(findings.problems.len(), named.len().min(MAX_PROBLEMS));
            for problem in &findings.problems {
                let key = problem.key.as_ref().unwrap();
                let (_, (outcome, _, end)) = named.iter().find(|(number, _)| orphan(*number).key == *key).unwrap();
                prop_assert_eq!(&*problem.code, if is_deleted(outcome) { REFERENCED } else { UNSURE });
                prop_assert_eq!(problem.message.contains("it was restored"), is_back(outcome, *end), "{:?}", problem);
                let is_lost = is_final(outcome) || is_unsure(outcome) && versioning == Versioning::Off;
                prop_assert_eq!(problem.message.contains("it is lost"), is_lost, "{:?}", problem);
            }
        }
    }

    #[test]
    fn what_the_ledger_lost_is_remembered_and_told() {
        let ledger = Ledger {
            fails: true,
            ..Ledger::default()
        };
        let memory = remembering(&ledger, Versioning::Off);
        let settled = [(orphan(1), deleted(None))];
        let ended = memory.outcomes(0, &settled).now_or_never().unwrap();
        assert!(ended.is_err());
        assert!(!memory.deleted().is_empty());
    }

    /// A full temporary folder ends the run; what S3 confirmed is counted nevertheless, and the
    /// question that could not be asked in full is not called asked.
    #[test]
    fn what_the_temporary_folder_lost_is_counted_and_told() {
        let ledger = Ledger::default();
        let memory = remembering(&ledger, Versioning::Off);
        {
            // A file that nothing can be written to.
            let (_, path) = NamedTempFile::new().unwrap().into_parts();
            let file = NamedTempFile::from_parts(File::open(&path).unwrap(), path);
            memory.deleted.lock().unwrap().file = BufWriter::with_capacity(0, file);
        }
        let settled: Vec<_> = (0..4)
            .map(|number| (orphan(number), deleted((number > 0).then_some("marker"))))
            .collect();
        let size = |orphans: &[(Orphan, Outcome)]| {
            orphans.iter().map(|(orphan, _)| orphan.size).sum::<u64>()
        };
        for (batch, settled) in (0..).zip(settled.chunks(2)) {
            let ended = memory.outcomes(batch, settled).now_or_never().unwrap();
            assert!(ended.is_err());
        }
        assert_eq!(*ledger.batches.lock().unwrap(), [0, 1]);
        // There is room again.
        memory.deleted.lock().unwrap().file = BufWriter::new(NamedTempFile::new().unwrap());
        let mut remembered = memory.deleted();
        let bytes = Bytes {
            freed: size(&settled[..1]),
            recoverable: size(&settled[1..]),
            kept: 0,
        };
        assert_eq!(remembered.bytes(), bytes);
        let world = World::default();
        let mut findings = Findings::default();
        let ended = recheck(&mut remembered, &world, &world, &mut findings).now_or_never();
        assert!(
            matches!(ended, Some(Err(RecheckError::Spool(_)))),
            "{ended:?}"
        );
    }

    #[test]
    fn an_answer_for_fewer_keys_says_nothing() {
        let ledger = Ledger::default();
        let memory = remembering(&ledger, Versioning::Off);
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
        let mut deleted = memory.deleted();
        let ended = recheck(&mut deleted, &world, &world, &mut findings).now_or_never();
        assert!(matches!(ended, Some(Err(RecheckError::Check(_)))));
        assert_eq!(findings.counts, Rechecked::default());
    }
}
