//! Dangling references, confirmed: a row that still names a key under which there is still
//! no object, nor under any other that the name may mean.

use std::collections::HashSet;
use std::iter;
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
    let named = timeout(LONGEST_CHECK, check.readings(&keys))
        .await
        .map_err(|_| CheckError("it took longer than 10 min".into()))??;
    if named.len() != keys.len() {
        return Err(CheckError("the check did not answer for every key".into()));
    }
    let still_named: Vec<(ObjectKey, Vec<ObjectKey>)> = keys
        .into_iter()
        .zip(named)
        .filter_map(|(key, named)| Some((key.clone(), named?)))
        .collect();
    let missing: HashSet<ObjectKey> = stream::iter(still_named)
        .map(async |(key, also)| {
            for meant in iter::once(&key).chain(&also) {
                if matches!(look.look(meant).await, Ok(Current::Present { .. })) {
                    return None;
                }
            }
            Some(key)
        })
        .buffer_unordered(at_once.max(1))
        .filter_map(async |key| key)
        .collect()
        .await;
    plan.keep_dangling(|key| missing.contains(key));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::*;
    use crate::hands::LookError;
    use crate::merge::Findings;
    use crate::plan::PlanBuilder;
    use crate::summary::Counts;

    /// What a look shows: an object, nothing, or an error.
    type Seen = Option<bool>;

    /// What the bucket shows under key 0, 1, …, and who asks at once.
    struct Bucket {
        seen: Vec<Seen>,
        asking: AtomicUsize,
        most: AtomicUsize,
    }

    impl Look for Bucket {
        async fn look(&self, key: &ObjectKey) -> Result<Current, LookError> {
            let asking = self.asking.fetch_add(1, Ordering::Relaxed) + 1;
            self.most.fetch_max(asking, Ordering::Relaxed);
            tokio::task::yield_now().await;
            self.asking.fetch_sub(1, Ordering::Relaxed);
            match self.seen[key.as_str().parse::<usize>().unwrap()] {
                Some(true) => Ok(Current::Present {
                    etag: None,
                    last_modified: None,
                }),
                Some(false) => Ok(Current::Absent),
                None => Err(LookError {
                    code: None,
                    message: "reset".to_owned(),
                }),
            }
        }
    }

    /// Answers so, or never.
    struct Names(Option<Vec<bool>>);

    impl FreshCheck for Names {
        async fn referenced(&self, _: &[&ObjectKey]) -> Result<Vec<bool>, CheckError> {
            match &self.0 {
                Some(named) => Ok(named.clone()),
                None => std::future::pending().await,
            }
        }
    }

    /// The dangling references 0, 1, … of a plan before and after they are confirmed, and how
    /// many were looked at at once.
    async fn confirmed(
        seen: Vec<Seen>,
        named: Option<Vec<bool>>,
        at_once: usize,
    ) -> (Result<(), CheckError>, Vec<String>, usize) {
        let keys = (0..seen.len()).map(|number| ObjectKey::new(number.to_string()));
        let mut plan = PlanBuilder::new(None).unwrap();
        plan.add(Findings {
            counts: Counts {
                dangling: seen.len() as u64,
                ..Counts::default()
            },
            dangling: keys.collect(),
            ..Findings::default()
        })
        .unwrap();
        let mut plan = plan.finish().unwrap();
        let bucket = Bucket {
            seen,
            asking: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        };
        let ended = confirm(&mut plan, &bucket, &Names(named), at_once).await;
        let left: Vec<String> = plan
            .dangling()
            .iter()
            .map(|key| key.as_str().to_owned())
            .collect();
        assert_eq!(plan.counts().dangling, left.len() as u64);
        (ended, left, bucket.most.into_inner())
    }

    proptest! {
        #[test]
        fn dangling_is_what_is_named_and_not_seen(
            cases in proptest::collection::vec((any::<bool>(), proptest::option::of(any::<bool>())), 0..30),
            at_once in 0_usize..5,
        ) {
            let (named, seen): (Vec<bool>, Vec<Seen>) = cases.iter().copied().unzip();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let (ended, left, most) = runtime.block_on(confirmed(seen, Some(named), at_once));
            prop_assert!(ended.is_ok() && most <= at_once.max(1));
            let expected: Vec<String> = (0..).zip(&cases).filter(|(_, (named, seen))| *named && *seen != Some(true)).map(|(number, _): (usize, _)| number.to_string()).collect();
            prop_assert_eq!(left, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_whole_answer_nothing_is_said_of_them() {
        for named in [None, Some(vec![true]), Some(vec![false; 3])] {
            let (ended, left, looked) = confirmed(vec![Some(true); 2], named, 1).await;
            assert!(ended.is_err());
            assert_eq!((left.len(), looked), (2, 0));
        }
    }
}
