//! The guards: checks on the whole plan before the first deletion. Each no names the
//! figure, the limit, examples, and the way on.

mod doubt;

pub use doubt::{
    DROPPED, DatabaseState, Doubts, OpenTransaction, forgotten_references, old_transactions,
    referenced_drop, replica_lag, too_many_folders,
};

use std::time::Duration;

use jiff::Timestamp;

use crate::key::ObjectKey;
use crate::names::shown_key;
use crate::summary::{Counts, Refusal};

/// How many keys a refusal names.
pub const EXAMPLES: usize = 3;

/// So many orphans newer than the newest referenced object look like a stale copy of the
/// database.
pub const NEWER_ORPHANS: usize = 20;

/// How far the local clock and S3's may be apart. Beyond this S3 itself refuses signed
/// requests after 15 minutes; a grace period is not to be eaten by a wrong clock.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_mins(5);

/// What the guards hold a plan to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Of `orphans / (referenced + orphans)`; strictly above refuses.
    pub max_orphan_percent: f64,
    /// Of `dangling / references`; strictly above refuses.
    pub max_dangling_percent: f64,
    /// Whether orphans may be newer than every referenced object.
    pub allow_newer_orphans: bool,
}

/// Whether a bucket keeps what is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versioning {
    /// A deletion leaves a delete marker and can be undone.
    Enabled,
    /// A deletion destroys what was written since. What was written before is kept below a
    /// delete marker with the id `null`, and no program can safely take that away.
    Suspended,
    /// A deletion destroys.
    Off,
}

/// What is known before anything was listed.
#[derive(Debug, Clone, Copy)]
pub struct Ground {
    /// The local clock at the start.
    pub local_now: Timestamp,
    /// S3's clock at the start.
    pub storage_now: Timestamp,
    /// Whether the bucket keeps versions.
    pub versioning: Versioning,
    /// Whether the database is a standby.
    pub standby: bool,
}

/// What a person allowed of that.
#[derive(Debug, Clone, Copy, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the contract"
)]
pub struct Allowances {
    /// Nothing is to be deleted.
    pub dry_run: bool,
    /// Deletion may be final.
    pub unversioned: bool,
    /// References may be read from a standby.
    pub replica: bool,
    /// The storage may ignore conditions on the entity tag.
    pub unconditional: bool,
}

/// The guard on a storage that ignores conditions on the entity tag, as some that speak
/// S3's protocol do: it would delete an object that was uploaded again a moment ago.
#[must_use]
pub fn conditions_ignored() -> Refusal {
    Refusal {
        guard: "conditions_ignored",
        value: 0.0,
        limit: 1.0,
        hint: "the storage deletes without looking at the ETag condition, so an object that is uploaded again at the wrong moment would be lost; \
               use a storage that honours If-Match, or accept that with --allow-unconditional: each object is then looked at just before its batch"
            .to_owned(),
        examples: Vec::new(),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "figures for people; exact below 2^53"
)]
fn figure(count: u64) -> f64 {
    count as f64
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        100.0 * figure(part) / figure(whole)
    }
}

/// The lower of both clocks: an object can only seem newer by it, never older.
#[must_use]
pub fn now(ground: &Ground) -> Timestamp {
    ground.local_now.min(ground.storage_now)
}

/// The guards that need no listing.
#[must_use]
pub fn inspect(ground: &Ground, allowed: Allowances) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    let refuse = |guard, value, limit, hint: &str| Refusal {
        guard,
        value,
        limit,
        hint: hint.to_owned(),
        examples: Vec::new(),
    };

    let skew = ground
        .local_now
        .duration_since(ground.storage_now)
        .unsigned_abs();
    if skew > MAX_CLOCK_SKEW {
        refusals.push(refuse(
            "clocks_apart",
            skew.as_secs_f64(),
            MAX_CLOCK_SKEW.as_secs_f64(),
            "the local clock and S3's are this many seconds apart, so the age of objects cannot be told; set the clock of this machine (no flag allows this)",
        ));
    }
    if ground.standby && !allowed.replica {
        refusals.push(refuse(
            "standby",
            1.0,
            0.0,
            "the database is a standby, which may lack the newest rows; connect to the primary, or read from a standby for a dry run with --allow-replica",
        ));
    } else if ground.standby && !allowed.dry_run {
        refusals.push(refuse(
            "standby",
            1.0,
            0.0,
            "the fresh check before each deletion needs the primary; connect to it, or keep --allow-replica for --dry-run and `plan`",
        ));
    }
    if ground.versioning != Versioning::Enabled && !allowed.dry_run && !allowed.unversioned {
        let state = if ground.versioning == Versioning::Suspended {
            "suspended, so a deletion is final for what was written since, and cannot be undone by `restore`"
        } else {
            "off, so a deletion is final"
        };
        refusals.push(refuse(
            "unversioned",
            0.0,
            1.0,
            &format!(
                "versioning of the bucket is {state}; enable it (aws s3api put-bucket-versioning --versioning-configuration Status=Enabled), or accept that with --allow-unversioned"
            ),
        ));
    }
    refusals
}

