//! One history: a world from a seed, some nights with faults and people about, and quiet
//! nights at the end that must leave exactly what belongs there.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use orphan_sweeper::archive::{Ending, OutcomesWriter, Past, Recorded};
use orphan_sweeper::chain::chain;
use orphan_sweeper::folders::Folders;
use orphan_sweeper::guards::{Allowances, Doubts, Limits};
use orphan_sweeper::key::{KeyRange, ObjectKey, Prefix};
use orphan_sweeper::manifest::Manifest;
use orphan_sweeper::names::{NameRules, ReferenceForm};
use orphan_sweeper::object::{Outcome, SparedBy};
use orphan_sweeper::postgres::{DatabaseUrl, ReferencesQuery};
use orphan_sweeper::progress::Progress;
use orphan_sweeper::recheck::{NOT_RECHECKED, REFERENCED};
use orphan_sweeper::restore::{Wish, restore};
use orphan_sweeper::reviewed::Reviewed;
use orphan_sweeper::run::{Report, apply_in, run_in};
use orphan_sweeper::scope::Scope;
use orphan_sweeper::settings::{DatabaseAccess, ReportLocation, Settings};
use orphan_sweeper::stop::Stop;
use orphan_sweeper::summary::{Counts, Status};
use orphan_sweeper::world::Portions;
use tokio::time::{Instant, sleep};

use crate::actors::{self, GRACE};
use crate::bucket::Ms;
use crate::coverage::Coverage;
use crate::database::Author;
use crate::faults::{Kind, TABLE, expected};
use crate::rng::Rng;
use crate::sim::{RunState, Setup, Sim, State, Violation, Weakness, at_second, second};
use crate::world::{Hands, SimWorld};

const HOUR: Ms = 3_600_000;
const DAY: Ms = 24 * HOUR;

/// What a history showed.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) violations: Vec<Violation>,
    pub(crate) coverage: Coverage,
    pub(crate) trace: Vec<String>,
}

/// Lives through the history of this seed.
pub(crate) fn live(seed: u64, weakness: Weakness, trace: bool) -> Ended {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut rng = Rng::new(seed);
        let first = TABLE[usize::try_from(seed % TABLE.len() as u64).expect("small")].kind;
        let setup = setup(&mut rng, first, weakness, trace);
        let versioned = first == Kind::VersioningSuspended || rng.percent(85);
        let sim = Sim::new(setup, rng.fork(), versioned);
        populate(&sim, &mut rng, first);
        for night in 0..rng.range(1, 3) {
            let fault = if night == 0 {
                Some(first)
            } else if rng.percent(60) {
                Some(TABLE[rng.index(TABLE.len())].kind).filter(|kind| fits(&sim, *kind))
            } else {
                None
            };
            noisy_night(&sim, &mut rng, fault).await;
        }
        // Every upload ends within the grace period.
        wait(2 * GRACE).await;
        quiet_nights(&sim).await;
        let mut state = sim.state();
        Ended {
            violations: std::mem::take(&mut state.violations),
            coverage: std::mem::take(&mut state.coverage),
            trace: std::mem::take(&mut state.trace),
        }
    })
}

async fn wait(ms: Ms) {
    sleep(Duration::from_millis(u64::try_from(ms).unwrap_or_default())).await;
}

/// Whether a fault can come in a later night of this world.
fn fits(sim: &Sim, kind: Kind) -> bool {
    match kind {
        Kind::RestoredLastWeek => false,
        Kind::NamesDisorder => sim.setup.rules.form == ReferenceForm::Key,
        Kind::VersioningSuspended => sim.state().bucket.versioned,
        _ => true,
    }
}

fn setup(rng: &mut Rng, first: Kind, weakness: Weakness, trace: bool) -> Setup {
    let below_prefix = rng.percent(50);
    let form = if first != Kind::NamesDisorder && rng.percent(30) {
        ReferenceForm::Url
    } else {
        ReferenceForm::Key
    };
    let prefix = Prefix::folder(if below_prefix { "images" } else { "" });
    let slow = rng.percent(15);
    let batch_size = if slow {
        rng.pick(&[1, 2, 3])
    } else if first == Kind::StaleSnapshot {
        30
    } else {
        rng.pick(&[1, 2, 3, 5, 30])
    };
    Setup {
        scope: Scope::new(prefix, &[], &["keep-*".to_owned()]).expect("globs"),
        rules: NameRules {
            bucket: "pics".to_owned(),
            form,
            prefix: if form == ReferenceForm::Key && below_prefix {
                "images/".to_owned()
            } else {
                String::new()
            },
            hosts: Vec::new(),
            foreign_hosts: Vec::new(),
        },
        page_size: rng.index(6) + 1,
        xml: rng.percent(30),
        latency: if slow { (300, 4_000) } else { (1, 40) },
        portions: Portions {
            references_per_range: rng.index(7) + 1,
            batches_at_once: rng.index(3) + 1,
            windows_at_once: rng.index(3) + 1,
            batch_size,
        },
        concurrency: rng.index(6) + 1,
        weakness,
        strikes: rng.pick(&[0, 0, 0, 30]),
        may_undo: rng.percent(50),
        trace,
    }
}

