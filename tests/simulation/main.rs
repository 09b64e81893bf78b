//! A hunt for the lost image.
//!
//! The real run, [`orphan_sweeper::run::run_in`], in a simulated world: a bucket with versions,
//! delete markers, entity tags, conditions and multipart uploads whose `LastModified` is their
//! start; pages of few objects, often as the XML that S3 would send; a database that
//! knows what each snapshot of each time sees; clocks that are not true; a ledger. Time is
//! tokio's, paused, so it jumps from event to event: a history of a week takes a few
//! milliseconds, and its seed decides all of it.
//!
//! ```text
//! cargo test --test simulation                                      20,000 histories
//! SWEEPER_SIM_SEEDS=1000000 cargo test --test simulation no_history a long hunt
//! SWEEPER_SIM_SEED=4711 cargo test --test simulation no_history -- --nocapture
//!                                                                   one of them, told line by line
//! ```
//!
//! # Who is about
//!
//! An uploader whose rows commit late (up to just under the grace period), whose uploads are
//! rolled back, and whose roll-backs fail; one who sends other bytes, or the same bytes, to a
//! key that is taken; an editor who points a new row at an old object, in some histories just
//! in the moment after a fresh check; somebody who deletes rows; a second run at once, two that
//! share a night, each with its part of the keys, and one
//! that comes late; an operator who applies the manifest of another night, and one who undoes a
//! run. Each is a task of its own, and messages take their seeded time, so everything
//! may happen between any two steps of a run. A new actor is a function in `actors.rs`; one that
//! runs another command of the program belongs beside `night` in `history.rs`.
//!
//! Not simulated: uploads that are never completed (`--abort-uploads`), `--max-delete`, and the
//! limits of the percentage guards, which have tests of their own.
//!
//! # The oracle
//!
//! At the effect of every deletion, in S3, by the state of the world in this moment:
//!
//! - no committed row names the object, and no upload under way may still commit one;
//! - it is in scope and older than the run's cutoff;
//! - key and entity tag were written down in the run's manifest before;
//! - the fresh check is at most a tenth of a second, and what it took itself, older than the request
//!   (60 s where messages take seconds), and the listing or the look at most 60 s;
//! - the run is no dry run.
//!
//! And at the undoing of one: nothing but a delete marker goes.
//!
//! After every run: both sums of promise 7 hold; as many deletions are counted, and written down,
//! as S3 carried out; the run ended as the table says. And after two quiet nights at the end:
//! every due orphan is gone, everything else is still there, and every figure of the summary is
//! exact.
//!
//! # What remains
//!
//! Two losses are known, and the oracle lets exactly these pass, counting them:
//!
//! - an editor's row was committed *after* the fresh check that its deletion rests on;
//! - the same bytes were uploaded again *after* the page (or the look) that it rests on, less than
//!   a minute before the request: the entity tag is the same.
//!
//! Any other loss fails the test. Never reusing keys closes both; a bucket that keeps versions
//! makes both repairable.
//!
//! # The faults
//!
//! Each comes to a run of each history by turns ([`faults::TABLE`] is this table, and what holds
//! the runs to it). "none" means that the run deletes nothing at all. Where a row names by the end
//! what was deleted (somebody was about), a run that would be completed is incomplete, and says
//! so.
//!
//! | fault | the run ends | deletions |
//! |---|---|---|
//! | `GroundDenied`: S3 refuses the first question | failed | none |
//! | `ClocksApart`: by more than 5 minutes | refused | none |
//! | `ClockJumps`: both clocks jump, up to 2 minutes each | completed | all due |
//! | `VersioningSuspended` | refused | none |
//! | `PageUnanswered`: a page is never answered | failed | none |
//! | `PagesSlowDownBurst`: six 503 to pages | completed | all due |
//! | `PagesSlowDownForever` | failed | none |
//! | `PageCut`: the XML of a page is cut anywhere | failed | none |
//! | `PageWithoutToken`: truncated, but no token | failed | none |
//! | `PageTokenOnLast`: not truncated, but a token | failed | none |
//! | `PageMiscounted`: `KeyCount` does not match | failed | none |
//! | `PageWithoutETag` | failed | none |
//! | `PageWithoutAges`: no `LastModified` | completed | of other pages |
//! | `PageRepeatsToken` | failed (completed where the range had ended) | none (all due) |
//! | `PageDisorder`: two keys change places | failed | none |
//! | `PageRepeatsKey`: the last key of the page before comes again | failed | none |
//! | `PageEndsEarly`: `IsTruncated=false` in the middle | completed, or refused where nothing named was seen | of what was listed |
//! | `PagesEmptyForever`: empty pages that claim to go on | failed | none |
//! | `NoConnection` to the database | failed | none |
//! | `NamesReset`: the connection breaks amid the names | failed | none |
//! | `StatementTimeout` (57014) | failed | none |
//! | `RowSecurity` (42501) | failed | none |
//! | `NamesDisorder` | failed | none |
//! | `NameNotText`: not UTF-8 | failed | none |
//! | `NameOfOtherForm`: a URL among keys, a key among URLs | failed | none |
//! | `SerializationFailure` (40001) at the snapshot's end | failed | none |
//! | `TruncateAndReload`: rows are lost without an error | failed | none |
//! | `TableEmpty` | refused | none |
//! | `WrongDatabase`: its names match nothing | refused | none |
//! | `RestoredLastWeek`: the database lost four days | refused (completed where a repeated upload is newer) | none (what no row names) |
//! | `StaleSnapshot`: up to five days old | completed; failed where a batch spares over 10 | none that a row names |
//! | `Standby` | refused | none |
//! | `DatabaseChanges` between snapshot and check | failed (incomplete where only the look back met it) | of checked batches |
//! | `CheckFails`, `CheckHangs`, `CheckShort`: no connection, no answer, too few answers | failed (incomplete where only the look back could not ask) | of checked batches |
//! | `LookDenied` | incomplete (completed where only a dangling reference was looked at) | of the others |
//! | `SlowDownBurst`: three 503 | completed | all due |
//! | `SlowDownForever` | incomplete (completed where a row names by then what it concerned) | of batches before |
//! | `LostBeforeEffect`: reset before S3 acted | incomplete: unknown | of the others |
//! | `LostAfterEffect`: timed out after S3 acted | completed: the marker proves it | all due |
//! | `UnavailableAfterEffect`: 503 that is no SlowDown, after S3 acted | completed: the marker proves it (incomplete without versions) | all due |
//! | `LostLateEffect`: S3 acts after the look | incomplete: unknown | all due |
//! | `KeyInternalError`, `KeyAccessDenied` of one key | incomplete (completed where it was overwritten) | of the others |
//! | `KeyFailedAfterEffect`: an error for a key that is deleted | completed: the marker proves it (incomplete without versions) | all due |
//! | `KeyPreconditionFailed`, `KeyConflict` (409) of one key | completed: spared | of the others |
//! | `KeyUnmentioned`: the answer forgets a key | completed or incomplete, by what is there | all or all but it |
//! | `KeyContradicted`: deleted and not | completed or incomplete, by what is there | all or all but it |
//! | `BatchMalformed`: S3 cannot read the batch | completed, in halves | all due |
//! | `BatchDenied` as a whole | failed | of batches before |
//! | `ConditionsIgnored`: the storage does not look at entity tags | refused | none |
//! | `ProbeThrottled`: 503 to the question about that | completed | all due |
//! | `CredentialsExpire` from some moment on | failed | of batches before |
//! | `ManifestUnwritable` | failed | none |
//! | `DiskFull`: outcomes cannot be written | failed | of batches before |
//! | `SummaryUnwritable` | failed | all due |
//! | `Deadline`, `Interrupt` | incomplete (completed where it came too late) | of batches before |
//! | `Crash` at the nth message, with requests still on their way | no answer; the next run completes the work | of what was written down |
#![cfg(feature = "demo")]

