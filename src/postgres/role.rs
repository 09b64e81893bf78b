//! What the role can do besides reading.

use sqlx::Connection as _;

use super::ask::first_column;
use super::{Database, DatabaseError};

/// Each thing that a role which only reads cannot do, as words, or NULL. Of the tables one is
/// named. What a role may that it can become (`SET ROLE`) it may itself. (To pass by row level security is
/// no harm: it hides rows otherwise.)
const MORE: &str = "WITH roles AS (SELECT r.oid, r.rolname, r.rolsuper, r.rolcreaterole, r.rolcreatedb, r.rolreplication \
        FROM pg_roles AS r JOIN pg_roles AS me ON me.rolname = current_user \
        WHERE r.oid = me.oid OR NOT me.rolsuper AND pg_has_role(r.oid, 'MEMBER')), \
    tables AS (SELECT c.oid, c.relkind, c.relowner, format('%I.%I', n.nspname, c.relname) AS name FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
        WHERE n.nspname !~ '^(pg_|information_schema$)') \
    SELECT array_remove(ARRAY[ \
    (SELECT CASE WHEN min(rolname) FILTER (WHERE rolname = current_user) IS NOT NULL THEN 'is a superuser' ELSE format('can become a superuser (SET ROLE %I)', min(rolname)) END \
        FROM roles WHERE rolsuper HAVING count(*) > 0), \
    (SELECT 'can make roles' FROM roles WHERE rolcreaterole AND NOT rolsuper HAVING count(*) > 0), \
    (SELECT 'can make databases' FROM roles WHERE rolcreatedb AND NOT rolsuper HAVING count(*) > 0), \
    (SELECT 'can open replication connections' FROM roles WHERE rolreplication AND NOT rolsuper HAVING count(*) > 0), \
    (SELECT format('owns %s tables, %s among them', count(*), min(name)) \
        FROM tables WHERE relkind IN ('r', 'p', 'm', 'v') AND relowner IN (SELECT oid FROM roles) HAVING count(*) > 0), \
    (SELECT format('can write to %s tables, %s among them', count(*), min(name)) FROM tables AS t \
        WHERE relkind IN ('r', 'p', 'v', 'f') AND EXISTS (SELECT FROM roles AS r WHERE has_table_privilege(r.oid, t.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER') \
            OR has_any_column_privilege(r.oid, t.oid, 'INSERT, UPDATE')) HAVING count(*) > 0), \
    (SELECT format('owns %s functions, %s among them', count(*), min(oid::regprocedure::text)) \
        FROM pg_proc WHERE proowner IN (SELECT oid FROM roles WHERE NOT rolsuper) HAVING count(*) > 0), \
    (SELECT format('can write to %s large objects, %s among them', count(*), min(oid)) FROM pg_largeobject_metadata \
        WHERE lomowner IN (SELECT oid FROM roles) OR EXISTS (SELECT FROM aclexplode(lomacl) AS a \
            WHERE a.privilege_type = 'UPDATE' AND (a.grantee = 0 OR a.grantee IN (SELECT oid FROM roles))) HAVING count(*) > 0), \
    (SELECT format('can advance %s sequences, %s among them', count(*), min(name)) FROM tables AS t \
        WHERE EXISTS (SELECT FROM roles AS r WHERE CASE WHEN t.relkind = 'S' THEN has_sequence_privilege(r.oid, t.oid, 'USAGE, UPDATE') END) HAVING count(*) > 0), \
    (SELECT format('is a member of %s', string_agg(rolname, ', ' ORDER BY rolname)) FROM roles \
        WHERE rolname IN ('pg_write_server_files', 'pg_execute_server_program', 'pg_signal_backend', 'pg_write_all_data', 'pg_maintain') HAVING count(*) > 0), \
    (SELECT format('can call %s functions that run with the rights of another (SECURITY DEFINER), %s among them', count(*), min(p.oid::regprocedure::text)) \
        FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace \
        WHERE p.prosecdef AND p.proowner NOT IN (SELECT oid FROM roles) AND NOT EXISTS (SELECT FROM roles WHERE rolsuper) \
        AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype) AND n.nspname !~ '^(pg_|information_schema$)' \
        AND EXISTS (SELECT FROM roles AS r WHERE has_schema_privilege(r.oid, n.oid, 'USAGE') AND has_function_privilege(r.oid, p.oid, 'EXECUTE')) HAVING count(*) > 0), \
    (SELECT format('can make tables in schema %s', string_agg(quote_ident(nspname), ', ' ORDER BY nspname)) FROM pg_namespace AS n \
        WHERE nspname !~ '^(pg_|information_schema$)' AND EXISTS (SELECT FROM roles AS r WHERE has_schema_privilege(r.oid, n.oid, 'CREATE')) HAVING count(*) > 0), \
    (SELECT 'can make schemas' WHERE EXISTS (SELECT FROM roles AS r WHERE has_database_privilege(r.oid, current_database(), 'CREATE'))) \
    ]::text[], NULL)";

/// What the role of this address can do besides reading, in words; nothing of a role that is
/// made for reading.
///
/// # Errors
/// No connection, or the database does not answer.
pub async fn more_than_reading(database: &Database) -> Result<Vec<String>, DatabaseError> {
    let mut connection = database.connect().await?;
    let more = first_column(&mut connection, MORE, "ask what the role can do").await?;
    connection
        .close()
        .await
        .map_err(super::statement("close the connection"))?;
    Ok(more)
}

/// What is known of the database before its references are read.
///
/// # Errors
/// No connection, or the database does not answer.
pub async fn state(database: &Database) -> Result<crate::guards::DatabaseState, DatabaseError> {
    let mut connection = database.connect().await?;
    let state = super::state::look(&mut connection).await?;
    connection
        .close()
        .await
        .map_err(super::statement("close the connection"))?;
    Ok(state)
}
