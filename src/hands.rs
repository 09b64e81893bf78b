//! What the steps need of the world, as traits: someone who looks, someone who deletes,
//! someone who reads the references, someone who asks the primary, someone who writes down.
//! Production's adapters and the tests' fakes stand behind the same ones.

use std::error::Error as StdError;
use std::fmt;
use std::future::ready;

use bytes::Bytes;
use futures::TryFutureExt as _;
use futures::stream::BoxStream;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use crate::guards::DatabaseState;
use crate::key::{KeyRange, ObjectKey, Prefix, escape};
use crate::manifest::{Header, Spool, sha256};
use crate::mention::KnownTexts;
use crate::object::{ETag, Orphan, Outcome};
use crate::reconcile::BatchAnswer;
use crate::scope::Scope;
use crate::summary::Summary;
use crate::turn::{Alone, Turn};

/// What S3 holds under a key now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Current {
    /// An object.
    Present {
        /// Its entity tag.
        etag: Option<ETag>,
        /// When it was written, or `None` when that cannot be read.
        last_modified: Option<Timestamp>,
    },
    /// Nothing, or a delete marker.
    Absent,
}

/// A key could not be looked at.
#[derive(Debug, Error)]
#[error("could not look at an object: {message}")]
pub struct LookError {
    /// S3's error code, or `None` when it did not answer.
    pub code: Option<String>,
    /// What happened.
    pub message: String,
}

/// The machine's clock, as people read it. It goes on while the machine sleeps, which the one
/// that measures durations does not.
pub trait Clock: fmt::Debug + Sync {
    /// The time.
    fn now(&self) -> Timestamp;
}

/// Who looks at single objects.
pub trait Look {
    /// What the bucket holds under the key now.
    fn look(&self, key: &ObjectKey) -> impl Future<Output = Result<Current, LookError>> + Send;
}

/// Why a batch has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchFault {
    /// S3 asked to slow down; nothing was done.
    Throttled {
        /// S3's error code.
        code: String,
    },
    /// S3 cannot read the batch; nothing was done. One key of it may be the cause.
    Unreadable {
        /// S3's error code.
        code: String,
        /// S3's words.
        message: String,
    },
    /// S3 refused the batch as a whole; nothing was done, and the next will not fare
    /// better.
    Refused {
        /// S3's error code.
        code: String,
        /// S3's words.
        message: String,
    },
    /// The answer was lost: the batch may have been carried out.
    Lost {
        /// What happened.
        message: String,
    },
}

/// Who deletes. A dry run holds none.
pub trait Delete: Look {
    /// Deletes each orphan that still carries its entity tag. Never repeats a request
    /// whose answer was lost.
    fn delete_batch(
        &self,
        orphans: &[Orphan],
    ) -> impl Future<Output = Result<BatchAnswer, BatchFault>> + Send;

    /// Deletes one orphan whose key no batch can carry, on the same condition.
    fn delete_alone(
        &self,
        orphan: &Orphan,
    ) -> impl Future<Output = Result<BatchAnswer, BatchFault>> + Send;

    /// The delete marker that now stands over exactly this orphan, on a bucket that keeps
    /// versions, if it was made after `since`. S3 does not say by whom.
    fn marker_over(
        &self,
        orphan: &Orphan,
        since: Timestamp,
    ) -> impl Future<Output = Result<Option<String>, LookError>> + Send;
}

/// Which database answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `system_identifier` of the cluster: copies of its files share it, other clusters
    /// differ.
    pub system_identifier: String,
    /// The database's name.
    pub database: String,
    /// Whether the server is a standby.
    pub standby: bool,
    /// The schemas in which names of tables are looked up, in order: another role may read other
    /// tables by the same query.
    pub schemas: Vec<String>,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = if self.standby { "standby" } else { "primary" };
        write!(
            f,
            "database {} (schemas {}) on {role} {}",
            escape(&self.database),
            escape(&self.schemas.join(", ")),
            self.system_identifier
        )
    }
}

/// The snapshot of the references could not be read as a whole.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct SnapshotError(pub Box<dyn StdError + Send + Sync>);

