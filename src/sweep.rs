//! The sweep: an approved plan, carried out batch by batch.
//!
//! For each window of batches, in this order: the ages are read again if the listing is old,
//! the primary is asked once more, the batches are sent on the condition of each object's
//! entity tag, and what became of every orphan is written down. Where a request waits, or is sent
//! again, the primary is asked again before it. Nothing is sent on the word of a listing, or a
//! look, that is older than a minute.
//!
//! Some windows are under way at once, so that the database, S3 and the ledger do not wait for
//! each other. Each rests on a check of its own, and what goes wrong in one halts them all.

mod checked;
mod send;
mod window;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use jiff::{SignedDuration, Timestamp};
use thiserror::Error;
use tokio::time::Instant;

use crate::guards::Versioning;
use crate::hands::{CheckError, Clock, Delete, FreshCheck, Record, RecordError};
use crate::key::ObjectKey;
use crate::plan::{ApprovedPlan, Batches};
use crate::stop::Stop;
use crate::summary::{Counts, Problem};
use crate::throttle::{self, Throttle};
use window::Window;

/// The most keys of one `DeleteObjects`
/// (<https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html>).
pub const MAX_BATCH: usize = 1_000;

/// When more time than this has passed since an object's page, its age is read again.
pub const MAX_LISTING_AGE: Duration = Duration::from_mins(1);

/// Ages are read again a good while before they must be, so that the requests have time.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// How far the clocks of S3's own machines may be apart.
const CLOCKS_VARY: SignedDuration = SignedDuration::from_secs(5);

/// Less than this may be a clock that is set right now and then.
const LEAST_SLEEP: SignedDuration = SignedDuration::from_secs(5);

/// The longest time between a fresh check and a deletion that rests on it. (Mostly it is
/// milliseconds, and a tenth of a second where the check itself takes no longer.)
pub const MAX_CHECK_AGE: Duration = Duration::from_mins(1);

/// A batch that spares more keys than this, which is more than 1 % of the largest one, says
/// that the snapshot was wrong.
pub const MAX_SPARED: usize = 10;

/// Why a sweep ended before its plan did.
#[derive(Debug, Error)]
pub enum SweepError {
    /// The fresh check failed.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// So many orphans of one batch are named now that the snapshot must have been wrong.
    #[error(
        "the fresh check found rows for {spared} of {asked} orphans of one batch, among them {example}; the snapshot cannot have been complete"
    )]
    SnapshotWrong {
        /// Orphans that a row names.
        spared: usize,
        /// Orphans of the batch.
        asked: usize,
        /// One of them.
        example: ObjectKey,
    },
    /// Looks or requests took so long that the listing is no longer fresh.
    #[error(
        "more than 60 s passed since the objects were listed or looked at, or the machine slept, and the rest was not sent; raise --concurrency"
    )]
    Stale,
    /// The ledger could not be written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// S3 refused a batch as a whole.
    #[error("S3 refused a whole batch with {code}: {message}")]
    Refused {
        /// S3's error code.
        code: String,
        /// S3's words.
        message: String,
    },
    /// The plan's temporary file could not be read.
    #[error("the plan's temporary file could not be read")]
    Spool(#[from] std::io::Error),
}

/// How a sweep is carried out.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How many batches are sent at once, behind one fresh check: a window.
    pub batches_at_once: usize,
    /// How many windows are under way at once, at most.
    pub windows_at_once: usize,
    /// How many objects are looked at at once.
    pub looks_at_once: usize,
    /// Orphans in one batch, at most [`MAX_BATCH`].
    pub batch_size: usize,
}

/// What a sweep did.
#[derive(Debug, Default)]
pub struct SweepReport {
    /// What became of the orphans: all of them.
    pub counts: Counts,
    /// What went wrong with single keys.
    pub problems: Vec<Problem>,
    /// What ended the sweep before its plan did.
    pub error: Option<SweepError>,
    /// Whether it was stopped.
    pub stopped: bool,
}

/// The parts that a sweep works with.
#[derive(Debug)]
pub struct Hands<'run, D, C, R> {
    /// Deletes.
    pub delete: &'run D,
    /// Asks the primary.
    pub check: &'run C,
    /// Writes down.
    pub record: &'run R,
    /// Tells whether the machine slept.
    pub clock: &'run dyn Clock,
}

