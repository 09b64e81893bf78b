//! What a run was told, by flags, environment and event, lowered once into values that
//! hold what they say.
//!
//! Each raw value knows where it came from, so that a complaint names the flag, the
//! variable or the field that it is about.

mod database;
mod raw;
mod restore;
mod reviewed;

use std::path::PathBuf;
use std::time::Duration;

use crate::aws::FunctionArn;
use crate::chain::unsigned;
use crate::discovery::ColumnName;
use crate::folders::Folders;
use crate::guards::{Allowances, Doubts, Limits};
use crate::key::{KeyRange, MAX_KEY_BYTES, ObjectKey, Prefix};
use crate::names::{NameRules, ReferenceForm};
use crate::postgres::ReferencesQuery;
use crate::scope::Scope;
pub use database::DatabaseAccess;
pub use raw::{ConfigError, RawSettings, Setting};
pub use restore::RestoreSettings;
pub use reviewed::for_manifest;

/// A grace period like `24h` or `7d`.
fn parse_age(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| match error {
        // Its own words would propose seconds.
        humantime::DurationError::UnknownUnit { unit, .. } if unit.is_empty() => {
            format!("{text:?} is not a time like `24h` or `7d`: it has no unit")
        }
        error => format!("{text:?} is not a time like `24h` or `7d`: {error}"),
    })
}

fn check_percent(percent: f64) -> Result<f64, String> {
    if (0.0..=100.0).contains(&percent) {
        Ok(percent)
    } else {
        Err(format!("{percent} is not a percentage from 0 to 100"))
    }
}

fn parse_percent(text: &str) -> Result<f64, String> {
    check_percent(
        text.parse()
            .map_err(|_| format!("{text:?} is not a percentage from 0 to 100"))?,
    )
}

fn parse_count(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not a whole number from 0 to {}", u64::MAX))
}

/// How far an allowed standby may be behind where nothing is given.
const DEFAULT_REPLICA_LAG: Duration = Duration::from_mins(5);

/// The shortest grace period without `--allow-short-min-age`.
const SHORT_MIN_AGE: Duration = Duration::from_hours(1);

/// The grace period where none is given.
const DEFAULT_MIN_AGE: Duration = Duration::from_hours(24);

/// `100y`. No object is older than S3 itself, which opened in 2006.
const LONGEST_MIN_AGE: Duration = Duration::from_hours(876_600);

/// Where the ledger lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReportLocation {
    /// Below a prefix of a bucket; the prefix is empty or ends with `/`.
    S3 {
        /// The bucket.
        bucket: String,
        /// The prefix.
        prefix: Prefix,
    },
    /// In a folder.
    Folder(PathBuf),
}

impl ReportLocation {
    /// The folder of all runs below it.
    pub(crate) const RUNS: &str = "runs";

    /// The folder that says whose turn it is.
    pub(crate) const LOCKS: &str = "locks";

