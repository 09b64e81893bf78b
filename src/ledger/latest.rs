//! The last good run of a scope, which the next one is compared with.
//!
//! One small file for each bucket, prefix, globs and references query, under the folder of
//! all runs. Only a run that every guard approved writes it, so a refused or failed run never
//! becomes the baseline. A file that cannot be read is an error: a baseline that is lost in
//! silence would let through what it is there to notice.

use std::io;

use serde::{Deserialize, Serialize};

use super::{Ledger, Place, keep, new_beside};
use crate::hands::{Latest, RecallError, RecordError, Series};
use crate::s3;
use crate::settings::ReportLocation;

/// The version of this format.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File<Series, Latest> {
    latest: u32,
    series: Series,
    run: Latest,
}

impl Ledger {
    fn latest_name(series: &Series) -> String {
        format!("{}/latest/{}.json", ReportLocation::RUNS, series.digest())
    }

    /// Where that file lies, as people write it.
    fn latest_place(&self, series: &Series) -> String {
        let name = Self::latest_name(series);
        match &self.place {
            Place::S3 { bucket, prefix, .. } => format!("s3://{bucket}/{}{name}", prefix.as_str()),
            Place::Folder(folder) => folder.join(name).display().to_string(),
        }
    }

    pub(super) async fn read_latest(&self, series: &Series) -> Result<Option<Latest>, RecallError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| RecallError {
            context: self.latest_place(series),
            source,
        };
        let name = Self::latest_name(series);
        let bytes = match &self.place {
            Place::S3 {
                client,
                bucket,
                prefix,
            } => s3::get(client, bucket, &format!("{}{name}", prefix.as_str()))
                .await
                .map_err(|error| failed(error.into()))?
                .map(|(bytes, _)| bytes),
            Place::Folder(folder) => match std::fs::read(folder.join(name)) {
                Ok(bytes) => Some(bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(failed(error.into())),
            },
        };
        let Some(bytes) = bytes else { return Ok(None) };
        let file: File<Series, Latest> =
            serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?;
        if file.latest != VERSION || file.series != *series {
            let what = "it is of another version of this program, or of another scope; remove it to begin anew";
            return Err(failed(what.into()));
        }
        Ok(Some(file.run))
    }

    pub(super) async fn write_latest(
        &self,
        series: &Series,
        latest: &Latest,
    ) -> Result<(), RecordError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| RecordError {
            context: self.latest_place(series),
            source,
        };
        let file = File {
            latest: VERSION,
            series,
            run: latest,
        };
        let mut text = serde_json::to_vec(&file).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        self.put(&Self::latest_name(series), text)
            .await
            .map_err(failed)
    }

    pub(super) async fn write_held_back(
        &self,
        orphans: &crate::manifest::Spool,
    ) -> Result<(), RecordError> {
        const FILE: &str = "held_back.jsonl";
        let write = |mut file: tempfile::NamedTempFile| {
            orphans.write_lines(&mut io::BufWriter::new(&mut file))?;
            Ok::<_, io::Error>(file)
        };
        let path = match &self.place {
            Place::Folder(folder) => {
                let path = folder.join(self.name(FILE));
                let written = new_beside(&path)
                    .and_then(write)
                    .and_then(|file| keep(file, &path));
                return written.map_err(|error| self.failed(FILE, error));
            }
            Place::S3 {
                client,
                bucket,
                prefix,
            } => (
                client,
                bucket,
                format!("{}{}", prefix.as_str(), self.name(FILE)),
            ),
        };
        let (client, bucket, key) = path;
        let file = tempfile::NamedTempFile::new()
            .and_then(write)
            .map_err(|error| self.failed(FILE, error))?;
        s3::put_file(client, bucket, &key, file.path())
            .await
            .map_err(|error| self.failed(FILE, error))
    }
}
