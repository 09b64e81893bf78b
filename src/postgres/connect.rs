//! Where the database is and how it is reached.

use std::fmt;
use std::path::Path;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, Row as _};
use thiserror::Error;
use tokio::time::timeout;
use url::Url;

use super::access::Access;
use super::literal::literal;
use super::said::Said;
use super::{DatabaseError, roots, statement};
use crate::chain::chain;

/// The address of a database, with its password. It never shows itself.
#[derive(Clone)]
pub struct DatabaseUrl(PgConnectOptions);

/// Text that is no address of a database. It never repeats the text, which may hold a
/// password.
#[derive(Debug, Error)]
#[error("not an address like postgres://user:password@host:5432/database{0}")]
pub struct UrlError(String);

/// The parameters of an address that the driver knows, beside `options[…]`.
const PARAMETERS: [&str; 18] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];

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
        let known = without_unknown(&url);
        let mut options =
            PgConnectOptions::from_str(known.as_str()).map_err(|error| match error {
                // sqlx quotes the offending part, which may be the password.
                sqlx::Error::Configuration(_) => {
                    UrlError(" (a parameter cannot be read)".to_owned())
                }
                _ => UrlError(String::new()),
            })?;
        let asks = |parameters: &[&str]| {
            url.query_pairs()
                .any(|(name, _)| parameters.contains(&&*name))
        };
        if !asks(&["sslmode", "ssl-mode"]) && !is_local(&options) {
            options = options.ssl_mode(PgSslMode::VerifyFull);
        }
        if asks(&["sslrootcert", "ssl-root-cert", "ssl-ca"]) {
            return Ok(Self(ours(options)));
        }
        Ok(Self(ours(roots::of(options))))
    }

    /// The database with these parts, asked for a certificate that verifies unless it is
    /// local.
    pub(crate) fn from_parts(parts: &Parts<'_>) -> Self {
        let mut options = PgConnectOptions::new_without_pgpass()
            .host(parts.host)
            .port(parts.port)
            .username(parts.user)
            .password(parts.password)
            .database(parts.database);
        if !is_local(&options) {
            options = options.ssl_mode(PgSslMode::VerifyFull);
        }
        Self(ours(roots::of(options)))
    }

    /// The same database, whose certificate an authority of this file may have signed, too.
    #[must_use]
    pub fn with_ca(self, file: &Path) -> Self {
        Self(roots::and(self.0, file))
    }

    /// The same database and user, signed in with this.
    pub(crate) fn with_password(&self, password: &str) -> Self {
        Self(self.0.clone().password(password))
    }

    /// What makes this address unfit for sign-in with a token, if anything does. `text` is
    /// what it was made of.
    #[must_use]
    pub fn unfit_for_token(&self, text: &str) -> Option<&'static str> {
        let url = Url::parse(text).ok()?;
        if url.username().is_empty() {
            Some("names no user; sign-in by IAM needs one, like postgres://user@host:5432/database")
        } else if url.password().is_some() {
            Some("holds a password; sign-in by IAM takes a token in its place")
        } else if !matches!(self.0.get_ssl_mode(), PgSslMode::VerifyFull) {
            Some(
                "sign-in by IAM needs sslmode=verify-full: its token must not go to whoever answers",
            )
        } else {
            None
        }
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.get_port()
    }

    /// The role that signs in.
    #[must_use]
    pub fn user(&self) -> &str {
        self.0.get_username()
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

/// Where a database is and how to sign in, as a secret tells it.
pub(crate) struct Parts<'secret> {
    pub(crate) host: &'secret str,
    pub(crate) port: u16,
    pub(crate) user: &'secret str,
    pub(crate) password: &'secret str,
    pub(crate) database: &'secret str,
}

/// The address without the parameters that the driver does not know: it would log their
/// values, and a password may stand there (`?pass=…`, or one that holds a `?`).
fn without_unknown(url: &Url) -> Url {
    let (known, unknown): (Vec<_>, Vec<_>) = url
        .query_pairs()
        .partition(|(name, _)| PARAMETERS.contains(&&**name) || name.starts_with("options["));
    let mut kept = url.clone();
    if !unknown.is_empty() {
        tracing::warn!(
            parameters = unknown.len(),
            "ignored parameters of the database's address that are not known"
        );
        kept.set_query(None);
        if !known.is_empty() {
            kept.query_pairs_mut().extend_pairs(known);
        }
    }
    kept
}

