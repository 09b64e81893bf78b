//! Searches the database for texts: every column that may hold a name, read-only, in a
//! transaction of its own, and bounded in time.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::connect::{Isolation, execute};
use super::literal::literal;
use super::query::Collation;
use super::said::Said;
use super::snapshot::copy_out;
use super::unseen::calls_what_reads;
use super::{Database, DatabaseError, ReferencesQuery, statement};
use crate::discovery::{Column, ColumnKind, ColumnName, Columns, DiscoveryError, ReadBy, Searched};

/// How long the search of one column may take.
const PER_COLUMN: Duration = Duration::from_secs(10);

/// How long the whole search may take.
const ALTOGETHER: Duration = Duration::from_mins(1);

/// Less time than this is not worth a statement.
const TOO_LITTLE: Duration = Duration::from_millis(100);

/// So much of a text is read, in characters.
const MAX_TEXT: usize = 1_000_000;

const NO_TIME: &str = "no time was left";

/// Every column of text, JSON or arrays of them, small tables first, so that much is searched
/// before the time is up. A partition is searched with its table, and a view where the query reads it:
/// the role may not be able to read what is behind it. What the transaction holds a
/// lock on is what the references query reads.
const COLUMNS: &str = "SELECT n.nspname::text, c.relname::text, a.attname::text, \
        format('%I.%I', n.nspname, c.relname), quote_ident(a.attname), \
        CASE WHEN t.typcategory = 'A' THEN 'array' WHEN t.typcategory = 'S' THEN 'text' ELSE 'json' END, \
        has_schema_privilege(n.oid, 'USAGE') AND has_column_privilege(c.oid, a.attnum, 'SELECT'), \
        EXISTS (SELECT FROM pg_locks AS l WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.relation = c.oid), c.oid::bigint \
    FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid \
        JOIN pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_type AS t ON t.oid = a.atttypid \
        LEFT JOIN pg_type AS b ON b.oid = t.typbasetype \
        LEFT JOIN pg_type AS e ON e.oid = COALESCE(b.typelem, t.typelem) \
    WHERE (c.relkind IN ('r', 'p', 'm') OR c.relkind = 'v' AND EXISTS (SELECT FROM pg_locks AS l \
            WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.relation = c.oid)) AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped \
        AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)' \
        AND (t.typcategory = 'S' OR COALESCE(b.typname, t.typname) IN ('json', 'jsonb', 'xml', 'hstore') \
            OR t.typcategory = 'A' AND (e.typcategory = 'S' OR e.typname IN ('json', 'jsonb'))) \
    ORDER BY c.relkind = 'v', c.relpages, n.nspname, c.relname, a.attnum";

/// A search that goes on.
#[derive(Debug)]
pub struct ColumnSearch {
    database: Database,
    connection: PgConnection,
    query: ReferencesQuery,
    /// The column that the query yields as it is: its table as SQL names it, and its name.
    origin: Option<(String, String)>,
    /// Whether its functions could not be asked what they read.
    has_unasked: bool,
    until: Instant,
}

impl ColumnSearch {
    /// Begins a search of the database.
    ///
    /// # Errors
    /// No connection, or a query that the database refuses.
    pub async fn open(database: &Database, query: &ReferencesQuery) -> Result<Self, DatabaseError> {
        let mut connection = begin(database).await?;
        let origin = query.validate(&mut connection).await?;
        let calls = calls_what_reads(&mut connection, query).await?;
        let mut search = Self {
            database: database.clone(),
            connection,
            query: query.clone(),
            origin: origin.map(|origin| (origin.table, origin.column)),
            has_unasked: calls,
            until: Instant::now() + ALTOGETHER,
        };
        if calls {
            search.call().await?;
        }
        Ok(search)
    }

