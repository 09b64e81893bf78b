//! Settings for applying a manifest: what is swept and how names are read come from its
//! header; what the environment says of that, too, must agree.

use std::path::PathBuf;

use jiff::SignedDuration;

use super::{ConfigError, RawSettings, Setting, Settings};
use crate::key::ObjectKey;
use crate::manifest::Header;
use crate::names::{Host, ReferenceForm};

/// Every setting that a manifest decides.
const DECIDED: [Setting; 11] = [
    Setting::Bucket,
    Setting::Prefix,
    Setting::After,
    Setting::UpTo,
    Setting::Include,
    Setting::Exclude,
    Setting::References,
    Setting::ReferenceForm,
    Setting::ReferencePrefix,
    Setting::ReferenceHost,
    Setting::ForeignHost,
];

/// The settings under which the manifest is applied.
///
/// # Errors
/// A value that is missing or cannot be used, or that speaks of another bucket, scope or
/// query than the manifest: who added a table to the query since then must plan again.
pub fn for_manifest(
    raw: &RawSettings,
    header: &Header,
    default_report: Option<PathBuf>,
) -> Result<Settings, ConfigError> {
    let mut all = raw.clone();
    for setting in DECIDED {
        if raw.one(setting).is_none() {
            all.flag(setting, said(header, setting));
        }
    }
    let settings = Settings::new(&all, default_report)?;
    let differs = |setting| match setting {
        Setting::Bucket => settings.bucket() != header.bucket,
        Setting::Prefix => *settings.scope.prefix() != header.prefix,
        Setting::After => settings.scope.range().after != header.after,
        Setting::UpTo => settings.scope.range().up_to != header.up_to,
        Setting::Include => settings.scope.include() != header.include,
        Setting::Exclude => settings.scope.exclude() != header.exclude,
        Setting::References => settings.references.text() != header.references,
        Setting::ReferenceForm => settings.rules.form != header.reference_form,
        Setting::ReferencePrefix => settings.rules.prefix != header.reference_prefix,
        Setting::ReferenceHost => settings.rules.hosts != header.reference_hosts,
        _ => settings.rules.foreign_hosts != header.foreign_hosts,
    };
    match DECIDED.into_iter().find(|&setting| differs(setting)) {
        None => check_grace(raw, &settings, header).map(|()| settings),
        Some(setting) => {
            let said = said(header, setting).join(", ");
            let problem = format!(
                "not what the manifest was made with ({said:?}); unset it to apply that plan, or plan again"
            );
            Err(match raw.one(setting) {
                Some(given) => given.wrong(problem),
                None => ConfigError::new("MANIFEST", problem),
            })
        }
    }
}

/// A grace period that was given may not be longer than the manifest's: its orphans may be too
/// young for it.
fn check_grace(raw: &RawSettings, settings: &Settings, header: &Header) -> Result<(), ConfigError> {
    let grace = header.started_at.duration_since(header.cutoff);
    let Some(given) = raw.one(Setting::MinAge) else {
        return Ok(());
    };
    // The cutoff follows S3's clock, which may be some way behind.
    if SignedDuration::try_from(settings.min_age).is_ok_and(|min_age| min_age <= grace) {
        return Ok(());
    }
    Err(given.wrong(format!(
        "longer than the grace period of the manifest ({}); unset it to apply that plan, or plan again",
        humantime::format_duration(grace.unsigned_abs())
    )))
}

/// What the header says of a setting, as a person would have given it.
fn said(header: &Header, setting: Setting) -> Vec<String> {
    let hosts = |hosts: &[Host]| {
        hosts
            .iter()
            .map(|host| String::from(host.clone()))
            .collect()
    };
    let one = |text: &str| vec![text.to_owned()];
    let bound = |key: Option<&ObjectKey>| key.map_or_else(Vec::new, |key| one(key.as_str()));
    match setting {
        Setting::Bucket => one(&header.bucket),
        Setting::Prefix => one(header.prefix.as_str()),
        Setting::After => bound(header.after.as_ref()),
        Setting::UpTo => bound(header.up_to.as_ref()),
        Setting::Include => header.include.clone(),
        Setting::Exclude => header.exclude.clone(),
        Setting::References => one(&header.references),
        Setting::ReferenceForm => one(match header.reference_form {
            ReferenceForm::Key => "key",
            ReferenceForm::Url => "url",
        }),
        // An empty one was not given, which matters where it has no meaning.
        Setting::ReferencePrefix if header.reference_prefix.is_empty() => Vec::new(),
        Setting::ReferencePrefix => one(&header.reference_prefix),
        Setting::ReferenceHost => hosts(&header.reference_hosts),
        Setting::ForeignHost => hosts(&header.foreign_hosts),
        _ => Vec::new(),
    }
}
