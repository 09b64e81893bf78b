//! Settings as they were given: by which flag or variable, and with what text.

use std::collections::BTreeMap;
use std::ffi::OsString;

use thiserror::Error;

use crate::key::escape;
use crate::names::Host;

/// One thing that can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(
    missing_docs,
    reason = "the table in `names` says what each one is called; the README what it means"
)]
pub enum Setting {
    Bucket,
    Prefix,
    After,
    UpTo,
    Include,
    Exclude,
    References,
    ReferenceForm,
    ReferenceHost,
    ForeignHost,
    ReferencePrefix,
    DatabaseUrl,
    DatabaseSecretArn,
    DatabaseIam,
    DatabaseCa,
    MinAge,
    AllowShortMinAge,
    MaxDelete,
    MaxOrphanPercent,
    MaxDanglingPercent,
    AllowNewerOrphans,
    AllowUnreferencedFolder,
    MaxReferencedDropPercent,
    AllowOldTransactions,
    MaxReplicaLag,
    NotAReference,
    AllowReplica,
    AllowUnversioned,
    AllowUnconditional,
    AbortUploads,
    DryRun,
    Report,
    UndoFunction,
    Concurrency,
}

impl Setting {
    /// Every setting.
    pub const ALL: [Self; 34] = [
        Self::Bucket,
        Self::Prefix,
        Self::After,
        Self::UpTo,
        Self::Include,
        Self::Exclude,
        Self::References,
        Self::ReferenceForm,
        Self::ReferenceHost,
        Self::ForeignHost,
        Self::ReferencePrefix,
        Self::DatabaseUrl,
        Self::DatabaseSecretArn,
        Self::DatabaseIam,
        Self::DatabaseCa,
        Self::MinAge,
        Self::AllowShortMinAge,
        Self::MaxDelete,
        Self::MaxOrphanPercent,
        Self::MaxDanglingPercent,
        Self::AllowNewerOrphans,
        Self::AllowUnreferencedFolder,
        Self::MaxReferencedDropPercent,
        Self::AllowOldTransactions,
        Self::MaxReplicaLag,
        Self::NotAReference,
        Self::AllowReplica,
        Self::AllowUnversioned,
        Self::AllowUnconditional,
        Self::AbortUploads,
        Self::DryRun,
        Self::Report,
        Self::UndoFunction,
        Self::Concurrency,
    ];

