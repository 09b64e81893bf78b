//! What a sweep does when time passes or its helpers fail, with time under the test's hand.
//!
//! The real sweep, with fakes for what the real servers cannot be made to do on demand.
#![cfg(feature = "demo")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use orphan_sweeper::guards::{Limits, Versioning};
use orphan_sweeper::hands::{
    BatchFault, CheckError, Clock, Current, Delete, FreshCheck, Look, LookError, Record,
    RecordError,
};
use orphan_sweeper::key::ObjectKey;
use orphan_sweeper::merge::Findings;
use orphan_sweeper::object::{ETag, Orphan, Outcome, SparedBy};
use orphan_sweeper::plan::{ApprovedPlan, PlanBuilder};
use orphan_sweeper::reconcile::{BatchAnswer, DeletedKey, KeyError};
use orphan_sweeper::stop::Stop;
use orphan_sweeper::summary::Counts;
use orphan_sweeper::sweep::{Hands, Judged, Pace, SweepError, SweepReport, sweep};
use proptest::prelude::*;
use tokio::time::Instant;

/// What the fakes share: the bucket, the rows, and what was asked.
#[derive(Default)]
struct World {
    /// ETag and time of each object.
    objects: BTreeMap<String, (String, Timestamp)>,
    rows: BTreeSet<String>,
    /// How the next batches end; then they succeed.
    faults: Vec<BatchFault>,
    /// Keys that no look can reach.
    hidden: BTreeSet<String>,
    /// Keys over which our marker stands.
    markers: BTreeSet<String>,
    /// Since when each marker was asked for.
    asked_since: Vec<Timestamp>,
    /// Keys a second that the storage takes, if it counts them; and what it has taken since
    /// when.
    allowed: Option<u32>,
    taken: Option<(Instant, f64)>,
    /// How long each look takes.
    look_takes: Duration,
    /// How long each single deletion takes.
    alone_takes: Duration,
    /// How long each batch takes.
    batch_takes: Duration,
    /// Whether the second batch that is sent is told to slow down.
    slow_down_second: bool,
    /// Whether each question to the database reads all its names.
    reads_all_names: bool,
    /// How long each question takes, or all but the first, and how many are asked at once.
    check_takes: Duration,
    later_checks_take: Option<Duration>,
    asking: usize,
    most_asking: usize,
    /// The moment from which on a row names a key, and how many checks answer before one fails.
    rows_since: BTreeMap<String, Instant>,
    checks_until_failure: Option<usize>,
    /// When each key was asked for in the database.
    checked: BTreeMap<String, Instant>,
    /// The oldest check that a batch was sent on.
    oldest_check: Duration,
    /// When batches were sent, and with which keys.
    sent: Vec<(Instant, Vec<String>)>,
    alone: Vec<String>,
    looked: Vec<String>,
    written: Vec<(Orphan, Outcome)>,
    check: Check,
    /// When the run began, and how long the machine has slept since.
    began: Option<Instant>,
    slept: Duration,
    /// How long it sleeps behind the first fresh check, or behind the first batch.
    sleeps_after_check: Duration,
    sleeps_after_batch: Duration,
}

#[derive(Default, Clone, Copy)]
enum Check {
    #[default]
    Answers,
    Fails,
    Hangs,
    AnswersTooLittle,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<World>>);

impl std::fmt::Debug for Fake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fake")
    }
}

impl Clock for Fake {
    /// No time passes that an `Instant` shows: what a machine sleeps is added to it.
    fn now(&self) -> Timestamp {
        let world = self.world();
        let awake = world.began.map_or(Duration::ZERO, |began| began.elapsed());
        at(CUTOFF) + awake + world.slept
    }
}

impl Fake {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("no test panicked with it")
    }

    fn answer(&self, orphans: &[Orphan]) -> BatchAnswer {
        let mut world = self.world();
        let mut answer = BatchAnswer::default();
        for orphan in orphans {
            let key = orphan.key.as_str().to_owned();
            assert!(!world.rows.contains(&key), "{key} is referenced");
            match world
                .objects
                .get(&key)
                .map(|(etag, _)| etag == orphan.etag.as_str())
            {
                Some(true) => {
                    world.objects.remove(&key);
                    answer.deleted.push(DeletedKey {
                        marker: Some(format!("marker of {key}")),
                        key,
                    });
                }
                Some(false) => answer.errors.push(KeyError {
                    key,
                    code: "PreconditionFailed".to_owned(),
                    message: String::new(),
                }),
                None => answer.errors.push(KeyError {
                    key,
                    code: "NoSuchKey".to_owned(),
                    message: String::new(),
                }),
            }
        }
        answer
    }
}

impl World {
    fn is_named(&self, key: &str) -> bool {
        self.rows.contains(key)
            || self
                .rows_since
                .get(key)
                .is_some_and(|&since| since <= Instant::now())
    }

    /// A request for these keys is on its way: notes how old the check is that it rests on.
    fn note_request<'keys>(&mut self, keys: impl IntoIterator<Item = &'keys ObjectKey>) {
        let ages = keys
            .into_iter()
            .map(|key| self.checked[key.as_str()].elapsed());
        self.oldest_check = self.oldest_check.max(ages.max().unwrap_or_default());
    }

    /// Whether a storage that counts keys takes so many more now; a tenth of a second's worth
    /// is borne.
    fn takes(&mut self, keys: usize) -> bool {
        let Some(allowed) = self.allowed.map(f64::from) else {
            return true;
        };
        let (since, taken) = *self.taken.get_or_insert((Instant::now(), 0.0));
        if taken > allowed * (since.elapsed().as_secs_f64() + 0.1) {
            return false;
        }
        self.taken = Some((since, taken + f64::from(u32::try_from(keys).expect("few"))));
        true
    }
}

impl Look for Fake {
    async fn look(&self, key: &ObjectKey) -> Result<Current, LookError> {
        let takes = self.world().look_takes;
        tokio::time::sleep(takes).await;
        let mut world = self.world();
        world.looked.push(key.as_str().to_owned());
        if world.hidden.contains(key.as_str()) {
            return Err(LookError {
                code: Some("AccessDenied".to_owned()),
                message: "hidden".to_owned(),
            });
        }
        Ok(match world.objects.get(key.as_str()) {
            Some((etag, at)) => Current::Present {
                etag: Some(ETag::new(etag.as_str())),
                last_modified: Some(*at),
            },
            None => Current::Absent,
        })
    }
}

impl Delete for Fake {
    async fn delete_batch(&self, orphans: &[Orphan]) -> Result<BatchAnswer, BatchFault> {
        let fault = {
            let mut world = self.world();
            let sleeps = std::mem::take(&mut world.sleeps_after_batch);
            world.slept += sleeps;
            let keys = orphans
                .iter()
                .map(|orphan| orphan.key.as_str().to_owned())
                .collect();
            world.note_request(orphans.iter().map(|orphan| &orphan.key));
            world.sent.push((Instant::now(), keys));
            if (world.slow_down_second && world.sent.len() == 2) || !world.takes(orphans.len()) {
                Some(BatchFault::Throttled {
                    code: "SlowDown".to_owned(),
                })
            } else if world.faults.is_empty() {
                None
            } else {
                Some(world.faults.remove(0))
            }
        };
        let takes = self.world().batch_takes;
        tokio::time::sleep(takes).await;
        match fault {
            Some(fault) => Err(fault),
            None => Ok(self.answer(orphans)),
        }
    }

