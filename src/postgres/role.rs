//! What the role can do besides reading.

use sqlx::Connection as _;

use super::ask::first_column;
use super::{Database, DatabaseError};

/// Each thing that a role which only reads cannot do, as words, or NULL. Of the tables one is
/// named. (To pass by row level security is no harm: it hides rows otherwise.)
const MORE: &str = "SELECT array_remove(ARRAY[ \
    (SELECT 'is a superuser' FROM pg_roles WHERE rolname = current_user AND rolsuper), \
    (SELECT 'can make roles' FROM pg_roles WHERE rolname = current_user AND rolcreaterole AND NOT rolsuper), \
    (SELECT 'can make databases' FROM pg_roles WHERE rolname = current_user AND rolcreatedb AND NOT rolsuper), \
    (SELECT format('owns %s tables, %s among them', count(*), min(format('%I.%I', n.nspname, c.relname))) \
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
        WHERE c.relkind IN ('r', 'p', 'm', 'v') AND pg_has_role(c.relowner, 'USAGE') AND n.nspname !~ '^(pg_|information_schema$)' HAVING count(*) > 0), \
    (SELECT format('can write to %s tables, %s among them', count(*), min(format('%I.%I', n.nspname, c.relname))) \
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
        WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^(pg_|information_schema$)' \
        AND (has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE') OR has_any_column_privilege(c.oid, 'INSERT, UPDATE')) HAVING count(*) > 0), \
    (SELECT format('can advance %s sequences, %s among them', count(*), min(format('%I.%I', n.nspname, c.relname))) \
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
        WHERE CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(c.oid, 'USAGE, UPDATE') END HAVING count(*) > 0), \
    (SELECT format('is a member of %s', string_agg(g.rolname, ', ' ORDER BY g.rolname)) FROM pg_roles AS g JOIN pg_roles AS me ON me.rolname = current_user \
        WHERE g.rolname IN ('pg_write_server_files', 'pg_execute_server_program', 'pg_signal_backend') AND pg_has_role(g.oid, 'USAGE') AND NOT me.rolsuper HAVING count(*) > 0), \
    (SELECT format('can make tables in schema %s', string_agg(quote_ident(nspname), ', ' ORDER BY nspname)) FROM pg_namespace \
        WHERE nspname !~ '^(pg_|information_schema$)' AND has_schema_privilege(oid, 'CREATE') HAVING count(*) > 0), \
    (SELECT 'can make schemas' WHERE has_database_privilege(current_database(), 'CREATE')) \
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
