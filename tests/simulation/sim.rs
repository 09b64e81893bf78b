//! The state of one simulated world, and the oracle that sits at the effect of every
//! deletion.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;
use orphan_sweeper::names::{NameRules, ReferenceForm};
use orphan_sweeper::object::{Orphan, Outcome};
use orphan_sweeper::scope::Scope;
use orphan_sweeper::world::Portions;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::bucket::{Bucket, Ms};
use crate::coverage::Coverage;
use crate::database::{Author, Database};
use crate::faults::Kind;
use crate::rng::Rng;

/// When the world begins, in seconds of Unix time.
const EPOCH: i64 = 1_800_000_000;

/// The longest that the word of a check, a look or a listing may be acted on.
const FRESH: Ms = 60_000;

/// The longest that the word of a check may be acted on where messages are quick: a tenth of a second,
/// or as long as the check itself took, behind that.
const RECENT: Ms = 250;

/// The two losses that are known to remain.
pub(crate) const EDITED: &str =
    "live images lost: a row pointed at an old object between check and deletion";
pub(crate) const REPEATED: &str =
    "live images lost: the same bytes uploaded again between page and deletion";

/// A part of the protection that is taken away, to see whether the hunt finds what it is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Weakness {
    #[default]
    None,
    /// The fresh check always answers no.
    NoFreshCheck,
    /// S3 does not look at the entity tag.
    NoCondition,
    /// The grace period is nothing.
    NoGrace,
    /// Ages read again are always old.
    NoSecondLook,
}

/// What is fixed for a whole history.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) scope: Scope,
    pub(crate) rules: NameRules,
    pub(crate) page_size: usize,
    /// Pages go through their XML.
    pub(crate) xml: bool,
    /// The shortest and the longest time that a message takes.
    pub(crate) latency: (Ms, Ms),
    pub(crate) portions: Portions,
    pub(crate) concurrency: usize,
    pub(crate) weakness: Weakness,
    /// How many of a hundred checks an editor strikes just after.
    pub(crate) strikes: u64,
    /// Whether the role may take delete markers away.
    pub(crate) may_undo: bool,
    pub(crate) trace: bool,
}

impl Setup {
    pub(crate) fn is_slow(&self) -> bool {
        self.latency.1 > 1_000
    }

    /// The name under which the database knows the key.
    pub(crate) fn name_of(&self, key: &str) -> String {
        match self.rules.form {
            ReferenceForm::Key => key
                .strip_prefix(self.rules.prefix.as_str())
                .unwrap_or(key)
                .to_owned(),
            ReferenceForm::Url => format!(
                "https://pics.s3.amazonaws.com/{}",
                utf8_percent_encode(key, NON_ALPHANUMERIC)
            ),
        }
    }
}

/// What is known of one run.
#[derive(Debug, Default)]
pub(crate) struct RunState {
    pub(crate) dry: bool,
    /// How far the clock of the run's machine is from true time.
    pub(crate) local_skew: Ms,
    /// What is to go wrong, and how many chances it lets pass.
    pub(crate) fault: Option<(Kind, u32)>,
    pub(crate) fired: bool,
    /// How many more pages or batches are throttled.
    pub(crate) burst: u32,
    pub(crate) io: u32,
    pub(crate) crash_at: Option<u32>,
    pub(crate) crash: Arc<Notify>,
    /// Key and entity tag of each orphan, once that is written down.
    pub(crate) manifest: Option<BTreeMap<String, String>>,
    pub(crate) cutoff: Option<Timestamp>,
    /// When each key was listed and looked at, and when a check said whether a row names it.
    pub(crate) listed: BTreeMap<String, Ms>,
    pub(crate) looked: BTreeMap<String, Vec<Ms>>,
    pub(crate) checked: BTreeMap<String, Vec<(Ms, bool)>>,
    /// What S3 deleted at this run's request: key and marker.
    pub(crate) erased: Vec<(String, Option<u64>)>,
    /// The manifest as it was written.
    pub(crate) written: Vec<u8>,
    /// How it said that it ended, and when it last wrote anything.
    pub(crate) ending: Option<String>,
    pub(crate) last_written: Option<Timestamp>,
    /// Whether nothing of it is under way any more but requests.
    pub(crate) ended: bool,
    pub(crate) outcomes: Vec<(Orphan, Outcome)>,
}

/// What must never happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Violation {
    /// A live image was deleted.
    Lost(String),
    /// Anything else that breaks the promise.
    Broken(String),
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) rng: Rng,
    pub(crate) bucket: Bucket,
    pub(crate) database: Database,
    /// How far S3's clock is from true time, in milliseconds.
    pub(crate) storage_skew: Ms,
    pub(crate) runs: Vec<RunState>,
    /// How long a message takes now, at least and at most.
    pub(crate) latency: (Ms, Ms),
    /// How many of a hundred checks an editor strikes just after.
    pub(crate) strikes: u64,
    pub(crate) violations: Vec<Violation>,
    pub(crate) coverage: Coverage,
    pub(crate) trace: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Sim {
    state: Mutex<State>,
    began: Instant,
    pub(crate) setup: Setup,
}