    async fn delete_alone(&self, orphan: &Orphan) -> Result<BatchAnswer, BatchFault> {
        let takes = {
            let mut world = self.world();
            world.note_request([&orphan.key]);
            world.alone_takes
        };
        tokio::time::sleep(takes).await;
        self.world().alone.push(orphan.key.as_str().to_owned());
        Ok(self.answer(std::slice::from_ref(orphan)))
    }

    async fn marker_over(
        &self,
        orphan: &Orphan,
        since: Timestamp,
    ) -> Result<Option<String>, LookError> {
        self.world().asked_since.push(since);
        let found = self.world().markers.contains(orphan.key.as_str());
        Ok(found.then(|| "ours".to_owned()))
    }
}

impl FreshCheck for Fake {
    fn asks_many_at_once(&self) -> bool {
        !self.world().reads_all_names
    }

    async fn referenced(&self, keys: &[&ObjectKey]) -> Result<Vec<bool>, CheckError> {
        let check = {
            let mut world = self.world();
            for key in keys {
                world
                    .checked
                    .insert(key.as_str().to_owned(), Instant::now());
            }
            let sleeps = std::mem::take(&mut world.sleeps_after_check);
            world.slept += sleeps;
            world.asking += 1;
            world.most_asking = world.most_asking.max(world.asking);
            match &mut world.checks_until_failure {
                Some(0) => {
                    world.checks_until_failure = None;
                    Check::Fails
                }
                Some(left) => {
                    *left -= 1;
                    world.check
                }
                None => world.check,
            }
        };
        let named = keys.iter().map(|key| self.world().is_named(key.as_str()));
        let named = named.collect();
        let takes = {
            let mut world = self.world();
            let later = world.later_checks_take.unwrap_or(world.check_takes);
            std::mem::replace(&mut world.check_takes, later)
        };
        tokio::time::sleep(takes).await;
        self.world().asking -= 1;
        match check {
            Check::Answers => Ok(named),
            Check::Fails => Err(CheckError("no connection".into())),
            Check::AnswersTooLittle => Ok(Vec::new()),
            Check::Hangs => std::future::pending().await,
        }
    }
}

/// Writes down, or fails from some batch on.
struct Ledger(Fake, Option<u64>);

