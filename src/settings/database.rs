//! Where the database is and what signs in there: exactly one of three ways.

use std::path::PathBuf;

use super::{ConfigError, RawSettings, Setting};
use crate::aws::SecretArn;
use crate::postgres::DatabaseUrl;

/// Where the database is and what signs in there.
#[derive(Debug, Clone)]
pub enum DatabaseAccess {
    /// An address that holds its password, if it needs one.
    Url(DatabaseUrl),
    /// A secret that says all.
    Secret {
        /// Which.
        arn: SecretArn,
        /// A file of authorities that may have signed the database's certificate.
        ca: Option<PathBuf>,
    },
    /// An address, and a token signed by IAM.
    Iam(DatabaseUrl),
}

impl DatabaseAccess {
    /// The host, if somebody on the way to it could answer in its place. A secret's host is
    /// always verified.
    #[must_use]
    pub fn unverified_host(&self) -> Option<&str> {
        match self {
            Self::Url(url) | Self::Iam(url) => url.is_unverified().then(|| url.host()),
            Self::Secret { .. } => None,
        }
    }
}

pub(super) fn access(raw: &RawSettings) -> Result<DatabaseAccess, ConfigError> {
    let ca = raw.parsed(Setting::DatabaseCa, |text| {
        let file = PathBuf::from(text);
        // Said now, not by the first connection in the middle of a run.
        match std::fs::metadata(&file) {
            Ok(found) if found.is_file() => Ok(file),
            Ok(_) => Err(format!("{text:?} is not a file")),
            Err(error) => Err(format!("{text:?} cannot be read: {error}")),
        }
    })?;
    let iam = raw.is_on(Setting::DatabaseIam)?;
    let (flag, variable) = Setting::DatabaseUrl.names();
    if let Some(given) = raw.one(Setting::DatabaseSecretArn) {
        if raw.one(Setting::DatabaseUrl).is_some() {
            return Err(given.wrong(format!(
                "{variable} ({flag}) is given, too; give exactly one of them"
            )));
        }
        if iam {
            return Err(given.wrong(format!(
                "sign-in by IAM needs no secret; give {variable} ({flag}) in its place"
            )));
        }
        let arn = SecretArn::new(&given.text).ok_or_else(|| {
            given.wrong(
                "not the ARN of a secret, like arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME",
            )
        })?;
        return Ok(DatabaseAccess::Secret { arn, ca });
    }
    let Some(given) = raw.one(Setting::DatabaseUrl) else {
        let (or_flag, or_variable) = Setting::DatabaseSecretArn.names();
        return Err(ConfigError::new(
            flag,
            format!("required; give the flag or set {variable}, or {or_variable} ({or_flag})"),
        ));
    };
    let mut url = DatabaseUrl::new(&given.text).map_err(|error| given.wrong(error))?;
    if let Some(file) = &ca {
        url = url.with_ca(file);
    }
    if !iam {
        return Ok(DatabaseAccess::Url(url));
    }
    match url.unfit_for_token(&given.text) {
        Some(problem) => Err(given.wrong(problem)),
        None => Ok(DatabaseAccess::Iam(url)),
    }
}
