//! One snapshot of the references: every name that was committed when it was taken.

use futures::stream::{BoxStream, Stream, StreamExt as _, TryStreamExt as _, try_unfold};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::ask::first_column;
use super::connect::{Isolation, execute};
use super::copy::{Decoder, Value};
use super::relations::Relations;
use super::unseen::{refuse_foreign_or_temporary, refuse_unseen};
use super::{Database, DatabaseError, ReferencesQuery, state, statement};
use crate::guards::DatabaseState;
use crate::hands::{Identity, Names, ReferenceSnapshot, SnapshotError};

/// The relations that lost rows for this snapshot: those whose files were replaced after it
/// was taken (TRUNCATE and a rewriting ALTER are not versioned:
/// <https://www.postgresql.org/docs/current/mvcc-caveats.html>), tables so new that the
/// snapshot does not know them, tables that had another name then, and partitions that were of
/// no table then, or of another: they were put in the place of what the query meant. `pg_class`
/// and `pg_inherits` are read as of the snapshot, `pg_relation_filenode`, `pg_identify_object`
/// and `pg_partition_ancestors` as of now.
const REWRITTEN: &str = "SELECT string_agg(DISTINCT l.relation::regclass::text, ', ') \
    FROM pg_locks AS l LEFT JOIN pg_class AS c ON c.oid = l.relation \
    LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace \
    WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' \
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
    AND CASE WHEN c.oid IS NULL THEN pg_get_indexdef(l.relation) IS NULL \
        ELSE c.relkind IN ('r', 'm', 't') AND c.relfilenode <> 0 \
            AND c.relfilenode IS DISTINCT FROM pg_relation_filenode(c.oid) \
        OR c.relkind IN ('r', 'm', 'p', 'v') AND c.relpersistence <> 't' \
            AND (pg_identify_object('pg_class'::regclass, c.oid, 0)).identity IS DISTINCT FROM format('%I.%I', n.nspname, c.relname) \
        OR c.relkind IN ('r', 'p', 'f') AND EXISTS (SELECT FROM pg_partition_ancestors(c.oid) WITH ORDINALITY AS a (oid, place) \
            WHERE a.place = 2 AND NOT EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhrelid = c.oid AND i.inhparent = a.oid)) END";

/// What was taken from a relation, or defined anew, after the snapshot was taken and before it
/// was locked: a child or partition that is not read any more, whose rows may be elsewhere by
/// now, a view, which may read by now what was filled in the same transaction, and a column whose
/// name another may have by now, which the snapshot sees empty. The row of
/// the catalogue that the snapshot still sees tells who has replaced it. (Its number has 32
/// bits; the snapshot's, with the epoch, tells the rest.)
const REPLACED: &str = "WITH locked AS (SELECT l.relation AS oid FROM pg_locks AS l \
        WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' \
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())), \
    changed AS (SELECT r.ev_class AS oid, r.xmax::text::bigint AS by FROM pg_rewrite AS r WHERE r.ev_class IN (SELECT oid FROM locked) \
        UNION ALL SELECT i.inhparent, i.xmax::text::bigint FROM pg_inherits AS i \
            WHERE i.inhparent IN (SELECT oid FROM locked) AND i.inhrelid NOT IN (SELECT oid FROM locked) \
        UNION ALL SELECT a.attrelid, a.xmax::text::bigint FROM pg_attribute AS a \
            WHERE a.attrelid IN (SELECT oid FROM locked) AND a.attnum > 0 AND NOT a.attisdropped AND a.xmax::text <> '0' \
            AND (pg_identify_object('pg_class'::regclass, a.attrelid, a.attnum)).identity IS DISTINCT FROM \
                format('%s.%I', (pg_identify_object('pg_class'::regclass, a.attrelid, 0)).identity, a.attname)), \
    next AS (SELECT txid_snapshot_xmax(txid_current_snapshot()) AS id) \
    SELECT string_agg(DISTINCT c.oid::regclass::text, ', ') FROM changed AS c, next \
    WHERE c.by <> 0 AND txid_status(next.id + (c.by - next.id % 4294967296 + 6442450944) % 4294967296 - 2147483648) = 'committed'";

/// A read-only transaction with one snapshot, in which the references query was found good.
#[derive(Debug)]
pub struct Snapshot {
    connection: PgConnection,
    identity: Identity,
    state: DatabaseState,
    relations: Relations,
    query: ReferencesQuery,
}

impl Snapshot {
    /// Opens a transaction and has the database read the query.
    ///
    /// # Errors
    /// No connection, an encoding other than UTF8, or a query that is not one statement
    /// with one column.
    pub async fn open(database: &Database, query: &ReferencesQuery) -> Result<Self, DatabaseError> {
        let mut connection = database.connect().await?;
        // Before the snapshot: a transaction that it does not see must have been seen here.
        let state = state::look(&mut connection).await?;
        database
            .begin(&mut connection, Isolation::RepeatableRead)
            .await?;
        // Within it: behind a pooler, only there it is one session that answers.
        let identity = identify(&mut connection).await?;
        query.validate(&mut connection).await?;
        refuse_foreign_or_temporary(&mut connection).await?;
        let relations = Relations::planned(&mut connection, query).await?;
        Ok(Self {
            connection,
            identity,
            state,
            relations,
            query: query.clone(),
        })
    }

