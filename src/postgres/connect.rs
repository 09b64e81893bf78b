//! Where the database is and how it is reached.

use std::fmt;
use std::str::FromStr as _;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};
use thiserror::Error;
use tokio::time::timeout;
use url::Url;

use super::{DatabaseError, statement};

/// The address of a database, with its password. It never shows itself.
#[derive(Clone)]
pub struct DatabaseUrl(PgConnectOptions);

/// Text that is no address of a database. It never repeats the text, which may hold a
/// password.
#[derive(Debug, Error)]
#[error("not an address like postgres://user:password@host:5432/database{0}")]
pub struct UrlError(String);

impl DatabaseUrl {
    /// The database at this address. Without an `sslmode` a host that is not local is asked
    /// for a certificate that verifies (`verify-full`).
    ///
    /// # Errors
    /// Text that is no such address.
    pub fn new(text: &str) -> Result<Self, UrlError> {
        let url = Url::parse(text).map_err(|error| UrlError(format!(" ({error})")))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            // What stands before the colon may be anything, even a secret.
            return Err(UrlError(" (another scheme)".to_owned()));
        }
        let mut options = PgConnectOptions::from_str(text).map_err(|error| match error {
            // sqlx quotes the offending part, which may be the password.
            sqlx::Error::Configuration(_) => UrlError(" (a parameter cannot be read)".to_owned()),
            _ => UrlError(String::new()),
        })?;
        let asked = url
            .query_pairs()
            .any(|(name, _)| matches!(&*name, "sslmode" | "ssl-mode"));
        if !asked && !is_local(&options) {
            options = options.ssl_mode(PgSslMode::VerifyFull);
        }
        let options = options
            .application_name("orphan-sweeper")
            .statement_cache_capacity(0)
            .disable_statement_logging();
        Ok(Self(options))
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.get_host()
    }

    /// Whether the address asks for less than a verified connection to a host that is not
    /// local: somebody on the way could answer in the database's place.
    #[must_use]
    pub fn is_unverified(&self) -> bool {
        // `verify-ca` takes any host of the authority, `verify-full` only the right one.
        !self.is_local() && !matches!(self.0.get_ssl_mode(), PgSslMode::VerifyFull)
    }

    /// Whether the database is on this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        is_local(&self.0)
    }
}

fn is_local(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    options.get_socket().is_some()
        || host.starts_with('/')
        || matches!(host, "localhost" | "127.0.0.1" | "::1" | "[::1]" | "")
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({})", self.host())
    }
}

/// Where transactions are begun.
#[derive(Debug, Clone)]
pub struct Database {
    url: DatabaseUrl,
    statement_timeout_ms: u64,
}

/// How a transaction sees other ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isolation {
    /// One snapshot for the whole transaction.
    RepeatableRead,
    /// A new snapshot for each statement.
    ReadCommitted,
}

/// How long connecting may take, sign-in included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a statement may take: a long read holds back migrations and vacuum.
const STATEMENT_TIMEOUT_MS: u64 = 10 * 60 * 1_000;

impl Database {
    /// The database at this address.
    #[must_use]
    pub fn new(url: DatabaseUrl) -> Self {
        Self {
            url,
            statement_timeout_ms: STATEMENT_TIMEOUT_MS,
        }
    }

    /// The address.
    #[must_use]
    pub fn url(&self) -> &DatabaseUrl {
        &self.url
    }

    /// A new connection, outside of any transaction.
    pub(super) async fn connect(&self) -> Result<PgConnection, DatabaseError> {
        timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&self.url.0))
            .await
            .unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())))
            .map_err(DatabaseError::Connect)
    }

    /// Begins a transaction that cannot write, sees every row or fails, and ends in time.
    pub(super) async fn begin(
        &self,
        connection: &mut PgConnection,
        isolation: Isolation,
    ) -> Result<(), DatabaseError> {
        let isolation = match isolation {
            Isolation::RepeatableRead => "REPEATABLE READ",
            Isolation::ReadCommitted => "READ COMMITTED",
        };
        // Row level security would silently filter rows; off, it makes that an error:
        // https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-ROW-SECURITY
        for text in [
            format!("BEGIN TRANSACTION ISOLATION LEVEL {isolation} READ ONLY"),
            "SET LOCAL row_security = off".to_owned(),
            format!(
                "SET LOCAL statement_timeout = {}",
                self.statement_timeout_ms
            ),
        ] {
            execute(connection, text)
                .await
                .map_err(statement("begin a transaction"))?;
        }
        Ok(())
    }
}

/// Runs a statement of this program's own over the simple protocol.
pub(super) async fn execute(
    connection: &mut PgConnection,
    text: String,
) -> Result<(), sqlx::Error> {
    connection
        .execute(sqlx::raw_sql(AssertSqlSafe(text)))
        .await
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_is_not_local_must_prove_itself_unless_told_otherwise() {
        let mode = |text: &str| {
            DatabaseUrl::new(text)
                .map(|url| (url.0.get_ssl_mode(), url.is_unverified()))
                .unwrap()
        };
        assert!(matches!(
            mode("postgres://u:p@db.example.com/d"),
            (PgSslMode::VerifyFull, false)
        ));
        assert!(matches!(
            mode("postgres://u:p@db.example.com/d?sslmode=require"),
            (PgSslMode::Require, true)
        ));
        assert!(matches!(
            mode("postgres://u:p@db.example.com/d?sslmode=disable"),
            (PgSslMode::Disable, true)
        ));
        for local in ["localhost", "127.0.0.1", "[::1]"] {
            assert!(!mode(&format!("postgres://u:p@{local}/d")).1, "{local}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let url = DatabaseUrl::new("postgres://u:hunter2@db.example.com/d").unwrap();
        assert!(!format!("{url:?} {:?}", Database::new(url.clone())).contains("hunter2"));
        for bad in [
            "hunter2",
            "hunter2:x@h/d",
            "mysql://u:hunter2@h/d",
            "postgres://u:hunter2@h:port/d",
            "postgres://u:hunter2@h/d?sslmode=hunter2",
        ] {
            let error = DatabaseUrl::new(bad).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
