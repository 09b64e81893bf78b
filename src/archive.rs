//! The read side of the ledger: what a run of the past decided, and what it wrote of what
//! happened.

mod reading;

use std::error::Error as StdError;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use aws_sdk_s3::Client;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use thiserror::Error;
use uuid::Uuid;

use crate::key::{ObjectKey, Prefix};
use crate::manifest::{Manifest, ManifestError};
use crate::s3;
use crate::settings::ReportLocation;
pub use reading::{GivenBack, Lines};

/// A run of the past could not be read.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// There is no such file.
    #[error("there is no {place}; the run's id and --report say where its ledger lies")]
    Absent {
        /// Where it was looked for.
        place: String,
    },
    /// It could not be read.
    #[error("{place} could not be read")]
    Unreadable {
        /// Where it lies.
        place: String,
        /// Why not.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The manifest cannot be used.
    #[error("{place}")]
    Manifest {
        /// Where it lies.
        place: String,
        /// Why not.
        source: ManifestError,
    },
}

/// Where runs of the past are written down.
#[derive(Debug, Clone)]
pub struct Archive {
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    S3 {
        client: Client,
        bucket: String,
        prefix: Prefix,
    },
    Folder(PathBuf),
}

/// A file that was fetched: where it can be read, and when it was written.
struct Fetched {
    file: File,
    written: Option<Timestamp>,
}

impl Archive {
    /// The ledger at that location.
    #[must_use]
    pub fn new(location: &ReportLocation, client: &Client) -> Self {
        let place = match location {
            ReportLocation::S3 { bucket, prefix } => Place::S3 {
                client: client.clone(),
                bucket: bucket.clone(),
                prefix: prefix.clone(),
            },
            ReportLocation::Folder(folder) => Place::Folder(folder.clone()),
        };
        Self { place }
    }

    fn name(run_id: Uuid, file: &str) -> String {
        format!("{}/{run_id}/{file}", ReportLocation::RUNS)
    }

    fn shown(&self, name: &str) -> String {
        match &self.place {
            Place::S3 { bucket, prefix, .. } => format!("s3://{bucket}/{}{name}", prefix.as_str()),
            Place::Folder(folder) => folder.join(name).display().to_string(),
        }
    }

