//! What can end a run, by the names that the Lambda gives it.

use std::error::Error as StdError;

use thiserror::Error;

use crate::discovery::DiscoveryError;
use crate::hands::{CheckError, RecallError, RecordError, SnapshotError};
use crate::judge::JudgeError;
use crate::mark::MarkError;
use crate::s3::BucketError;
use crate::summary::SumError;
use crate::sweep::SweepError;

/// What ended a run before its end.
#[derive(Debug, Error)]
pub enum RunError {
    /// The database, its names, or the fresh check.
    #[error("the database could not be read")]
    Database(#[source] Box<dyn StdError + Send + Sync>),
    /// The bucket.
    #[error("the bucket could not be used")]
    Storage(#[source] Box<dyn StdError + Send + Sync>),
    /// The ledger, or the temporary folder in which a plan waits to be written there.
    #[error("what happens could not be written down")]
    Ledger(#[source] Box<dyn StdError + Send + Sync>),
    /// The ledger, read back.
    #[error("what the last run wrote down could not be read")]
    Recall(#[from] RecallError),
    /// A fault of this program.
    #[error("the counts of the run contradict each other; nothing else can be trusted either")]
    Sums(#[from] SumError),
}

impl RunError {
    /// The kind, as the Lambda names its errors.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Database(_) => "Database",
            Self::Storage(_) => "Storage",
            Self::Ledger(_) | Self::Recall(_) => "Ledger",
            Self::Sums(_) => "Internal",
        }
    }
}

impl From<SnapshotError> for RunError {
    fn from(SnapshotError(error): SnapshotError) -> Self {
        Self::Database(error)
    }
}

impl From<CheckError> for RunError {
    fn from(error: CheckError) -> Self {
        Self::Database(error.into())
    }
}

impl From<DiscoveryError> for RunError {
    fn from(error: DiscoveryError) -> Self {
        Self::Database(error.into())
    }
}

impl From<BucketError> for RunError {
    fn from(error: BucketError) -> Self {
        Self::Storage(error.into())
    }
}

impl From<RecordError> for RunError {
    fn from(error: RecordError) -> Self {
        Self::Ledger(error.into())
    }
}

impl From<std::io::Error> for RunError {
    fn from(error: std::io::Error) -> Self {
        Self::Ledger(error.into())
    }
}

impl From<JudgeError> for RunError {
    fn from(error: JudgeError) -> Self {
        match error {
            JudgeError::Spool(error) => error.into(),
            JudgeError::Mark(error) => error.into(),
            JudgeError::List(error) => Self::Storage(error.into()),
        }
    }
}

impl From<MarkError> for RunError {
    fn from(error: MarkError) -> Self {
        match error {
            MarkError::Sort(error) => error.into(),
            error => Self::Database(error.into()),
        }
    }
}

impl From<SweepError> for RunError {
    fn from(error: SweepError) -> Self {
        match error {
            SweepError::Check(_) | SweepError::SnapshotWrong { .. } => Self::Database(error.into()),
            SweepError::Refused { .. } | SweepError::Stale => Self::Storage(error.into()),
            SweepError::Record(_) | SweepError::Spool(_) => Self::Ledger(error.into()),
        }
    }
}
