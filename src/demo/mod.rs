//! The whole story on servers of its own: an image service lives for a month, orphans stay
//! behind, and the sweeper finds them, is refused, sweeps, and is checked.

mod images;
mod service;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Credentials, SharedCredentialsProvider};
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;

use crate::cli::text;
use crate::key::Prefix;
use crate::local::postgres::PostgresServer;
use crate::local::s3::{ACCESS_KEY, Operation, REGION, S3Server, SECRET_KEY, Versioning};
use crate::progress::Progress;
use crate::run::{Report, run as run_once};
use crate::s3;
use crate::settings::{RawSettings, Setting, Settings};
use crate::stop::Stop;
use crate::summary::Status;
use crate::upload::Uploader;
use service::{BUCKET, FOLDER, Fate, GROUP, Service};

/// Days in the service's life.
const DAYS: i32 = 30;

/// The grace period of the demo.
const MIN_AGE: &str = "24h";

/// What a person may choose of the demo.
#[derive(Debug, Clone, Copy)]
pub struct Choices {
    /// Keep the folder for looking around.
    pub keep: bool,
    /// Go on serving until interrupted.
    pub serve: bool,
    /// About how many images the service takes in.
    pub images: u32,
}

/// Runs the demo.
///
/// # Errors
/// Anything that is not as the story says, above all a referenced image that is missing.
pub async fn run(choices: Choices) -> anyhow::Result<()> {
    let began = Instant::now();
    let folder = TempDir::with_prefix("orphan-sweeper-demo-").context("could not make a folder")?;
    act("Servers")?;
    let postgres = PostgresServer::start(folder.path().join("postgres")).await?;
    let server = S3Server::start().await?;
    server.create_bucket(BUCKET);
    server.set_versioning(BUCKET, Versioning::Enabled);
    let kind = if postgres.is_embedded() {
        "embedded"
    } else {
        "installed"
    };
    say(&format!(
        "PostgreSQL ({kind}) on port {}, S3 on {}, both on this machine only",
        postgres.port(),
        server.endpoint()
    ))?;

    let stage = Stage {
        server: &server,
        client: client(&server),
        database_url: postgres.create_database("demo").await?,
        ledger: folder.path().join("ledger"),
    };
    let told = stage.tell(choices.images).await;
    if told.is_ok() {
        say(&format!(
            "all of this took {:.1} s",
            began.elapsed().as_secs_f64()
        ))?;
    }
    if told.is_ok() && choices.serve {
        stage.serve().await?;
    }
    postgres.stop().await?;
    if choices.keep {
        say(&format!("kept {}", folder.keep().display()))?;
    }
    told
}

fn act(title: &str) -> std::io::Result<()> {
    writeln!(
        std::io::stdout(),
        "\n{title}\n{}",
        "-".repeat(title.chars().count())
    )
}

fn say(line: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{line}")
}

fn client(server: &S3Server) -> Client {
    let credentials = Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "demo");
    let config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .region(Region::new(REGION))
        .endpoint_url(server.endpoint())
        .build();
    s3::client(&config)
}

/// Where the story plays.
struct Stage<'demo> {
    server: &'demo S3Server,
    client: Client,
    database_url: String,
    ledger: std::path::PathBuf,
}

