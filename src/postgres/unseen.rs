//! What a query reads of which nobody here can tell whether all rows were seen.

use sqlx::postgres::PgConnection;

use super::ask::{explain, first_column};
use super::literal::literal;
use super::{DatabaseError, ReferencesQuery};

/// The foreign tables that were read: whether their rows were truncated, or filtered by row
/// level security, cannot be seen from here. And the temporary ones: nobody here makes any, so that
/// one is another client's, left behind in a session of a pooler, before the table that is meant.
const FOREIGN_OR_TEMPORARY: &str = "SELECT ARRAY[string_agg(DISTINCT l.relation::regclass::text, ', ') FILTER (WHERE c.relkind = 'f'), \
        string_agg(DISTINCT l.relation::regclass::text, ', ') FILTER (WHERE c.relpersistence = 't')] \
    FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation \
    WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' \
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

/// Those that handle exceptions: what fails in there (a right that is missing, `row_security = off`, a
/// read-only transaction, a lock) yields fewer rows in silence, and the locks of what was read before end
/// with it. What other languages catch cannot be told by a word, so it counts where they read.
fn handles() -> String {
    format!(
        "own.body ~* '(^|[^[:alnum:]_])exception{BLANK}+when[^[:alnum:]_]' \
        OR own.lanname NOT IN ('sql', 'plpgsql', 'c', 'internal') AND own.body ~* 'spi_|plpy[.]|plv8[.]|execute'"
    )
}

/// Those that read, by themselves or by others, at another moment than the query does: each statement
/// of a VOLATILE one sees a moment of its own, and what moves meanwhile from where it has not read to
/// where it has, not at all; an IMMUTABLE one may be called by the planner, before the query sees
/// anything. <https://www.postgresql.org/docs/current/xfunc-volatility.html>
const WAVERS: &str = "own.provolatile <> 's' AND own.lanname NOT IN ('c', 'internal') AND own.oid IN (SELECT oid FROM reading) \
    AND NOT (own.provolatile = 'i' AND EXISTS (SELECT FROM pg_depend AS d \
        WHERE d.classid = 'pg_proc'::regclass AND d.objid = own.oid AND d.deptype = 'e'))";

/// Those whose names for others cannot be told.
const ENCODES: &str = "own.body ~* 'u&\"'";

/// Those that ask other databases.
const ASKS_OTHERS: &str = "own.body ~* 'dblink'";

/// Whether a body reads rows, as far as its words tell. `FROM` is a word of some functions and of a
/// comparison, too; what stands in their parentheses may call others, and holds none of these words.
const READS: &str = "own.lanname NOT IN ('c', 'internal') AND \
    regexp_replace(own.body, '(substring|trim|extract|overlay)[[:space:]]*[(](((?!select|table|execute)[^()])|[(](((?!select|table|execute)[^()])|[(]((?!select|table|execute)[^()])*[)])*[)])*[)]|distinct[[:space:]]+from', '', 'gi') \
        ~* '(^|[^[:alnum:]_])(table|from|execute)([^[:alnum:]_]|$)'";

/// Whether the query calls functions that read rows: what they read is locked, and so known, only
/// once they have run.
pub(super) async fn calls_what_reads(
    connection: &mut PgConnection,
    query: &ReferencesQuery,
) -> Result<bool, DatabaseError> {
    let plan = explain(connection, &query.select()).await?.to_string();
    let called = called(query.text(), &plan);
    let any = format!("{called} SELECT count(*) > 0 FROM reading");
    first_column(connection, &any, "look for functions that read").await
}

/// The functions that the body of a `caller` names, each as `named`: by a plain word of it (also one that
/// stands right behind what quotes a text by `$`), by a name that is none wherever it stands, by an operator, or as the catalogue knows.
/// Each body is read once, however many functions there are.
const NAMED: &str = "SELECT own.oid AS named FROM regexp_split_to_table(lower(caller.body), '[^[:alnum:]_$]+') AS w JOIN own ON own.proname = w WHERE own.word IS NOT NULL \
    UNION SELECT own.oid FROM regexp_split_to_table(regexp_replace(lower(caller.body), '[$][[:alnum:]_]*[$]', ' ', 'g'), '[^[:alnum:]_$]+') AS w JOIN own ON own.proname = w WHERE own.word IS NOT NULL \
    UNION SELECT own.oid FROM own WHERE own.word IS NULL AND (position(own.quoted IN caller.body) > 0 OR position(own.folded IN lower(caller.body)) > 0) \
    UNION SELECT own.oid FROM own, unnest(own.operators) AS o WHERE own.operators <> '{}' AND position(o IN caller.body) > 0 \
    UNION SELECT d.refobjid FROM pg_depend AS d WHERE d.classid = 'pg_proc'::regclass AND d.objid = caller.oid \
        AND d.refclassid = 'pg_proc'::regclass AND d.refobjid IN (SELECT oid FROM own)";

