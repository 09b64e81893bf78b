//! What a query reads of which nobody here can tell whether all rows were seen.

use sqlx::postgres::PgConnection;

use super::ask::{explain, first_column};
use super::query::literal;
use super::{DatabaseError, ReferencesQuery};

/// The foreign tables that were read: whether their rows were truncated, or filtered by row
/// level security, cannot be seen from here.
const FOREIGN: &str = "SELECT string_agg(DISTINCT l.relation::regclass::text, ', ') \
    FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation \
    WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND c.relkind = 'f' \
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// The tables with row level security that were read where a function turns it on, for itself or
/// in its body: in there `row_security = off` does not make filtered rows an error.
const HIDDEN: &str = "SELECT string_agg(DISTINCT l.relation::regclass::text, ', ') \
    FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation \
    WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND c.relrowsecurity \
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
    AND (current_setting('row_security') <> 'off' OR EXISTS (SELECT FROM pg_proc AS p, unnest(p.proconfig) AS s \
        WHERE CASE WHEN lower(split_part(s, '=', 1)) = 'row_security' THEN split_part(s, '=', 2)::bool END) \
        OR EXISTS (SELECT FROM pg_proc AS p WHERE position('row_security' IN lower(p.prosrc)) > 0 AND p.pronamespace <> 'pg_catalog'::regnamespace))";

/// The functions that this plan calls, and those that they name, which handle exceptions: what
/// fails in there (a right that is missing, `row_security = off`, a read-only transaction, a
/// lock) yields fewer rows in silence, and the locks of what was read before end with it.
fn handling(plan: &str) -> String {
    // (No backslash: what it means in a text hangs on a setting.)
    format!(
        "WITH RECURSIVE own AS (SELECT oid, proname, prosrc, \
            CASE WHEN proname ~ '^[a-z0-9_]+$' THEN '(^|[^[:alnum:]_$])' || proname || '([^[:alnum:]_$]|$)' END AS word \
            FROM pg_proc WHERE pronamespace <> 'pg_catalog'::regnamespace), \
        called AS (SELECT oid, prosrc FROM own WHERE position(quote_ident(proname) || '(' IN {0}) > 0 AND (word IS NULL OR {0} ~ word) \
            UNION SELECT own.oid, own.prosrc FROM called JOIN own \
                ON CASE WHEN word IS NULL THEN position(own.proname IN called.prosrc) > 0 ELSE called.prosrc ~* word END \
                    OR EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_proc'::regclass AND d.objid = called.oid \
                        AND d.refclassid = 'pg_proc'::regclass AND d.refobjid = own.oid)) \
        SELECT string_agg(DISTINCT oid::regprocedure::text, ', ') FROM called WHERE prosrc ~* '(^|[^[:alnum:]_])exception([[:space:]]|--[^\n]*\n|/[*].*?[*]/)+when[^[:alnum:]_]'",
        literal(plan)
    )
}

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
            "reads {tables}, which has row level security, and a function of the database sets row_security: whether rows were filtered there cannot be seen from here; read the table without that function, or ALTER FUNCTION … RESET row_security"
        )));
    }
    let plan = explain(connection, &query.select()).await?.to_string();
    let handling: Option<String> = first_column(
        connection,
        // As it stands in JSON.
        &handling(&plan.replace("\\\"", "\"")),
        "look for functions that handle exceptions",
    )
    .await?;
    if let Some(functions) = handling {
        return Err(DatabaseError::Query(format!(
            "calls {functions}, where exceptions are handled: what fails in there yields fewer rows in silence; let it fail, without EXCEPTION, or read the tables without it"
        )));
    }
    if calls_dblink(&plan) {
        return Err(DatabaseError::Query("reads another database by dblink: whether rows were lost there (by a truncation, or row level security) cannot be seen from here; keep a copy of its names in a table of this database".to_owned()));
    }
    Ok(())
}

/// Whether any function of the extension dblink stands in a plan.
fn calls_dblink(plan: &str) -> bool {
    plan.match_indices("dblink").any(|(at, _)| {
        plan[at..]
            .trim_start_matches(|c: char| c.is_ascii_lowercase() || c == '_')
            .starts_with('(')
    })
}
