//! The real programs, run as processes of their own in a world's environment.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use orphan_sweeper::local::s3::{ACCESS_KEY, REGION, SECRET_KEY};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinHandle;

use super::runtime_api::{Answer, RuntimeApi};
use super::{BUCKET, World};

/// Nobody waits longer than this for a program that hangs.
const PATIENCE: Duration = Duration::from_mins(1);

/// All that a program sees of its surroundings.
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
    home: TempDir,
}

impl Environment {
    /// What reaches this world's S3 server, and nothing else.
    pub fn bare(world: &World) -> Self {
        let home = TempDir::new().expect("a folder");
        let mut environment = Self {
            variables: BTreeMap::new(),
            home,
        };
        let folder = environment.home.path().to_owned();
        environment.set("HOME", folder);
        for (name, value) in [
            ("AWS_ENDPOINT_URL_S3", world.server.endpoint().as_str()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
            ("AWS_REGION", REGION),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ] {
            environment.set(name, value);
        }
        environment
    }

    /// The bucket, the database and the ledger of this world, too.
    pub fn of(world: &World) -> Self {
        let mut environment = Self::bare(world);
        environment.set("SWEEPER_BUCKET", BUCKET);
        environment.set("DATABASE_URL", world.database.url());
        environment.set("SWEEPER_REPORT", world.ledger.path());
        environment
    }

    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: impl AsRef<OsStr>) {
        self.variables.insert(name.into(), value.as_ref().into());
    }

    /// Sets variables.
    #[must_use]
    pub fn with(mut self, variables: &[(&str, &str)]) -> Self {
        for (name, value) in variables {
            self.set(name, value);
        }
        self
    }

