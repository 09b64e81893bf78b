//! The bare listing that the sweep is held against: the AWS SDK as it comes, many ranges
//! at once, cut where the sweep cuts them. It looks at the keys' order and counts; it
//! compares nothing and deletes nothing.

use anyhow::Context as _;
use aws_sdk_s3::Client;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::endpoint::BUCKET;
use crate::keys::Population;

/// Ranges under way at once.
const AT_ONCE: usize = 64;

/// Names in a range, as the sweep has them.
const NAMES_PER_RANGE: usize = 9_000;

/// Lists the bucket and prints how many objects it holds.
pub(crate) fn list(population: Population, spawn: bool) -> anyhow::Result<()> {
    let names = population
        .names()
        .map(|name| String::from_utf8_lossy(&name).into_owned());
    let mut cuts: Vec<Option<String>> = names.step_by(NAMES_PER_RANGE).skip(1).map(Some).collect();
    cuts.insert(0, None);
    cuts.push(None);
    tokio::runtime::Runtime::new()?.block_on(async {
        let client = orphan_sweeper::s3::connect().await;
        let ranges: Vec<_> = cuts
            .windows(2)
            .map(|pair| (client.clone(), pair[0].clone(), pair[1].clone()))
            .collect();
        let listed: u64 = stream::iter(ranges)
            .map(async |(client, after, up_to)| {
                if spawn {
                    tokio::spawn(range(client, after, up_to)).await?
                } else {
                    range(client, after, up_to).await
                }
            })
            .buffer_unordered(AT_ONCE)
            .try_fold(0, async |sum, listed| Ok(sum + listed))
            .await?;
        println!("{listed}");
        Ok(())
    })
}

/// How many objects lie behind one key and up to another.
async fn range(
    client: Client,
    after: Option<String>,
    up_to: Option<String>,
) -> anyhow::Result<u64> {
    let (mut listed, mut last, mut token) = (0, after.clone(), None);
    loop {
        let page = client
            .list_objects_v2()
            .bucket(BUCKET)
            .set_start_after(after.clone().filter(|_| token.is_none()))
            .set_continuation_token(token)
            .send()
            .await?;
        for object in page.contents() {
            let key = object.key().context("an object without a key")?;
            anyhow::ensure!(last.as_deref() < Some(key), "out of order at {key}");
            if up_to.as_deref().is_some_and(|up_to| key > up_to) {
                return Ok(listed);
            }
            listed += 1;
            last = Some(key.to_owned());
        }
        match page.next_continuation_token {
            Some(next) if up_to.is_none() || last < up_to => token = Some(next),
            _ => return Ok(listed),
        }
    }
}