/// What every connection of this program has.
fn ours(options: PgConnectOptions) -> PgConnectOptions {
    options
        .application_name("orphan-sweeper")
        .statement_cache_capacity(0)
        .disable_statement_logging()
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
    access: Arc<dyn Access>,
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

/// Takes back, until the transaction ends, what another client may have set in the session that a pooler
/// gives. (<https://www.pgbouncer.org/config.html>: `server_reset_query` is not used in transaction
/// pooling.) None of it takes a snapshot. What the driver sets when it connects, a pooler may have set
/// otherwise for whom it connected first.
const AS_AT_FIRST: &str = "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; \
    SET LOCAL client_encoding = 'UTF8'; SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO, MDY'; \
    SET LOCAL extra_float_digits = 2";

/// On which tables a query reads hangs on these. Nobody can tell whether a pooler sets them for us, or
/// another client has left them.
const DECIDING: [&str; 3] = ["search_path", "role", "session_authorization"];

/// Shows them, without a snapshot.
const SHOW_DECIDING: &str = "SHOW search_path; SHOW role; SHOW session_authorization";

/// The settings that the driver overrides when it connects (UTC, ISO dates, all digits), and on
/// which names may hang that a query makes of times or numbers.
const OVERRIDDEN: [&str; 3] = ["timezone", "datestyle", "extra_float_digits"];

/// What the database or the role sets of [`OVERRIDDEN`].
const OWN_SETTINGS: &str = "SELECT name, value FROM ( \
    SELECT DISTINCT ON (lower(split_part(c, '=', 1))) lower(split_part(c, '=', 1)) AS name, substr(c, strpos(c, '=') + 1) AS value \
    FROM pg_db_role_setting AS s, unnest(s.setconfig) AS c \
    WHERE lower(split_part(c, '=', 1)) = ANY ($1) \
    AND s.setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = session_user)) \
    AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) \
    ORDER BY lower(split_part(c, '=', 1)), s.setrole = 0, s.setdatabase = 0) AS own";

impl Database {
    /// The database at this address.
    #[must_use]
    pub fn new(url: DatabaseUrl) -> Self {
        Self::behind(Arc::new(url))
    }

    /// The database that is reached so.
    #[must_use]
    pub fn behind(access: Arc<dyn Access>) -> Self {
        Self {
            access,
            statement_timeout_ms: STATEMENT_TIMEOUT_MS,
        }
    }

    /// The address, as far as it is known now.
    ///
    /// # Errors
    /// Who knows it cannot be asked.
    pub async fn url(&self) -> Result<DatabaseUrl, DatabaseError> {
        Ok(self.access.address().await?)
    }

    /// A new connection, in a transaction that only asks. (Outside of any, a pooler may change
    /// the server between the two messages of one question.)
    pub(super) async fn connect(&self) -> Result<PgConnection, DatabaseError> {
        let mut connection = self.reach().await?;
        execute(
            &mut connection,
            format!("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY NOT DEFERRABLE; {AS_AT_FIRST}"),
        )
        .await
        .map_err(statement("begin a transaction"))?;
        Ok(connection)
    }

    async fn reach(&self) -> Result<PgConnection, DatabaseError> {
        let refused = match open(&self.url().await?).await {
            Err(error) if is_sign_in(&error) => error,
            opened => return opened.map_err(unreached),
        };
        // A password may have been changed since it was read. Asked once: a wrong one, tried
        // again and again, can lock the role out.
        let Some(url) = self.access.renewed().await? else {
            return Err(unreached(refused));
        };
        tracing::warn!(
            error = chain(&Said::from(refused)),
            "the database refused the sign-in; read anew how to sign in"
        );
        open(&url).await.map_err(unreached)
    }

    /// Begins, in the place of the one that only asks, a transaction that cannot write, sees every row or fails, and ends in time.
    pub(super) async fn begin(
        &self,
        connection: &mut PgConnection,
        isolation: Isolation,
    ) -> Result<(), DatabaseError> {
        const TRIED: &str = "set what the role sets";
        let isolation = match isolation {
            Isolation::RepeatableRead => "REPEATABLE READ",
            Isolation::ReadCommitted => "READ COMMITTED",
        };
        // Read before the transaction: its first query takes the snapshot, and that is not to
        // be older than it must.
        let own = sqlx::query(OWN_SETTINGS)
            .bind(OVERRIDDEN)
            .persistent(false)
            .fetch_all(&mut *connection)
            .await
            .map_err(statement("read the settings of the role"))?;
        let mut settings = Vec::new();
        for row in own {
            let name: String = row.try_get(0).map_err(statement(TRIED))?;
            let value: String = row.try_get(1).map_err(statement(TRIED))?;
            settings.push((name, value));
        }
        // An address comes before the role, as with every other client.
        let url = self.url().await?;
        settings.extend(set_in(url.0.get_options().unwrap_or_default()));
        let is_ours = |name: &str| settings.iter().any(|(set, _)| set == name);
        let doubtful = DECIDING.map(|name| !is_ours(name));
        execute(connection, "ROLLBACK".to_owned())
            .await
            .map_err(statement("end a transaction"))?;
        // Row level security would silently filter rows; off, it makes that an error:
        // https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-ROW-SECURITY
        // What a function reads in a parallel worker is locked by that worker only, and no
        // longer than it lives: nobody could tell afterwards whether rows were lost.
        // The planner thinks some questions to the catalogue dear that are answered at once;
        // compiling them takes a second each.
        let begin = format!(
            "BEGIN TRANSACTION ISOLATION LEVEL {isolation} READ ONLY NOT DEFERRABLE; {SHOW_DECIDING}; {AS_AT_FIRST}; \
            SET LOCAL row_security = off; SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL jit = off; \
            SET LOCAL statement_timeout = {}",
            self.statement_timeout_ms
        );
        let found = shown(connection, begin).await?;
        for (name, value) in &settings {
            let value = match name.as_str() {
                // (One text would be one schema.)
                "search_path" => schemas(value),
                _ => literal(value),
            };
            let text = format!("SET LOCAL {name} = {value}");
            execute(connection, text).await.map_err(statement(TRIED))?;
        }
        let ours = shown(connection, SHOW_DECIDING.to_owned()).await?;
        let decided = DECIDING.iter().zip(doubtful).zip(found.iter().zip(&ours));
        for ((name, _), (found, ours)) in decided.filter(|((_, doubtful), _)| *doubtful) {
            if found != ours {
                return Err(DatabaseError::Database(format!(
                    "answered in a session whose {name} is {found} and not {ours}: another client of a pooler left it there, or the pooler sets it; let it reset its sessions, go to the database itself, or set it by ALTER ROLE … SET"
                )));
            }
        }
        Ok(())
    }
}

/// What statements show, in one message.
async fn shown(
    connection: &mut PgConnection,
    statements: String,
) -> Result<Vec<String>, DatabaseError> {
    const TRIED: &str = "begin a transaction";
    let rows = sqlx::raw_sql(AssertSqlSafe(statements))
        .fetch_all(connection)
        .await
        .map_err(statement(TRIED))?;
    let texts = rows.iter().map(|row| row.try_get(0));
    texts.collect::<Result<_, _>>().map_err(statement(TRIED))
}

/// The schemas of a search path, each as a literal.
fn schemas(path: &str) -> String {
    let parts = path.split(',').map(|part| part.trim().trim_matches('"'));
    parts.map(literal).collect::<Vec<_>>().join(", ")
}

/// The settings among the options of an address which the reset may have taken back, where a pooler sets
/// them: those that the driver overrides, those on which names or tables hang, and those that extensions
/// or applications have made. They are written like
/// `-c timezone=Asia/Seoul` or `--timezone=Asia/Seoul`, with a backslash before a space that
/// belongs to a value (<https://www.postgresql.org/docs/current/libpq-connect.html>, `options`).
fn set_in(options: &str) -> Vec<(String, String)> {
    let mut words = vec![String::new()];
    let mut characters = options.chars();
    while let Some(character) = characters.next() {
        let word = words.last_mut().expect("there is always one");
        match character {
            '\\' => word.extend(characters.next()),
            space if space.is_ascii_whitespace() => words.push(String::new()),
            other => word.push(other),
        }
    }
    let mut settings = Vec::new();
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("-c").or(word.strip_prefix("--")) {
            Some("") => words.next(),
            Some(setting) => Some(setting.to_owned()),
            None => None,
        };
        let Some((name, value)) = setting.as_deref().and_then(|text| text.split_once('=')) else {
            continue;
        };
        let name = name.to_ascii_lowercase().replace('-', "_");
        let matters = OVERRIDDEN.contains(&name.as_str())
            || matches!(name.as_str(), "search_path" | "role" | "intervalstyle")
            || name.contains('.');
        if matters {
            settings.push((name, value.to_owned()));
        }
    }
    settings
}

