//! The counts of a run and the one object that every door answers with.

use std::ops::AddAssign;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use crate::folders::HeldFolder;
use crate::key::{KeyRange, ObjectKey, Prefix};
use crate::mention::Mention;
use crate::object::Outcome;

/// How many objects and references a run counted. Bytes are the sizes that S3 listed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Objects that S3 listed below the prefix.
    pub listed: u64,
    /// Their bytes.
    pub listed_bytes: u64,
    /// Objects in scope that a row names.
    pub referenced: u64,
    /// Objects in scope that no row names, not older than the cutoff.
    pub young: u64,
    /// Objects that the globs leave out.
    pub out_of_scope: u64,
    /// Objects in scope that no row names, older than the cutoff.
    pub orphans: u64,
    /// Their bytes.
    pub orphan_bytes: u64,
    /// Orphans whose deletion is confirmed.
    pub deleted: u64,
    /// Their bytes.
    pub deleted_bytes: u64,
    /// Orphans that were already absent.
    pub gone: u64,
    /// Orphans that were saved.
    pub spared: u64,
    /// Orphans that S3 refused to delete.
    pub failed: u64,
    /// Orphans of which nobody can say.
    pub unknown: u64,
    /// Orphans that the run did not ask about.
    pub deferred: u64,
    /// References below the prefix whose object is missing.
    pub dangling: u64,
    /// Distinct keys below the prefix that rows name.
    pub references: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        // Taken apart in full, so that a new count cannot be forgotten here.
        let Self {
            listed,
            listed_bytes,
            referenced,
            young,
            out_of_scope,
            orphans,
            orphan_bytes,
            deleted,
            deleted_bytes,
            gone,
            spared,
            failed,
            unknown,
            deferred,
            dangling,
            references,
        } = other;
        self.listed += listed;
        self.listed_bytes += listed_bytes;
        self.referenced += referenced;
        self.young += young;
        self.out_of_scope += out_of_scope;
        self.orphans += orphans;
        self.orphan_bytes += orphan_bytes;
        self.deleted += deleted;
        self.deleted_bytes += deleted_bytes;
        self.gone += gone;
        self.spared += spared;
        self.failed += failed;
        self.unknown += unknown;
        self.deferred += deferred;
        self.dangling += dangling;
        self.references += references;
    }
}

/// The sums of promise 7 do not hold: a fault of this program, never of its input.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SumError {
    /// `listed = referenced + young + out_of_scope + orphans`
    #[error("{listed} objects were listed but {judged} were judged")]
    Judged {
        /// Objects listed.
        listed: u64,
        /// Objects with a verdict.
        judged: u64,
    },
    /// `orphans = deleted + gone + spared + failed + unknown + deferred`
    #[error("there were {orphans} orphans but {settled} have an outcome")]
    Settled {
        /// Orphans found.
        orphans: u64,
        /// Orphans with an outcome.
        settled: u64,
    },
}

impl Counts {
    /// Counts what became of one orphan.
    pub fn settle(&mut self, size: u64, outcome: &Outcome) {
        match outcome {
            Outcome::Deleted { .. } => {
                self.deleted += 1;
                self.deleted_bytes += size;
            }
            Outcome::Gone => self.gone += 1,
            Outcome::Spared(_) => self.spared += 1,
            Outcome::Failed { .. } => self.failed += 1,
            Outcome::Unknown { .. } => self.unknown += 1,
            Outcome::Deferred => self.deferred += 1,
        }
    }

    /// Orphans with an outcome other than deferred.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.deleted + self.gone + self.spared + self.failed + self.unknown
    }

    /// Checks both sums of promise 7.
    ///
    /// # Errors
    /// The first sum that does not hold.
    pub fn check(&self) -> Result<(), SumError> {
        let judged = self.referenced + self.young + self.out_of_scope + self.orphans;
        if judged != self.listed {
            return Err(SumError::Judged {
                listed: self.listed,
                judged,
            });
        }
        let settled = self.asked() + self.deferred;
        if settled != self.orphans {
            return Err(SumError::Settled {
                orphans: self.orphans,
                settled,
            });
        }
        Ok(())
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Everything that was to be done is done.
    Completed,
    /// A plan was made and nothing was to be deleted.
    DryRun,
    /// A guard said no; nothing was deleted.
    Refused,
    /// Out of time, interrupted, or some keys failed or are unknown.
    Incomplete,
    /// An error ended the run.
    Failed,
}

/// A guard's no.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Refusal {
    /// The guard's name.
    pub guard: &'static str,
    /// The figure that the guard looked at.
    pub value: f64,
    /// The limit that it was held to.
    pub limit: f64,
    /// What was seen, and the way on with the flag that allows it.
    pub hint: String,
    /// Up to three keys as examples.
    pub examples: Vec<ObjectKey>,
}

