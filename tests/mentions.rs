//! Orphans whose key stands in a name that is read in another way, over real servers: they are
//! held back, and people read why.
#![cfg(feature = "demo")]

mod support;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use orphan_sweeper::local::s3::{Effect, Fault, Operation};
use orphan_sweeper::run::Report;
use orphan_sweeper::settings::Setting;
use orphan_sweeper::summary::Status;
use serde_json::json;
use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};
use support::program::Environment;
use support::{World, before_the_fresh_check};
use tokio::time::timeout;

/// How image servers and careless code write the key `x/N.png` into a URL.
const WAYS: [&str; 16] = [
    "https://img.example.net/s3.eu-west-1.amazonaws.com/pictures/KEY",
    "https://img.example.net/resize?from=pictures/KEY&width=64&X-Amz-Signature=secret",
    "https://cdn.example.com/KEY/300x300",
    "https://cdn.example.com/app#/KEY",
    "https://cdn.example.com/r;width=64;url=KEY",
    "https://cdn.example.com/r?spec=%7B%22key%22%3A%22KEY%22%7D",
    "https://cdn.example.com/?KEY",
    "https://cdn.example.com/?a=b&amp;key:KEY%26w:3",
    "https://img.example.net/list?of=other.png,KEY",
    "https://cdn.example.com/fit/64/KEY%40webp",
    "https://cdn.example.com/%252Fpictures%252FKEY",
    "https://cdn.example.com/resize/64/KEY",
    "https://cdn.example.com/montage/b.png+KEY",
    "https://cdn.example.com/r?over=bottom:10|pictures:KEY|80",
    "https://cdn.example.com/old\\KEY",
    "https://cdn.example.com/BASE64",
];

const URLS: [(Setting, &str); 6] = [
    (Setting::MaxOrphanPercent, "100"),
    (Setting::ReferenceForm, "url"),
    (Setting::ReferenceHost, "cdn.example.com"),
    (Setting::ForeignHost, "img.example.net"),
    (Setting::NotAReference, "public.images.name"),
    (Setting::MaxDanglingPercent, "100"),
];

/// Forty referenced images, and as many orphans of which nobody speaks.
async fn world() -> World {
    let world = World::new().await;
    for index in 0..40 {
        let key = format!("x/kept-{index:02}.png");
        world.put(&key, 48);
        world
            .name(&[format!("https://cdn.example.com/{key}")])
            .await;
        world.put(&format!("x/old-{index:02}.png"), 48);
    }
    world
}

/// Forty images that are named by their keys.
async fn put_forty(world: &World, key: fn(usize) -> String) {
    let keys: Vec<String> = (0..40).map(key).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    world.put_named(&keys, 48).await;
}

/// Adds an image that each of the ways names, and says which they are.
async fn put_in_all_ways(world: &World) -> Vec<String> {
    let mut keys = Vec::new();
    for (index, way) in WAYS.iter().enumerate() {
        let key = format!("x/live-{index:02}.png");
        world.put(&key, 48);
        let hidden = URL_SAFE_NO_PAD.encode(format!(r#"{{"bucket":"pictures","key":"{key}"}}"#));
        world
            .name(&[way.replace("KEY", &key).replace("BASE64", &hidden)])
            .await;
        keys.push(key);
    }
    keys
}

fn held(report: &Report) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(&report.summary.report).join("held_back.jsonl"));
    let text = text.expect("a file");
    let lines = text.lines().map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        line["key"].as_str().expect("a key").to_owned()
    });
    lines.collect()
}

#[tokio::test]
async fn what_a_url_mentions_is_held_back_and_named_while_the_rest_goes() {
    let world = world().await;
    let live = put_in_all_ways(&world).await;
    // A thumbnail that is there says nothing of its original.
    world.put("thumbs/x/gone.png", 48);
    world.put("x/gone.png", 48);
    world
        .name(&["https://cdn.example.com/thumbs/x/gone.png"])
        .await;
    let report = world.run(&URLS).await;
    assert_eq!(report.summary.status, Status::Completed, "{report:?}");
    assert_eq!(
        (report.summary.counts.deleted, report.summary.more.held_back),
        (41, 16),
        "{report:?}"
    );
    let left = world.keys();
    assert!(live.iter().all(|key| left.contains(key)), "{left:?}");
    assert_eq!(left.len(), 40 + 16 + 1);
    assert_eq!(held(&report), live);
    let mentions =
        serde_json::to_value(&report.summary).expect("JSON")["held_back_mentions"].clone();
    assert_eq!(
        mentions[1],
        json!({"key": "x/live-01.png", "name": "'https://img.example.net/resize'"})
    );
    assert_eq!(mentions.as_array().map(Vec::len), Some(16));
    assert!(!format!("{report:?}").contains("secret"));

    // A later run holds them, too; and once a row names them plainly, they are referenced.
    let again = world.run(&URLS).await;
    assert_eq!(
        (again.summary.counts.deleted, again.summary.more.held_back),
        (0, 16)
    );
    world
        .sql("UPDATE images SET name = 'https://cdn.example.com/x/live-00.png' WHERE name LIKE '%pictures/x/live-00.png'")
        .await;
    let again = world.run(&URLS).await;
    assert_eq!(
        (
            again.summary.counts.referenced,
            again.summary.more.held_back
        ),
        (42, 15)
    );
    world
        .sql("DELETE FROM images WHERE name LIKE '%live-02%'")
        .await;
    let again = world.run(&URLS).await;
    assert_eq!(
        (again.summary.counts.deleted, again.summary.more.held_back),
        (1, 14)
    );
}

