//! The endpoint, the database and the programs that run between them; every run is held
//! against what is known to be true.

use std::ffi::OsStr;
use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tempfile::TempDir;
use wait4::Wait4 as _;

use crate::endpoint::{BUCKET, Behaviour, Counts};
use crate::keys::{DANGLING, Population};
use crate::measure::{Measured, measure};

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    /// `orphan-sweeper plan`, with so many requests at once.
    Plan(usize),
    /// `orphan-sweeper sweep`, with so many requests at once.
    Sweep(usize),
    /// The bare listing with the AWS SDK, 64 requests at once; whether on any core.
    Sdk { spawn: bool },
    /// Another tool that lists.
    Tool(Tool),
}

/// A tool that is looked for on PATH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    S5cmd,
    Rclone,
    Aws,
}

impl Tool {
    pub(crate) const ALL: [Self; 3] = [Self::S5cmd, Self::Rclone, Self::Aws];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::S5cmd => "s5cmd",
            Self::Rclone => "rclone",
            Self::Aws => "aws",
        }
    }

    /// Whether it is on PATH.
    pub(crate) fn is_here(self) -> bool {
        std::env::var_os("PATH").is_some_and(|path| {
            std::env::split_paths(&path).any(|folder| folder.join(self.name()).is_file())
        })
    }

    /// Prints one line for each object.
    fn command(self, endpoint: &str) -> Command {
        let mut command = Command::new(self.name());
        match self {
            Self::S5cmd => {
                command.args(["--endpoint-url", endpoint, "ls"]);
                command.arg(format!("s3://{BUCKET}/*"));
            }
            Self::Rclone => {
                command.args(["lsf", "--fast-list", "--recursive", "--files-only"]);
                command.args(["--s3-provider", "Other", "--s3-env-auth"]);
                command.args(["--s3-endpoint", endpoint, "--s3-force-path-style"]);
                command.arg(format!(":s3:{BUCKET}"));
            }
            Self::Aws => {
                command.args(["--endpoint-url", endpoint, "s3", "ls", "--recursive"]);
                command.arg(format!("s3://{BUCKET}"));
            }
        }
        command
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan(at_once) => write!(f, "plan (dry run), {at_once} at once"),
            Self::Sweep(at_once) => write!(f, "sweep, {at_once} at once"),
            Self::Sdk { spawn: false } => f.write_str("AWS SDK listing, 64 at once"),
            Self::Sdk { spawn: true } => f.write_str("the same on all cores"),
            Self::Tool(Tool::S5cmd) => f.write_str("s5cmd ls"),
            Self::Tool(Tool::Rclone) => f.write_str("rclone lsf --fast-list"),
            Self::Tool(Tool::Aws) => f.write_str("aws s3 ls"),
        }
    }
}

/// One run of a subject.
#[derive(Debug)]
pub(crate) struct Sample {
    /// What its process took.
    pub(crate) process: Measured,
    /// What the endpoint saw.
    pub(crate) endpoint: Counts,
}

/// Where the subjects run.
pub(crate) struct World {
    pub(crate) population: Population,
    pub(crate) endpoint: EndpointProcess,
    pub(crate) database_url: String,
    pub(crate) binary: PathBuf,
    /// Holds the ledgers.
    pub(crate) folder: TempDir,
}

impl World {
    /// Runs a subject once. Fails when it does, and when it says anything but the truth.
    pub(crate) fn sample(&self, subject: Subject, behaviour: Behaviour) -> anyhow::Result<Sample> {
        self.endpoint.behave(behaviour)?;
        let mut process = measure(&mut self.command(subject)?)?;
        let endpoint = self.endpoint.counts()?;
        self.check(subject, &mut process, &endpoint)
            .with_context(|| format!("{subject} does not say the truth"))?;
        Ok(Sample { process, endpoint })
    }

    /// What every program needs to reach the endpoint and nothing else.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        [
            ("AWS_ENDPOINT_URL", self.endpoint.url.as_str()),
            ("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE"),
            (
                "AWS_SECRET_ACCESS_KEY",
                "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            ),
            ("AWS_REGION", "us-east-1"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("AWS_CONFIG_FILE", "/dev/null"),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
            ("RCLONE_CONFIG", "/dev/null"),
            ("NO_PROXY", "127.0.0.1"),
            ("DATABASE_URL", self.database_url.as_str()),
        ]
        .map(|(name, value)| (name, value.to_owned()))
        .to_vec()
    }

