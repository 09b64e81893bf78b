//! The written form of a plan: JSON Lines, a header and then one orphan a line.
//!
//! It is written before the first batch is sent, so that what a run was about to delete
//! can be read whatever became of the run. [`Manifest`] is one that was read back and found
//! whole.

pub(crate) mod read;

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use thiserror::Error;
use uuid::Uuid;

use crate::key::{KeyRange, ObjectKey, Prefix};
use crate::names::{Host, ReferenceForm};
use crate::object::Orphan;
pub use read::{Manifest, ManifestError};

/// The version of this format.
pub const VERSION: u32 = 1;

/// What a plan is about: everything that is needed to judge its orphans again, and to
/// refuse it for another bucket or database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`VERSION`].
    pub manifest: u32,
    /// The run that made the plan.
    pub run_id: Uuid,
    /// When it started.
    pub started_at: Timestamp,
    /// What was older could be an orphan.
    pub cutoff: Timestamp,
    /// The bucket.
    pub bucket: String,
    /// The prefix; empty for the whole bucket.
    pub prefix: Prefix,
    /// Of a key range, the bound that comes before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<ObjectKey>,
    /// Of a key range, its last key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_to: Option<ObjectKey>,
    /// The including globs; empty for images.
    pub include: Vec<String>,
    /// The excluding globs.
    pub exclude: Vec<String>,
    /// The references query.
    pub references: String,
    /// The query's SHA-256, in hexadecimal.
    pub references_sha256: String,
    /// How names are written.
    pub reference_form: ReferenceForm,
    /// What was prepended to names.
    pub reference_prefix: String,
    /// Hosts that stand for the bucket.
    pub reference_hosts: Vec<Host>,
    /// Hosts that are not ours.
    pub foreign_hosts: Vec<Host>,
    /// `system_identifier` of the PostgreSQL cluster.
    pub system_identifier: String,
    /// The database's name.
    pub database: String,
    /// The schemas in which the query's tables were looked up; empty in manifests of before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schemas: Vec<String>,
    /// How many orphans follow.
    pub orphans: u64,
    /// SHA-256 of all bytes behind the header's line, in hexadecimal.
    pub sha256: String,
    /// The guards that refused the plan: it must not be applied.
    pub refused_by: Vec<String>,
    /// SHA-256 of this header with an empty seal, in hexadecimal: a header that was edited
    /// afterwards is noticed.
    pub seal: String,
}

impl Header {
    /// The header with the seal that belongs to it.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn sealed(mut self) -> io::Result<Self> {
        self.seal = self.right_seal()?;
        Ok(self)
    }

    /// The key range that the plan is of.
    #[must_use]
    pub fn range(&self) -> KeyRange {
        KeyRange {
            after: self.after.clone(),
            up_to: self.up_to.clone(),
        }
    }

    fn right_seal(&self) -> io::Result<String> {
        let unsealed = Self {
            seal: String::new(),
            ..self.clone()
        };
        Ok(sha256(&serde_json::to_string(&unsealed)?))
    }
}

/// The SHA-256 of a text, in lower-case hexadecimal.
#[must_use]
pub fn sha256(text: &str) -> String {
    hexadecimal(Sha256::new_with_prefix(text))
}

fn hexadecimal(hash: Sha256) -> String {
    use std::fmt::Write as _;
    hash.finalize()
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Orphans on their way into a temporary file, so that memory does not grow with them.
#[derive(Debug)]
pub struct SpoolWriter {
    file: BufWriter<NamedTempFile>,
    hash: Sha256,
    orphans: u64,
}

impl SpoolWriter {
    /// An empty spool in the system's temporary folder.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            file: BufWriter::new(NamedTempFile::new()?),
            hash: Sha256::new(),
            orphans: 0,
        })
    }

    /// Adds an orphan at the end.
    ///
    /// # Errors
    /// The disk is full, or broken.
    pub fn push(&mut self, orphan: &Orphan) -> io::Result<()> {
        let mut line = serde_json::to_vec(orphan)?;
        line.push(b'\n');
        self.hash.update(&line);
        self.orphans += 1;
        self.file.write_all(&line)
    }

    /// The orphans so far, from the first on.
    ///
    /// # Errors
    /// What was still buffered could not be written, or the file cannot be read.
    pub fn orphans(&mut self) -> io::Result<SpoolReader> {
        self.file.flush()?;
        SpoolReader::new(
            self.file.get_ref(),
            SpoolPlace {
                offset: 0,
                left: self.orphans,
            },
        )
    }

    /// The complete spool.
    ///
    /// # Errors
    /// What was still buffered could not be written.
    pub fn finish(self) -> io::Result<Spool> {
        let file = self
            .file
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        Ok(Spool {
            file,
            sha256: hexadecimal(self.hash),
            orphans: self.orphans,
        })
    }
}

