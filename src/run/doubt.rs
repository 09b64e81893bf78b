//! The part of a run that doubts a plan: by the last good run, by what else the database
//! names, by the state that the database is in.

use super::{Run, unless};
use crate::chain::chain;
use crate::failure::RunError;
use crate::guards::{self, DatabaseState};
use crate::hands::{Journal, Latest, Series};
use crate::key::ObjectKey;
use crate::manifest::sha256;
use crate::plan::Plan;
use crate::summary::Refusal;
use crate::world::World;

impl<J: Journal + Sync> Run<'_, J> {
    /// The guards on the state of the database.
    pub(super) fn doubt_database(&self, state: &DatabaseState) -> Vec<Refusal> {
        let doubts = &self.settings.doubts;
        guards::old_transactions(state, self.settings.min_age, doubts)
            .into_iter()
            .chain(guards::replica_lag(state, doubts))
            .collect()
    }

    /// Compares the plan with the last good run or, when it is the first, looks for its
    /// orphans in the whole database: nobody has looked at this query's orphans yet. Nothing
    /// when the run is to stop first.
    pub(super) async fn doubt<W: World>(
        &self,
        world: &W,
        latest: Option<&Latest>,
        plan: &mut Plan,
    ) -> Result<Option<()>, RunError> {
        let refusal = if let Some(latest) = latest {
            let now = plan.counts().referenced;
            let doubts = &self.settings.doubts;
            guards::referenced_drop(latest.referenced, now, plan.examples(), doubts)
        } else {
            let searched = world.discover(plan.sample());
            let Some(found) = unless(self.stop, searched).await? else {
                return Ok(None);
            };
            found.log();
            guards::forgotten_references(&found)
        };
        if let Some(refusal) = refusal {
            plan.refuse(refusal);
        }
        Ok(Some(()))
    }

    /// Keeps what the next run is compared with.
    pub(super) fn approved_by_all(&mut self, series: Series, plan: &Plan, failed: Vec<ObjectKey>) {
        let latest = Latest {
            run_id: self.run_id,
            started_at: self.started_at,
            referenced: plan.counts().referenced,
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
