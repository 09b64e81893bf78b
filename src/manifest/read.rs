//! A manifest read back: nothing of it is used before all of it was found whole.

use std::io::{self, BufRead, Read as _};

use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::{Header, Spool, SpoolWriter, VERSION, hexadecimal, sha256};
use crate::key::{MAX_KEY_BYTES, ObjectKey};
use crate::object::Orphan;

/// The longest header that is read: its query and globs are a person's.
const MAX_HEADER: u64 = 4 * 1024 * 1024;

/// The longest line that is read: every byte of a key may be written as `\u0000`.
const MAX_LINE: u64 = 6 * MAX_KEY_BYTES as u64 + 4_096;

/// A manifest that cannot be used. Nothing was touched.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// The file, or the temporary folder.
    #[error("the manifest could not be read")]
    Read(#[from] io::Error),
    /// The first line is no header.
    #[error(
        "this is not a manifest: its first line is not a header as `orphan-sweeper plan` writes it in plan.jsonl ({0})"
    )]
    Header(String),
    /// Another version wrote it.
    #[error("the manifest has format {0}, and this program reads {VERSION}")]
    Version(u32),
    /// The header was edited.
    #[error("the manifest's header was changed after it was written ({0})")]
    Changed(&'static str),
    /// A line is no orphan.
    #[error("line {line} of the manifest is not an orphan ({problem})")]
    Line {
        /// Which one; the header is line 1.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// Lines are missing, or there are too many.
    #[error("the manifest is torn: its header counts {said} orphans and {found} follow")]
    Torn {
        /// What the header says.
        said: u64,
        /// What was found.
        found: u64,
    },
    /// The lines were edited.
    #[error(
        "the lines of the manifest were changed after it was written (their SHA-256 differs); to leave keys out give them with --except"
    )]
    Edited,
}

/// A plan that was read back from its written form.
#[derive(Debug)]
pub struct Manifest {
    header: Header,
    spool: Spool,
}

impl Manifest {
    /// Reads all of a manifest into a temporary file of its own, so that nobody can change
    /// it any more, and makes sure that it is what a run wrote: its header's seal, the
    /// query's hash, the count and the hash of its lines, their order, the prefix, and the
    /// cutoff.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    pub fn read(mut from: impl BufRead) -> Result<Self, ManifestError> {
        let header = header(&mut from)?;
        let mut spool = SpoolWriter::new()?;
        let mut hash = Sha256::new();
        let mut before: Option<ObjectKey> = None;
        let (mut line, mut found) = (Vec::new(), 0);
        while next_line(&mut from, MAX_LINE, &mut line)? {
            let wrong = |problem: String| ManifestError::Line {
                line: found + 2,
                problem,
            };
            if found == header.orphans {
                return Err(ManifestError::Torn {
                    said: header.orphans,
                    found: found + 1,
                });
            }
            if line.last() != Some(&b'\n') {
                return Err(wrong("it breaks off".to_owned()));
            }
            hash.update(&line);
            let orphan: Orphan =
                serde_json::from_slice(&line).map_err(|error| wrong(error.to_string()))?;
            if !header.prefix.contains(orphan.key.as_str()) {
                return Err(wrong(format!("{} is not below the prefix", orphan.key)));
            }
            if orphan.last_modified >= header.cutoff {
                return Err(wrong(format!(
                    "{} is not older than the cutoff",
                    orphan.key
                )));
            }
            if before.as_ref().is_some_and(|before| *before >= orphan.key) {
                return Err(wrong(format!("{} is out of order", orphan.key)));
            }
            spool.push(&orphan)?;
            before = Some(orphan.key);
            found += 1;
        }
        if found != header.orphans {
            return Err(ManifestError::Torn {
                said: header.orphans,
                found,
            });
        }
        if hexadecimal(hash) != header.sha256 {
            return Err(ManifestError::Edited);
        }
        Ok(Self {
            header,
            spool: spool.finish()?,
        })
    }

    /// What it is about.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Its orphans.
    #[must_use]
    pub fn spool(&self) -> &Spool {
        &self.spool
    }
}

fn header(from: &mut impl BufRead) -> Result<Header, ManifestError> {
    /// What every version's header has.
    #[derive(serde::Deserialize)]
    struct Any {
        manifest: u32,
    }
    let mut line = Vec::new();
    if !next_line(from, MAX_HEADER, &mut line)? {
        return Err(ManifestError::Header("it is empty".to_owned()));
    }
    let unlike = |error: serde_json::Error| ManifestError::Header(error.to_string());
    let Any { manifest } = serde_json::from_slice(&line).map_err(unlike)?;
    if manifest != VERSION {
        return Err(ManifestError::Version(manifest));
    }
    let header: Header = serde_json::from_slice(&line).map_err(unlike)?;
    if header.right_seal()? != header.seal {
        return Err(ManifestError::Changed("its seal does not fit"));
    }
    if sha256(&header.references) != header.references_sha256 {
        return Err(ManifestError::Changed(
            "the hash of the references query does not fit",
        ));
    }
    if header.cutoff > header.started_at {
        return Err(ManifestError::Changed("its cutoff is later than its start"));
    }
    Ok(header)
}

