//! A small image service, and how its life leaves orphans behind.

use std::collections::BTreeMap;

use anyhow::Context as _;
use aws_sdk_s3::Client;
use bytes::Bytes;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::images::png;
use crate::key::{ObjectKey, Prefix};
use crate::local::s3::{Effect, Fault, Operation, S3Server};
use crate::upload::{Image, Uploader};

/// The service's bucket.
pub(super) const BUCKET: &str = "demo-pictures";

/// The folder in it.
pub(super) const FOLDER: &str = "images/";

/// Images in one upload.
pub(super) const GROUP: usize = 4;

/// What happens to a group of images that somebody uploads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// All goes well.
    Kept,
    /// One upload fails and the others are rolled back.
    RolledBack,
    /// One upload fails, and so does the roll-back.
    RollBackFails,
    /// The uploads succeed, and the transaction with their rows aborts.
    CommitFails,
}

/// How orphans came to be, by cause.
#[derive(Debug, Default)]
pub(super) struct Causes {
    /// Roll-backs that failed.
    pub(super) roll_backs: u64,
    /// Rows that were not committed.
    pub(super) commits: u64,
    /// Images replaced by others.
    pub(super) replacements: u64,
    /// Rows that were deleted.
    pub(super) deletions: u64,
}

impl Causes {
    /// All of them.
    pub(super) fn total(&self) -> u64 {
        self.roll_backs + self.commits + self.replacements + self.deletions
    }
}

/// The service, with its own memory of every image that it promised to keep.
pub(super) struct Service<'demo> {
    server: &'demo S3Server,
    uploader: Uploader,
    database_url: String,
    /// What each key that a row names must hold: the truth that the demo ends with.
    pub(super) kept: BTreeMap<ObjectKey, Bytes>,
    /// How many objects it left behind.
    pub(super) causes: Causes,
    numbers: u64,
}

impl<'demo> Service<'demo> {
    pub(super) fn new(server: &'demo S3Server, client: Client, database_url: String) -> Self {
        Self {
            server,
            uploader: Uploader::new(client, BUCKET, Prefix::folder(FOLDER), 16),
            database_url,
            kept: BTreeMap::new(),
            causes: Causes::default(),
            numbers: 0,
        }
    }

    /// Opens the table. A connection is opened for each piece of work and closed after it: an
    /// embedded PostgreSQL serves one at a time.
    pub(super) async fn prepare(&self) -> anyhow::Result<()> {
        let mut connection = connect(&self.database_url).await?;
        for statement in [
            "CREATE TABLE images (id bigint GENERATED ALWAYS AS IDENTITY, name text NOT NULL, day int NOT NULL)",
            "CREATE UNIQUE INDEX ON images (name)",
        ] {
            sqlx::query(statement).execute(&mut connection).await?;
        }
        Ok(connection.close().await?)
    }

    /// Makes a group of images.
    pub(super) fn images(&mut self) -> anyhow::Result<Vec<Image>> {
        (0..GROUP)
            .map(|_| {
                self.numbers += 1;
                let name = format!("holiday {}.PNG", self.numbers);
                Ok(Image {
                    name,
                    bytes: png(self.numbers)?,
                })
            })
            .collect()
    }

    /// One day: groups with these fates, then a group of images is replaced, and some rows are
    /// deleted.
    pub(super) async fn live(
        &mut self,
        day: i32,
        fates: &[Fate],
        deletions: usize,
    ) -> anyhow::Result<()> {
        let mut named = Vec::new();
        for &fate in fates {
            named.extend(self.upload(fate).await?);
        }
        let replaced: Vec<ObjectKey> = self.kept.keys().take(GROUP).cloned().collect();
        let replacing = if replaced.is_empty() {
            Vec::new()
        } else {
            self.upload(Fate::Kept).await?
        };
        let deleted: Vec<ObjectKey> = self
            .kept
            .keys()
            .skip(replaced.len())
            .take(deletions)
            .cloned()
            .collect();

        let mut connection = connect(&self.database_url).await?;
        let texts = |keys: &[ObjectKey]| {
            keys.iter()
                .map(|key| key.as_str().to_owned())
                .collect::<Vec<_>>()
        };
        let uploaded: Vec<ObjectKey> = named.iter().map(|(key, _)| key.clone()).collect();
        insert(&mut connection, day, &texts(&uploaded)).await?;
        self.kept.extend(named);
        for (old, (new, bytes)) in replaced.iter().zip(replacing) {
            sqlx::query("UPDATE images SET name = $2, day = $3 WHERE name = $1")
                .bind(old.as_str())
                .bind(new.as_str())
                .bind(day)
                .execute(&mut connection)
                .await?;
            self.kept.remove(old);
            self.kept.insert(new, bytes);
            self.causes.replacements += 1;
        }
        sqlx::query("DELETE FROM images WHERE name = ANY ($1)")
            .bind(texts(&deleted))
            .execute(&mut connection)
            .await?;
        for key in &deleted {
            self.kept.remove(key);
            self.causes.deletions += 1;
        }
        Ok(connection.close().await?)
    }

