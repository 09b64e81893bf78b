//! A run over what a reviewed manifest lists: no more than that is deleted, and each key of it
//! is judged again, by a snapshot taken now, the fresh check, its age and its ETag.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{End, Run, judged, unless};
use crate::failure::RunError;
use crate::guards::{self, Ground};
use crate::hands::{Clock as _, FreshCheck, Journal, Look, ReferenceSnapshot};
use crate::judge::judge;
use crate::mark::{Marking, chunks};
use crate::merge::{Criteria, Findings};
use crate::plan::{Plan, PlanBuilder};
use crate::review;
use crate::reviewed::Reviewed;
use crate::summary::Counts;
use crate::world::World;

/// Ranges at once: the pages come from a file of this machine.
const RANGES_AT_ONCE: usize = 1;

impl<J: Journal + Sync> Run<'_, J> {
    pub(super) async fn apply<W: World>(
        &mut self,
        world: &W,
        reviewed: &Reviewed,
    ) -> Result<End, RunError> {
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
        let started = guards::now(&ground);
        let cutoff = reviewed.header().cutoff;
        self.cutoff = Some(cutoff);
        let mut refusals = review::inspect(reviewed.header(), started);
        refusals.extend(guards::inspect(&ground, settings.allowed));
        if !refusals.is_empty() {
            return Ok(End::Refused(refusals));
        }

        let Some(snapshot) = unless(stop, world.snapshot()).await? else {
            return Ok(End::Stopped);
        };
        let identity = snapshot.identity().clone();
        let standby = Ground {
            standby: identity.standby,
            ..ground
        };
        let mut refusals = guards::inspect(&standby, settings.allowed);
        // The one that the plan was made with: to a transaction older than that it was blind.
        let grace = reviewed.header().started_at.duration_since(cutoff);
        let grace = Duration::try_from(grace).unwrap_or_default();
        refusals.extend(self.doubt_database(&snapshot.state(), grace));
        refusals.extend(review::same_database(reviewed.header(), &identity));
        if !refusals.is_empty() {
            return Ok(End::Refused(refusals));
        }

        let check = world.check(&identity);
        let judging = self.judge_again(world.bucket(), &check, reviewed, snapshot, cutoff);
        let Some(plan) = unless(stop, judging).await? else {
            return Ok(End::Stopped);
        };
        let refused_by = plan.reviewed_refusals();
        self.write_down(&identity, cutoff, &plan, &refused_by)
            .await?;
        let approved = match plan.approve_reviewed() {
            Ok(approved) => approved,
            Err(refused) => return Ok(End::Refused(refused.0)),
        };
        if settings.allowed.dry_run {
            return Ok(End::Done);
        }
        // The manifest was listed long ago: every object is looked at again.
        let judged = judged(&ground, began, cutoff, None);
        self.delete(world, &approved, judged, &check).await
    }

    /// The manifest's keys against the references of now.
    async fn judge_again(
        &mut self,
        look: &(impl Look + Sync),
        check: &impl FreshCheck,
        reviewed: &Reviewed,
        mut snapshot: impl ReferenceSnapshot,
        cutoff: Timestamp,
    ) -> Result<Plan, RunError> {
        let settings = self.settings;
        let criteria = Criteria {
            scope: settings.scope.clone(),
            cutoff,
        };
        let mut builder = PlanBuilder::new(settings.max_delete)?;
        builder.add(Findings {
            counts: reviewed.left_out(),
            ..Findings::default()
        })?;
        {
            let marking = Marking {
                rules: &settings.rules,
                scope: &settings.scope,
                per_chunk: self.portions.references_per_range,
            };
            let names = snapshot.names(settings.rules.keep_order()).await?;
            let counts = &mut self.counts;
            let note = |so_far: &Counts| {
                // Most references lie elsewhere than in the manifest; they miss nothing.
                *counts = Counts {
                    dangling: 0,
                    ..*so_far
                };
                self.progress.judged(so_far);
            };
            judge(
                reviewed,
                chunks(names, marking),
                &criteria,
                RANGES_AT_ONCE,
                &mut builder,
                note,
            )
            .await?;
        }
        self.hold_back_mentioned(&mut builder, &mut snapshot, look, check)
            .await?;
        snapshot.finish().await?;
        let mut plan = builder.finish()?;
        plan.check_sum()?;
        plan.forget_dangling();
        self.counts = plan.counts();
        self.tell_of_held_back(&plan);
        Ok(plan)
    }
}
