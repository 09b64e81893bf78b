//! What a run needs of the world, as one thing: a bucket, the references, a ledger, a clock.
//!
//! [`Production`] is the real one; a simulated one stands behind the same trait, so that the
//! same run is hunted there.

use std::future::ready;
use std::sync::OnceLock;

use aws_sdk_s3::Client;
use jiff::Timestamp;
use uuid::Uuid;

use crate::access;
use crate::aws::UndoFunction;
use crate::delegate::Delegated;
use crate::discovery::{self, Discovery, DiscoveryError};
use crate::failure::RunError;
use crate::guards::Versioning;
use crate::hands::{
    Clock, Delete, FreshCheck, Identity, Journal, Look, LookError, ReferenceSnapshot, SnapshotError,
};
use crate::key::ObjectKey;
use crate::ledger::Ledger;
use crate::listing::Pages;
use crate::object::Orphan;
use crate::plan::ApprovedPlan;
use crate::postgres::{ColumnSearch, Database, PrimaryCheck, Relations, Snapshot};
use crate::retention::Retention;
use crate::s3::{Bucket, Deleter, Undeleter};
use crate::settings::Settings;
use crate::sweep::MAX_BATCH;
use crate::undelete::{Claim, TakeBack, Undone};
use crate::uploads::{AbortUpload, ListUploads};

/// How much of the work is taken at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Portions {
    /// References in a range.
    pub references_per_range: usize,
    /// Batches behind one fresh check: a window.
    pub batches_at_once: usize,
    /// Windows under way at once.
    pub windows_at_once: usize,
    /// Orphans in one batch.
    pub batch_size: usize,
}

impl Default for Portions {
    fn default() -> Self {
        Self {
            // Some nine pages' worth, so that the page which straddles a cut, and is listed
            // twice, stays a small part of the whole; a little less, so that a few objects
            // without a reference do not begin a tenth.
            references_per_range: 8_800,
            batches_at_once: 4,
            windows_at_once: 4,
            batch_size: MAX_BATCH,
        }
    }
}

/// Everything that a run touches.
pub trait World {
    /// Who lists and looks.
    type Bucket: Pages + Look + ListUploads + Sync;
    /// Who deletes.
    type Deleter: Delete + AbortUpload + Sync;
    /// Who takes delete markers away.
    type Undeleter: TakeBack;
    /// Who reads the references.
    type Snapshot: ReferenceSnapshot;
    /// Who asks the primary again.
    type Check: FreshCheck;
    /// Who writes down.
    type Journal: Journal + Sync;

    /// How much is taken at a time. A simulated world takes little, so that few objects make
    /// many ranges and batches.
    fn portions(&self) -> Portions {
        Portions::default()
    }

    /// The local clock.
    fn clock(&self) -> &impl Clock;

    /// Whether the bucket keeps versions, and S3's clock: the first question of a run.
    fn ground(&self) -> impl Future<Output = Result<(Versioning, Timestamp), RunError>>;

    /// The bucket, to be read.
    fn bucket(&self) -> &Self::Bucket;

    /// Opens a snapshot of the references.
    fn snapshot(&self) -> impl Future<Output = Result<Self::Snapshot, RunError>>;

    /// Who asks the primary again, which must be the database of that identity.
    fn check(&self, identity: &Identity) -> Self::Check;

    /// The hands that delete. They are only given for a plan that every guard approved.
    fn deleter(&self, approved: &ApprovedPlan) -> Self::Deleter;

    /// The hands that undo a deletion of a plan that was approved, by the run with this id.
    fn undeleter(&self, approved: &ApprovedPlan, run_id: Uuid) -> Self::Undeleter;

    /// How long what is deleted is kept.
    fn retention(&self) -> impl Future<Output = Retention>;

    /// The journal of the run with this id.
    fn journal(&self, run_id: Uuid) -> Self::Journal;

    /// Searches the database for these orphans. (A world that cannot be searched names none.)
    fn discover(&self, _sample: &[ObjectKey]) -> impl Future<Output = Result<Discovery, RunError>> {
        ready(Ok(Discovery::default()))
    }
}