/// It was not there when the plan was made; and what was there names what it named.
#[tokio::test]
async fn a_name_that_comes_before_the_fresh_check_and_mentions_an_orphan_saves_it() {
    let world = world().await;
    for key in ["thumbs/x/old-07.png", "x/late.png"] {
        world.put(key, 48);
    }
    world
        .name(&["https://cdn.example.com/thumbs/x/old-07.png"])
        .await;
    before_the_fresh_check(
        &world,
        "INSERT INTO images VALUES ('https://img.example.net/fit/64/pictures/x%252Flate.png@webp')",
    );
    let report = world.run(&URLS).await;
    let counts = report.summary.counts;
    assert_eq!((counts.deleted, counts.spared), (40, 1), "{report:?}");
    assert!(world.keys().contains(&"x/late.png".to_owned()));
    assert!(!world.keys().contains(&"x/old-07.png".to_owned()));
}

#[tokio::test]
async fn what_cannot_be_looked_at_may_be_missing() {
    let world = world().await;
    for key in ["thumbs/x/gone.png", "x/gone.png"] {
        world.put(key, 48);
    }
    world
        .name(&["https://cdn.example.com/thumbs/x/gone.png"])
        .await;
    let forbidden = Effect::Error {
        status: 403,
        code: "AccessDenied",
    };
    world
        .server
        .inject(Fault::new(Operation::HeadObject, forbidden));
    let report = world
        .run(&[&URLS[..], &[(Setting::Prefix, "x")]].concat())
        .await;
    assert_eq!(held(&report), ["x/gone.png"], "{report:?}");
}

#[tokio::test]
async fn a_name_of_form_key_that_means_nothing_holds_what_stands_in_it() {
    let world = World::new().await;
    put_forty(&world, |index| format!("images/kept-{index:02}.png")).await;
    for key in ["slash", "old", "case", "really-old"] {
        world.put(&format!("images/{key}.png"), 48);
    }
    world.put("images/o\u{301}.png", 48);
    world
        .name(&[
            "/images/slash.png",
            "https%3A//cdn.example.com/images/old.png",
            "images/CASE.png",
            "images/\u{f3}.png",
        ])
        .await;
    // So that the fresh check asks for a few names and reads no others.
    world
        .sql("INSERT INTO images SELECT NULL FROM generate_series(1, 20000); CREATE INDEX ON images (name); ANALYZE images")
        .await;
    let not_asked = (Setting::NotAReference, "public.images.name");
    // However narrow the scope: most of these names lie outside of it.
    for prefix in ["images", ""] {
        let report = world.run(&[not_asked, (Setting::Prefix, prefix)]).await;
        assert_eq!(
            held(&report),
            [
                "images/case.png",
                "images/old.png",
                "images/o\u{301}.png",
                "images/slash.png"
            ],
            "{report:?}"
        );
        let deleted = u64::from(prefix == "images");
        assert_eq!(report.summary.counts.deleted, deleted);
    }
    // And where each key lies in a range of its own.
    world.put("images/really-old.png", 48);
    let report = world
        .run(&[
            not_asked,
            (Setting::After, "images/m"),
            (Setting::DryRun, "true"),
        ])
        .await;
    assert_eq!(
        held(&report),
        ["images/old.png", "images/o\u{301}.png", "images/slash.png"]
    );
}