/// What may stand between the word for a cast and the type.
const QUALIFIED: &str = "([[:space:]]|[[:alnum:]_$\"]*[.])*\"?";

/// The functions that this query calls, and those that they name, as a table `called`; those of them
/// that read rows, by themselves or by others, as `reading`; all as `own`.
///
/// The plan names what is called for each row. What the planner called itself, or does not show,
/// stands only in the query, or in the views that it and its functions read. What casts is called without a
/// word, wherever a value becomes one of another type, so it counts as called. More may be named than is
/// called: who is called by a name alone is not told by its schema here.
fn called(query: &str, plan: &str) -> String {
    // (No backslash: what it means in a text hangs on a setting. Case is folded as that of names is, in
    // whatever language the database is.)
    format!(
        "WITH RECURSIVE own AS MATERIALIZED (SELECT p.oid, p.proname::text COLLATE \"C\" AS proname, p.provolatile, l.lanname, \
            CASE WHEN p.prosrc = '' AND p.prokind IN ('f', 'p') THEN pg_get_functiondef(p.oid) ELSE p.prosrc END COLLATE \"C\" AS body, '\"' || replace(p.proname, '\"', '\"\"') || '\"' AS quoted, \
            CASE WHEN octet_length(p.proname) > char_length(p.proname) THEN lower(p.proname) END AS folded, \
            CASE WHEN p.proname ~ '^[a-z0-9_$]+$' THEN '(^|[^[:alnum:]_$])' || replace(p.proname, '$', '[$]') || '([^[:alnum:]_$]|$)' END AS word, \
            CASE WHEN p.proname ~ '^[a-z0-9_$]+$' THEN '(^|[^[:alnum:]_$\"])' || replace(p.proname, '$', '[$]') || '{BLANK}*[(]' END AS call, \
            CASE WHEN p.proname ~ '^[a-z0-9_$]+$' AND t.typtype IN ('c', 'p') THEN '[.]{BLANK}*' || replace(p.proname, '$', '[$]') || '([^[:alnum:]_$]|$)' END AS attribute, \
            t.typtype IN ('c', 'p') AS is_attribute, \
            ARRAY(SELECT o.oprname::text FROM pg_operator AS o WHERE o.oprcode = p.oid) AS operators, \
            p.oid IN (SELECT castfunc FROM pg_cast) AS is_cast, \
            ARRAY(SELECT t.typname::text FROM pg_depend AS d JOIN pg_constraint AS c ON d.classid = 'pg_constraint'::regclass AND c.oid = d.objid \
                    JOIN pg_type AS t ON t.oid = c.contypid WHERE d.refclassid = 'pg_proc'::regclass AND d.refobjid = p.oid) AS types \
            FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang \
                LEFT JOIN pg_type AS t ON p.pronargs = 1 AND t.oid = p.proargtypes[0] \
            WHERE p.pronamespace <> 'pg_catalog'::regnamespace AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)), \
        said AS (SELECT {plan} COLLATE \"C\" AS plan, concat_ws(' ', {query}, (SELECT string_agg(pg_get_viewdef(c.oid), ' ') \
            FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' \
            AND c.relkind = 'v' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))) COLLATE \"C\" AS text), \
        called AS (SELECT own.oid FROM own, said WHERE position(quote_ident(proname) || '(' IN plan) > 0 AND (word IS NULL OR plan ~ word) \
                OR CASE WHEN position(proname IN lower(text)) > 0 THEN text ~* call OR text ~* attribute END \
                OR position(quoted IN text) > 0 AND (is_attribute OR EXISTS (SELECT FROM unnest(string_to_array(text, quoted)) WITH ORDINALITY AS p (behind, place) \
                    WHERE place > 1 AND behind ~ '^{BLANK}*[(]')) \
                OR is_cast OR position(folded IN lower(text)) > 0 \
                OR EXISTS (SELECT FROM unnest(operators) AS o WHERE position(o IN text) > 0) \
                OR EXISTS (SELECT FROM unnest(types) AS t WHERE position(lower(t) IN lower(text)) > 0 AND {casts}) \
            UNION SELECT n.named FROM called AS c JOIN own AS caller ON caller.oid = c.oid, LATERAL ({NAMED}) AS n), \
        named AS MATERIALIZED (SELECT caller.oid AS caller, n.named FROM called JOIN own AS caller USING (oid), LATERAL ({NAMED}) AS n), \
        reading AS (SELECT own.oid FROM called JOIN own USING (oid) WHERE {READS} \
            UNION SELECT n.caller FROM reading AS r JOIN named AS n ON n.named = r.oid)",
        // (A column may be called like a type. What is no plain word counts wherever it stands.)
        casts = format_args!(
            "(t !~ '^[a-z0-9_$]+$' OR text ~* ('::{QUALIFIED}' || replace(t, '$', '[$]') || '([^[:alnum:]_$]|$)') \
                OR text ~* ('[^[:alnum:]_$]as{BLANK}+{QUALIFIED}' || replace(t, '$', '[$]') || '\"?{BLANK}*([)]|[[])') \
                OR text ~* ('(^|[^[:alnum:]_$])' || replace(t, '$', '[$]') || '\"?{BLANK}*[(]'))"
        ),
        // (It stands in JSON.)
        plan = literal(&plan.replace("\\\"", "\"")),
        query = literal(query),
    )
}

