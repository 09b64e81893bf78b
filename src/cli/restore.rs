//! `restore`: a run of the past is undone.

use std::io::{self, Write};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use indicatif::{HumanBytes, HumanCount};
use uuid::Uuid;

use super::flags::Output;
use super::{OrDefault as _, code, interrupt, state_folder};
use crate::key::{ObjectKey, Prefix};
use crate::restore::{Restoration, Wish};
use crate::s3;
use crate::settings::{RawSettings, RestoreSettings, Setting};
use crate::stop::Stop;
use crate::summary::Status;
use crate::undo::{UndoError, undo};

pub(super) const EXAMPLES: &str = "\
Examples:
  See what could be given back, then do it:
    orphan-sweeper restore 0199c0de-0000-7000-8000-000000000000 --dry-run
    orphan-sweeper restore 0199c0de-0000-7000-8000-000000000000
  Only some of it:
    orphan-sweeper restore 0199c0de-0000-7000-8000-000000000000 --prefix images/2026
    orphan-sweeper restore 0199c0de-0000-7000-8000-000000000000 --key images/a.png

It needs s3:ListBucketVersions, s3:DeleteObjectVersion and the run's ledger, and no database.
Restored objects that still no row names are orphans again: mend the references query, or stop
the schedule, before the next run.
Exit codes: 0 done, 1 failed, 2 bad usage, 4 incomplete, 130 interrupted.";

/// Flags of a restoration.
#[derive(Args)]
pub(super) struct RestoreArgs {
    /// The run to undo, by the id in its summary
    run_id: Uuid,
    /// Only this key; repeatable
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
    /// Only keys in this folder; `images` means `images/` [default: the whole run]
    #[arg(long)]
    prefix: Option<String>,
    /// Change nothing, only tell what could be restored [env: SWEEPER_DRY_RUN]
    #[arg(long)]
    dry_run: bool,
    /// The bucket, where it is to be made sure of; the run's ledger knows it [env: SWEEPER_BUCKET]
    #[arg(long)]
    bucket: Option<String>,
    /// Where the run was written down: s3://bucket/prefix or a folder [env: SWEEPER_REPORT] [default: the user's state folder]
    #[arg(long, value_name = "PLACE")]
    report: Option<String>,
    /// Requests under way at once [env: SWEEPER_CONCURRENCY] [default: by the machine's cores]
    #[arg(long, value_name = "COUNT")]
    concurrency: Option<String>,
    /// How results are printed [default: text on a terminal, otherwise json]
    #[arg(long)]
    output: Option<Output>,
}

pub(super) async fn restore(args: RestoreArgs) -> anyhow::Result<u8> {
    let mut raw = RawSettings::from_environment(std::env::vars_os())?;
    raw.flag(Setting::Bucket, args.bucket);
    raw.flag(Setting::Report, args.report);
    raw.flag(Setting::Concurrency, args.concurrency);
    raw.flag(Setting::DryRun, args.dry_run.then(|| "true".to_owned()));
    let settings = RestoreSettings::new(raw, state_folder())?;
    let wish = Wish {
        keys: args.key.into_iter().map(ObjectKey::new).collect(),
        prefix: args
            .prefix
            .as_deref()
            .map_or_else(Prefix::default, Prefix::folder),
        dry_run: settings.dry_run,
    };
    let stop = Arc::new(Stop::never());
    interrupt(Arc::clone(&stop));
    let client = s3::connect().await;
    let done = undo(&settings, &client, args.run_id, &wish, &stop)
        .await
        .map_err(|error| match error {
            // By its own type, so that it ends as bad usage.
            UndoError::Config(error) => anyhow::Error::from(error),
            error => error.into(),
        })?;
    let mut stdout = io::stdout().lock();
    let written = if args.output.or_default().is_json() {
        super::json(&mut stdout, &done)
    } else {
        text(&mut stdout, &done)
    };
    written.context("could not write to standard output")?;
    Ok(match done.status {
        Status::Completed | Status::DryRun => 0,
        Status::Incomplete if stop.interrupted() => code::INTERRUPTED,
        Status::Incomplete => code::INCOMPLETE,
        Status::Refused | Status::Failed => code::FAILED,
    })
}

fn text(to: &mut impl Write, done: &Restoration) -> io::Result<()> {
    let what = match done.status {
        Status::DryRun => "looked at, nothing changed:",
        Status::Completed => "restored",
        _ => "incomplete:",
    };
    writeln!(to, "{what} run {} in {}", done.run_id, done.bucket)?;
    writeln!(to)?;
    for (word, count, note) in [
        ("planned", done.planned, ""),
        ("  restored", done.restored, ""),
        ("  present", done.present, "stand there already"),
        (
            "  newer",
            done.newer,
            "something newer stands above; left alone",
        ),
        (
            "  kept",
            done.kept,
            "below a delete marker that nothing shows to be the run's; to be copied back by hand",
        ),
        (
            "  lost",
            done.lost,
            "the deleted version is not kept any more",
        ),
        (
            "  untouched",
            done.untouched,
            "nothing shows that the run deleted it",
        ),
        ("  failed", done.failed, ""),
        ("  deferred", done.deferred, "could be restored"),
    ] {
        let bytes = if word == "  restored" {
            HumanBytes(done.restored_bytes).to_string()
        } else if count > 0 {
            note.to_owned()
        } else {
            String::new()
        };
        let line = format!("{word:<16}{:>14}  {bytes}", HumanCount(count).to_string());
        writeln!(to, "{}", line.trim_end())?;
    }
    for problem in &done.errors {
        let about = problem
            .key
            .as_ref()
            .map_or_else(String::new, |key| format!("{key}: "));
        let message = crate::key::escape(&problem.message);
        writeln!(to, "{about}{}: {message}", problem.code)?;
    }
    if done.restored > 0 {
        writeln!(to)?;
        writeln!(
            to,
            "what still no row names is an orphan again, and the next run deletes it: mend the references query first"
        )?;
    }
    writeln!(to)?;
    writeln!(to, "report  {}", done.report)
}
