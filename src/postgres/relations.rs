//! What a query is planned to read, so that what two moments read can be compared.

use std::collections::BTreeSet;

use sqlx::postgres::PgConnection;

use super::ask::{explain, first_column};
use super::literal::literal;
use super::{DatabaseError, ReferencesQuery};

/// The relations that this transaction holds locks on, those of the system left out: each by its
/// number, a view by what it says, too, and each column of a table, and attribute of a composite type
/// in it, by its name. (A partition's columns are those of its table.) A natural join hangs on all
/// names. `pg_get_viewdef` writes the same view alike each time, as long as nothing in it is named
/// anew.
fn locked_by(query: &str) -> String {
    format!(
        "WITH RECURSIVE locked AS (SELECT c.oid, c.relkind, c.relispartition FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation \
            WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND c.relkind IN ('r', 'm', 'p', 'v') \
            AND c.relnamespace <> 'pg_catalog'::regnamespace \
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())), \
        columns AS (SELECT a.attrelid, a.attnum, a.attname FROM pg_attribute AS a JOIN locked ON oid = attrelid \
            WHERE a.attnum > 0 AND NOT a.attisdropped AND relkind <> 'v' AND NOT relispartition), \
        attributes AS (SELECT atttypid AS type FROM pg_attribute JOIN locked ON oid = attrelid WHERE attnum > 0 AND NOT attisdropped \
            UNION SELECT a.atttypid FROM attributes AS c JOIN pg_type AS t ON t.oid = c.type JOIN pg_type AS e ON e.oid IN (t.oid, t.typelem, t.typbasetype) \
                JOIN pg_attribute AS a ON a.attrelid = e.typrelid WHERE a.attnum > 0 AND NOT a.attisdropped), \
        composite AS (SELECT DISTINCT e.typrelid FROM attributes AS c JOIN pg_type AS t ON t.oid = c.type JOIN pg_type AS e ON e.oid IN (t.oid, t.typelem, t.typbasetype) WHERE e.typrelid <> 0), \
        parts AS (SELECT concat_ws(':', oid, CASE WHEN relkind = 'v' THEN md5(pg_get_viewdef(oid)) END) AS part FROM locked \
            UNION SELECT concat_ws(':', attrelid, attnum, attname) FROM columns \
            UNION SELECT concat_ws(':', attrelid, attnum, attname) FROM pg_attribute JOIN composite ON typrelid = attrelid \
                WHERE attnum > 0 AND NOT attisdropped \
            UNION SELECT concat_ws(':', attrelid, md5(string_agg(attname::text, ',' ORDER BY attnum))) FROM columns \
                WHERE {query} ~* 'natural' GROUP BY attrelid) \
        SELECT COALESCE(array_agg(part), '{{}}') FROM parts",
        query = literal(query)
    )
}

/// The relations that a query is planned to read. (What functions read is known only once they
/// have run.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relations(BTreeSet<String>);

impl Relations {
    /// Has the query planned, which locks all that it reads as it is written, partitions and
    /// children, too.
    pub(super) async fn planned(
        connection: &mut PgConnection,
        query: &ReferencesQuery,
    ) -> Result<Self, DatabaseError> {
        explain(connection, &query.select()).await?;
        Self::locked(connection, query).await
    }

    /// What this transaction has read, or has planned to.
    pub(super) async fn locked(
        connection: &mut PgConnection,
        query: &ReferencesQuery,
    ) -> Result<Self, DatabaseError> {
        let locked = locked_by(query.text());
        let locked: Vec<String> =
            first_column(connection, &locked, "look for the tables that are read").await?;
        Ok(Self(locked.into_iter().collect()))
    }

    /// Fails where something that was read before is not read now, or says something else, and is
    /// still there: its rows are hidden. (What was dropped hides none.)
    pub(super) async fn hold_all_of(
        &self,
        before: &Self,
        connection: &mut PgConnection,
    ) -> Result<(), DatabaseError> {
        let missing: Vec<&str> = before
            .0
            .difference(&self.0)
            .filter_map(|relation| relation.split(':').next())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let names = format!(
            "SELECT string_agg(oid::regclass::text, ', ' ORDER BY oid::regclass::text) FROM pg_class WHERE oid IN ({})",
            missing.join(", ")
        );
        let names: Option<String> =
            first_column(connection, &names, "name the tables that are not read now").await?;
        match names {
            None => Ok(()),
            Some(names) => Err(DatabaseError::Query(format!(
                "does not read {names} any more as when the run began: it, or a column of it, was detached, renamed, dropped or defined anew meanwhile, and a row in there would not be seen; start the run again"
            ))),
        }
    }
}
