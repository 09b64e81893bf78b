//! Questions that one row answers.

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::types::JsonValue;
use sqlx::{AssertSqlSafe, Row as _};

use super::{DatabaseError, statement};

/// The first column of the one row of a statement without parameters.
pub(super) async fn first_column<T>(
    connection: &mut PgConnection,
    text: &str,
    tried: &'static str,
) -> Result<T, DatabaseError>
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    let row: PgRow = sqlx::query(AssertSqlSafe(text.to_owned()))
        .persistent(false)
        .fetch_one(connection)
        .await
        .map_err(statement(tried))?;
    row.try_get(0).map_err(statement(tried))
}

/// The planner's plan of a statement.
pub(super) async fn explain(
    connection: &mut PgConnection,
    select: &str,
) -> Result<JsonValue, DatabaseError> {
    const TRIED: &str = "ask the planner";
    let mut plans: JsonValue = first_column(
        connection,
        &format!("EXPLAIN (VERBOSE, FORMAT JSON) {select}"),
        TRIED,
    )
    .await?;
    plans
        .pointer_mut("/0/Plan")
        .map(JsonValue::take)
        .ok_or_else(|| DatabaseError::Database("gave no plan of a statement".to_owned()))
}