/// Every name of the references query, NULL as `None`.
pub type Names<'snapshot> = BoxStream<'snapshot, Result<Option<Bytes>, SnapshotError>>;

/// One snapshot of the references.
pub trait ReferenceSnapshot: Send {
    /// Which database answers.
    fn identity(&self) -> &Identity;

    /// What was seen of the database before the snapshot was taken: a transaction that was
    /// open then and is not told of may have committed in between, unseen.
    fn state(&self) -> DatabaseState {
        DatabaseState::default()
    }

    /// Every name: in byte order, or as it comes.
    fn names(
        &mut self,
        in_order: bool,
    ) -> impl Future<Output = Result<Names<'_>, SnapshotError>> + Send;

    /// Makes sure that no row was lost, and ends the snapshot.
    fn finish(self) -> impl Future<Output = Result<(), SnapshotError>> + Send;
}

/// The database could not be asked.
#[derive(Debug, Error)]
#[error("the fresh check failed")]
pub struct CheckError(#[source] pub Box<dyn StdError + Send + Sync>);

/// Who asks the primary once more.
pub trait FreshCheck {
    /// Whether several questions at once are answered about as fast as one: not where each
    /// reads every name there is.
    fn asks_many_at_once(&self) -> bool {
        true
    }

    /// From now on a name that is none of these, and that only [mentions](crate::mention) a key, is taken
    /// for one that names it, as far as each question reads every name.
    fn beware_but_of(&self, known: KnownTexts) {
        drop(known);
    }

    /// Whether a question about such keys reads every name, so that it can
    /// [beware](Self::beware_but_of), or may do so.
    fn reads_all_names(&self, _: &[&ObjectKey]) -> impl Future<Output = bool> + Send {
        ready(false)
    }

    /// For each key whether a row names it now, in a transaction begun for this question.
    fn referenced(
        &self,
        keys: &[&ObjectKey],
    ) -> impl Future<Output = Result<Vec<bool>, CheckError>> + Send;

    /// For each key, where a row names it now, what else such a name may mean.
    fn readings(
        &self,
        keys: &[&ObjectKey],
    ) -> impl Future<Output = Result<Vec<Option<Vec<ObjectKey>>>, CheckError>> + Send {
        self.referenced(keys)
            .map_ok(|named| named.into_iter().map(|is| is.then(Vec::new)).collect())
    }
}

/// The ledger could not be written.
#[derive(Debug, Error)]
#[error("the ledger could not be written: {context}")]
pub struct RecordError {
    /// What was written where.
    pub context: String,
    /// Why it failed.
    pub source: Box<dyn StdError + Send + Sync>,
}

/// The ledger could not be read.
#[derive(Debug, Error)]
#[error("the ledger could not be read: {context}")]
pub struct RecallError {
    /// What was read where.
    pub context: String,
    /// Why it failed.
    pub source: Box<dyn StdError + Send + Sync>,
}

/// Runs that can be compared: of one scope, by one query. How names become keys is no part of
/// it, so that a change which makes them miss is noticed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// The bucket.
    pub bucket: String,
    /// The prefix.
    pub prefix: Prefix,
    /// The key range of a part of a distributed run.
    #[serde(default, skip_serializing_if = "KeyRange::is_whole")]
    pub range: KeyRange,
    /// The including globs.
    pub include: Vec<String>,
    /// The excluding globs.
    pub exclude: Vec<String>,
    /// The query's SHA-256, in hexadecimal.
    pub references_sha256: String,
}

impl Series {
    /// A name for files: equal for equal series only.
    #[must_use]
    pub fn digest(&self) -> String {
        // The debug form quotes and escapes each text, so that none can run into the next.
        sha256(&format!("{self:?}"))
    }
}

impl fmt::Debug for Series {
    /// Without a range where there is none: a digest that changed would lose every baseline
    /// of runs before, in silence.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            bucket,
            prefix,
            range,
            include,
            exclude,
            references_sha256,
        } = self;
        let mut shown = f.debug_struct("Series");
        shown.field("bucket", bucket).field("prefix", prefix);
        if !range.is_whole() {
            shown.field("range", range);
        }
        shown
            .field("include", include)
            .field("exclude", exclude)
            .field("references_sha256", references_sha256)
            .finish()
    }
}

