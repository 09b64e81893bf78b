//! The simulated world behind the traits that production's adapters stand behind.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use jiff::Timestamp;
use orphan_sweeper::failure::RunError;
use orphan_sweeper::guards::Versioning;
use orphan_sweeper::hands::{
    BatchFault, CheckError, Clock, Current, Delete, FreshCheck, Identity, Journal, Look, LookError,
    Names, Record, RecordError, ReferenceSnapshot, SnapshotError,
};
use orphan_sweeper::key::ObjectKey;
use orphan_sweeper::listing::{ListError, Page, PageStart, Pages};
use orphan_sweeper::manifest::{Header, Spool};
use orphan_sweeper::names::ReferenceForm;
use orphan_sweeper::object::{ETag, ListedObject, Orphan, Outcome};
use orphan_sweeper::plan::ApprovedPlan;
use orphan_sweeper::reconcile::{BatchAnswer, DeletedKey, KeyError};
use orphan_sweeper::retention::Retention;
use orphan_sweeper::s3::page;
use orphan_sweeper::summary::Summary;
use orphan_sweeper::undelete::{KeyVersion, Top, Undelete, VersionKind, Wanted};
use orphan_sweeper::uploads::{AbortUpload, ListUploads, Upload, UploadPage};
use orphan_sweeper::world::{Portions, World};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tokio::sync::oneshot;
use tokio::time::sleep;
use uuid::Uuid;

use crate::actors;
use crate::bucket::Ms;
use crate::faults::Kind;
use crate::sim::{Sim, State, Violation, Weakness, at_second};

/// The world as one run meets it.
pub(crate) struct SimWorld {
    hands: Hands,
}

impl SimWorld {
    pub(crate) fn new(sim: &Arc<Sim>, run: usize) -> Self {
        Self {
            hands: Hands::new(sim, run),
        }
    }
}

/// Whatever a run holds in its hands: all of it knows the world and which run it is.
#[derive(Clone)]
pub(crate) struct Hands {
    sim: Arc<Sim>,
    run: usize,
}

impl std::fmt::Debug for Hands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the hands of run {}", self.run)
    }
}

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        self.sim.local_clock(self.run)
    }
}

fn time(ms: Ms) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or_default())
}

impl Hands {
    pub(crate) fn new(sim: &Arc<Sim>, run: usize) -> Self {
        Self {
            sim: Arc::clone(sim),
            run,
        }
    }

    /// How long the next message takes.
    fn takes(&self) -> Duration {
        let mut state = self.sim.state();
        let (low, high) = state.latency;
        time(state.rng.ms(low, high))
    }

    /// A message on its way: time passes, and the process may end here.
    async fn io(&self, place: &'static str) {
        let takes = self.takes();
        sleep(takes).await;
        self.boundary(place).await;
    }

    async fn boundary(&self, place: &'static str) {
        if self.crashes(place) {
            std::future::pending::<()>().await;
        }
    }

    fn crashes(&self, place: &'static str) -> bool {
        let mut state = self.sim.state();
        let run = &mut state.runs[self.run];
        run.io += 1;
        if run.ended || run.crash_at != Some(run.io) {
            return false;
        }
        run.fired = true;
        run.crash.notify_one();
        *state.coverage.crashes.entry(place).or_default() += 1;
        self.sim
            .note(&mut state, || format!("run {} crashes {place}", self.run));
        true
    }

    /// The fault, if it is one of these and its time has come.
    fn fires(&self, state: &mut State, kinds: &[Kind]) -> Option<Kind> {
        let run = &mut state.runs[self.run];
        let (kind, left) = run.fault.as_mut()?;
        if !kinds.contains(kind) || (run.fired && !kind.stays()) {
            return None;
        }
        if *left > 0 {
            *left -= 1;
            return None;
        }
        let kind = *kind;
        if !std::mem::replace(&mut run.fired, true) {
            self.sim
                .note(state, || format!("run {} meets {kind:?}", self.run));
        }
        Some(kind)
    }
}

impl World for SimWorld {
    type Bucket = Hands;
    type Deleter = Hands;
    type Undeleter = Hands;
    type Snapshot = SimSnapshot;
    type Check = Hands;
    type Journal = Hands;

    fn portions(&self) -> Portions {
        self.hands.sim.setup.portions
    }

    fn clock(&self) -> &impl Clock {
        &self.hands
    }

