//! The real function, run as Lambda runs it, over real sockets.
#![cfg(all(feature = "demo", feature = "lambda"))]

mod support;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lambda_runtime::{Diagnostic, LambdaEvent};
use orphan_sweeper::event::OPTIONS;
use orphan_sweeper::local::s3::{Effect, Fault, Operation, Versioning};
use serde_json::{Value, json};
use support::program::{Environment, Function, Tripwire, files, reader};
use support::{BUCKET, World, ago};
use tokio::sync::Mutex;

/// One referenced image and two orphans, three and five days old.
async fn world() -> World {
    let world = World::new().await;
    world.put("images/a.png", 5 * 24);
    world.put("images/2026/b.png", 3 * 24);
    world.put_named(&["images/named.png"], 48).await;
    world
}

/// Allows what so small a world would be refused for.
fn environment(world: &World) -> Environment {
    Environment::of(world).with(&[("SWEEPER_MAX_ORPHAN_PERCENT", "90")])
}

/// An event of an EventBridge rule, or Scheduler's own.
fn envelope(detail: &Value) -> String {
    json!({
        "version": "0",
        "id": "53dc4d37-cffa-4f76-80c9-8b7d4a4d2eaa",
        "detail-type": "Scheduled Event",
        "source": "aws.scheduler",
        "account": "123456789012",
        "time": "2026-11-23T00:00:00Z",
        "region": "us-east-1",
        "resources": ["arn:aws:scheduler:us-east-1:123456789012:schedule/default/nightly"],
        "detail": detail,
    })
    .to_string()
}

/// Asserts the sums of promise 7, and that the ledger holds what was answered.
#[track_caller]
fn assert_honest(summary: &Value) {
    let count = |name: &str| summary[name].as_u64().expect("a count");
    assert_eq!(
        count("listed"),
        ["referenced", "young", "out_of_scope", "orphans"]
            .map(count)
            .iter()
            .sum::<u64>(),
        "{summary}"
    );
    assert_eq!(
        count("orphans"),
        ["deleted", "gone", "spared", "failed", "unknown", "deferred"]
            .map(count)
            .iter()
            .sum::<u64>(),
        "{summary}"
    );
    assert_eq!(&read(summary, "summary.json"), summary);
}

fn read(summary: &Value, file: &str) -> Value {
    let path = Path::new(summary["report"].as_str().expect("a place")).join(file);
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).expect("JSON")
}

/// The keys of the outcomes files whose outcome is `deleted`.
fn recorded_deletions(summary: &Value) -> Vec<String> {
    let folder = Path::new(summary["report"].as_str().expect("a place")).join("outcomes");
    let mut keys = Vec::new();
    for file in files(&folder) {
        let batch: Value =
            serde_json::from_slice(&std::fs::read(file).expect("read")).expect("JSON");
        for line in batch["outcomes"].as_array().expect("a list") {
            if line["outcome"] == "deleted" {
                keys.push(line["key"].as_str().expect("a key").to_owned());
            }
        }
    }
    keys
}

