//! What else a run of the past wrote down, for people to read.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::Path;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::{Archive, ArchiveError, Fetched, Place};
use crate::s3;
use crate::settings::ReportLocation;

impl Archive {
    /// The run that was begun last.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn newest(&self) -> Result<Option<Uuid>, ArchiveError> {
        let names: Vec<String> = match &self.place {
            Place::S3 {
                client,
                bucket,
                prefix,
            } => {
                let runs = format!("{}{}/", prefix.as_str(), ReportLocation::RUNS);
                s3::folders(client, bucket, &runs)
                    .await
                    .map_err(|error| self.unreadable(ReportLocation::RUNS, error))?
                    .iter()
                    .filter_map(|folder| folder.strip_prefix(&runs)?.strip_suffix('/'))
                    .map(str::to_owned)
                    .collect()
            }
            Place::Folder(root) => match std::fs::read_dir(root.join(ReportLocation::RUNS)) {
                Ok(entries) => entries
                    .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                    .collect::<io::Result<_>>()
                    .map_err(|error| self.unreadable(ReportLocation::RUNS, error))?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                Err(error) => return Err(self.unreadable(ReportLocation::RUNS, error)),
            },
        };
        // Of the ids, whose order is that of time; beside them lies `latest`.
        Ok(names.iter().filter_map(|name| name.parse().ok()).max())
    }

    /// The answer of a run as it was written; `None` of a run that was killed, or goes on.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn summary(&self, run_id: Uuid) -> Result<Option<String>, ArchiveError> {
        let name = Self::name(run_id, "summary.json");
        let Some(Fetched { mut file, .. }) = self.fetch(&name).await? else {
            return Ok(None);
        };
        let mut text = String::new();
        file.read_to_string(&mut text)
            .map_err(|error| self.unreadable(&name, error))?;
        Ok(Some(text))
    }

    /// A file of the run that holds an object of JSON a line, if it has that file.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn lines(&self, run_id: Uuid, file: &str) -> Result<Option<Lines>, ArchiveError> {
        let name = Self::name(run_id, file);
        let fetched = self.fetch(&name).await?;
        Ok(fetched.map(|fetched| Lines {
            file: BufReader::new(fetched.file),
            place: self.shown(&name),
        }))
    }

    /// What restorations of the run gave back, in order of time.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn restored(&self, run_id: Uuid) -> Result<Vec<GivenBack>, ArchiveError> {
        let mut all = Vec::new();
        for name in self.files(&Self::name(run_id, "restored/")).await? {
            let Some(Fetched { file, .. }) = self.fetch(&name).await? else {
                continue;
            };
            let mut one: GivenBack = serde_json::from_reader(BufReader::new(file))
                .map_err(|error| self.unreadable(&name, error))?;
            one.at = written_at(&name);
            all.push(one);
        }
        Ok(all)
    }

    /// Where the run's ledger lies, as people write it.
    #[must_use]
    pub fn place_of(&self, run_id: Uuid) -> String {
        self.shown(&Self::name(run_id, ""))
    }
}

/// When a file was written whose name is a `UUIDv7`.
fn written_at(name: &str) -> Option<Timestamp> {
    let id: Uuid = Path::new(name).file_stem()?.to_str()?.parse().ok()?;
    let (seconds, nanoseconds) = id.get_timestamp()?.to_unix();
    Timestamp::new(seconds.try_into().ok()?, nanoseconds.try_into().ok()?).ok()
}

/// What a restoration gave back.
#[derive(Debug, Clone, Deserialize)]
pub struct GivenBack {
    /// When.
    #[serde(skip)]
    pub at: Option<Timestamp>,
    planned: u64,
    restored: u64,
    present: u64,
    newer: u64,
    #[serde(default)]
    kept: u64,
    lost: u64,
    untouched: u64,
    failed: u64,
    deferred: u64,
}

impl fmt::Display for GivenBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = self.at {
            write!(f, "{at:.0}: ")?;
        }
        write!(f, "{} of {} given back", self.restored, self.planned)?;
        for (count, word) in [
            (self.present, "present"),
            (self.newer, "newer"),
            (self.kept, "kept"),
            (self.lost, "lost"),
            (self.untouched, "untouched"),
            (self.failed, "failed"),
            (self.deferred, "deferred"),
        ] {
            if count > 0 {
                write!(f, ", {count} {word}")?;
            }
        }
        Ok(())
    }
}

/// Objects of JSON, one a line.
#[derive(Debug)]
pub struct Lines {
    file: BufReader<File>,
    place: String,
}

impl Lines {
    /// The next one.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else: an [`ArchiveError`] that names it.
    pub fn next_line<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        self.read().map_err(|source| {
            io::Error::other(ArchiveError::Unreadable {
                place: self.place.clone(),
                source: source.into(),
            })
        })
    }

    fn read<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let mut line = String::new();
        if self.file.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&line)?))
    }
}
