//! The part of a run that doubts a plan: by the last good run, by what else the database
//! names, by the state that the database is in.

use super::{Run, unless};
use crate::chain::chain;
use crate::failure::RunError;
use crate::guards::{self, DatabaseState};
use crate::hands::{Journal, Latest, Series};
use crate::key::ObjectKey;
use crate::manifest::sha256;
use crate::plan::{Plan, SAMPLE};
use crate::summary::Refusal;
use crate::world::World;

/// How a plan was doubted.
pub(super) enum Doubted {
    /// Not: the run is to stop.
    Stopped,
    /// By the last good run only.
    Compared,
    /// By what the database says of so many orphans.
    Searched(u64),
}

impl<J: Journal + Sync> Run<'_, J> {
    /// The guards on the state of the database.
    pub(super) fn doubt_database(&self, state: &DatabaseState) -> Vec<Refusal> {
        let doubts = &self.settings.doubts;
        guards::old_transactions(state, self.settings.min_age, doubts)
            .into_iter()
            .chain(guards::replica_lag(state, doubts))
            .collect()
    }

    /// Compares the plan with the last good run and, until as many as a whole sample were
    /// looked for, looks for its orphans in the whole database: the orphans of a new query
    /// have been seen by nobody yet.
    pub(super) async fn doubt<W: World>(
        &self,
        world: &W,
        latest: Option<&Latest>,
        plan: &mut Plan,
    ) -> Result<Doubted, RunError> {
        if let Some(latest) = latest {
            let now = plan.counts().referenced;
            let doubts = &self.settings.doubts;
            let dropped = guards::referenced_drop(latest.referenced, now, plan.examples(), doubts);
            if let Some(refusal) = dropped {
                plan.refuse(refusal);
            }
        }
        let searched = latest.map_or(0, |latest| latest.searched);
        if searched >= SAMPLE as u64 || plan.sample().is_empty() {
            return Ok(Doubted::Compared);
        }
        let search = world.discover(plan.sample());
        let Some(found) = unless(self.stop, search).await? else {
            return Ok(Doubted::Stopped);
        };
        found.log();
        if let Some(refusal) = guards::forgotten_references(&found) {
            plan.refuse(refusal);
        }
        Ok(Doubted::Searched(plan.sample().len() as u64))
    }

    /// Keeps what the next run is compared with.
    pub(super) fn approved_by_all(
        &mut self,
        series: Series,
        before: Option<&Latest>,
        doubted: &Doubted,
        plan: &Plan,
        failed: Vec<ObjectKey>,
    ) {
        let searched = match doubted {
            Doubted::Searched(now) => *now,
            Doubted::Compared | Doubted::Stopped => 0,
        };
        let latest = Latest {
            run_id: self.run_id,
            started_at: self.started_at,
            referenced: plan.counts().referenced,
            searched: before.map_or(0, |before| before.searched) + searched,
            failed,
        };
        self.good = Some((series, latest));
    }

    /// What a refused plan's orphans are named by: it may tell why the guards said no.
    pub(super) async fn explain<W: World>(&self, world: &W, plan: &Plan) -> Option<Refusal> {
        match unless(self.stop, world.discover(plan.sample())).await {
            Ok(found) => {
                let found = found?;
                found.log();
                guards::forgotten_references(&found)
            }
            Err(error) => {
                // The answer is no already.
                tracing::warn!(error = chain(&error), "could not search the database");
                None
            }
        }
    }

    /// Which runs this one is compared with.
    pub(super) fn series(&self) -> Series {
        let settings = self.settings;
        Series {
            bucket: settings.bucket().to_owned(),
            prefix: settings.scope.prefix().clone(),
            include: settings.scope.include().to_vec(),
            exclude: settings.scope.exclude().to_vec(),
            references_sha256: sha256(settings.references.text()),
        }
    }
}
