//! A PostgreSQL server of this process's own, for the demo and the tests.
//!
//! [`PostgresServer`] runs a PostgreSQL 13 to 18 that is installed on this
//! machine, because nothing else behaves like the server that the sweeper
//! will meet: several connections, time limits, locks. Only where none is
//! installed it builds and runs a PostgreSQL 17 compiled to WebAssembly,
//! which serves [one connection at a time](PostgresServer::single_connection).
//! `LOCAL_POSTGRES=installed` or `LOCAL_POSTGRES=embedded` forces the choice.
//!
//! The server ends with the value, and also when this process is killed: it
//! hangs on a pipe that only this process holds open.
//!
//! Databases have the locale `C.UTF-8` where the machine knows it, so that
//! every machine sorts alike. To show that a query does not depend on this,
//! give a column another collation, such as `"en-x-icu"`.

mod embedded;
#[cfg(unix)]
mod installed;

use std::{
    fs::{self, File, OpenOptions},
    io,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ExitStatus},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tempfile::TempDir;
use thiserror::Error;
use tokio::sync::OnceCell;

/// How long a server may take until it answers. A first start on a slow disk
/// takes seconds; recovery after a crash may take longer.
const READY_LIMIT: Duration = Duration::from_secs(90);

/// How long one attempt to connect may take while the server starts.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Pause between two looks at something that is about to happen.
const POLL: Duration = Duration::from_millis(20);

/// How long to wait for a server that was told to end. The watchdog itself
/// kills after 30 s, so more than that means that something is very wrong.
const END_LIMIT: Duration = Duration::from_secs(40);

/// How many bytes of the server's log an error shows.
const LOG_TAIL: usize = 4096;

/// What went wrong while a local server was prepared, started or asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PostgresError {
    /// No usable PostgreSQL is on this machine.
    #[error(
        "no usable PostgreSQL 13 to 18 was found (tried: {tried}). Install one, for example with \
         `apt-get install postgresql`, `dnf install postgresql-server` or `brew install \
         postgresql@17`, or set LOCAL_POSTGRES=embedded to build one (10 to 17 minutes once)"
    )]
    NotInstalled {
        /// Every folder looked at, with the reason why it did not serve.
        tried: String,
    },
    /// `LOCAL_POSTGRES` holds something unknown.
    #[error("LOCAL_POSTGRES is {value:?}; write `installed` or `embedded`, or leave it unset")]
    Choice {
        /// What it holds.
        value: String,
    },
    /// A file or folder could not be made, read or handed over.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was to be done with it.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// This process is root, and PostgreSQL refuses to run as root.
    #[error(
        "PostgreSQL does not run as root, and {reason}. Start this program as another user, or \
         add a user `postgres`, or choose a folder below /tmp"
    )]
    Root {
        /// Why no other user can run it here.
        reason: String,
    },
    /// A program could not be started.
    #[error("cannot run {}: {source}", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A program ended with a failure, or did not end.
    #[error("{program} failed ({how}). Its last words:\n{output}")]
    Failed {
        /// The program.
        program: String,
        /// Its exit status, or the time it was given.
        how: String,
        /// The end of what it printed.
        output: String,
    },
    /// The server started, but cannot be reached.
    #[error(
        "the local PostgreSQL on port {port} did not accept a connection in {} s: {source}. The \
         end of its log:\n{log}", READY_LIMIT.as_secs()
    )]
    NotReady {
        /// The port on 127.0.0.1.
        port: u16,
        /// The end of its log.
        log: String,
        /// What the last attempt to connect met.
        source: Box<sqlx::Error>,
    },
    /// The source of the embedded server is not where it was at build time.
    #[error(
        "cannot build the embedded PostgreSQL: its source is not at {} any more. Install \
         PostgreSQL 13 to 18, or build this program again where its source is now",
        path.display()
    )]
    EmbeddedSource {
        /// Where it was.
        path: PathBuf,
    },
    /// A database name that PostgreSQL would refuse or cut.
    #[error("{name:?} is no database name: 1 to 63 bytes without NUL are")]
    DatabaseName {
        /// The name.
        name: String,
    },
    /// The server refused, or the connection broke.
    #[error("cannot {action} on the local PostgreSQL: {source}")]
    Database {
        /// What was to be done.
        action: String,
        /// The cause.
        source: Box<sqlx::Error>,
    },
}

