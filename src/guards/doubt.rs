//! The guards that tell a broken match from a backlog: each knows one way in which a plan
//! comes to hold live images although the query and the listing were read without a fault.

use std::time::Duration;

use super::{EXAMPLES, figure, percent};
use crate::discovery::Discovery;
use crate::folders::{Holding, MAX_HELD_FOLDERS};
use crate::key::{ObjectKey, escape};
use crate::summary::Refusal;

/// So many referenced objects fewer than the last time are no accident of a small bucket.
pub const DROPPED: u64 = 20;

/// What these guards hold a run to.
#[derive(Debug, Clone, PartialEq)]
pub struct Doubts {
    /// By how much the number of referenced objects may fall from one run to the next, of
    /// the earlier number; strictly above refuses.
    pub max_referenced_drop_percent: f64,
    /// How far a standby may be behind its primary.
    pub max_replica_lag: Duration,
    /// Whether transactions may be open for longer than the grace period.
    pub allow_old_transactions: bool,
}

/// A transaction that is not at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTransaction {
    /// Whose it is, for people.
    pub who: String,
    /// How long it has been open.
    pub open_for: Duration,
}

/// What is known of the database before its references are read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DatabaseState {
    /// The oldest transactions that the role can see.
    pub transactions: Vec<OpenTransaction>,
    /// Whether the role sees those of all sessions.
    pub sees_all_transactions: bool,
    /// How far a standby is behind; `None` on a primary.
    pub replica_lag: Option<Duration>,
}

/// A transaction that has been open since before the cutoff may hold rows that nobody sees
/// yet and that name objects older than it.
#[must_use]
pub fn old_transactions(
    state: &DatabaseState,
    min_age: Duration,
    doubts: &Doubts,
) -> Option<Refusal> {
    if doubts.allow_old_transactions {
        return None;
    }
    let old: Vec<&OpenTransaction> = state
        .transactions
        .iter()
        .filter(|transaction| transaction.open_for > min_age)
        .collect();
    let oldest = old.iter().map(|transaction| transaction.open_for).max()?;
    let named: Vec<String> = old
        .iter()
        .take(EXAMPLES)
        .map(|transaction| {
            format!(
                "{}, open for {}",
                escape(&transaction.who),
                humantime::format_duration(Duration::from_secs(transaction.open_for.as_secs()))
            )
        })
        .collect();
    Some(Refusal {
        guard: "old_transactions",
        value: oldest.as_secs_f64(),
        limit: min_age.as_secs_f64(),
        hint: format!(
            "{} open for longer than the grace period (figures in seconds) and may yet commit rows that name what looks like an orphan: {}; let them end, give a longer --min-age, or allow them with --allow-old-transactions",
            match old.len() {
                1 => "a transaction has been".to_owned(),
                several => format!("{several} transactions have been"),
            },
            named.join("; ")
        ),
        examples: Vec::new(),
    })
}

/// An allowed standby that is far behind lacks the newest rows.
#[must_use]
pub fn replica_lag(state: &DatabaseState, doubts: &Doubts) -> Option<Refusal> {
    let lag = state
        .replica_lag
        .filter(|&lag| lag > doubts.max_replica_lag)?;
    Some(Refusal {
        guard: "replica_lag",
        value: lag.as_secs_f64(),
        limit: doubts.max_replica_lag.as_secs_f64(),
        hint: "the standby is this many seconds behind its primary, so rows that name what looks like an orphan may be missing; wait until it caught up, connect to the primary, or raise --max-replica-lag".to_owned(),
        examples: Vec::new(),
    })
}

/// Far fewer referenced objects than in the last good run: names that changed their form, or
/// a query, a table or a database that is not what it was.
#[must_use]
pub fn referenced_drop(
    before: u64,
    now: u64,
    examples: &[ObjectKey],
    doubts: &Doubts,
) -> Option<Refusal> {
    let dropped = before.saturating_sub(now);
    let drop = percent(dropped, before);
    if dropped < DROPPED || drop <= doubts.max_referenced_drop_percent {
        return None;
    }
    Some(Refusal {
        guard: "referenced_drop",
        value: drop,
        limit: doubts.max_referenced_drop_percent,
        hint: format!(
            "{now} objects are referenced, and {before} were in the last good run; names whose form changed, or rows that were lost, look like this: look at the examples, then raise --max-referenced-drop-percent for one run"
        ),
        examples: examples.iter().take(EXAMPLES).cloned().collect(),
    })
}

/// More folders without a reference than can be told apart.
#[must_use]
pub fn too_many_folders(holding: &Holding) -> Option<Refusal> {
    if holding.more == 0 {
        return None;
    }
    Some(Refusal {
        guard: "unreferenced_folders",
        value: figure(holding.folders.len() as u64 + holding.more),
        limit: figure(MAX_HELD_FOLDERS as u64),
        hint: "in so many folders not one object is referenced; a kind of reference that the query forgets looks like this. Where it is meant, allow the folder around them with --allow-unreferenced-folder".to_owned(),
        examples: holding
            .folders
            .iter()
            .take(EXAMPLES)
            .map(|held| held.folder.clone())
            .collect(),
    })
}