    /// `s3://bucket/prefix` or a folder.
    fn parse(text: &str) -> Result<Self, String> {
        let neither = || {
            let shown = unsigned(text);
            format!("{shown:?} is neither s3://bucket/prefix nor a folder")
        };
        let Some(rest) = text.strip_prefix("s3://") else {
            // Nobody means a folder called `s3:`.
            if text.contains("://") || text.starts_with("s3:") {
                return Err(neither());
            }
            return Ok(Self::Folder(PathBuf::from(text)));
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        // In its place often stands what an address begins with, a user and a password. (A `:`
        // parts a tenant from its bucket in Ceph.)
        let is_named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if bucket.is_empty() || !bucket.chars().all(is_named) {
            return Err(neither());
        }
        Ok(Self::S3 {
            bucket: bucket.to_owned(),
            prefix: Prefix::folder(prefix),
        })
    }

    /// Whether a sweep of this scope could meet a file of the ledger.
    fn meets(&self, swept: &str, scope: &Prefix) -> bool {
        let Self::S3 { bucket, prefix } = self else {
            return false;
        };
        bucket == swept
            && [Self::RUNS, Self::LOCKS].iter().any(|folder| {
                let folder = Prefix::folder(&format!("{}{folder}", prefix.as_str()));
                folder.extends(scope) || scope.extends(&folder)
            })
    }
}

/// Everything a run needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which keys may be judged.
    pub scope: Scope,
    /// The references query.
    pub references: ReferencesQuery,
    /// How names become keys; knows the bucket.
    pub rules: NameRules,
    /// Where the database is and what signs in there.
    pub database: DatabaseAccess,
    /// The grace period.
    pub min_age: Duration,
    /// How many orphans may be deleted.
    pub max_delete: Option<u64>,
    /// What the guards hold the plan to.
    pub limits: Limits,
    /// Whether old incomplete multipart uploads are aborted.
    pub abort_uploads: bool,
    /// What a person allowed, and whether nothing is to be deleted.
    pub allowed: Allowances,
    /// What the guards that doubt a plan hold it to.
    pub doubts: Doubts,
    /// Folders in which nothing need be referenced.
    pub unreferenced_folders: Folders,
    /// Columns that may hold names and are no references.
    pub not_references: Vec<ColumnName>,
    /// Where the ledger lies.
    pub report: ReportLocation,
    /// The function that undoes deletions for a run that may not.
    pub undo_function: Option<FunctionArn>,
    /// Requests under way at once.
    pub concurrency: usize,
}

impl Settings {
    /// The bucket.
    #[must_use]
    pub fn bucket(&self) -> &str {
        &self.rules.bucket
    }

    /// Lowers raw settings.
    ///
    /// # Errors
    /// The first value that is missing or cannot be used.
    pub fn new(raw: &RawSettings, default_report: Option<PathBuf>) -> Result<Self, ConfigError> {
        raw.check_empty()?;
        let given = raw.required(Setting::Bucket)?;
        let bucket = bucket_name(&given.text).map_err(|problem| given.wrong(problem))?;
        let prefix = raw.parsed(Setting::Prefix, folder)?.unwrap_or_default();
        let scope = scope(raw, prefix)?;
        let scope = scope.within(key_range(raw, scope.prefix())?);
        let rules = rules(raw, bucket)?;
        let references = raw
            .one(Setting::References)
            .map_or("SELECT name FROM images", |given| &given.text);
        let database = database::access(raw)?;
        let report = report_location(raw, default_report)?;
        if let Some(given) = raw
            .one(Setting::Report)
            .filter(|_| report.meets(&rules.bucket, scope.prefix()))
        {
            return Err(given.wrong(format!(
                "the ledger's folder {}/ and what is swept lie one inside of the other; give another bucket or prefix",
                ReportLocation::RUNS
            )));
        }
        Ok(Self {
            scope,
            references: ReferencesQuery::new(references),
            rules,
            database,
            min_age: min_age(raw)?,
            max_delete: raw.parsed(Setting::MaxDelete, parse_count)?,
            limits: Limits {
                max_orphan_percent: raw
                    .parsed(Setting::MaxOrphanPercent, parse_percent)?
                    .unwrap_or(50.0),
                max_dangling_percent: raw
                    .parsed(Setting::MaxDanglingPercent, parse_percent)?
                    .unwrap_or(50.0),
                allow_newer_orphans: raw.is_on(Setting::AllowNewerOrphans)?,
            },
            abort_uploads: raw.is_on(Setting::AbortUploads)?,
            allowed: Allowances {
                dry_run: raw.is_on(Setting::DryRun)?,
                unversioned: raw.is_on(Setting::AllowUnversioned)?,
                replica: raw.is_on(Setting::AllowReplica)?,
                unconditional: raw.is_on(Setting::AllowUnconditional)?,
            },
            doubts: Doubts {
                max_referenced_drop_percent: raw
                    .parsed(Setting::MaxReferencedDropPercent, parse_percent)?
                    .unwrap_or(10.0),
                max_replica_lag: raw
                    .parsed(Setting::MaxReplicaLag, parse_age)?
                    .unwrap_or(DEFAULT_REPLICA_LAG),
                allow_old_transactions: raw.is_on(Setting::AllowOldTransactions)?,
            },
            unreferenced_folders: raw.all(Setting::AllowUnreferencedFolder).iter().try_fold(
                Folders::default(),
                |mut folders, given| {
                    check_beginning(&given.text).map_err(|problem| given.wrong(problem))?;
                    folders.add(&given.text);
                    Ok(folders)
                },
            )?,
            not_references: raw
                .all(Setting::NotAReference)
                .iter()
                .map(|given| ColumnName::parse(&given.text).map_err(|problem| given.wrong(problem)))
                .collect::<Result<_, _>>()?,
            undo_function: undo_function(raw, &report)?,
            report,
            concurrency: concurrency(raw)?,
        })
    }

