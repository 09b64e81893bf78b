//! What a run does beside its orphans: uploads that were never completed, and a look back at
//! what it deleted.

use std::time::Duration;

use futures::future::join;
use tokio::time::{sleep, timeout};

use super::Run;
use crate::chain::chain;
use crate::hands::{FreshCheck, Journal, LookError};
use crate::plan::ApprovedPlan;
use crate::recheck::{self, Bytes, Deleted, Findings, recheck};
use crate::stop::Stop;
use crate::summary::{MAX_PROBLEMS, Problem};
use crate::undelete::TakeBack;
use crate::uploads::{self, AbortUpload, Found};
use crate::world::World;

/// The longest look back. Each of its questions is answered in seconds.
const LOOK_BACK: Duration = Duration::from_mins(5);

/// How much longer a run looks back that is to stop: its deadline is near.
const LAST_LOOK_BACK: Duration = Duration::from_secs(10);

impl<J: Journal + Sync> Run<'_, J> {
    /// Notes the uploads under way. They are no orphans: whatever went wrong here is worth a
    /// warning and nothing more.
    pub(super) fn note_uploads(&mut self, found: Result<Found, LookError>) -> Option<Found> {
        match found {
            Ok(found) => {
                self.more.uploads = Some(found.counts);
                Some(found)
            }
            Err(error) => {
                tracing::warn!(
                    code = error.code,
                    error = error.message,
                    "could not look for incomplete multipart uploads (s3:ListBucketMultipartUploads)"
                );
                None
            }
        }
    }

    /// Aborts the uploads that were begun before the cutoff and whose key no row names, no more
    /// than objects may be deleted.
    pub(super) async fn abort_uploads(
        &mut self,
        found: &mut Option<Found>,
        hands: &(impl AbortUpload + Sync),
        check: &impl FreshCheck,
    ) {
        let Some(found) = found else { return };
        let at_most = self.settings.max_delete.unwrap_or(u64::MAX);
        let aborting = uploads::abort(found, hands, check, at_most, self.settings.concurrency);
        let error = tokio::select! {
            error = aborting => error,
            () = self.stop.wait() => None,
        };
        self.more.uploads = Some(found.counts);
        if let Some(error) = error {
            let what = if error.code.as_deref() == Some(uploads::NOT_CHECKED) {
                "could not ask whether rows name the keys of incomplete multipart uploads"
            } else {
                "could not abort incomplete multipart uploads (s3:AbortMultipartUpload)"
            };
            tracing::warn!(
                code = error.code,
                error = error.message,
                uploads = found.counts.failed,
                "{what}"
            );
        }
    }

    /// Tells freed bytes from recoverable ones, and asks the database once more for the names
    /// of what was deleted. The deletions stand as counted, whatever comes of it.
    pub(super) async fn look_back<W: World>(
        &mut self,
        world: &W,
        approved: &ApprovedPlan,
        mut deleted: Deleted,
        check: &impl FreshCheck,
    ) {
        if deleted.is_empty() {
            return;
        }
        let mut bytes = deleted.bytes();
        let days = self.recoverable_days(world, deleted.may_be_kept());
        let mut findings = Findings::default();
        let hands = world.undeleter(approved, self.run_id);
        let asking = timeout(
            LOOK_BACK,
            recheck(&mut deleted, check, &hands, &mut findings),
        );
        let looking = async {
            tokio::select! {
                looked = asking => looked.ok(),
                () = short_of_time(self.stop) => None,
            }
        };
        let (looked, days) = join(looking, days).await;
        self.weigh(&mut deleted, &hands, &mut bytes).await;
        self.more.freed_bytes = bytes.freed;
        bytes.recoverable = bytes.recoverable.saturating_sub(findings.settled_bytes);
        self.more.recoverable_bytes = bytes.recoverable;
        self.more.kept_bytes = bytes.kept;
        let is_kept = bytes.recoverable + bytes.kept > 0;
        self.more.recoverable_days = days.filter(|_| is_kept);
        let not_asked = match looked {
            Some(Ok(())) => None,
            Some(Err(error)) => Some(chain(&error)),
            None => Some("there was no time for it".to_owned()),
        };
        let Findings {
            counts,
            mut problems,
            ..
        } = findings;
        // Of a look that ended early, what it saw is told.
        if not_asked.is_none() || counts.referenced > 0 {
            self.more.rechecked = Some(counts);
        }
        if let Some(why) = not_asked {
            problems.push(Problem {
                key: None,
                code: recheck::NOT_RECHECKED.to_owned(),
                message: format!(
                    "the database could not be asked once more whether a row names what was deleted: {why}"
                ),
            });
        }
        self.doubt |= !problems.is_empty();
        // Worse than what else there is to say.
        problems.append(&mut self.problems);
        problems.truncate(MAX_PROBLEMS);
        self.problems = problems;
    }

    /// Looks what became of bytes of which S3's answers do not tell, if there is time for it.
    async fn weigh(&self, deleted: &mut Deleted, hands: &impl TakeBack, bytes: &mut Bytes) {
        let weighing = timeout(LOOK_BACK, recheck::weigh(deleted, hands, bytes));
        let weighed = tokio::select! {
            biased;
            () = self.stop.wait() => return,
            weighed = weighing => weighed,
        };
        if let Ok(Err(error)) = weighed {
            tracing::warn!(
                error = chain(&error),
                "could not see whether what was deleted is kept"
            );
        }
    }

    /// After how many days the bucket itself frees what lies below delete markers.
    async fn recoverable_days<W: World>(&self, world: &W, kept: bool) -> Option<u32> {
        if !kept {
            return None;
        }
        tokio::select! {
            biased;
            () = self.stop.wait() => None,
            kept = world.retention() => kept.days(),
        }
    }
}

/// Ends when a run that is to stop has no time left for a look back.
async fn short_of_time(stop: &Stop) {
    stop.wait().await;
    sleep(LAST_LOOK_BACK).await;
}