impl Sim {
    pub(crate) fn new(setup: Setup, rng: Rng, versioned: bool) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                rng,
                bucket: Bucket {
                    versioned,
                    ..Bucket::default()
                },
                database: Database::default(),
                storage_skew: 0,
                latency: setup.latency,
                strikes: setup.strikes,
                runs: Vec::new(),
                violations: Vec::new(),
                coverage: Coverage::default(),
                trace: Vec::new(),
            }),
            began: Instant::now(),
            setup,
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no history goes on after a panic")
    }

    /// True time.
    pub(crate) fn now(&self) -> Ms {
        Ms::try_from(self.began.elapsed().as_millis()).expect("a history is short")
    }

    pub(crate) fn note(&self, state: &mut State, what: impl FnOnce() -> String) {
        if self.setup.trace {
            state
                .trace
                .push(format!("{:>10} ms  {}", self.now(), what()));
        }
    }

    pub(crate) fn local_clock(&self, run: usize) -> Timestamp {
        let skew = self.state().runs[run].local_skew;
        stamp(self.now() + skew)
    }

    /// S3's clock, in whole seconds of Unix time.
    pub(crate) fn storage_seconds(&self, state: &State) -> i64 {
        EPOCH + (self.now() + state.storage_skew).div_euclid(1_000)
    }

    /// Deletes an orphan as S3 does, under the oracle's eyes. The answer is the marker, or
    /// S3's error code.
    pub(crate) fn erase(
        &self,
        state: &mut State,
        run: usize,
        orphan: &Orphan,
        sent: Ms,
    ) -> Result<Option<u64>, &'static str> {
        let key = orphan.key.as_str();
        let etag = orphan.etag.as_str();
        let Some(version) = state.bucket.current(key).cloned() else {
            return Err("NoSuchKey");
        };
        if version.etag != etag && self.setup.weakness != Weakness::NoCondition {
            return Err("PreconditionFailed");
        }
        self.judge(state, run, orphan, &version, sent);
        let (at, now) = (self.storage_seconds(state), self.now());
        let marker = state.bucket.delete(key, at, now);
        state.runs[run].erased.push((key.to_owned(), marker));
        state.coverage.count("objects deleted");
        self.note(state, || format!("run {run} deleted {key:?}"));
        Ok(marker)
    }

    /// The oracle.
    fn judge(
        &self,
        state: &mut State,
        run: usize,
        orphan: &Orphan,
        version: &crate::bucket::Version,
        sent: Ms,
    ) {
        let key = orphan.key.as_str();
        let now = self.now();
        let this = &state.runs[run];
        let mut broken = Vec::new();
        if this.dry {
            broken.push("in a dry run");
        }
        if this
            .manifest
            .as_ref()
            .and_then(|manifest| manifest.get(key))
            .map(String::as_str)
            != Some(orphan.etag.as_str())
        {
            broken.push("and was not written down before");
        }
        if !self.setup.scope.contains(key) {
            broken.push("and is out of scope");
        }
        // A check after the request tells nothing of it, and in its own millisecond it missed only later rows.
        let checks = this.checked.get(key).map_or(&[][..], Vec::as_slice);
        let check = checks.iter().rev().find(|(at, _)| *at <= sent);
        let checked = check.filter(|(_, named)| !named).map(|(at, _)| *at);
        // Nor does a look.
        let looks = this.looked.get(key).map_or(&[][..], Vec::as_slice);
        let look = looks.iter().rev().find(|at| **at <= sent);
        let seen = look.or(this.listed.get(key)).copied();
        let fresh = |at: Option<Ms>| at.is_some_and(|at| sent - at <= FRESH);
        let longest = if self.setup.is_slow() { FRESH } else { RECENT };
        let is_recent = checked.is_some_and(|at| sent - at <= longest);
        if self.setup.weakness == Weakness::None && !(is_recent && fresh(seen)) {
            broken.push("on a check that is not recent, or a listing older than a minute");
        }
        // The same bytes, uploaded again after they were last seen, less than a minute ago:
        // no condition tells them apart.
        let twin = seen.is_some_and(|seen| version.visible >= seen)
            && fresh(seen)
            && version.etag == orphan.etag.as_str();
        if !twin
            && this
                .cutoff
                .is_none_or(|cutoff| at_second(version.last_modified) >= cutoff)
        {
            broken.push("and is not older than the cutoff");
        }
        let mut lost = Vec::new();
        if version.open && !twin {
            lost.push("its row may still be committed".to_owned());
        }
        let (mut edited, mut repeated) = (false, version.open && twin);
        for row in state.database.at(now).filter(|row| row.key == key) {
            let after_check =
                checked.is_some_and(|checked| row.committed >= checked) && fresh(checked);
            match row.author {
                Author::Editor if after_check => edited = true,
                _ if after_check && twin => repeated = true,
                author => lost.push(format!(
                    "a row of {author:?}, committed at {} ms, names it",
                    row.committed
                )),
            }
        }
        let told = |what: &str| {
            format!(
                "run {run} deleted {key:?} at {now} ms {what} (sent {sent}, checked {checked:?}, seen {seen:?}, {version:?})"
            )
        };
        let violations: Vec<Violation> = broken
            .into_iter()
            .map(|what| Violation::Broken(told(what)))
            .chain(
                lost.iter()
                    .map(|what| Violation::Lost(told(&format!("although {what}")))),
            )
            .collect();
        if violations.is_empty() {
            if edited {
                state.coverage.count(EDITED);
            }
            if repeated {
                state.coverage.count(REPEATED);
            }
        }
        state.violations.extend(violations);
    }

    /// Every key that a row names now.
    pub(crate) fn named(&self, state: &State) -> BTreeSet<String> {
        let now = self.now();
        state.database.at(now).map(|row| row.key.clone()).collect()
    }
}

pub(crate) fn stamp(ms: Ms) -> Timestamp {
    Timestamp::from_millisecond(EPOCH * 1_000 + ms).expect("a time")
}

pub(crate) fn at_second(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

/// Seconds of Unix time at this time of the world.
pub(crate) fn second(ms: Ms) -> i64 {
    EPOCH + ms.div_euclid(1_000)
}
