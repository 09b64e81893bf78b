//! What the steps need of the world, as traits: someone who looks, someone who deletes,
//! someone who asks the primary, someone who writes down. Production's adapters and the
//! tests' fakes stand behind the same ones.

use std::error::Error as StdError;

use jiff::Timestamp;
use thiserror::Error;

use crate::key::ObjectKey;
use crate::object::{ETag, Orphan, Outcome};
use crate::reconcile::BatchAnswer;

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
    /// versions, if it was made after `since`.
    fn marker_over(
        &self,
        orphan: &Orphan,
        since: Timestamp,
    ) -> impl Future<Output = Result<Option<String>, LookError>> + Send;
}

/// The database could not be asked.
#[derive(Debug, Error)]
#[error("the fresh check failed")]
pub struct CheckError(#[source] pub Box<dyn StdError + Send + Sync>);

/// Who asks the primary once more.
pub trait FreshCheck {
    /// For each key whether a row names it now, in a transaction begun for this question.
    fn referenced(
        &mut self,
        keys: &[&ObjectKey],
    ) -> impl Future<Output = Result<Vec<bool>, CheckError>> + Send;
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

/// Who writes down what became of each batch.
pub trait Record {
    /// Writes one batch's outcomes; `batch` counts from 0.
    fn outcomes(
        &self,
        batch: u64,
        settled: &[(Orphan, Outcome)],
    ) -> impl Future<Output = Result<(), RecordError>> + Send;
}