/// What is there when the world begins, all of it older than that.
fn populate(sim: &Arc<Sim>, rng: &mut Rng, first: Kind) {
    let mut state = sim.state();
    let put = |state: &mut State, rng: &mut Rng, key: &str, age: Ms, named: bool| {
        let body = rng.range(1, 1_000_000);
        state.bucket.put(key, body, second(-age), -age, false);
        if named {
            state.database.commit(key, Author::Past, -age + 1_000);
        }
    };
    let old = |rng: &mut Rng| rng.ms(5 * DAY, 30 * DAY);
    for n in 0..2 {
        let age = old(rng);
        put(&mut state, rng, &format!("images/anchor{n}.png"), age, true);
    }
    for _ in 0..rng.range(4, 14) {
        let (key, age) = (actors::any_key(rng), old(rng));
        put(&mut state, rng, &key, age, true);
    }
    for _ in 0..rng.range(2, 9) {
        let (key, age) = (actors::any_key(rng), old(rng));
        let named = state.database.names(&key, 0);
        put(&mut state, rng, &key, age, named);
    }
    for _ in 0..rng.range(0, 3) {
        let (key, age) = (actors::any_key(rng), rng.ms(HOUR, 20 * HOUR));
        let named = state.database.names(&key, 0);
        put(&mut state, rng, &key, age, named);
    }
    for _ in 0..rng.range(0, 3) {
        let key = actors::any_key(rng);
        state.database.commit(&key, Author::Past, -2 * DAY);
    }
    for key in [
        "images/list.txt",
        "images/keep-me.png",
        "elsewhere/other.txt",
    ] {
        let (age, named) = (old(rng), rng.percent(30));
        put(
            &mut state,
            rng,
            key,
            age,
            named && key.starts_with("images/"),
        );
    }
    if !sim.setup.scope.prefix().as_str().is_empty() {
        let age = old(rng);
        put(&mut state, rng, "images2/not ours.png", age, false);
    }
    if first == Kind::RestoredLastWeek || (first == Kind::StaleSnapshot && rng.percent(50)) {
        for n in 0..22 {
            put(
                &mut state,
                rng,
                &format!("images/of this week {n}.png"),
                3 * DAY,
                true,
            );
        }
    }
}

/// A night of a run with people about, and sometimes with a second run.
async fn noisy_night(sim: &Arc<Sim>, rng: &mut Rng, fault: Option<Kind>) {
    let window = if sim.setup.is_slow() { 180_000 } else { 1_200 };
    if fault == Some(Kind::RestoredLastWeek) {
        let mut state = sim.state();
        let now = sim.now();
        state.database.restore(-4 * DAY, now);
    }
    let before = rng.ms(1, DAY / 2);
    for _ in 0..rng.range(2, 8) {
        let after = if rng.percent(70) || fault == Some(Kind::RestoredLastWeek) {
            rng.ms((before - window / 4).max(0), before + window)
        } else {
            rng.ms(0, before)
        };
        tokio::spawn(actors::act(Arc::clone(sim), rng.fork(), after));
    }
    wait(before).await;
    let dry = fault.is_none() && rng.percent(25);
    // What these two bring is cut in two as well, and each half says too little of it.
    let whole = matches!(fault, Some(Kind::RestoredLastWeek | Kind::StaleSnapshot));
    if !whole && rng.percent(15) {
        distributed(sim, rng, fault, dry).await;
        wait(DAY / 2).await;
        return;
    }
    let first = night(sim, rng.fork(), fault, dry, None, KeyRange::default());
    let other = rng.percent(30).then(|| {
        let late = if rng.percent(50) {
            rng.ms(0, window)
        } else {
            rng.ms(window, 10 * window)
        };
        (late, rng.fork())
    });
    if let Some((late, mut rng)) = other {
        let second = async {
            wait(late).await;
            let reviewed = a_manifest(sim, &mut rng);
            sim.state().coverage.count(if reviewed.is_some() {
                "manifests of another night applied"
            } else {
                "runs beside or just behind another"
            });
            let range = reviewed.as_ref().map(|reviewed| reviewed.header().range());
            let range = range.unwrap_or_default();
            night(sim, rng, None, false, reviewed.as_ref(), range).await;
        };
        futures::join!(first, second);
    } else {
        first.await;
    }
    if sim.state().bucket.versioned && rng.percent(25) {
        undo(sim, rng).await;
    }
    wait(DAY / 2).await;
}

