//! The sweep: an approved plan, carried out batch by batch.
//!
//! For each window of batches, in this order: the primary is asked once more, the ages are
//! read again if the listing is old, the batches are sent on the condition of each object's
//! entity tag, and what became of every orphan is written down. Nothing is sent on the word
//! of a check or a listing that is older than a minute.

use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use jiff::Timestamp;
use thiserror::Error;
use tokio::time::{Instant, timeout};

use crate::hands::{
    BatchFault, CheckError, Current, Delete, FreshCheck, Look, LookError, Record, RecordError,
};
use crate::key::ObjectKey;
use crate::object::{Orphan, Outcome, SparedBy};
use crate::plan::ApprovedPlan;
use crate::reconcile::{BatchAnswer, Word, reconcile};
use crate::stop::Stop;
use crate::summary::{Counts, Problem};
use crate::throttle::Throttle;

/// The most keys of one `DeleteObjects`
/// (<https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html>).
pub const MAX_BATCH: usize = 1_000;

/// When more time than this has passed since an object's page, its age is read again.
pub const MAX_LISTING_AGE: Duration = Duration::from_mins(1);

/// Ages are read again a good while before they must be, so that the requests have time.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// The longest time between a fresh check and a deletion that rests on it.
pub const MAX_CHECK_AGE: Duration = Duration::from_mins(1);

const CHECK_TOO_SLOW: &str =
    "it took longer than 60 s; an index on the names makes it fast (the doctor tells which)";

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
    /// Looks or requests took so long that the check, or the listing, is no longer fresh.
    #[error(
        "the requests behind one fresh check took longer than 60 s, and the rest was not sent; raise --concurrency"
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
    /// How many batches are sent at once, behind one fresh check.
    pub batches_at_once: usize,
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
    pub check: &'run mut C,
    /// Writes down.
    pub record: &'run R,
}

/// When and by what the plan was made.
#[derive(Debug, Clone, Copy)]
pub struct Judged {
    /// What is older may be deleted.
    pub cutoff: Timestamp,
    /// When the first page was asked for; `None` when each object is to be looked at again
    /// however short that is ago.
    pub listed_since: Option<Instant>,
    /// The lower of the local clock and S3's when the run started.
    pub started: Timestamp,
    /// Whether the bucket keeps what is deleted, so that its versions tell whose deletion it was.
    pub keeps_versions: bool,
}

