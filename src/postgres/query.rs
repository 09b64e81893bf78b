//! The references query: a person's SQL inside of ours.

use std::fmt;

use sqlx::postgres::{PgConnection, PgStatement};
use sqlx::{
    AssertSqlSafe, Column, Either, Executor as _, SqlSafeStr as _, Statement as _, TypeInfo as _,
};

use super::ask::first_column;
use super::connect::execute;
use super::said::words;
use super::{DatabaseError, statement};

/// The SQL that yields every name, as one column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferencesQuery(String);

/// The table's column that the query yields as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    /// The table, as SQL names it.
    pub(super) table: String,
    /// The column's name.
    pub(super) column: String,
    /// The column's type, as the driver names it.
    pub(super) kind: String,
}

/// Which order of text decides that two names are equal. It decides nothing about the
/// answer, only which index can serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Collation {
    /// The column's own.
    Default,
    /// Byte order.
    C,
}

impl Collation {
    fn clause(self) -> &'static str {
        match self {
            Self::Default => "",
            Self::C => " COLLATE \"C\"",
        }
    }
}

impl ReferencesQuery {
    /// The query with this text; a `;` at its end is left off.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.trim().trim_end_matches(';').trim_end().to_owned())
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The query as a table with one text column `k`, on lines of its own, so that a comment
    /// at its end ends there.
    fn table(&self) -> String {
        format!(
            "(SELECT r.k::text AS k FROM (\n{}\n) AS r(k)) AS names",
            self.0
        )
    }

    /// Every name in byte order.
    pub(super) fn copy_in_order(&self) -> String {
        format!(
            "COPY ({}) TO STDOUT (FORMAT binary)",
            self.select_in_order()
        )
    }

    /// Every name in byte order, as a statement of its own.
    pub(super) fn select_in_order(&self) -> String {
        format!("{} ORDER BY k COLLATE \"C\"", self.select())
    }

    /// Every name as it comes.
    pub(super) fn copy(&self) -> String {
        format!("COPY ({}) TO STDOUT (FORMAT binary)", self.select())
    }

    /// Every name as it comes, as a statement of its own.
    pub(super) fn select(&self) -> String {
        format!("SELECT k FROM {}", self.table())
    }

    /// Which of these names (an array expression) the database holds.
    pub(super) fn select_any(&self, names: &str, collation: Collation) -> String {
        format!(
            "SELECT k FROM {} WHERE k{} = ANY ({names})",
            self.table(),
            collation.clause()
        )
    }

    /// Has the database read the text alone, which locks its tables for the rest of the
    /// transaction and refuses a second statement: inside of ours, `…; DELETE …` would run.
    ///
    /// Says where the column comes from, if it comes from a table as it is.
    pub(super) async fn validate(
        &self,
        connection: &mut PgConnection,
    ) -> Result<Option<Origin>, DatabaseError> {
        let refused = |what: String| DatabaseError::Query(what);
        let text = AssertSqlSafe(self.0.clone()).into_sql_str();
        let prepared: PgStatement =
            connection
                .prepare(text)
                .await
                .map_err(|error| match error {
                    sqlx::Error::Database(error) => refused(format!(
                        "is refused by the database: {}",
                        words(error.as_ref())
                    )),
                    error => statement("prepare the references query")(error),
                })?;
        let parameters = match prepared.parameters() {
            Some(Either::Left(types)) => types.len(),
            Some(Either::Right(count)) => count,
            None => 0,
        };
        if parameters > 0 {
            return Err(refused(
                "has a parameter ($1), and nothing would fill it".to_owned(),
            ));
        }
        let [column] = prepared.columns() else {
            let columns: Vec<&str> = prepared.columns().iter().map(Column::name).collect();
            return Err(refused(format!(
                "must yield exactly one column, but yields {} ({})",
                columns.len(),
                columns.join(", ")
            )));
        };
        let (origin, kind) = (column.origin(), column.type_info().name().to_owned());
        // The driver names what it prepares; behind a pooler the name would stay on the
        // server's connection and collide with the next client's.
        let ours: Option<String> = first_column(connection, PREPARED_HERE, FORGETTING).await?;
        execute(connection, ours.unwrap_or_default())
            .await
            .map_err(statement(FORGETTING))?;
        Ok(origin.table_column().map(|origin| Origin {
            table: origin.table.to_string(),
            column: origin.name.to_string(),
            kind,
        }))
    }
}

impl fmt::Display for ReferencesQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const FORGETTING: &str = "forget a prepared statement";

/// What forgets the statements that this transaction prepared, and not those of others, nor what a
/// pooler has named itself and will look for again
/// (<https://www.pgbouncer.org/config.html>, `max_prepared_statements`).
const PREPARED_HERE: &str = "SELECT string_agg(format('DEALLOCATE %I', name), '; ') FROM pg_prepared_statements WHERE prepare_time >= now() AND name LIKE 'sqlx!_s!_%' ESCAPE '!'";
