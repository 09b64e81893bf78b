//! The fresh check of some orphans, and how long it holds.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{MAX_CHECK_AGE, MAX_SPARED, SweepError};
use crate::hands::{CheckError, FreshCheck};
use crate::key::ObjectKey;
use crate::object::{Orphan, Outcome, SparedBy};

const CHECK_TOO_SLOW: &str =
    "it took longer than 60 s; the doctor tells whether an index on the names would make it fast";

/// How old a check may be without being made again, in any case.
const RECENT: Duration = Duration::from_millis(100);

/// When a fresh check of some orphans was made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checked {
    /// When it was asked for: what was committed since it may not have seen.
    pub(super) at: Instant,
    /// When it was answered.
    pub(super) answered: Instant,
}

impl Checked {
    /// Whether the database is to be asked again before the next request: not more often than it
    /// can answer.
    pub(super) fn is_old(self) -> bool {
        self.answered.elapsed() > RECENT.max(self.answered - self.at)
            || self.at.elapsed() > MAX_CHECK_AGE
    }
}

/// Asks the primary about these orphans, and spares those that a row names.
pub(super) async fn ask_again(
    check: &impl FreshCheck,
    undecided: &mut [&mut (Orphan, Outcome)],
) -> Result<Checked, SweepError> {
    let at = Instant::now();
    let keys: Vec<&ObjectKey> = undecided.iter().map(|(orphan, _)| &orphan.key).collect();
    // What the check saw must still be fresh when the batches are sent; and a database
    // that never answers must not hold the run until it is killed.
    let named = timeout(MAX_CHECK_AGE, check.referenced(&keys))
        .await
        .map_err(|_| CheckError(CHECK_TOO_SLOW.into()))??;
    if named.len() != keys.len() {
        return Err(CheckError("the check did not answer for every key".into()).into());
    }
    for ((_, outcome), named) in undecided.iter_mut().zip(named) {
        if named {
            *outcome = Outcome::Spared(SparedBy::Check);
        }
    }
    Ok(Checked {
        at,
        answered: Instant::now(),
    })
}

/// Fails where so many orphans of one batch are named now that the snapshot must have been wrong.
pub(super) fn if_snapshot_wrong<'batch>(
    batch: impl IntoIterator<Item = &'batch (Orphan, Outcome)>,
) -> Result<(), SweepError> {
    let (mut asked, mut spared, mut example) = (0, 0, None);
    for (orphan, outcome) in batch {
        asked += 1;
        if *outcome == Outcome::Spared(SparedBy::Check) {
            spared += 1;
            example.get_or_insert(&orphan.key);
        }
    }
    match example {
        Some(example) if spared > MAX_SPARED => Err(SweepError::SnapshotWrong {
            spared,
            asked,
            example: example.clone(),
        }),
        _ => Ok(()),
    }
}
