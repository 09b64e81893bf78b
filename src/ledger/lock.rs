//! One sweep of a bucket and prefix at a time, as far as they share a ledger.
//!
//! Two at once do no harm: each asks the primary and sets conditions of its own. But they do
//! the work twice, and two reports of one night contradict each other.
//!
//! On S3 the lock is a small object under `locks/`, written only where none is, or over one
//! that was let go or has expired. Its holder writes it anew each minute, so what a dead run
//! left is free [`TERM`] later. A clock that is wrong by less than that takes nothing from
//! the living. Nothing is ever deleted of it: letting go is a write, too.
//!
//! In a folder it is a lock of the operating system, which ends with its process.
//!
//! Neither needs the database: an advisory lock would not outlast a pooler's transaction.

use std::convert::Infallible;
use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::time::Duration;

use aws_sdk_s3::Client;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Ledger, Place};
use crate::chain::chain;
use crate::guards::MAX_CLOCK_SKEW;
use crate::hands::RecordError;
use crate::key::KeyRange;
use crate::manifest::sha256;
use crate::s3::{self, Condition, Put};
use crate::scope::Scope;
use crate::settings::ReportLocation;
use crate::summary::Refusal;
use crate::turn::{Alone, Hold, Turn};

/// How long a run that says nothing keeps its lock.
const TERM: Duration = Duration::from_mins(10);

/// How often a run says that it lives.
const RENEWAL: Duration = Duration::from_mins(1);

/// How often a lock that changes under the eyes is looked at.
const ATTEMPTS: usize = 5;

/// What a lock says.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Note {
    run_id: Uuid,
    bucket: String,
    prefix: String,
    #[serde(flatten)]
    range: KeyRange,
    since: Timestamp,
    /// When it is free though nobody let it go; `None` in a folder, where the system knows.
    expires: Option<Timestamp>,
    released: bool,
}

impl Note {
    /// Also free is one that no right clock can have written: it would hold every night up.
    fn is_free(&self, now: Timestamp) -> bool {
        let latest = now + TERM + MAX_CLOCK_SKEW;
        self.released
            || self
                .expires
                .is_some_and(|expires| expires <= now || expires > latest)
    }

    fn text(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        Ok(text)
    }
}

/// Another run that sweeps the same.
#[derive(Debug)]
struct Other {
    run_id: Option<Uuid>,
    since: Option<Timestamp>,
    expires: Option<Timestamp>,
}

impl Other {
    fn refusal(&self) -> Refusal {
        let who = match (self.run_id, self.since) {
            (Some(run_id), Some(since)) => format!(" ({run_id}, since {since})"),
            _ => String::new(),
        };
        let until = self.expires.map_or_else(String::new, |expires| {
            format!(". If it was killed, its lock is free at {expires}")
        });
        let hint = format!(
            "another run is sweeping the same bucket and prefix{who}; this one left everything to it, and the next will find what it leaves{until}"
        );
        Refusal {
            guard: "another_run",
            value: 1.0,
            limit: 0.0,
            hint,
            examples: Vec::new(),
        }
    }
}

/// A lock that this run holds.
#[derive(Debug)]
enum Held {
    S3 {
        client: Client,
        bucket: String,
        key: String,
        note: Box<Note>,
        etag: String,
    },
    Folder(File),
    /// Somebody else took it.
    Nothing,
}