#[tokio::test]
async fn every_kind_of_event_is_answered_with_the_summary() {
    let world = world().await;
    let mut function = environment(&world).function().await;
    let dry = json!({"dry_run": true});
    for event in [
        dry.to_string(),
        envelope(&dry),
        envelope(&json!(dry.to_string())),
        envelope(
            &json!({"dry_run": true, "max_orphan_percent": 80, "min_age": "24h", "max_delete": 7, "prefix": ""}),
        ),
    ] {
        let summary = function.invoke(&event).await.response();
        assert_honest(&summary);
        assert_eq!(summary["status"], "dry_run", "{event}");
        assert_eq!(summary["dry_run"], true, "{event}");
        assert_eq!(summary["orphans"], 2, "{event}");
        assert_eq!(summary["deferred"], 2, "{event}");
        assert_eq!(summary["bucket"], BUCKET, "{event}");
    }
    assert_eq!(world.keys().len(), 3, "dry runs deleted");

    let below = json!({"dry_run": true, "prefix": "images/2026"}).to_string();
    let summary = function.invoke(&below).await.response();
    assert_eq!(
        (&summary["prefix"], &summary["listed"]),
        (&json!("images/2026/"), &json!(1))
    );

    let summary = function.invoke(r#"{"max_delete": 0}"#).await.response();
    assert_honest(&summary);
    assert_eq!(
        (&summary["status"], &summary["deferred"]),
        (&json!("completed"), &json!(2))
    );
    let summary = function.invoke(r#"{"min_age": "4d"}"#).await.response();
    assert_honest(&summary);
    assert_eq!(
        (&summary["young"], &summary["deleted"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(world.keys(), ["images/2026/b.png", "images/named.png"]);

    // What is left goes with Scheduler's own envelope, and then nothing is left to do.
    let summary = function.invoke(&envelope(&json!("{}"))).await.response();
    assert_honest(&summary);
    assert_eq!(
        (&summary["status"], &summary["deleted"]),
        (&json!("completed"), &json!(1))
    );
    for event in ["{}".to_owned(), envelope(&json!({}))] {
        let summary = function.invoke(&event).await.response();
        assert_honest(&summary);
        assert_eq!(
            (&summary["status"], &summary["orphans"]),
            (&json!("completed"), &json!(0))
        );
    }
    assert_eq!(world.keys(), ["images/named.png"]);
}

/// Events that are refused, and the line that says so: what is wrong, what would be right.
const BAD_EVENTS: &[(&str, &str)] = &[
    (
        r#"{"dry_run": false}"#,
        "dry_run: can only be true in an event; the function's configuration decides what may be deleted",
    ),
    (
        r#"{"dry_run": "true"}"#,
        r#"dry_run: "true" is not the boolean true"#,
    ),
    (
        r#"{"dry_run": "\u009b\u202e"}"#,
        r#"dry_run: "\u{9b}\u{202e}" is not the boolean true"#,
    ),
    (r#"{"dry_run": 1}"#, "dry_run: 1 is not the boolean true"),
    (
        r#"{"dry_run": null}"#,
        "dry_run: null is not the boolean true",
    ),
    (
        r#"{"after": null, "up_to": "images/b"}"#,
        "after: null is not a key",
    ),
    (
        r#"{"after": "images2/a.png"}"#,
        r#"after: "images2/a.png" does not lie below the prefix 'images/'"#,
    ),
    (
        r#"{"after": "images/9.png"}"#,
        r#"after: "images/9.png" lies outside of the configured key range"#,
    ),
    (r#"{"up_to": 7}"#, "up_to: 7 is not a key"),
    (
        r#"{"up_to": "images/9.png"}"#,
        r#"up_to: "images/9.png" lies outside of the configured key range"#,
    ),
    (
        r#"{"after": "images/c", "up_to": "images/b"}"#,
        r#"up_to: "images/b" does not come behind "images/c", where the range begins"#,
    ),
    (
        r#"{"after": "images/z"}"#,
        r#"after: "images/z" does not come behind "images/z", where the range begins"#,
    ),
    (
        r#"{"dryrun": true}"#,
        r#"event: "dryrun" is not an option; an event may say dry_run, prefix, after, up_to, min_age, max_delete, max_orphan_percent"#,
    ),
    (
        r#"{"dry-run": true}"#,
        r#"event: "dry-run" is not an option; an event may say dry_run, prefix, after, up_to, min_age, max_delete, max_orphan_percent"#,
    ),
    (
        r#"{"Dry_Run": true}"#,
        r#"event: "Dry_Run" is not an option; an event may say dry_run, prefix, after, up_to, min_age, max_delete, max_orphan_percent"#,
    ),
    (
        r#"{"a\u001b[2J\u202e\n": true}"#,
        r#"event: "a\u{1b}[2J\u{202e}\n" is not an option; an event may say dry_run, prefix, after, up_to, min_age, max_delete, max_orphan_percent"#,
    ),
    (
        r#"{"bucket": "other"}"#,
        r#"event: "bucket" is not an option; an event may say dry_run, prefix, after, up_to, min_age, max_delete, max_orphan_percent"#,
    ),
    (
        r#"{"references": "SELECT 1"}"#,
        r#"event: "references" is not an option; an event may say dry_run, prefix, after, up_to, min_age, max_delete, max_orphan_percent"#,
    ),
    (
        r#"{"Records": [{"eventSource": "aws:s3"}]}"#,
        r#"event: "Records" is not an option; an event may say dry_run, prefix, after, up_to, min_age, max_delete, max_orphan_percent"#,
    ),
    (
        r#"{"detail": {"dry_run": true}}"#,
        r#"event: "detail" is not an option; an event may say dry_run, prefix, after, up_to, min_age, max_delete, max_orphan_percent"#,
    ),
    (
        r#"{"prefix": "images2"}"#,
        "prefix: 'images2/' does not lie below the configured prefix 'images/'",
    ),
    (
        r#"{"prefix": "image"}"#,
        "prefix: 'image/' does not lie below the configured prefix 'images/'",
    ),
    (
        r#"{"prefix": ""}"#,
        "prefix: '' does not lie below the configured prefix 'images/'",
    ),
    (
        r#"{"prefix": "\u001b\u202e\u009bx"}"#,
        r"prefix: '\u{1b}\u{202e}\u{9b}x/' does not lie below the configured prefix 'images/'",
    ),
    (
        r#"{"prefix": "s3://pictures/images"}"#,
        "prefix: an address, but keys begin with no scheme; give what stands behind the bucket or the host, like images/",
    ),
    (
        r#"{"prefix": 1}"#,
        r#"prefix: 1 is not a text like "images""#,
    ),
    (
        r#"{"min_age": "23h"}"#,
        r#"min_age: "23h" is shorter than the configured 1day"#,
    ),
    (
        r#"{"min_age": "24"}"#,
        r#"min_age: "24" is not a time like `24h` or `7d`: it has no unit"#,
    ),
    (
        r#"{"min_age": "200y"}"#,
        "min_age: longer than 100 years, and no object is so old; give a time like `24h` or `7d`",
    ),
    (
        r#"{"min_age": 24}"#,
        r#"min_age: 24 is not a text like "24h""#,
    ),
    (
        r#"{"max_delete": 6}"#,
        "max_delete: 6 is larger than the configured 5",
    ),
    (
        r#"{"max_delete": -1}"#,
        "max_delete: -1 is not a whole number, at least 0",
    ),
    (
        r#"{"max_delete": 1.5}"#,
        "max_delete: 1.5 is not a whole number, at least 0",
    ),
    (
        r#"{"max_delete": "1"}"#,
        r#"max_delete: "1" is not a whole number, at least 0"#,
    ),
    (
        r#"{"max_orphan_percent": 91}"#,
        "max_orphan_percent: 91 is larger than the configured 90",
    ),
    (
        r#"{"max_orphan_percent": -1}"#,
        "max_orphan_percent: -1 is not a percentage from 0 to 100",
    ),
    (
        r#"{"max_orphan_percent": "50%"}"#,
        r#"max_orphan_percent: "50%" is not a number from 0 to 100"#,
    ),
    (
        "null",
        r#"event: null is not an object of options, like {} or {"dry_run": true}"#,
    ),
    (
        "[]",
        r#"event: a list is not an object of options, like {} or {"dry_run": true}"#,
    ),
    (
        r#""{}""#,
        r#"event: a text is not an object of options, like {} or {"dry_run": true}"#,
    ),
    (
        "true",
        r#"event: a boolean is not an object of options, like {} or {"dry_run": true}"#,
    ),
    (
        "7",
        r#"event: a number is not an object of options, like {} or {"dry_run": true}"#,
    ),
];

/// The same of what stands in the `detail` of an envelope.
const BAD_DETAILS: &[(&str, &str)] = &[
    (
        "null",
        r#"detail: null is not an object of options, like {} or {"dry_run": true}"#,
    ),
    (
        "[]",
        r#"detail: a list is not an object of options, like {} or {"dry_run": true}"#,
    ),
    (
        r#""nonsense""#,
        r#"detail: its text is not an object of options, like {} or {"dry_run": true}"#,
    ),
    (
        r#""[]""#,
        r#"detail: its text is not an object of options, like {} or {"dry_run": true}"#,
    ),
    (
        r#""{\"dry_run\": \"true\"}""#,
        r#"dry_run: "true" is not the boolean true"#,
    ),
    (
        r#"{"dryrun": true}"#,
        r#"event: "dryrun" is not an option; an event may say dry_run, prefix, after, up_to, min_age, max_delete, max_orphan_percent"#,
    ),
    (r#"{"dry_run": 1}"#, "dry_run: 1 is not the boolean true"),
];

/// A new option must be refused somewhere, too: of a wrong type, and looser.
#[test]
fn every_option_of_an_event_is_in_the_table_of_what_is_refused() {
    for option in OPTIONS {
        let rows = BAD_EVENTS.iter().filter(|(event, refusal)| {
            event.contains(&format!("{option:?}:")) && refusal.starts_with(&format!("{option}: "))
        });
        assert!(rows.count() >= 2, "{option} has no rows in BAD_EVENTS");
    }
}

#[tokio::test]
async fn an_event_that_is_not_understood_or_loosens_is_refused_before_anything_is_read() {
    let world = world().await;
    let tripwire = Tripwire::new();
    let environment = environment(&world).with(&[
        ("DATABASE_URL", &tripwire.url()),
        ("SWEEPER_PREFIX", "images"),
        ("SWEEPER_MAX_DELETE", "5"),
        ("SWEEPER_AFTER", "images/a"),
        ("SWEEPER_UP_TO", "images/z"),
    ]);
    let mut function = environment.function().await;
    let long = json!({"prefix": format!("images/{}", "x".repeat(1_100))}).to_string();
    let too_long = "prefix: 1107 bytes long, but a key has at most 1024";
    let details = BAD_DETAILS.iter().map(|(detail, refusal)| {
        let detail = serde_json::from_str(detail).expect("JSON");
        (envelope(&detail), *refusal)
    });
    let events = BAD_EVENTS
        .iter()
        .map(|(event, refusal)| ((*event).to_owned(), *refusal));
    for (event, refusal) in events.chain(details).chain([(long, too_long)]) {
        let (kind, message) = function.invoke(&event).await.error();
        assert_eq!(
            (kind.as_str(), message.as_str()),
            ("Config", refusal),
            "{event}"
        );
    }
    for text in [
        "",
        "{",
        "{\"dry_run\": true",
        "dry_run",
        "{\"max_orphan_percent\": 1e999}",
    ] {
        function.invoke(text).await.error();
    }
    tripwire.assert_untouched();
    assert_eq!(world.server.requests(), []);
    assert_eq!(files(world.ledger.path()), [] as [&Path; 0]);
}

#[tokio::test]
async fn an_environment_that_cannot_be_used_is_an_answer_that_names_the_variable() {
    let world = world().await;
    let tripwire = Tripwire::new();
    let base = || Environment::of(&world).with(&[("DATABASE_URL", &tripwire.url())]);
    for (environment, named) in [
        (base().with(&[("SWEEPER_DRYRUN", "true")]), "SWEEPER_DRYRUN"),
        (
            base().with(&[("SWEEPER_DRY_RUN", "yes")]),
            "SWEEPER_DRY_RUN: \"yes\" is neither `true` nor `false`",
        ),
        (base().without("SWEEPER_REPORT"), "SWEEPER_REPORT: required"),
        (
            base().with(&[("SWEEPER_REPORT", "")]),
            "SWEEPER_REPORT: required",
        ),
        (base().without("SWEEPER_BUCKET"), "SWEEPER_BUCKET"),
        (base().without("DATABASE_URL"), "DATABASE_URL"),
    ] {
        let mut function = environment.function().await;
        for event in ["{}", r#"{"dry_run": true}"#] {
            let (kind, message) = function.invoke(event).await.error();
            assert_eq!(kind, "Config", "{named}");
            assert!(message.contains(named), "{message}");
        }
    }
    tripwire.assert_untouched();
    assert_eq!(world.server.requests(), []);
}

#[tokio::test]
async fn what_fails_has_a_name() {
    let world = world().await;
    let nowhere = {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        listener.local_addr().expect("an address")
    };
    let file = world.ledger.path().join("file");
    std::fs::write(&file, "").expect("written");
    let base = || environment(&world);
    let (no_database, no_server) = (
        format!("postgres://u:p@{nowhere}/d"),
        format!("http://{nowhere}"),
    );
    for (environment, kind, word) in [
        (
            base().with(&[("DATABASE_URL", &no_database)]),
            "Database",
            "connect",
        ),
        (
            base().with(&[("SWEEPER_REFERENCES", "SELECT nothing FROM images")]),
            "Database",
            "nothing",
        ),
        (
            base().with(&[("SWEEPER_BUCKET", "missing")]),
            "Storage",
            "NoSuchBucket",
        ),
        (
            base().with(&[("AWS_ENDPOINT_URL_S3", &no_server)]),
            "Storage",
            "bucket pictures",
        ),
        (
            base().with(&[("SWEEPER_REPORT", &file.display().to_string())]),
            "Ledger",
            "written down",
        ),
        (
            base().with(&[("SWEEPER_REPORT", "s3://missing/ledger")]),
            "Ledger",
            "NoSuchBucket",
        ),
    ] {
        let mut function = environment.function().await;
        let (said, message) = function.invoke("{}").await.error();
        assert_eq!(said, kind, "{message}");
        assert!(message.contains(word), "{message}");
        assert!(message.contains("run "), "{message}");
    }
    assert_eq!(world.keys().len(), 3, "a failure deleted");
}

#[tokio::test]
async fn refused_and_incomplete_are_answers() {
    let world = world().await;
    let mut function = Environment::of(&world).function().await;
    let summary = function.invoke("{}").await.response();
    assert_honest(&summary);
    assert_eq!(summary["status"], "refused");
    assert_eq!(summary["refusal"]["guard"], "orphan_percent");
    assert_eq!(summary["deferred"], 2);
    function.end().await;

    world.server.inject(
        Fault::new(Operation::DeleteObjects, Effect::KeyError("AccessDenied")).key("images/a.png"),
    );
    let mut function = environment(&world).function().await;
    let summary = function.invoke("{}").await.response();
    assert_honest(&summary);
    assert_eq!(summary["status"], "incomplete");
    assert_eq!(
        (&summary["deleted"], &summary["failed"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(summary["errors"][0]["key"], "images/a.png");
    assert_eq!(summary["errors"][0]["code"], "AccessDenied");
}

/// Time that is over soon, but not before the function has begun to read.
const SHORT: Duration = Duration::from_secs(2);

#[tokio::test]
async fn out_of_time_before_the_plan_nothing_is_deleted_and_the_next_invocation_completes_it() {
    for held in [Operation::GetBucketVersioning, Operation::ListObjectsV2] {
        let world = world().await;
        let mut function = environment(&world).function().await;
        let process = function.id();
        world.server.on_request(held, |_, _| std::future::pending());
        let summary = function.invoke_for("{}", SHORT).await.response();
        assert_honest(&summary);
        assert_eq!(summary["status"], "incomplete", "{held}");
        assert_eq!(summary["deleted"], 0, "{held}");
        assert_eq!(world.keys().len(), 3, "{held}");
        assert_eq!(world.server.count(Operation::DeleteObjects), 0, "{held}");

        world.server.heal();
        let summary = function.invoke("{}").await.response();
        assert_honest(&summary);
        assert_eq!(
            (&summary["status"], &summary["deleted"]),
            (&json!("completed"), &json!(2))
        );
        assert_eq!(world.keys(), ["images/named.png"]);
        assert_eq!(function.id(), process);
    }
}

#[tokio::test]
async fn a_database_that_does_not_answer_does_not_outlast_the_deadline() {
    let world = world().await;
    // It takes connections, by its backlog, and says nothing.
    let tripwire = Tripwire::new();
    let environment = environment(&world).with(&[("DATABASE_URL", &tripwire.url())]);
    let mut function = environment.function().await;
    let summary = function.invoke_for("{}", SHORT).await.response();
    assert_honest(&summary);
    assert_eq!(summary["status"], "incomplete");
}

#[tokio::test]
async fn out_of_time_in_the_middle_of_the_sweep_what_was_deleted_is_recorded() {
    const ORPHANS: usize = 2_500;
    let world = World::new().await;
    for n in 0..ORPHANS {
        let key = format!("images/{n:04}.png");
        world
            .server
            .insert_listed(BUCKET, key, 1, "0123456789abcdef0123456789abcdef", ago(100));
    }
    world.put_named(&["images/named.png"], 48).await;
    let environment = Environment::of(&world).with(&[
        ("SWEEPER_MAX_ORPHAN_PERCENT", "100"),
        // One batch a window.
        ("SWEEPER_CONCURRENCY", "1"),
    ]);
    let mut function = environment.function().await;
    // A machine may be too busy to reach the sweep in time: then it gets more of it.
    let mut time = Duration::from_secs(4);
    let summary = loop {
        let over = tokio::time::Instant::now() + time;
        world.server.clear_requests();
        world.server.heal();
        // The first is the probe, the second the first batch, which takes until time is over.
        world
            .server
            .on_request(Operation::DeleteObjects, move |_, record| async move {
                if record.nth == 2 {
                    tokio::time::sleep_until(over).await;
                }
            });
        let summary = function.invoke_for("{}", time).await.response();
        assert_honest(&summary);
        assert_eq!(summary["status"], "incomplete");
        if summary["deleted"] != 0 || time > Duration::from_mins(1) {
            break summary;
        }
        time *= 2;
    };
    assert_eq!(summary["orphans"], ORPHANS);
    assert_eq!(
        (&summary["deleted"], &summary["deferred"]),
        (&json!(1_000), &json!(1_500))
    );
    assert_eq!(world.keys().len(), ORPHANS + 1 - 1_000);
    let recorded = recorded_deletions(&summary);
    assert_eq!(recorded.len(), 1_000);
    let left = world.keys();
    assert!(recorded.iter().all(|key| left.binary_search(key).is_err()));

    world.server.heal();
    let summary = function.invoke("{}").await.response();
    assert_honest(&summary);
    assert_eq!(
        (&summary["status"], &summary["deleted"]),
        (&json!("completed"), &json!(1_500))
    );
    assert_eq!(world.keys(), ["images/named.png"]);
}

#[tokio::test]
async fn a_fresh_check_that_waits_for_a_lock_does_not_outlast_the_deadline() {
    let world = world().await;
    let mut function = environment(&world).function().await;
    let mut time = SHORT;
    loop {
        let migration = Arc::new(Mutex::new(world.connect().await));
        world.server.clear_requests();
        // The first is the probe, just before the first fresh check.
        let lock = Arc::clone(&migration);
        world
            .server
            .on_request(Operation::DeleteObjects, move |_, _| {
                let lock = Arc::clone(&lock);
                async move {
                    let mut connection = lock.lock().await;
                    sqlx::raw_sql("BEGIN; LOCK TABLE images IN ACCESS EXCLUSIVE MODE")
                        .execute(&mut *connection)
                        .await
                        .expect("locked");
                }
            });
        let summary = function.invoke_for("{}", time).await.response();
        assert_honest(&summary);
        assert_eq!(summary["status"], "incomplete");
        assert_eq!((&summary["deleted"], world.keys().len()), (&json!(0), 3));
        world.server.heal();
        // A machine may be too busy to reach the sweep in time: then it gets more of it.
        if world.server.count(Operation::DeleteObjects) == 1 {
            assert_eq!(summary["deferred"], 2);
            break;
        }
        time *= 2;
        assert!(time < Duration::from_mins(1), "it never came to the sweep");
    }
    let summary = function.invoke("{}").await.response();
    assert_eq!(
        (&summary["status"], &summary["deleted"]),
        (&json!("completed"), &json!(2))
    );
}

#[tokio::test]
async fn the_log_is_json_and_the_password_is_nowhere() {
    const PASSWORD: &str = "Tr0ub4dor-and-3-horses";
    let world = world().await;
    let url = reader(&world, PASSWORD).await;
    let mut missing = url.clone();
    missing.set_path("/missing");
    let mut said = String::new();
    for (url, event) in [
        (url.as_str(), "{}"),
        (url.as_str(), "nonsense"),
        (url.as_str(), "[]"),
        (missing.as_str(), "{}"),
    ] {
        let mut function = environment(&world)
            .with(&[("DATABASE_URL", url)])
            .function()
            .await;
        let answer = function.invoke(event).await;
        write!(said, "{answer:?}").expect("written");
        let log = function.end().await;
        assert!(!log.is_empty(), "{event}");
        for line in log.lines() {
            let line: Value =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            assert!(line["level"].is_string(), "{line}");
            assert!(line["timestamp"].is_string(), "{line}");
        }
        said += &log;
    }
    assert_eq!(world.keys(), ["images/named.png"], "{said}");
    for file in files(world.ledger.path()) {
        said += &std::fs::read_to_string(file).expect("read");
    }
    assert!(said.contains("images/a.png"), "{said}");
    assert!(
        !said.contains(PASSWORD) && !said.contains("Tr0ub4dor"),
        "{said}"
    );
}

#[tokio::test]
async fn each_line_says_which_invocation_it_is_of_and_each_run_gives_its_metrics_once() {
    let world = world().await;
    let mut function = environment(&world)
        .with(&[("SWEEPER_PREFIX", "images")])
        .function()
        .await;
    let dry = function.invoke(r#"{"dry_run": true}"#).await.response();
    let real = function.invoke("{}").await.response();
    function.invoke(r#"{"dry_run": 1}"#).await.error();
    let log = function.end().await;
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let mut cold: Vec<(String, bool)> = Vec::new();
    for line in &lines {
        let request = line["function_request_id"].as_str().expect("an id");
        let is_cold = line["cold_start"].as_bool().expect("a boolean");
        assert!(line["message"].is_string(), "{line}");
        if cold.last().is_none_or(|(last, _)| last != request) {
            cold.push((request.to_owned(), is_cold));
        }
        assert_eq!(cold.last().map(|(_, cold)| *cold), Some(is_cold));
    }
    let cold: Vec<bool> = cold.into_iter().map(|(_, cold)| cold).collect();
    assert_eq!(cold, [true, false, false]);

    let metrics: Vec<&Value> = lines
        .iter()
        .filter(|line| line["_aws"].is_object())
        .collect();
    let [of_dry, of_real] = metrics[..] else {
        panic!("{metrics:?}")
    };
    for (line, summary) in [(of_dry, &dry), (of_real, &real)] {
        assert_eq!(line["run_id"], summary["run_id"]);
        assert_eq!(
            (&line["bucket"], &line["prefix"]),
            (&json!(BUCKET), &json!("images/"))
        );
        assert_eq!(line["runs_succeeded"], 1);
        for name in [
            "listed",
            "references",
            "orphans",
            "orphan_bytes",
            "deleted",
            "deleted_bytes",
            "dangling",
            "failed",
            "duration_ms",
        ] {
            assert_eq!(line[name], summary[name], "{name}");
        }
    }
    assert_eq!(
        (&of_dry["cold_starts"], &of_dry["deleted"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(
        (&of_real["cold_starts"], &of_real["deleted"]),
        (&json!(0), &json!(2))
    );
}

#[tokio::test]
async fn the_second_function_undoes_a_run_and_nothing_else() {
    let world = world().await;
    let ledger = world.ledger.path().display().to_string();
    let summary = environment(&world)
        .function()
        .await
        .invoke("{}")
        .await
        .response();
    assert_eq!((&summary["deleted"], world.keys().len()), (&json!(2), 1));
    let run_id = &summary["run_id"];

    // It needs no database, and is told which function it is by its handler.
    let restorer = Environment::bare(&world).with(&[
        ("_HANDLER", "restore"),
        ("SWEEPER_BUCKET", BUCKET),
        ("SWEEPER_REPORT", &ledger),
    ]);
    let mut function = restorer.function().await;
    for (event, kind) in [
        (json!({}), "Config"),
        (json!({"run_id": "nonsense"}), "Config"),
        (json!({"run_id": run_id, "dryrun": true}), "Config"),
        (json!({"run_id": run_id, "dry_run": "true"}), "Config"),
        (
            json!({"run_id": "018f0000-0000-7000-8000-000000000000"}),
            "Config",
        ),
        (
            json!({"run_id": run_id, "keys": ["images/other.png"]}),
            "Config",
        ),
    ] {
        let (said, message) = function.invoke(&event.to_string()).await.error();
        assert_eq!(said, kind, "{event}: {message}");
    }
    let dry = json!({"run_id": run_id, "dry_run": true}).to_string();
    let answer = function.invoke(&dry).await.response();
    assert_eq!(
        (&answer["status"], &answer["deferred"]),
        (&json!("dry_run"), &json!(2))
    );
    assert_eq!(world.keys().len(), 1, "a dry run restored");
    let one = json!({"run_id": run_id, "keys": ["images/a.png"]}).to_string();
    assert_eq!(function.invoke(&one).await.response()["restored"], 1);
    let all = json!({"run_id": run_id}).to_string();
    let answer = function.invoke(&all).await.response();
    assert_eq!(
        (&answer["restored"], &answer["present"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(
        world.keys(),
        ["images/2026/b.png", "images/a.png", "images/named.png"]
    );
}

#[tokio::test]
async fn a_panic_is_an_answer_and_the_process_serves_on() {
    let world = World::new().await;
    let program = std::env::current_exe().expect("this program");
    let mut function = Environment::of(&world)
        .serve_by(&program, &["--exact", "--nocapture", "panicking_function"])
        .await;
    let process = function.id();
    let (kind, message) = function.invoke(r#""at once""#).await.error();
    assert!(message.contains("panicked: at once"), "{kind}: {message}");
    let (_, message) = function.invoke(r#""later""#).await.error();
    assert!(message.contains("panicked: later"), "{message}");
    assert_eq!(function.invoke(r#""fine""#).await.response(), "fine");
    assert_eq!(function.id(), process);
}

/// The product's own loop around a handler that panics when told to: a process of its own,
/// started by the test above, and no test by itself.
#[tokio::test]
async fn panicking_function() {
    if std::env::var_os("AWS_LAMBDA_RUNTIME_API").is_none() {
        return;
    }
    orphan_sweeper::lambda::log_to_stdout();
    let served = orphan_sweeper::lambda::serve_by(async |event: LambdaEvent<Value>| {
        assert!(event.payload != "at once", "at once");
        tokio::task::yield_now().await;
        assert!(event.payload != "later", "later");
        Ok::<_, Diagnostic>(event.payload)
    });
    served.await.expect("served");
}

#[tokio::test]
async fn a_bucket_whose_versions_are_not_kept_is_refused_until_allowed() {
    let world = world().await;
    world.server.set_versioning(BUCKET, Versioning::Suspended);
    let mut function: Function = environment(&world).function().await;
    let summary = function.invoke("{}").await.response();
    assert_eq!(summary["refusal"]["guard"], "unversioned");
    function.end().await;
    let allowed = environment(&world).with(&[("SWEEPER_ALLOW_UNVERSIONED", "true")]);
    let summary = allowed.function().await.invoke("{}").await.response();
    assert_eq!(summary["deleted"], 2);
}
