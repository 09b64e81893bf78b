//! Remembers which keys S3 refuses to delete, so that the next run takes them last.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use crate::hands::{Record, RecordError};
use crate::key::ObjectKey;
use crate::object::{Orphan, Outcome};

/// How many keys are remembered; with more, something else is wrong.
pub const MAX_FAILED: usize = 1_000;

/// Writes down by another's hand, and remembers.
#[derive(Debug)]
pub struct RememberingFailed<'run, R> {
    record: &'run R,
    failed: Mutex<BTreeSet<ObjectKey>>,
}

impl<'run, R> RememberingFailed<'run, R> {
    /// Remembers these keys from before, too, until they are settled otherwise.
    pub fn new(record: &'run R, failed: impl IntoIterator<Item = ObjectKey>) -> Self {
        Self {
            record,
            failed: Mutex::new(failed.into_iter().collect()),
        }
    }

    /// The keys, at most [`MAX_FAILED`].
    #[must_use]
    pub fn failed(self) -> Vec<ObjectKey> {
        let failed = self
            .failed
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        failed.into_iter().collect()
    }

    fn note(&self, orphan: &Orphan, outcome: &Outcome) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Outcome::Failed { .. } if failed.len() < MAX_FAILED => {
                failed.insert(orphan.key.clone());
            }
            Outcome::Failed { .. } | Outcome::Deferred => {}
            _ => {
                failed.remove(&orphan.key);
            }
        }
    }
}

impl<R: Record + Sync> Record for RememberingFailed<'_, R> {
    async fn outcomes(&self, batch: u64, settled: &[(Orphan, Outcome)]) -> Result<(), RecordError> {
        for (orphan, outcome) in settled {
            self.note(orphan, outcome);
        }
        self.record.outcomes(batch, settled).await
    }
}