/// When and by what the plan was made.
#[derive(Debug, Clone, Copy)]
pub struct Judged {
    /// What is older may be deleted.
    pub cutoff: Timestamp,
    /// When the first page was asked for; `None` when each object is to be looked at again
    /// however short that is ago.
    pub listed_since: Option<Instant>,
    /// Whether the storage itself compares the entity tag in the act of deleting. Where it does
    /// not, each object is looked at just before its batch.
    pub conditional: bool,
    /// S3's clock when the run asked for it.
    pub storage_now: Timestamp,
    /// This machine's clock at the same time.
    pub local_now: Timestamp,
    /// When that was known.
    pub began: Instant,
    /// Whether the bucket keeps what is deleted, so that its versions tell of a deletion.
    pub versioning: Versioning,
}

impl Judged {
    /// What S3's clock shows now at least: what it says it did earlier was not done by a request
    /// that is sent now.
    fn now(&self) -> Timestamp {
        SignedDuration::try_from(self.began.elapsed())
            .ok()
            .and_then(|elapsed| self.storage_now.checked_add(elapsed - CLOCKS_VARY).ok())
            .unwrap_or(self.storage_now)
    }

    /// Until when the listing may be rested on; `None` when the ages are to be read again.
    fn fresh_until(&self, clock: &dyn Clock) -> Option<Instant> {
        let is_fresh = |since: &Instant| {
            self.conditional
                && since.elapsed() <= LOOK_AGAIN_AFTER
                && self.slept(clock) <= LEAST_SLEEP
        };
        self.listed_since
            .filter(is_fresh)
            .map(|since| since + MAX_LISTING_AGE)
    }

    /// How long the machine has slept since the run began: no [`Instant`] shows that time. (Or
    /// its clock was set; then checks and listings are taken for older than they are.)
    fn slept(&self, clock: &dyn Clock) -> SignedDuration {
        let awake = SignedDuration::try_from(self.began.elapsed()).unwrap_or(SignedDuration::MAX);
        clock.now().duration_since(self.local_now) - awake
    }
}

/// What all windows of a sweep share.
struct Course<'run, D, C, R> {
    judged: Judged,
    hands: Hands<'run, D, C, R>,
    pace: Pace,
    throttle: Throttle,
    /// Held by who asks the database again where each question reads all names.
    asking: tokio::sync::Mutex<()>,
    stop: &'run Stop,
    /// Set by what goes wrong in one window: no other sends anything more.
    halted: AtomicBool,
}

impl<D, C, R> Course<'_, D, C, R> {
    /// Lets no other request be sent, nor a window begin.
    fn halt(&self) {
        self.halted.store(true, Ordering::SeqCst);
    }

    fn halted(&self) -> bool {
        self.halted.load(Ordering::SeqCst)
    }

    /// How many windows may be under way, after so many were carried out.
    fn windows_at_once(&self, carried_out: usize) -> usize
    where
        C: FreshCheck,
    {
        let most = self.pace.windows_at_once.max(1);
        // A window that waits for its turn, for looks, or for other questions that each read
        // all names, rests on a check that grows old.
        if self.throttle.holds_back()
            || self.judged.fresh_until(self.hands.clock).is_none()
            || !self.hands.check.asks_many_at_once()
        {
            1
        } else {
            // A snapshot that was wrong shows in the first one.
            most.min(1 + carried_out)
        }
    }
}

/// Sweeps an approved plan. Every orphan of the plan has an outcome in the report's
/// counts, however the sweep ends.
pub async fn sweep<D: Delete + Sync, C: FreshCheck, R: Record + Sync>(
    plan: &ApprovedPlan,
    judged: Judged,
    hands: Hands<'_, D, C, R>,
    pace: Pace,
    stop: &Stop,
    mut progress: impl FnMut(&Counts),
) -> SweepReport {
    let mut report = SweepReport::default();
    let mut batches = match plan.batches() {
        Ok(batches) => batches,
        Err(error) => {
            report.counts.deferred = plan.plan().spool().len();
            report.error = Some(error.into());
            return report;
        }
    };
    let course = Course {
        judged,
        hands,
        pace,
        throttle: Throttle::new(throttle::DELETIONS),
        asking: tokio::sync::Mutex::default(),
        stop,
        halted: AtomicBool::new(false),
    };
    let mut under_way = FuturesUnordered::new();
    let (mut number, mut carried_out) = (0, 0);
    let mut at_end = false;
    loop {
        while !at_end && under_way.len() < course.windows_at_once(carried_out) {
            let window = next_window(&mut batches, &mut number, pace, &mut report);
            let size = window.len();
            at_end = size == 0 || report.error.is_some() || stop.requested();
            if at_end {
                // Read, and nobody asks about them.
                report.counts.deferred += size;
                report.stopped |= size > 0 && report.error.is_none();
                break;
            }
            under_way.push(window.carry_out(&course));
        }
        let Some((window, ended)) = under_way.next().await else {
            break;
        };
        carried_out += 1;
        // Only a stop, or a storage that takes next to nothing, leaves orphans undecided
        // without an error.
        report.stopped |= ended.is_ok() && !course.halted() && window.is_undecided();
        at_end |= report.stopped || course.halted();
        window.count(&mut report);
        report.error = report.error.or(ended.err());
        progress(&report.counts);
    }
    report.counts.deferred += batches.left();
    report
}