    /// The flag and the environment variable.
    #[must_use]
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Bucket => ("--bucket", "SWEEPER_BUCKET"),
            Self::Prefix => ("--prefix", "SWEEPER_PREFIX"),
            Self::After => ("--after", "SWEEPER_AFTER"),
            Self::UpTo => ("--up-to", "SWEEPER_UP_TO"),
            Self::Include => ("--include", "SWEEPER_INCLUDE"),
            Self::Exclude => ("--exclude", "SWEEPER_EXCLUDE"),
            Self::References => ("--references", "SWEEPER_REFERENCES"),
            Self::ReferenceForm => ("--reference-form", "SWEEPER_REFERENCE_FORM"),
            Self::ReferenceHost => ("--reference-host", "SWEEPER_REFERENCE_HOST"),
            Self::ForeignHost => ("--foreign-host", "SWEEPER_FOREIGN_HOST"),
            Self::ReferencePrefix => ("--reference-prefix", "SWEEPER_REFERENCE_PREFIX"),
            Self::DatabaseUrl => ("--database-url", "DATABASE_URL"),
            Self::DatabaseSecretArn => ("--database-secret-arn", "DATABASE_SECRET_ARN"),
            Self::DatabaseIam => ("--database-iam", "SWEEPER_DATABASE_IAM"),
            Self::DatabaseCa => ("--database-ca", "SWEEPER_DATABASE_CA"),
            Self::MinAge => ("--min-age", "SWEEPER_MIN_AGE"),
            Self::AllowShortMinAge => ("--allow-short-min-age", "SWEEPER_ALLOW_SHORT_MIN_AGE"),
            Self::MaxDelete => ("--max-delete", "SWEEPER_MAX_DELETE"),
            Self::MaxOrphanPercent => ("--max-orphan-percent", "SWEEPER_MAX_ORPHAN_PERCENT"),
            Self::MaxDanglingPercent => ("--max-dangling-percent", "SWEEPER_MAX_DANGLING_PERCENT"),
            Self::AllowNewerOrphans => ("--allow-newer-orphans", "SWEEPER_ALLOW_NEWER_ORPHANS"),
            Self::AllowUnreferencedFolder => (
                "--allow-unreferenced-folder",
                "SWEEPER_ALLOW_UNREFERENCED_FOLDER",
            ),
            Self::MaxReferencedDropPercent => (
                "--max-referenced-drop-percent",
                "SWEEPER_MAX_REFERENCED_DROP_PERCENT",
            ),
            Self::AllowOldTransactions => {
                ("--allow-old-transactions", "SWEEPER_ALLOW_OLD_TRANSACTIONS")
            }
            Self::MaxReplicaLag => ("--max-replica-lag", "SWEEPER_MAX_REPLICA_LAG"),
            Self::NotAReference => ("--not-a-reference", "SWEEPER_NOT_A_REFERENCE"),
            Self::AllowReplica => ("--allow-replica", "SWEEPER_ALLOW_REPLICA"),
            Self::AllowUnversioned => ("--allow-unversioned", "SWEEPER_ALLOW_UNVERSIONED"),
            Self::AllowUnconditional => ("--allow-unconditional", "SWEEPER_ALLOW_UNCONDITIONAL"),
            Self::AbortUploads => ("--abort-uploads", "SWEEPER_ABORT_UPLOADS"),
            Self::DryRun => ("--dry-run", "SWEEPER_DRY_RUN"),
            Self::Report => ("--report", "SWEEPER_REPORT"),
            Self::UndoFunction => ("--undo-function", "SWEEPER_UNDO_FUNCTION"),
            Self::Concurrency => ("--concurrency", "SWEEPER_CONCURRENCY"),
        }
    }

    /// Whether it may be given several times.
    fn is_list(self) -> bool {
        matches!(
            self,
            Self::Include
                | Self::Exclude
                | Self::ReferenceHost
                | Self::ForeignHost
                | Self::AllowUnreferencedFolder
                | Self::NotAReference
        )
    }
}

/// What AWS's own library signs requests with. It ends the program where no request can hold
/// the value.
const SIGNS: [&str; 5] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
];

/// A setting that cannot be used. Nothing was read or touched.
#[derive(Debug, Error)]
#[error("{origin}: {problem}")]
pub struct ConfigError {
    origin: String,
    problem: String,
}

impl ConfigError {
    /// A problem with what came from there; both may repeat what anybody wrote.
    pub fn new(origin: impl AsRef<str>, problem: impl AsRef<str>) -> Self {
        Self {
            origin: escape(origin.as_ref()),
            problem: escape(problem.as_ref()),
        }
    }
}

/// Text as it was given, and where.
#[derive(Clone)]
pub(super) struct Given {
    pub(super) text: String,
    origin: &'static str,
}

impl Given {
    pub(super) fn wrong(&self, problem: impl std::fmt::Display) -> ConfigError {
        ConfigError::new(self.origin, problem.to_string())
    }
}

/// Settings as they were given, not yet looked at.
#[derive(Default, Clone)]
pub struct RawSettings(BTreeMap<Setting, Vec<Given>>);

