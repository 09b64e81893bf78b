//! What is known of the database before its references are read: open transactions, and how
//! far a standby is behind.

use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use super::ask::first_column;
use super::{DatabaseError, statement};
use crate::guards::{DatabaseState, OpenTransaction};

/// The oldest open transactions of this database, prepared ones too. Without
/// `pg_read_all_stats` the start of other roles' is NULL
/// (<https://www.postgresql.org/docs/current/monitoring-stats.html#MONITORING-PG-STAT-ACTIVITY-VIEW>).
/// Where a session does not tell (a walsender that speaks SQL, `replication=database`; one with
/// `track_activities` off), the lock that every transaction holds on itself says that there is one, no
/// older than the session. Vacuum writes no rows of the application, nor does a walsender that
/// streams, which holds such a lock while it decodes.
const TRANSACTIONS: &str = "SELECT who, EXTRACT(EPOCH FROM clock_timestamp() - since)::float8 FROM ( \
    SELECT format(CASE WHEN xact_start IS NULL THEN 'session %s of %s (the session is as old as that; it does not tell of its transaction)' ELSE 'session %s of %s' END, \
            pid, COALESCE(NULLIF(application_name, ''), usename::text, 'somebody')) AS who, \
            COALESCE(xact_start, CASE WHEN EXISTS (SELECT FROM pg_locks AS l WHERE l.pid = a.pid AND l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock') THEN backend_start END) AS since \
        FROM pg_stat_activity AS a WHERE datname = current_database() AND pid <> pg_backend_pid() \
        AND backend_type NOT IN ('autovacuum worker', 'autovacuum launcher', 'checkpointer', 'background writer') \
        AND NOT EXISTS (SELECT FROM pg_stat_replication AS r WHERE r.pid = a.pid AND r.state IN ('catchup', 'streaming')) \
    UNION ALL SELECT format('prepared transaction %s of %s', gid, owner), prepared FROM pg_prepared_xacts WHERE database = current_database() \
    ) AS open WHERE since IS NOT NULL ORDER BY since LIMIT 100";

/// How far a standby is behind, in seconds; NULL on a primary. One that has replayed all that
/// it received, and still receives, is not behind, however long its primary has been idle.
const LAG: &str = "SELECT CASE WHEN NOT pg_is_in_recovery() THEN NULL \
    WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() AND EXISTS (SELECT FROM pg_stat_wal_receiver) THEN 0 \
    ELSE EXTRACT(EPOCH FROM clock_timestamp() - COALESCE(pg_last_xact_replay_timestamp(), pg_postmaster_start_time())) END::float8";

const SEES_ALL: &str = "SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')";

pub(super) async fn look(connection: &mut PgConnection) -> Result<DatabaseState, DatabaseError> {
    const TRIED: &str = "look for open transactions";
    let rows = sqlx::query(TRANSACTIONS)
        .persistent(false)
        .fetch_all(&mut *connection)
        .await
        .map_err(statement(TRIED))?;
    let transactions: Result<Vec<OpenTransaction>, sqlx::Error> =
        rows.iter().map(transaction).collect();
    let lag: Option<f64> =
        first_column(connection, LAG, "ask how far the standby is behind").await?;
    Ok(DatabaseState {
        transactions: transactions.map_err(statement(TRIED))?,
        sees_all_transactions: first_column(connection, SEES_ALL, TRIED).await?,
        replica_lag: lag.map(seconds),
    })
}

fn transaction(row: &PgRow) -> Result<OpenTransaction, sqlx::Error> {
    Ok(OpenTransaction {
        who: row.try_get(0)?,
        open_for: seconds(row.try_get(1)?),
    })
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}