    fn unreadable(
        &self,
        name: &str,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> ArchiveError {
        ArchiveError::Unreadable {
            place: self.shown(name),
            source: source.into(),
        }
    }

    async fn fetch(&self, name: &str) -> Result<Option<Fetched>, ArchiveError> {
        match &self.place {
            Place::S3 {
                client,
                bucket,
                prefix,
            } => {
                let key = format!("{}{name}", prefix.as_str());
                let local = NamedTempFile::new().map_err(|error| self.unreadable(name, error))?;
                match s3::get_file(client, bucket, &key, local.path()).await {
                    Ok(written) => Ok(Some(Fetched {
                        file: local
                            .reopen()
                            .map_err(|error| self.unreadable(name, error))?,
                        written,
                    })),
                    Err(error) if error.is_absent() => Ok(None),
                    Err(error) => Err(self.unreadable(name, error)),
                }
            }
            Place::Folder(folder) => match File::open(folder.join(name)) {
                Ok(file) => {
                    let written = file.metadata().and_then(|about| about.modified());
                    Ok(Some(Fetched {
                        file,
                        written: written.ok().and_then(|at| Timestamp::try_from(at).ok()),
                    }))
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(self.unreadable(name, error)),
            },
        }
    }

    /// The manifest of a run.
    ///
    /// # Errors
    /// It is not there, or cannot be used.
    pub async fn manifest(&self, run_id: Uuid) -> Result<Manifest, ArchiveError> {
        Ok(self.dated_manifest(run_id).await?.0)
    }

    async fn dated_manifest(
        &self,
        run_id: Uuid,
    ) -> Result<(Manifest, Option<Timestamp>), ArchiveError> {
        let name = Self::name(run_id, "plan.jsonl");
        let fetched = self.fetch(&name).await?;
        let Fetched { file, written } = fetched.ok_or_else(|| ArchiveError::Absent {
            place: self.shown(&name),
        })?;
        let manifest =
            Manifest::read(BufReader::new(file)).map_err(|source| ArchiveError::Manifest {
                place: self.shown(&name),
                source,
            })?;
        if manifest.header().run_id != run_id {
            return Err(ArchiveError::Manifest {
                place: self.shown(&name),
                source: ManifestError::Changed("it is another run's"),
            });
        }
        Ok((manifest, written))
    }

    /// All that a run wrote down of its deletions.
    ///
    /// # Errors
    /// Its manifest is not there or cannot be used, or another file cannot be read.
    pub async fn past(&self, run_id: Uuid) -> Result<Past, ArchiveError> {
        let (manifest, mut last_written) = self.dated_manifest(run_id).await?;
        let name = Self::name(run_id, "summary.json");
        let (ending, ended) = match self.fetch(&name).await? {
            Some(Fetched { file, written }) => {
                let ending: Ending = serde_json::from_reader(BufReader::new(file))
                    .map_err(|error| self.unreadable(&name, error))?;
                (Some(ending), written)
            }
            None => (None, None),
        };
        let folder = Self::name(run_id, "outcomes/");
        let mut outcomes =
            OutcomesWriter::new().map_err(|error| self.unreadable(&folder, error))?;
        for name in self.files(&folder).await? {
            let Some(Fetched { file, written }) = self.fetch(&name).await? else {
                return Err(ArchiveError::Absent {
                    place: self.shown(&name),
                });
            };
            last_written = last_written.max(written);
            let batch: Batch = serde_json::from_reader(BufReader::new(file))
                .map_err(|error| self.unreadable(&name, error))?;
            for outcome in &batch.outcomes {
                outcomes
                    .push(outcome)
                    .map_err(|error| self.unreadable(&name, error))?;
            }
        }
        let outcomes = outcomes
            .finish()
            .map_err(|error| self.unreadable(&folder, error))?;
        // Nobody knows when what was lost was written; it was before the end.
        if ending
            .as_ref()
            .is_some_and(|ending| ending.misses_some_of(&outcomes))
        {
            last_written = last_written.max(ended);
        }
        let last_written = last_written.unwrap_or(manifest.header().started_at);
        Ok(Past {
            manifest,
            outcomes,
            ending,
            last_written,
        })
    }

    /// The names of the JSON files in a folder, in order.
    async fn files(&self, folder: &str) -> Result<Vec<String>, ArchiveError> {
        let is_json = |name: &str| Path::new(name).extension().is_some_and(|is| is == "json");
        let mut names = Vec::new();
        match &self.place {
            Place::S3 {
                client,
                bucket,
                prefix,
            } => {
                let below = format!("{}{folder}", prefix.as_str());
                let listed = s3::names(client, bucket, &below)
                    .await
                    .map_err(|error| self.unreadable(folder, error))?;
                for (key, _) in listed {
                    names.extend(
                        key.strip_prefix(prefix.as_str())
                            .filter(|name| is_json(name))
                            .map(str::to_owned),
                    );
                }
            }
            Place::Folder(root) => match std::fs::read_dir(root.join(folder)) {
                Ok(entries) => {
                    for entry in entries {
                        let entry = entry.map_err(|error| self.unreadable(folder, error))?;
                        let name = entry.file_name().to_string_lossy().into_owned();
                        if is_json(&name) {
                            names.push(format!("{folder}{name}"));
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(self.unreadable(folder, error)),
            },
        }
        // Seven digits come after six.
        names.sort_by_key(|name| (name.len(), name.clone()));
        Ok(names)
    }
}

/// An outcomes file, as far as it is read.
#[derive(Deserialize)]
struct Batch {
    outcomes: Vec<Recorded>,
}

/// What a run wrote of one orphan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// The orphan.
    pub key: ObjectKey,
    /// The word for what became of it.
    pub outcome: String,
    /// The version id of the delete marker.
    #[serde(default)]
    pub marker: Option<String>,
    /// S3's error code.
    #[serde(default)]
    pub code: Option<String>,
    /// Why it became that.
    #[serde(default)]
    pub reason: Option<String>,
}

/// How a run said that it ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Ending {
    /// Its status.
    pub status: String,
    /// What became of the orphans that it asked about.
    #[serde(flatten)]
    pub asked: Asked,
}

/// How many orphans a run counted by each outcome other than deferred.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the counts of a summary, by their names there")]
pub struct Asked {
    pub deleted: u64,
    pub gone: u64,
    pub spared: u64,
    pub failed: u64,
    pub unknown: u64,
}

impl Ending {
    /// Whether the run counted more than these outcomes: files of them were lost.
    fn misses_some_of(&self, outcomes: &Outcomes) -> bool {
        self.asked.total() > outcomes.asked()
    }
}

impl Asked {
    fn total(self) -> u64 {
        // A file may say anything.
        [self.gone, self.spared, self.failed, self.unknown]
            .into_iter()
            .fold(self.deleted, u64::saturating_add)
    }
}

/// A run of the past.
#[derive(Debug)]
pub struct Past {
    /// What it was about to delete.
    pub manifest: Manifest,
    /// What it wrote of what happened, in the manifest's order.
    pub outcomes: Outcomes,
    /// How it ended; `None` of a run that was killed.
    pub ending: Option<Ending>,
    /// When it last wrote about a deletion.
    pub last_written: Timestamp,
}

impl Past {
    /// Whether every orphan that the run asked S3 about has its outcome written down.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.ending.as_ref().is_some_and(|ending| {
            ending.status != "failed" && !ending.misses_some_of(&self.outcomes)
        })
    }
}

