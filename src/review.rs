//! The guards on a manifest that people reviewed, before it is applied.
//!
//! A manifest is never trusted about the present: every key of it is judged again. These
//! guards say when not even that should be begun.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::guards::{self, Figures};
use crate::hands::Identity;
use crate::key::{ObjectKey, escape};
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
        && header.database == identity.database
        && (header.schemas.is_empty() || header.schemas == identity.schemas);
    (!same).then(|| {
        refusal(
            "other_database",
            1.0,
            0.0,
            format!(
                "the plan was made from database {} (schemas {}) on {}, and this is {identity}; connect to that one as that role, or plan again (no flag allows this)",
                escape(&header.database),
                escape(&header.schemas.join(", ")),
                escape(&header.system_identifier)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::Counts;

    fn header() -> Header {
        serde_json::from_str(include_str!("../tests/fuzz/corpus/manifest/header")).unwrap()
    }

    fn names(refusals: &[Refusal]) -> Vec<&str> {
        refusals.iter().map(|refusal| refusal.guard).collect()
    }

    #[test]
    fn a_plan_is_applied_within_a_week_and_not_from_the_future() {
        let header = header();
        let after = |seconds: i64| {
            inspect(
                &header,
                header.started_at + SignedDuration::from_secs(seconds),
            )
        };
        let week = 7 * 24 * 3_600;
        for seconds in [-300, 0, week] {
            assert_eq!(names(&after(seconds)), [""; 0], "{seconds}");
        }
        for seconds in [-301, week + 1] {
            assert_eq!(names(&after(seconds)), ["manifest_age"], "{seconds}");
        }
        let refusal = &after(2 * week)[0];
        assert_eq!((refusal.value, refusal.limit), (14.0, 7.0));
        assert!(refusal.hint.contains("plan again"), "{}", refusal.hint);
    }

    #[test]
    fn a_plan_that_a_guard_refused_is_not_applied() {
        let header = Header {
            refused_by: vec!["orphan_percent\n".to_owned()],
            ..header()
        };
        let refusals = inspect(&header, header.started_at);
        assert_eq!(names(&refusals), ["refused_plan"]);
        assert!(refusals[0].hint.contains("the guard orphan_percent\\n;"));
    }

    #[test]
    fn a_plan_is_applied_to_its_own_database_only() {
        let header = Header {
            schemas: vec!["app".to_owned(), "public".to_owned()],
            ..header()
        };
        let identity = |system_identifier: &str, database: &str, schemas: &[&str]| Identity {
            system_identifier: system_identifier.to_owned(),
            database: database.to_owned(),
            standby: false,
            schemas: schemas.iter().map(|&schema| schema.to_owned()).collect(),
        };
        let own = identity(
            &header.system_identifier,
            &header.database,
            &["app", "public"],
        );
        assert_eq!(same_database(&header, &own), None);
        let of_before = Header {
            schemas: Vec::new(),
            ..header.clone()
        };
        assert_eq!(same_database(&of_before, &own), None);
        let (system, database) = (&header.system_identifier, &header.database);
        for other in [
            identity("8", database, &["app", "public"]),
            identity(system, "copy", &["app", "public"]),
            identity("8", "copy", &["app", "public"]),
            identity(system, database, &["public", "app"]),
            identity(system, database, &["public"]),
            identity(system, database, &[]),
        ] {
            let refusal = same_database(&header, &other).unwrap();
            assert_eq!(refusal.guard, "other_database");
            assert!(refusal.hint.contains(&header.database), "{}", refusal.hint);
        }
    }

    #[test]
    fn rows_may_name_a_few_of_the_keys_again() {
        let orphans = ["a", "b", "c", "d"].map(ObjectKey::new);
        let judged = |[listed, referenced, references]: [u64; 3]| {
            judge(&Figures {
                counts: Counts {
                    listed,
                    referenced,
                    references,
                    ..Counts::default()
                },
                orphans: &orphans,
                dangling: &[],
                newest_referenced: None,
                newest_orphans: &[],
            })
        };
        assert_eq!(
            names(&judged([0, 0, 0])),
            [""; 0],
            "nothing is left to delete"
        );
        assert_eq!(names(&judged([9, 0, 1])), [""; 0]);
        let none = judged([1, 0, 0]);
        assert_eq!(names(&none), ["no_references"]);
        assert_eq!(none[0].examples, orphans[..3]);
        for (listed, allowed) in [(20, 10), (1_000, 10), (5_099, 50)] {
            assert_eq!(names(&judged([listed, allowed, 99])), [""; 0]);
            let refusals = judged([listed, allowed + 1, 99]);
            assert_eq!(names(&refusals), ["outdated_plan"]);
            #[expect(clippy::cast_precision_loss, reason = "a few")]
            let figures = ((allowed + 1) as f64, allowed as f64);
            assert_eq!((refusals[0].value, refusals[0].limit), figures);
        }
    }
}