/// Reads a line with its end; whether there was one.
fn next_line(from: &mut impl BufRead, longest: u64, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let read = from.by_ref().take(longest + 1).read_until(b'\n', line)?;
    if read as u64 > longest {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a line is longer than {longest} bytes"),
        ));
    }
    Ok(read > 0)
}

#[cfg(test)]
pub(crate) mod tests {
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::key::Prefix;
    use crate::names::ReferenceForm;
    use crate::object::ETag;

    /// A manifest of these keys, whose header may be changed before it is sealed.
    pub(crate) fn written(keys: &[&str], change: impl FnOnce(&mut Header)) -> String {
        let mut writer = SpoolWriter::new().unwrap();
        for key in keys {
            let orphan = Orphan {
                key: ObjectKey::new(*key),
                etag: ETag::new("\"e\""),
                size: 1,
                last_modified: Timestamp::from_second(5).unwrap(),
            };
            writer.push(&orphan).unwrap();
        }
        let spool = writer.finish().unwrap();
        let mut header = Header {
            manifest: VERSION,
            run_id: Uuid::now_v7(),
            started_at: Timestamp::from_second(20).unwrap(),
            cutoff: Timestamp::from_second(10).unwrap(),
            bucket: "pictures".to_owned(),
            prefix: Prefix::folder("images"),
            after: None,
            up_to: None,
            include: Vec::new(),
            exclude: Vec::new(),
            references: "SELECT 1".to_owned(),
            references_sha256: sha256("SELECT 1"),
            reference_form: ReferenceForm::Key,
            reference_prefix: String::new(),
            reference_hosts: Vec::new(),
            foreign_hosts: Vec::new(),
            system_identifier: "1".to_owned(),
            database: "app".to_owned(),
            schemas: vec!["public".to_owned()],
            orphans: spool.len(),
            sha256: spool.sha256().to_owned(),
            refused_by: Vec::new(),
            seal: String::new(),
        };
        change(&mut header);
        let mut text = Vec::new();
        spool
            .write_manifest(&header.sealed().unwrap(), &mut text)
            .unwrap();
        String::from_utf8(text).unwrap()
    }

    fn read(text: &str) -> Result<Manifest, String> {
        Manifest::read(text.as_bytes()).map_err(|error| crate::chain::chain(&error))
    }

    const KEYS: [&str; 3] = ["images/a\n.png", "images/b.png", "images/c.png"];

    #[test]
    fn what_was_written_is_read() {
        let manifest = read(&written(&KEYS, |_| {})).unwrap();
        let mut orphans = manifest.spool().orphans().unwrap();
        for key in KEYS {
            assert_eq!(orphans.next_orphan().unwrap().unwrap().key.as_str(), key);
        }
        assert_eq!(orphans.next_orphan().unwrap(), None);
        assert_eq!(read(&written(&[], |_| {})).unwrap().spool().len(), 0);
    }

    #[test]
    fn whatever_is_cut_off_is_noticed() {
        let text = written(&KEYS, |_| {});
        for end in 0..text.len() {
            assert!(read(&text[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn whatever_bit_is_changed_is_noticed() {
        let text = written(&KEYS, |_| {});
        for place in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[place] ^= 1;
            assert!(Manifest::read(&bytes[..]).is_err(), "changed at {place}");
        }
    }

    #[test]
    fn each_fault_is_named() {
        let sound = written(&KEYS, |_| {});
        let lines: Vec<&str> = sound.lines().collect();
        let joined = |lines: &[&str]| lines.join("\n") + "\n";
        for (text, words) in [
            (String::new(), "it is empty"),
            ("images/a.png\n".to_owned(), "not a manifest"),
            ("{\"a\": 1}\n".to_owned(), "not a manifest"),
            (format!("{sound}{}\n", lines[1]), "counts 3 orphans and 4"),
            (joined(&lines[..3]), "counts 3 orphans and 2"),
            (
                joined(&[lines[0], lines[1], lines[3], lines[2]]),
                "images/b.png is out of order",
            ),
            (
                joined(&[lines[0], lines[1], lines[1], lines[3]]),
                "is out of order",
            ),
            (sound.replace("images/b.png", "images/bb.png"), "--except"),
            (sound.replacen("\"pictures\"", "\"paintings\"", 1), "seal"),
            (sound.replacen("SELECT 1", "SELECT 2", 1), "seal"),
            (written(&KEYS, |header| header.manifest = 2), "format 2"),
            (
                written(&KEYS, |header| header.references = "SELECT 2".to_owned()),
                "hash of the references query",
            ),
            (
                written(&KEYS, |header| header.prefix = Prefix::folder("other")),
                "not below the prefix",
            ),
            (
                written(&KEYS, |header| {
                    header.cutoff = Timestamp::from_second(5).unwrap();
                }),
                "not older than the cutoff",
            ),
            (
                written(&KEYS, |header| {
                    header.cutoff = Timestamp::from_second(21).unwrap();
                }),
                "later than its start",
            ),
            (
                written(&KEYS, |header| header.orphans = 2),
                "counts 2 orphans and 3",
            ),
            (
                format!("{}{}", joined(&lines[..3]), "x".repeat(20_000)),
                "longer than",
            ),
        ] {
            let error = read(&text).expect_err(words);
            assert!(error.contains(words), "{words}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
