//! Undoes a run on a bucket that keeps versions: exactly the delete markers that it made are
//! taken away, where nothing newer stands above them.
//!
//! The ledger says which: the outcomes hold the markers' version ids. What a run was about to
//! delete when it was killed has no outcome; there a marker counts as the run's only if it was
//! made within the run and the version below it is the one that the manifest lists. S3 does not
//! say whose a marker is: what another deleted in that time is brought back, too.
//!
//! A bucket whose versioning is suspended makes markers with the id `null`. They are never
//! removed: what has that id a moment later may be an object.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use uuid::Uuid;

use crate::archive::Past;
use crate::guards::MAX_CLOCK_SKEW;
use crate::hands::LookError;
use crate::key::{ObjectKey, Prefix};
use crate::object::Orphan;
use crate::reconcile::may_act_later;
use crate::stop::Stop;
use crate::summary::{MAX_PROBLEMS, Problem, Status};
use crate::undelete::{Claim, KEPT_BELOW, Span, Undelete, Undone, undelete};

/// The longest time between what a run wrote last and what it may still have deleted: the
/// probe, a fresh check (a minute), the requests behind it (a minute more), the attempts of
/// one request, and the clocks of the ledger and of the bucket (five minutes apart at most).
const LAST_BATCH: Duration = Duration::from_mins(10);

/// The code of an object that is kept, and was left where it is.
pub const KEPT: &str = "Kept";

/// Orphans in one window; between two of them a person can stop the restoration.
const WINDOW: usize = 1_000;

/// Which of a run's deletions are to be undone.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// Only these keys; empty for all.
    pub keys: BTreeSet<ObjectKey>,
    /// Only keys in this folder.
    pub prefix: Prefix,
    /// Nothing is to be changed.
    pub dry_run: bool,
}

impl Wish {
    fn includes(&self, key: &ObjectKey) -> bool {
        self.prefix.contains(key.as_str()) && (self.keys.is_empty() || self.keys.contains(key))
    }

    /// What is wished and the run never was about to delete.
    ///
    /// # Errors
    /// The temporary file cannot be read.
    pub fn unknown(&self, past: &Past) -> io::Result<Option<Unknown>> {
        let mut missing = self.keys.clone();
        let mut is_empty = !self.prefix.as_str().is_empty();
        let mut orphans = past.manifest.spool().orphans()?;
        while let Some(orphan) = orphans.next_orphan()? {
            if missing.is_empty() && !is_empty {
                return Ok(None);
            }
            missing.remove(&orphan.key);
            is_empty &= !self.prefix.contains(orphan.key.as_str());
        }
        let folder = is_empty.then(|| Unknown::Folder(self.prefix.clone()));
        Ok(missing.pop_first().map(Unknown::Key).or(folder))
    }
}

/// What a run never was about to delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unknown {
    /// This key.
    Key(ObjectKey),
    /// Any key in this folder.
    Folder(Prefix),
}

/// What a restoration answers with. `planned = restored + present + newer + kept + lost +
/// untouched + failed + deferred`.
#[derive(Debug, Clone, Serialize)]
pub struct Restoration {
    /// The run that was undone.
    pub run_id: Uuid,
    /// How it ended.
    pub status: Status,
    /// The bucket.
    pub bucket: String,
    /// Whether nothing was to be changed.
    pub dry_run: bool,
    /// Orphans of the run's plan that were asked for.
    pub planned: u64,
    /// Objects that are current again.
    pub restored: u64,
    /// Their bytes.
    pub restored_bytes: u64,
    /// Objects that stood there already, without the run's marker.
    pub present: u64,
    /// Keys above whose marker something newer stands; left alone.
    pub newer: u64,
    /// Objects kept right below a delete marker whose id is `null`, which was left alone.
    pub kept: u64,
    /// Objects whose deleted version is not kept any more.
    pub lost: u64,
    /// Orphans that the run did not delete, as far as anything shows.
    pub untouched: u64,
    /// Objects that S3 did not give back.
    pub failed: u64,
    /// Deletions that could be undone and were not: a dry run, or it was stopped.
    pub deferred: u64,
    /// The first problems.
    pub errors: Vec<Problem>,
    /// Where the run's ledger lies.
    pub report: String,
}

impl Restoration {
    fn new(past: &Past, wish: &Wish, report: String) -> Self {
        let header = past.manifest.header();
        Self {
            run_id: header.run_id,
            status: Status::Completed,
            bucket: header.bucket.clone(),
            dry_run: wish.dry_run,
            planned: 0,
            restored: 0,
            restored_bytes: 0,
            present: 0,
            newer: 0,
            kept: 0,
            lost: 0,
            untouched: 0,
            failed: 0,
            deferred: 0,
            errors: Vec::new(),
            report,
        }
    }

    fn settle(&mut self, orphan: &Orphan, undone: Result<Undone, LookError>) {
        match undone {
            Ok(Undone::Restored) => {
                self.restored += 1;
                self.restored_bytes += orphan.size;
            }
            Ok(Undone::Restorable) => self.deferred += 1,
            Ok(Undone::Present) => self.present += 1,
            Ok(Undone::Newer) => self.newer += 1,
            Ok(Undone::Kept) => {
                self.kept += 1;
                self.problem(Some(&orphan.key), KEPT, format!("it {KEPT_BELOW}"));
            }
            Ok(Undone::Lost) => self.lost += 1,
            Ok(Undone::Untouched) => self.untouched += 1,
            Err(LookError { code, message }) => {
                self.failed += 1;
                self.problem(
                    Some(&orphan.key),
                    code.as_deref().unwrap_or("NoAnswer"),
                    message,
                );
            }
        }
    }