#[derive(Debug)]
struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// S3, PostgreSQL and the machine's clock.
#[derive(Debug)]
pub struct Production<'run> {
    settings: &'run Settings,
    client: &'run Client,
    bucket: Bucket,
    database: Database,
    /// What the first snapshot was planned to read.
    relations: OnceLock<Relations>,
}

impl<'run> Production<'run> {
    /// The world that the settings name.
    #[must_use]
    pub fn new(settings: &'run Settings, client: &'run Client) -> Self {
        if let Some(host) = settings.database.unverified_host() {
            tracing::warn!(
                host,
                "the address of the database asks for less than sslmode=verify-full: somebody on the way could answer in its place"
            );
        }
        Self {
            settings,
            client,
            bucket: Bucket::new(
                client.clone(),
                settings.bucket(),
                settings.scope.prefix().clone(),
            ),
            database: access::database(&settings.database),
            relations: OnceLock::new(),
        }
    }
}

/// Who undoes deletions: the run itself, or the function that alone may.
#[derive(Debug)]
pub enum UndoHands {
    /// With the run's own rights.
    Own(Undeleter),
    /// By the function that was named.
    Function(Box<Delegated<Undeleter, UndoFunction>>),
}

impl TakeBack for UndoHands {
    async fn take_back(&self, deletions: &[(&Orphan, Claim)]) -> Vec<Result<Undone, LookError>> {
        match self {
            Self::Own(hands) => hands.take_back(deletions).await,
            Self::Function(hands) => hands.take_back(deletions).await,
        }
    }

    async fn only_look(&self, deletions: &[(&Orphan, Claim)]) -> Vec<Result<Undone, LookError>> {
        match self {
            Self::Own(hands) => hands.only_look(deletions).await,
            Self::Function(hands) => hands.only_look(deletions).await,
        }
    }
}

impl World for Production<'_> {
    type Bucket = Bucket;
    type Deleter = Deleter;
    type Undeleter = UndoHands;
    type Snapshot = Snapshot;
    type Check = PrimaryCheck;
    type Journal = Ledger;

    fn clock(&self) -> &impl Clock {
        &SystemClock
    }

    async fn ground(&self) -> Result<(Versioning, Timestamp), RunError> {
        Ok(self.bucket.ground().await?)
    }

    fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    async fn snapshot(&self) -> Result<Snapshot, RunError> {
        let opened = Snapshot::open(&self.database, &self.settings.references).await;
        let opened = opened.map_err(SnapshotError::from)?;
        self.relations.get_or_init(|| opened.relations().clone());
        Ok(opened)
    }

    fn check(&self, identity: &Identity) -> PrimaryCheck {
        let check = PrimaryCheck::new(
            self.database.clone(),
            self.settings.references.clone(),
            self.settings.rules.clone(),
            identity.clone(),
        );
        match self.relations.get() {
            Some(relations) => check.of_relations(relations.clone()),
            None => check,
        }
    }

    fn deleter(&self, _approved: &ApprovedPlan) -> Deleter {
        Deleter::new(self.bucket.clone())
    }

    fn undeleter(&self, _approved: &ApprovedPlan, run_id: Uuid) -> UndoHands {
        let own = Undeleter::new(self.bucket.clone());
        match &self.settings.undo_function {
            None => UndoHands::Own(own),
            Some(arn) => UndoHands::Function(Box::new(Delegated {
                looks: own,
                restorer: UndoFunction::new(arn.clone(), run_id),
            })),
        }
    }

    async fn retention(&self) -> Retention {
        self.bucket.retention().await
    }

    fn journal(&self, run_id: Uuid) -> Ledger {
        Ledger::new(&self.settings.report, self.client, run_id)
    }

    async fn discover(&self, sample: &[ObjectKey]) -> Result<Discovery, RunError> {
        let settings = self.settings;
        let failed = |error: crate::postgres::DatabaseError| DiscoveryError(error.into());
        let mut search = ColumnSearch::open(&self.database, &settings.references)
            .await
            .map_err(failed)?;
        let found = discovery::discover(
            sample,
            &settings.rules,
            &settings.not_references,
            &mut search,
            &self.bucket,
        )
        .await?;
        search.close().await.map_err(failed)?;
        Ok(found)
    }
}