/// The next batches of the plan; none at its end.
fn next_window(
    batches: &mut Batches<'_>,
    number: &mut u64,
    pace: Pace,
    report: &mut SweepReport,
) -> Window {
    let mut window = Window::new(*number);
    while window.batches() < pace.batches_at_once.max(1) {
        let left = batches.left();
        match batches.next_batch(pace.batch_size.clamp(1, MAX_BATCH)) {
            Ok(Some(batch)) => {
                report.counts.deferred += batch.passed_over;
                window.push(batch.orphans);
            }
            Ok(None) => break,
            Err(error) => {
                // Read already, and in no batch.
                report.counts.deferred += left - batches.left();
                report.error.get_or_insert(error.into());
                break;
            }
        }
    }
    *number += window.batches() as u64;
    window
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guards::Limits;
    use crate::hands::{BatchFault, Current, Look, LookError};
    use crate::merge::Findings;
    use crate::object::{ETag, Orphan, Outcome};
    use crate::plan::PlanBuilder;
    use crate::reconcile::BatchAnswer;

    /// Hands that nothing is to be put into.
    #[derive(Debug)]
    struct Idle;

    impl Clock for Idle {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }
    }

    impl Look for Idle {
        async fn look(&self, _: &ObjectKey) -> Result<Current, LookError> {
            unreachable!("nothing is looked at")
        }
    }

    impl Delete for Idle {
        async fn delete_batch(&self, _: &[Orphan]) -> Result<BatchAnswer, BatchFault> {
            unreachable!("nothing is deleted")
        }

        async fn delete_alone(&self, _: &Orphan) -> Result<BatchAnswer, BatchFault> {
            unreachable!("nothing is deleted")
        }

        async fn marker_over(&self, _: &Orphan, _: Timestamp) -> Result<Option<String>, LookError> {
            unreachable!("nothing is looked at")
        }
    }

    impl FreshCheck for Idle {
        async fn referenced(&self, _: &[&ObjectKey]) -> Result<Vec<bool>, CheckError> {
            unreachable!("nothing is asked")
        }
    }

    impl Record for Idle {
        async fn outcomes(&self, _: u64, _: &[(Orphan, Outcome)]) -> Result<(), RecordError> {
            unreachable!("nothing is written")
        }
    }

    #[tokio::test]
    async fn a_plan_that_cannot_be_read_to_its_end_is_deferred_to_the_orphan() {
        let mut findings = Findings::default();
        for index in 0..5 {
            findings.orphans.push(Orphan {
                key: ObjectKey::new(format!("{index}.png")),
                etag: ETag::new("\"e\""),
                size: 1,
                last_modified: Timestamp::UNIX_EPOCH,
            });
        }
        findings.counts = Counts {
            listed: 10,
            referenced: 5,
            references: 5,
            orphans: 5,
            ..Counts::default()
        };
        findings.newest_referenced = Some(Timestamp::UNIX_EPOCH);
        let line = serde_json::to_string(&findings.orphans[0])
            .expect("JSON")
            .len() as u64
            + 1;
        let mut builder = PlanBuilder::new(None).expect("a file");
        builder.add(findings).expect("written");
        let limits = Limits {
            max_orphan_percent: 100.0,
            max_dangling_percent: 100.0,
            allow_newer_orphans: true,
        };
        let plan = builder.finish().expect("written").approve(&limits);
        let plan = plan.expect("approved");
        // In the middle of the third line.
        plan.plan().spool().lose_all_but(2 * line + line / 2);
        let judged = Judged {
            cutoff: Timestamp::UNIX_EPOCH,
            listed_since: None,
            conditional: true,
            storage_now: Timestamp::UNIX_EPOCH,
            local_now: Timestamp::UNIX_EPOCH,
            began: Instant::now(),
            versioning: Versioning::Enabled,
        };
        let hands = Hands {
            delete: &Idle,
            check: &Idle,
            record: &Idle,
            clock: &Idle,
        };
        let pace = Pace {
            batches_at_once: 1,
            windows_at_once: 1,
            looks_at_once: 1,
            batch_size: 10,
        };
        let report = sweep(&plan, judged, hands, pace, &Stop::never(), |_| {}).await;
        assert!(
            matches!(report.error, Some(SweepError::Spool(_))),
            "{report:?}"
        );
        assert_eq!(report.counts.deferred, 5);
    }
}