/// A night that two runs share, each with its part of the keys and an image that is always
/// referenced.
async fn distributed(sim: &Arc<Sim>, rng: &mut Rng, fault: Option<Kind>, dry: bool) {
    let cut = Some(ObjectKey::new("images/anchor0.png"));
    let lower = KeyRange {
        after: None,
        up_to: cut.clone(),
    };
    let upper = KeyRange {
        after: cut,
        up_to: None,
    };
    let (one, other) = if rng.percent(50) {
        (lower, upper)
    } else {
        (upper, lower)
    };
    sim.state().coverage.count("nights shared by two parts");
    futures::join!(
        night(sim, rng.fork(), fault, dry, None, one),
        night(sim, rng.fork(), None, dry, None, other),
    );
}

fn settings(sim: &Sim, versioned: bool, fault: Option<Kind>, dry: bool) -> Settings {
    let setup = &sim.setup;
    Settings {
        scope: setup.scope.clone(),
        references: ReferencesQuery::new("SELECT name FROM images"),
        rules: setup.rules.clone(),
        database: DatabaseAccess::Url(
            DatabaseUrl::new("postgres://sweeper@localhost/app").expect("an address"),
        ),
        min_age: Duration::from_millis(match setup.weakness {
            Weakness::NoGrace => 0,
            _ => u64::try_from(GRACE).expect("positive"),
        }),
        max_delete: None,
        abort_uploads: false,
        limits: Limits {
            max_orphan_percent: 100.0,
            max_dangling_percent: 100.0,
            allow_newer_orphans: fault != Some(Kind::RestoredLastWeek),
        },
        allowed: Allowances {
            dry_run: dry,
            unversioned: !versioned,
            replica: false,
            unconditional: false,
        },
        doubts: Doubts {
            max_referenced_drop_percent: 100.0,
            max_replica_lag: Duration::from_mins(5),
            allow_old_transactions: false,
        },
        unreferenced_folders: Folders::default(),
        not_references: Vec::new(),
        report: ReportLocation::Folder(PathBuf::from("nowhere")),
        undo_function: None,
        concurrency: setup.concurrency,
    }
}