impl Ledger {
    /// Claims the bucket's scope, as far as prefix and key range say it, for this run.
    ///
    /// # Errors
    /// The ledger cannot be written to, or the lock there cannot be read.
    pub(super) async fn claim(&self, bucket: &str, scope: &Scope) -> Result<Turn, RecordError> {
        let (prefix, range) = (scope.prefix(), scope.range());
        // A prefix may hold what no file's name can.
        let digest = if range.is_whole() {
            sha256(prefix.as_str())
        } else {
            sha256(&format!("{prefix:?} {range:?}"))
        };
        let name = format!("{}/{bucket}-{}.json", ReportLocation::LOCKS, &digest[..16]);
        let now = Timestamp::now();
        let mut note = Note {
            run_id: self.run_id,
            bucket: bucket.to_owned(),
            prefix: prefix.as_str().to_owned(),
            range: range.clone(),
            since: now,
            expires: None,
            released: false,
        };
        let (turn, place) = match &self.place {
            Place::S3 {
                client,
                bucket,
                prefix,
            } => {
                note.expires = Some(now + TERM);
                let key = format!("{}{name}", prefix.as_str());
                let place = format!("s3://{bucket}/{key}");
                (claim_object(client, bucket, key, note).await, place)
            }
            Place::Folder(folder) => {
                let path = folder.join(name);
                let place = path.display().to_string();
                (claim_file(&path, &note), place)
            }
        };
        turn.map_err(|source| RecordError {
            context: place,
            source,
        })
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

async fn claim_object(
    client: &Client,
    bucket: &str,
    key: String,
    note: Note,
) -> Result<Turn, AnyError> {
    let held = |etag| {
        Turn::Ours(Box::new(Held::S3 {
            client: client.clone(),
            bucket: bucket.to_owned(),
            key: key.clone(),
            note: Box::new(note.clone()),
            etag,
        }))
    };
    let mut condition = None;
    let mut other = None;
    for _ in 0..ATTEMPTS {
        let on = condition
            .as_deref()
            .map_or(Condition::Absent, Condition::Unchanged);
        match s3::put_if(client, bucket, &key, note.text()?, on).await? {
            Put::Written(etag) => return Ok(held(etag)),
            Put::NotHonoured => {
                tracing::warn!(
                    "the storage of the ledger takes no conditions, so two runs at once are not held apart"
                );
                return Ok(Turn::Ours(Box::new(Alone)));
            }
            Put::Unmet => {}
        }
        let Some((text, etag)) = s3::get(client, bucket, &key).await? else {
            condition = None;
            continue;
        };
        let found: Note = serde_json::from_slice(&text)?;
        if found.run_id == note.run_id {
            // Written by an attempt whose answer was lost.
            return Ok(held(etag));
        }
        if !found.is_free(Timestamp::now()) {
            return Ok(Turn::Another(Other::from(found).refusal()));
        }
        condition = Some(etag);
        other = Some(found);
    }
    // Whoever changes it all the time lives.
    Ok(Turn::Another(
        other
            .map_or(
                Other {
                    run_id: None,
                    since: None,
                    expires: None,
                },
                Other::from,
            )
            .refusal(),
    ))
}

impl From<Note> for Other {
    fn from(note: Note) -> Self {
        Self {
            run_id: Some(note.run_id),
            since: Some(note.since),
            expires: note.expires,
        }
    }
}

fn claim_file(path: &Path, note: &Note) -> Result<Turn, AnyError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // What it says is for people; that it is locked is what counts. So it stays there:
    // removing it would let two runs lock two files of one name.
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(&note.text()?)?;
            Ok(Turn::Ours(Box::new(Held::Folder(file))))
        }
        Err(TryLockError::WouldBlock) => {
            let mut text = Vec::new();
            file.read_to_end(&mut text)?;
            let found: Option<Note> = serde_json::from_slice(&text).ok();
            Ok(Turn::Another(
                Other {
                    run_id: found.as_ref().map(|note| note.run_id),
                    since: found.map(|note| note.since),
                    expires: None,
                }
                .refusal(),
            ))
        }
        Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {
            tracing::warn!(
                "the ledger's file system knows no locks, so two runs at once are not held apart"
            );
            Ok(Turn::Ours(Box::new(Alone)))
        }
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

impl Hold for Held {
    fn keep(&mut self) -> BoxFuture<'_, Infallible> {
        async {
            loop {
                tokio::time::sleep(RENEWAL).await;
                let Held::S3 { note, .. } = self else {
                    continue;
                };
                note.expires = Some(Timestamp::now() + TERM);
                if !self.write().await {
                    // Two at once do no harm, so there is nothing to break off for.
                    *self = Held::Nothing;
                }
            }
        }
        .boxed()
    }

    fn release(&mut self) -> BoxFuture<'_, ()> {
        async {
            match self {
                Held::Nothing => {}
                Held::Folder(file) => {
                    // Else it would be free only when the process ends.
                    if let Err(error) = file.unlock() {
                        tracing::warn!(error = chain(&error), "could not let go of the lock");
                    }
                }
                Held::S3 { note, .. } => {
                    note.released = true;
                    self.write().await;
                }
            }
        }
        .boxed()
    }
}

impl Held {
    /// Whether the lock is still this run's.
    async fn write(&mut self) -> bool {
        let Held::S3 {
            client,
            bucket,
            key,
            note,
            etag,
        } = self
        else {
            return true;
        };
        let text = match note.text() {
            Ok(text) => text,
            Err(error) => {
                tracing::warn!(error = chain(&error), "could not write the lock");
                return true;
            }
        };
        let written = write_over(client, bucket, key, text, etag, note.run_id).await;
        match written {
            Ok(still) => {
                if !still {
                    tracing::warn!(
                        "another run took this one's lock, as it had not been renewed for long"
                    );
                }
                still
            }
            Err(error) => {
                tracing::warn!(error = chain(&*error), "could not write the lock");
                true
            }
        }
    }
}

/// Writes over what this run wrote. A write that was broken off may have been carried out
/// all the same: then the entity tag is another one, but the lock is still this run's.
async fn write_over(
    client: &Client,
    bucket: &str,
    key: &str,
    text: Vec<u8>,
    etag: &mut String,
    run_id: Uuid,
) -> Result<bool, AnyError> {
    for _ in 0..2 {
        let condition = Condition::Unchanged(etag);
        if let Put::Written(new) = s3::put_if(client, bucket, key, text.clone(), condition).await? {
            *etag = new;
            return Ok(true);
        }
        let Some((found, new)) = s3::get(client, bucket, key).await? else {
            return Ok(false);
        };
        if serde_json::from_slice::<Note>(&found)?.run_id != run_id {
            return Ok(false);
        }
        *etag = new;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_free_when_let_go_or_expired() {
        let now = Timestamp::now();
        let note = |expires, released| Note {
            run_id: Uuid::nil(),
            bucket: "b".into(),
            prefix: String::new(),
            range: KeyRange::default(),
            since: now,
            expires,
            released,
        };
        assert!(!note(Some(now + TERM), false).is_free(now));
        assert!(note(Some(now + TERM), true).is_free(now));
        assert!(note(Some(now), false).is_free(now));
        assert!(note(None, true).is_free(now));
        assert!(!note(None, false).is_free(now));
    }
}
