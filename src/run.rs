//! One run: plan ranges → mark → judge → sweep → finish. The only place that sees both
//! worlds.

mod apply;
mod doubt;
mod leftovers;
mod ranges;

use std::io;
use std::time::Duration;

use aws_sdk_s3::Client;
use doubt::Doubted;
use futures::FutureExt as _;
use futures::future::try_join;
use jiff::{SignedDuration, Timestamp};
pub use ranges::ranges_in;
use tokio::time::Instant;
use uuid::Uuid;

use crate::chain::chain;
use crate::dangling;
use crate::failure::RunError;
use crate::guards::{self, Ground};
use crate::hands::{
    Clock as _, Delete, FreshCheck, Identity, Journal, Latest, Look, Record, ReferenceSnapshot,
    Series,
};
use crate::judge::judge;
use crate::listing::Pages;
use crate::manifest::{self, Header, sha256};
use crate::mark::{Marking, chunks};
use crate::mentioned::{self, Comparing};
use crate::merge::Criteria;
use crate::names::shown_key;
use crate::paced::Paced;
use crate::plan::{ApprovedPlan, Plan, PlanBuilder};
use crate::probe::{Probe, probe};
use crate::progress::Progress;
use crate::recheck::RememberingDeleted;
use crate::remember::RememberingFailed;
use crate::reviewed::Reviewed;
use crate::settings::Settings;
use crate::stop::Stop;
use crate::summary::{Counts, MAX_PROBLEMS, More, Problem, Refusal, Status, Summary};
use crate::sweep::{Hands, Judged, Pace, SweepError, sweep};
use crate::turn::{Turn, during};
use crate::uploads;
use crate::world::{Portions, Production, World};

/// What a run answers with.
#[derive(Debug)]
pub struct Report {
    /// The answer.
    pub summary: Summary,
    /// Every guard that said no.
    pub refusals: Vec<Refusal>,
    /// What ended it, when its status is failed.
    pub error: Option<RunError>,
    /// Whether a person stopped it.
    pub interrupted: bool,
}

/// How the work of a run ended, short of an error.
enum End {
    Done,
    Refused(Vec<Refusal>),
    Stopped,
}

/// Runs once in the world that the settings name. Every error is in the report: a run always
/// has an answer.
pub async fn run(settings: &Settings, client: &Client, stop: &Stop, progress: &Progress) -> Report {
    let world = Production::new(settings, client);
    Box::pin(run_in(&world, settings, stop, progress)).await
}

/// Runs once in this world.
pub async fn run_in<W: World>(
    world: &W,
    settings: &Settings,
    stop: &Stop,
    progress: &Progress,
) -> Report {
    run_of(world, settings, None, stop, progress).await
}

/// Applies a reviewed manifest in the world that the settings name, which must be the
/// manifest's ([`crate::settings::for_manifest`]).
pub async fn apply(
    settings: &Settings,
    reviewed: &Reviewed,
    client: &Client,
    stop: &Stop,
    progress: &Progress,
) -> Report {
    let world = Production::new(settings, client);
    apply_in(&world, settings, reviewed, stop, progress).await
}

/// Applies a reviewed manifest in this world: deletes no more than it lists, each key judged
/// again.
pub async fn apply_in<W: World>(
    world: &W,
    settings: &Settings,
    reviewed: &Reviewed,
    stop: &Stop,
    progress: &Progress,
) -> Report {
    run_of(world, settings, Some(reviewed), stop, progress).await
}