/// Columns that the query does not read name orphans.
#[must_use]
pub fn forgotten_references(discovery: &Discovery) -> Option<Refusal> {
    if discovery.hits.is_empty() {
        return None;
    }
    let examples = discovery.named();
    let said: Vec<String> = discovery.hits.iter().map(ToString::to_string).collect();
    Some(Refusal {
        guard: "forgotten_reference",
        value: figure(examples.len() as u64),
        limit: 0.0,
        hint: format!(
            "{}. Let the references query read it, or say that it is no reference with --not-a-reference {}",
            said.join("; "),
            discovery.hits[0].column
        ),
        examples: examples.into_iter().take(EXAMPLES).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::{ColumnName, Forgotten, Hit};
    use crate::folders::HeldFolder;

    fn doubts() -> Doubts {
        Doubts {
            max_referenced_drop_percent: 10.0,
            max_replica_lag: Duration::from_mins(5),
            allow_old_transactions: false,
        }
    }

    #[test]
    fn a_transaction_may_be_as_old_as_the_grace_period() {
        let grace = Duration::from_hours(24);
        let state = |open_for| DatabaseState {
            transactions: vec![OpenTransaction {
                who: "session 7 of importer\u{1b}".to_owned(),
                open_for,
            }],
            ..DatabaseState::default()
        };
        assert_eq!(old_transactions(&state(grace), grace, &doubts()), None);
        let older = state(grace + Duration::from_secs(1));
        let refusal = old_transactions(&older, grace, &doubts()).unwrap();
        assert_eq!((refusal.value, refusal.limit), (86_401.0, 86_400.0));
        for word in ["session 7 of importer\\u{1b}", "--allow-old-transactions"] {
            assert!(refusal.hint.contains(word), "{}", refusal.hint);
        }
        let allowed = Doubts {
            allow_old_transactions: true,
            ..doubts()
        };
        assert_eq!(old_transactions(&older, grace, &allowed), None);
    }

    #[test]
    fn a_standby_may_be_behind_by_its_limit() {
        let state = |replica_lag| DatabaseState {
            replica_lag,
            ..DatabaseState::default()
        };
        let limit = doubts().max_replica_lag;
        assert_eq!(replica_lag(&state(None), &doubts()), None);
        assert_eq!(replica_lag(&state(Some(limit)), &doubts()), None);
        let behind = state(Some(limit + Duration::from_secs(1)));
        let refusal = replica_lag(&behind, &doubts()).unwrap();
        assert_eq!((refusal.value, refusal.limit), (301.0, 300.0));
        assert!(refusal.hint.contains("--max-replica-lag"));
    }

    #[test]
    fn a_sharp_drop_is_more_than_the_limit_and_more_than_a_few() {
        let keys = [ObjectKey::new("a.png")];
        let refused = |before, now| referenced_drop(before, now, &keys, &doubts()).is_some();
        assert!(!refused(0, 0) && !refused(100, 100) && !refused(100, 1_000));
        assert!(!refused(1_000, 900), "exactly the limit");
        assert!(refused(1_000, 899));
        assert!(!refused(20, 1), "19 of a small bucket");
        assert!(refused(20, 0));
        let refusal = referenced_drop(200, 100, &keys, &doubts()).unwrap();
        assert_eq!((refusal.value, refusal.limit), (50.0, 10.0));
        assert_eq!(refusal.examples, keys);
        for word in ["100 objects", "200 were", "--max-referenced-drop-percent"] {
            assert!(refusal.hint.contains(word), "{}", refusal.hint);
        }
    }

    #[test]
    fn folders_that_could_not_be_told_apart_refuse() {
        let folders: Vec<HeldFolder> = (0..5)
            .map(|index| HeldFolder {
                folder: ObjectKey::new(format!("{index}/")),
                orphans: 20,
            })
            .collect();
        let mut holding = Holding::default();
        holding.folders = folders;
        assert_eq!(
            too_many_folders(&holding),
            None,
            "these are held back, and the rest goes on"
        );
        holding.more = 2;
        let refusal = too_many_folders(&holding).unwrap();
        assert_eq!((refusal.value, refusal.limit), (7.0, 10_000.0));
        assert_eq!(refusal.examples, ["0/", "1/", "2/"].map(ObjectKey::new));
        assert!(refusal.hint.contains("--allow-unreferenced-folder"));
    }

    #[test]
    fn a_column_that_names_orphans_refuses() {
        let mut discovery = Discovery::default();
        assert_eq!(forgotten_references(&discovery), None);
        let keys = ["a.png", "b.png", "c.png", "d.png"].map(ObjectKey::new);
        discovery.hits.push(Hit {
            column: ColumnName::new("public", "users", "avatar"),
            keys: keys.to_vec(),
            sampled: 50,
            written: "a.png".to_owned(),
            forgotten: Forgotten::Column,
            remedy: None,
        });
        let refusal = forgotten_references(&discovery).unwrap();
        assert_eq!((refusal.value, refusal.limit), (4.0, 0.0));
        assert_eq!(refusal.examples, keys[..3]);
        for word in ["4 of 50", "--not-a-reference public.users.avatar"] {
            assert!(refusal.hint.contains(word), "{}", refusal.hint);
        }
    }
}
