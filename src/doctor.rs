//! The doctor: everything that a sweep needs, checked before the first one.
//!
//! It deletes nothing: the right to delete is tried on a key that does not exist, on a
//! condition that nothing fulfils.

mod doubts;

use aws_sdk_s3::Client;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use uuid::Uuid;

use crate::access;
use crate::chain::chain;
use crate::guards::{self, Allowances, Ground, Versioning};
use crate::hands::{Current, FreshCheck as _, Look as _, LookError};
use crate::key::ObjectKey;
use crate::ledger::Ledger;
use crate::listing::{Bookmark, RangeListing};
use crate::merge::Criteria;
use crate::paced::Paced;
use crate::postgres::{self, DatabaseUrl, Examination, Order, PrimaryCheck};
use crate::probe::{Probe, probe};
use crate::retention::Retention;
use crate::s3::{Bucket, Deleter};
use crate::settings::Settings;
use crate::uploads;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and something is worth knowing.
    Warning,
    /// A sweep would fail or be refused.
    Problem,
}

impl Verdict {
    /// The word for people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// What one check found.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// What was checked.
    pub about: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// What was found, and how to go on.
    pub message: String,
}

impl Finding {
    /// Whether a sweep would fail or be refused.
    #[must_use]
    pub fn is_problem(&self) -> bool {
        self.verdict == Verdict::Problem
    }
}

/// A lifecycle that frees what was deleted after 30 days.
const EXPIRY: &str = r#"{"Rules":[{"ID":"undo","Status":"Enabled","Filter":{"Prefix":""},"NoncurrentVersionExpiration":{"NoncurrentDays":30},"Expiration":{"ExpiredObjectDeleteMarker":true}}]}"#;

/// Pages that are listed to see whether they come in order.
const PAGES: usize = 3;

/// Keys that are looked for in the database.
const SAMPLE: usize = 1_000;

/// Checks everything, whatever fails on the way.
pub async fn examine(settings: &Settings, client: &Client) -> Vec<Finding> {
    let mut doctor = Doctor {
        settings,
        findings: Vec::new(),
    };
    let bucket = Bucket::new(
        client.clone(),
        settings.bucket(),
        settings.scope.prefix().clone(),
    );
    doctor.bucket(&bucket).await;
    let sample = doctor.listing(&bucket).await;
    doctor.reading(&bucket, sample.first()).await;
    doctor.uploads(&bucket).await;
    doctor.deleting(bucket.clone()).await;
    doctor.database(&bucket, &sample).await;
    doctor.ledger(client).await;
    doctor.findings
}

struct Doctor<'run> {
    settings: &'run Settings,
    findings: Vec<Finding>,
}

