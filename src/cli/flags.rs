//! The flags of a run, and how results are printed.

use clap::{Args, ValueEnum};

use crate::settings::{RawSettings, Setting};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people
    Text,
    /// One JSON object on one line
    Json,
}

impl Output {
    pub(super) fn is_json(self) -> bool {
        self == Self::Json
    }
}

#[derive(Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch that a person gives or not"
)]
pub(super) struct RunArgs {
    /// The bucket [env: SWEEPER_BUCKET]
    #[arg(long)]
    bucket: Option<String>,
    /// The folder that is swept; `images` means `images/` [env: SWEEPER_PREFIX] [default: the whole bucket]
    #[arg(long)]
    prefix: Option<String>,
    /// Sweep only keys behind this one, in byte order [env: SWEEPER_AFTER]
    #[arg(long, value_name = "KEY")]
    after: Option<String>,
    /// Sweep only keys up to this one, itself among them [env: SWEEPER_UP_TO]
    #[arg(long, value_name = "KEY")]
    up_to: Option<String>,
    /// Sweep only keys that match this glob: without `/` it matches the last segment, with `/` the whole key; repeatable [env: SWEEPER_INCLUDE, commas between] [default: image extensions]
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// Never touch keys that match this glob; wins over --include; repeatable [env: SWEEPER_EXCLUDE]
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// The SQL that yields every name, as one column [env: SWEEPER_REFERENCES] [default: SELECT name FROM images]
    #[arg(long, value_name = "SQL")]
    references: Option<String>,
    /// How names are written: `key` or `url` [env: SWEEPER_REFERENCE_FORM] [default: key]
    #[arg(long, value_name = "FORM")]
    reference_form: Option<String>,
    /// A host of URLs that stands for the bucket, like cdn.example.com; repeatable [env: SWEEPER_REFERENCE_HOST]
    #[arg(long, value_name = "HOST")]
    reference_host: Vec<String>,
    /// A host of URLs that is not ours, like that of sign-in avatars; repeatable [env: SWEEPER_FOREIGN_HOST]
    #[arg(long, value_name = "HOST")]
    foreign_host: Vec<String>,
    /// Prepended to each name to make its key [env: SWEEPER_REFERENCE_PREFIX]
    #[arg(long, value_name = "TEXT")]
    reference_prefix: Option<String>,
    /// The database; better given by the environment, where other users do not see it [env: DATABASE_URL]
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// The secret of AWS Secrets Manager that says where the database is and how to sign in, in place of --database-url [env: DATABASE_SECRET_ARN]
    #[arg(long, value_name = "ARN")]
    database_secret_arn: Option<String>,
    /// Sign in with a token signed by IAM; --database-url then holds a user and no password [env: SWEEPER_DATABASE_IAM]
    #[arg(long)]
    database_iam: bool,
    /// A file (PEM) of authorities that may have signed the database's certificate, beside the public ones and those of RDS [env: SWEEPER_DATABASE_CA]
    #[arg(long, value_name = "FILE")]
    database_ca: Option<String>,
    /// The grace period: only what is older can be an orphan [env: SWEEPER_MIN_AGE] [default: 24h]
    #[arg(long, value_name = "TIME")]
    min_age: Option<String>,
    /// Allow a grace period below 1h [env: SWEEPER_ALLOW_SHORT_MIN_AGE]
    #[arg(long)]
    allow_short_min_age: bool,
    /// Delete at most so many objects, the oldest first [env: SWEEPER_MAX_DELETE]
    #[arg(long, value_name = "COUNT")]
    max_delete: Option<String>,
    /// Refuse when more than this percentage of the objects are orphans [env: SWEEPER_MAX_ORPHAN_PERCENT] [default: 50]
    #[arg(long, value_name = "PERCENT")]
    max_orphan_percent: Option<String>,
    /// Refuse when more than this percentage of the references have no object [env: SWEEPER_MAX_DANGLING_PERCENT] [default: 50]
    #[arg(long, value_name = "PERCENT")]
    max_dangling_percent: Option<String>,
    /// Allow 20 or more orphans newer than every referenced object [env: SWEEPER_ALLOW_NEWER_ORPHANS]
    #[arg(long)]
    allow_newer_orphans: bool,
    /// Delete in this folder although nothing in it is referenced: `avatars/` with everything below, `images/*` only what lies directly in it; repeatable [env: SWEEPER_ALLOW_UNREFERENCED_FOLDER, commas between]
    #[arg(long, value_name = "FOLDER")]
    allow_unreferenced_folder: Vec<String>,
    /// Refuse when so many percent (and 20) fewer objects are referenced than in the last good run [env: SWEEPER_MAX_REFERENCED_DROP_PERCENT] [default: 10]
    #[arg(long, value_name = "PERCENT")]
    max_referenced_drop_percent: Option<String>,
    /// Allow transactions that have been open for longer than the grace period [env: SWEEPER_ALLOW_OLD_TRANSACTIONS]
    #[arg(long)]
    allow_old_transactions: bool,
    /// Refuse a standby that is behind its primary by more than this [env: SWEEPER_MAX_REPLICA_LAG] [default: 5m]
    #[arg(long, value_name = "TIME")]
    max_replica_lag: Option<String>,
    /// A column whose mentions of orphans are no references, like public.audit_log.payload; repeatable [env: SWEEPER_NOT_A_REFERENCE, commas between]
    #[arg(long, value_name = "SCHEMA.TABLE.COLUMN")]
    not_a_reference: Vec<String>,
    /// Allow a standby for a dry run [env: SWEEPER_ALLOW_REPLICA]
    #[arg(long)]
    allow_replica: bool,
    /// Allow a bucket without versioning, where deletion is final [env: SWEEPER_ALLOW_UNVERSIONED]
    #[arg(long)]
    allow_unversioned: bool,
    /// Allow a storage that ignores conditions on the ETag [env: SWEEPER_ALLOW_UNCONDITIONAL]
    #[arg(long)]
    allow_unconditional: bool,
    /// Abort multipart uploads that were begun before the grace period and never completed, and whose key no row names [env: SWEEPER_ABORT_UPLOADS]
    #[arg(long)]
    abort_uploads: bool,
    /// Delete nothing [env: SWEEPER_DRY_RUN]
    #[arg(long)]
    dry_run: bool,
    /// Where what happens is written down: s3://bucket/prefix or a folder [env: SWEEPER_REPORT] [default: the user's state folder]
    #[arg(long, value_name = "PLACE")]
    report: Option<String>,
    /// The function that gives back what a row names although it was deleted, where this process may not (the template's second one); it reads the ledger, which must be in S3 [env: SWEEPER_UNDO_FUNCTION] [default: none]
    #[arg(long, value_name = "ARN")]
    undo_function: Option<String>,
    /// Requests under way at once [env: SWEEPER_CONCURRENCY] [default: by the machine's cores]
    #[arg(long, value_name = "COUNT")]
    concurrency: Option<String>,
    /// How results are printed [default: text on a terminal, otherwise json]
    #[arg(long)]
    pub(super) output: Option<Output>,
}