/// What the guards look at of a plan.
#[derive(Debug, Clone, Copy)]
pub struct Figures<'plan> {
    /// Everything that was counted.
    pub counts: Counts,
    /// Some orphans, to be named.
    pub orphans: &'plan [ObjectKey],
    /// References without an object, as far as they are named.
    pub dangling: &'plan [ObjectKey],
    /// When the newest referenced object was written.
    pub newest_referenced: Option<Timestamp>,
    /// The newest orphans, at most [`NEWER_ORPHANS`], in no order.
    pub newest_orphans: &'plan [(Timestamp, ObjectKey)],
}

/// The guards on the whole plan.
#[must_use]
pub fn judge(figures: &Figures<'_>, limits: &Limits) -> Vec<Refusal> {
    let counts = figures.counts;
    let mut refusals = Vec::new();
    let mut refuse = |guard, value, limit, hint: String, examples: &[ObjectKey]| {
        refusals.push(Refusal {
            guard,
            value,
            limit,
            hint,
            examples: examples.iter().take(EXAMPLES).map(shown_key).collect(),
        });
    };
    if counts.references == 0 {
        // Also with nothing to delete: a query that yields nothing is worth a word.
        if counts.listed > 0 {
            refuse(
                "no_references",
                0.0,
                1.0,
                "the references query names no key below the prefix; check the query, the database and --reference-prefix (no flag allows this)".to_owned(),
                figures.orphans,
            );
        }
    } else if counts.referenced == 0 && counts.orphans > 0 {
        refuse(
            "nothing_matched",
            0.0,
            1.0,
            "not one object in scope is named by the database; its names and the bucket's keys probably differ in form: check --reference-prefix and --reference-form (no flag allows this)".to_owned(),
            figures.orphans,
        );
    }
    let orphan_percent = percent(counts.orphans, counts.referenced + counts.orphans);
    if orphan_percent > limits.max_orphan_percent {
        refuse(
            "orphan_percent",
            orphan_percent,
            limits.max_orphan_percent,
            format!(
                "{} of {} objects are orphans, more than expected; a reference that the query forgets looks like this: look at the examples, then raise --max-orphan-percent",
                counts.orphans,
                counts.referenced + counts.orphans
            ),
            figures.orphans,
        );
    }
    let dangling_percent = percent(counts.dangling, counts.references);
    if dangling_percent > limits.max_dangling_percent {
        refuse(
            "dangling_percent",
            dangling_percent,
            limits.max_dangling_percent,
            format!(
                "{} of {} references have no object; names of another bucket or form look like this: look at the examples, then raise --max-dangling-percent",
                counts.dangling, counts.references
            ),
            figures.dangling,
        );
    }
    if let Some(newest) = figures
        .newest_referenced
        .filter(|_| !limits.allow_newer_orphans)
    {
        let newer: Vec<ObjectKey> = figures
            .newest_orphans
            .iter()
            .filter(|(at, _)| *at > newest)
            .map(|(_, key)| key.clone())
            .collect();
        if newer.len() >= NEWER_ORPHANS {
            refuse(
                "newer_orphans",
                figure(newer.len() as u64),
                figure(NEWER_ORPHANS as u64),
                format!(
                    "at least {} orphans are newer than the newest referenced object ({newest}); a stale copy of the database looks like this: check that it is the live one, then allow it with --allow-newer-orphans",
                    newer.len()
                ),
                &newer,
            );
        }
    }
    refusals
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        max_orphan_percent: 50.0,
        max_dangling_percent: 50.0,
        allow_newer_orphans: false,
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn key(index: u64) -> ObjectKey {
        ObjectKey::new(format!("{index}.png"))
    }

    /// What the guards say of a plan with so many orphans, all written at second 1,000.
    fn refusals(
        [referenced, orphans, dangling]: [u64; 3],
        newest_referenced: i64,
        limits: &Limits,
    ) -> Vec<Refusal> {
        let counts = Counts {
            listed: referenced + orphans,
            referenced,
            orphans,
            references: referenced + dangling,
            dangling,
            ..Counts::default()
        };
        let keys = |count: u64| (0..count).map(key).collect::<Vec<_>>();
        let newest_orphans: Vec<_> = keys(orphans.min(20))
            .into_iter()
            .map(|key| (at(1_000), key))
            .collect();
        let figures = Figures {
            counts,
            orphans: &keys(orphans),
            dangling: &keys(dangling),
            newest_referenced: (referenced > 0).then(|| at(newest_referenced)),
            newest_orphans: &newest_orphans,
        };
        judge(&figures, limits)
    }

    fn guards(counts: [u64; 3], newest_referenced: i64, limits: &Limits) -> Vec<&'static str> {
        refusals(counts, newest_referenced, limits)
            .into_iter()
            .map(|refusal| refusal.guard)
            .collect()
    }

    #[test]
    fn each_guard_says_no_just_above_its_limit() {
        assert_eq!(guards([10, 10, 10], 1_000, &LIMITS), [""; 0]);
        assert_eq!(guards([10, 11, 0], 1_000, &LIMITS), ["orphan_percent"]);
        assert_eq!(guards([10, 0, 11], 1_000, &LIMITS), ["dangling_percent"]);
        assert_eq!(guards([30, 19, 0], 999, &LIMITS), [""; 0]);
        assert_eq!(guards([30, 20, 0], 999, &LIMITS), ["newer_orphans"]);
        assert_eq!(guards([30, 20, 0], 1_000, &LIMITS), [""; 0]);
        let all = Limits {
            max_orphan_percent: 100.0,
            max_dangling_percent: 100.0,
            allow_newer_orphans: true,
        };
        assert_eq!(guards([0, 1, 0], 0, &all), ["no_references"]);
        assert_eq!(guards([0, 1, 1], 0, &all), ["nothing_matched"]);
        assert_eq!(guards([1, 30, 30], 0, &all), [""; 0]);
        assert_eq!(
            guards([0, 0, 1], 0, &all),
            [""; 0],
            "where nothing is to be deleted nothing need match"
        );
        assert_eq!(
            guards([0, 0, 0], 0, &LIMITS),
            [""; 0],
            "an empty bucket is no reason to say no"
        );
    }

    #[test]
    fn a_no_names_figure_limit_examples_and_the_way_on() {
        let [refusal] = refusals([10, 30, 0], 1_000, &LIMITS).try_into().unwrap();
        assert_eq!((refusal.value, refusal.limit), (75.0, 50.0));
        assert_eq!(refusal.examples, [key(0), key(1), key(2)]);
        assert!(
            refusal.hint.contains("30 of 40") && refusal.hint.contains("--max-orphan-percent"),
            "{}",
            refusal.hint
        );
    }

    #[test]
    fn the_ground_is_inspected() {
        let good = Ground {
            local_now: at(300),
            storage_now: at(0),
            versioning: Versioning::Enabled,
            standby: false,
        };
        let names = |ground: Ground, allowed| {
            inspect(&ground, allowed)
                .into_iter()
                .map(|refusal| refusal.guard)
                .collect::<Vec<_>>()
        };
        let nothing = Allowances::default();
        let dry = Allowances {
            dry_run: true,
            ..nothing
        };
        assert_eq!(names(good, nothing), [""; 0]);
        assert_eq!(now(&good), at(0));
        assert_eq!(
            names(
                Ground {
                    local_now: at(301),
                    ..good
                },
                dry
            ),
            ["clocks_apart"]
        );
        assert_eq!(
            names(
                Ground {
                    storage_now: at(601),
                    ..good
                },
                dry
            ),
            ["clocks_apart"]
        );
        for (versioning, state) in [
            (Versioning::Off, "is off"),
            (Versioning::Suspended, "is suspended"),
        ] {
            let ground = Ground { versioning, ..good };
            assert_eq!(names(ground, nothing), ["unversioned"]);
            assert!(inspect(&ground, nothing)[0].hint.contains(state));
            assert_eq!(names(ground, dry), [""; 0]);
            assert_eq!(
                names(
                    ground,
                    Allowances {
                        unversioned: true,
                        ..nothing
                    }
                ),
                [""; 0]
            );
        }
        let standby = Ground {
            standby: true,
            ..good
        };
        assert_eq!(names(standby, dry), ["standby"]);
        assert_eq!(
            names(
                standby,
                Allowances {
                    replica: true,
                    ..nothing
                }
            ),
            ["standby"]
        );
        assert_eq!(
            names(
                standby,
                Allowances {
                    replica: true,
                    ..dry
                }
            ),
            [""; 0]
        );
    }
}
