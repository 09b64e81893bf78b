//! The guards on a manifest that people reviewed, before it is applied.
//!
//! A manifest is never trusted about the present: every key of it is judged again. These
//! guards say when not even that should be begun.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::guards::{self, Figures};
use crate::hands::Identity;
use crate::key::ObjectKey;
use crate::manifest::Header;
use crate::summary::Refusal;

/// The oldest plan that is applied. Each key is judged again, so an old plan is not unsafe;
/// but nobody remembers what was looked at, and a plan costs minutes.
pub const MAX_AGE: Duration = Duration::from_hours(7 * 24);

/// So many keys of a manifest may be named meanwhile, beside 1 % of it.
pub const MAX_NAMED: u64 = 10;

/// What can be told from the header and the clock.
#[must_use]
pub fn inspect(header: &Header, now: Timestamp) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    if let Some(guard) = header.refused_by.first() {
        refusals.push(refusal(
            "refused_plan",
            1.0,
            0.0,
            format!(
                "the plan was itself refused by the guard {}; plan again with the flag that its refusal names, and review that plan",
                crate::key::escape(guard)
            ),
        ));
    }
    let age = now.duration_since(header.started_at);
    let longest = SignedDuration::try_from(MAX_AGE).unwrap_or(SignedDuration::MAX);
    let skew = SignedDuration::try_from(guards::MAX_CLOCK_SKEW).unwrap_or(SignedDuration::MAX);
    if age > longest || age < -skew {
        let days = |time: SignedDuration| time.as_secs_f64() / 86_400.0;
        refusals.push(refusal(
            "manifest_age",
            days(age),
            days(longest),
            format!(
                "the manifest was made at {}, which is not within the last 7 days; plan again (no flag allows this)",
                header.started_at
            ),
        ));
    }
    refusals
}

/// Whether the database is the one that the plan was made from.
#[must_use]
pub fn same_database(header: &Header, identity: &Identity) -> Option<Refusal> {
    let same = header.system_identifier == identity.system_identifier
        && header.database == identity.database;
    (!same).then(|| {
        refusal(
            "other_database",
            1.0,
            0.0,
            format!(
                "the plan was made from database {} on {}, and this is {identity}; connect to that one, or plan again (no flag allows this)",
                crate::key::escape(&header.database), crate::key::escape(&header.system_identifier)
            ),
        )
    })
}

/// What is asked of the manifest's keys after they were judged again.
#[must_use]
pub fn judge(figures: &Figures<'_>) -> Vec<Refusal> {
    let counts = figures.counts;
    let mut refusals = Vec::new();
    if counts.references == 0 && counts.listed > 0 {
        refusals.push(Refusal {
            examples: some(figures.orphans),
            ..refusal(
                "no_references",
                0.0,
                1.0,
                "the references query names no key below the prefix now; check the database (no flag allows this)".to_owned(),
            )
        });
    }
    // A few rows that name old keys again are what the check is for; many mean that the plan
    // knows another database than this one.
    let allowed = MAX_NAMED.max(counts.listed / 100);
    if counts.referenced > allowed {
        #[expect(
            clippy::cast_precision_loss,
            reason = "figures for people; exact below 2^53"
        )]
        let (value, limit) = (counts.referenced as f64, allowed as f64);
        refusals.push(refusal(
            "outdated_plan",
            value,
            limit,
            format!(
                "rows name {} of the manifest's {} keys now; the plan is out of date, or was made from references that were not complete: plan again (no flag allows this)",
                counts.referenced, counts.listed
            ),
        ));
    }
    refusals
}

fn refusal(guard: &'static str, value: f64, limit: f64, hint: String) -> Refusal {
    Refusal {
        guard,
        value,
        limit,
        hint,
        examples: Vec::new(),
    }
}

fn some(keys: &[ObjectKey]) -> Vec<ObjectKey> {
    keys.iter().take(guards::EXAMPLES).cloned().collect()
}