    async fn ground(&self) -> Result<(Versioning, Timestamp), RunError> {
        let hands = &self.hands;
        hands.io("before the first answer").await;
        let ground = {
            let mut state = hands.sim.state();
            let kinds = [
                Kind::GroundDenied,
                Kind::ClocksApart,
                Kind::ClockJumps,
                Kind::VersioningSuspended,
            ];
            let fault = hands.fires(&mut state, &kinds);
            match fault {
                Some(Kind::ClocksApart) => {
                    let (far, ahead) = (state.rng.ms(301_000, 7_200_000), state.rng.percent(50));
                    state.runs[hands.run].local_skew =
                        state.storage_skew + if ahead { far } else { -far };
                }
                Some(Kind::ClockJumps) => {
                    state.runs[hands.run].local_skew = state.rng.ms(-120_000, 120_000);
                    state.storage_skew = state.rng.ms(-120_000, 120_000);
                }
                _ => {}
            }
            let versioning = match (fault, state.bucket.versioned) {
                (Some(Kind::VersioningSuspended), _) => Versioning::Suspended,
                (_, true) => Versioning::Enabled,
                (_, false) => Versioning::Off,
            };
            if fault == Some(Kind::GroundDenied) {
                Err(RunError::Storage("AccessDenied".into()))
            } else {
                Ok((versioning, at_second(hands.sim.storage_seconds(&state))))
            }
        };
        hands.io("after the first answer").await;
        ground
    }

    fn bucket(&self) -> &Hands {
        &self.hands
    }

    async fn snapshot(&self) -> Result<SimSnapshot, RunError> {
        let hands = self.hands.clone();
        hands.io("before the snapshot").await;
        let (fault, at) = {
            let mut state = hands.sim.state();
            let kinds = [
                Kind::NoConnection,
                Kind::StaleSnapshot,
                Kind::Standby,
                Kind::WrongDatabase,
            ];
            let fault = hands.fires(&mut state, &kinds);
            let now = hands.sim.now();
            let lag = state.rng.ms(60_000, 5 * 86_400_000);
            (
                fault,
                if fault == Some(Kind::StaleSnapshot) {
                    now - lag
                } else {
                    now
                },
            )
        };
        if fault == Some(Kind::NoConnection) {
            return Err(RunError::Database("connection refused".into()));
        }
        hands.io("after the snapshot").await;
        Ok(SimSnapshot {
            identity: Identity {
                system_identifier: "7".to_owned(),
                database: "app".to_owned(),
                standby: fault == Some(Kind::Standby),
                schemas: vec!["public".to_owned()],
            },
            wrong: fault == Some(Kind::WrongDatabase),
            lost_rows: false,
            at,
            hands,
        })
    }

    fn check(&self, _identity: &Identity) -> Hands {
        self.hands.clone()
    }

    fn deleter(&self, approved: &ApprovedPlan) -> Hands {
        let mut state = self.hands.sim.state();
        let run = &state.runs[self.hands.run];
        if run.dry || run.manifest.is_none() || approved.plan().spool().is_empty() {
            let told = format!(
                "run {} was given hands that delete too early",
                self.hands.run
            );
            state.violations.push(Violation::Broken(told));
        }
        drop(state);
        self.hands.clone()
    }

    fn undeleter(&self, _approved: &ApprovedPlan, _run_id: Uuid) -> Hands {
        self.hands.clone()
    }

    async fn retention(&self) -> Retention {
        Retention::Days(30)
    }

    fn journal(&self, _run_id: Uuid) -> Hands {
        self.hands.clone()
    }
}

/// A token is a number, so that no two are alike, and the last key before.
fn token(number: u32, key: &str) -> String {
    format!("{number}.{}", utf8_percent_encode(key, NON_ALPHANUMERIC))
}

fn key_of(token: &str) -> String {
    let (_, key) = token.split_once('.').expect("a token of ours");
    percent_decode_str(key)
        .decode_utf8()
        .expect("a key")
        .into_owned()
}

/// One object of a page in the making.
struct Entry {
    key: String,
    etag: String,
    size: u64,
    last_modified: Option<i64>,
}

impl Pages for Hands {
    async fn page(&self, start: &PageStart) -> Result<Page, ListError> {
        self.io("before a page").await;
        let page = {
            let mut state = self.sim.state();
            self.make_page(&mut state, start)
        };
        self.io("after a page").await;
        page
    }
}