impl Stage<'_> {
    async fn tell(&self, images: u32) -> anyhow::Result<()> {
        let mut service = Service::new(self.server, self.client.clone(), self.database_url.clone());
        service.prepare().await?;
        self.compare_uploads(&mut service).await?;
        self.live(&mut service, images).await?;

        act("A plan: nothing is deleted")?;
        let plan = self.sweep(&[(Setting::DryRun, "true")]).await?;
        text::summary(&mut std::io::stdout(), &plan)?;
        expect(&plan, Status::DryRun)?;
        let found = plan.summary.counts.orphans + plan.summary.counts.young;
        anyhow::ensure!(
            found == service.causes.total(),
            "the service left {} objects behind, but the plan knows of {found}",
            service.causes.total()
        );

        act("A refusal: the sweeper is pointed at a stale copy of the database")?;
        service.copy_of_day(DAYS / 2).await?;
        let refused = self
            .sweep(&[
                (Setting::References, "SELECT name FROM images_restored"),
                (Setting::MaxOrphanPercent, "100"),
            ])
            .await?;
        for refusal in &refused.refusals {
            say(&format!("guard {}: {}", refusal.guard, refusal.hint))?;
        }
        expect(&refused, Status::Refused)?;

        act("The sweep, while an editor points a new row at an old image")?;
        let rescued = self.rescue_one(&plan)?;
        let swept = self.sweep(&[]).await?;
        self.server.heal();
        text::summary(&mut std::io::stdout(), &swept)?;
        expect(&swept, Status::Completed)?;
        let counts = swept.summary.counts;
        anyhow::ensure!(
            counts.spared == 1,
            "one image was to be spared, but {} were",
            counts.spared
        );
        say(&format!("\nspared by the fresh check: {rescued}"))?;
        if let Some(object) = self
            .server
            .object(BUCKET, &rescued)
            .and_then(|object| object.content)
        {
            service
                .kept
                .insert(crate::key::ObjectKey::new(rescued), object.body.clone());
        }

        act("A second sweep finds nothing")?;
        let again = self.sweep(&[]).await?;
        let counts = again.summary.counts;
        say(&format!(
            "{} listed, {} orphans, {} deleted",
            counts.listed, counts.orphans, counts.deleted
        ))?;
        expect(&again, Status::Completed)?;
        anyhow::ensure!(
            counts.orphans == 0,
            "a second sweep found {} orphans",
            counts.orphans
        );

        self.check(&service).await
    }

    /// One upload after the other against several at once, over 20 ms of latency.
    async fn compare_uploads(&self, service: &mut Service<'_>) -> anyhow::Result<()> {
        const GROUPS: usize = 12;
        act("Uploading one after the other, and at once")?;
        self.server.set_latency(Duration::from_millis(20));
        let mut times = Vec::new();
        for at_once in [1, 16] {
            let mut images = Vec::new();
            for _ in 0..GROUPS {
                images.extend(service.images()?);
            }
            let began = Instant::now();
            // A folder of its own: nobody names these, and they are no part of the story.
            let uploader = Uploader::new(
                self.client.clone(),
                BUCKET,
                Prefix::folder("timing"),
                at_once,
            );
            uploader.upload(images).await?;
            times.push(began.elapsed());
        }
        self.server.set_latency(Duration::ZERO);
        let [alone, together] = times[..] else {
            anyhow::bail!("two times were to be measured")
        };
        say(&format!(
            "{} images over 20 ms of latency: {:.0} ms one after the other, {:.0} ms with 16 at once ({:.1} times as fast)",
            GROUPS * GROUP,
            alone.as_secs_f64() * 1e3,
            together.as_secs_f64() * 1e3,
            alone.as_secs_f64() / together.as_secs_f64()
        ))?;
        Ok(())
    }

    /// A month passes in seconds: after each day the S3 server makes what it holds a day older,
    /// because S3 lets no client choose the time of an object. (A day of 25 hours: none of its
    /// objects is to cross the cutoff while the story is told.)
    async fn live(&self, service: &mut Service<'_>, images: u32) -> anyhow::Result<()> {
        act("A month in the life of an image service")?;
        let groups = usize::try_from(images)?.div_ceil(GROUP);
        // The first day has nothing to replace yet, and each has some failures.
        let per_day = groups.div_ceil(usize::try_from(DAYS)?).max(6);
        for day in 1..=DAYS {
            if day > 1 {
                self.server.age(BUCKET, SignedDuration::from_hours(25));
            }
            let fates: Vec<Fate> = (0..per_day).map(|group| fate(group, day)).collect();
            let some = (per_day / 5).max(1);
            service.live(day, &fates, some).await?;
        }
        // Somebody deletes two objects by hand, and forgets their rows.
        let lost: Vec<_> = service.kept.keys().rev().take(2).cloned().collect();
        for key in lost {
            self.server.delete(BUCKET, key.as_str());
            service.kept.remove(&key);
        }
        let causes = &service.causes;
        say(&format!(
            "{} images are kept and named; left behind were",
            service.kept.len()
        ))?;
        for (count, cause) in [
            (
                causes.roll_backs,
                "whose upload failed, and then its roll-back",
            ),
            (causes.commits, "whose transaction aborted"),
            (causes.replacements, "that were replaced"),
            (causes.deletions, "whose row was deleted"),
        ] {
            say(&format!("{count:>6}  {cause}"))?;
        }
        say("     2  rows name an object that somebody deleted by hand")?;
        Ok(())
    }

    fn settings(&self, changes: &[(Setting, &str)]) -> anyhow::Result<Settings> {
        let ledger = self.ledger.display().to_string();
        let mut raw = RawSettings::default();
        let base = [
            (Setting::Bucket, BUCKET),
            (Setting::Prefix, FOLDER),
            (Setting::DatabaseUrl, &self.database_url),
            (Setting::MinAge, MIN_AGE),
            (Setting::Report, &ledger),
        ];
        for (setting, text) in base.iter().chain(changes) {
            raw.flag(*setting, [(*text).to_owned()]);
        }
        Ok(Settings::new(&raw, None)?)
    }

    async fn sweep(&self, changes: &[(Setting, &str)]) -> anyhow::Result<Report> {
        Ok(run_once(
            &self.settings(changes)?,
            &self.client,
            &Stop::never(),
            &Progress::default(),
        )
        .await)
    }

    /// When the sweep asks for its first deletion, a row for an orphan of the plan is
    /// committed: after the snapshot, before the fresh check.
    fn rescue_one(&self, plan: &Report) -> anyhow::Result<String> {
        let manifest = std::fs::read_to_string(Path::new(&plan.summary.report).join("plan.jsonl"))
            .context("could not read the plan")?;
        let line = manifest.lines().nth(1).context("the plan has no orphan")?;
        let orphan: crate::object::Orphan = serde_json::from_str(line)?;
        let key = orphan.key.as_str().to_owned();
        let once = Arc::new(Mutex::new(Some((self.database_url.clone(), key.clone()))));
        self.server
            .on_request(Operation::DeleteObjects, move |_, _| {
                let todo = once.lock().unwrap_or_else(PoisonError::into_inner).take();
                async move {
                    if let Some((url, key)) = todo
                        && let Err(error) = service::name_again(&url, &key).await
                    {
                        tracing::error!(error = %error, "the editor could not commit a row");
                    }
                }
            });
        Ok(key)
    }

    /// Looks for itself, without the sweeper's code: rows by SQL, objects in the server.
    async fn check(&self, service: &Service<'_>) -> anyhow::Result<()> {
        act("The check")?;
        let names: BTreeSet<String> = service.names().await?.into_iter().collect();
        for (key, bytes) in &service.kept {
            let object = self
                .server
                .object(BUCKET, key.as_str())
                .and_then(|object| object.content);
            let there = object.is_some_and(|object| object.body == *bytes);
            anyhow::ensure!(
                there && names.contains(key.as_str()),
                "the referenced image {key} is lost"
            );
        }
        let cutoff = Timestamp::now() - SignedDuration::from_hours(24);
        let mut young = 0;
        for key in self.server.keys(BUCKET) {
            let Some(object) = self.server.object(BUCKET, &key) else {
                continue;
            };
            if key.starts_with(FOLDER) && !names.contains(&key) {
                anyhow::ensure!(
                    object.last_modified >= cutoff,
                    "the orphan {key} is still there"
                );
                young += 1;
            }
        }
        say(&format!(
            "every referenced image is there, byte for byte: {}",
            service.kept.len()
        ))?;
        say(&format!(
            "every orphan older than {MIN_AGE} is gone; {young} younger ones wait for their night"
        ))?;
        Ok(())
    }

    /// Goes on serving, so that a person can look around.
    async fn serve(&self) -> anyhow::Result<()> {
        act("Serving until Ctrl-C")?;
        for line in [
            format!(
                "export AWS_ENDPOINT_URL_S3={} AWS_REGION={REGION}",
                self.server.endpoint()
            ),
            format!("export AWS_ACCESS_KEY_ID={ACCESS_KEY} AWS_SECRET_ACCESS_KEY={SECRET_KEY}"),
            format!("export DATABASE_URL='{}'", self.database_url),
            format!("aws s3api list-objects-v2 --bucket {BUCKET} --prefix {FOLDER} --max-items 5"),
            "psql \"$DATABASE_URL\" -c 'SELECT count(*) FROM images'".to_owned(),
            format!(
                "orphan-sweeper plan --bucket {BUCKET} --prefix {FOLDER} --report {}",
                self.ledger.display()
            ),
        ] {
            say(&line)?;
        }
        tokio::signal::ctrl_c()
            .await
            .context("could not wait for Ctrl-C")
    }
}

/// What happens to a group of a day: mostly nothing.
fn fate(group: usize, day: i32) -> Fate {
    match (group, day % 3) {
        (1, 0) => Fate::RolledBack,
        (2, 1) => Fate::RollBackFails,
        (3, _) if day % 2 == 0 => Fate::CommitFails,
        _ => Fate::Kept,
    }
}

fn expect(report: &Report, status: Status) -> anyhow::Result<()> {
    let summary = &report.summary;
    if let Some(error) = &report.error {
        anyhow::bail!("a run failed: {}", crate::chain::chain(error));
    }
    anyhow::ensure!(
        summary.status == status,
        "a run was to end as {status:?}, but ended as {:?}",
        summary.status
    );
    Ok(())
}
