//! What the doctor wants to know of the database.

use serde_json::Value;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::ask::{explain, first_column};
use super::connect::{Isolation, execute};
use super::literal::literal;
use super::query::Origin;
use super::snapshot::identify;
use super::unseen::refuse_unseen;
use super::{Database, DatabaseError, ReferencesQuery, statement};
use crate::hands::Identity;

/// What was found.
#[derive(Debug)]
pub struct Examination {
    /// Which database it is.
    pub identity: Identity,
    /// Its version, like `15.4`.
    pub version: String,
    /// Whether this connection is encrypted.
    pub encrypted: bool,
    /// How the names come into byte order.
    pub order: Order,
}

/// How the names come into byte order.
#[derive(Debug, PartialEq, Eq)]
pub enum Order {
    /// An index yields them so.
    Index,
    /// They are sorted in each run.
    Sort {
        /// The statement that makes an index, where the column is a table's own.
        remedy: Option<String>,
    },
}

/// Looks at the database as a run would, without reading names.
///
/// # Errors
/// As [`super::Snapshot::open`].
pub async fn examine(
    database: &Database,
    query: &ReferencesQuery,
) -> Result<Examination, DatabaseError> {
    let mut connection = database.connect().await?;
    let identity = identify(&mut connection).await?;
    let version = first_column(
        &mut connection,
        "SELECT current_setting('server_version')",
        "ask for the version",
    )
    .await?;
    let encrypted: Option<bool> = first_column(
        &mut connection,
        "SELECT (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid())",
        "ask whether the connection is encrypted",
    )
    .await?;
    database
        .begin(&mut connection, Isolation::RepeatableRead)
        .await?;
    let origin = query.validate(&mut connection).await?;
    refuse_unseen(&mut connection, query).await?;
    // Whether an index could serve: a small table is sorted although it has one.
    execute(&mut connection, "SET LOCAL enable_sort = off".to_owned())
        .await
        .map_err(statement("prefer an index"))?;
    let plan = explain(&mut connection, &query.select_in_order()).await?;
    let order = if sorts(&plan) {
        let remedy = match &origin {
            Some(origin) => create_index(&mut connection, origin).await?,
            None => None,
        };
        Order::Sort { remedy }
    } else {
        Order::Index
    };
    // Closing ends the transaction, which changed nothing.
    connection
        .close()
        .await
        .map_err(statement("close the connection"))?;
    Ok(Examination {
        identity,
        version,
        encrypted: encrypted.unwrap_or(false),
        order,
    })
}

fn sorts(plan: &Value) -> bool {
    let sorts_here = plan["Node Type"]
        .as_str()
        .is_some_and(|node| node.contains("Sort"));
    sorts_here
        || plan["Plans"]
            .as_array()
            .is_some_and(|plans| plans.iter().any(sorts))
}

/// The statement that makes an index in byte order, where the column is a table's.
async fn create_index(
    connection: &mut PgConnection,
    origin: &Origin,
) -> Result<Option<String>, DatabaseError> {
    let kind = format!(
        "SELECT relkind::text FROM pg_class WHERE oid = {}::regclass",
        literal(&origin.table)
    );
    let kind: String =
        first_column(connection, &kind, "ask what the references query reads").await?;
    let concurrently = match kind.as_str() {
        // A partitioned table's index cannot be made beside its work.
        "p" => "",
        "r" | "m" => " CONCURRENTLY",
        _ => return Ok(None),
    };
    let column = quoted(&origin.column);
    let column = match origin.kind.as_str() {
        "TEXT" | "VARCHAR" => column,
        _ => format!("({column}::text)"),
    };
    Ok(Some(format!(
        "CREATE INDEX{concurrently} ON {} ({column} COLLATE \"C\");",
        origin.table
    )))
}

/// An identifier as SQL writes it, quoted where it must be.
fn quoted(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}