impl Hands {
    /// Whether a page is refused because too many are asked for.
    fn slow_down_pages(&self, state: &mut State) -> Result<(), ListError> {
        let slow_down = ListError::SlowDown {
            context: "SlowDown: simulated".to_owned(),
        };
        if state.runs[self.run].burst > 0 {
            state.runs[self.run].burst -= 1;
            return Err(slow_down);
        }
        match self.fires(
            state,
            &[Kind::PagesSlowDownBurst, Kind::PagesSlowDownForever],
        ) {
            Some(Kind::PagesSlowDownBurst) => {
                state.runs[self.run].burst = 5;
                Err(slow_down)
            }
            Some(_) => Err(slow_down),
            None => Ok(()),
        }
    }

    fn make_page(&self, state: &mut State, start: &PageStart) -> Result<Page, ListError> {
        let unanswered = |code: &str| ListError::Storage {
            context: code.to_owned(),
            source: None,
        };
        match self.fires(state, &[Kind::PageUnanswered, Kind::CredentialsExpire]) {
            Some(Kind::PageUnanswered) => return Err(unanswered("no answer: timed out")),
            Some(_) => return Err(unanswered("ExpiredToken")),
            None => {}
        }
        self.slow_down_pages(state)?;
        let (after, continued) = match start {
            PageStart::After(after) => (after.as_ref().map(|key| key.as_str().to_owned()), None),
            PageStart::Token(token) => (Some(key_of(token)), Some(token)),
        };
        let setup = &self.sim.setup;
        let prefix = setup.scope.prefix().as_str();
        let mut entries: Vec<Entry> = state
            .bucket
            .listed(prefix, after.as_deref())
            .take(setup.page_size + 1)
            .map(|(key, version)| Entry {
                key: key.to_owned(),
                etag: version.etag.clone(),
                size: version.size,
                last_modified: Some(version.last_modified),
            })
            .collect();
        let truncated = entries.len() > setup.page_size;
        entries.truncate(setup.page_size);
        let now = self.sim.now();
        for entry in &entries {
            state.runs[self.run]
                .listed
                .entry(entry.key.clone())
                .or_insert(now);
        }
        actors::strike_after_page(
            &self.sim,
            state,
            entries.iter().map(|entry| entry.key.as_str()),
        );
        let number = state.runs[self.run].io;
        let mut next = entries
            .last()
            .filter(|_| truncated)
            .map(|last| token(number, &last.key));

        let kinds = kinds_of_page(entries.len(), truncated, continued.is_some());
        let fault = self.fires(state, &kinds);
        match (fault, continued) {
            (Some(Kind::PagesEmptyForever), _) => {
                entries.clear();
                next = Some(token(number, after.as_deref().unwrap_or_default()));
            }
            (Some(Kind::PageDisorder), _) => entries.swap(0, 1),
            (Some(Kind::PageWithoutAges), _) => {
                for entry in &mut entries {
                    entry.last_modified = None;
                }
            }
            (Some(Kind::PageWithoutETag), _) => entries[0].etag.clear(),
            (Some(Kind::PageEndsEarly), _) => next = None,
            (Some(Kind::PageRepeatsKey), Some(token)) => entries.insert(
                0,
                Entry {
                    key: key_of(token),
                    etag: "\"again\"".to_owned(),
                    size: 1,
                    last_modified: Some(0),
                },
            ),
            (Some(Kind::PageRepeatsToken), Some(token)) => next = Some(token.clone()),
            _ => {}
        }
        if setup.xml || fault.is_some_and(Kind::is_in_xml) {
            let mut body = xml(&entries, next.as_deref(), fault);
            if fault == Some(Kind::PageCut) {
                body.truncate(state.rng.index(body.len()));
            }
            return page::parse(&body).map_err(|fault| ListError::Page(fault.to_string()));
        }
        let mut page = Page::default();
        page.next = next;
        for entry in &entries {
            page.push(ListedObject {
                key: &entry.key,
                etag: &entry.etag,
                size: entry.size,
                last_modified: entry.last_modified.map(at_second),
            });
        }
        Ok(page)
    }
}

/// What can go wrong with such a page.
fn kinds_of_page(entries: usize, truncated: bool, continued: bool) -> Vec<Kind> {
    let mut kinds = vec![Kind::PagesEmptyForever, Kind::PageCut, Kind::PageMiscounted];
    if entries > 1 {
        kinds.push(Kind::PageDisorder);
    }
    if entries > 0 {
        kinds.extend([Kind::PageWithoutAges, Kind::PageWithoutETag]);
    }
    kinds.push(if truncated {
        Kind::PageWithoutToken
    } else {
        Kind::PageTokenOnLast
    });
    if truncated {
        kinds.push(Kind::PageEndsEarly);
    }
    if continued {
        kinds.push(Kind::PageRepeatsKey);
        if truncated {
            kinds.push(Kind::PageRepeatsToken);
        }
    }
    kinds
}