fn unreached(error: sqlx::Error) -> DatabaseError {
    DatabaseError::Connect(error.into())
}

async fn open(url: &DatabaseUrl) -> Result<PgConnection, sqlx::Error> {
    timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&url.0))
        .await
        .unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())))
}

/// Whether the server knows neither the role nor its password: class 28 of
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn is_sign_in(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .is_some_and(|code| code.starts_with("28"))
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
    fn parameters_that_are_not_known_are_left_out_and_the_others_kept() {
        let left = |text: &str| without_unknown(&Url::parse(text).unwrap()).to_string();
        let known: Vec<String> = PARAMETERS.iter().map(|name| format!("{name}=1")).collect();
        let known = format!("postgres://u@h/d?{}&options[a]=b", known.join("&"));
        assert_eq!(left(&known), known);
        assert_eq!(left("postgres://u@h/d?pass=x&y"), "postgres://u@h/d");
        let url = DatabaseUrl::new("postgres://u:p@h/d?pool=5&sslmode=require&port=7").unwrap();
        assert_eq!((url.port(), url.is_unverified()), (7, true));
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

    #[test]
    fn a_file_of_authorities_stands_beside_those_of_rds_and_takes_nothing_away() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, "an authority of ours").unwrap();
        // What is trusted can only be seen by looking.
        let trusts = |url: &str| {
            let options = format!("{:?}", DatabaseUrl::new(url).unwrap().with_ca(&file).0);
            let holds = |text: &[u8]| {
                let bytes = format!("{text:?}");
                options.contains(bytes.trim_matches(['[', ']']))
            };
            (
                holds(b"an authority of ours"),
                holds(&roots::RDS[..64]),
                options.contains("ca.pem"),
            )
        };
        let rds = "postgres://u:p@pictures.abc123.us-east-1.rds.amazonaws.com/d";
        assert_eq!(trusts(rds), (true, true, false));
        assert_eq!(
            trusts("postgres://u:p@db.example.com/d"),
            (false, false, true)
        );
    }
}