/// Where no index serves the fresh check, it reads every name, and knows which of them are new.
#[tokio::test]
async fn a_name_of_form_key_that_mentions_an_orphan_saves_it_before_the_fresh_check() {
    let world = World::new().await;
    put_forty(&world, |index| format!("thumbs/images/{index:02}.png")).await;
    world.name(&["images/gone.png"]).await;
    // What was there mentions the first of them.
    for key in ["images/07.png", "images/late.png"] {
        world.put(key, 48);
    }
    before_the_fresh_check(&world, "INSERT INTO images VALUES ('/images/late.png')");
    let report = world
        .run(&[(Setting::NotAReference, "public.images.name")])
        .await;
    let counts = report.summary.counts;
    assert_eq!((counts.deleted, counts.spared), (1, 1), "{report:?}");
    assert!(world.keys().contains(&"images/late.png".to_owned()));
}

/// Who waits for the table behind the snapshot does not hold up the run that has it, nor is held up by it.
#[tokio::test]
async fn a_lock_that_waits_for_the_snapshot_does_not_stop_the_search_for_mentions() {
    let world = World::new().await;
    put_forty(&world, |index| format!("images/kept-{index:02}.png")).await;
    world.put("images/slash.png", 48);
    world.name(&["/images/slash.png"]).await;
    let url = world.database.url().to_owned();
    let (locked, is_locked) = tokio::sync::oneshot::channel();
    let locker = Arc::new(Mutex::new(Some(locked)));
    world
        .server
        .on_request(Operation::ListObjectsV2, move |_, _| {
            let locked = locker.lock().expect("whole").take();
            let url = url.clone();
            async move {
                let Some(locked) = locked else { return };
                let mut other = PgConnection::connect(&url).await.expect("connected");
                tokio::spawn(async move {
                    let lock = "BEGIN; LOCK TABLE images IN ACCESS EXCLUSIVE MODE; COMMIT";
                    let got = other.execute(sqlx::raw_sql(lock)).await.is_ok();
                    let _ = locked.send(got);
                });
                let mut watch = PgConnection::connect(&url).await.expect("connected");
                let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
                while watch
                    .fetch_one(sqlx::raw_sql(waiting))
                    .await
                    .expect("asked")
                    .get::<i64, _>(0)
                    == 0
                {
                    tokio::task::yield_now().await;
                }
            }
        });
    let run = world.run(&[(Setting::NotAReference, "public.images.name")]);
    let report = timeout(Duration::from_mins(4), run).await.expect("in time");
    assert_eq!(report.summary.status, Status::Completed, "{report:?}");
    assert_eq!(held(&report), ["images/slash.png"]);
    assert!(is_locked.await.expect("told"));
}

#[tokio::test]
async fn people_read_what_is_held_back_by_which_name() {
    let world = World::new().await;
    put_forty(&world, |index| format!("x/kept-{index:02}.png")).await;
    world.put("x/<b>live.png", 48);
    world.name(&["/x/<b>live.png"]).await;
    let environment = Environment::of(&world);
    let swept = environment
        .cli(&[
            "sweep",
            "--not-a-reference",
            "public.images.name",
            "--output",
            "text",
        ])
        .await;
    assert_eq!(swept.code, Some(0), "{swept:?}");
    for words in [
        "held back: 1 of the deferred",
        "because a name mentions them",
        "x/<b>live.png in '/x/<b>live.png'",
    ] {
        assert!(swept.stdout.contains(words), "{}", swept.stdout);
    }
    assert!(!swept.stdout.contains("--allow-unreferenced-folder"));
    assert!(
        swept.stderr.contains("held back an orphan") && swept.stderr.contains("x/<b>live.png"),
        "{}",
        swept.stderr
    );
    let run_id = std::fs::read_dir(world.ledger.path().join("runs"))
        .expect("runs")
        .map(|run| run.expect("a run").file_name().into_string().expect("text"))
        .find(|name| name.len() == 36)
        .expect("one");
    let shown = environment
        .cli(&["report", &run_id, "--format", "text"])
        .await;
    assert!(
        shown
            .stdout
            .contains("held back: x/<b>live.png, which '/x/<b>live.png' mentions"),
        "{shown:?}"
    );
    let table = environment
        .cli(&["report", &run_id, "--format", "csv"])
        .await;
    assert!(
        table
            .stdout
            .contains("held back: '/x/<b>live.png' mentions it, and means something else"),
        "{}",
        table.stdout
    );
    let page = environment
        .cli(&["report", &run_id, "--format", "html"])
        .await;
    assert!(
        page.stdout
            .contains("x/&lt;b&gt;live.png</td><td class=\"k\">&apos;/x/&lt;b&gt;live.png&apos;"),
        "{}",
        page.stdout
    );
    assert!(!page.stdout.contains("--allow-unreferenced-folder"));
}