/// The result of everything here.
type Result<T, E = PostgresError> = std::result::Result<T, E>;

/// Which server `LOCAL_POSTGRES` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// An installed one, else the embedded one.
    Any,
    /// An installed one or none.
    Installed,
    /// The embedded one.
    Embedded,
}

impl Choice {
    /// Reads `LOCAL_POSTGRES`; unset and empty mean [`Choice::Any`].
    fn from_environment() -> Result<Self> {
        let value = std::env::var_os("LOCAL_POSTGRES").unwrap_or_default();
        Self::parse(&value.to_string_lossy())
    }

    fn parse(value: &str) -> Result<Self> {
        match value {
            "" => Ok(Self::Any),
            "installed" => Ok(Self::Installed),
            "embedded" => Ok(Self::Embedded),
            other => Err(PostgresError::Choice {
                value: other.to_owned(),
            }),
        }
    }
}

/// A running PostgreSQL on 127.0.0.1 that ends with this value.
///
/// Dropping it ends the server at once (as a crash would, which its data
/// survive) and waits until it is gone, some 50 ms; [`stop`](Self::stop) ends
/// it in good order. Where neither happens, in a `static` or when this
/// process is killed, the server sees its pipe close and ends by itself.
#[derive(Debug)]
pub struct PostgresServer {
    // Fields drop in this order: first the server, then its folder.
    process: Process,
    temporary: Option<TempDir>,
    port: u16,
    /// The superuser's password; the embedded server knows none.
    password: Option<String>,
    embedded: bool,
}

impl PostgresServer {
    /// Starts a server whose files live in `data_dir`, and waits until it
    /// accepts connections.
    ///
    /// The folder is made if it is missing. One that an earlier server left
    /// is used again with everything in it, as long as a PostgreSQL of the
    /// same major version is installed; an installed and an embedded server
    /// do not see each other's files. As root the folder is handed over to
    /// the user `postgres` or `nobody`, since PostgreSQL refuses to run as
    /// root.
    ///
    /// # Errors
    /// No server is installed and the embedded one cannot be built, the
    /// folder cannot be used, or the server does not start; the message says
    /// how to go on and shows the end of the server's log.
    pub async fn start(data_dir: impl AsRef<Path>) -> Result<Self> {
        let data_dir = data_dir.as_ref();
        let absolute = std::path::absolute(data_dir).map_err(|source| PostgresError::File {
            action: "find",
            path: data_dir.to_owned(),
            source,
        })?;
        Self::launch(absolute, false, Choice::from_environment()?).await
    }