/// One run, and what is to be said of it.
async fn night(
    sim: &Arc<Sim>,
    mut rng: Rng,
    fault: Option<Kind>,
    dry: bool,
    reviewed: Option<&Reviewed>,
    range: KeyRange,
) -> Option<Report> {
    let (run, versioned, crash) = {
        let mut state = sim.state();
        let state = &mut *state;
        let mut this = RunState {
            dry,
            ..RunState::default()
        };
        match fault {
            Some(Kind::Crash) => {
                this.crash_at = Some(1 + u32::try_from(rng.index(90)).expect("small"));
            }
            Some(kind) => this.fault = Some((kind, rng.pick(&[0, 0, 1, 2, 5]))),
            None => {}
        }
        // These come before there is a second chance.
        if let Some((kind, left)) = &mut this.fault
            && matches!(
                kind,
                Kind::GroundDenied
                    | Kind::ClocksApart
                    | Kind::ClockJumps
                    | Kind::VersioningSuspended
                    | Kind::NoConnection
                    | Kind::StaleSnapshot
                    | Kind::Standby
                    | Kind::WrongDatabase
                    | Kind::StatementTimeout
                    | Kind::RowSecurity
                    | Kind::NamesReset
                    | Kind::NamesDisorder
                    | Kind::NameNotText
                    | Kind::NameOfOtherForm
                    | Kind::SerializationFailure
                    | Kind::TruncateAndReload
                    | Kind::TableEmpty
                    | Kind::ConditionsIgnored
                    | Kind::ProbeThrottled
                    | Kind::ManifestUnwritable
                    | Kind::SummaryUnwritable
            )
        {
            *left = 0;
        }
        this.fired = fault == Some(Kind::RestoredLastWeek);
        let crash = Arc::clone(&this.crash);
        state.runs.push(this);
        state.coverage.count(if dry { "dry runs" } else { "runs" });
        (state.runs.len() - 1, state.bucket.versioned, crash)
    };
    let mut settings = settings(sim, versioned, fault, dry);
    settings.scope = settings.scope.within(range);
    let window = if sim.setup.is_slow() { 90_000 } else { 900 };
    let end = rng.ms(0, window);
    let began = sim.now();
    let stop = if fault == Some(Kind::Deadline) {
        Stop::at(Instant::now() + Duration::from_millis(u64::try_from(end).unwrap_or_default()))
    } else {
        Stop::never()
    };
    let world = SimWorld::new(sim, run);
    let progress = Progress::default();
    let interrupted = async {
        if fault == Some(Kind::Interrupt) {
            wait(end).await;
            stop.interrupt();
        }
        std::future::pending::<()>().await;
    };
    let report = tokio::select! {
        biased;
        report = async {
            match reviewed {
                None => run_in(&world, &settings, &stop, &progress).await,
                Some(reviewed) => apply_in(&world, &settings, reviewed, &stop, &progress).await,
            }
        } => Some(report),
        () = crash.notified() => None,
        () = interrupted => None,
        () = wait(6 * HOUR) => {
            let told = format!("run {run}, which is to meet {fault:?}, never ends");
            sim.state().violations.push(Violation::Broken(told));
            return None;
        }
    };
    let mut state = sim.state();
    state.runs[run].ended = true;
    if matches!(fault, Some(Kind::Deadline | Kind::Interrupt)) && sim.now() - began >= end {
        state.runs[run].fired = true;
    }
    match &report {
        Some(report) => judge(sim, &mut state, run, report, fault),
        None => state.coverage.ended(Kind::Crash, "ended".to_owned()),
    }
    report
}

/// Whether, after this fault, what a run deleted can be more than what it could confirm.
fn hides_deletions(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::LostBeforeEffect
            | Kind::LostAfterEffect
            | Kind::UnavailableAfterEffect
            | Kind::LostLateEffect
            | Kind::KeyUnmentioned
            | Kind::KeyContradicted
            | Kind::KeyInternalError
            | Kind::KeyFailedAfterEffect
    )
}

/// Holds a run's answer against what happened.
fn judge(sim: &Sim, state: &mut State, run: usize, report: &Report, fault: Option<Kind>) {
    let summary = &report.summary;
    let met = fault.filter(|_| state.runs[run].fired);
    let dry = state.runs[run].dry;
    let mut broken = Vec::new();
    if let Err(error) = summary.counts.check() {
        broken.push(error.to_string());
    }
    // How it ended.
    let clean = if dry {
        Status::DryRun
    } else {
        Status::Completed
    };
    let too_slow = sim.setup.is_slow()
        && match summary.status {
            Status::Failed => report
                .error
                .as_ref()
                .is_some_and(|error| chain(error).contains("longer than 60 s")),
            // So slowly that no second request was fresh.
            Status::Incomplete => met == Some(Kind::SlowDownBurst),
            _ => false,
        };
    // A row names what was deleted, or nobody could be asked: that is said, too.
    let doubted = summary.status == Status::Incomplete
        && summary
            .errors
            .iter()
            .any(|problem| [REFERENCED, NOT_RECHECKED].contains(&problem.code.as_str()));
    // A reviewed plan is refused where too much of it is named by now, or was refused before.
    let outdated = summary.more.applied.is_some() && summary.status == Status::Refused;
    let allowed = match met.map(expected) {
        None => summary.status == clean,
        Some(expected) => {
            Some(summary.status) == expected.usual || expected.also.contains(&summary.status)
        }
    };
    if !(allowed || too_slow || doubted || outdated) {
        broken.push(format!("it ended as {:?}", summary.status));
    }
    if report
        .error
        .as_ref()
        .is_some_and(|error| chain(error).contains("the snapshot cannot have been complete"))
    {
        state.coverage.count("runs that found their snapshot wrong");
    }
    if let Some(kind) = met {
        state.coverage.ended(kind, format!("{:?}", summary.status));
        if !expected(kind).may_delete && !state.runs[run].erased.is_empty() {
            broken.push("it deleted in spite of what it met".to_owned());
        }
    }
    if summary.status == Status::Refused && !state.runs[run].erased.is_empty() {
        broken.push("it refused and deleted".to_owned());
    }
    broken.extend(judge_deletions(state, run, summary.counts, met));
    for what in broken {
        let told = format!("run {run}, which met {met:?}: {what} ({summary:?})");
        state.violations.push(Violation::Broken(told));
    }
}