/// The page as S3 would send it, with what the fault makes of it.
fn xml(entries: &[Entry], next: Option<&str>, fault: Option<Kind>) -> Vec<u8> {
    let mut body = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult>");
    let token = match fault {
        Some(Kind::PageWithoutToken) => None,
        Some(Kind::PageTokenOnLast) => Some("1.a"),
        _ => next,
    };
    let counted = entries.len() + usize::from(fault == Some(Kind::PageMiscounted));
    let _ = write!(
        body,
        "<IsTruncated>{}</IsTruncated><KeyCount>{counted}</KeyCount><EncodingType>url</EncodingType>",
        next.is_some()
    );
    if let Some(token) = token {
        let _ = write!(
            body,
            "<NextContinuationToken>{token}</NextContinuationToken>"
        );
    }
    for entry in entries {
        let _ = write!(
            body,
            "<Contents><Key>{}</Key><LastModified>{}</LastModified><ETag>{}</ETag><Size>{}</Size></Contents>",
            utf8_percent_encode(&entry.key, NON_ALPHANUMERIC),
            entry
                .last_modified
                .map(|at| at_second(at).to_string())
                .unwrap_or_default(),
            entry.etag.replace('"', "&quot;"),
            entry.size
        );
    }
    body.push_str("</ListBucketResult>");
    body.into_bytes()
}

impl Look for Hands {
    async fn look(&self, key: &ObjectKey) -> Result<Current, LookError> {
        self.io("before a look").await;
        let seen = {
            let mut state = self.sim.state();
            if let Some(kind) = self.fires(&mut state, &[Kind::LookDenied, Kind::CredentialsExpire])
            {
                Err(LookError {
                    code: Some("AccessDenied".to_owned()),
                    message: format!("{kind:?}"),
                })
            } else {
                let blind = self.sim.setup.weakness == Weakness::NoSecondLook;
                let now = self.sim.now();
                let run = self.run;
                if !blind {
                    let looks = state.runs[run]
                        .looked
                        .entry(key.as_str().to_owned())
                        .or_default();
                    looks.push(now);
                }
                Ok(match state.bucket.current(key.as_str()) {
                    None => Current::Absent,
                    Some(version) => Current::Present {
                        etag: Some(ETag::new(version.etag.as_str())),
                        last_modified: Some(at_second(if blind {
                            0
                        } else {
                            version.last_modified
                        })),
                    },
                })
            }
        };
        self.io("after a look").await;
        seen
    }
}

/// One snapshot of the simulated database.
pub(crate) struct SimSnapshot {
    hands: Hands,
    identity: Identity,
    at: Ms,
    wrong: bool,
    lost_rows: bool,
}

fn snapshot_error(text: &str) -> SnapshotError {
    SnapshotError(text.into())
}

impl SimSnapshot {
    /// The names, and what breaks their stream off.
    fn read_names(
        &mut self,
        in_order: bool,
    ) -> Result<(Vec<Bytes>, Option<SnapshotError>), SnapshotError> {
        let hands = &self.hands;
        let mut state = hands.sim.state();
        let setup = &hands.sim.setup;
        let mut names: Vec<Bytes> = if self.wrong {
            (0..4)
                .map(|n| Bytes::from(setup.name_of(&format!("images/of another {n}.png"))))
                .collect()
        } else {
            state
                .database
                .at(self.at)
                .map(|row| Bytes::from(setup.name_of(&row.key)))
                .collect()
        };
        if in_order {
            names.sort();
        }
        let mut kinds = vec![
            Kind::StatementTimeout,
            Kind::RowSecurity,
            Kind::NamesReset,
            Kind::TruncateAndReload,
            Kind::TableEmpty,
            Kind::NameNotText,
            Kind::NameOfOtherForm,
        ];
        if in_order && names.first() != names.last() {
            kinds.push(Kind::NamesDisorder);
        }
        let fault = hands.fires(&mut state, &kinds);
        let mut broken_off = None;
        let cut = state.rng.index(names.len());
        match fault {
            Some(Kind::StatementTimeout) => {
                return Err(snapshot_error(
                    "57014: canceling statement due to statement timeout",
                ));
            }
            Some(Kind::RowSecurity) => {
                return Err(snapshot_error(
                    "42501: query would be affected by row-level security",
                ));
            }
            Some(Kind::NamesReset) => {
                names.truncate(cut);
                broken_off = Some(snapshot_error("the stream ended without its trailer"));
            }
            Some(Kind::TruncateAndReload) => {
                names.truncate(cut);
                self.lost_rows = true;
            }
            Some(Kind::TableEmpty) => names.clear(),
            Some(Kind::NameNotText) => names.push(Bytes::from_static(b"\xff.png")),
            Some(Kind::NameOfOtherForm) => {
                let other = match setup.rules.form {
                    ReferenceForm::Key => "https://elsewhere.example/a.png",
                    ReferenceForm::Url => "a.png",
                };
                let at = names.partition_point(|name| in_order && name.as_ref() < other.as_bytes());
                names.insert(at, Bytes::from(other));
            }
            Some(Kind::NamesDisorder) => {
                let last = names.len() - 1;
                names.swap(0, last);
            }
            _ => {}
        }
        drop(state);
        Ok((names, broken_off))
    }
}

