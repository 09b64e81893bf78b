//! A world for one test: a bucket, a database, and a ledger of its own, over real sockets.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unused_self,
    reason = "each test binary uses a part of it"
)]

pub mod pooler;
pub mod program;
pub mod runtime_api;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Credentials, SharedCredentialsProvider};
use jiff::{SignedDuration, Timestamp};
use orphan_sweeper::local::postgres::{SharedPostgres, TestDatabase};
use orphan_sweeper::local::s3::{
    ACCESS_KEY, Operation, REGION, RequestRecord, S3Server, SECRET_KEY, Versioning,
};
use orphan_sweeper::progress::Progress;
use orphan_sweeper::run::{Report, run};
use orphan_sweeper::settings::{RawSettings, Setting, Settings};
use orphan_sweeper::stop::Stop;
use orphan_sweeper::summary::Summary;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tempfile::TempDir;

/// The bucket that is swept.
pub const BUCKET: &str = "pictures";

/// Everything that one test has to itself.
pub struct World {
    pub server: S3Server,
    pub database: TestDatabase,
    pub ledger: TempDir,
}

impl World {
    /// An empty bucket with versioning enabled, and an empty table `images(name text)`.
    pub async fn new() -> Self {
        let server = S3Server::start().await.expect("a free port");
        server.create_bucket(BUCKET);
        server.set_versioning(BUCKET, Versioning::Enabled);
        let database = SharedPostgres::database().await.expect("a database");
        let world = Self {
            server,
            database,
            ledger: TempDir::new().expect("a folder"),
        };
        world.sql("CREATE TABLE images (name text)").await;
        world
    }

    /// Puts an object that is so many hours old.
    pub fn put(&self, key: &str, age_hours: i64) {
        self.server
            .put_at(BUCKET, key, key.as_bytes().to_vec(), ago(age_hours));
    }

    /// Puts objects and names them.
    pub async fn put_named(&self, keys: &[&str], age_hours: i64) {
        for key in keys {
            self.put(key, age_hours);
        }
        self.name(keys).await;
    }

    /// Inserts names.
    pub async fn name<S: AsRef<str>>(&self, names: &[S]) {
        let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        let mut connection = self.connect().await;
        sqlx::query("INSERT INTO images SELECT unnest($1::text[])")
            .bind(&names)
            .execute(&mut connection)
            .await
            .expect("inserted");
    }

    /// Runs statements.
    pub async fn sql(&self, text: &str) {
        let mut connection = self.connect().await;
        connection
            .execute(sqlx::raw_sql(AssertSqlSafe(text.to_owned())))
            .await
            .expect("run");
    }