/// Holds what a run says of its deletions, and what it wrote down, against what S3 did.
fn judge_deletions(
    state: &mut State,
    run: usize,
    counts: Counts,
    met: Option<Kind>,
) -> Vec<String> {
    let mut broken = Vec::new();
    let this = &state.runs[run];
    let erased = this.erased.len() as u64;
    let hidden = met.is_some_and(hides_deletions);
    let mut of_others = 0;
    if hidden {
        for (orphan, outcome) in &this.outcomes {
            let key = orphan.key.as_str();
            if let Outcome::Deleted { marker } = outcome
                && !this
                    .erased
                    .iter()
                    .any(|(erased, by)| erased == key && by.map(|id| id.to_string()) == *marker)
            {
                let by_another = state.runs.iter().any(|other| {
                    other
                        .erased
                        .iter()
                        .any(|(erased, by)| erased == key && by.map(|id| id.to_string()) == *marker)
                });
                // An uploader who rolls back leaves a marker, too, and S3 does not say whose it is.
                if by_another || state.bucket.has_marker(key, marker.as_deref()) {
                    of_others += 1;
                } else {
                    broken.push(format!(
                        "it counted {key:?} as deleted, which nothing proves"
                    ));
                }
            }
        }
        if counts.deleted > erased + of_others {
            broken.push(format!(
                "it counted {} deletions of {erased}",
                counts.deleted
            ));
        }
    } else if counts.deleted != erased {
        broken.push(format!(
            "it counted {} deletions of {erased}",
            counts.deleted
        ));
    }
    // What is written down of them.
    let mut written = Counts::default();
    for (orphan, outcome) in &this.outcomes {
        written.settle(orphan.size, outcome);
    }
    if met != Some(Kind::DiskFull)
        && (written.deleted, written.deleted_bytes, written.asked())
            != (counts.deleted, counts.deleted_bytes, counts.asked())
    {
        broken.push(format!("it wrote down {written:?} and said {counts:?}"));
    }
    let spared: Vec<&'static str> = this
        .outcomes
        .iter()
        .filter_map(|(_, outcome)| match outcome {
            Outcome::Spared(SparedBy::Check) => Some("orphans spared by the fresh check"),
            Outcome::Spared(SparedBy::Age) => Some("orphans spared by their age"),
            Outcome::Spared(SparedBy::ETag) => Some("orphans spared by their ETag"),
            Outcome::Spared(SparedBy::Conflict) => Some("orphans spared by a conflict"),
            Outcome::Gone => Some("orphans that were gone"),
            _ => None,
        })
        .collect();
    for event in spared {
        state.coverage.count(event);
    }
    for _ in 0..of_others {
        state
            .coverage
            .count("deletions counted that another run made, its answer being lost");
    }
    broken
}

/// The manifest of an earlier run of this world, as an operator reviewed it.
fn a_manifest(sim: &Sim, rng: &mut Rng) -> Option<Reviewed> {
    let state = sim.state();
    let written: Vec<&RunState> = state
        .runs
        .iter()
        .filter(|run| run.ended && !run.written.is_empty())
        .collect();
    let run = written.get(rng.index(written.len()))?;
    if rng.percent(30) {
        return None;
    }
    let manifest = Manifest::read(&run.written[..]).expect("a manifest of ours");
    Some(Reviewed::new(manifest, std::collections::HashSet::new()).expect("no exceptions"))
}

/// Somebody undoes an earlier run, as far as the ledger tells what it did.
async fn undo(sim: &Arc<Sim>, rng: &mut Rng) {
    let chosen = {
        let mut state = sim.state();
        let ended: Vec<usize> = (0..state.runs.len())
            .filter(|&run| state.runs[run].ended && !state.runs[run].written.is_empty())
            .collect();
        let chosen = ended.get(rng.index(ended.len())).copied();
        if chosen.is_some() {
            state.coverage.count("runs undone");
        }
        chosen.map(|run| (run, past(&state.runs[run])))
    };
    let Some((run, past)) = chosen else { return };
    let hands = Hands::new(sim, run);
    let (wish, stop) = (Wish::default(), Stop::never());
    let restored = restore(&past, &wish, &hands, 4, &stop, String::new())
        .await
        .expect("files of ours");
    if restored.settled() != restored.planned || restored.status == Status::Failed {
        let told = format!("undoing run {run} does not add up: {restored:?}");
        sim.state().violations.push(Violation::Broken(told));
    }
}