impl RawSettings {
    /// What the environment says. An empty variable is unset.
    ///
    /// # Errors
    /// A variable that begins with `SWEEPER_`, in any case, and is not known, or whose value
    /// is not text: a typing mistake in `SWEEPER_DRY_RUN` must never become a deletion. Or one
    /// of AWS's that no request can be signed with.
    pub fn from_environment(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let mut raw = Self::default();
        for (name, value) in variables {
            let name = name.to_string_lossy().into_owned();
            if SIGNS.contains(&name.as_str()) && value.to_string_lossy().contains(char::is_control)
            {
                return Err(ConfigError::new(
                    name,
                    "its value holds a control character, like the end of a line; set it again without",
                ));
            }
            let ours = name.to_ascii_uppercase().starts_with("SWEEPER_");
            let setting = Setting::ALL
                .into_iter()
                .find(|setting| setting.names().1 == name);
            if !ours && setting.is_none() {
                continue;
            }
            let value = value
                .into_string()
                .map_err(|_| ConfigError::new(&name, "its value is not UTF-8"))?;
            match setting {
                Some(_) if value.is_empty() => {}
                Some(setting) => {
                    let origin = setting.names().1;
                    let texts = if setting.is_list() {
                        split_list(&value).map_err(|what| ConfigError::new(origin, what))?
                    } else {
                        vec![value]
                    };
                    if texts.is_empty() {
                        return Err(ConfigError::new(
                            origin,
                            "nothing stands between its commas",
                        ));
                    }
                    raw.0.insert(
                        setting,
                        texts
                            .into_iter()
                            .map(|text| Given { text, origin })
                            .collect(),
                    );
                }
                None => {
                    return Err(ConfigError::new(
                        name,
                        "not a setting of this program; `orphan-sweeper sweep --help` lists them",
                    ));
                }
            }
        }
        Ok(raw)
    }

    /// Adds what a flag says; it wins over the environment.
    pub fn flag(&mut self, setting: Setting, texts: impl IntoIterator<Item = String>) {
        let origin = setting.names().0;
        let given: Vec<Given> = texts
            .into_iter()
            .map(|text| Given { text, origin })
            .collect();
        if !given.is_empty() {
            self.0.insert(setting, given);
        }
    }

    /// Which settings were given.
    pub fn given(&self) -> impl Iterator<Item = Setting> {
        self.0.keys().copied()
    }

    pub(super) fn all(&self, setting: Setting) -> &[Given] {
        self.0.get(&setting).map_or(&[], Vec::as_slice)
    }

    pub(super) fn one(&self, setting: Setting) -> Option<&Given> {
        self.all(setting).last()
    }

    pub(super) fn required(&self, setting: Setting) -> Result<&Given, ConfigError> {
        let (flag, variable) = setting.names();
        self.one(setting).ok_or_else(|| {
            ConfigError::new(flag, format!("required; give the flag or set {variable}"))
        })
    }

    pub(super) fn parsed<T>(
        &self,
        setting: Setting,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        self.one(setting)
            .map(|given| parse(&given.text).map_err(|problem| given.wrong(problem)))
            .transpose()
    }

    pub(super) fn is_on(&self, setting: Setting) -> Result<bool, ConfigError> {
        Ok(self.parsed(setting, parse_bool)?.unwrap_or(false))
    }

    /// An empty text is a value only where it stands for itself: no prefix.
    pub(super) fn check_empty(&self) -> Result<(), ConfigError> {
        let empty = self
            .0
            .iter()
            .filter(|(setting, _)| !matches!(setting, Setting::Prefix | Setting::ReferencePrefix))
            .flat_map(|(_, given)| given)
            .find(|given| given.text.trim().is_empty());
        empty.map_or(Ok(()), |given| {
            Err(given.wrong("empty; give a value, or leave it out"))
        })
    }

    pub(super) fn hosts(&self, setting: Setting) -> Result<Vec<Host>, ConfigError> {
        self.all(setting)
            .iter()
            .map(|given| Host::new(given.text.trim()).map_err(|error| given.wrong(error)))
            .collect()
    }

    pub(super) fn texts(&self, setting: Setting) -> Vec<String> {
        self.all(setting)
            .iter()
            .map(|given| given.text.clone())
            .collect()
    }
}

/// Splits at commas, but not within braces, where a glob lists its choices. A brace that is
/// escaped, or stands in a class, is a brace and no more.
fn split_list(text: &str) -> Result<Vec<String>, String> {
    let (mut parts, mut depth) = (vec![String::new()], 0_u32);
    let (mut escaped, mut in_class) = (false, false);
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ']' => in_class = false,
            _ if in_class => {}
            '[' => in_class = true,
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    // What is left open would have swallowed the globs behind it.
    if depth > 0 || in_class || escaped {
        return Err(format!(
            "{text:?} is not a glob, nor a list: a brace, a bracket or a backslash has no end"
        ));
    }
    Ok(parts
        .iter()
        .map(|part| part.trim().to_owned())
        .filter(|part| !part.is_empty())
        .collect())
}

fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(format!("{other:?} is neither `true` nor `false`")),
    }
}
