//! What a restoration needs to know: no database, no query, no limits.

use std::path::PathBuf;

use super::{ConfigError, RawSettings, ReportLocation, Setting, concurrency, report_location};

/// Settings of a restoration.
#[derive(Clone)]
pub struct RestoreSettings {
    /// Where the ledger lies.
    pub report: ReportLocation,
    /// Requests under way at once.
    pub concurrency: usize,
    /// Nothing is to be changed.
    pub dry_run: bool,
    raw: RawSettings,
}

impl RestoreSettings {
    /// Lowers raw settings; what belongs to other commands is left alone.
    ///
    /// # Errors
    /// The first value that is missing or cannot be used.
    pub fn new(raw: RawSettings, default_report: Option<PathBuf>) -> Result<Self, ConfigError> {
        raw.check_empty()?;
        Ok(Self {
            report: report_location(&raw, default_report)?,
            concurrency: concurrency(&raw)?,
            dry_run: raw.is_on(Setting::DryRun)?,
            raw,
        })
    }

    /// A bucket that was named must be the run's.
    ///
    /// # Errors
    /// It is another one.
    pub fn check_bucket(&self, bucket: &str) -> Result<(), ConfigError> {
        match self.raw.one(Setting::Bucket) {
            Some(given) if given.text != bucket => Err(given.wrong(format!(
                "{:?} is not the bucket of that run, which is {bucket:?}",
                given.text
            ))),
            _ => Ok(()),
        }
    }
}