/// Outcomes on their way into a temporary file, so that memory does not grow with them.
#[derive(Debug)]
pub struct OutcomesWriter {
    file: BufWriter<NamedTempFile>,
    last: Option<ObjectKey>,
    asked: u64,
}

impl OutcomesWriter {
    /// None yet.
    ///
    /// # Errors
    /// The temporary folder cannot be written to.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            file: BufWriter::new(NamedTempFile::new()?),
            last: None,
            asked: 0,
        })
    }

    /// Adds the next, in the manifest's order.
    ///
    /// # Errors
    /// It is out of order, or the disk is full.
    pub fn push(&mut self, outcome: &Recorded) -> io::Result<()> {
        if self.last.as_ref().is_some_and(|last| *last >= outcome.key) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the outcome of {} is out of order", outcome.key),
            ));
        }
        self.last = Some(outcome.key.clone());
        self.asked += u64::from(outcome.outcome != "deferred");
        serde_json::to_writer(&mut self.file, outcome)?;
        self.file.write_all(b"\n")
    }

    /// All of them.
    ///
    /// # Errors
    /// The disk is full.
    pub fn finish(self) -> io::Result<Outcomes> {
        let file = self
            .file
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        Ok(Outcomes {
            file,
            asked: self.asked,
        })
    }
}

/// Outcomes in the manifest's order, in a temporary file.
#[derive(Debug)]
pub struct Outcomes {
    file: NamedTempFile,
    asked: u64,
}

impl Outcomes {
    /// How many orphans have an outcome other than deferred.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.asked
    }

    /// From the first on.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn reader(&self) -> io::Result<OutcomesReader> {
        let mut file = self.file.reopen()?;
        file.seek(SeekFrom::Start(0))?;
        Ok(OutcomesReader {
            lines: BufReader::new(file),
            next: None,
        })
    }
}

/// Reads outcomes beside the manifest.
#[derive(Debug)]
pub struct OutcomesReader {
    lines: BufReader<File>,
    next: Option<Recorded>,
}

impl OutcomesReader {
    /// What was written of this key, which must be greater than the one asked for before.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn of(&mut self, key: &ObjectKey) -> io::Result<Option<Recorded>> {
        loop {
            if self.next.is_none() {
                let mut line = String::new();
                if self.lines.read_line(&mut line)? == 0 {
                    return Ok(None);
                }
                self.next = Some(serde_json::from_str(&line)?);
            }
            match self.next.as_ref().map(|next| next.key.cmp(key)) {
                Some(std::cmp::Ordering::Less) => self.next = None,
                Some(std::cmp::Ordering::Equal) => return Ok(self.next.take()),
                _ => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn recorded(key: &str) -> Recorded {
        Recorded {
            key: ObjectKey::new(key),
            outcome: "deleted".to_owned(),
            marker: Some(key.to_owned()),
            code: None,
            reason: None,
        }
    }

    proptest! {
        #[test]
        fn each_key_finds_its_own_outcome(
            written in proptest::collection::btree_set("[a-c\n]{1,2}", 0..12),
            asked in proptest::collection::btree_set("[a-c\n]{1,2}", 0..12),
        ) {
            let mut writer = OutcomesWriter::new().unwrap();
            for key in &written {
                writer.push(&recorded(key)).unwrap();
            }
            let outcomes = writer.finish().unwrap();
            let mut reader = outcomes.reader().unwrap();
            for key in &asked {
                let found = reader.of(&ObjectKey::new(key.as_str())).unwrap();
                prop_assert_eq!(found, written.contains(key).then(|| recorded(key)));
            }
        }
    }

    #[test]
    fn outcomes_out_of_order_are_an_error() {
        let mut writer = OutcomesWriter::new().unwrap();
        writer.push(&recorded("b")).unwrap();
        for key in ["a", "b"] {
            assert!(writer.push(&recorded(key)).is_err(), "{key}");
        }
    }
}
