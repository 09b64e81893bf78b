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