    /// The settings with what an event asks for, which may only tighten them.
    ///
    /// # Errors
    /// A looser value, named by its field.
    pub fn tighten(&self, event: &EventOptions) -> Result<Self, ConfigError> {
        let mut tightened = self.clone();
        if let Some(dry_run) = event.dry_run {
            if !dry_run {
                return Err(ConfigError::new(
                    "dry_run",
                    "can only be true in an event; the function's configuration decides what may be deleted",
                ));
            }
            tightened.allowed.dry_run = true;
        }
        if let Some(text) = &event.prefix {
            let prefix = folder(text).map_err(|problem| ConfigError::new("prefix", problem))?;
            if !prefix.extends(self.scope.prefix()) {
                return Err(ConfigError::new(
                    "prefix",
                    format!(
                        "'{prefix}' does not lie below the configured prefix '{}'",
                        self.scope.prefix()
                    ),
                ));
            }
            tightened.scope = self.scope.below(prefix);
        }
        tightened.scope = tightened.scope.within(event.narrow(&tightened.scope)?);
        if let Some(text) = &event.min_age {
            let min_age =
                parse_age(text).map_err(|problem| ConfigError::new("min_age", problem))?;
            if min_age < self.min_age {
                return Err(ConfigError::new(
                    "min_age",
                    format!(
                        "{text:?} is shorter than the configured {}",
                        humantime::format_duration(self.min_age)
                    ),
                ));
            }
            tightened.min_age =
                check_longest(min_age).map_err(|problem| ConfigError::new("min_age", problem))?;
        }
        if let Some(max_delete) = event.max_delete {
            if let Some(configured) = self
                .max_delete
                .filter(|&configured| max_delete > configured)
            {
                return Err(ConfigError::new(
                    "max_delete",
                    format!("{max_delete} is larger than the configured {configured}"),
                ));
            }
            tightened.max_delete = Some(max_delete);
        }
        if let Some(percent) = event.max_orphan_percent {
            let percent = check_percent(percent)
                .map_err(|problem| ConfigError::new("max_orphan_percent", problem))?;
            if percent > self.limits.max_orphan_percent {
                return Err(ConfigError::new(
                    "max_orphan_percent",
                    format!(
                        "{percent} is larger than the configured {}",
                        self.limits.max_orphan_percent
                    ),
                ));
            }
            tightened.limits.max_orphan_percent = percent;
        }
        Ok(tightened)
    }
}

fn bucket_name(text: &str) -> Result<String, String> {
    if text.contains("://")
        || text.contains('/')
        || text.chars().any(|c| c.is_whitespace() || c.is_control())
    {
        return Err(format!(
            "{text:?} is not the name of a bucket; a folder in it is given with --prefix"
        ));
    }
    if text.ends_with("--x-s3") {
        return Err(format!(
            "{text:?} is a directory bucket, which lists in no order and cannot be swept; give a general purpose bucket"
        ));
    }
    Ok(text.to_owned())
}

/// A folder of the bucket, where keys can lie.
fn folder(text: &str) -> Result<Prefix, String> {
    check_beginning(text)?;
    Ok(Prefix::folder(text))
}

/// Whether a key can begin so, as far as form `key` takes any.
fn check_beginning(text: &str) -> Result<(), String> {
    if text.contains("://") {
        // It may be signed: not repeated.
        return Err(
            "an address, but keys begin with no scheme; give what stands behind the bucket or the host, like images/"
                .to_owned(),
        );
    }
    if text.len() > MAX_KEY_BYTES {
        return Err(format!(
            "{} bytes long, but a key has at most {MAX_KEY_BYTES}",
            text.len()
        ));
    }
    Ok(())
}

