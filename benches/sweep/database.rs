//! A PostgreSQL with the names.

use anyhow::Context as _;
use orphan_sweeper::local::postgres::PostgresServer;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::keys::Population;

/// Bytes of names that are sent at once.
const CHUNK: usize = 1 << 20;

/// Makes a database with the table `images(name text)`, filled, indexed as the README
/// advises (once uniquely in the database's own collation, for the fresh check, and once
/// in "C", for the ordered reading), and analysed. Returns its URL.
pub(crate) async fn fill(
    server: &PostgresServer,
    name: &str,
    population: Population,
) -> anyhow::Result<String> {
    let url = server.create_database(name).await?;
    let mut connection = PgConnection::connect(&url).await?;
    connection
        .execute("CREATE TABLE images (name text NOT NULL)")
        .await?;
    let mut copy = connection.copy_in_raw("COPY images FROM STDIN").await?;
    let mut rows = Vec::with_capacity(CHUNK + 64);
    for key in population.names() {
        rows.extend_from_slice(&key);
        rows.push(b'\n');
        if rows.len() >= CHUNK {
            copy.send(rows.as_slice()).await?;
            rows.clear();
        }
    }
    copy.send(rows.as_slice()).await?;
    copy.finish().await?;
    for statement in [
        "CREATE UNIQUE INDEX ON images (name)",
        "CREATE INDEX ON images (name COLLATE \"C\")",
        "VACUUM ANALYZE images",
        "CHECKPOINT",
    ] {
        connection.execute(statement).await.context(statement)?;
    }
    connection.close().await?;
    Ok(url)
}
