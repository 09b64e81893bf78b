//! What a query reads of which nobody here can tell whether all rows were seen.

use serde_json::Value;
use sqlx::postgres::PgConnection;

use super::ask::{explain, first_column};
use super::{DatabaseError, ReferencesQuery};

/// The foreign tables that were read: whether their rows were truncated, or filtered by row
/// level security, cannot be seen from here.
const FOREIGN: &str = "SELECT string_agg(DISTINCT l.relation::regclass::text, ', ') \
    FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation \
    WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND c.relkind = 'f' \
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// The tables with row level security that were read where a function turns it on for itself:
/// in there `row_security = off` does not make filtered rows an error.
const HIDDEN: &str = "SELECT string_agg(DISTINCT l.relation::regclass::text, ', ') \
    FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation \
    WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND c.relrowsecurity \
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
    AND (current_setting('row_security') <> 'off' OR EXISTS (SELECT FROM pg_proc AS p, unnest(p.proconfig) AS s \
        WHERE CASE WHEN lower(split_part(s, '=', 1)) = 'row_security' THEN split_part(s, '=', 2)::bool END))";

/// Fails where this transaction has read, or planned to read, tables of which nobody can tell
/// whether all rows were seen.
pub(super) async fn refuse_unseen(
    connection: &mut PgConnection,
    query: &ReferencesQuery,
) -> Result<(), DatabaseError> {
    let foreign: Option<String> =
        first_column(connection, FOREIGN, "look for foreign tables").await?;
    if let Some(tables) = foreign {
        return Err(DatabaseError::Query(format!(
            "reads {tables}, a foreign table: whether rows were lost there (by a truncation, or row level security) cannot be seen from here; keep a copy of its names in a table of this database"
        )));
    }
    let hidden: Option<String> =
        first_column(connection, HIDDEN, "look for row level security").await?;
    if let Some(tables) = hidden {
        return Err(DatabaseError::Query(format!(
            "reads {tables}, which has row level security, and a function of the database sets row_security for itself: whether rows were filtered there cannot be seen from here; read the table without that function, or ALTER FUNCTION … RESET row_security"
        )));
    }
    if calls_dblink(&explain(connection, &query.select()).await?) {
        return Err(DatabaseError::Query("reads another database by dblink: whether rows were lost there (by a truncation, or row level security) cannot be seen from here; keep a copy of its names in a table of this database".to_owned()));
    }
    Ok(())
}

/// Whether any function of the extension dblink stands in a plan.
fn calls_dblink(plan: &Value) -> bool {
    let plan = plan.to_string();
    plan.match_indices("dblink").any(|(at, _)| {
        plan[at..]
            .trim_start_matches(|c: char| c.is_ascii_lowercase() || c == '_')
            .starts_with('(')
    })
}
