//! `report`: a run of the past for people.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use indicatif::{HumanBytes, HumanCount};
use uuid::Uuid;

use super::state_folder;
use crate::archive::{Archive, ArchiveError};
use crate::key::{escape, escape_json};
use crate::pages::{Pages, PagesError, age, figure, html, sheet, sign};
use crate::s3;
use crate::settings::{ConfigError, RawSettings, Setting, report_location};

pub(super) const EXAMPLES: &str = "\
Examples:
  A page of the newest run, then of another one:
    orphan-sweeper report --out last-night.html
    orphan-sweeper report 0199c0de-0000-7000-8000-000000000000 --out that-night.html
  Every orphan for a spreadsheet, from a ledger in a bucket:
    orphan-sweeper report --report s3://ledgers/pictures --out orphans.csv

It reads the ledger and nothing else. The page needs no other file and runs no script. Keys are
shown escaped, and text that a spreadsheet would take for a formula begins with an apostrophe;
plan.jsonl in the ledger holds every key byte for byte.
Exit codes: 0 done, 1 failed, 2 bad usage (also a run that is not there).";

/// How a run is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Lines for a terminal
    Text,
    /// One page for a browser
    Html,
    /// Each orphan, for a spreadsheet
    Csv,
    /// The summary, as the run wrote it
    Json,
}

/// Flags of a report.
#[derive(Args)]
pub(super) struct ReportArgs {
    /// The run, by the id in its summary [default: the newest one in the ledger]
    run_id: Option<Uuid>,
    /// How it is shown [default: by the name of --out, otherwise text on a terminal and html elsewhere]
    #[arg(long)]
    format: Option<Format>,
    /// Write a file in place of standard output; one that is there is replaced
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Where the run was written down: s3://bucket/prefix or a folder [env: SWEEPER_REPORT] [default: the user's state folder]
    #[arg(long, value_name = "PLACE")]
    report: Option<String>,
}

pub(super) async fn report(args: ReportArgs) -> anyhow::Result<u8> {
    let format = format(&args)?;
    let mut raw = RawSettings::from_environment(std::env::vars_os())?;
    raw.flag(Setting::Report, args.report);
    let location = report_location(&raw, state_folder())?;
    let archive = Archive::new(&location, &s3::connect().await);
    let run_id = match args.run_id {
        Some(run_id) => run_id,
        None => archive.newest().await?.ok_or_else(|| {
            ConfigError::new(
                "RUN_ID",
                "the ledger holds no run; --report says where it lies",
            )
        })?,
    };
    let mut pages = Pages::open(&archive, run_id)
        .await
        .map_err(|error| match error {
            PagesError::NoRun { .. } => ConfigError::new("RUN_ID", error.to_string()).into(),
            error => anyhow::Error::from(error),
        })?;
    match &args.out {
        None => {
            let mut stdout = BufWriter::new(io::stdout().lock());
            write(&mut stdout, &mut pages, format)
                .and_then(|()| stdout.flush())
                .map_err(|error| unwritten(error, "to standard output"))?;
        }
        Some(path) => to_file(path, &mut pages, format)
            .map_err(|error| unwritten(error, &path.display().to_string()))?,
    }
    Ok(0)
}

/// Why nothing was written: what was to be written could not be read, or the place.
fn unwritten(error: io::Error, place: &str) -> anyhow::Error {
    let error = match error.downcast::<ArchiveError>() {
        Ok(unreadable) => return unreadable.into(),
        Err(error) => error,
    };
    match error.downcast::<PagesError>() {
        Ok(missing) => missing.into(),
        Err(error) => anyhow::Error::from(error).context(format!("could not write {place}")),
    }
}

fn format(args: &ReportArgs) -> Result<Format, ConfigError> {
    if let Some(format) = args.format {
        return Ok(format);
    }
    let Some(path) = &args.out else {
        return Ok(if io::stdout().is_terminal() {
            Format::Text
        } else {
            Format::Html
        });
    };
    match path.extension().and_then(OsStr::to_str) {
        Some("html" | "htm") => Ok(Format::Html),
        Some("csv") => Ok(Format::Csv),
        Some("json") => Ok(Format::Json),
        Some("txt") => Ok(Format::Text),
        _ => Err(ConfigError::new(
            "--out",
            format!(
                "{:?} does not end with .html, .csv, .json or .txt; say with --format what it is to hold",
                path.display().to_string()
            ),
        )),
    }
}

