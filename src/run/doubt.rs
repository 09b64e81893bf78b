//! The part of a run that doubts a plan: by the last good run, by what else the database
//! names, by the state that the database is in.

use std::time::Duration;

use super::{Run, unless};
use crate::chain::chain;
use crate::failure::RunError;
use crate::guards::{self, DatabaseState};
use crate::hands::{Identity, Journal, Latest, Series};
use crate::key::{KeyRange, ObjectKey};
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
    /// By what the database says of so many orphans; of none, where the search did not come to
    /// its end.
    Searched(u64),
}

impl<J: Journal + Sync> Run<'_, J> {
    /// The guards on the state of the database.
    pub(super) fn doubt_database(&self, state: &DatabaseState, grace: Duration) -> Vec<Refusal> {
        let doubts = &self.settings.doubts;
        guards::old_transactions(state, grace, doubts)
            .into_iter()
            .chain(guards::replica_lag(state, doubts))
            .collect()
    }

    /// Tells of globs that were to protect something and match nothing: one may be misspelt. (A
    /// part of a distributed run sees only a part.)
    fn warn_of_unused_excludes(&self, plan: &Plan) {
        let scope = &self.settings.scope;
        if *scope.range() != KeyRange::default() {
            return;
        }
        for (place, glob) in scope.exclude().iter().enumerate() {
            if !plan.is_exclude_used(place) {
                tracing::warn!(
                    glob,
                    prefix = %scope.prefix(),
                    "no object below the prefix matches a glob of --exclude"
                );
            }
        }
    }

    /// Compares the plan with the last good run and, until as many as a whole sample were
    /// looked for, looks for its orphans in the whole database: the orphans of a new query
    /// have been seen by nobody yet.
    pub(super) async fn doubt<W: World>(
        &self,
        world: &W,
        latest: Option<&Latest>,
        identity: &Identity,
        plan: &mut Plan,
    ) -> Result<Doubted, RunError> {
        self.warn_of_unused_excludes(plan);
        if let Some(latest) = latest {
            let now = plan.counts().referenced;
            let doubts = &self.settings.doubts;
            let dropped = guards::referenced_drop(latest.referenced, now, plan.examples(), doubts);
            if let Some(refusal) = dropped {
                plan.refuse(refusal);
            }
        }
        let searched = self.searched_before(latest, identity);
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
        let searched = if found.unfinished {
            0
        } else {
            plan.sample().len() as u64
        };
        Ok(Doubted::Searched(searched))
    }

    /// How many orphans were looked for by the rules of this run: other rules miss other names, and
    /// in other schemas stand other tables.
    fn searched_before(&self, latest: Option<&Latest>, identity: &Identity) -> u64 {
        let rules = self.rules_sha256(identity);
        latest
            .filter(|latest| latest.rules_sha256 == rules)
            .map_or(0, |latest| latest.searched)
    }

    fn rules_sha256(&self, identity: &Identity) -> String {
        let rules = &self.settings.rules;
        let columns = &self.settings.not_references;
        sha256(&format!(
            "{:?}",
            (
                (
                    rules.form,
                    &rules.prefix,
                    &rules.hosts,
                    &rules.foreign_hosts
                ),
                columns.iter().map(ToString::to_string).collect::<Vec<_>>(),
                (
                    &identity.system_identifier,
                    &identity.database,
                    &identity.schemas,
                ),
            )
        ))
    }

    /// Keeps what the next run is compared with.
    pub(super) fn approved_by_all(
        &mut self,
        series: Series,
        before: Option<&Latest>,
        identity: &Identity,
        doubted: &Doubted,
        plan: &Plan,
        failed: Vec<ObjectKey>,
    ) {
        let searched = match doubted {
            Doubted::Searched(now) => *now,
            Doubted::Compared | Doubted::Stopped => 0,
        };
        let mut latest = Latest {
            run_id: self.run_id,
            started_at: self.started_at,
            referenced: plan.counts().referenced,
            searched: self.searched_before(before, identity) + searched,
            rules_sha256: self.rules_sha256(identity),
            failed,
        };
        // Whoever only looks, perhaps with a raised limit, has decided nothing: the next run
        // that deletes is held to what it would have been held to.
        if self.settings.allowed.dry_run || self.settings.max_delete == Some(0) {
            latest.referenced = latest
                .referenced
                .max(before.map_or(0, |before| before.referenced));
            latest.searched = before.map_or(0, |before| before.searched);
            if let Some(before) = before {
                latest.rules_sha256.clone_from(&before.rules_sha256);
            }
        }
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
            range: settings.scope.range().clone(),
            include: settings.scope.include().to_vec(),
            exclude: settings.scope.exclude().to_vec(),
            references_sha256: sha256(settings.references.text()),
        }
    }
}