    /// Has the functions of the query read, which locks what they read: that is how the tables
    /// that the query reads are known. (To count rows alone would call no function that is STABLE.)
    /// One that fails or takes too long is passed over.
    async fn call(&mut self) -> Result<(), DatabaseError> {
        const TRIED: &str = "have the functions of the query read";
        if self.begin_statement(TRIED).await?.is_none() {
            return Ok(());
        }
        let all = format!(
            "SELECT count(k) FROM ({}) AS all_names",
            self.query.select()
        );
        match execute(&mut self.connection, all).await {
            // (To roll back would let go of the locks.)
            Ok(()) => {
                self.has_unasked = false;
                execute(&mut self.connection, "RELEASE SAVEPOINT search".to_owned())
                    .await
                    .map_err(statement(TRIED))
            }
            Err(sqlx::Error::Database(_)) => self.end_statement(TRIED).await,
            Err(error) => Err(statement(TRIED)(error)),
        }
    }

    /// Ends it.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn close(mut self) -> Result<(), DatabaseError> {
        execute(&mut self.connection, "ROLLBACK".to_owned())
            .await
            .map_err(statement("end the transaction"))?;
        self.connection
            .close()
            .await
            .map_err(statement("close the connection"))
    }

    async fn columns(&mut self) -> Result<Vec<Column>, DatabaseError> {
        const TRIED: &str = "list the columns";
        let origin: Option<i64> = match &self.origin {
            None => None,
            Some((table, _)) => {
                let oid = format!("SELECT {}::regclass::oid::bigint", literal(table));
                super::ask::first_column(&mut self.connection, &oid, TRIED).await?
            }
        };
        let own = self.origin.as_ref().map(|(_, column)| column.clone());
        let rows = sqlx::query(COLUMNS)
            .persistent(false)
            .fetch_all(&mut self.connection)
            .await
            .map_err(statement(TRIED))?;
        rows.iter()
            .map(|row| {
                let mut column = column(row, origin, own.as_deref())?;
                if self.has_unasked && column.read_by == ReadBy::Nothing {
                    column.read_by = ReadBy::Unknown;
                }
                Ok(column)
            })
            .collect::<Result<_, _>>()
            .map_err(statement(TRIED))
    }

    /// Reads a column as it is: to look for many texts at once takes the server ten times as
    /// long as to hand all of them over.
    async fn read(
        &mut self,
        column: &Column,
        endings: &[String],
        show: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Searched, DatabaseError> {
        let Some(limit) = self.begin_statement("search a column").await? else {
            return Ok(Searched::Skipped(NO_TIME.to_owned()));
        };
        // Some collations know no patterns; "C" does.
        let filter: Vec<String> = endings
            .iter()
            .map(|ending| format!("v LIKE {}", literal(&format!("%{ending}%"))))
            .collect();
        let filter = if filter.is_empty() {
            "v IS NOT NULL".to_owned()
        } else {
            filter.join(" OR ")
        };
        let text = format!(
            "COPY (SELECT left(v, {MAX_TEXT}) FROM (SELECT {}::text COLLATE \"C\" AS v FROM {}) AS held WHERE {filter}) TO STDOUT (FORMAT binary)",
            column.sql_column, column.sql_table
        );
        let ended = {
            let reading = async {
                let values = copy_out(&mut self.connection, text).await?;
                let mut values = std::pin::pin!(values);
                while let Some(value) = values.try_next().await? {
                    // The database is UTF8.
                    if let Some(text) = value.as_deref().and_then(|v| std::str::from_utf8(v).ok()) {
                        show(text);
                    }
                }
                Ok(())
            };
            reading.await
        };
        let ended = match ended {
            Ok(()) => Searched::Done,
            Err(DatabaseError::Statement {
                source: Said(sqlx::Error::Database(error)),
                ..
            }) => {
                // The driver leaves a part of the server's answer to a COPY that failed unread.
                self.connection = begin(&self.database).await?;
                return Ok(Searched::Skipped(said(error.as_ref(), limit)));
            }
            Err(error) => return Err(error),
        };
        self.end_statement("search a column").await?;
        Ok(ended)
    }

    /// Allows one statement some of the time that is left, if there is any.
    async fn begin_statement(
        &mut self,
        tried: &'static str,
    ) -> Result<Option<Duration>, DatabaseError> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left < TOO_LITTLE {
            return Ok(None);
        }
        let limit = left.min(PER_COLUMN);
        let savepoint = format!(
            "SAVEPOINT search; SET LOCAL statement_timeout = {}",
            limit.as_millis()
        );
        execute(&mut self.connection, savepoint)
            .await
            .map_err(statement(tried))?;
        Ok(Some(limit))
    }

    /// The transaction goes on, however the statement ended.
    async fn end_statement(&mut self, tried: &'static str) -> Result<(), DatabaseError> {
        let rollback = "ROLLBACK TO SAVEPOINT search; RELEASE SAVEPOINT search".to_owned();
        execute(&mut self.connection, rollback)
            .await
            .map_err(statement(tried))
    }

    /// Which of these texts the query yields, in what is left of the time.
    async fn ask(&mut self, texts: &[&str]) -> Result<Option<HashSet<String>>, DatabaseError> {
        const TRIED: &str = "ask what the references query yields";
        if self.begin_statement(TRIED).await?.is_none() {
            return Ok(None);
        }
        let asked = self.query.select_any("$1", Collation::Default);
        let rows = sqlx::query(AssertSqlSafe(asked))
            .bind(texts)
            .persistent(false)
            .fetch_all(&mut self.connection)
            .await;
        let yielded = match rows {
            Ok(rows) => {
                let texts: Result<HashSet<String>, sqlx::Error> =
                    rows.iter().map(|row| row.try_get(0)).collect();
                Some(texts.map_err(statement(TRIED))?)
            }
            Err(sqlx::Error::Database(_)) => None,
            Err(error) => return Err(statement(TRIED)(error)),
        };
        self.end_statement(TRIED).await?;
        Ok(yielded)
    }
}

