//! Dangling references, confirmed: a row that still names a key under which there is still
//! no object.

use std::collections::HashSet;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use tokio::time::timeout;

use crate::hands::{CheckError, Current, FreshCheck, Look};
use crate::key::ObjectKey;
use crate::plan::Plan;

/// As long as the database itself lets a statement run: a connection that died without a word
/// must not hold the run for ever.
const LONGEST_CHECK: Duration = Duration::from_mins(10);

/// Asks the database and the bucket once more about the named dangling references of the
/// plan, and takes out those that are not. What cannot be looked at stays.
///
/// # Errors
/// The database cannot be asked.
pub async fn confirm(
    plan: &mut Plan,
    look: &(impl Look + Sync),
    check: &impl FreshCheck,
    at_once: usize,
) -> Result<(), CheckError> {
    let keys: Vec<&ObjectKey> = plan.dangling().iter().collect();
    let named = timeout(LONGEST_CHECK, check.referenced(&keys))
        .await
        .map_err(|_| CheckError("it took longer than 10 min".into()))??;
    if named.len() != keys.len() {
        return Err(CheckError("the check did not answer for every key".into()));
    }
    let still_named: Vec<ObjectKey> = keys
        .into_iter()
        .zip(named)
        .filter(|(_, named)| *named)
        .map(|(key, _)| key.clone())
        .collect();
    let missing: HashSet<ObjectKey> = stream::iter(still_named)
        .map(async |key| {
            let there = matches!(look.look(&key).await, Ok(Current::Present { .. }));
            (!there).then_some(key)
        })
        .buffer_unordered(at_once.max(1))
        .filter_map(async |key| key)
        .collect()
        .await;
    plan.keep_dangling(|key| missing.contains(key));
    Ok(())
}