impl Doctor<'_> {
    fn note(&mut self, about: &'static str, verdict: Verdict, message: impl Into<String>) {
        self.findings.push(Finding {
            about,
            verdict,
            message: message.into(),
        });
    }

    async fn bucket(&mut self, bucket: &Bucket) {
        let (versioning, storage_now) = match bucket.ground().await {
            Ok(ground) => ground,
            Err(error) => return self.note("bucket", Verdict::Problem, chain(&error)),
        };
        self.note(
            "bucket",
            Verdict::Ok,
            format!("{} can be reached", bucket.name()),
        );
        let ground = Ground {
            local_now: Timestamp::now(),
            storage_now,
            versioning,
            standby: false,
        };
        let refusals = guards::inspect(
            &ground,
            Allowances {
                dry_run: false,
                ..self.settings.allowed
            },
        );
        for refusal in &refusals {
            let about = if refusal.guard == "unversioned" {
                "versioning"
            } else {
                "clock"
            };
            self.note(about, Verdict::Problem, refusal.hint.clone());
        }
        if refusals.is_empty() {
            match versioning {
                Versioning::Enabled => self.note("versioning", Verdict::Ok, "enabled: a deletion leaves a delete marker and can be undone while the version below is kept"),
                Versioning::Suspended => self.note("versioning", Verdict::Warning, "suspended: a deletion is final for what was written since, and `restore` undoes none, as --allow-unversioned accepts"),
                Versioning::Off => self.note("versioning", Verdict::Warning, "not enabled: a deletion is final, as --allow-unversioned accepts"),
            }
        }
        self.undo(bucket, versioning).await;
    }

    /// How long a deletion can be undone.
    async fn undo(&mut self, bucket: &Bucket, versioning: Versioning) {
        const ABOUT: &str = "undo";
        let name = bucket.name();
        let expiry = format!(
            "aws s3api put-bucket-lifecycle-configuration --bucket {name} --lifecycle-configuration '{EXPIRY}' (it replaces the rules that the bucket has: add them)"
        );
        if versioning != Versioning::Enabled {
            return self.note(ABOUT, Verdict::Warning, format!("no deletion can be undone; to turn versioning on, with 30 days to undo: aws s3api put-bucket-versioning --bucket {name} --versioning-configuration Status=Enabled, then {expiry}"));
        }
        match bucket.retention().await {
            Retention::Days(days) => self.note(ABOUT, Verdict::Ok, format!("a deletion can be undone for {days} days (`restore`); then its bytes are freed")),
            Retention::Forever => self.note(ABOUT, Verdict::Warning, format!("a deletion can be undone for ever, and its bytes are never freed: no rule expires noncurrent versions. For 30 days to undo: {expiry}")),
            Retention::Unknown => self.note(ABOUT, Verdict::Warning, "how long a deletion can be undone is not known: the bucket's lifecycle could not be read (s3:GetLifecycleConfiguration)"),
        }
    }

    /// Uploads that were never completed.
    async fn uploads(&mut self, bucket: &Bucket) {
        const ABOUT: &str = "uploads";
        let now = Timestamp::now();
        let criteria = Criteria {
            scope: self.settings.scope.clone(),
            cutoff: SignedDuration::try_from(self.settings.min_age)
                .ok()
                .and_then(|grace| now.checked_sub(grace).ok())
                .unwrap_or(Timestamp::MIN),
        };
        match uploads::find(bucket, &criteria, self.settings.concurrency).await {
            Ok(found) if found.counts.old == 0 => self.note(
                ABOUT,
                Verdict::Ok,
                "no old multipart upload that was never completed",
            ),
            Ok(found) => {
                let aborted = if self.settings.abort_uploads {
                    "a sweep aborts those whose key no row names"
                } else {
                    "their parts are billed; --abort-uploads frees them"
                };
                self.note(ABOUT, Verdict::Warning, format!("{} multipart uploads older than the grace period were never completed: {aborted}", found.counts.old));
            }
            Err(LookError { code, message }) => {
                let code = code.unwrap_or_else(|| "NoAnswer".to_owned());
                self.note(ABOUT, Verdict::Warning, format!("uploads that were never completed could not be listed (s3:ListBucketMultipartUploads): {code}: {message}"));
            }
        }
    }

    /// The first keys in scope.
    async fn listing(&mut self, bucket: &Bucket) -> Vec<ObjectKey> {
        let mut sample = Vec::new();
        let scope = &self.settings.scope;
        let paced = Paced::new(bucket);
        let mut listing = RangeListing::resume(&paced, Bookmark::default());
        for _ in 0..PAGES {
            let page = listing.next_page(|object| {
                if sample.len() < SAMPLE && scope.contains(object.key) {
                    sample.push(ObjectKey::new(object.key));
                }
            });
            match page.await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    self.note("listing", Verdict::Problem, chain(&error));
                    return sample;
                }
            }
        }
        let listed = listing.listed();
        if sample.is_empty() {
            self.note(
                "listing",
                Verdict::Warning,
                format!(
                    "none of the first {listed} objects is in scope: check --prefix and --include"
                ),
            );
        } else {
            self.note(
                "listing",
                Verdict::Ok,
                format!(
                    "the first {listed} objects come in byte order, {} of them sampled below",
                    sample.len()
                ),
            );
        }
        sample
    }

    async fn reading(&mut self, bucket: &Bucket, key: Option<&ObjectKey>) {
        let Some(key) = key else { return };
        match bucket.look(key).await {
            Ok(Current::Present { etag: Some(_), .. }) => self.note(
                "s3:GetObject",
                Verdict::Ok,
                "single objects can be looked at, which the condition of a deletion needs",
            ),
            Ok(Current::Present { etag: None, .. }) => self.note(
                "s3:GetObject",
                Verdict::Problem,
                format!("{key} has no ETag, without which nothing can be deleted safely"),
            ),
            Ok(Current::Absent) => self.note(
                "s3:GetObject",
                Verdict::Warning,
                format!("{key} was deleted in between"),
            ),
            Err(LookError { code, message }) => {
                let code = code.unwrap_or_else(|| "NoAnswer".to_owned());
                self.note(
                    "s3:GetObject",
                    Verdict::Problem,
                    format!("could not look at {key}: {code}: {message}"),
                );
            }
        }
    }

    async fn deleting(&mut self, bucket: Bucket) {
        const ABOUT: &str = "s3:DeleteObject";
        match probe(&Deleter::new(bucket), self.settings.scope.prefix()).await {
            Probe::Honoured => self.note(ABOUT, Verdict::Ok, "allowed, and conditions on the ETag are honoured (tried on a key that does not exist)"),
            Probe::Unclear => self.note(ABOUT, Verdict::Warning, "allowed; the storage does not show that it honours conditions on the ETag both in batches and for single keys, so each object is looked at just before"),
            Probe::Ignored if self.settings.allowed.unconditional => self.note(ABOUT, Verdict::Warning, "the storage ignores conditions on the ETag, as --allow-unconditional accepts"),
            Probe::Ignored => self.note(ABOUT, Verdict::Problem, guards::conditions_ignored().hint),
            Probe::Failed { code, message } => self.note(ABOUT, Verdict::Problem, format!("{code}: {message}")),
        }
    }

    async fn database(&mut self, bucket: &Bucket, sample: &[ObjectKey]) {
        let settings = self.settings;
        let database = access::database(&settings.database);
        let Examination {
            identity,
            version,
            encrypted,
            order,
        } = match postgres::examine(&database, &settings.references).await {
            Ok(found) => found,
            Err(error) => return self.note("database", Verdict::Problem, chain(&error)),
        };
        self.note(
            "database",
            Verdict::Ok,
            format!("{identity}, PostgreSQL {version}; the references query yields one column"),
        );
        if identity.standby {
            self.note(
                "primary",
                Verdict::Problem,
                "this is a standby; a sweep needs the primary",
            );
        }
        match database.url().await {
            Ok(url) => self.encryption(&url, encrypted),
            Err(error) => return self.note("database", Verdict::Problem, chain(&error)),
        }
        // (In what order URLs come matters to nothing.)
        let in_order = settings.rules.keep_order();
        match order {
            _ if !in_order => {}
            Order::Index => self.note(
                "order",
                Verdict::Ok,
                "an index yields the names in byte order",
            ),
            Order::Sort { remedy } => {
                let remedy = remedy.unwrap_or_else(|| {
                    "an index in COLLATE \"C\" on what the query reads".to_owned()
                });
                self.note("order", Verdict::Warning, format!("the names are sorted in each run; on a large table this spares it: {remedy}"));
            }
        }
        self.role(&database).await;
        self.state(&database).await;
        let check = PrimaryCheck::new(
            database.clone(),
            settings.references.clone(),
            settings.rules.clone(),
            identity,
        );
        let keys: Vec<&ObjectKey> = sample.iter().collect();
        let named = check.referenced(&keys).await;
        let unnamed = named
            .as_ref()
            .ok()
            .filter(|named| !named.is_empty())
            .map(|named| doubts::unnamed(&keys, named));
        match named {
            Err(error) => self.note("fresh check", Verdict::Problem, chain(&error)),
            Ok(_) if keys.is_empty() => {}
            Ok(named) => {
                let matched = named.iter().filter(|named| **named).count();
                let (verdict, hint) = if matched == 0 {
                    let hint = format!(
                        ", like {}: check --references, --reference-form and --reference-prefix",
                        keys[0]
                    );
                    (Verdict::Problem, hint)
                } else {
                    (Verdict::Ok, String::new())
                };
                self.note(
                    "matching",
                    verdict,
                    format!(
                        "the database names {matched} of {} sampled objects in scope{hint}",
                        keys.len()
                    ),
                );
                match check.by_index_of() {
                    Some(collation) => self.note("fresh check", Verdict::Ok, format!("an index in {collation} serves it")),
                    None if !in_order => self.note("fresh check", Verdict::Ok, "all names are read once more for each window of batches, as they are URLs"),
                    None => self.note("fresh check", Verdict::Warning, "no index serves it: all names are read once more for each window of batches"),
                }
            }
        }
        if let Some(unnamed) = unnamed {
            self.forgotten(&database, bucket, &unnamed).await;
        }
    }

    fn encryption(&mut self, url: &DatabaseUrl, encrypted: bool) {
        match (url.is_local(), encrypted, url.is_unverified()) {
            (true, ..) => self.note("tls", Verdict::Ok, "the database is on this machine"),
            (false, true, false) => self.note(
                "tls",
                Verdict::Ok,
                "the connection is encrypted and the server's certificate verified",
            ),
            (false, encrypted, _) => {
                let state = if encrypted {
                    "encrypted, but the server's certificate is not verified"
                } else {
                    "not encrypted"
                };
                self.note("tls", Verdict::Warning, format!("the connection is {state}: use sslmode=verify-full (with --database-ca for a private authority)"));
            }
        }
    }

    async fn ledger(&mut self, client: &Client) {
        let ledger = Ledger::new(&self.settings.report, client, Uuid::now_v7());
        match ledger.try_out().await {
            Ok(()) => self.note(
                "report",
                Verdict::Ok,
                format!("{} can be written", ledger.root()),
            ),
            Err(error) => self.note("report", Verdict::Problem, chain(&error)),
        }
    }
}
