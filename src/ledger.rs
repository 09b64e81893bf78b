//! The ledger: what was decided and what happened, written down, one folder a run.
//!
//! ```text
//! runs/<run id>/plan.jsonl             the manifest, before the first batch is sent
//! runs/<run id>/held_back.jsonl        orphans of folders without a reference, if there are any
//! runs/<run id>/dangling.jsonl         references without an object, if there are any
//! runs/<run id>/outcomes/<batch>.json  what became of each orphan, after its batch
//! runs/<run id>/summary.json           the answer
//! runs/<run id>/restored/<id>.json     what a restoration gave back, if there was one
//! runs/latest/<scope>.json             the last good run of a scope
//! locks/<bucket and prefix>.json       whose turn it is
//! ```
//! Run ids are `UUIDv7`, so the folders sort by time.

mod latest;
mod lock;

use std::error::Error;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use aws_sdk_s3::Client;
use serde::Serialize;
use tempfile::NamedTempFile;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use crate::hands::{Journal, Latest, RecallError, Record, RecordError, Series};
use crate::key::{ObjectKey, Prefix};
use crate::manifest::{Header, Spool};
use crate::object::{Orphan, Outcome};
use crate::restore::Restoration;
use crate::s3;
use crate::scope::Scope;
use crate::settings::ReportLocation;
use crate::summary::Summary;
use crate::turn::Turn;

/// The ledger of one run.
#[derive(Debug, Clone)]
pub struct Ledger {
    place: Place,
    run_id: Uuid,
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

impl Ledger {
    /// The run's ledger at that location. Nothing is written yet.
    #[must_use]
    pub fn new(location: &ReportLocation, client: &Client, run_id: Uuid) -> Self {
        let place = match location {
            ReportLocation::S3 { bucket, prefix } => Place::S3 {
                client: client.clone(),
                bucket: bucket.clone(),
                prefix: prefix.clone(),
            },
            ReportLocation::Folder(folder) => Place::Folder(folder.clone()),
        };
        Self { place, run_id }
    }

    /// Where a file of the run lies, as people write it.
    fn place_of(&self, file: &str) -> String {
        let name = self.name(file);
        match &self.place {
            Place::S3 { bucket, prefix, .. } => format!("s3://{bucket}/{}{name}", prefix.as_str()),
            Place::Folder(folder) => folder.join(name).display().to_string(),
        }
    }

    fn name(&self, file: &str) -> String {
        format!("{}/{}/{file}", ReportLocation::RUNS, self.run_id)
    }

    /// Where all runs lie, as people write it.
    #[must_use]
    pub fn root(&self) -> String {
        match &self.place {
            Place::S3 { bucket, prefix, .. } => format!("s3://{bucket}/{}", prefix.as_str()),
            Place::Folder(folder) => folder.display().to_string(),
        }
    }

    /// Writes a file to see whether that is possible; it is no run's.
    ///
    /// # Errors
    /// The place cannot be written to.
    pub async fn try_out(&self) -> Result<(), RecordError> {
        self.put("doctor.txt", b"orphan-sweeper doctor was here\n".to_vec())
            .await
            .map_err(|source| RecordError {
                context: self.root(),
                source,
            })
    }

    /// Writes what a restoration of the run gave back.
    ///
    /// # Errors
    /// The place cannot be written to.
    pub async fn restoration(&self, done: &Restoration) -> Result<(), RecordError> {
        self.write_json(&format!("restored/{}.json", Uuid::now_v7()), done)
            .await
    }

    async fn write_json(&self, file: &str, value: &impl Serialize) -> Result<(), RecordError> {
        let mut text = serde_json::to_vec(value).map_err(|error| self.failed(file, error))?;
        text.push(b'\n');
        self.write(file, text).await
    }

    async fn write(&self, file: &str, bytes: Vec<u8>) -> Result<(), RecordError> {
        self.put(&self.name(file), bytes)
            .await
            .map_err(|error| self.failed(file, error))
    }

    /// Writes below the report location.
    async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), Box<dyn Error + Send + Sync>> {
        match &self.place {
            Place::S3 {
                client,
                bucket,
                prefix,
            } => {
                let key = format!("{}{name}", prefix.as_str());
                s3::put(client, bucket, &key, bytes).await?;
            }
            Place::Folder(folder) => {
                let path = folder.join(name);
                // A disk takes its time to make a file durable; nobody else is to wait for it.
                spawn_blocking(move || {
                    let mut file = new_beside(&path)?;
                    file.write_all(&bytes)?;
                    keep(file, &path)
                })
                .await??;
            }
        }
        Ok(())
    }

