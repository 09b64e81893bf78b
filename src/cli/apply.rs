//! `apply`: what a reviewed plan lists is deleted.

use std::collections::HashSet;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::sync::Arc;

use aws_sdk_s3::Client;
use clap::Args;
use uuid::Uuid;

use super::flags::Output;
use super::{OrDefault as _, answer, bar, interrupt, state_folder};
use crate::archive::{Archive, ArchiveError};
use crate::chain::chain;
use crate::manifest::{Manifest, ManifestError};
use crate::progress::Progress;
use crate::reviewed::{ExceptError, Reviewed, read_exceptions};
use crate::run::apply as run_apply;
use crate::s3;
use crate::settings::{ConfigError, RawSettings, Setting, for_manifest, report_location};
use crate::stop::Stop;

pub(super) const EXAMPLES: &str = "\
Examples:
  Plan, read what it lists, strike keys out, delete the rest:
    orphan-sweeper plan --bucket pictures --prefix images --report plans
    less plans/runs/*/plan.jsonl
    orphan-sweeper apply plans/runs/0199c0de-0000-7000-8000-000000000000/plan.jsonl --except keep.txt

Bucket, prefix, globs, references query, forms and cutoff come from the manifest; a variable that
says otherwise is refused. No more than the manifest lists is deleted, and of that nothing that a
row names now, that was written since, or whose ETag is another. A plan that a guard refused, of
another database, or older than 7 days is refused.
Exit codes: 0 done, 1 failed, 2 bad usage (also a torn or changed manifest), 3 refused by a guard,
4 incomplete, 130 interrupted.";

/// Flags of an application.
#[derive(Args)]
pub(super) struct ApplyArgs {
    /// The manifest: a plan.jsonl, or the id of the run that wrote it, below --report
    manifest: String,
    /// Leave these keys alone: a file with a key, or a line copied from the manifest, a line
    #[arg(long, value_name = "FILE")]
    except: Option<PathBuf>,
    /// The bucket, where it is to be made sure of; the manifest knows it [env: SWEEPER_BUCKET]
    #[arg(long)]
    bucket: Option<String>,
    /// The database; better given by the environment, where other users do not see it [env: DATABASE_URL]
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// Where what happens is written down: s3://bucket/prefix or a folder [env: SWEEPER_REPORT] [default: the user's state folder]
    #[arg(long, value_name = "PLACE")]
    report: Option<String>,
    /// Delete at most so many objects, the oldest first [env: SWEEPER_MAX_DELETE]
    #[arg(long, value_name = "COUNT")]
    max_delete: Option<String>,
    /// Allow a bucket without versioning, where deletion is final [env: SWEEPER_ALLOW_UNVERSIONED]
    #[arg(long)]
    allow_unversioned: bool,
    /// Requests under way at once [env: SWEEPER_CONCURRENCY] [default: by the machine's cores]
    #[arg(long, value_name = "COUNT")]
    concurrency: Option<String>,
    /// How results are printed [default: text on a terminal, otherwise json]
    #[arg(long)]
    output: Option<Output>,
}

pub(super) async fn apply(args: ApplyArgs) -> anyhow::Result<u8> {
    let mut raw = RawSettings::from_environment(std::env::vars_os())?;
    raw.flag(Setting::Bucket, args.bucket);
    raw.flag(Setting::DatabaseUrl, args.database_url);
    raw.flag(Setting::Report, args.report);
    raw.flag(Setting::MaxDelete, args.max_delete);
    raw.flag(
        Setting::AllowUnversioned,
        args.allow_unversioned.then(|| "true".to_owned()),
    );
    raw.flag(Setting::Concurrency, args.concurrency);
    let client = s3::connect().await;
    let manifest = read(&args.manifest, &raw, &client).await?;
    let settings = for_manifest(&raw, manifest.header(), state_folder())?;
    let except = match &args.except {
        None => HashSet::new(),
        Some(path) => File::open(path)
            .map_err(ExceptError::from)
            .and_then(|file| read_exceptions(BufReader::new(file)))
            .map_err(|error| {
                ConfigError::new("--except", format!("{}: {}", path.display(), chain(&error)))
            })?,
    };
    let reviewed = Reviewed::new(manifest, except).map_err(|error| match error {
        ExceptError::Read(error) => anyhow::Error::from(error),
        unusable => ConfigError::new("--except", chain(&unusable)).into(),
    })?;

    let stop = Arc::new(Stop::never());
    interrupt(Arc::clone(&stop));
    let progress = Arc::new(Progress::default());
    let bar = bar::show(&progress);
    let report = run_apply(&settings, &reviewed, &client, &stop, &progress).await;
    bar.finish();
    answer(&report, args.output.or_default())
}

/// A file, or a run of the ledger.
async fn read(text: &str, raw: &RawSettings, client: &Client) -> anyhow::Result<Manifest> {
    let unusable = |problem: String| anyhow::Error::from(ConfigError::new("MANIFEST", problem));
    if let Ok(run_id) = text.parse::<Uuid>() {
        let report = report_location(raw, state_folder())?;
        let read = Archive::new(&report, client).manifest(run_id).await;
        return read.map_err(|error| match error {
            ArchiveError::Unreadable { .. } => error.into(),
            ArchiveError::Absent { .. } => unusable(chain(&error)),
            ArchiveError::Manifest { .. } => unusable(format!("{}; plan again", chain(&error))),
        });
    }
    if text.starts_with("s3://") {
        return Err(unusable(
            "a manifest in a bucket is given by its run's id, and --report says where the ledger lies"
                .to_owned(),
        ));
    }
    let read = File::open(text)
        .map_err(ManifestError::from)
        .and_then(|file| Manifest::read(BufReader::new(file)));
    read.map_err(|error| match error {
        ManifestError::Read(_) => unusable(format!("{text}: {}", chain(&error))),
        error => unusable(format!("{text}: {}; plan again", chain(&error))),
    })
}