impl ReferenceSnapshot for SimSnapshot {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    async fn names(&mut self, in_order: bool) -> Result<Names<'_>, SnapshotError> {
        let hands = self.hands.clone();
        hands.io("before the names").await;
        let (names, broken_off) = self.read_names(in_order)?;
        hands.boundary("after the names").await;
        // What names nothing comes along, too: empty names first, NULL last.
        let rows = [Ok(Some(Bytes::new()))]
            .into_iter()
            .chain(names.into_iter().map(|name| Ok(Some(name))))
            .chain([Ok(None)])
            .chain(broken_off.map(Err))
            .enumerate();
        let rows = stream::iter(rows).then(move |(number, row)| {
            let hands = hands.clone();
            async move {
                if number % 4 == 3 {
                    hands.io("amid the names").await;
                }
                row
            }
        });
        Ok(rows.boxed())
    }

    async fn finish(self) -> Result<(), SnapshotError> {
        self.hands.io("before the snapshot's end").await;
        let fault = {
            let mut state = self.hands.sim.state();
            self.hands.fires(&mut state, &[Kind::SerializationFailure])
        };
        if self.lost_rows {
            return Err(snapshot_error(
                "images was truncated, rewritten, renamed or put in the place of another while it was read",
            ));
        }
        match fault {
            Some(_) => Err(snapshot_error(
                "40001: canceling statement due to conflict with recovery",
            )),
            None => Ok(()),
        }
    }
}

impl FreshCheck for Hands {
    async fn referenced(&self, keys: &[&ObjectKey]) -> Result<Vec<bool>, CheckError> {
        self.io("before a check").await;
        let fault = {
            let mut state = self.sim.state();
            let mut kinds = vec![Kind::CheckFails, Kind::CheckHangs, Kind::DatabaseChanges];
            if !keys.is_empty() {
                kinds.push(Kind::CheckShort);
            }
            self.fires(&mut state, &kinds)
        };
        match fault {
            Some(Kind::CheckHangs) => std::future::pending::<()>().await,
            Some(Kind::CheckShort) => return Ok(Vec::new()),
            Some(Kind::DatabaseChanges) => {
                return Err(CheckError("is another one than at the start".into()));
            }
            Some(_) => return Err(CheckError("connection refused".into())),
            None => {}
        }
        let named = {
            let mut state = self.sim.state();
            let now = self.sim.now();
            if self.sim.setup.weakness == Weakness::NoFreshCheck {
                vec![false; keys.len()]
            } else {
                let named: Vec<bool> = keys
                    .iter()
                    .map(|key| state.database.names(key.as_str(), now))
                    .collect();
                let checked = &mut state.runs[self.run].checked;
                for (key, named) in keys.iter().zip(&named) {
                    let answers = checked.entry(key.as_str().to_owned()).or_default();
                    answers.push((now, *named));
                }
                named
            }
        };
        {
            let mut state = self.sim.state();
            actors::strike_after_check(&self.sim, &mut state, keys.iter().map(|key| key.as_str()));
        }
        self.io("after a check").await;
        Ok(named)
    }
}

fn record_error(text: &str) -> RecordError {
    RecordError {
        context: "the ledger".to_owned(),
        source: text.into(),
    }
}

impl Record for Hands {
    async fn outcomes(
        &self,
        _batch: u64,
        settled: &[(Orphan, Outcome)],
    ) -> Result<(), RecordError> {
        self.io("before outcomes are written").await;
        {
            let mut state = self.sim.state();
            if self.fires(&mut state, &[Kind::DiskFull]).is_some() {
                return Err(record_error("No space left on device"));
            }
            let seconds = self.sim.storage_seconds(&state);
            let run = &mut state.runs[self.run];
            run.outcomes.extend_from_slice(settled);
            run.last_written = Some(at_second(seconds));
        }
        self.io("after outcomes are written").await;
        Ok(())
    }
}