/// A run over the whole scope, or over what a reviewed manifest lists.
async fn run_of<W: World>(
    world: &W,
    settings: &Settings,
    reviewed: Option<&Reviewed>,
    stop: &Stop,
    progress: &Progress,
) -> Report {
    let began = Instant::now();
    let run_id = Uuid::now_v7();
    let started_at = world.clock().now();
    let journal = world.journal(run_id);
    tracing::info!(%run_id, bucket = settings.bucket(), prefix = %settings.scope.prefix(), dry_run = settings.allowed.dry_run, "started a run");

    let mut run = Run {
        settings,
        stop,
        progress,
        portions: world.portions(),
        journal: &journal,
        run_id,
        started_at,
        cutoff: None,
        swept: false,
        good: None,
        counts: Counts::default(),
        problems: Vec::new(),
        doubt: false,
        more: More {
            range: settings.scope.range().clone(),
            applied: reviewed.map(|reviewed| reviewed.header().run_id),
            ..More::default()
        },
    };
    let mut ended = Box::pin(run.in_its_turn(world, reviewed)).await;
    if !run.swept {
        // What was found and not asked about waits for another run.
        run.counts.deferred = run.counts.orphans;
    }
    if let Err(error) = run.counts.check() {
        ended = Err(error.into());
    }
    let (mut status, refusals, mut error) = match ended {
        Ok(End::Refused(refusals)) => (Status::Refused, refusals, None),
        Ok(End::Stopped) => (Status::Incomplete, Vec::new(), None),
        Ok(End::Done) if settings.allowed.dry_run => (Status::DryRun, Vec::new(), None),
        Ok(End::Done) if run.doubt || run.counts.failed + run.counts.unknown > 0 => {
            (Status::Incomplete, Vec::new(), None)
        }
        Ok(End::Done) => (Status::Completed, Vec::new(), None),
        Err(error) => (Status::Failed, Vec::new(), Some(error)),
    };
    let mut summary = Summary {
        run_id,
        status,
        bucket: settings.bucket().to_owned(),
        prefix: settings.scope.prefix().clone(),
        dry_run: settings.allowed.dry_run,
        started_at,
        cutoff: run.cutoff,
        duration_ms: milliseconds(began.elapsed()),
        counts: run.counts,
        refusal: refusals.first().cloned(),
        errors: run.problems,
        report: journal.location(),
        more: run.more,
    };
    let good = run.good.filter(|_| {
        matches!(
            status,
            Status::Completed | Status::DryRun | Status::Incomplete
        )
    });
    if let Some((series, latest)) = good
        && let Err(unwritten) = journal.keep_latest(&series, &latest).await
    {
        status = Status::Failed;
        summary.status = status;
        error = Some(unwritten.into());
    }
    summary.name(error.as_ref());
    if let Err(unwritten) = journal.summary(&summary).await {
        // The deletions stand as counted; only their record is missing.
        status = Status::Failed;
        let unwritten = RunError::from(unwritten);
        summary.name(Some(&unwritten));
        summary.status = status;
        error = error.or(Some(unwritten));
    }
    summary.log(&refusals);
    Report {
        summary,
        refusals,
        error,
        interrupted: stop.interrupted() && status == Status::Incomplete,
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Summary {
    fn name(&mut self, error: Option<&RunError>) {
        let Some(error) = error else { return };
        self.errors.insert(
            0,
            Problem {
                key: None,
                code: error.kind().to_owned(),
                message: chain(error),
            },
        );
        self.errors.truncate(MAX_PROBLEMS);
    }

    fn log(&self, refusals: &[Refusal]) {
        for refusal in refusals {
            tracing::warn!(
                guard = refusal.guard,
                value = refusal.value,
                limit = refusal.limit,
                hint = refusal.hint,
                "a guard refused"
            );
        }
        for problem in &self.errors {
            let key = problem.key.as_ref().map(tracing::field::display);
            tracing::error!(
                key,
                code = problem.code,
                error = problem.message,
                "met a problem"
            );
        }
        for held in &self.more.held_back_folders {
            tracing::warn!(
                folder = %held.folder,
                orphans = held.orphans,
                "held back a folder in which nothing is referenced; --allow-unreferenced-folder lets it go"
            );
        }
        for mention in &self.more.held_back_mentions {
            tracing::warn!(
                key = %mention.key,
                name = mention.name,
                "held back an orphan that a name mentions, which means another object or none"
            );
        }
        let counts = &self.counts;
        tracing::info!(
            run_id = %self.run_id,
            status = ?self.status,
            objects_listed = counts.listed,
            orphans = counts.orphans,
            deleted = counts.deleted,
            held_back = self.more.held_back,
            dangling = counts.dangling,
            duration_ms = self.duration_ms,
            "ended the run"
        );
    }
}

/// What becomes known in the course of a run.
#[expect(clippy::struct_field_names, reason = "the contract calls it `run_id`")]
struct Run<'run, J> {
    settings: &'run Settings,
    stop: &'run Stop,
    progress: &'run Progress,
    portions: Portions,
    journal: &'run J,
    run_id: Uuid,
    started_at: Timestamp,
    cutoff: Option<Timestamp>,
    /// Whether a sweep was begun: from then on it alone says what became of the orphans.
    swept: bool,
    /// What the next run is compared with, once every guard approved.
    good: Option<(Series, Latest)>,
    counts: Counts,
    problems: Vec<Problem>,
    /// Whether something was deleted that a row names now, or nobody could ask.
    doubt: bool,
    more: More,
}

impl<J: Journal + Sync> Run<'_, J> {
    /// A dry run disturbs nobody; a sweep waits for no other, it leaves the work to it.
    async fn in_its_turn<W: World>(
        &mut self,
        world: &W,
        reviewed: Option<&Reviewed>,
    ) -> Result<End, RunError> {
        let settings = self.settings;
        if settings.allowed.dry_run {
            return self.work(world, reviewed).await;
        }
        let turn = self.journal.turn(settings.bucket(), &settings.scope);
        match unless(self.stop, turn).await? {
            None => Ok(End::Stopped),
            Some(Turn::Another(refusal)) => Ok(End::Refused(vec![refusal])),
            Some(Turn::Ours(hold)) => during(hold, self.work(world, reviewed)).await,
        }
    }

    async fn work<W: World>(
        &mut self,
        world: &W,
        reviewed: Option<&Reviewed>,
    ) -> Result<End, RunError> {
        match reviewed {
            // Boxed: the futures are large, and deeply nested.
            None => Box::pin(self.carry_out(world)).await,
            Some(reviewed) => Box::pin(self.apply(world, reviewed)).await,
        }
    }

    async fn carry_out<W: World>(&mut self, world: &W) -> Result<End, RunError> {
        let settings = self.settings;
        let stop = self.stop;
        let Some((versioning, storage_now)) = unless(stop, world.ground()).await? else {
            return Ok(End::Stopped);
        };
        let began = Instant::now();
        let ground = Ground {
            local_now: world.clock().now(),
            storage_now,
            versioning,
            standby: false,
        };
        // Not later than the start, even without any grace: time has passed since.
        let started = guards::now(&ground).min(self.started_at);
        let cutoff = cutoff(started, settings.min_age);
        self.cutoff = Some(cutoff);
        let criteria = Criteria {
            scope: settings.scope.clone(),
            cutoff,
        };

        // The snapshot is taken after the cutoff was fixed, so that it sees every row that
        // will ever name an object older than it.
        let Some(snapshot) = unless(stop, world.snapshot()).await? else {
            return Ok(End::Stopped);
        };
        let identity = snapshot.identity().clone();
        let mut refusals = guards::inspect(
            &Ground {
                standby: identity.standby,
                ..ground
            },
            settings.allowed,
        );
        refusals.extend(self.doubt_database(&snapshot.state(), settings.min_age));
        if !refusals.is_empty() {
            return Ok(End::Refused(refusals));
        }

        let series = self.series();
        let latest = self.journal.latest(&series).await?;
        let failed = latest
            .iter()
            .flat_map(|latest| latest.failed.iter().cloned());
        let listed_since = Instant::now();
        let check = world.check(&identity);
        let builder = PlanBuilder::new(settings.max_delete)?
            .within(
                settings.scope.prefix().as_str(),
                settings.unreferenced_folders.clone(),
            )
            .choosing_last(failed.clone());
        let planned = self.plan(builder, world.bucket(), snapshot, &criteria, &check);
        // Beside the listing: neither needs the other.
        let finding = uploads::find(world.bucket(), &criteria, settings.concurrency).map(Ok);
        let both = try_join(planned, finding);
        let Some((mut plan, found)) = unless(stop, both).await? else {
            return Ok(End::Stopped);
        };
        let mut uploads = self.note_uploads(found);
        let doubted = self
            .doubt(world, latest.as_ref(), &identity, &mut plan)
            .await?;
        if matches!(doubted, Doubted::Stopped) {
            return Ok(End::Stopped);
        }
        // Only now is every no known that the manifest is to tell of.
        let refused_by = plan.refusals(&settings.limits);
        self.write_down(&identity, cutoff, &plan, &refused_by)
            .await?;
        let approved = match plan.approve(&settings.limits) {
            Ok(approved) => approved,
            Err(refused) => {
                let (mut refusals, plan) = *refused;
                if matches!(doubted, Doubted::Compared) {
                    refusals.extend(self.explain(world, &plan).await);
                }
                return Ok(End::Refused(refusals));
            }
        };
        self.approved_by_all(
            series,
            latest.as_ref(),
            &identity,
            &doubted,
            approved.plan(),
            failed.collect(),
        );
        if settings.allowed.dry_run {
            return Ok(End::Done);
        }
        let judged = judged(&ground, began, cutoff, Some(listed_since));
        let ended = self.delete(world, &approved, judged, &check).await?;
        if matches!(ended, End::Done) && settings.abort_uploads {
            self.abort_uploads(&mut uploads, &world.deleter(&approved), &check)
                .await;
        }
        Ok(ended)
    }

    /// What follows the guards' approval: the hands that delete are taken up only here.
    async fn delete<W: World>(
        &mut self,
        world: &W,
        approved: &ApprovedPlan,
        mut judged: Judged,
        check: &impl FreshCheck,
    ) -> Result<End, RunError> {
        if approved.plan().spool().is_empty() {
            return Ok(End::Done);
        }
        let deleter = world.deleter(approved);
        let honoured = match self.conditions(&deleter).await? {
            Ok(honoured) => honoured,
            Err(refusal) => return Ok(End::Refused(vec![refusal])),
        };
        // Without conditions the only protection left is a look just before the batch.
        judged.conditional = honoured;
        let memory = RememberingDeleted::new(self.journal, judged.versioning, judged.storage_now)?;
        let hands = Hands {
            delete: &deleter,
            check,
            record: &memory,
            clock: world.clock(),
        };
        let ended = self.sweep(approved, judged, hands).await;
        self.look_back(world, approved, memory.deleted(), check)
            .await;
        ended
    }

    /// Mark and judge: everything before the guards. It has nothing in its hands that
    /// deletes.
    async fn plan(
        &mut self,
        mut builder: PlanBuilder,
        bucket: &(impl Pages + Look + Sync),
        mut snapshot: impl ReferenceSnapshot,
        criteria: &Criteria,
        check: &impl FreshCheck,
    ) -> Result<Plan, RunError> {
        let settings = self.settings;
        {
            let marking = Marking {
                rules: &settings.rules,
                scope: &settings.scope,
                per_chunk: self.portions.references_per_range,
            };
            let names = snapshot.names(settings.rules.keep_order()).await?;
            let chunks = chunks(names, marking);
            let counts = &mut self.counts;
            let note = |so_far: &Counts| {
                *counts = *so_far;
                self.progress.judged(so_far);
            };
            judge(
                &Paced::new(bucket),
                chunks,
                criteria,
                settings.concurrency,
                &mut builder,
                note,
            )
            .await?;
        }
        self.hold_back_mentioned(&mut builder, &mut snapshot, bucket, check)
            .await?;
        // Rows may have been lost under the snapshot; only now is it known to be complete.
        snapshot.finish().await?;
        let mut plan = builder.finish()?;
        plan.check_sum()?;
        dangling::confirm(&mut plan, bucket, check, settings.concurrency).await?;
        self.counts = plan.counts();
        self.tell_of_held_back(&plan);
        Ok(plan)
    }

    /// Holds back what names mention.
    async fn hold_back_mentioned(
        &self,
        builder: &mut PlanBuilder,
        snapshot: &mut impl ReferenceSnapshot,
        look: &(impl Look + Sync),
        check: &impl FreshCheck,
    ) -> Result<(), RunError> {
        let Settings { rules, scope, .. } = self.settings;
        // Where all names are keys and all of them were found, none was read wrongly.
        let is_whole = scope.prefix().as_str().is_empty() && scope.range().is_whole();
        let dangling = builder
            .all_dangling()
            .filter(|_| rules.keep_order() && is_whole)
            .map(<[_]>::to_vec);
        if dangling.as_ref().is_some_and(Vec::is_empty) {
            return Ok(());
        }
        let comparing = Comparing {
            rules,
            scope,
            look,
            at_once: self.settings.concurrency,
        };
        if let Some(dangling) = dangling
            && !check
                .reads_all_names(&dangling.iter().collect::<Vec<_>>())
                .await
        {
            let mentions = mentioned::find_in_dangling(builder, &dangling, comparing).await?;
            builder.hold_back(mentions);
            return Ok(());
        }
        let (mentions, known) = mentioned::find(builder, snapshot, comparing).await?;
        builder.hold_back(mentions);
        check.beware_but_of(known);
        Ok(())
    }

    fn tell_of_held_back(&mut self, plan: &Plan) {
        self.more.held_back = plan.held_back().len();
        let folders = plan.held_folders().iter().take(MAX_PROBLEMS);
        self.more.held_back_folders = folders.cloned().collect();
        self.more.held_back_mentions = plan.mentions().to_vec();
    }

    async fn sweep(
        &mut self,
        plan: &ApprovedPlan,
        judged: Judged,
        hands: Hands<'_, impl Delete + Sync, impl FreshCheck, impl Record + Sync>,
    ) -> Result<End, RunError> {
        let concurrency = self.settings.concurrency;
        let pace = Pace {
            batches_at_once: self.portions.batches_at_once.min(concurrency),
            windows_at_once: self.portions.windows_at_once,
            looks_at_once: concurrency,
            batch_size: self.portions.batch_size,
        };
        let failed = self
            .good
            .iter_mut()
            .flat_map(|(_, good)| good.failed.drain(..));
        let record = RememberingFailed::new(hands.record, failed);
        let hands = Hands {
            delete: hands.delete,
            check: hands.check,
            record: &record,
            clock: hands.clock,
        };
        let swept = sweep(plan, judged, hands, pace, self.stop, |counts| {
            self.progress.swept(counts);
        })
        .await;
        self.swept = true;
        self.counts += swept.counts;
        self.counts.deferred += plan.plan().held_back().len();
        if let Some((_, good)) = &mut self.good {
            good.failed = record.failed();
        }
        self.problems = swept.problems;
        match swept.error {
            Some(error) => Err(error.into()),
            None if swept.stopped => Ok(End::Stopped),
            None => Ok(End::Done),
        }
    }

    /// Writes the plan down, and what it leaves out.
    async fn write_down(
        &self,
        identity: &Identity,
        cutoff: Timestamp,
        plan: &Plan,
        refused_by: &[Refusal],
    ) -> Result<(), RunError> {
        let header = self.header(identity, cutoff, plan, refused_by)?;
        self.journal.plan(&header, plan.spool()).await?;
        if !plan.dangling().is_empty() {
            let told: Vec<_> = plan.dangling().iter().map(shown_key).collect();
            self.journal.dangling(&told).await?;
        }
        if !plan.held_back().is_empty() {
            self.journal.held_back(plan.held_back()).await?;
        }
        Ok(())
    }

    /// Whether the storage honours the condition of a deletion, or the guard's no.
    async fn conditions(&self, deleter: &impl Delete) -> Result<Result<bool, Refusal>, RunError> {
        match probe(deleter, self.settings.scope.prefix()).await {
            Probe::Honoured => Ok(Ok(true)),
            Probe::Unclear => {
                tracing::warn!(
                    "the storage does not show that it honours conditions in batches and for single keys; each object is looked at just before its batch"
                );
                Ok(Ok(false))
            }
            Probe::Ignored if self.settings.allowed.unconditional => Ok(Ok(false)),
            Probe::Ignored => Ok(Err(guards::conditions_ignored())),
            Probe::Failed { code, message } => Err(SweepError::Refused { code, message }.into()),
        }
    }

    fn header(
        &self,
        identity: &Identity,
        cutoff: Timestamp,
        plan: &Plan,
        refused_by: &[Refusal],
    ) -> io::Result<Header> {
        let settings = self.settings;
        Header {
            manifest: manifest::VERSION,
            run_id: self.run_id,
            started_at: self.started_at,
            cutoff,
            bucket: settings.bucket().to_owned(),
            prefix: settings.scope.prefix().clone(),
            after: settings.scope.range().after.clone(),
            up_to: settings.scope.range().up_to.clone(),
            include: settings.scope.include().to_vec(),
            exclude: settings.scope.exclude().to_vec(),
            references: settings.references.text().to_owned(),
            references_sha256: sha256(settings.references.text()),
            reference_form: settings.rules.form,
            reference_prefix: settings.rules.prefix.clone(),
            reference_hosts: settings.rules.hosts.clone(),
            foreign_hosts: settings.rules.foreign_hosts.clone(),
            system_identifier: identity.system_identifier.clone(),
            database: identity.database.clone(),
            schemas: identity.schemas.clone(),
            orphans: plan.spool().len(),
            sha256: plan.spool().sha256().to_owned(),
            refused_by: refused_by.iter().map(|no| no.guard.to_owned()).collect(),
            seal: String::new(),
        }
        .sealed()
    }
}

/// What is read, or nothing when the run is to stop first. Reading is dropped in the middle:
/// it deletes nothing.
async fn unless<T, E>(
    stop: &Stop,
    reading: impl Future<Output = Result<T, E>>,
) -> Result<Option<T>, RunError>
where
    RunError: From<E>,
{
    tokio::select! {
        // In a fixed order, so that a simulated run can be replayed.
        biased;
        read = reading => Ok(Some(read?)),
        () = stop.wait() => Ok(None),
    }
}

/// When a plan was made, as far as a sweep must know. Whether the storage takes conditions is
/// not known yet.
fn judged(
    ground: &Ground,
    began: Instant,
    cutoff: Timestamp,
    listed_since: Option<Instant>,
) -> Judged {
    Judged {
        cutoff,
        listed_since,
        conditional: false,
        storage_now: ground.storage_now,
        local_now: ground.local_now,
        began,
        versioning: ground.versioning,
    }
}

/// What is older than this may be an orphan.
fn cutoff(started: Timestamp, min_age: Duration) -> Timestamp {
    SignedDuration::try_from(min_age)
        .ok()
        .and_then(|grace| started.checked_sub(grace).ok())
        .unwrap_or(Timestamp::MIN)
}