    fn command(&self, subject: Subject) -> anyhow::Result<Command> {
        let mut command = match subject {
            Subject::Plan(at_once) => self.sweeper("plan", at_once),
            Subject::Sweep(at_once) => self.sweeper("sweep", at_once),
            Subject::Sdk { spawn } => {
                let mut command = Command::new(std::env::current_exe()?);
                command
                    .arg("sdk-listing")
                    .arg(self.population.len().to_string());
                command.args(spawn.then_some("--spawn"));
                command
            }
            Subject::Tool(tool) => tool.command(&self.endpoint.url),
        };
        for (name, _) in std::env::vars_os() {
            let name: &OsStr = &name;
            let text = name.to_string_lossy();
            if text.starts_with("SWEEPER_") || text.starts_with("AWS_") || text == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        command.envs(self.environment());
        Ok(command)
    }

    fn sweeper(&self, what: &str, at_once: usize) -> Command {
        let mut command = Command::new(&self.binary);
        command.args([what, "--bucket", BUCKET, "--output", "json"]);
        command.arg("--report").arg(self.folder.path());
        command.args(["--concurrency", &at_once.to_string()]);
        command
    }

    fn check(
        &self,
        subject: Subject,
        process: &mut Measured,
        endpoint: &Counts,
    ) -> anyhow::Result<()> {
        let (keys, orphans) = (self.population.len(), self.population.orphans());
        anyhow::ensure!(
            endpoint.wrong == 0,
            "asked to delete {} keys that are no orphans",
            endpoint.wrong
        );
        let deleted = if matches!(subject, Subject::Sweep(_)) {
            orphans
        } else {
            0
        };
        anyhow::ensure!(
            endpoint.deleted == deleted,
            "{} keys were deleted, not {deleted}",
            endpoint.deleted
        );
        let said = match subject {
            Subject::Tool(_) => {
                let lines = BufReader::new(&mut process.output).split(b'\n').count();
                anyhow::ensure!(lines as u64 == keys, "{lines} lines, not {keys}");
                return Ok(());
            }
            _ => std::io::read_to_string(&mut process.output)?,
        };
        process.output.seek(SeekFrom::Start(0))?;
        if let Subject::Sdk { .. } = subject {
            anyhow::ensure!(said.trim() == keys.to_string(), "listed {said}, not {keys}");
            return Ok(());
        }
        let summary: Value = serde_json::from_str(&said)?;
        let status = if deleted > 0 { "completed" } else { "dry_run" };
        anyhow::ensure!(summary["status"] == status, "{said}");
        for (count, truth) in [
            ("listed", keys),
            ("referenced", keys - orphans),
            ("young", 0),
            ("out_of_scope", 0),
            ("orphans", orphans),
            ("deleted", deleted),
            ("deferred", orphans - deleted),
            ("dangling", DANGLING),
            ("references", keys - orphans + DANGLING),
        ] {
            anyhow::ensure!(summary[count] == truth, "{count} should be {truth}: {said}");
        }
        Ok(())
    }
}

/// The endpoint's process.
pub(crate) struct EndpointProcess {
    /// Where it answers.
    pub(crate) url: String,
    child: Child,
    // It ends when this is closed.
    _stdin: Option<ChildStdin>,
}

impl EndpointProcess {
    /// Starts it with this bucket.
    pub(crate) fn start(population: Population) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["endpoint", &population.len().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("no standard output")?;
        let mut url = String::new();
        BufReader::new(stdout).read_line(&mut url)?;
        Ok(Self {
            url: url.trim().to_owned(),
            child,
            _stdin: stdin,
        })
    }

    /// Says how to behave from now on, and sets every count to nothing.
    pub(crate) fn behave(&self, behaviour: Behaviour) -> anyhow::Result<()> {
        self.request("POST /__behave", &serde_json::to_string(&behaviour)?)?;
        Ok(())
    }

    fn counts(&self) -> anyhow::Result<Counts> {
        Ok(serde_json::from_str(&self.request("GET /__counts", "")?)?)
    }

    fn request(&self, what: &str, body: &str) -> anyhow::Result<String> {
        let address = self.url.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(
            stream,
            "{what} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        anyhow::ensure!(answer.starts_with("HTTP/1.1 200"), "{what}: {answer}");
        let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
        Ok(body.to_owned())
    }

    /// Ends it and says what CPU it took in its whole life.
    pub(crate) fn stop(mut self) -> anyhow::Result<Duration> {
        self.child.kill()?;
        let ended = self.child.wait4()?;
        Ok(ended.rusage.utime + ended.rusage.stime)
    }
}

/// The program that is measured.
pub(crate) fn binary(chosen: Option<&Path>) -> PathBuf {
    chosen.map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_orphan-sweeper")),
        Path::to_owned,
    )
}