impl Record for Ledger {
    async fn outcomes(&self, batch: u64, settled: &[(Orphan, Outcome)]) -> Result<(), RecordError> {
        if self.1.is_some_and(|from| batch >= from) {
            return Err(RecordError {
                context: "outcomes".to_owned(),
                source: "disk full".into(),
            });
        }
        self.0.world().written.extend(settled.iter().cloned());
        Ok(())
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

const CUTOFF: i64 = 1_000;

fn key(index: usize) -> String {
    format!("{index:05}.png")
}

/// A plan of these keys, each an object of second 10 with the tag `"e"`.
fn plan(fake: &Fake, keys: &[String]) -> ApprovedPlan {
    let mut builder = PlanBuilder::new(None).expect("a file");
    for key in keys {
        fake.world()
            .objects
            .insert(key.clone(), ("\"e\"".to_owned(), at(10)));
        let orphan = Orphan {
            key: ObjectKey::new(key.as_str()),
            etag: ETag::new("\"e\""),
            size: 1,
            last_modified: at(10),
        };
        let counts = Counts {
            listed: 1,
            orphans: 1,
            references: 1,
            ..Counts::default()
        };
        let findings = Findings {
            counts,
            orphans: vec![orphan],
            ..Findings::default()
        };
        builder.add(findings).expect("written");
    }
    // One referenced object, so that no guard says no.
    let counts = Counts {
        listed: 1,
        referenced: 1,
        references: 1,
        ..Counts::default()
    };
    builder
        .add(Findings {
            counts,
            newest_referenced: Some(at(10)),
            ..Findings::default()
        })
        .expect("written");
    let limits = Limits {
        max_orphan_percent: 100.0,
        max_dangling_percent: 100.0,
        allow_newer_orphans: true,
    };
    builder
        .finish()
        .expect("written")
        .approve(&limits)
        .expect("approved")
}

fn keys(count: usize) -> Vec<String> {
    (0..count).map(key).collect()
}

struct Case {
    fake: Fake,
    plan: ApprovedPlan,
    began: Instant,
    listed_since: Option<Instant>,
    conditional: bool,
    pace: Pace,
    stop: Stop,
    ledger_fails: Option<u64>,
}

impl Case {
    fn of(keys: &[String]) -> Self {
        let fake = Fake::default();
        fake.world().began = Some(Instant::now());
        let plan = plan(&fake, keys);
        let pace = Pace {
            batches_at_once: 2,
            windows_at_once: 3,
            looks_at_once: 4,
            batch_size: 100,
        };
        Self {
            fake,
            plan,
            began: Instant::now(),
            listed_since: Some(Instant::now()),
            conditional: true,
            pace,
            stop: Stop::never(),
            ledger_fails: None,
        }
    }

    async fn run(&self) -> SweepReport {
        let hands = Hands {
            delete: &self.fake,
            check: &self.fake,
            record: &Ledger(self.fake.clone(), self.ledger_fails),
            clock: &self.fake,
        };
        let judged = Judged {
            cutoff: at(CUTOFF),
            listed_since: self.listed_since,
            conditional: self.conditional,
            storage_now: at(CUTOFF),
            local_now: at(CUTOFF),
            began: self.began,
            versioning: Versioning::Enabled,
        };
        let report = sweep(&self.plan, judged, hands, self.pace, &self.stop, |_| {}).await;
        let counts = Counts {
            orphans: self.plan.plan().spool().len(),
            ..report.counts
        };
        assert_eq!(
            counts.asked() + counts.deferred,
            counts.orphans,
            "every orphan has one outcome: {report:?}"
        );
        report
    }

    fn sent(&self) -> usize {
        let world = self.fake.world();
        world.sent.len() + world.alone.len()
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_minute_ages_are_read_again() {
    let case = Case::of(&keys(6));
    {
        let mut world = case.fake.world();
        let young = ("\"e\"".to_owned(), at(CUTOFF));
        world.objects.insert(key(1), young);
        world
            .objects
            .insert(key(2), ("\"other\"".to_owned(), at(10)));
        world.objects.remove(&key(3));
        world.hidden.insert(key(4));
    }
    tokio::time::advance(Duration::from_secs(61)).await;
    let counts = case.run().await.counts;
    assert_eq!(
        [counts.deleted, counts.spared, counts.gone, counts.failed],
        [2, 2, 1, 1]
    );
    assert!(
        case.fake.world().objects.contains_key(&key(1)),
        "the same bytes, uploaded again"
    );
}

#[tokio::test(start_paused = true)]
async fn shortly_after_the_listing_nobody_looks_unless_conditions_are_ignored() {
    let case = Case::of(&keys(3));
    tokio::time::advance(Duration::from_secs(29)).await;
    assert_eq!(case.run().await.counts.deleted, 3);
    assert_eq!(case.fake.world().looked.len(), 0);

    let case = Case {
        listed_since: None,
        ..Case::of(&keys(3))
    };
    assert_eq!(case.run().await.counts.deleted, 3);
    assert_eq!(case.fake.world().looked.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_on_a_check_that_is_no_longer_fresh() {
    let case = Case {
        listed_since: None,
        ..Case::of(&keys(8))
    };
    case.fake.world().look_takes = Duration::from_secs(31);
    let report = case.run().await;
    assert!(
        matches!(report.error, Some(SweepError::Stale)),
        "{report:?}"
    );
    assert_eq!((case.sent(), report.counts.deferred), (0, 8));
}

#[tokio::test(start_paused = true)]
async fn the_first_window_goes_alone_and_then_as_many_at_once_as_said() {
    let case = Case {
        pace: Pace {
            batch_size: 10,
            ..Case::of(&[]).pace
        },
        ..Case::of(&keys(200))
    };
    case.fake.world().batch_takes = Duration::from_secs(1);
    let began = Instant::now();
    assert_eq!(case.run().await.counts.deleted, 200);
    let mut batches = BTreeMap::new();
    for (at, _) in &case.fake.world().sent {
        *batches.entry(*at - began).or_insert(0) += 1;
    }
    // Two batches a window.
    assert_eq!(batches.into_values().collect::<Vec<_>>(), [2, 4, 6, 6, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_window_is_checked_after_its_looks_and_not_while_another_looks() {
    let case = Case {
        pace: Pace {
            batch_size: 4,
            ..Case::of(&[]).pace
        },
        listed_since: None,
        ..Case::of(&keys(40))
    };
    case.fake.world().look_takes = Duration::from_secs(1);
    let began = Instant::now();
    assert_eq!(case.run().await.counts.deleted, 40);
    assert_eq!(began.elapsed(), Duration::from_secs(10));
    assert_eq!(case.fake.world().oldest_check, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn where_no_condition_protects_the_look_comes_last_and_always() {
    let case = Case {
        conditional: false,
        pace: Pace {
            batch_size: 2,
            ..Case::of(&[]).pace
        },
        ..Case::of(&keys(12))
    };
    case.fake.world().look_takes = Duration::from_secs(1);
    let began = Instant::now();
    assert_eq!(case.run().await.counts.deleted, 12);
    // Three windows, one at a time, and each asked about again behind its looks.
    assert_eq!(began.elapsed(), Duration::from_secs(3));
    let world = case.fake.world();
    assert_eq!(world.looked.len(), 12);
    assert_eq!(world.oldest_check, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn questions_that_each_read_all_names_are_not_asked_at_once() {
    let case = Case {
        pace: Pace {
            batch_size: 10,
            ..Case::of(&[]).pace
        },
        ..Case::of(&keys(100))
    };
    {
        let mut world = case.fake.world();
        world.batch_takes = Duration::from_secs(1);
        world.reads_all_names = true;
    }
    let began = Instant::now();
    assert_eq!(case.run().await.counts.deleted, 100);
    // Two batches a window, one window at a time.
    assert_eq!(began.elapsed(), Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_halt_holds_for_what_waits_to_be_sent_again() {
    // The first window goes alone. Of the next two one is told to slow down, and while it
    // waits the check of the other finds that the snapshot was wrong.
    let case = Case {
        pace: Pace {
            batches_at_once: 1,
            batch_size: 20,
            ..Case::of(&[]).pace
        },
        ..Case::of(&keys(60))
    };
    {
        let mut world = case.fake.world();
        world.rows.extend((40..55).map(key));
        world.slow_down_second = true;
    }
    let report = case.run().await;
    assert!(
        matches!(report.error, Some(SweepError::SnapshotWrong { .. })),
        "{report:?}"
    );
    assert_eq!((case.sent(), report.counts.deleted), (2, 20));
}

#[tokio::test(start_paused = true)]
async fn a_halt_holds_for_a_key_that_no_batch_can_carry() {
    let keys = ["a\u{1}", "b", "c\u{1}"].map(str::to_owned);
    let case = Case {
        pace: Pace {
            batches_at_once: 1,
            batch_size: 1,
            ..Case::of(&[]).pace
        },
        ledger_fails: Some(2),
        ..Case::of(&keys)
    };
    {
        let mut world = case.fake.world();
        world.faults = vec![BatchFault::Unreadable {
            code: "MalformedXML".to_owned(),
            message: String::new(),
        }];
        world.batch_takes = Duration::from_secs(1);
        world.alone_takes = Duration::from_millis(500);
    }
    let counts = case.run().await.counts;
    assert_eq!([counts.deleted, counts.failed], [2, 1]);
    assert_eq!(case.fake.world().alone, ["a\u{1}", "c\u{1}"]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_seen_between_the_halves_of_a_batch() {
    let case = Case {
        stop: Stop::at(Instant::now() + Duration::from_secs(15)),
        ..Case::of(&keys(4))
    };
    {
        let mut world = case.fake.world();
        let unreadable = BatchFault::Unreadable {
            code: "MalformedXML".to_owned(),
            message: String::new(),
        };
        world.faults = vec![unreadable; 100];
        world.batch_takes = Duration::from_secs(10);
    }
    let report = case.run().await;
    assert!(report.stopped && report.error.is_none(), "{report:?}");
    assert_eq!([report.counts.deleted, report.counts.deferred], [1, 3]);
}

#[tokio::test(start_paused = true)]
async fn no_more_problems_are_told_than_an_answer_holds() {
    let case = Case {
        conditional: false,
        ..Case::of(&keys(30))
    };
    case.fake.world().hidden.extend(keys(30));
    let report = case.run().await;
    assert_eq!(report.counts.failed, 30);
    assert_eq!(report.problems.len(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_seen_between_single_deletions() {
    let hostile: Vec<String> = (0..5).map(|index| format!("{index}\u{1}")).collect();
    let case = Case {
        stop: Stop::at(Instant::now() + Duration::from_secs(15)),
        ..Case::of(&hostile)
    };
    case.fake.world().alone_takes = Duration::from_secs(10);
    let report = case.run().await;
    assert!(report.stopped && report.error.is_none(), "{report:?}");
    assert_eq!([report.counts.deleted, report.counts.deferred], [2, 3]);
}

#[tokio::test(start_paused = true)]
async fn what_goes_wrong_in_one_window_halts_the_others() {
    let hostile = |name: &str| (0..5).map(|index| format!("{name}{index}\u{1}")).collect();
    let windows: [Vec<String>; 4] = [hostile("a"), keys(5), hostile("b"), hostile("c")];
    for ledger_fails in [None, Some(1)] {
        let case = Case {
            pace: Pace {
                batches_at_once: 1,
                windows_at_once: 2,
                batch_size: 5,
                ..Case::of(&[]).pace
            },
            ledger_fails,
            ..Case::of(&windows.concat())
        };
        {
            let mut world = case.fake.world();
            if ledger_fails.is_none() {
                world.faults = vec![BatchFault::Refused {
                    code: "AccessDenied".to_owned(),
                    message: String::new(),
                }];
            }
            world.batch_takes = Duration::from_secs(1);
            world.alone_takes = Duration::from_millis(700);
        }
        let report = case.run().await;
        let counts = report.counts;
        // Of the third window one key was deleted, and one was on its way.
        match report.error {
            Some(SweepError::Refused { .. }) if ledger_fails.is_none() => {
                assert_eq!([counts.deleted, counts.failed, counts.deferred], [7, 5, 8]);
            }
            Some(SweepError::Record(_)) if ledger_fails.is_some() => {
                assert_eq!([counts.deleted, counts.failed, counts.deferred], [12, 0, 8]);
            }
            other => panic!("{other:?}"),
        }
        assert!(!report.stopped);
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_that_fails_hangs_or_answers_too_little_sends_nothing() {
    for check in [Check::Fails, Check::Hangs, Check::AnswersTooLittle] {
        let case = Case::of(&keys(3));
        case.fake.world().check = check;
        let report = case.run().await;
        assert!(
            matches!(report.error, Some(SweepError::Check(_))),
            "{report:?}"
        );
        assert_eq!((case.sent(), report.counts.deferred), (0, 3));
    }
}

#[tokio::test(start_paused = true)]
async fn more_than_ten_spared_in_a_batch_is_a_wrong_snapshot() {
    for (rows, wrong) in [(10, false), (11, true)] {
        let case = Case::of(&keys(100));
        case.fake.world().rows.extend(keys(rows));
        let report = case.run().await;
        assert_eq!(
            matches!(report.error, Some(SweepError::SnapshotWrong { .. })),
            wrong,
            "{report:?}"
        );
        assert_eq!(case.sent(), usize::from(!wrong));
        assert_eq!(report.counts.spared, rows as u64);
    }
}

/// Only S3's own SlowDown says that nothing was done.
#[tokio::test(start_paused = true)]
async fn what_asks_to_come_again_may_have_passed_the_request_on() {
    for (code, attempts, counts) in [
        ("ServiceUnavailable", 1, [3, 0, 0]),
        ("ServiceUnavailable", 8, [2, 0, 1]),
        ("SlowDown", 1, [1, 2, 0]),
        ("SlowDown", 8, [0, 0, 3]),
    ] {
        let case = Case::of(&keys(3));
        {
            let mut world = case.fake.world();
            let throttled = BatchFault::Throttled {
                code: code.to_owned(),
            };
            world.faults = vec![throttled; attempts];
            for gone in [key(0), key(1)] {
                world.objects.remove(&gone);
                world.markers.insert(gone);
            }
        }
        let report = case.run().await.counts;
        let told = [report.deleted, report.gone, report.failed + report.unknown];
        assert_eq!(told, counts, "{code} {attempts} times");
        // Markers are looked for since the first request that may have acted.
        let first = at(CUTOFF) - Duration::from_secs(5);
        let asked_since = case.fake.world().asked_since.clone();
        assert!(
            asked_since.iter().all(|since| *since == first),
            "{asked_since:?}"
        );
        assert_eq!(asked_since.is_empty(), code == "SlowDown");
        assert_eq!(report.failed > 0, code == "SlowDown" && attempts == 8);
    }
}

#[tokio::test(start_paused = true)]
async fn a_throttled_batch_is_sent_again_but_never_on_a_stale_check() {
    let slow = || BatchFault::Throttled {
        code: "SlowDown".to_owned(),
    };
    let case = Case::of(&keys(3));
    case.fake.world().faults = vec![slow(), slow(), slow()];
    assert_eq!(case.run().await.counts.deleted, 3);

    // Looking takes so long that the check is nearly a minute old at the first request.
    let case = Case {
        listed_since: None,
        ..Case::of(&keys(3))
    };
    case.fake.world().look_takes = Duration::from_secs(50);
    case.fake.world().faults = vec![slow(); 1_000];
    let began = Instant::now();
    let report = case.run().await;
    assert_eq!(
        (report.counts.failed, report.problems[0].code.as_str()),
        (3, "SlowDown")
    );
    let world = case.fake.world();
    assert!(
        world
            .sent
            .iter()
            .all(|(at, _)| at.duration_since(began) < Duration::from_mins(1))
    );
}

/// How old a check may be where it takes no time.
const RECENT: Duration = Duration::from_millis(100);

fn slow_down() -> BatchFault {
    BatchFault::Throttled {
        code: "SlowDown".to_owned(),
    }
}

/// Nothing waits behind a check: what a row names by now is not asked for.
#[tokio::test(start_paused = true)]
async fn what_is_sent_again_is_checked_again() {
    for (faults, named_after) in [(1, 150), (3, 1_100), (7, 12_000)] {
        let case = Case::of(&keys(3));
        {
            let mut world = case.fake.world();
            world.faults = vec![slow_down(); faults];
            let since = Instant::now() + Duration::from_millis(named_after);
            world.rows_since.insert(key(1), since);
        }
        let report = case.run().await;
        assert_eq!(
            [report.counts.deleted, report.counts.spared],
            [2, 1],
            "{report:?}"
        );
        let world = case.fake.world();
        assert!(world.objects.contains_key(&key(1)));
        assert!(world.oldest_check <= RECENT, "{:?}", world.oldest_check);
    }
    // All of them: nothing is left to be sent.
    let case = Case::of(&keys(3));
    case.fake.world().faults = vec![slow_down(); 4];
    for index in 0..3 {
        let since = Instant::now() + Duration::from_millis(1);
        case.fake.world().rows_since.insert(key(index), since);
    }
    let report = case.run().await;
    assert_eq!((report.counts.spared, report.counts.deleted), (3, 0));
    assert_eq!(case.sent(), 1);
    // So many of them that the snapshot was wrong.
    let case = Case::of(&keys(20));
    case.fake.world().faults = vec![slow_down(); 4];
    for index in 0..11 {
        let since = Instant::now() + Duration::from_millis(1);
        case.fake.world().rows_since.insert(key(index), since);
    }
    let report = case.run().await;
    assert!(
        matches!(
            report.error,
            Some(SweepError::SnapshotWrong {
                spared: 11,
                asked: 20,
                ..
            })
        ),
        "{report:?}"
    );
    assert_eq!(report.counts.deleted, 0);
}

/// Ten at once are a snapshot that was wrong; some now and then are people at work.
#[tokio::test(start_paused = true)]
async fn what_is_named_in_the_course_of_a_long_batch_does_not_add_up() {
    let case = Case::of(&keys(60));
    {
        let mut world = case.fake.world();
        world.faults = vec![slow_down(); 6];
        for index in 0..30 {
            let since = Instant::now() + Duration::from_millis(100 + 700 * index as u64);
            world.rows_since.insert(key(index), since);
        }
    }
    let report = case.run().await;
    assert!(
        report.error.is_none() && report.counts.spared > 11,
        "{report:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn single_keys_and_halves_are_checked_again_and_those_that_are_left_together() {
    let hostile: Vec<String> = (0..9).map(|index| format!("{index}\u{1}")).collect();
    let case = Case::of(&hostile);
    {
        let mut world = case.fake.world();
        world.check_takes = Duration::from_secs(1);
        world.alone_takes = Duration::from_millis(700);
        let since = Instant::now() + Duration::from_millis(4_500);
        for named in &hostile[5..7] {
            world.rows_since.insert(named.clone(), since);
        }
    }
    let report = case.run().await;
    assert_eq!(
        [report.counts.deleted, report.counts.spared],
        [7, 2],
        "{report:?}"
    );
    assert!(case.fake.world().oldest_check <= Duration::from_secs(2));
    let asked = case.fake.world().checked[&hostile[4]];
    assert_eq!(asked, case.fake.world().checked[&hostile[7]]);

    let case = Case::of(&keys(9));
    {
        let mut world = case.fake.world();
        world.faults = vec![unreadable(); 3];
        world.batch_takes = Duration::from_millis(600);
        let since = Instant::now() + Duration::from_millis(1_500);
        world.rows_since.insert(key(8), since);
    }
    let report = case.run().await;
    assert_eq!(
        [report.counts.deleted, report.counts.spared],
        [8, 1],
        "{report:?}"
    );
    assert!(case.fake.world().oldest_check <= RECENT);

    // A half of which nothing is left is no request.
    let case = Case::of(&keys(4));
    {
        let mut world = case.fake.world();
        world.faults = vec![unreadable()];
        world.batch_takes = Duration::from_millis(600);
        let since = Instant::now() + Duration::from_millis(700);
        for index in [2, 3] {
            world.rows_since.insert(key(index), since);
        }
    }
    let report = case.run().await;
    assert_eq!(
        [report.counts.deleted, report.counts.spared],
        [2, 2],
        "{report:?}"
    );
    assert_eq!(case.sent(), 2);

    // One that no batch can carry is asked about before it is deleted alone.
    let case = Case::of(&keys(1));
    {
        let mut world = case.fake.world();
        world.faults = vec![unreadable()];
        world.batch_takes = Duration::from_secs(10);
        let since = Instant::now() + Duration::from_secs(5);
        world.rows_since.insert(key(0), since);
    }
    let report = case.run().await;
    assert_eq!(
        [report.counts.deleted, report.counts.spared],
        [0, 1],
        "{report:?}"
    );
}

/// Where each question reads every name, the database is not asked more often than it can answer, nor
/// several times at once.
#[tokio::test(start_paused = true)]
async fn a_slow_check_is_made_again_when_it_is_twice_as_old_as_it_took() {
    let case = Case {
        listed_since: Some(Instant::now() + Duration::from_hours(1)),
        pace: Pace {
            batches_at_once: 4,
            batch_size: 2,
            ..Case::of(&[]).pace
        },
        ..Case::of(&keys(8))
    };
    {
        let mut world = case.fake.world();
        world.reads_all_names = true;
        world.check_takes = Duration::from_secs(5);
        world.faults = vec![slow_down(); 27];
    }
    let report = case.run().await;
    assert_eq!(report.counts.deleted, 8, "{report:?}");
    {
        let world = case.fake.world();
        assert_eq!(world.most_asking, 1);
        let oldest = world.oldest_check;
        assert!(oldest <= Duration::from_secs(10), "{oldest:?}");
    }

    // And never older than a minute.
    let hostile: Vec<String> = (0..9).map(|index| format!("{index}\u{1}")).collect();
    let case = Case {
        listed_since: Some(Instant::now() + Duration::from_hours(1)),
        ..Case::of(&hostile)
    };
    case.fake.world().check_takes = Duration::from_secs(45);
    case.fake.world().alone_takes = Duration::from_secs(10);
    let report = case.run().await;
    assert_eq!(report.counts.deleted, 9, "{report:?}");
    let oldest = case.fake.world().oldest_check;
    assert!(
        oldest <= Duration::from_mins(1) && oldest >= Duration::from_secs(55),
        "{oldest:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_deleted_before_it_was_named_is_not_called_spared() {
    for (code, expected) in [("ServiceUnavailable", [0, 1, 2]), ("SlowDown", [1, 0, 2])] {
        let case = Case::of(&keys(3));
        {
            let mut world = case.fake.world();
            world.faults = vec![
                BatchFault::Throttled {
                    code: code.to_owned()
                };
                4
            ];
            let since = Instant::now() + Duration::from_millis(1);
            world.rows_since.insert(key(1), since);
        }
        let counts = case.run().await.counts;
        assert_eq!(
            [counts.spared, counts.unknown, counts.deleted],
            expected,
            "{code}"
        );
        // One mark of the first request is as good as one of the last.
        let world = case.fake.world();
        assert!(
            world.asked_since.windows(2).all(|two| two[0] == two[1]),
            "{:?}",
            world.asked_since
        );
    }
}

/// What an earlier request may have done is looked at, whatever ends the rest.
#[tokio::test(start_paused = true)]
async fn what_may_have_been_deleted_is_never_called_spared_or_deferred() {
    let unavailable = || BatchFault::Throttled {
        code: "ServiceUnavailable".to_owned(),
    };
    // So many are named by now that the snapshot was wrong.
    let case = Case::of(&keys(20));
    {
        let mut world = case.fake.world();
        world.faults = vec![unavailable(); 4];
        for index in 0..11 {
            let since = Instant::now() + Duration::from_millis(1);
            world.rows_since.insert(key(index), since);
        }
    }
    let report = case.run().await;
    assert!(
        matches!(report.error, Some(SweepError::SnapshotWrong { .. })),
        "{report:?}"
    );
    assert_eq!([report.counts.spared, report.counts.unknown], [0, 20]);

    // The check of a half fails, or the run is to stop between the halves.
    for (checks, stop) in [(2, None), (100, Some(500))] {
        let case = Case {
            stop: stop.map_or(Stop::never(), |at| {
                Stop::at(Instant::now() + Duration::from_millis(at))
            }),
            ..Case::of(&keys(6))
        };
        {
            let mut world = case.fake.world();
            world.faults = vec![unavailable(), unreadable()];
            world.batch_takes = Duration::from_millis(150);
            world.checks_until_failure = Some(checks);
        }
        let report = case.run().await;
        assert_eq!(report.error.is_some(), stop.is_none(), "{report:?}");
        assert_eq!(report.counts.deferred, 0, "{report:?}");
        assert!(report.counts.unknown >= 3, "{report:?}");
        // Nor is the other half sent, although it might be asked about again.
        assert_eq!(case.sent(), if stop.is_none() { 2 } else { 3 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_check_that_fails_or_hangs_sends_nothing_and_defers_nothing_that_was_sent() {
    let case = Case::of(&keys(3));
    {
        let mut world = case.fake.world();
        world.faults = vec![slow_down(); 7];
        world.checks_until_failure = Some(1);
    }
    let report = case.run().await;
    assert!(
        matches!(report.error, Some(SweepError::Check(_))),
        "{report:?}"
    );
    assert_eq!([report.counts.failed, report.counts.deferred], [3, 0]);
    assert_eq!(case.sent(), 1);

    let case = Case {
        stop: Stop::at(Instant::now() + Duration::from_secs(3)),
        ..Case::of(&keys(3))
    };
    {
        let mut world = case.fake.world();
        world.faults = vec![slow_down(); 7];
        world.later_checks_take = Some(Duration::from_secs(30));
    }
    let ended = Instant::now() + Duration::from_secs(4);
    let counts = case.run().await.counts;
    assert_eq!([counts.failed, counts.deferred], [3, 0]);
    assert!(Instant::now() < ended);
}

#[tokio::test(start_paused = true)]
async fn a_storage_that_counts_keys_is_used_to_its_limit_and_not_stormed() {
    for allowed in [800, 3_500] {
        let case = Case {
            pace: Pace {
                batches_at_once: 8,
                windows_at_once: 3,
                looks_at_once: 4,
                batch_size: 1_000,
            },
            // Not to be looked at again, however long it takes.
            listed_since: Some(Instant::now() + Duration::from_hours(1)),
            ..Case::of(&keys(60_000))
        };
        case.fake.world().allowed = Some(allowed);
        let began = Instant::now();
        let report = case.run().await;
        assert_eq!(
            (report.counts.deleted, report.counts.failed),
            (60_000, 0),
            "{allowed}"
        );
        let ideal = 60_000.0 / f64::from(allowed);
        let seconds = began.elapsed().as_secs_f64();
        assert!(
            seconds < ideal / 0.75,
            "{allowed}: {seconds} s, ideal {ideal} s"
        );
        let world = case.fake.world();
        let sent = world.sent.len();
        assert!(sent < 120, "{allowed}: {sent} requests for 60 batches");
        // However long each waits for its turn.
        let oldest = world.oldest_check;
        assert!(oldest <= RECENT, "{allowed}: {oldest:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_storage_that_takes_next_to_nothing_defers_the_rest() {
    let case = Case {
        pace: Pace {
            batches_at_once: 8,
            windows_at_once: 3,
            looks_at_once: 4,
            batch_size: 1_000,
        },
        ..Case::of(&keys(20_000))
    };
    case.fake.world().allowed = Some(10);
    let report = case.run().await;
    let counts = report.counts;
    assert_eq!(counts.deleted + counts.failed + counts.deferred, 20_000);
    assert!(report.error.is_none() && counts.deferred > 0, "{report:?}");
    assert!(case.fake.world().sent.len() < 100);
    // Not every window was begun.
    assert!(case.fake.world().checked.len() < 20_000);
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_batch_is_halved_down_to_single_deletions() {
    let unreadable = BatchFault::Unreadable {
        code: "MalformedXML".to_owned(),
        message: String::new(),
    };
    let case = Case::of(&keys(5));
    case.fake.world().faults = vec![unreadable; 1_000];
    assert_eq!(case.run().await.counts.deleted, 5);
    assert_eq!(
        case.fake
            .world()
            .alone
            .iter()
            .cloned()
            .collect::<BTreeSet<_>>(),
        keys(5).into_iter().collect()
    );
}

#[tokio::test(start_paused = true)]
async fn a_key_that_xml_cannot_carry_is_deleted_alone() {
    let hostile: Vec<String> = ["a\u{1}", "b\n", "c\u{ffff}", "d\u{7f}"]
        .map(str::to_owned)
        .to_vec();
    let case = Case::of(&[hostile.clone(), keys(2)].concat());
    assert_eq!(case.run().await.counts.deleted, 6);
    let world = case.fake.world();
    assert_eq!(
        world.alone.iter().collect::<BTreeSet<_>>(),
        hostile.iter().collect()
    );
    assert!(
        world
            .sent
            .iter()
            .all(|(_, sent)| sent.iter().all(|key| !hostile.contains(key)))
    );
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_settled_by_what_is_there() {
    let case = Case::of(&keys(5));
    {
        let mut world = case.fake.world();
        world.faults = vec![BatchFault::Lost {
            message: "reset".to_owned(),
        }];
        world.objects.remove(&key(0));
        world.markers.insert(key(0));
        world.objects.remove(&key(1));
        world
            .objects
            .insert(key(2), ("\"other\"".to_owned(), at(10)));
        world.hidden.insert(key(3));
    }
    let counts = case.run().await.counts;
    assert_eq!(
        [counts.deleted, counts.gone, counts.spared, counts.unknown],
        [1, 1, 1, 2]
    );
    assert_eq!(case.sent(), 1, "never asked again");
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_refused_ends_the_sweep() {
    let case = Case::of(&keys(500));
    case.fake.world().faults = vec![BatchFault::Refused {
        code: "AccessDenied".to_owned(),
        message: String::new(),
    }];
    let report = case.run().await;
    assert!(
        matches!(report.error, Some(SweepError::Refused { .. })),
        "{report:?}"
    );
    assert_eq!(
        [
            report.counts.failed,
            report.counts.deleted,
            report.counts.deferred
        ],
        // Its sibling was not sent any more.
        [100, 0, 400]
    );
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_fails_ends_the_sweep_with_true_counts() {
    let case = Case {
        ledger_fails: Some(0),
        ..Case::of(&keys(500))
    };
    let report = case.run().await;
    assert!(
        matches!(report.error, Some(SweepError::Record(_))),
        "{report:?}"
    );
    assert_eq!([report.counts.deleted, report.counts.deferred], [200, 300]);
    assert_eq!(case.fake.world().objects.len(), 300);
}

#[tokio::test(start_paused = true)]
async fn a_stop_defers_the_rest() {
    let case = Case {
        stop: Stop::at(Instant::now()),
        ..Case::of(&keys(3))
    };
    let report = case.run().await;
    assert!(report.stopped && report.error.is_none());
    assert_eq!((case.sent(), report.counts.deferred), (0, 3));
}

#[tokio::test(start_paused = true)]
async fn single_deletions_end_when_the_check_is_a_minute_old() {
    let hostile: Vec<String> = (0..5).map(|index| format!("{index}\u{1}")).collect();
    let case = Case::of(&hostile);
    case.fake.world().alone_takes = Duration::from_secs(25);
    let report = case.run().await;
    assert!(
        matches!(report.error, Some(SweepError::Stale)),
        "{report:?}"
    );
    assert_eq!([report.counts.deleted, report.counts.deferred], [3, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_after_the_last_window_stops_nothing() {
    let case = Case {
        stop: Stop::at(Instant::now() + Duration::from_secs(1)),
        listed_since: None,
        ..Case::of(&keys(3))
    };
    case.fake.world().look_takes = Duration::from_secs(2);
    let report = case.run().await;
    assert!(!report.stopped && report.error.is_none(), "{report:?}");
    assert_eq!(report.counts.deleted, 3);
}

fn fault() -> impl Strategy<Value = BatchFault> {
    prop_oneof![
        Just(BatchFault::Throttled {
            code: "SlowDown".to_owned()
        }),
        Just(BatchFault::Unreadable {
            code: "MalformedXML".to_owned(),
            message: String::new()
        }),
        Just(BatchFault::Refused {
            code: "AccessDenied".to_owned(),
            message: String::new()
        }),
        Just(BatchFault::Lost {
            message: "reset".to_owned()
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever fails: each orphan ends in one count, `deleted` means that it is gone from the
    /// bucket under its own tag, and what is left in the plan's state is still there. That no
    /// referenced key is ever sent, the fake asserts itself.
    #[test]
    fn whatever_fails_the_counts_are_true(
        count in 0_usize..40,
        changed in proptest::collection::btree_set(0_usize..40, 0..6),
        rows in proptest::collection::btree_set(0_usize..40, 0..6),
        faults in proptest::collection::vec(fault(), 0..6),
        old in any::<bool>(),
        batches_at_once in 1_usize..4,
        windows_at_once in 1_usize..4,
        batch_size in 1_usize..12,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(async {
            let mut case = Case::of(&keys(count));
            case.pace = Pace { batches_at_once, windows_at_once, looks_at_once: 2, batch_size };
            {
                let mut world = case.fake.world();
                world.faults = faults;
                world.rows = rows.into_iter().map(key).collect();
                for index in changed.into_iter().filter(|index| *index < count) {
                    world.objects.insert(key(index), ("\"other\"".to_owned(), at(10)));
                }
            }
            if old {
                tokio::time::advance(Duration::from_secs(61)).await;
            }
            let before = case.fake.world().objects.len();
            let report = case.run().await;
            let world = case.fake.world();
            prop_assert_eq!(before - world.objects.len(), usize::try_from(report.counts.deleted).expect("few"));
            for (orphan, outcome) in &world.written {
                let there = world.objects.contains_key(orphan.key.as_str());
                prop_assert_eq!(there, !matches!(outcome, Outcome::Deleted { .. } | Outcome::Gone), "{:?} {:?}", orphan, outcome);
            }
            Ok(())
        })?;
    }
}

/// A storage that behaves oddly at each deletion.
#[derive(Clone, Copy)]
enum Oddity {
    /// It cannot read any request, not even one of a single key.
    ReadsNothing,
    /// It says that the condition failed, of an object that is deleted meanwhile.
    DeletedMeanwhile,
    /// Its answer is lost, and then the object is absent.
    LosesItsAnswer,
}

struct Odd(Fake, Oddity);

impl Odd {
    fn answer(&self, orphans: &[Orphan]) -> Result<BatchAnswer, BatchFault> {
        let mut world = self.0.world();
        let keys = orphans.iter().map(|orphan| orphan.key.as_str().to_owned());
        match self.1 {
            Oddity::ReadsNothing => Err(BatchFault::Unreadable {
                code: "MalformedXML".to_owned(),
                message: String::new(),
            }),
            Oddity::DeletedMeanwhile => {
                let errors = keys.map(|key| {
                    world.objects.remove(&key);
                    KeyError {
                        key,
                        code: "PreconditionFailed".to_owned(),
                        message: String::new(),
                    }
                });
                Ok(BatchAnswer {
                    errors: errors.collect(),
                    ..BatchAnswer::default()
                })
            }
            Oddity::LosesItsAnswer => {
                for key in keys {
                    world.objects.remove(&key);
                }
                Err(BatchFault::Lost {
                    message: "reset".to_owned(),
                })
            }
        }
    }
}

impl Look for Odd {
    async fn look(&self, key: &ObjectKey) -> Result<Current, LookError> {
        self.0.look(key).await
    }
}

impl Delete for Odd {
    async fn delete_batch(&self, orphans: &[Orphan]) -> Result<BatchAnswer, BatchFault> {
        self.answer(orphans)
    }

    async fn delete_alone(&self, orphan: &Orphan) -> Result<BatchAnswer, BatchFault> {
        self.0.world().alone.push(orphan.key.as_str().to_owned());
        self.answer(std::slice::from_ref(orphan))
    }

    async fn marker_over(
        &self,
        orphan: &Orphan,
        since: Timestamp,
    ) -> Result<Option<String>, LookError> {
        self.0.marker_over(orphan, since).await
    }
}

async fn sweep_oddly(case: &Case, oddity: Oddity, versioning: Versioning) -> SweepReport {
    let hands = Hands {
        delete: &Odd(case.fake.clone(), oddity),
        check: &case.fake,
        record: &Ledger(case.fake.clone(), None),
        clock: &case.fake,
    };
    let judged = Judged {
        cutoff: at(CUTOFF),
        listed_since: case.listed_since,
        conditional: case.conditional,
        storage_now: at(CUTOFF),
        local_now: at(CUTOFF),
        began: case.began,
        versioning,
    };
    sweep(&case.plan, judged, hands, case.pace, &case.stop, |_| {}).await
}

#[tokio::test(start_paused = true)]
async fn a_key_that_cannot_be_read_even_alone_fails_once() {
    let case = Case::of(&keys(4));
    let report = sweep_oddly(&case, Oddity::ReadsNothing, Versioning::Enabled).await;
    assert_eq!((report.counts.failed, report.counts.deferred), (4, 0));
    let codes = report.problems.iter().map(|problem| problem.code.as_str());
    assert_eq!(codes.collect::<Vec<_>>(), ["MalformedXML"; 4]);
    assert_eq!(case.fake.world().alone.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn without_versions_nobody_calls_a_lost_deletion_ours_or_anothers() {
    for (versioning, [gone, unknown]) in [
        (Versioning::Enabled, [3, 0]),
        (Versioning::Suspended, [0, 3]),
        (Versioning::Off, [0, 3]),
    ] {
        let case = Case::of(&keys(3));
        let report = sweep_oddly(&case, Oddity::LosesItsAnswer, versioning).await;
        let counts = report.counts;
        assert_eq!(
            [counts.deleted, counts.gone, counts.unknown],
            [0, gone, unknown]
        );
        let told = report.problems.iter().map(|problem| problem.code.as_str());
        let named = usize::try_from(unknown).expect("few");
        assert_eq!(told.collect::<Vec<_>>(), vec!["Unknown"; named]);
    }
}

/// What another deleted while the run listed is not taken for the work of a request that
/// never arrived.
#[tokio::test(start_paused = true)]
async fn only_a_marker_made_since_the_request_is_taken_for_its_own() {
    let case = Case::of(&keys(1));
    tokio::time::advance(Duration::from_secs(25)).await;
    sweep_oddly(&case, Oddity::LosesItsAnswer, Versioning::Enabled).await;
    // Not by more than clocks vary.
    assert_eq!(case.fake.world().asked_since, [at(CUTOFF + 20)]);
}

#[tokio::test(start_paused = true)]
async fn an_object_whose_condition_failed_and_that_is_absent_is_gone() {
    for versioning in [Versioning::Enabled, Versioning::Off] {
        let case = Case::of(&keys(3));
        let report = sweep_oddly(&case, Oddity::DeletedMeanwhile, versioning).await;
        assert_eq!((report.counts.gone, report.counts.unknown), (3, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_throttled_forever_is_sent_eight_times_ever_more_slowly() {
    let case = Case::of(&keys(3));
    let slow = BatchFault::Throttled {
        code: "SlowDown".to_owned(),
    };
    case.fake.world().faults = vec![slow; 1_000];
    let report = case.run().await;
    assert_eq!((report.counts.failed, report.counts.deferred), (3, 0));
    let world = case.fake.world();
    assert_eq!(world.sent.len(), 8);
    for (attempt, pair) in (1..).zip(world.sent.windows(2)) {
        let pause = pair[1].0.duration_since(pair[0].0);
        let least = Duration::from_millis(100) * 2_u32.pow(attempt.min(6));
        assert!(pause >= least, "{pause:?} after attempt {attempt}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_a_minute_old_is_still_sent_and_nothing_older() {
    // One after the other, each in so many seconds, with a listing of so many seconds.
    for (takes, listed_before, sent) in [(20, 0, 4), (21, 0, 3), (10, 29, 4), (31, 29, 2)] {
        let hostile: Vec<String> = (0..9).map(|index| format!("{index}\u{1}")).collect();
        let case = Case::of(&hostile);
        tokio::time::advance(Duration::from_secs(listed_before)).await;
        case.fake.world().alone_takes = Duration::from_secs(takes);
        let report = case.run().await;
        assert!(
            matches!(report.error, Some(SweepError::Stale)),
            "{report:?}"
        );
        assert_eq!(
            [report.counts.deleted, report.counts.deferred],
            [sent, 9 - sent]
        );
        assert!(
            case.fake.world().sent.is_empty(),
            "no batch without a key is sent"
        );
    }
}

/// Writes down which batches were written down.
#[derive(Default)]
struct Numbers(Mutex<Vec<(u64, usize)>>);

impl Record for Numbers {
    async fn outcomes(&self, batch: u64, settled: &[(Orphan, Outcome)]) -> Result<(), RecordError> {
        let mut numbers = self.0.lock().expect("no test panicked with it");
        numbers.push((batch, settled.len()));
        Ok(())
    }
}

fn unreadable() -> BatchFault {
    BatchFault::Unreadable {
        code: "MalformedXML".to_owned(),
        message: String::new(),
    }
}

const A_NIGHT: Duration = Duration::from_hours(8);

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_on_a_check_that_the_machine_slept_behind() {
    let case = Case::of(&keys(6));
    case.fake.world().sleeps_after_check = A_NIGHT;
    let report = case.run().await;
    assert!(
        matches!(report.error, Some(SweepError::Stale)),
        "{report:?}"
    );
    assert_eq!((case.sent(), report.counts.deferred), (0, 6));
    // A clock that is set a little is no sleep.
    let case = Case::of(&keys(6));
    case.fake.world().sleeps_after_check = Duration::from_secs(4);
    assert_eq!(case.run().await.counts.deleted, 6);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_again_after_a_sleep() {
    let slow_down = || BatchFault::Throttled {
        code: "SlowDown".to_owned(),
    };
    for (fault, orphans) in [(unreadable(), 6), (unreadable(), 1), (slow_down(), 6)] {
        let case = Case::of(&keys(orphans));
        {
            let mut world = case.fake.world();
            world.faults.push(fault);
            world.sleeps_after_batch = A_NIGHT;
        }
        let counts = case.run().await.counts;
        assert_eq!((case.sent(), counts.deleted), (1, 0), "{counts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn ages_are_read_again_after_a_sleep() {
    let case = Case::of(&keys(6));
    {
        let mut world = case.fake.world();
        let young = ("\"e\"".to_owned(), at(CUTOFF));
        world.objects.insert(key(1), young);
        world.slept = A_NIGHT;
    }
    let counts = case.run().await.counts;
    assert_eq!((counts.deleted, counts.spared), (5, 1));
}

#[tokio::test(start_paused = true)]
async fn each_batch_is_written_down_under_a_number_of_its_own() {
    let mut case = Case::of(&keys(23));
    case.pace.batch_size = 3;
    let numbers = Numbers::default();
    let hands = Hands {
        delete: &case.fake,
        check: &case.fake,
        record: &numbers,
        clock: &case.fake,
    };
    let judged = Judged {
        cutoff: at(CUTOFF),
        listed_since: case.listed_since,
        conditional: case.conditional,
        storage_now: at(CUTOFF),
        local_now: at(CUTOFF),
        began: case.began,
        versioning: Versioning::Enabled,
    };
    let mut deleted = Vec::new();
    let report = sweep(&case.plan, judged, hands, case.pace, &case.stop, |counts| {
        deleted.push(counts.deleted);
    })
    .await;
    assert_eq!(report.counts.deleted, 23);
    let mut numbers = numbers.0.into_inner().expect("no test panicked with it");
    numbers.sort_unstable();
    let expected: Vec<(u64, usize)> = (0..8)
        .map(|number| (number, if number == 7 { 2 } else { 3 }))
        .collect();
    assert_eq!(numbers, expected);
    assert_eq!(deleted.last(), Some(&23), "who watches is told of the end");
}

#[tokio::test(start_paused = true)]
async fn after_a_lost_answer_only_another_tag_says_that_an_object_was_saved() {
    let case = Case::of(&keys(2));
    {
        let mut world = case.fake.world();
        world.faults = vec![BatchFault::Lost {
            message: "reset".to_owned(),
        }];
        let other = ("\"other\"".to_owned(), at(10));
        world.objects.insert(key(0), other);
    }
    case.run().await;
    let world = case.fake.world();
    let [(_, saved), (_, silent)] = &world.written[..] else {
        panic!("two outcomes: {:?}", world.written)
    };
    assert_eq!(*saved, Outcome::Spared(SparedBy::ETag));
    assert!(
        matches!(silent, Outcome::Unknown { reason } if reason.ends_with("still there")),
        "{silent:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_look_shows_as_another_object_is_not_asked_about() {
    // A storage that ignores conditions would delete it.
    let case = Case {
        listed_since: None,
        ..Case::of(&keys(3))
    };
    let other = ("\"other\"".to_owned(), at(10));
    case.fake.world().objects.insert(key(1), other);
    let report = case.run().await;
    assert_eq!((report.counts.deleted, report.counts.spared), (2, 1));
    let sent: Vec<_> = case
        .fake
        .world()
        .sent
        .iter()
        .map(|sent| sent.1.clone())
        .collect();
    assert_eq!(sent, [[key(0), key(2)]]);
}

#[tokio::test(start_paused = true)]
async fn what_is_beyond_the_most_that_may_be_deleted_is_deferred() {
    let mut case = Case::of(&keys(10));
    let mut builder = PlanBuilder::new(Some(3)).expect("a file");
    let mut orphans = case.plan.plan().spool().orphans().expect("a file");
    let mut findings = Findings {
        counts: case.plan.plan().counts(),
        newest_referenced: Some(at(10)),
        ..Findings::default()
    };
    while let Some(orphan) = orphans.next_orphan().expect("a file") {
        findings.orphans.push(orphan);
    }
    builder.add(findings).expect("written");
    let limits = Limits {
        max_orphan_percent: 100.0,
        max_dangling_percent: 100.0,
        allow_newer_orphans: true,
    };
    let plan = builder.finish().expect("written").approve(&limits);
    case.plan = plan.expect("approved");
    let counts = case.run().await.counts;
    assert_eq!((counts.deleted, counts.deferred), (3, 7));
}