/// Where the ledger lies, by raw settings.
///
/// # Errors
/// It was not given, or is no such place.
pub fn report_location(
    raw: &RawSettings,
    default_report: Option<PathBuf>,
) -> Result<ReportLocation, ConfigError> {
    match (
        raw.parsed(Setting::Report, ReportLocation::parse)?,
        default_report,
    ) {
        (Some(report), _) => Ok(report),
        (None, Some(folder)) => Ok(ReportLocation::Folder(folder)),
        (None, None) => {
            let (flag, variable) = Setting::Report.names();
            Err(ConfigError::new(
                variable,
                format!(
                    "required (or {flag}): where what is deleted is written down, like s3://bucket/prefix"
                ),
            ))
        }
    }
}

fn undo_function(
    raw: &RawSettings,
    report: &ReportLocation,
) -> Result<Option<FunctionArn>, ConfigError> {
    raw.parsed(Setting::UndoFunction, |text| {
        let arn = FunctionArn::new(text).ok_or_else(|| {
            format!("{text:?} is not the ARN of a function, like arn:aws:lambda:REGION:ACCOUNT:function:NAME")
        })?;
        if matches!(report, ReportLocation::Folder(_)) {
            let (flag, variable) = Setting::Report.names();
            return Err(format!(
                "the function learns from the ledger what was deleted and cannot read a folder; give s3://bucket/prefix by {flag} ({variable})"
            ));
        }
        Ok(arn)
    })
}

fn concurrency(raw: &RawSettings) -> Result<usize, ConfigError> {
    Ok(raw
        .parsed(Setting::Concurrency, parse_concurrency)?
        .unwrap_or_else(default_concurrency))
}

fn scope(raw: &RawSettings, prefix: Prefix) -> Result<Scope, ConfigError> {
    for setting in [Setting::Include, Setting::Exclude] {
        for given in raw.all(setting) {
            Scope::new(Prefix::default(), std::slice::from_ref(&given.text), &[])
                .map_err(|error| given.wrong(error))?;
        }
    }
    Scope::new(
        prefix,
        &raw.texts(Setting::Include),
        &raw.texts(Setting::Exclude),
    )
    .map_err(|error| ConfigError::new(Setting::Include.names().0, error.to_string()))
}

fn rules(raw: &RawSettings, bucket: String) -> Result<NameRules, ConfigError> {
    let form = raw.parsed(Setting::ReferenceForm, |text| match text {
        "key" => Ok(ReferenceForm::Key),
        "url" => Ok(ReferenceForm::Url),
        other => Err(format!("{other:?} is neither `key` nor `url`")),
    })?;
    let rules = NameRules {
        bucket,
        form: form.unwrap_or_default(),
        prefix: raw
            .parsed(Setting::ReferencePrefix, |text| {
                check_beginning(text)?;
                Ok(text.to_owned())
            })?
            .unwrap_or_default(),
        hosts: raw.hosts(Setting::ReferenceHost)?,
        foreign_hosts: raw.hosts(Setting::ForeignHost)?,
    };
    let senseless = match rules.form {
        ReferenceForm::Url => &[Setting::ReferencePrefix][..],
        ReferenceForm::Key => &[Setting::ReferenceHost, Setting::ForeignHost],
    };
    match senseless.iter().find_map(|&setting| raw.one(setting)) {
        Some(given) => Err(given.wrong(match rules.form {
            ReferenceForm::Url => {
                "has no meaning with --reference-form url: a URL holds the whole key"
            }
            ReferenceForm::Key => "has no meaning without --reference-form url: a key has no host",
        })),
        None => Ok(rules),
    }
}