/// Fails where this transaction has read, or is to read, foreign tables, or temporary ones.
pub(super) async fn refuse_foreign_or_temporary(
    connection: &mut PgConnection,
) -> Result<(), DatabaseError> {
    let [foreign, temporary]: [Option<String>; 2] = first_column(
        connection,
        FOREIGN_OR_TEMPORARY,
        "look for foreign and temporary tables",
    )
    .await?;
    if let Some(tables) = temporary {
        return Err(DatabaseError::Query(format!(
            "reads {tables}, a temporary table, left in the session that a pooler gave, or made by a trigger: it hides the table of that name; write the schema before the name, or have the pooler reset its sessions (DISCARD ALL)"
        )));
    }
    if let Some(tables) = foreign {
        return Err(DatabaseError::Query(format!(
            "reads {tables}, a foreign table: whether rows were lost there (by a truncation, or row level security) cannot be seen from here; keep a copy of its names in a table of this database"
        )));
    }
    Ok(())
}

/// Fails where this transaction has read, or planned to read, tables of which nobody can tell
/// whether all rows were seen.
pub(super) async fn refuse_unseen(
    connection: &mut PgConnection,
    query: &ReferencesQuery,
) -> Result<(), DatabaseError> {
    // Once more: foreign partitions are known only by now.
    refuse_foreign_or_temporary(connection).await?;
    let hidden: Option<String> =
        first_column(connection, HIDDEN, "look for row level security").await?;
    if let Some(tables) = hidden {
        return Err(DatabaseError::Query(format!(
            "reads {tables}, which has row level security, and a function of the database sets row_security: whether rows were filtered there cannot be seen from here; read the table without that function, or ALTER FUNCTION … RESET row_security"
        )));
    }
    if query.text().to_ascii_lowercase().contains("u&\"") {
        return Err(DatabaseError::Query("names something by U&\"…\", so that nobody can tell here which functions it calls: write the name itself".to_owned()));
    }
    let plan = explain(connection, &query.select()).await?.to_string();
    if calls_dblink(&plan) || calls_dblink(query.text()) {
        return Err(asks_others());
    }
    let suspects = [ASKS_OTHERS, ENCODES, &handles(), WAVERS].map(|holds| {
        format!("string_agg(DISTINCT own.oid::regprocedure::text, ', ') FILTER (WHERE {holds})")
    });
    let suspects = format!(
        "{} SELECT ARRAY[{}] FROM called JOIN own USING (oid)",
        called(query.text(), &plan),
        suspects.join(", ")
    );
    let suspects: Vec<Option<String>> = first_column(
        connection,
        &suspects,
        "look for the functions that are called",
    )
    .await?;
    let mut suspects = suspects.into_iter();
    let mut next = || suspects.next().flatten();
    if next().is_some() {
        return Err(asks_others());
    }
    if let Some(functions) = next() {
        return Err(DatabaseError::Query(format!(
            "may call {functions}, which names something by U&\"…\", so that nobody can tell here which functions it calls: write the name itself"
        )));
    }
    if let Some(functions) = next() {
        return Err(DatabaseError::Query(format!(
            "may call {functions}, where exceptions are handled, or may be: what fails in there yields fewer rows in silence; let it fail, in SQL or PL/pgSQL without EXCEPTION, or read the tables without it"
        )));
    }
    if let Some(functions) = next() {
        return Err(DatabaseError::Query(format!(
            "may call {functions}, which reads, by itself or by others, and is not STABLE: what it reads at another moment than the query it misses when a row moves meanwhile (every function is VOLATILE that says nothing else, and the planner may call an IMMUTABLE one); if it only reads, and no index uses it, ALTER FUNCTION … STABLE"
        )));
    }
    Ok(())
}

fn asks_others() -> DatabaseError {
    DatabaseError::Query("reads another database by dblink: whether rows were lost there (by a truncation, or row level security) cannot be seen from here; keep a copy of its names in a table of this database".to_owned())
}

/// Whether any function of the extension dblink stands in a plan.
fn calls_dblink(plan: &str) -> bool {
    plan.match_indices("dblink").any(|(at, _)| {
        plan[at..]
            .trim_start_matches(|c: char| c.is_ascii_lowercase() || c == '_')
            .starts_with('(')
    })
}