/// One thing that went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The object it is about, if it is about one.
    pub key: Option<ObjectKey>,
    /// S3's error code, or the kind of error.
    pub code: String,
    /// What happened.
    pub message: String,
}

/// How many problems a summary names; the ledger's outcomes hold all.
pub const MAX_PROBLEMS: usize = 20;

/// The answer of a run: the Lambda's, `--output json`'s, and the ledger's `summary.json`.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// The run's id, a `UUIDv7`.
    pub run_id: Uuid,
    /// How it ended.
    pub status: Status,
    /// The bucket.
    pub bucket: String,
    /// The prefix; empty for the whole bucket.
    pub prefix: Prefix,
    /// Whether nothing was to be deleted.
    pub dry_run: bool,
    /// When it started, by the local clock.
    pub started_at: Timestamp,
    /// What was older could be an orphan; `null` when the run ended before it was fixed.
    pub cutoff: Option<Timestamp>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// All counts.
    #[serde(flatten)]
    pub counts: Counts,
    /// The first guard that said no.
    pub refusal: Option<Refusal>,
    /// The first problems, at most [`MAX_PROBLEMS`].
    pub errors: Vec<Problem>,
    /// Where the run's ledger lies.
    pub report: String,
    /// What else is worth knowing.
    #[serde(flatten)]
    pub more: More,
}

/// What a summary says behind its contract's first fields.
#[derive(Debug, Clone, Default, Serialize)]
pub struct More {
    /// The key range that the run was about, as `after` and `up_to`: only the bounds that
    /// there were.
    #[serde(flatten)]
    pub range: KeyRange,
    /// Of the deleted bytes, those that are known to be free now. (What is missing to the whole
    /// in these three, nobody could tell.)
    pub freed_bytes: u64,
    /// Of the deleted bytes, those that are kept below a delete marker, where `restore` can
    /// bring them back.
    pub recoverable_bytes: u64,
    /// Of the deleted bytes, those that are kept below a delete marker of which nothing shows that
    /// it is the run's: a person can copy them back.
    pub kept_bytes: u64,
    /// After how many days the bucket's lifecycle frees those, at the earliest; `null` where
    /// it never does or could not be read.
    pub recoverable_days: Option<u32>,
    /// Multipart uploads under way; `null` where they could not be listed or were not looked
    /// for.
    pub uploads: Option<UploadCounts>,
    /// What the question after the sweep brought to light; `null` where none was asked.
    pub rechecked: Option<Rechecked>,
    /// The run whose manifest was applied.
    pub applied: Option<Uuid>,
    /// Orphans that are held back because nothing in their folder is referenced, or because a
    /// name mentions them; they are among the deferred. The ledger's `held_back.jsonl` holds each
    /// of them.
    pub held_back: u64,
    /// The first such folders, at most [`MAX_PROBLEMS`].
    pub held_back_folders: Vec<HeldFolder>,
    /// The first that names mention which mean something else, at most
    /// [`MAX_TOLD`](crate::mention::MAX_TOLD).
    pub held_back_mentions: Vec<Mention>,
}

/// What is known of a scope's uploads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct UploadCounts {
    /// Uploads under way for keys in scope.
    pub found: u64,
    /// Those that were begun before the cutoff.
    pub old: u64,
    /// How many of the old were looked into.
    pub measured: u64,
    /// The bytes of the parts of those.
    pub bytes: u64,
    /// Old ones that were left alone because a row names their key.
    pub named: u64,
    /// Uploads that were aborted.
    pub aborted: u64,
    /// Uploads that were not there any more when they were to be aborted: completed or aborted
    /// meanwhile, or by a request of ours whose answer was lost.
    pub gone: u64,
    /// Uploads that S3 did not say it aborted.
    pub failed: u64,
}

/// What the question after the sweep brought to light.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rechecked {
    /// Deleted objects that a row names now.
    pub referenced: u64,
    /// Those of them that were restored.
    pub restored: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sum_is_checked() {
        let mut counts = Counts {
            listed: 5,
            referenced: 1,
            young: 1,
            out_of_scope: 1,
            orphans: 2,
            ..Counts::default()
        };
        assert_eq!(
            counts.check(),
            Err(SumError::Settled {
                orphans: 2,
                settled: 0
            })
        );
        counts.settle(7, &Outcome::Deleted { marker: None });
        counts.settle(7, &Outcome::Deferred);
        assert_eq!(counts.check(), Ok(()));
        assert_eq!((counts.deleted_bytes, counts.asked()), (7, 1));
        counts.listed += 1;
        assert_eq!(
            counts.check(),
            Err(SumError::Judged {
                listed: 6,
                judged: 5
            })
        );
    }
}