/// Sweeps an approved plan. Every orphan of the plan has an outcome in the report's
/// counts, however the sweep ends.
pub async fn sweep<D: Delete + Sync, C: FreshCheck, R: Record>(
    plan: &ApprovedPlan,
    judged: Judged,
    mut hands: Hands<'_, D, C, R>,
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
    let mut number = 0;
    let throttle = Throttle::new();
    while report.error.is_none() && !report.stopped {
        let mut window = Vec::new();
        while window.len() < pace.batches_at_once.max(1) {
            match batches.next_batch(pace.batch_size.clamp(1, MAX_BATCH)) {
                Ok(Some(batch)) => {
                    report.counts.deferred += batch.passed_over;
                    if !batch.orphans.is_empty() {
                        window.push(batch.orphans);
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    report.error = Some(error.into());
                    break;
                }
            }
        }
        if window.is_empty() {
            break;
        }
        if stop.requested() {
            report.counts.deferred += window.iter().map(|batch| batch.len() as u64).sum::<u64>();
            report.stopped = true;
            break;
        }
        let mut settled = Window::new(window);
        let ended = settled
            .carry_out(judged, &mut hands, pace, &throttle, stop)
            .await;
        // Only a stop, or a storage that takes next to nothing, leaves orphans undecided
        // without an error.
        report.stopped = ended.is_ok() && settled.undecided().next().is_some();
        // Whatever ended it: what is settled is counted and written down.
        let written = settled
            .write_down(&mut number, hands.record, &mut report)
            .await;
        report.error = report
            .error
            .or(ended.err())
            .or(written.err().map(SweepError::from));
        progress(&report.counts);
    }
    report.counts.deferred += batches.left();
    report
}

/// Some batches with what is known of each orphan.
struct Window {
    batches: Vec<Vec<(Orphan, Outcome)>>,
}

impl Window {
    fn new(batches: Vec<Vec<Orphan>>) -> Self {
        let undecided = |batch: Vec<Orphan>| {
            batch
                .into_iter()
                .map(|orphan| (orphan, Outcome::Deferred))
                .collect()
        };
        Self {
            batches: batches.into_iter().map(undecided).collect(),
        }
    }

    fn undecided(&mut self) -> impl Iterator<Item = &mut (Orphan, Outcome)> {
        self.batches
            .iter_mut()
            .flatten()
            .filter(|(_, outcome)| *outcome == Outcome::Deferred)
    }

    async fn carry_out<D: Delete + Sync, C: FreshCheck, R>(
        &mut self,
        judged: Judged,
        hands: &mut Hands<'_, D, C, R>,
        pace: Pace,
        throttle: &Throttle,
        stop: &Stop,
    ) -> Result<(), SweepError> {
        let checked_at = Instant::now();
        // The database may wait for a lock longer than the run has time.
        tokio::select! {
            biased;
            checked = self.check_again(hands.check) => checked?,
            () = stop.wait() => return Ok(()),
        }
        let fresh_until = match judged.listed_since {
            Some(since) if since.elapsed() <= LOOK_AGAIN_AFTER => {
                (since + MAX_LISTING_AGE).min(checked_at + MAX_CHECK_AGE)
            }
            _ => {
                self.read_ages_again(judged.cutoff, hands.delete, pace.looks_at_once)
                    .await;
                checked_at + MAX_CHECK_AGE
            }
        };
        let sender = Sender {
            delete: hands.delete,
            judged,
            fresh_until,
            looks_at_once: pace.looks_at_once,
            throttle,
            stop,
        };
        self.delete(&sender, pace.batches_at_once).await
    }

    async fn read_ages_again(
        &mut self,
        cutoff: Timestamp,
        look: &(impl Look + Sync),
        at_once: usize,
    ) {
        stream::iter(self.undecided())
            .for_each_concurrent(at_once.max(1), async |(orphan, outcome)| {
                *outcome = match look.look(&orphan.key).await {
                    Ok(Current::Absent) => Outcome::Gone,
                    Ok(Current::Present { etag, .. }) if etag.as_ref() != Some(&orphan.etag) => {
                        Outcome::Spared(SparedBy::ETag)
                    }
                    Ok(Current::Present { last_modified, .. })
                        if last_modified.is_none_or(|at| at >= cutoff) =>
                    {
                        Outcome::Spared(SparedBy::Age)
                    }
                    Ok(Current::Present { .. }) => return,
                    Err(LookError { code, message }) => Outcome::Failed {
                        code: code.unwrap_or_else(|| "NoAnswer".to_owned()),
                        message,
                    },
                };
            })
            .await;
    }

    async fn check_again(&mut self, check: &mut impl FreshCheck) -> Result<(), SweepError> {
        let keys: Vec<ObjectKey> = self
            .undecided()
            .map(|(orphan, _)| orphan.key.clone())
            .collect();
        // What the check saw must still be fresh when the batches are sent; and a database
        // that never answers must not hold the run until it is killed.
        let named = timeout(
            MAX_CHECK_AGE,
            check.referenced(&keys.iter().collect::<Vec<_>>()),
        )
        .await
        .map_err(|_| CheckError(CHECK_TOO_SLOW.into()))??;
        if named.len() != keys.len() {
            return Err(CheckError("the check did not answer for every key".into()).into());
        }
        for ((_, outcome), named) in self.undecided().zip(named) {
            if named {
                *outcome = Outcome::Spared(SparedBy::Check);
            }
        }
        for batch in &self.batches {
            let spared: Vec<&Orphan> = batch
                .iter()
                .filter(|(_, outcome)| *outcome == Outcome::Spared(SparedBy::Check))
                .map(|(orphan, _)| orphan)
                .collect();
            if let [example, ..] = spared[..]
                && spared.len() > MAX_SPARED
            {
                return Err(SweepError::SnapshotWrong {
                    spared: spared.len(),
                    asked: batch.len(),
                    example: example.key.clone(),
                });
            }
        }
        Ok(())
    }

    async fn delete<D: Delete + Sync>(
        &mut self,
        sender: &Sender<'_, D>,
        at_once: usize,
    ) -> Result<(), SweepError> {
        let ends: Vec<Result<(), SweepError>> = stream::iter(&mut self.batches)
            .map(async |batch| {
                let (mut together, mut alone): (Vec<_>, Vec<_>) = batch
                    .iter_mut()
                    .filter(|(_, outcome)| *outcome == Outcome::Deferred)
                    .partition(|(orphan, _)| fits_in_xml(orphan.key.as_str()));
                let ended = sender.send(&mut together).await;
                for one in alone.chunks_mut(1) {
                    sender.send(one).await?;
                }
                ended
            })
            .buffer_unordered(at_once.max(1))
            .collect()
            .await;
        ends.into_iter().collect()
    }

    async fn write_down(
        self,
        number: &mut u64,
        record: &impl Record,
        report: &mut SweepReport,
    ) -> Result<(), RecordError> {
        for batch in &self.batches {
            for (orphan, outcome) in batch {
                report.counts.settle(orphan.size, outcome);
                report.problems.extend(problem(orphan, outcome));
            }
        }
        report.problems.truncate(crate::summary::MAX_PROBLEMS);
        let first = *number;
        *number += self.batches.len() as u64;
        // At once, and all of them: what one place refuses may be written in another.
        let written: Vec<Result<(), RecordError>> = stream::iter(self.batches.iter().zip(first..))
            .map(|(batch, number)| record.outcomes(number, batch))
            .buffer_unordered(self.batches.len().max(1))
            .collect()
            .await;
        written.into_iter().collect()
    }
}

fn problem(orphan: &Orphan, outcome: &Outcome) -> Option<Problem> {
    let (code, message) = match outcome {
        Outcome::Failed { code, message } => (code.clone(), message.clone()),
        Outcome::Unknown { reason } => ("Unknown".to_owned(), reason.clone()),
        _ => return None,
    };
    Some(Problem {
        key: Some(orphan.key.clone()),
        code,
        message,
    })
}

/// Whether XML 1.0 can carry the key and give it back
/// (<https://www.w3.org/TR/xml/#charsets>). White space but the space is left out, too:
/// parsers may fold it.
fn fits_in_xml(key: &str) -> bool {
    !key.chars()
        .any(|c| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'))
}

/// Sends the requests of one batch and settles what they leave open.
struct Sender<'run, D> {
    delete: &'run D,
    judged: Judged,
    /// When the fresh check, or the listing, is a minute old.
    fresh_until: Instant,
    looks_at_once: usize,
    throttle: &'run Throttle,
    stop: &'run Stop,
}

/// How often a throttled batch is sent again, at most.
const MAX_ATTEMPTS: u32 = 8;

impl<D: Delete + Sync> Sender<'_, D> {
    /// Sends the orphans, in one request where S3 can read it, in halves where it cannot.
    async fn send(&self, orphans: &mut [&mut (Orphan, Outcome)]) -> Result<(), SweepError> {
        if orphans.is_empty() || !self.turn(orphans.len()).await {
            return Ok(());
        }
        // Halves and single keys follow each other, and each may have taken its time.
        if Instant::now() > self.fresh_until {
            return Err(SweepError::Stale);
        }
        let asked: Vec<Orphan> = orphans.iter().map(|(orphan, _)| orphan.clone()).collect();
        let words = match self.ask(&asked).await {
            Ok(answer) => reconcile(&asked, answer),
            Err(BatchFault::Unreadable { .. }) if asked.len() > 1 => {
                let (left, right) = orphans.split_at_mut(asked.len() / 2);
                Box::pin(self.send(left)).await?;
                return Box::pin(self.send(right)).await;
            }
            Err(BatchFault::Throttled { code }) => {
                let failed = Outcome::Failed {
                    code,
                    message: "S3 kept asking to slow down".to_owned(),
                };
                vec![Word::Settled(failed); asked.len()]
            }
            Err(BatchFault::Unreadable { code, message }) => {
                vec![Word::Settled(Outcome::Failed { code, message })]
            }
            Err(BatchFault::Refused { code, message }) => {
                let failed = Outcome::Failed {
                    code: code.clone(),
                    message: message.clone(),
                };
                for (_, outcome) in orphans {
                    *outcome = failed.clone();
                }
                return Err(SweepError::Refused { code, message });
            }
            Err(BatchFault::Lost { message }) => {
                tracing::warn!(
                    objects = asked.len(),
                    error = message,
                    "lost the answer to a batch"
                );
                vec![
                    Word::Silent {
                        reason: "S3's answer was lost"
                    };
                    asked.len()
                ]
            }
        };
        stream::iter(orphans.iter_mut().zip(words))
            .for_each_concurrent(self.looks_at_once.max(1), async |(settled, word)| {
                settled.1 = self.settle(&settled.0, word).await;
            })
            .await;
        Ok(())
    }

    /// Waits until so many keys may be sent; says no when that would be too late, or when the
    /// run is to stop first. What S3 takes at once waits for nothing, not even for a stop.
    async fn turn(&self, keys: usize) -> bool {
        tokio::select! {
            biased;
            turn = self.throttle.turn(keys, self.fresh_until) => turn,
            () = self.stop.wait() => false,
        }
    }

    /// One request, sent again only when S3 said that it did nothing, and only as long as
    /// the fresh check and the listing are fresh.
    async fn ask(&self, asked: &[Orphan]) -> Result<BatchAnswer, BatchFault> {
        let mut attempt = 0;
        loop {
            let alone = matches!(asked, [one] if !fits_in_xml(one.key.as_str()));
            let mut answer = if alone {
                self.delete.delete_alone(&asked[0]).await
            } else {
                self.delete.delete_batch(asked).await
            };
            if let (Err(BatchFault::Unreadable { .. }), [one], false) = (&answer, asked, alone)
                && Instant::now() <= self.fresh_until
            {
                answer = self.delete.delete_alone(one).await;
            }
            attempt += 1;
            let pause = Duration::from_millis(100) * 2_u32.pow(attempt.min(6));
            match answer {
                Err(BatchFault::Throttled { code }) => {
                    self.throttle.refused(asked.len());
                    let again = attempt < MAX_ATTEMPTS
                        && !self.stop.requested()
                        && Instant::now() + pause < self.fresh_until;
                    if again {
                        tokio::time::sleep(pause).await;
                    }
                    if !again || !self.turn(asked.len()).await {
                        return Err(BatchFault::Throttled { code });
                    }
                }
                Ok(answer) => {
                    self.throttle.taken(asked.len());
                    return Ok(answer);
                }
                fault => return fault,
            }
        }
    }

    /// What became of the orphan, after a look at it where the answer left that open.
    async fn settle(&self, orphan: &Orphan, word: Word) -> Outcome {
        let reason = match word {
            Word::Settled(outcome) => return outcome,
            Word::ConditionFailed => None,
            Word::Silent { reason } => Some(reason),
        };
        match self.delete.look(&orphan.key).await {
            // Absent after a request of ours whose answer is missing: only the versions can
            // prove that it was our deletion.
            Ok(Current::Absent) if reason.is_some() => {
                match self.delete.marker_over(orphan, self.judged.started).await {
                    Ok(Some(marker)) => Outcome::Deleted {
                        marker: Some(marker),
                    },
                    Ok(None) if self.judged.keeps_versions => Outcome::Gone,
                    Ok(None) => Outcome::Unknown {
                        reason: format!(
                            "{}; the object is absent now, and without versions nothing tells whose deletion that was",
                            reason.unwrap_or_default()
                        ),
                    },
                    Err(error) => Outcome::Unknown {
                        reason: error.to_string(),
                    },
                }
            }
            Ok(Current::Absent) => Outcome::Gone,
            Ok(Current::Present { etag, .. }) if etag.as_ref() != Some(&orphan.etag) => {
                Outcome::Spared(SparedBy::ETag)
            }
            // Still there with its own tag: the condition failed for another reason, or the
            // request may yet take effect.
            Ok(Current::Present { .. }) => match reason {
                None => Outcome::Spared(SparedBy::ETag),
                Some(reason) => Outcome::Unknown {
                    reason: format!("{reason}, and the object is still there"),
                },
            },
            Err(error) => Outcome::Unknown {
                reason: format!("{}, and {error}", reason.unwrap_or("the condition failed")),
            },
        }
    }
}