    fn problem(&mut self, key: Option<&ObjectKey>, code: &str, message: String) {
        if self.errors.len() < MAX_PROBLEMS {
            self.errors.push(Problem {
                key: key.cloned(),
                code: code.to_owned(),
                message,
            });
        }
    }

    /// How many of the planned orphans have an outcome.
    #[must_use]
    pub fn settled(&self) -> u64 {
        self.restored
            + self.present
            + self.newer
            + self.kept
            + self.lost
            + self.untouched
            + self.failed
            + self.deferred
    }
}

/// Undoes what is wished of a run, at most `at_once` objects at a time.
///
/// # Errors
/// A temporary file cannot be read.
pub async fn restore(
    past: &Past,
    wish: &Wish,
    hands: &impl Undelete,
    at_once: usize,
    stop: &Stop,
    report: String,
) -> io::Result<Restoration> {
    let mut done = Restoration::new(past, wish, report);
    let mut orphans = past.manifest.spool().orphans()?;
    let mut outcomes = past.outcomes.reader()?;
    let mut stopped = false;
    loop {
        let mut window = Vec::new();
        let mut goes_on = false;
        while let Some(orphan) = orphans.next_orphan()? {
            goes_on = true;
            if !wish.includes(&orphan.key) {
                continue;
            }
            done.planned += 1;
            let recorded = outcomes.of(&orphan.key)?;
            match claim(past, recorded.as_ref()) {
                Doubt::Claimed(claim) => window.push((orphan, claim)),
                Doubt::Settled(undone) => done.settle(&orphan, Ok(undone)),
            }
            if window.len() == WINDOW {
                break;
            }
        }
        if window.is_empty() && !goes_on {
            break;
        }
        stopped |= stop.requested();
        if stopped {
            done.deferred += window.len() as u64;
            continue;
        }
        let mut settled = stream::iter(window)
            .map(async |(orphan, claim)| {
                let undone = undelete(hands, &orphan, &claim, wish.dry_run).await;
                (orphan, undone)
            })
            .buffered(at_once.max(1));
        while let Some((orphan, undone)) = settled.next().await {
            done.settle(&orphan, undone);
        }
    }
    // What is to be copied back by hand is still to be done.
    done.status = if stopped || done.failed > 0 || (done.kept > 0 && !wish.dry_run) {
        Status::Incomplete
    } else if wish.dry_run {
        Status::DryRun
    } else {
        Status::Completed
    };
    if done.settled() != done.planned {
        done.status = Status::Failed;
        let message = format!(
            "{} deletions were looked at but {} have an outcome",
            done.planned,
            done.settled()
        );
        done.problem(None, "Internal", message);
    }
    Ok(done)
}

/// Until when a run that wrote no summary may still go on, and delete more; `None` when it
/// has ended.
#[must_use]
pub fn may_go_on_until(past: &Past, now: Timestamp) -> Option<Timestamp> {
    let until = time_of(past).until;
    (past.ending.is_none() && now < until).then_some(until)
}

enum Doubt {
    /// That marker is the run's, if it stands there.
    Claimed(Claim),
    /// No marker can be the run's.
    Settled(Undone),
}

/// What the ledger says of one orphan of the plan.
fn claim(past: &Past, recorded: Option<&crate::archive::Recorded>) -> Doubt {
    let outcome = recorded.map(|recorded| (recorded.outcome.as_str(), &recorded.marker));
    let code = recorded.and_then(|recorded| recorded.code.as_deref());
    match outcome {
        Some(("deleted", Some(marker))) => Doubt::Claimed(Claim::Marker(marker.clone())),
        // Final where the bucket kept no versions; it is looked at before that is said.
        Some(("deleted", None)) => Doubt::Claimed(Claim::Unnamed),
        Some(("unknown", _)) => Doubt::Claimed(Claim::Within(time_of(past))),
        // It was still there, but its request may have taken effect since.
        Some(("failed", _)) if code.is_some_and(may_act_later) => {
            Doubt::Claimed(Claim::Within(time_of(past)))
        }
        Some(_) => Doubt::Settled(Undone::Untouched),
        None if past.is_complete() => Doubt::Settled(Undone::Untouched),
        None => Doubt::Claimed(Claim::Within(time_of(past))),
    }
}

/// From the run's start to the last moment at which it can have deleted anything.
fn time_of(past: &Past) -> Span {
    let skew = SignedDuration::try_from(MAX_CLOCK_SKEW).unwrap_or(SignedDuration::ZERO);
    let last = SignedDuration::try_from(LAST_BATCH).unwrap_or(SignedDuration::ZERO);
    let started = past.manifest.header().started_at;
    Span {
        from: started.checked_sub(skew).unwrap_or(Timestamp::MIN),
        until: past
            .last_written
            .checked_add(last)
            .unwrap_or(Timestamp::MAX),
    }
}
