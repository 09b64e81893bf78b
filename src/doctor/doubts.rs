//! What the doctor looks for where a plan might be wrong without a fault: forgotten
//! references, transactions that stay open, a standby that is behind, a role that can do too
//! much.

use super::{Doctor, Verdict};
use crate::chain::chain;
use crate::discovery;
use crate::guards;
use crate::key::ObjectKey;
use crate::plan::SAMPLE;
use crate::postgres::{self, ColumnSearch, Database};
use crate::s3::Bucket;

/// The keys that are not named.
pub(super) fn unnamed(keys: &[&ObjectKey], named: &[bool]) -> Vec<ObjectKey> {
    let keys = keys.iter().zip(named);
    keys.filter(|(_, named)| !**named)
        .map(|(key, _)| (*key).clone())
        .collect()
}

impl Doctor<'_> {
    /// Looks for these objects, which no row of the query names, in the whole database.
    pub(super) async fn forgotten(
        &mut self,
        database: &Database,
        bucket: &Bucket,
        unnamed: &[ObjectKey],
    ) {
        const ABOUT: &str = "references";
        let settings = self.settings;
        let mut search = match ColumnSearch::open(database, &settings.references).await {
            Ok(search) => search,
            Err(error) => return self.note(ABOUT, Verdict::Problem, chain(&error)),
        };
        // From all over what was listed.
        let step = unnamed.len().div_ceil(SAMPLE).max(1);
        let sample: Vec<ObjectKey> = unnamed.iter().step_by(step).cloned().collect();
        let found = discovery::discover(
            &sample,
            &settings.rules,
            &settings.not_references,
            &mut search,
            bucket,
        )
        .await;
        let found = match found {
            Ok(found) => found,
            Err(error) => return self.note(ABOUT, Verdict::Problem, chain(&error)),
        };
        if let Err(error) = search.close().await {
            return self.note(ABOUT, Verdict::Problem, chain(&error));
        }
        match guards::forgotten_references(&found) {
            Some(refusal) => self.note(ABOUT, Verdict::Problem, refusal.hint),
            None if sample.is_empty() => self.note(
                ABOUT,
                Verdict::Ok,
                "every sampled object is named, so there is nothing to look for elsewhere",
            ),
            None => self.note(
                ABOUT,
                Verdict::Ok,
                format!(
                    "none of {} sampled objects without a reference is named in any of {} columns",
                    found.sampled, found.searched
                ),
            ),
        }
        if let Some(skipped) = found.not_searched() {
            self.note(
                ABOUT,
                Verdict::Warning,
                format!("{skipped}; a reference that the query forgets is not found there"),
            );
        }
    }

    /// Open transactions, and how far a standby is behind.
    pub(super) async fn state(&mut self, database: &Database) {
        const ABOUT: &str = "transactions";
        let settings = self.settings;
        let state = match postgres::state(database).await {
            Ok(state) => state,
            Err(error) => return self.note(ABOUT, Verdict::Problem, chain(&error)),
        };
        if let Some(refusal) = guards::replica_lag(&state, &settings.doubts) {
            self.note("primary", Verdict::Problem, refusal.hint);
        }
        if let Some(refusal) = guards::old_transactions(&state, settings.min_age, &settings.doubts)
        {
            self.note(ABOUT, Verdict::Problem, refusal.hint);
        } else if state.sees_all_transactions {
            self.note(
                ABOUT,
                Verdict::Ok,
                "none has been open for longer than the grace period",
            );
        }
        if !state.sees_all_transactions {
            self.note(
                ABOUT,
                Verdict::Warning,
                "the guard on transactions older than the grace period sleeps: the role sees only its own; wake it with GRANT pg_read_all_stats TO the role",
            );
        }
    }

    /// What the role can do besides reading.
    pub(super) async fn role(&mut self, database: &Database) {
        const ABOUT: &str = "role";
        match postgres::more_than_reading(database).await {
            Ok(more) if more.is_empty() => {
                self.note(ABOUT, Verdict::Ok, "it can read, and nothing else");
            }
            Ok(more) => self.note(
                ABOUT,
                Verdict::Warning,
                format!(
                    "a sweep only needs to read, but the role {}; give it one of its own that can only SELECT",
                    more.join(", ")
                ),
            ),
            Err(error) => self.note(ABOUT, Verdict::Problem, chain(&error)),
        }
    }
}