    /// What the query is planned to read.
    #[must_use]
    pub fn relations(&self) -> &Relations {
        &self.relations
    }
}

impl ReferenceSnapshot for Snapshot {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn state(&self) -> DatabaseState {
        self.state.clone()
    }

    /// The stream's last item is an error when it did not end as a complete COPY does.
    async fn names(&mut self, in_order: bool) -> Result<Names<'_>, SnapshotError> {
        let text = if in_order {
            self.query.copy_in_order()
        } else {
            self.query.copy()
        };
        let names = copy_out(&mut self.connection, text).await?;
        Ok(names.map_err(SnapshotError::from).boxed())
    }

    /// Fails where a table was truncated, rewritten or replaced under the snapshot, or where
    /// nobody could tell.
    async fn finish(mut self) -> Result<(), SnapshotError> {
        for lost in [REWRITTEN, REPLACED] {
            let relations: Option<String> =
                first_column(&mut self.connection, lost, "look for rewritten tables").await?;
            if let Some(relations) = relations {
                return Err(DatabaseError::Rewritten { relations }.into());
            }
        }
        refuse_unseen(&mut self.connection, &self.query).await?;
        execute(&mut self.connection, "ROLLBACK".to_owned())
            .await
            .map_err(statement("end the transaction"))?;
        self.connection
            .close()
            .await
            .map_err(statement("close the connection"))?;
        Ok(())
    }
}

/// Runs a COPY and takes its rows apart.
pub(super) async fn copy_out(
    connection: &mut PgConnection,
    text: String,
) -> Result<impl Stream<Item = Result<Value, DatabaseError>> + Send + '_, DatabaseError> {
    Ok(values(copy_chunks(connection, text).await?))
}

/// The values in a COPY's bytes, which must end with its trailer.
fn values(
    chunks: BoxStream<'_, Result<bytes::Bytes, sqlx::Error>>,
) -> impl Stream<Item = Result<Value, DatabaseError>> + Send {
    try_unfold(
        (chunks, Decoder::default()),
        async |(mut chunks, mut decoder)| {
            let broken = |what: &str| DatabaseError::Copy(what.to_owned());
            loop {
                if let Some(value) = decoder.next_value().map_err(broken)? {
                    return Ok(Some((value, (chunks, decoder))));
                }
                match chunks
                    .try_next()
                    .await
                    .map_err(statement("read the names"))?
                {
                    Some(chunk) => decoder.push(chunk),
                    None if decoder.is_complete() => return Ok(None),
                    None => return Err(broken("the stream ended without its trailer")),
                }
            }
        },
    )
}

async fn copy_chunks(
    connection: &mut PgConnection,
    text: String,
) -> Result<BoxStream<'_, Result<bytes::Bytes, sqlx::Error>>, DatabaseError> {
    connection
        .copy_out_raw(&text)
        .await
        .map_err(statement("read the names"))
}

pub(super) async fn identify(connection: &mut PgConnection) -> Result<Identity, DatabaseError> {
    const TRIED: &str = "ask the database who it is";
    let encoding: String = first_column(
        connection,
        "SELECT current_setting('server_encoding')",
        TRIED,
    )
    .await?;
    if encoding != "UTF8" {
        return Err(DatabaseError::Database(format!(
            "is encoded as {encoding}; only UTF8 orders text as S3 does"
        )));
    }
    Ok(Identity {
        system_identifier: first_column(
            connection,
            "SELECT system_identifier::text FROM pg_control_system()",
            TRIED,
        )
        .await?,
        database: first_column(connection, "SELECT current_database()::text", TRIED).await?,
        standby: first_column(connection, "SELECT pg_is_in_recovery()", TRIED).await?,
        // (Only those that exist and that the role may use.)
        schemas: first_column(connection, "SELECT current_schemas(false)::text[]", TRIED).await?,
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::stream;

    use super::*;

    #[tokio::test]
    async fn names_without_the_trailer_are_an_error_and_not_fewer_names() {
        let copy = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x01a\xff\xff";
        for (length, whole) in [(copy.len(), true), (copy.len() - 2, false), (0, false)] {
            let chunk = Ok(Bytes::from_static(&copy[..length]));
            let read: Result<Vec<Value>, DatabaseError> =
                values(stream::iter([chunk]).boxed()).try_collect().await;
            match read {
                Ok(names) => assert!(whole && names == [Some(Bytes::from_static(b"a"))]),
                Err(error) => assert!(!whole && error.to_string().contains("trailer"), "{error}"),
            }
        }
    }
}