    /// Starts a server in a folder of its own below the system's temporary
    /// folder, which goes when the server goes, even if this process is
    /// killed.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn temporary() -> Result<Self> {
        let mut folder = tempfile::Builder::new();
        folder.prefix("orphan-sweeper-postgres-");
        // The log in it quotes statements.
        #[cfg(unix)]
        folder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let folder = folder.tempdir().map_err(|source| PostgresError::File {
            action: "make a temporary folder in",
            path: std::env::temp_dir(),
            source,
        })?;
        let mut server =
            Self::launch(folder.path().to_owned(), true, Choice::from_environment()?).await?;
        server.temporary = Some(folder);
        Ok(server)
    }

    /// Starts what `choice` asks for. With `remove`, the folder goes when
    /// this process dies without having dropped the server.
    async fn launch(data_dir: PathBuf, remove: bool, choice: Choice) -> Result<Self> {
        if choice == Choice::Embedded {
            return embedded::start(data_dir, remove, "LOCAL_POSTGRES=embedded").await;
        }
        #[cfg(unix)]
        let outcome = installed::start(data_dir.clone(), remove).await;
        #[cfg(not(unix))]
        let outcome = Err(PostgresError::NotInstalled {
            tried: "nothing: installed servers are used on Unix only".to_owned(),
        });
        match outcome {
            Err(PostgresError::NotInstalled { tried }) if choice == Choice::Any => {
                let reason = format!("no PostgreSQL 13 to 18 was found (tried: {tried})");
                embedded::start(data_dir, remove, &reason).await
            }
            outcome => outcome,
        }
    }

    /// The URL of a database of this server, for the superuser, with its
    /// password. The database need not exist yet; `postgres` always does.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let database = utf8_percent_encode(database, NON_ALPHANUMERIC);
        let password = self.password.as_deref();
        let colon = if password.is_some() { ":" } else { "" };
        format!(
            "postgres://postgres{colon}{}@127.0.0.1:{}/{database}?sslmode=disable",
            password.unwrap_or_default(),
            self.port,
        )
    }

    /// The port on 127.0.0.1 that the server listens to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its files; its log is `server.log` in there.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.process.log.parent().unwrap_or(Path::new("/"))
    }

    /// Whether this is the embedded PostgreSQL and not an installed one.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        self.embedded
    }

    /// Whether the server serves one connection at a time. A pool on it must
    /// have `max_connections(1)`, and code that needs a second connection
    /// while the first is open cannot work: the second waits 10 s for the
    /// first to close, and is then refused with SQLSTATE `0A000`.
    #[must_use]
    pub fn single_connection(&self) -> bool {
        self.embedded
    }

    /// Makes an empty database in UTF8 and returns its [`url`](Self::url).
    ///
    /// # Errors
    /// The name is empty, longer than 63 bytes (PostgreSQL would cut it) or
    /// taken, or the server cannot be reached; so it is while a connection is
    /// open where there can be only one.
    pub async fn create_database(&self, name: &str) -> Result<String> {
        if name.is_empty() || name.len() > 63 || name.contains('\0') {
            return Err(PostgresError::DatabaseName {
                name: name.to_owned(),
            });
        }
        // template0 accepts no connections, so nobody can be in the way of
        // the copy; template1 in use would refuse it.
        let statement = format!(
            "CREATE DATABASE \"{}\" TEMPLATE template0 ENCODING 'UTF8'",
            name.replace('"', "\"\"")
        );
        let made = async {
            let mut connection = PgConnection::connect(&self.url("postgres")).await?;
            sqlx::raw_sql(AssertSqlSafe(statement))
                .execute(&mut connection)
                .await?;
            connection.close().await
        };
        made.await.map_err(|source| PostgresError::Database {
            action: format!("create the database {name:?}"),
            source: Box::new(source),
        })?;
        Ok(self.url(name))
    }

    /// Ends the server in good order: sessions are cut off, everything is
    /// written. A temporary folder goes with it.
    ///
    /// # Errors
    /// The server did not end in time; it is killed then.
    pub async fn stop(mut self) -> Result<()> {
        // Waiting blocks a thread, and a runtime may have only one.
        let ended = tokio::task::spawn_blocking(move || {
            let status = self.process.end(End::Orderly);
            (status, self.process.log_tail())
        })
        .await;
        match ended {
            Ok((Some(_), _)) => Ok(()),
            Ok((None, output)) => Err(PostgresError::Failed {
                program: "postgres".to_owned(),
                how: format!(
                    "still running {} s after being stopped",
                    END_LIMIT.as_secs()
                ),
                output,
            }),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    /// Waits until the server accepts a connection.
    async fn ready(mut self) -> Result<Self> {
        let url = self.url("postgres");
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            let attempt = async { PgConnection::connect(&url).await?.close().await };
            let answer = tokio::select! {
                answer = tokio::time::timeout(CONNECT_LIMIT, attempt) => answer,
                // Somebody else may have its port, and never answer.
                status = self.process.gone() => return Err(PostgresError::Failed {
                    program: "postgres".to_owned(),
                    how: status.to_string(),
                    output: self.process.log_tail(),
                }),
            };
            let source = match answer {
                Ok(Ok(())) => return Ok(self),
                Ok(Err(error)) => error,
                Err(elapsed) => sqlx::Error::Io(elapsed.into()),
            };
            if Instant::now() >= deadline {
                return Err(PostgresError::NotReady {
                    port: self.port,
                    log: self.process.log_tail(),
                    source: Box::new(source),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// One server for all the tests of a process, and an empty database for each.
///
/// Starting a server takes seconds, a database some 30 ms. Tests that run at
/// the same time don't see each other's rows. The server is never dropped,
/// being in a `static`; it ends, and its folder goes, when the process does.
#[derive(Debug)]
pub struct SharedPostgres;

/// The server of [`SharedPostgres`].
static SHARED: OnceCell<PostgresServer> = OnceCell::const_new();

/// Numbers the databases of [`SharedPostgres`].
static DATABASES: AtomicU64 = AtomicU64::new(1);

impl SharedPostgres {
    /// Makes an empty database.
    ///
    /// The embedded server serves one connection at a time, so there each
    /// database has a server of its own; otherwise tests would wait for each
    /// other. It ends with the returned value.
    ///
    /// # Errors
    /// As [`PostgresServer::start`] and [`PostgresServer::create_database`].
    pub async fn database() -> Result<TestDatabase> {
        let shared = SHARED.get_or_try_init(PostgresServer::temporary).await?;
        let number = DATABASES.fetch_add(1, Ordering::Relaxed);
        if !shared.single_connection() {
            let url = shared.create_database(&format!("test_{number}")).await?;
            return Ok(TestDatabase { url, server: None });
        }
        let server = PostgresServer::temporary().await?;
        let url = server.url("postgres");
        Ok(TestDatabase {
            url,
            server: Some(server),
        })
    }
}

/// An empty database of a test.
#[derive(Debug)]
pub struct TestDatabase {
    url: String,
    /// The server, where the database does not share one.
    server: Option<PostgresServer>,
}

impl TestDatabase {
    /// Its URL, for the superuser.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// As [`PostgresServer::single_connection`].
    #[must_use]
    pub fn single_connection(&self) -> bool {
        self.server.is_some()
    }
}

/// How a server is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// With everything written.
    Orderly,
    /// At once.
    AtOnce,
}

/// A server's process, or that of its watchdog, with the pipe that keeps it
/// alive. Dropping it ends the server at once.
#[derive(Debug)]
struct Process {
    child: Child,
    /// The server ends when this closes, whoever closes it.
    pipe: Option<ChildStdin>,
    log: PathBuf,
    /// Where in its log this process began; earlier ones may have written.
    log_start: u64,
}

impl Process {
    /// Waits until it has ended by itself.
    async fn gone(&mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The exit status, if it has ended by itself.
    fn ended(&mut self) -> Option<ExitStatus> {
        // An error means that the child was already waited for.
        self.child.try_wait().ok().flatten()
    }

    /// Ends the server and waits for it, up to [`END_LIMIT`]; `None` means
    /// that it had to be killed.
    fn end(&mut self, how: End) -> Option<ExitStatus> {
        if let Some(mut pipe) = self.pipe.take() {
            let word: &[u8] = match how {
                End::Orderly => b"stop\n",
                End::AtOnce => b"quit\n",
            };
            // Fails only if the server is gone, which is what is wanted.
            let _ = pipe.write_all(word);
        }
        let deadline = Instant::now() + END_LIMIT;
        while Instant::now() < deadline {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        None
    }

    /// The end of what it wrote to its log.
    fn log_tail(&self) -> String {
        log_tail(&self.log, self.log_start)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.pipe.is_some() && self.end(End::AtOnce).is_none() {
            tracing::warn!(log = %self.log.display(), "the local PostgreSQL had to be killed");
        }
    }
}

/// Opens a log to write at its end, which it also tells.
fn open_log(log: &Path) -> Result<(File, u64)> {
    let opened = OpenOptions::new().create(true).append(true).open(log);
    let length = |file: File| file.metadata().map(|metadata| (file, metadata.len()));
    opened
        .and_then(length)
        .map_err(|source| PostgresError::File {
            action: "open",
            path: log.to_owned(),
            source,
        })
}

/// The last [`LOG_TAIL`] bytes of what a log holds from `start` on, or why
/// there are none.
fn log_tail(log: &Path, start: u64) -> String {
    match fs::read(log) {
        Ok(bytes) => {
            let start = usize::try_from(start).unwrap_or(usize::MAX);
            let start = start.max(bytes.len().saturating_sub(LOG_TAIL));
            let tail = bytes.get(start..).unwrap_or_default();
            String::from_utf8_lossy(tail).trim().to_owned()
        }
        Err(error) => format!("(no log at {}: {error})", log.display()),
    }
}

/// Runs what blocks on a thread where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // It is never aborted, so it panicked; so does whoever asked for it.
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_is_one_of_two_words() {
        assert_eq!(Choice::parse("").ok(), Some(Choice::Any));
        assert_eq!(Choice::parse("installed").ok(), Some(Choice::Installed));
        assert_eq!(Choice::parse("embedded").ok(), Some(Choice::Embedded));
        let message = Choice::parse("docker").expect_err("unknown").to_string();
        assert!(
            message.contains("docker") && message.contains("embedded"),
            "{message}"
        );
    }
}