mod actors;
mod bucket;
mod coverage;
mod database;
mod faults;
mod history;
mod rng;
mod sim;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use coverage::Coverage;
use faults::TABLE;
use history::live;
use sim::{EDITED, REPEATED, Violation, Weakness};

/// Histories of `cargo test`.
const HISTORIES: u64 = 20_000;

/// From so many histories on, everything must have happened.
const ENOUGH: u64 = 10_000;

/// Within so many histories a hole in the protection must be found.
const SOON: u64 = 3_000;

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}, not a number")),
    )
}

/// The first history that broke the promise, and how.
type Broken = Option<(u64, Vec<Violation>)>;

/// Lives through `count` histories on all cores, and stops at the first of which `is_end` says
/// that it is what was looked for.
fn hunt(count: u64, weakness: Weakness, is_end: fn(&Violation) -> bool) -> (Coverage, Broken) {
    let next = AtomicU64::new(0);
    let found = Mutex::new((Coverage::default(), None::<(u64, Vec<Violation>)>));
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                let mut coverage = Coverage::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count {
                        break;
                    }
                    let ended = live(seed, weakness, false);
                    coverage.add(ended.coverage);
                    if ended.violations.iter().any(is_end) {
                        next.store(count, Ordering::Relaxed);
                        let mut found = found.lock().expect("no thread panicked");
                        if found.1.as_ref().is_none_or(|(first, _)| seed < *first) {
                            found.1 = Some((seed, ended.violations));
                        }
                        break;
                    }
                }
                found.lock().expect("no thread panicked").0.add(coverage);
            });
        }
    });
    found.into_inner().expect("no thread panicked")
}