/// The orphans of a plan, in key order, in a temporary file.
#[derive(Debug)]
pub struct Spool {
    file: NamedTempFile,
    sha256: String,
    orphans: u64,
}

impl Spool {
    /// How many orphans it holds.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.orphans
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.orphans == 0
    }

    /// The SHA-256 of its lines, in hexadecimal.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Its orphans from the first on.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn orphans(&self) -> io::Result<SpoolReader> {
        self.orphans_at(SpoolPlace {
            offset: 0,
            left: self.orphans,
        })
    }

    /// Loses all but so many bytes, as a failing disk does.
    #[cfg(test)]
    pub(crate) fn lose_all_but(&self, bytes: u64) {
        self.file.as_file().set_len(bytes).expect("cut");
    }

    /// Its orphans from that place on.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn orphans_at(&self, place: SpoolPlace) -> io::Result<SpoolReader> {
        SpoolReader::new(&self.file, place)
    }

    /// Writes the manifest: the header, then every line.
    ///
    /// # Errors
    /// Reading or writing.
    pub fn write_manifest(&self, header: &Header, to: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer(&mut *to, header)?;
        to.write_all(b"\n")?;
        self.write_lines(to)
    }

    /// Writes every line.
    ///
    /// # Errors
    /// Reading or writing.
    pub fn write_lines(&self, to: &mut impl Write) -> io::Result<()> {
        io::copy(&mut BufReader::new(self.file.reopen()?), to)?;
        to.flush()
    }
}

/// A place between two orphans of a spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolPlace {
    offset: u64,
    left: u64,
}

impl fmt::Display for SpoolPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.offset, self.left)
    }
}

/// Text that is no place of a spool.
#[derive(Debug, Error)]
#[error("not a place in a spool")]
pub struct SpoolPlaceError;

impl FromStr for SpoolPlace {
    type Err = SpoolPlaceError;

    fn from_str(text: &str) -> Result<Self, SpoolPlaceError> {
        let (offset, left) = text.split_once(':').ok_or(SpoolPlaceError)?;
        Ok(Self {
            offset: offset.parse().map_err(|_| SpoolPlaceError)?,
            left: left.parse().map_err(|_| SpoolPlaceError)?,
        })
    }
}

/// Reads a spool's orphans one after the other.
#[derive(Debug)]
pub struct SpoolReader {
    lines: BufReader<File>,
    line: String,
    place: SpoolPlace,
}

impl SpoolReader {
    fn new(file: &NamedTempFile, place: SpoolPlace) -> io::Result<Self> {
        let mut file = file.reopen()?;
        file.seek(SeekFrom::Start(place.offset))?;
        Ok(Self {
            lines: BufReader::new(file),
            line: String::new(),
            place,
        })
    }

    /// How many orphans were not read yet.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.place.left
    }

    /// Where the next orphan lies.
    #[must_use]
    pub fn place(&self) -> SpoolPlace {
        self.place
    }

    /// The next orphan.
    ///
    /// # Errors
    /// The file cannot be read, or ends before all orphans were read.
    pub fn next_orphan(&mut self) -> io::Result<Option<Orphan>> {
        if self.place.left == 0 {
            return Ok(None);
        }
        self.line.clear();
        let read = self.lines.read_line(&mut self.line)?;
        if read == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the plan's spool ended early",
            ));
        }
        self.place.left -= 1;
        self.place.offset += read as u64;
        Ok(Some(serde_json::from_str(&self.line)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::key::ObjectKey;
    use crate::object::ETag;

    proptest! {
        #[test]
        fn a_spool_gives_back_every_byte_of_what_was_put_in(keys in proptest::collection::vec("(.|\n|\r|\u{0}|\u{7f}|\u{fffe})*", 0..20)) {
            let orphans: Vec<Orphan> = keys
                .into_iter()
                .map(|key| Orphan { key: ObjectKey::new(key), etag: ETag::new("\"e\""), size: 1, last_modified: Timestamp::from_millisecond(1_001).unwrap() })
                .collect();
            let mut writer = SpoolWriter::new().unwrap();
            for orphan in &orphans {
                writer.push(orphan).unwrap();
            }
            let spool = writer.finish().unwrap();
            prop_assert_eq!(spool.len(), orphans.len() as u64);
            let mut reader = spool.orphans().unwrap();
            let mut read = Vec::new();
            while let Some(orphan) = reader.next_orphan().unwrap() {
                read.push(orphan);
            }
            prop_assert_eq!(read, orphans);
        }
    }
}