impl Journal for Hands {
    fn location(&self) -> String {
        format!("run {}", self.run)
    }

    async fn plan(&self, header: &Header, spool: &Spool) -> Result<(), RecordError> {
        self.io("before the manifest is written").await;
        {
            let mut state = self.sim.state();
            if self
                .fires(&mut state, &[Kind::ManifestUnwritable])
                .is_some()
            {
                return Err(record_error("AccessDenied"));
            }
            let mut orphans = spool.orphans().expect("a file of ours");
            let seconds = self.sim.storage_seconds(&state);
            let run = &mut state.runs[self.run];
            let manifest = run.manifest.insert(std::collections::BTreeMap::new());
            while let Some(orphan) = orphans.next_orphan().expect("a file of ours") {
                manifest.insert(
                    orphan.key.as_str().to_owned(),
                    orphan.etag.as_str().to_owned(),
                );
            }
            let complete = manifest.len() as u64 == header.orphans;
            run.cutoff = Some(header.cutoff);
            run.written.clear();
            spool
                .write_manifest(header, &mut run.written)
                .expect("memory");
            run.last_written = Some(at_second(seconds));
            if !complete {
                let told = format!(
                    "the manifest of run {} does not hold what it says",
                    self.run
                );
                state.violations.push(Violation::Broken(told));
            }
        }
        self.io("after the manifest is written").await;
        Ok(())
    }

    async fn dangling(&self, _keys: &[ObjectKey]) -> Result<(), RecordError> {
        self.io("before dangling references are written").await;
        Ok(())
    }

    async fn summary(&self, summary: &Summary) -> Result<(), RecordError> {
        self.io("before the summary is written").await;
        let fault = {
            let mut state = self.sim.state();
            self.fires(&mut state, &[Kind::SummaryUnwritable])
        };
        if fault.is_some() {
            return Err(record_error("AccessDenied"));
        }
        let status = format!("{:?}", summary.status).to_lowercase();
        self.sim.state().runs[self.run].ending = Some(status);
        Ok(())
    }
}

fn is_probe(orphans: &[Orphan]) -> bool {
    matches!(orphans, [one] if one.key.as_str().contains("orphan-sweeper-probe-"))
}

fn key_error(key: &str, code: &str) -> KeyError {
    KeyError {
        key: key.to_owned(),
        code: code.to_owned(),
        message: "simulated".to_owned(),
    }
}

impl Hands {
    /// The effect of a request for these orphans, in S3, but for the one that a fault hits.
    fn carry_out(
        &self,
        state: &mut State,
        orphans: &[Orphan],
        sent: Ms,
        hit: Option<(usize, Kind)>,
    ) -> BatchAnswer {
        let mut answer = BatchAnswer::default();
        for (index, orphan) in orphans.iter().enumerate() {
            let key = orphan.key.as_str();
            let fault = hit.filter(|(at, _)| *at == index).map(|(_, kind)| kind);
            match fault {
                Some(Kind::KeyInternalError) => {
                    answer.errors.push(key_error(key, "InternalError"));
                    continue;
                }
                Some(Kind::KeyAccessDenied) => {
                    answer.errors.push(key_error(key, "AccessDenied"));
                    continue;
                }
                Some(Kind::KeyPreconditionFailed) => {
                    answer.errors.push(key_error(key, "PreconditionFailed"));
                    continue;
                }
                Some(Kind::KeyConflict) => {
                    answer
                        .errors
                        .push(key_error(key, "ConditionalRequestConflict"));
                    continue;
                }
                Some(Kind::KeyUnmentioned | Kind::KeyContradicted) if state.rng.percent(50) => {}
                _ => {
                    let erased = self.sim.erase(state, self.run, orphan, sent);
                    if fault == Some(Kind::KeyFailedAfterEffect) {
                        answer.errors.push(key_error(key, "InternalError"));
                    } else if fault.is_none() {
                        match erased {
                            Ok(marker) => answer.deleted.push(DeletedKey {
                                key: key.to_owned(),
                                marker: marker.map(|id| id.to_string()),
                            }),
                            Err(code) => answer.errors.push(key_error(key, code)),
                        }
                    }
                }
            }
            if fault == Some(Kind::KeyContradicted) {
                answer.errors.push(key_error(key, "InternalError"));
                answer.deleted.push(DeletedKey {
                    key: key.to_owned(),
                    marker: None,
                });
            }
        }
        answer
    }