    /// Takes a variable away.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.variables.remove(OsStr::new(name));
        self
    }

    /// The user's home folder.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .envs(&self.variables)
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs the command-line program until it ends.
    pub async fn cli<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Ended {
        self.start_cli(arguments).end().await
    }

    /// Starts the command-line program.
    pub fn start_cli<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Started {
        let mut command = self.command(env!("CARGO_BIN_EXE_orphan-sweeper"));
        command.args(arguments);
        Self::start(command)
    }

    /// Runs the command-line program where no file can become longer than so many half KiB.
    #[cfg(unix)]
    pub async fn cramped_cli<A: AsRef<OsStr>>(&self, halves: usize, arguments: &[A]) -> Ended {
        let mut command = self.command("/bin/sh");
        command
            .arg("-c")
            .arg(format!(
                "trap '' XFSZ; ulimit -f {halves}; exec \"$0\" \"$@\""
            ))
            .arg(env!("CARGO_BIN_EXE_orphan-sweeper"))
            .args(arguments);
        Self::start(command).end().await
    }

    fn start(mut command: Command) -> Started {
        let mut child = command.spawn().expect("started");
        let mut stdout = child.stdout.take().expect("piped");
        let printed = tokio::spawn(async move {
            let mut text = String::new();
            stdout.read_to_string(&mut text).await.expect("UTF-8");
            text
        });
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        Started {
            child,
            printed,
            stderr,
            said: String::new(),
        }
    }

    /// Starts the Lambda function.
    #[cfg(feature = "lambda")]
    pub async fn function(&self) -> Function {
        self.serve(self.command(env!("CARGO_BIN_EXE_bootstrap")))
            .await
    }

    /// Starts a program that serves invocations.
    pub async fn serve_by(&self, program: &Path, arguments: &[&str]) -> Function {
        let mut command = self.command(program);
        command.args(arguments);
        self.serve(command).await
    }

    async fn serve(&self, mut command: Command) -> Function {
        let api = RuntimeApi::start().await;
        let mut child = command
            .env("AWS_LAMBDA_RUNTIME_API", api.address())
            .env("AWS_LAMBDA_FUNCTION_NAME", "sweeper")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/sweeper")
            .env("AWS_LAMBDA_LOG_STREAM_NAME", "2026/11/23/[$LATEST]1")
            .stderr(Stdio::inherit())
            .spawn()
            .expect("started");
        let mut stdout = child.stdout.take().expect("piped");
        let logged = tokio::spawn(async move {
            let mut text = String::new();
            stdout.read_to_string(&mut text).await.expect("UTF-8");
            text
        });
        Function { api, child, logged }
    }
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl Ended {
    /// Its standard output, which must be one line of JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.stdout.matches('\n').count(), 1, "{self:?}");
        assert!(self.stdout.ends_with('\n'), "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A command-line program that runs.
pub struct Started {
    child: Child,
    printed: JoinHandle<String>,
    stderr: BufReader<ChildStderr>,
    said: String,
}

impl Started {
    /// Interrupts it, as Ctrl-C does.
    pub async fn interrupt(&self) {
        let id = self.child.id().expect("running").to_string();
        let sent = Command::new("kill").args(["-INT", &id]).status().await;
        assert!(sent.expect("kill").success());
    }

    /// Waits until it says this on standard error.
    pub async fn says(&mut self, what: &str) {
        while !self.said.contains(what) {
            let read = tokio::time::timeout(PATIENCE, self.stderr.read_line(&mut self.said)).await;
            let read = read.expect("it says something").expect("UTF-8");
            assert!(read > 0, "it ended without saying {what:?}: {}", self.said);
        }
    }

    /// Waits until it ends.
    pub async fn end(mut self) -> Ended {
        let ended = tokio::time::timeout(PATIENCE, async {
            let mut stderr = self.said;
            self.stderr
                .read_to_string(&mut stderr)
                .await
                .expect("UTF-8");
            Ended {
                code: self.child.wait().await.expect("waited").code(),
                stdout: self.printed.await.expect("read"),
                stderr,
            }
        });
        ended.await.expect("it ends")
    }
}

/// A Lambda function that runs.
pub struct Function {
    api: RuntimeApi,
    child: Child,
    logged: JoinHandle<String>,
}

impl Function {
    /// Invokes it with plenty of time.
    pub async fn invoke(&mut self, event: &str) -> Answer {
        self.invoke_for(event, Duration::from_mins(15)).await
    }

    /// Invokes it with so much time.
    pub async fn invoke_for(&mut self, event: &str, time: Duration) -> Answer {
        tokio::select! {
            answer = self.api.invoke(event, time) => answer,
            ended = self.child.wait() => panic!("the process ended: {ended:?}"),
            () = tokio::time::sleep(PATIENCE) => panic!("no answer to {event}"),
        }
    }

    /// Whether it is still the same process.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Ends it; its log.
    pub async fn end(mut self) -> String {
        self.child.kill().await.expect("killed");
        self.logged.await.expect("read")
    }
}

/// An address of a database where nothing may connect.
pub struct Tripwire(TcpListener);

impl Tripwire {
    /// Listens on a free port.
    pub fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("set");
        Self(listener)
    }

    /// The address.
    pub fn url(&self) -> String {
        let port = self.0.local_addr().expect("an address").port();
        format!("postgres://reader:hunter2@127.0.0.1:{port}/pictures")
    }

    /// Nobody connected.
    #[track_caller]
    pub fn assert_untouched(&self) {
        let error = self.0.accept().expect_err("somebody connected");
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    }
}

/// The address of the world's database for a new role that can only read its table.
pub async fn reader(world: &World, password: &str) -> url::Url {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let nth = MADE.fetch_add(1, Ordering::Relaxed);
    let role = format!("reader_{}_{nth}", std::process::id());
    let create =
        format!("CREATE ROLE {role} LOGIN PASSWORD '{password}'; GRANT SELECT ON images TO {role}");
    world.sql(&create).await;
    let mut url = url::Url::parse(world.database.url()).expect("a URL");
    url.set_username(&role).expect("set");
    url.set_password(Some(password)).expect("set");
    url
}

/// All files below a folder.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
