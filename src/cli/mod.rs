//! The command line's door: flags in, text or one JSON object out, and an exit code.

mod apply;
mod args;
mod bar;
mod flags;
mod log;
mod ranges;
mod report;
mod restore;
pub(crate) mod text;

use std::borrow::Cow;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser as _;

use crate::chain::unsigned;
use crate::doctor;
use crate::progress::Progress;
use crate::run::{Report, run};
use crate::s3;
use crate::settings::{ConfigError, RawSettings, Settings};
use crate::stop::Stop;
use crate::summary::Status;
use args::Command;
use flags::{Output, RunArgs};

/// The exit codes of the contract.
mod code {
    pub(super) const FAILED: u8 = 1;
    pub(super) const USAGE: u8 = 2;
    pub(super) const REFUSED: u8 = 3;
    pub(super) const INCOMPLETE: u8 = 4;
    pub(super) const INTERRUPTED: u8 = 130;
}

/// Parses the arguments, runs the command, and maps how it ended to the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match args::Arguments::try_parse() {
        Ok(arguments) => arguments,
        // Help and the version.
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) => {
            // It quotes what was given, which may be the address of a database.
            let text = error.render().to_string();
            let Cow::Owned(public) = unsigned(&text) else {
                error.exit()
            };
            // When even standard error is closed, the exit code has to do.
            let _ = write!(std::io::stderr(), "{public}");
            return ExitCode::from(code::USAGE);
        }
    };
    log::to_stderr(match (&arguments.command, arguments.verbose) {
        (_, true) => "orphan_sweeper=debug,info",
        // The demo's own server and guards complain, as the story wants it.
        #[cfg(feature = "demo")]
        (Command::Demo(_), false) => "off",
        (_, false) => "warn",
    });
    let ended = tokio::runtime::Runtime::new()
        .context("could not start the asynchronous runtime")
        .and_then(|runtime| runtime.block_on(command(arguments.command)));
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::from(if error.downcast_ref::<ConfigError>().is_some() {
                code::USAGE
            } else {
                code::FAILED
            })
        }
    }
}

fn complain(what: &str) {
    // When even standard error is closed, the exit code has to do.
    let _ = writeln!(
        std::io::stderr(),
        "orphan-sweeper: {}",
        crate::key::escape(what)
    );
}

async fn command(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Sweep(args) => sweep(args, false).await,
        Command::Plan(args) => sweep(args, true).await,
        Command::Apply(args) => apply::apply(args).await,
        Command::Restore(args) => restore::restore(args).await,
        Command::Report(args) => report::report(args).await,
        Command::Doctor(args) => examine(args).await,
        Command::Ranges(args) => ranges::ranges(args).await,
        #[cfg(feature = "demo")]
        Command::Demo(args) => Box::pin(crate::demo::run(args.into())).await.map(|()| 0),
    }
}

/// The environment, overruled by the flags.
fn settings(args: &RunArgs, dry_run: bool) -> Result<Settings, ConfigError> {
    let mut raw = RawSettings::from_environment(std::env::vars_os())?;
    args.fill(&mut raw);
    let mut settings = Settings::new(&raw, state_folder())?;
    settings.allowed.dry_run |= dry_run;
    Ok(settings)
}

/// The user's state folder
/// (<https://specifications.freedesktop.org/basedir-spec/latest/>).
fn state_folder() -> Option<PathBuf> {
    let folder = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|folder: &PathBuf| folder.is_absolute())
    };
    let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")))?;
    Some(state.join("orphan-sweeper"))
}

async fn sweep(args: RunArgs, dry_run: bool) -> anyhow::Result<u8> {
    let settings = settings(&args, dry_run)?;
    let stop = Arc::new(Stop::never());
    interrupt(Arc::clone(&stop));
    let progress = Arc::new(Progress::default());
    let client = s3::connect().await;
    let bar = bar::show(&progress);
    let report = run(&settings, &client, &stop, &progress).await;
    bar.finish();
    answer(&report, args.output.or_default())
}

/// Prints the answer of a run; its exit code.
fn answer(report: &Report, output: Output) -> anyhow::Result<u8> {
    let mut stdout = std::io::stdout().lock();
    let written = if output.is_json() {
        json(&mut stdout, &report.summary)
    } else {
        text::summary(&mut stdout, report).and_then(|()| text::way_on(&mut stdout, &report.summary))
    };
    written.context("could not write to standard output")?;
    Ok(exit_code(report))
}

/// One line of JSON, which a terminal may see, too.
fn json(to: &mut impl std::io::Write, value: &impl serde::Serialize) -> std::io::Result<()> {
    writeln!(
        to,
        "{}",
        crate::key::escape_json(&serde_json::to_string(value)?)
    )
}

fn exit_code(report: &Report) -> u8 {
    match report.summary.status {
        Status::Completed | Status::DryRun => 0,
        Status::Failed => code::FAILED,
        Status::Refused => code::REFUSED,
        Status::Incomplete if report.interrupted => code::INTERRUPTED,
        Status::Incomplete => code::INCOMPLETE,
    }
}

/// The first Ctrl-C, or a termination, asks the run to stop in good order; another ends
/// the program at once.
fn interrupt(stop: Arc<Stop>) {
    tokio::spawn(async move {
        wait_for_signal().await;
        complain("stopping after what is under way; once more to stop at once");
        stop.interrupt();
        wait_for_signal().await;
        std::process::exit(i32::from(code::INTERRUPTED));
    });
}

async fn wait_for_signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    // Without a handler a signal ends the program as it always did.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn examine(args: RunArgs) -> anyhow::Result<u8> {
    let settings = settings(&args, false)?;
    let client = s3::connect().await;
    let findings = doctor::examine(&settings, &client).await;
    let mut stdout = std::io::stdout().lock();
    if args.output.or_default().is_json() {
        json(&mut stdout, &findings)?;
    } else {
        text::findings(&mut stdout, &findings)?;
    }
    Ok(if findings.iter().any(doctor::Finding::is_problem) {
        code::FAILED
    } else {
        0
    })
}

/// How results are printed where nobody says.
trait OrDefault {
    fn or_default(self) -> Output;
}

impl OrDefault for Option<Output> {
    fn or_default(self) -> Output {
        self.unwrap_or(if std::io::stdout().is_terminal() {
            Output::Text
        } else {
            Output::Json
        })
    }
}