/// What is remembered of the last good run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latest {
    /// The run.
    pub run_id: Uuid,
    /// When it started.
    pub started_at: Timestamp,
    /// How many objects were referenced.
    pub referenced: u64,
    /// How many orphans have been looked for in the whole database so far, by runs that were
    /// to delete and of these rules.
    pub searched: u64,
    /// A hash of how names are read, and in which database and schemas.
    pub rules_sha256: String,
    /// Keys that S3 refused to delete, as far as they are remembered.
    pub failed: Vec<ObjectKey>,
}

/// Who writes down what became of each batch.
pub trait Record {
    /// Writes one batch's outcomes; `batch` counts from 0.
    fn outcomes(
        &self,
        batch: u64,
        settled: &[(Orphan, Outcome)],
    ) -> impl Future<Output = Result<(), RecordError>> + Send;
}

/// Who writes down a whole run.
pub trait Journal: Record {
    /// Where the run is written down, as people write it.
    fn location(&self) -> String;

    /// Asks for this run's turn at the bucket's scope: its prefix and key range. It has it
    /// where nobody else writes down.
    fn turn(
        &self,
        bucket: &str,
        scope: &Scope,
    ) -> impl Future<Output = Result<Turn, RecordError>> + Send {
        let _ = (bucket, scope);
        std::future::ready(Ok(Turn::Ours(Box::new(Alone))))
    }

    /// Writes the manifest, before anything is deleted.
    fn plan(
        &self,
        header: &Header,
        spool: &Spool,
    ) -> impl Future<Output = Result<(), RecordError>> + Send;

    /// Writes the orphans that are held back: no manifest holds them.
    fn held_back(&self, _orphans: &Spool) -> impl Future<Output = Result<(), RecordError>> + Send {
        ready(Ok(()))
    }

    /// The last good run, if one was kept. (A journal that keeps none makes each run a first
    /// one.)
    fn latest(
        &self,
        _series: &Series,
    ) -> impl Future<Output = Result<Option<Latest>, RecallError>> + Send {
        ready(Ok(None))
    }

    /// Keeps a good run for the next one.
    fn keep_latest(
        &self,
        _series: &Series,
        _latest: &Latest,
    ) -> impl Future<Output = Result<(), RecordError>> + Send {
        ready(Ok(()))
    }

    /// Writes the references that have no object.
    fn dangling(&self, keys: &[ObjectKey]) -> impl Future<Output = Result<(), RecordError>> + Send;

    /// Writes the answer.
    fn summary(&self, summary: &Summary) -> impl Future<Output = Result<(), RecordError>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_keeps_its_name_and_each_range_has_one_of_its_own() {
        let whole = Series {
            bucket: "pictures".to_owned(),
            prefix: Prefix::folder("images"),
            range: KeyRange::default(),
            include: vec!["*.png".to_owned()],
            exclude: Vec::new(),
            references_sha256: "abc".to_owned(),
        };
        // What its digest was of before there were ranges.
        assert_eq!(
            format!("{whole:?}"),
            r#"Series { bucket: "pictures", prefix: Prefix("images/"), include: ["*.png"], exclude: [], references_sha256: "abc" }"#
        );
        let lower = Series {
            range: KeyRange {
                after: None,
                up_to: Some(ObjectKey::new("images/m")),
            },
            ..whole.clone()
        };
        let upper = Series {
            range: KeyRange {
                after: Some(ObjectKey::new("images/m")),
                up_to: None,
            },
            ..whole.clone()
        };
        let digests = [&whole, &lower, &upper].map(Series::digest);
        assert!(digests[0] != digests[1] && digests[1] != digests[2] && digests[0] != digests[2]);
        for series in [whole, lower, upper] {
            let written = serde_json::to_string(&series).unwrap();
            assert_eq!(
                serde_json::from_str::<Series>(&written).unwrap(),
                series,
                "{written}"
            );
        }
    }
}
