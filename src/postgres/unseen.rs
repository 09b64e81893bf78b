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
        OR EXISTS (SELECT FROM pg_proc AS p WHERE position('row_security' IN lower(CASE WHEN p.prosrc = '' AND p.prokind IN ('f', 'p') THEN pg_get_functiondef(p.oid) ELSE p.prosrc END)) > 0 AND p.pronamespace <> 'pg_catalog'::regnamespace))";

/// White space and comments, as a pattern. A comment ends where PL/pgSQL lets it end.
const BLANK: &str = "([[:space:]]|--[^\n\r]*[\n\r]|/[*].*?[*]/)";

/// The functions that handle exceptions, among those that are called: what fails in there (a right
/// that is missing, `row_security = off`, a read-only transaction, a lock) yields fewer rows in silence,
/// and the locks of what was read before end with it.
fn handling(called: &str) -> String {
    format!(
        "{called} SELECT string_agg(DISTINCT oid::regprocedure::text, ', ') FROM called \
            WHERE prosrc ~* '(^|[^[:alnum:]_])exception{BLANK}+when[^[:alnum:]_]'"
    )
}

/// Those that are VOLATILE where they, or others that are called, read rows: each statement of theirs sees another moment, and what
/// moves meanwhile from where it has not read to where it has, not at all.
/// <https://www.postgresql.org/docs/current/xfunc-volatility.html>
fn wavering(called: &str) -> String {
    format!(
        "{called} SELECT string_agg(DISTINCT called.oid::regprocedure::text, ', ') \
            FROM called JOIN pg_proc AS p ON p.oid = called.oid JOIN pg_language AS l ON l.oid = p.prolang \
            WHERE p.provolatile = 'v' AND l.lanname NOT IN ('c', 'internal') AND EXISTS (SELECT FROM called WHERE {READS})"
    )
}

/// Whether a body reads rows, as far as its words tell. (That of a `BEGIN ATOMIC` is not there.)
const READS: &str = "(called.prosrc = '' OR called.prosrc ~* '(^|[^[:alnum:]_])(select|table|from|execute)([^[:alnum:]_]|$)')";

/// Whether the query calls functions that read rows: what they read is locked, and so known, only
/// once they have run.
pub(super) async fn calls_what_reads(
    connection: &mut PgConnection,
    query: &ReferencesQuery,
) -> Result<bool, DatabaseError> {
    let plan = explain(connection, &query.select()).await?.to_string();
    let called = called(query.text(), &plan);
    let any = format!("{called} SELECT count(*) > 0 FROM called WHERE {READS}");
    first_column(connection, &any, "look for functions that read").await
}

/// The functions that this query calls, and those that they name, as a table `called`.
///
/// The plan names what is called for each row. What the planner called itself, or does not show,
/// stands only in the query, or in the views that it and its functions read. More may be named than is
/// called: who is called by a name alone is not told by its schema here.
fn called(query: &str, plan: &str) -> String {
    // (No backslash: what it means in a text hangs on a setting.)
    format!(
        "WITH RECURSIVE own AS (SELECT oid, prosrc, proname, '\"' || replace(proname, '\"', '\"\"') || '\"' AS quoted, \
            CASE WHEN octet_length(proname) > char_length(proname) THEN lower(proname) END AS folded, \
            CASE WHEN proname ~ '^[a-z0-9_$]+$' THEN '(^|[^[:alnum:]_$])' || replace(proname, '$', '[$]') || '([^[:alnum:]_$]|$)' END AS word, \
            CASE WHEN proname ~ '^[a-z0-9_$]+$' THEN '(^|[^[:alnum:]_$\"])' || replace(proname, '$', '[$]') || '{BLANK}*[(]' END AS call \
            FROM pg_proc WHERE pronamespace <> 'pg_catalog'::regnamespace), \
        said AS (SELECT {plan} AS plan, concat_ws(' ', {query}, (SELECT string_agg(pg_get_viewdef(c.oid), ' ') \
            FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' \
            AND c.relkind = 'v' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))) AS text), \
        called AS (SELECT oid, prosrc FROM own, said WHERE position(quote_ident(proname) || '(' IN plan) > 0 AND (word IS NULL OR plan ~ word) \
                OR CASE WHEN position(proname IN lower(text)) > 0 THEN text ~* call END OR position(quoted IN text) > 0 OR position(folded IN lower(text)) > 0 OR text ~* 'u&\"' \
            UNION SELECT own.oid, own.prosrc FROM called AS c JOIN own \
                ON CASE WHEN position(own.proname IN lower(c.prosrc)) > 0 THEN c.prosrc ~* word END OR position(quoted IN c.prosrc) > 0 OR position(folded IN lower(c.prosrc)) > 0 OR c.prosrc ~* 'u&\"' \
                    OR EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_proc'::regclass AND d.objid = c.oid \
                        AND d.refclassid = 'pg_proc'::regclass AND d.refobjid = own.oid))",
        // (It stands in JSON.)
        plan = literal(&plan.replace("\\\"", "\"")),
        query = literal(query),
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
    if calls_dblink(&plan) || calls_dblink(query.text()) {
        return Err(DatabaseError::Query("reads another database by dblink: whether rows were lost there (by a truncation, or row level security) cannot be seen from here; keep a copy of its names in a table of this database".to_owned()));
    }
    let called = called(query.text(), &plan);
    let handling: Option<String> = first_column(
        connection,
        &handling(&called),
        "look for functions that handle exceptions",
    )
    .await?;
    if let Some(functions) = handling {
        return Err(DatabaseError::Query(format!(
            "may call {functions}, where exceptions are handled: what fails in there yields fewer rows in silence; let it fail, without EXCEPTION, or read the tables without it"
        )));
    }
    let wavering: Option<String> = first_column(
        connection,
        &wavering(&called),
        "look for volatile functions",
    )
    .await?;
    if let Some(functions) = wavering {
        return Err(DatabaseError::Query(format!(
            "may call {functions}, which reads and is VOLATILE (as every function is that says nothing else): each of its statements sees another moment, so that a row which moves meanwhile is missed; if it only reads, ALTER FUNCTION … STABLE"
        )));
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