fn min_age(raw: &RawSettings) -> Result<Duration, ConfigError> {
    let short = raw.is_on(Setting::AllowShortMinAge)?;
    let min_age = raw.parsed(Setting::MinAge, |text| {
        let min_age = check_longest(parse_age(text)?)?;
        if min_age < SHORT_MIN_AGE && !short {
            return Err(format!(
                "{text:?} is shorter than 1h; an upload under way could look like an orphan. Longer is safer; --allow-short-min-age allows it"
            ));
        }
        Ok(min_age)
    })?;
    Ok(min_age.unwrap_or(DEFAULT_MIN_AGE))
}

fn check_longest(min_age: Duration) -> Result<Duration, String> {
    if min_age > LONGEST_MIN_AGE {
        Err(
            "longer than 100 years, and no object is so old; give a time like `24h` or `7d`"
                .to_owned(),
        )
    } else {
        Ok(min_age)
    }
}

fn parse_concurrency(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(concurrency @ 1..=256) => Ok(concurrency),
        _ => Err(format!("{text:?} is not a whole number from 1 to 256")),
    }
}

/// Requests wait on S3 far longer than they keep a core busy.
fn default_concurrency() -> usize {
    std::thread::available_parallelism().map_or(8, |cores| (cores.get() * 16).clamp(8, 64))
}

/// The key range of a scope below the prefix, by raw settings.
fn key_range(raw: &RawSettings, prefix: &Prefix) -> Result<KeyRange, ConfigError> {
    let bound = |setting| raw.parsed(setting, |text| bound(text, prefix));
    let range = KeyRange {
        after: bound(Setting::After)?,
        up_to: bound(Setting::UpTo)?,
    };
    match raw.one(Setting::UpTo) {
        Some(given) if !holds_keys(&range) => Err(given.wrong(nothing_between(&range))),
        _ => Ok(range),
    }
}

/// A bound of a key range below the prefix.
fn bound(text: &str, prefix: &Prefix) -> Result<ObjectKey, String> {
    check_beginning(text)?;
    if prefix.contains(text) {
        Ok(ObjectKey::new(text))
    } else {
        Err(format!("{text:?} does not lie below the prefix '{prefix}'"))
    }
}

fn holds_keys(range: &KeyRange) -> bool {
    match range {
        KeyRange {
            after: Some(after),
            up_to: Some(up_to),
        } => after < up_to,
        _ => true,
    }
}

fn nothing_between(range: &KeyRange) -> String {
    let shown = |key: &Option<ObjectKey>| key.as_ref().map_or("", ObjectKey::as_str).to_owned();
    format!(
        "{:?} does not come behind {:?}, where the range begins",
        shown(&range.up_to),
        shown(&range.after)
    )
}

/// What an event may ask for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EventOptions {
    /// Delete nothing; can only be true.
    pub dry_run: Option<bool>,
    /// A folder below the configured prefix.
    pub prefix: Option<String>,
    /// Only keys behind this one.
    pub after: Option<String>,
    /// Only keys up to this one.
    pub up_to: Option<String>,
    /// A longer grace period.
    pub min_age: Option<String>,
    /// Fewer deletions.
    pub max_delete: Option<u64>,
    /// A lower limit.
    pub max_orphan_percent: Option<f64>,
}

impl EventOptions {
    /// The key range that the event leaves of this scope's.
    fn narrow(&self, scope: &Scope) -> Result<KeyRange, ConfigError> {
        let configured = scope.range();
        let given = |field: &'static str, text: Option<&String>| {
            text.map(|text| {
                let key = bound(text, scope.prefix())?;
                if !configured.contains(text) && configured.after.as_ref() != Some(&key) {
                    return Err(format!("{text:?} lies outside of the configured key range"));
                }
                Ok(key)
            })
            .transpose()
            .map_err(|problem| ConfigError::new(field, problem))
        };
        let range = KeyRange {
            after: given("after", self.after.as_ref())?.or_else(|| configured.after.clone()),
            up_to: given("up_to", self.up_to.as_ref())?.or_else(|| configured.up_to.clone()),
        };
        if holds_keys(&range) {
            Ok(range)
        } else {
            let field = if self.up_to.is_some() {
                "up_to"
            } else {
                "after"
            };
            Err(ConfigError::new(field, nothing_between(&range)))
        }
    }
}
