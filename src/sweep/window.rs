//! A window: the batches behind one fresh check.

use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use jiff::Timestamp;
use tokio::time::Instant;

use super::checked::{Checked, ask_again, if_snapshot_wrong};
use super::send::{Before, Sender, fits_in_xml};
use super::{Course, LEAST_SLEEP, MAX_LISTING_AGE, SweepError, SweepReport};
use crate::hands::{Current, Delete, FreshCheck, Look, LookError, Record, RecordError};
use crate::object::{Orphan, Outcome, SparedBy};
use crate::summary::{MAX_PROBLEMS, Problem};

/// Some batches with what is known of each orphan.
#[derive(Debug)]
pub(super) struct Window {
    /// The number of the first batch.
    first: u64,
    batches: Vec<Vec<(Orphan, Outcome)>>,
}

impl Window {
    pub(super) fn new(first: u64) -> Self {
        Self {
            first,
            batches: Vec::new(),
        }
    }

    /// Adds a batch, if it is one.
    pub(super) fn push(&mut self, orphans: Vec<Orphan>) {
        if !orphans.is_empty() {
            let undecided = |orphan| (orphan, Outcome::Deferred);
            self.batches
                .push(orphans.into_iter().map(undecided).collect());
        }
    }

    pub(super) fn batches(&self) -> usize {
        self.batches.len()
    }

    /// How many orphans.
    pub(super) fn len(&self) -> u64 {
        self.batches.iter().map(|batch| batch.len() as u64).sum()
    }

    /// Whether an orphan was not asked about.
    pub(super) fn is_undecided(&self) -> bool {
        self.undecided().next().is_some()
    }

    fn undecided(&self) -> impl Iterator<Item = &Orphan> {
        let orphans = self.batches.iter().flatten();
        orphans
            .filter(|(_, outcome)| *outcome == Outcome::Deferred)
            .map(|(orphan, _)| orphan)
    }

    fn undecided_mut(&mut self) -> impl Iterator<Item = &mut (Orphan, Outcome)> {
        self.batches
            .iter_mut()
            .flatten()
            .filter(|(_, outcome)| *outcome == Outcome::Deferred)
    }

    /// Checks, sends, and writes down what is settled, whatever ended it.
    pub(super) async fn carry_out<D: Delete + Sync, C: FreshCheck, R: Record + Sync>(
        mut self,
        course: &Course<'_, D, C, R>,
    ) -> (Self, Result<(), SweepError>) {
        let ended = self.settle(course).await;
        if ended.is_err() {
            course.halt();
        }
        let written = self.write_down(course.hands.record).await;
        if written.is_err() {
            course.halt();
        }
        let ended = ended.and(written.map_err(SweepError::from));
        (self, ended)
    }

    async fn settle<D: Delete + Sync, C: FreshCheck, R>(
        &mut self,
        course: &Course<'_, D, C, R>,
    ) -> Result<(), SweepError> {
        let judged = course.judged;
        let hands = &course.hands;
        let began = Instant::now();
        let slept = judged.slept(hands.clock);
        let is_listing_fresh = judged.fresh_until(hands.clock);
        let looks_at_once = course.pace.looks_at_once;
        // The check last, so that nothing but the requests lies between it and the deletion.
        if is_listing_fresh.is_none() && judged.conditional {
            self.read_ages_again(judged.cutoff, hands.delete, looks_at_once)
                .await;
        }
        let checked_at = Instant::now();
        // The database may wait for a lock longer than the run has time.
        tokio::select! {
            biased;
            checked = self.check_again(hands.check) => checked?,
            () = course.stop.wait() => return Ok(()),
        }
        let sent_at = Instant::now();
        // Nobody else protects what was overwritten: the look last.
        if !judged.conditional {
            self.read_ages_again(judged.cutoff, hands.delete, looks_at_once)
                .await;
        }
        let listing_fresh_until = is_listing_fresh.unwrap_or(began + MAX_LISTING_AGE);
        let sender = Sender {
            course,
            listing_fresh_until,
            awake_while: slept + LEAST_SLEEP,
        };
        let checked = Checked {
            at: checked_at,
            answered: sent_at,
        };
        let ended = self.delete(&sender, checked).await;
        tracing::debug!(
            batch = self.first,
            batches = self.batches.len(),
            look_ms = milliseconds(checked_at - began),
            check_ms = milliseconds(sent_at - checked_at),
            delete_ms = milliseconds(sent_at.elapsed()),
            "carried out a window"
        );
        ended
    }

    async fn read_ages_again(
        &mut self,
        cutoff: Timestamp,
        look: &(impl Look + Sync),
        at_once: usize,
    ) {
        stream::iter(self.undecided_mut())
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

    async fn check_again(&mut self, check: &impl FreshCheck) -> Result<(), SweepError> {
        let mut undecided: Vec<&mut (Orphan, Outcome)> = self.undecided_mut().collect();
        ask_again(check, &mut undecided).await?;
        for batch in &self.batches {
            if_snapshot_wrong(batch)?;
        }
        Ok(())
    }

    async fn delete<D: Delete + Sync, C: FreshCheck, R>(
        &mut self,
        sender: &Sender<'_, '_, D, C, R>,
        checked: Checked,
    ) -> Result<(), SweepError> {
        let at_once = self.batches.len().max(1);
        let ends: Vec<Result<(), SweepError>> = stream::iter(&mut self.batches)
            .map(async |batch| {
                let (mut together, mut alone): (Vec<_>, Vec<_>) = batch
                    .iter_mut()
                    .filter(|(_, outcome)| *outcome == Outcome::Deferred)
                    .partition(|(orphan, _)| fits_in_xml(orphan.key.as_str()));
                let ended = sender.send(&mut together, checked).await;
                let mut before = Before::from(checked);
                for place in 0..alone.len() {
                    // All that are left, or each would be asked about by itself.
                    let left = sender.check_if_old(&mut alone[place..], &mut before);
                    if left.await?.is_none() || sender.course.stop.requested() {
                        break;
                    }
                    sender
                        .send(&mut alone[place..=place], before.checked)
                        .await?;
                }
                ended
            })
            .buffer_unordered(at_once)
            .collect()
            .await;
        ends.into_iter().collect()
    }

    async fn write_down(&self, record: &impl Record) -> Result<(), RecordError> {
        // At once, and all of them: what one place refuses may be written in another.
        let written: Vec<Result<(), RecordError>> =
            stream::iter(self.batches.iter().zip(self.first..))
                .map(|(batch, number)| record.outcomes(number, batch))
                .buffer_unordered(self.batches.len().max(1))
                .collect()
                .await;
        written.into_iter().collect()
    }

    /// Adds what became of each orphan to the report.
    pub(super) fn count(&self, report: &mut SweepReport) {
        for (orphan, outcome) in self.batches.iter().flatten() {
            report.counts.settle(orphan.size, outcome);
            if report.problems.len() < MAX_PROBLEMS {
                report.problems.extend(problem(orphan, outcome));
            }
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
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