    /// A connection of the test's own.
    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(self.database.url())
            .await
            .expect("connected")
    }

    /// The keys that are left.
    pub fn keys(&self) -> Vec<String> {
        self.server.keys(BUCKET)
    }

    /// What clients need to reach the bucket.
    pub fn sdk_config(&self) -> SdkConfig {
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
                ACCESS_KEY, SECRET_KEY, None, None, "test",
            )))
            .region(Region::new(REGION))
            .endpoint_url(self.server.endpoint())
            .build()
    }

    /// The client that production makes of it.
    pub fn client(&self) -> Client {
        orphan_sweeper::s3::client(&self.sdk_config())
    }

    /// Settings for this world, with these changes.
    pub fn settings(&self, changes: &[(Setting, &str)]) -> Settings {
        let mut raw = RawSettings::default();
        let ledger = self.ledger.path().display().to_string();
        let base = [
            (Setting::Bucket, BUCKET),
            (Setting::DatabaseUrl, self.database.url()),
            (Setting::Report, &ledger),
            // Where tests leave their orphans.
            (Setting::AllowUnreferencedFolder, "left/"),
        ];
        let mut values: BTreeMap<Setting, Vec<String>> = BTreeMap::new();
        for (setting, text) in base {
            values.insert(setting, vec![text.to_owned()]);
        }
        let mut changed: BTreeMap<Setting, Vec<String>> = BTreeMap::new();
        for (setting, text) in changes {
            changed
                .entry(*setting)
                .or_default()
                .push((*text).to_owned());
        }
        values.extend(changed);
        for (setting, texts) in values {
            raw.flag(setting, texts);
        }
        Settings::new(&raw, None).expect("settings")
    }

    /// Runs once with these changes to the settings.
    pub async fn run(&self, changes: &[(Setting, &str)]) -> Report {
        self.run_until(changes, &Stop::never()).await
    }

    /// Runs once, until it is told to stop.
    pub async fn run_until(&self, changes: &[(Setting, &str)], stop: &Stop) -> Report {
        let report = run(
            &self.settings(changes),
            &self.client(),
            stop,
            &Progress::default(),
        )
        .await;
        let counts = &report.summary.counts;
        counts
            .check()
            .expect("the sums of promise 7 hold in every run");
        let summary: serde_json::Value = self.read(&report, "summary.json");
        assert_eq!(
            summary,
            read_back(&report.summary),
            "the ledger says what the run answers"
        );
        report
    }

    /// Runs once, with a ledger wherever the changes say.
    pub async fn run_for(&self, changes: &[(Setting, &str)]) -> Report {
        let settings = self.settings(changes);
        run(
            &settings,
            &self.client(),
            &Stop::never(),
            &Progress::default(),
        )
        .await
    }

    /// Reads a JSON file of the run's ledger.
    pub fn read(&self, report: &Report, file: &str) -> serde_json::Value {
        serde_json::from_slice(&self.read_bytes(report, file)).expect("JSON")
    }

    /// Reads a file of the run's ledger.
    pub fn read_bytes(&self, report: &Report, file: &str) -> Vec<u8> {
        let path = Path::new(&report.summary.report).join(file);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Whether the run's ledger has the file.
    pub fn has(&self, report: &Report, file: &str) -> bool {
        Path::new(&report.summary.report).join(file).exists()
    }
}

/// Runs statements when the batch of the orphans `left/0…` is asked for: behind the fresh
/// check, before the deletion. The probe is the first such request.
pub fn at_the_last_moment(world: &World, statements: &str) {
    at_a_request(world, statements, |record| {
        record.keys.iter().any(|key| key.starts_with("left/0"))
    });
}

/// Runs statements behind the plan and before the first fresh check: when S3 is asked whether it
/// compares ETags.
pub fn before_the_fresh_check(world: &World, statements: &str) {
    at_a_request(world, statements, |record| record.nth == 1);
}

/// Runs statements once, at the first such request for a deletion.
fn at_a_request(world: &World, statements: &str, is_now: fn(&RequestRecord) -> bool) {
    let (url, statements) = (world.database.url().to_owned(), statements.to_owned());
    let done = Arc::new(AtomicBool::new(false));
    world
        .server
        .on_request(Operation::DeleteObjects, move |_, record| {
            let (url, statements) = (url.clone(), statements.clone());
            let now = is_now(&record) && !done.swap(true, Ordering::SeqCst);
            async move {
                if now {
                    let mut connection = PgConnection::connect(&url).await.expect("connected");
                    connection
                        .execute(sqlx::raw_sql(AssertSqlSafe(statements)))
                        .await
                        .expect("run");
                }
            }
        });
}

/// A summary as a reader of its JSON has it: a percentage may lose its last digit on the way.
pub fn read_back(summary: &Summary) -> serde_json::Value {
    let text = serde_json::to_vec(summary).expect("JSON");
    serde_json::from_slice(&text).expect("JSON")
}

/// A time so many hours before the tests began: objects of one age are of one time, however
/// long it takes to put them, or the guards would tell some from others.
pub fn ago(hours: i64) -> Timestamp {
    static BEGAN: OnceLock<Timestamp> = OnceLock::new();
    *BEGAN.get_or_init(Timestamp::now) - SignedDuration::from_hours(hours)
}

/// What is wrong, as one line, of a run that failed.
pub fn failure(report: &Report) -> String {
    let error = report.error.as_ref().expect("a failed run");
    format!("{}: {}", error.kind(), orphan_sweeper::chain::chain(error))
}
