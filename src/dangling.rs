//! Dangling references, confirmed: a row that still names a key under which there is still
//! no object.

use std::collections::HashSet;

use futures::stream::{self, StreamExt as _};

use crate::hands::{CheckError, Current, FreshCheck, Look};
use crate::key::ObjectKey;
use crate::plan::Plan;

/// Asks the database and the bucket once more about the named dangling references of the
/// plan, and takes out those that are not. What cannot be looked at stays.
///
/// # Errors
/// The database cannot be asked.
pub async fn confirm(
    plan: &mut Plan,
    look: &(impl Look + Sync),
    check: &mut impl FreshCheck,
    at_once: usize,
) -> Result<(), CheckError> {
    let keys: Vec<&ObjectKey> = plan.dangling().iter().collect();
    let named = check.referenced(&keys).await?;
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