/// Writes a file that is there as a whole or not at all.
fn to_file(path: &Path, pages: &mut Pages, format: Format) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        // As the person's umask has it: it is made to be handed on.
        builder.permissions(Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder)?;
    let mut writer: BufWriter<&mut File> = BufWriter::new(file.as_file_mut());
    write(&mut writer, pages, format)?;
    writer.flush()?;
    drop(writer);
    file.persist(path)?;
    Ok(())
}

fn write(to: &mut impl Write, pages: &mut Pages, format: Format) -> io::Result<()> {
    match format {
        Format::Text => text(to, pages),
        Format::Html => html::write(to, pages),
        Format::Csv => sheet::write(to, pages),
        Format::Json => match &pages.summary {
            Some(summary) => writeln!(to, "{}", escape_json(summary.trim_end())),
            None => Err(io::Error::other(PagesError::NoSummary {
                place: pages.place.clone(),
            })),
        },
    }
}

fn text(to: &mut impl Write, pages: &mut Pages) -> io::Result<()> {
    let scope = escape(&pages.scope());
    match &pages.told {
        None => {
            writeln!(to, "no summary: the run was killed, or goes on: {scope}")?;
        }
        Some(told) => {
            writeln!(to, "{}: {scope}", escape(&told.status.replace('_', " ")))?;
            writeln!(to)?;
            super::text::counts(to, &told.counts)?;
            for (name, value, parts) in told.sums() {
                let said: Vec<String> = parts
                    .iter()
                    .map(|(name, count)| format!("{} {name}", HumanCount(*count)))
                    .collect();
                let sign = sign(value, &parts);
                writeln!(
                    to,
                    "{} {name} {sign} {}",
                    HumanCount(value),
                    said.join(" + ")
                )?;
            }
            if let Some(refusal) = &told.refusal {
                writeln!(to)?;
                writeln!(
                    to,
                    "guard {}: {} (limit {})",
                    escape(&refusal.guard),
                    figure(refusal.value),
                    figure(refusal.limit)
                )?;
                writeln!(to, "  {}", escape(&refusal.hint))?;
                for example in &refusal.examples {
                    writeln!(to, "  for example {example}")?;
                }
            }
            for held in &told.held_back_folders {
                writeln!(
                    to,
                    "held back: {} in {}",
                    HumanCount(held.orphans),
                    held.folder
                )?;
            }
            for mention in &told.held_back_mentions {
                writeln!(
                    to,
                    "held back: {}, which {} mentions",
                    mention.key,
                    escape(&mention.name)
                )?;
            }
            for problem in &told.errors {
                let about = problem
                    .key
                    .as_ref()
                    .map_or_else(String::new, |key| format!("{key}: "));
                writeln!(
                    to,
                    "{about}{}: {}",
                    escape(&problem.code),
                    escape(&problem.message)
                )?;
            }
        }
    }
    writeln!(to)?;
    writeln!(to, "run     {}", pages.run_id)?;
    writeln!(to, "report  {}", escape(&pages.place))?;
    for restored in &pages.restored {
        writeln!(to, "restored  {restored}")?;
    }
    while let Some(key) = pages.next_dangling()? {
        writeln!(to, "dangling  {key}")?;
    }
    let mut rows = pages.rows()?;
    let mut first = true;
    while let Some(row) = rows.next_row()? {
        if std::mem::take(&mut first) {
            writeln!(to)?;
        }
        let (size, age) = (HumanBytes(row.orphan.size).to_string(), age(row.age));
        let line = format!(
            "{:<12} {size:>12} {age:>10}  {}  {}",
            escape(&row.outcome),
            row.orphan.key,
            escape(&row.reason)
        );
        writeln!(to, "{}", line.trim_end())?;
    }
    Ok(())
}
