//! What else a run of the past wrote down, for people to read.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};

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
        let fetched = self.fetch(&Self::name(run_id, file)).await?;
        Ok(fetched.map(|fetched| Lines(BufReader::new(fetched.file))))
    }

    /// Where the run's ledger lies, as people write it.
    #[must_use]
    pub fn place_of(&self, run_id: Uuid) -> String {
        self.shown(&Self::name(run_id, ""))
    }
}

/// Objects of JSON, one a line.
#[derive(Debug)]
pub struct Lines(BufReader<File>);

impl Lines {
    /// The next one.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn next_line<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&line)?))
    }
}