#[test]
fn no_history_loses_a_live_image() {
    if let Some(seed) = variable("SWEEPER_SIM_SEED") {
        let ended = live(seed, Weakness::None, true);
        for line in &ended.trace {
            println!("{line}");
        }
        assert!(
            ended.violations.is_empty(),
            "seed {seed}: {:#?}",
            ended.violations
        );
        return;
    }
    let count = variable("SWEEPER_SIM_SEEDS").unwrap_or(HISTORIES);
    let (coverage, broken) = hunt(count, Weakness::None, |_| true);
    println!("{count} histories\n{coverage}");
    if let Some((seed, violations)) = broken {
        panic!(
            "the history of seed {seed} breaks the promise; replay it with\n\
             SWEEPER_SIM_SEED={seed} cargo test --test simulation no_history -- --nocapture\n{violations:#?}"
        );
    }
    if count >= ENOUGH {
        everything_happened(&coverage);
    }
}

/// A fault that never came, or never ended as it usually does, was not tested.
fn everything_happened(coverage: &Coverage) {
    for expected in TABLE {
        let usual = expected
            .usual
            .map_or_else(|| "ended".to_owned(), |status| format!("{status:?}"));
        let seen = coverage
            .faults
            .get(&expected.kind)
            .and_then(|statuses| statuses.get(&usual));
        assert!(
            seen.is_some_and(|&seen| seen >= 5),
            "{:?} ended as {usual} {seen:?} times",
            expected.kind
        );
    }
    for event in [
        "deletions undone",
        "dry runs",
        "manifests of another night applied",
        "multipart uploads",
        "nights shared by two parts",
        "orphans spared by a conflict",
        "orphans spared by the fresh check",
        "orphans spared by their ETag",
        "orphans spared by their age",
        "orphans that were gone",
        "rows committed",
        "rows committed more than half the grace period late",
        "rows deleted",
        "rows pointed at an old object",
        "runs beside or just behind another",
        "runs undone",
        "runs that found their snapshot wrong",
        "strikes of an editor just after a check",
        "uploads of other bytes to the same key",
        "uploads of the same bytes again",
        "uploads rolled back",
        "uploads whose roll-back failed",
        // What remains is found, too.
        EDITED,
        REPEATED,
    ] {
        assert!(coverage.of(event) > 0, "never: {event}");
    }
    for place in [
        "before the first answer",
        "before the snapshot",
        "amid the names",
        "before a page",
        "after a page",
        "before the snapshot's end",
        "before a check",
        "after a check",
        "before the manifest is written",
        "after the manifest is written",
        "before a deletion",
        "while a deletion is under way",
        "after a deletion",
        "before a look",
        "before outcomes are written",
        "after outcomes are written",
        "before the summary is written",
    ] {
        assert!(coverage.crashes.contains_key(place), "no crash {place}");
    }
}

/// The hunt must find a lost image where a part of the protection is taken away: otherwise its
/// silence says nothing.
fn finds_the_loss(weakness: Weakness) {
    let (_, broken) = hunt(SOON, weakness, |violation| {
        matches!(violation, Violation::Lost(_))
    });
    let (seed, violations) =
        broken.unwrap_or_else(|| panic!("no image was lost in {SOON} histories with {weakness:?}"));
    println!("{weakness:?}: seed {seed} loses an image: {violations:#?}");
}

#[test]
fn without_the_fresh_check_an_image_is_lost() {
    finds_the_loss(Weakness::NoFreshCheck);
}

#[test]
fn without_the_condition_an_image_is_lost() {
    finds_the_loss(Weakness::NoCondition);
}

#[test]
fn without_the_grace_period_an_image_is_lost() {
    finds_the_loss(Weakness::NoGrace);
}

#[test]
fn without_reading_ages_again_an_image_is_lost() {
    finds_the_loss(Weakness::NoSecondLook);
}

/// A history is nothing but its seed.
#[test]
fn a_history_repeats() {
    for seed in 0..60 {
        let [one, other] = [(); 2].map(|()| live(seed, Weakness::None, true));
        assert_eq!(one.trace, other.trace, "seed {seed}");
        assert_eq!(one.coverage, other.coverage, "seed {seed}");
    }
}
