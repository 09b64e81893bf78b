//! One restoration: the ledger and the bucket, put together.

use aws_sdk_s3::Client;
use jiff::Timestamp;
use thiserror::Error;
use uuid::Uuid;

use crate::archive::{Archive, ArchiveError};
use crate::chain::chain;
use crate::guards::Versioning;
use crate::hands::{Journal as _, RecordError};
use crate::ledger::Ledger;
use crate::restore::{Restoration, Unknown, Wish, may_go_on_until, restore};
use crate::s3::{Bucket, BucketError, Undeleter};
use crate::settings::{ConfigError, RestoreSettings};
use crate::stop::Stop;

/// Why nothing was restored.
#[derive(Debug, Error)]
pub enum UndoError {
    /// What was asked for cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The ledger cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The bucket cannot be used.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// There is nothing to restore from.
    #[error(
        "bucket {0} does not keep versions: what was deleted there is gone for good (the doctor tells how to turn versioning on)"
    )]
    Unversioned(String),
    /// The temporary folder.
    #[error("the ledger's copy in the temporary folder could not be read")]
    Spool(#[from] std::io::Error),
    /// It was done, and could not be written down.
    #[error("what was restored could not be written down")]
    Record(#[from] RecordError),
}

/// Undoes what is wished of a run.
///
/// # Errors
/// See [`UndoError`]; what is wrong with a single object is in the answer.
pub async fn undo(
    settings: &RestoreSettings,
    client: &Client,
    run_id: Uuid,
    wish: &Wish,
    stop: &Stop,
) -> Result<Restoration, UndoError> {
    let past = Archive::new(&settings.report, client)
        .past(run_id)
        .await
        .map_err(|error| match error {
            ArchiveError::Unreadable { .. } => UndoError::from(error),
            unusable => ConfigError::new("RUN_ID", chain(&unusable)).into(),
        })?;
    let header = past.manifest.header();
    settings.check_bucket(&header.bucket)?;
    match wish.unknown(&past)? {
        Some(Unknown::Key(key)) => {
            let what = format!("{key} is not in the plan of that run");
            return Err(not_in_plan("--key", &what));
        }
        Some(Unknown::Folder(prefix)) => {
            let what = format!("no key of that run's plan lies in {prefix}");
            return Err(not_in_plan("--prefix", &what));
        }
        None => {}
    }
    let bucket = Bucket::new(client.clone(), &header.bucket, header.prefix.clone());
    let (versioning, _) = bucket.ground().await?;
    if versioning == Versioning::Off {
        return Err(UndoError::Unversioned(header.bucket.clone()));
    }
    if let Some(until) = may_go_on_until(&past, Timestamp::now()) {
        tracing::warn!(
            %until,
            "the run wrote no summary: it was killed, or goes on. What it deletes from now on is not given back; stop it first, or restore once more after that time"
        );
    }
    let ledger = Ledger::new(&settings.report, client, run_id);
    let hands = Undeleter::new(bucket);
    let done = restore(
        &past,
        wish,
        &hands,
        settings.concurrency,
        stop,
        ledger.location(),
    )
    .await?;
    for problem in &done.errors {
        tracing::error!(
            key = problem.key.as_ref().map(tracing::field::display),
            code = problem.code,
            error = problem.message,
            "met a problem"
        );
    }
    tracing::info!(%run_id, restored = done.restored, failed = done.failed, "ended the restoration");
    if !wish.dry_run {
        ledger.restoration(&done).await?;
    }
    Ok(done)
}

fn not_in_plan(setting: &'static str, what: &str) -> UndoError {
    let what = format!("{what}; keys are given as plan.jsonl has them");
    ConfigError::new(setting, what).into()
}