impl RunArgs {
    /// Adds what was given as a flag.
    pub(super) fn fill(&self, raw: &mut RawSettings) {
        for (setting, text) in [
            (Setting::Bucket, &self.bucket),
            (Setting::Prefix, &self.prefix),
            (Setting::After, &self.after),
            (Setting::UpTo, &self.up_to),
            (Setting::References, &self.references),
            (Setting::ReferenceForm, &self.reference_form),
            (Setting::ReferencePrefix, &self.reference_prefix),
            (Setting::DatabaseUrl, &self.database_url),
            (Setting::DatabaseSecretArn, &self.database_secret_arn),
            (Setting::DatabaseCa, &self.database_ca),
            (Setting::MinAge, &self.min_age),
            (Setting::MaxDelete, &self.max_delete),
            (Setting::MaxOrphanPercent, &self.max_orphan_percent),
            (Setting::MaxDanglingPercent, &self.max_dangling_percent),
            (
                Setting::MaxReferencedDropPercent,
                &self.max_referenced_drop_percent,
            ),
            (Setting::MaxReplicaLag, &self.max_replica_lag),
            (Setting::Report, &self.report),
            (Setting::UndoFunction, &self.undo_function),
            (Setting::Concurrency, &self.concurrency),
        ] {
            raw.flag(setting, text.clone());
        }
        for (setting, texts) in [
            (Setting::Include, &self.include),
            (Setting::Exclude, &self.exclude),
            (Setting::ReferenceHost, &self.reference_host),
            (Setting::ForeignHost, &self.foreign_host),
            (
                Setting::AllowUnreferencedFolder,
                &self.allow_unreferenced_folder,
            ),
            (Setting::NotAReference, &self.not_a_reference),
        ] {
            raw.flag(setting, texts.iter().cloned());
        }
        for (setting, on) in [
            (Setting::AllowShortMinAge, self.allow_short_min_age),
            (Setting::AllowNewerOrphans, self.allow_newer_orphans),
            (Setting::AllowOldTransactions, self.allow_old_transactions),
            (Setting::AllowReplica, self.allow_replica),
            (Setting::AllowUnversioned, self.allow_unversioned),
            (Setting::AllowUnconditional, self.allow_unconditional),
            (Setting::AbortUploads, self.abort_uploads),
            (Setting::DryRun, self.dry_run),
            (Setting::DatabaseIam, self.database_iam),
        ] {
            raw.flag(setting, on.then(|| "true".to_owned()));
        }
    }
}