    /// Uploads a group; what the rows of the day must name comes back.
    async fn upload(&mut self, fate: Fate) -> anyhow::Result<Vec<(ObjectKey, Bytes)>> {
        let images = self.images()?;
        let bytes: Vec<Bytes> = images.iter().map(|image| image.bytes.clone()).collect();
        if matches!(fate, Fate::RolledBack | Fate::RollBackFails) {
            self.server
                .inject(Fault::new(Operation::PutObject, Effect::access_denied()).nth(2));
        }
        if fate == Fate::RollBackFails {
            self.server
                .inject(Fault::new(Operation::DeleteObjects, Effect::access_denied()).nth(1));
        }
        let uploaded = self.uploader.upload(images).await;
        self.server.heal();
        match (fate, uploaded) {
            (Fate::Kept, Ok(keys)) => Ok(keys.into_iter().zip(bytes).collect()),
            (Fate::CommitFails, Ok(keys)) => {
                self.abort_commit(&keys).await?;
                self.causes.commits += keys.len() as u64;
                Ok(Vec::new())
            }
            (Fate::RolledBack | Fate::RollBackFails, Err(error)) => {
                // The upload that failed is among the keys of which the roll-back does not know.
                let there = error
                    .left_behind
                    .iter()
                    .filter(|key| self.server.object(BUCKET, key.as_str()).is_some())
                    .count();
                self.causes.roll_backs += there as u64;
                Ok(Vec::new())
            }
            (_, uploaded) => {
                anyhow::bail!("an upload that was to end as {fate:?} ended as {uploaded:?}")
            }
        }
    }

    /// A transaction with the rows of these keys, aborted by a name that is taken.
    async fn abort_commit(&self, keys: &[ObjectKey]) -> anyhow::Result<()> {
        let mut connection = connect(&self.database_url).await?;
        let names: Vec<String> = keys
            .iter()
            .chain(keys.first())
            .map(|key| key.as_str().to_owned())
            .collect();
        let committed = insert(&mut connection, 0, &names).await;
        anyhow::ensure!(committed.is_err(), "a row was committed twice");
        Ok(connection.close().await?)
    }

    /// Every name in the database.
    pub(super) async fn names(&self) -> anyhow::Result<Vec<String>> {
        let mut connection = connect(&self.database_url).await?;
        let rows = sqlx::query("SELECT name FROM images")
            .fetch_all(&mut connection)
            .await?;
        connection.close().await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// A copy of the table as it was on that day.
    pub(super) async fn copy_of_day(&self, day: i32) -> anyhow::Result<()> {
        let mut connection = connect(&self.database_url).await?;
        // A statement that makes a table takes no parameters.
        let copy =
            format!("CREATE TABLE images_restored AS SELECT name FROM images WHERE day <= {day}");
        sqlx::query(AssertSqlSafe(copy))
            .execute(&mut connection)
            .await?;
        Ok(connection.close().await?)
    }
}

/// Points a new row at a key.
pub(super) async fn name_again(database_url: &str, key: &str) -> anyhow::Result<()> {
    let mut connection = connect(database_url).await?;
    insert(&mut connection, 0, &[key.to_owned()]).await?;
    Ok(connection.close().await?)
}

async fn connect(url: &str) -> anyhow::Result<PgConnection> {
    PgConnection::connect(url)
        .await
        .context("the service could not reach its database")
}

async fn insert(
    connection: &mut PgConnection,
    day: i32,
    names: &[String],
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO images (name, day) SELECT unnest($1::text[]), $2")
        .bind(names)
        .bind(day)
        .execute(connection)
        .await
        .map(|_| ())
}