/// A transaction that reads.
async fn begin(database: &Database) -> Result<PgConnection, DatabaseError> {
    let mut connection = database.connect().await?;
    database
        .begin(&mut connection, Isolation::ReadCommitted)
        .await?;
    Ok(connection)
}

/// Why the database ended a statement, fit to be shown.
fn said(error: &dyn sqlx::error::DatabaseError, limit: Duration) -> String {
    match error.code().as_deref() {
        Some("57014") => format!("it took longer than {} s", limit.as_secs().max(1)),
        _ => error.message().to_owned(),
    }
}

fn column(row: &PgRow, origin: Option<i64>, own: Option<&str>) -> Result<Column, sqlx::Error> {
    let text = |index: usize| row.try_get::<String, _>(index);
    let name = text(2)?;
    let (readable, locked, table): (bool, bool, i64) =
        (row.try_get(6)?, row.try_get(7)?, row.try_get(8)?);
    let read_by = if origin == Some(table) && own == Some(name.as_str()) {
        ReadBy::Column
    } else if locked {
        ReadBy::Table
    } else {
        ReadBy::Nothing
    };
    Ok(Column {
        name: ColumnName::new(&text(0)?, &text(1)?, &name),
        sql_table: text(3)?,
        sql_column: text(4)?,
        kind: match text(5)?.as_str() {
            "array" => ColumnKind::Array,
            "text" => ColumnKind::Text,
            _ => ColumnKind::Json,
        },
        readable,
        read_by,
    })
}

impl Columns for ColumnSearch {
    async fn columns(&mut self) -> Result<Vec<Column>, DiscoveryError> {
        Self::columns(self)
            .await
            .map_err(|error| DiscoveryError(error.into()))
    }

    async fn search(
        &mut self,
        column: &Column,
        endings: &[String],
        show: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Searched, DiscoveryError> {
        self.read(column, endings, show)
            .await
            .map_err(|error| DiscoveryError(error.into()))
    }

    async fn yielded(&mut self, texts: &[&str]) -> Result<Option<HashSet<String>>, DiscoveryError> {
        self.ask(texts)
            .await
            .map_err(|error| DiscoveryError(error.into()))
    }
}