    /// Sends a request. Once sent it takes effect even if nobody waits for it any more.
    async fn send(&self, orphans: &[Orphan]) -> Result<BatchAnswer, BatchFault> {
        let lost = |message: &str| BatchFault::Lost {
            message: message.to_owned(),
        };
        let sent = self.sim.now();
        self.boundary("before a deletion").await;
        let (answered, answer) = oneshot::channel();
        let (hands, orphans) = (self.clone(), orphans.to_vec());
        tokio::spawn(async move {
            let takes = hands.takes();
            sleep(takes).await;
            let mut late = None;
            let answer = {
                let mut state = hands.sim.state();
                match hands.answer_of_batch(&mut state, orphans.len()) {
                    Some(Kind::SlowDownBurst | Kind::SlowDownForever) => {
                        Err(BatchFault::Throttled {
                            code: "SlowDown".to_owned(),
                        })
                    }
                    Some(Kind::BatchMalformed) => Err(BatchFault::Unreadable {
                        code: "MalformedXML".to_owned(),
                        message: "simulated".to_owned(),
                    }),
                    Some(Kind::BatchDenied) => Err(BatchFault::Refused {
                        code: "AccessDenied".to_owned(),
                        message: "simulated".to_owned(),
                    }),
                    Some(Kind::CredentialsExpire) => Err(BatchFault::Refused {
                        code: "ExpiredToken".to_owned(),
                        message: "simulated".to_owned(),
                    }),
                    Some(Kind::LostBeforeEffect) => Err(lost("connection reset")),
                    Some(Kind::LostAfterEffect) => {
                        hands.carry_out(&mut state, &orphans, sent, None);
                        Err(lost("timed out"))
                    }
                    Some(Kind::UnavailableAfterEffect) => {
                        hands.carry_out(&mut state, &orphans, sent, None);
                        Err(BatchFault::Throttled {
                            code: "ServiceUnavailable".to_owned(),
                        })
                    }
                    Some(Kind::LostLateEffect) => {
                        late = Some(state.rng.ms(1, 3_000));
                        Err(lost("timed out"))
                    }
                    hit => {
                        let hit = hit.map(|kind| (state.rng.index(orphans.len()), kind));
                        Ok(hands.carry_out(&mut state, &orphans, sent, hit))
                    }
                }
            };
            hands.crashes("while a deletion is under way");
            let takes = hands.takes();
            sleep(takes).await;
            // Nobody waits where the process has ended.
            let _ = answered.send(answer);
            if let Some(late) = late {
                sleep(time(late)).await;
                let mut state = hands.sim.state();
                hands.carry_out(&mut state, &orphans, sent, None);
            }
        });
        let answer = answer
            .await
            .unwrap_or_else(|_| Err(lost("connection reset")));
        self.boundary("after a deletion").await;
        answer
    }

    fn answer_of_batch(&self, state: &mut State, orphans: usize) -> Option<Kind> {
        let run = &mut state.runs[self.run];
        if run.burst > 0 {
            run.burst -= 1;
            return Some(Kind::SlowDownBurst);
        }
        let mut kinds = vec![
            Kind::SlowDownBurst,
            Kind::SlowDownForever,
            Kind::BatchDenied,
            Kind::CredentialsExpire,
            Kind::LostBeforeEffect,
            Kind::LostAfterEffect,
            Kind::UnavailableAfterEffect,
            Kind::LostLateEffect,
            Kind::KeyInternalError,
            Kind::KeyFailedAfterEffect,
            Kind::KeyAccessDenied,
            Kind::KeyPreconditionFailed,
            Kind::KeyConflict,
            Kind::KeyUnmentioned,
            Kind::KeyContradicted,
        ];
        if orphans > 1 {
            kinds.push(Kind::BatchMalformed);
        }
        let fault = self.fires(state, &kinds);
        if fault == Some(Kind::SlowDownBurst) {
            state.runs[self.run].burst = 2;
        }
        fault
    }

    /// The request for a key that does not exist.
    async fn probe(&self, probe: &Orphan) -> Result<BatchAnswer, BatchFault> {
        self.io("before the probe").await;
        let fault = {
            let mut state = self.sim.state();
            // A storage ignores conditions in batches and for single keys, or in neither.
            if let Some((Kind::ConditionsIgnored, left)) = &mut state.runs[self.run].fault {
                *left = 0;
            }
            self.fires(&mut state, &[Kind::ConditionsIgnored, Kind::ProbeThrottled])
        };
        self.io("after the probe").await;
        let key = probe.key.as_str();
        match fault {
            Some(Kind::ProbeThrottled) => Err(BatchFault::Throttled {
                code: "SlowDown".to_owned(),
            }),
            Some(_) => Ok(BatchAnswer {
                deleted: vec![DeletedKey {
                    key: key.to_owned(),
                    marker: None,
                }],
                errors: Vec::new(),
            }),
            None => Ok(BatchAnswer {
                deleted: Vec::new(),
                errors: vec![key_error(key, "NoSuchKey")],
            }),
        }
    }
}