    fn failed(&self, file: &str, error: impl Into<Box<dyn Error + Send + Sync>>) -> RecordError {
        RecordError {
            context: self.place_of(file),
            source: error.into(),
        }
    }
}

/// A new file in the folder of `path`, which is made if need be.
fn new_beside(path: &Path) -> io::Result<NamedTempFile> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    NamedTempFile::new_in(folder)
}

/// Makes the file durable under its name: it is there as a whole or not at all.
fn keep(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(path)?;
    if let Some(folder) = path.parent() {
        std::fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// One orphan's line of an outcomes file.
#[derive(Serialize)]
struct OutcomeLine<'run> {
    key: &'run ObjectKey,
    etag: &'run str,
    size: u64,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    marker: Option<&'run str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'run str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl<'run> OutcomeLine<'run> {
    fn new((orphan, outcome): &'run (Orphan, Outcome)) -> Self {
        let mut line = Self {
            key: &orphan.key,
            etag: orphan.etag.as_str(),
            size: orphan.size,
            outcome: "deferred",
            marker: None,
            code: None,
            reason: None,
        };
        match outcome {
            Outcome::Deleted { marker } => {
                line.outcome = "deleted";
                line.marker = marker.as_deref();
            }
            Outcome::Gone => line.outcome = "gone",
            Outcome::Spared(by) => {
                line.outcome = "spared";
                line.reason = Some(by.to_string());
            }
            Outcome::Failed { code, message } => {
                line.outcome = "failed";
                line.code = Some(code);
                line.reason = Some(message.clone());
            }
            Outcome::Unknown { reason } => {
                line.outcome = "unknown";
                line.reason = Some(reason.clone());
            }
            Outcome::Deferred => {}
        }
        line
    }
}

impl Record for Ledger {
    async fn outcomes(&self, batch: u64, settled: &[(Orphan, Outcome)]) -> Result<(), RecordError> {
        #[derive(Serialize)]
        struct Batch<'run> {
            batch: u64,
            outcomes: Vec<OutcomeLine<'run>>,
        }
        let outcomes = settled.iter().map(OutcomeLine::new).collect();
        self.write_json(
            &format!("outcomes/{batch:06}.json"),
            &Batch { batch, outcomes },
        )
        .await
    }
}

impl Journal for Ledger {
    fn location(&self) -> String {
        self.place_of("")
    }

    async fn turn(&self, bucket: &str, scope: &Scope) -> Result<Turn, RecordError> {
        self.claim(bucket, scope).await
    }

    async fn plan(&self, header: &Header, spool: &Spool) -> Result<(), RecordError> {
        const FILE: &str = "plan.jsonl";
        let write = |mut file: NamedTempFile| {
            spool.write_manifest(header, &mut io::BufWriter::new(&mut file))?;
            Ok(file)
        };
        match &self.place {
            Place::Folder(folder) => {
                let path = folder.join(self.name(FILE));
                let written = new_beside(&path)
                    .and_then(write)
                    .and_then(|file| keep(file, &path));
                written.map_err(|error| self.failed(FILE, error))
            }
            Place::S3 {
                client,
                bucket,
                prefix,
            } => {
                let file = NamedTempFile::new()
                    .and_then(write)
                    .map_err(|error| self.failed(FILE, error))?;
                let key = format!("{}{}", prefix.as_str(), self.name(FILE));
                s3::put_file(client, bucket, &key, file.path())
                    .await
                    .map_err(|error| self.failed(FILE, error))
            }
        }
    }

    async fn held_back(&self, orphans: &Spool) -> Result<(), RecordError> {
        self.write_held_back(orphans).await
    }

    async fn latest(&self, series: &Series) -> Result<Option<Latest>, RecallError> {
        self.read_latest(series).await
    }

    async fn keep_latest(&self, series: &Series, latest: &Latest) -> Result<(), RecordError> {
        self.write_latest(series, latest).await
    }

    async fn dangling(&self, keys: &[ObjectKey]) -> Result<(), RecordError> {
        #[derive(Serialize)]
        struct Line<'run> {
            key: &'run ObjectKey,
        }
        let mut lines = Vec::new();
        for key in keys {
            serde_json::to_writer(&mut lines, &Line { key })
                .map_err(|error| self.failed("dangling.jsonl", error))?;
            lines.push(b'\n');
        }
        self.write("dangling.jsonl", lines).await
    }

    async fn summary(&self, summary: &Summary) -> Result<(), RecordError> {
        self.write_json("summary.json", summary).await
    }
}
