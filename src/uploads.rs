//! Incomplete multipart uploads: what a failed upload leaves, too. No listing shows them, and
//! their parts are billed.

use std::collections::BTreeSet;

use futures::stream::{self, StreamExt as _};
use jiff::Timestamp;

use crate::chain::chain;
use crate::hands::{FreshCheck, LookError};
use crate::key::ObjectKey;
use crate::merge::Criteria;
use crate::summary::UploadCounts;

/// Uploads whose parts are added up: each costs a request.
const MEASURED: usize = 100;

/// Uploads that one run aborts; the next run goes on.
const MAX_ABORTED: usize = 10_000;

/// The code of what went wrong where the database was not to be asked.
pub(crate) const NOT_CHECKED: &str = "NotChecked";

/// Uploads whose keys the database is asked about at once, just before they are aborted.
const WINDOW: usize = 1_000;

/// A multipart upload that was begun and neither completed nor aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// The key that it would become.
    pub key: ObjectKey,
    /// Its id.
    pub id: String,
    /// When it was begun; one of unknown age is new.
    pub initiated: Option<Timestamp>,
}

/// Some uploads, and where more begin.
#[derive(Debug, Default)]
pub struct UploadPage {
    /// The uploads.
    pub uploads: Vec<Upload>,
    /// The key and the id after which the next page begins; `None` on the last.
    pub next: Option<(String, String)>,
}

/// Who lists uploads under way.
pub trait ListUploads {
    /// The uploads below the run's prefix, behind that key and id.
    fn uploads(
        &self,
        after: Option<&(String, String)>,
    ) -> impl Future<Output = Result<UploadPage, LookError>> + Send;

    /// The bytes of the parts that an upload holds.
    fn upload_bytes(&self, upload: &Upload) -> impl Future<Output = Result<u64, LookError>> + Send;
}

/// Who aborts uploads. A dry run holds none.
pub trait AbortUpload {
    /// Aborts an upload; whether it was still there.
    fn abort(&self, upload: &Upload) -> impl Future<Output = Result<bool, LookError>> + Send;
}

/// The uploads of a scope.
#[derive(Debug, Default)]
pub struct Found {
    /// How many there are.
    pub counts: UploadCounts,
    /// Those begun before the cutoff, at most as many as one run aborts.
    old: Vec<Upload>,
}

/// Looks for uploads of keys in scope.
///
/// # Errors
/// S3 refuses, does not answer, or its pages do not end.
pub async fn find(
    bucket: &(impl ListUploads + Sync),
    criteria: &Criteria,
    at_once: usize,
) -> Result<Found, LookError> {
    let mut found = Found::default();
    let mut after = None;
    loop {
        let page = bucket.uploads(after.as_ref()).await?;
        for upload in page.uploads {
            if !criteria.scope.contains(upload.key.as_str()) {
                continue;
            }
            found.counts.found += 1;
            if upload.initiated.is_none_or(|at| at >= criteria.cutoff) {
                continue;
            }
            found.counts.old += 1;
            if found.old.len() < MAX_ABORTED {
                found.old.push(upload);
            }
        }
        match page.next {
            None => break,
            next if next == after => {
                return Err(LookError {
                    code: Some("RepeatedMarker".to_owned()),
                    message: "the pages of uploads do not end".to_owned(),
                });
            }
            next => after = next,
        }
    }
    let measured: Vec<u64> = stream::iter(found.old.iter().take(MEASURED))
        .map(|upload| bucket.upload_bytes(upload))
        .buffer_unordered(at_once.max(1))
        // One that was completed in between has no parts; one that may not be read, none known.
        .filter_map(async |bytes| bytes.ok())
        .collect()
        .await;
    found.counts.measured = measured.len() as u64;
    found.counts.bytes = measured.iter().sum();
    Ok(found)
}

/// Aborts the old ones whose key no row names, at most so many. The first thing that went wrong,
/// if something did.
pub async fn abort(
    found: &mut Found,
    hands: &(impl AbortUpload + Sync),
    check: &impl FreshCheck,
    at_most: u64,
    at_once: usize,
) -> Option<LookError> {
    let mut first = None;
    let mut left = usize::try_from(at_most).unwrap_or(usize::MAX);
    for window in found.old.chunks(WINDOW) {
        if left == 0 {
            break;
        }
        let keys: Vec<&ObjectKey> = window.iter().map(|upload| &upload.key).collect();
        // Somebody may go on with an upload whose row stands already.
        let named = match check.referenced(&keys).await {
            Ok(named) if named.len() == keys.len() => named,
            answer => {
                let message = answer.err().map_or_else(
                    || "the check did not answer for every key".to_owned(),
                    |error| chain(&error),
                );
                let unchecked = LookError {
                    code: Some(NOT_CHECKED.to_owned()),
                    message,
                };
                return first.or(Some(unchecked));
            }
        };
        // By key: of several uploads of one, a check may answer for one only.
        let named: BTreeSet<&ObjectKey> = keys
            .into_iter()
            .zip(named)
            .filter_map(|(key, named)| named.then_some(key))
            .collect();
        let (kept, unnamed): (Vec<&Upload>, Vec<&Upload>) = window
            .iter()
            .partition(|upload| named.contains(&upload.key));
        found.counts.named += kept.len() as u64;
        let chosen = unnamed.into_iter().take(left);
        left -= chosen.len();
        let mut ended = stream::iter(chosen)
            .map(|upload| hands.abort(upload))
            .buffer_unordered(at_once.max(1));
        while let Some(aborted) = ended.next().await {
            match aborted {
                Ok(true) => found.counts.aborted += 1,
                Ok(false) => found.counts.gone += 1,
                Err(error) => {
                    found.counts.failed += 1;
                    first = first.or(Some(error));
                }
            }
        }
    }
    first
}