impl Delete for Hands {
    async fn delete_batch(&self, orphans: &[Orphan]) -> Result<BatchAnswer, BatchFault> {
        if is_probe(orphans) {
            return self.probe(&orphans[0]).await;
        }
        self.send(orphans).await
    }

    async fn delete_alone(&self, orphan: &Orphan) -> Result<BatchAnswer, BatchFault> {
        self.delete_batch(std::slice::from_ref(orphan)).await
    }

    async fn marker_over(
        &self,
        orphan: &Orphan,
        since: Timestamp,
    ) -> Result<Option<String>, LookError> {
        self.io("before the versions are read").await;
        let state = self.sim.state();
        let Some([.., below, newest]) = state
            .bucket
            .keys
            .get(orphan.key.as_str())
            .map(Vec::as_slice)
        else {
            return Ok(None);
        };
        let ours = newest.marker
            && newest.last_modified >= since.as_second()
            && below.etag == orphan.etag.as_str();
        Ok(ours.then(|| newest.id.to_string()))
    }
}

impl ListUploads for Hands {
    async fn uploads(&self, _after: Option<&(String, String)>) -> Result<UploadPage, LookError> {
        self.io("before uploads are listed").await;
        Ok(UploadPage::default())
    }

    async fn upload_bytes(&self, _upload: &Upload) -> Result<u64, LookError> {
        Ok(0)
    }
}

impl AbortUpload for Hands {
    async fn abort(&self, _upload: &Upload) -> Result<bool, LookError> {
        Ok(false)
    }
}

/// A version as S3 lists it.
fn seen(version: &crate::bucket::Version) -> KeyVersion {
    KeyVersion {
        id: version.id.to_string(),
        last_modified: Some(at_second(version.last_modified)),
        kind: if version.marker {
            VersionKind::Marker
        } else {
            VersionKind::Object(Some(ETag::new(version.etag.as_str())))
        },
    }
}

impl Undelete for Hands {
    async fn top(&self, key: &ObjectKey) -> Result<Top, LookError> {
        self.io("before the newest versions are read").await;
        let state = self.sim.state();
        let mut newest_first = state
            .bucket
            .keys
            .get(key.as_str())
            .into_iter()
            .flatten()
            .rev()
            .map(seen);
        Ok(Top {
            newest: newest_first.next(),
            below: newest_first.next(),
        })
    }

    async fn has_version(&self, key: &ObjectKey, wanted: &Wanted<'_>) -> Result<bool, LookError> {
        self.io("before a version is looked for").await;
        let state = self.sim.state();
        Ok(state
            .bucket
            .keys
            .get(key.as_str())
            .is_some_and(|versions| versions.iter().any(|version| wanted.is(&seen(version)))))
    }

    /// The other half of the oracle: nothing but a delete marker of this run may go.
    async fn remove_marker(&self, key: &ObjectKey, id: &str) -> Result<(), LookError> {
        self.io("before a marker is removed").await;
        if !self.sim.setup.may_undo {
            return Err(LookError {
                code: Some("AccessDenied".to_owned()),
                message: "s3:DeleteObjectVersion".to_owned(),
            });
        }
        {
            let mut state = self.sim.state();
            let state = &mut *state;
            let versions = state
                .bucket
                .keys
                .entry(key.as_str().to_owned())
                .or_default();
            let Some(at) = versions
                .iter()
                .position(|version| version.id.to_string() == id)
            else {
                return Ok(());
            };
            let removed = versions.remove(at);
            if !removed.marker {
                let told = format!("undoing run {} destroyed {removed:?} of {key}", self.run);
                state.violations.push(Violation::Lost(told));
            }
            let ours = (key.as_str().to_owned(), Some(removed.id));
            state.coverage.count(if state.runs[self.run].erased.contains(&ours) {
                "deletions undone"
            } else {
                "deletions undone that another run made, nobody having written down whose they are"
            });
            self.sim.note(state, || {
                format!("run {}'s deletion of {key} is undone", self.run)
            });
        }
        self.io("after a marker is removed").await;
        Ok(())
    }
}