/// What the ledger holds of a run.
fn past(run: &RunState) -> Past {
    let mut recorded: Vec<Recorded> = run
        .outcomes
        .iter()
        .filter_map(|(orphan, outcome)| {
            let (outcome, marker) = match outcome {
                Outcome::Deleted { marker } => ("deleted", marker.clone()),
                Outcome::Gone => ("gone", None),
                Outcome::Spared(_) => ("spared", None),
                Outcome::Failed { .. } => ("failed", None),
                Outcome::Unknown { .. } => ("unknown", None),
                Outcome::Deferred => return None,
            };
            Some(Recorded {
                key: orphan.key.clone(),
                outcome: outcome.to_owned(),
                marker,
                code: None,
                reason: None,
            })
        })
        .collect();
    recorded.sort_by(|one, other| one.key.cmp(&other.key));
    let mut outcomes = OutcomesWriter::new().expect("a file");
    for outcome in &recorded {
        outcomes.push(outcome).expect("in order");
    }
    Past {
        manifest: Manifest::read(&run.written[..]).expect("a manifest of ours"),
        outcomes: outcomes.finish().expect("a file"),
        ending: run.ending.clone().map(|status| Ending {
            status,
            ..Ending::default()
        }),
        last_written: run.last_written.expect("written"),
    }
}

/// Nights without people and faults: every due orphan goes, nothing else does, and every
/// figure is exact.
async fn quiet_nights(sim: &Arc<Sim>) {
    {
        let mut state = sim.state();
        state.latency = (1, 40);
        state.strikes = 0;
    }
    for _ in 0..2 {
        let rng = sim.state().rng.fork();
        let before = figures(sim);
        let kept: BTreeSet<String> = kept(sim);
        let range = KeyRange::default();
        let Some(report) = night(sim, rng, None, false, None, range).await else {
            return;
        };
        let counts = report.summary.counts;
        let told = [
            counts.listed,
            counts.referenced,
            counts.young,
            counts.out_of_scope,
            counts.orphans,
            counts.references,
            counts.dangling,
        ];
        compare(sim, told, before, &kept);
        wait(DAY).await;
    }
}

/// Holds what a quiet night told and left against what it should.
fn compare(sim: &Sim, told: [u64; 7], before: [u64; 7], kept: &BTreeSet<String>) {
    let mut state = sim.state();
    if told != before {
        let told = format!("a quiet night told {told:?} of {before:?}");
        state.violations.push(Violation::Broken(told));
    }
    let left: BTreeSet<String> = state
        .bucket
        .listed("", None)
        .map(|(key, _)| key.to_owned())
        .collect();
    if left != *kept {
        let told = format!("a quiet night left {left:?} of {kept:?}");
        state.violations.push(Violation::Broken(told));
    }
}

/// Whether the object is a due orphan, by nothing but the words of the promise.
fn is_due(sim: &Sim, named: &BTreeSet<String>, key: &str, last_modified: i64) -> bool {
    sim.setup.scope.contains(key)
        && !named.contains(key)
        && at_second(last_modified) < at_second(second(sim.now() - GRACE))
}

fn kept(sim: &Sim) -> BTreeSet<String> {
    let state = sim.state();
    let named = sim.named(&state);
    state
        .bucket
        .listed("", None)
        .filter(|(key, version)| !is_due(sim, &named, key, version.last_modified))
        .map(|(key, _)| key.to_owned())
        .collect()
}

/// The figures that a run in this world must tell.
fn figures(sim: &Sim) -> [u64; 7] {
    let state = sim.state();
    let named = sim.named(&state);
    let prefix = sim.setup.scope.prefix().as_str();
    let [mut listed, mut referenced, mut young, mut out, mut orphans] = [0; 5];
    for (key, version) in state.bucket.listed(prefix, None) {
        listed += 1;
        if !sim.setup.scope.contains(key) {
            out += 1;
        } else if named.contains(key) {
            referenced += 1;
        } else if is_due(sim, &named, key, version.last_modified) {
            orphans += 1;
        } else {
            young += 1;
        }
    }
    let references: Vec<&String> = named.iter().filter(|key| key.starts_with(prefix)).collect();
    let dangling = references
        .iter()
        .filter(|key| state.bucket.current(key).is_none())
        .count();
    [
        listed,
        referenced,
        young,
        out,
        orphans,
        references.len() as u64,
        dangling as u64,
    ]
}
