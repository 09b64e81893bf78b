//! Runs over key ranges: the parts of a distributed run, which together are the whole.
#![cfg(feature = "demo")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::join_all;
use orphan_sweeper::local::s3::Operation;
use orphan_sweeper::run::Report;
use orphan_sweeper::settings::Setting;
use orphan_sweeper::summary::{Counts, Status};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::program::Environment;
use support::{BUCKET, World, failure};
use tokio::sync::Notify;

/// Nothing in the way of small worlds: the counts are what is looked at.
const LENIENT: [(Setting, &str); 6] = [
    (Setting::MaxOrphanPercent, "100"),
    (Setting::MaxDanglingPercent, "100"),
    (Setting::AllowNewerOrphans, "true"),
    (Setting::AllowUnreferencedFolder, "*"),
    (Setting::AllowUnreferencedFolder, "images"),
    (Setting::NotAReference, "public.images.name"),
];

/// The settings of the part between two keys; an empty one is no bound.
fn part<'a>(
    after: &'a str,
    up_to: &'a str,
    more: &[(Setting, &'a str)],
) -> Vec<(Setting, &'a str)> {
    let mut changes = [&LENIENT[..], more].concat();
    changes.extend((!after.is_empty()).then_some((Setting::After, after)));
    changes.extend((!up_to.is_empty()).then_some((Setting::UpTo, up_to)));
    changes
}

fn small_key() -> impl Strategy<Value = String> {
    "[a-c고]{1,2}(/[a-b])?".prop_map(|key| format!("images/{key}.png"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, max_shrink_iters: 64, ..ProptestConfig::default() })]

    /// Wherever it is cut: every count is the sum of the parts', and what is deleted by all at
    /// once is what is deleted by one.
    #[test]
    fn the_parts_are_the_whole(
        objects in proptest::collection::btree_map(small_key(), 0_i64..60, 0..30),
        names in proptest::collection::btree_set(small_key(), 0..20),
        cuts in proptest::collection::btree_set(small_key(), 0..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new().await;
            for (key, age) in &objects {
                let at = support::ago(*age) + jiff::SignedDuration::from_mins(30);
                world.server.put_at(BUCKET, key, key.as_bytes().to_vec(), at);
            }
            world.put("images2/not ours.png", 100);
            let names: Vec<&String> = names.iter().collect();
            world.name(&names).await;
            let whole = world.run(&part("", "", &[(Setting::Prefix, "images"), (Setting::DryRun, "true")])).await;

            let bounds: Vec<&str> = [""].into_iter().chain(cuts.iter().map(String::as_str)).chain([""]).collect();
            let (mut sum, mut held_back) = (Counts::default(), 0);
            for pair in bounds.windows(2) {
                let report = world.run(&part(pair[0], pair[1], &[(Setting::Prefix, "images"), (Setting::DryRun, "true")])).await;
                prop_assert!(report.error.is_none(), "{}", failure(&report));
                let said = support::read_back(&report.summary);
                let bound = |text: &str| if text.is_empty() { Value::Null } else { json!(text) };
                prop_assert_eq!((&said["after"], &said["up_to"]), (&bound(pair[0]), &bound(pair[1])));
                sum += report.summary.counts;
                held_back += report.summary.more.held_back;
            }
            prop_assert_eq!(sum, whole.summary.counts);
            prop_assert_eq!(held_back, whole.summary.more.held_back);

            // All parts at once. One that knows no reference is refused, as a whole run would be.
            let runs = bounds.windows(2).map(|pair| {
                let world = &world;
                async move {
                    let report = world.run(&part(pair[0], pair[1], &[(Setting::Prefix, "images")])).await;
                    (pair[0], pair[1], report)
                }
            });
            let mut left: BTreeSet<String> = world.keys().into_iter().collect();
            for (after, up_to, report) in join_all(runs).await {
                let counts = report.summary.counts;
                let is_in = |key: &str| key.starts_with("images/") && key > after && (up_to.is_empty() || key <= up_to);
                let gone: Vec<&String> = objects
                    .iter()
                    .filter(|(key, age)| **age > 24 && is_in(key) && !names.contains(key))
                    .map(|(key, _)| key)
                    .collect();
                prop_assert_eq!(counts.orphans, gone.len() as u64);
                if report.summary.status == Status::Refused {
                    prop_assert_eq!(counts.referenced, 0);
                    prop_assert_eq!(counts.deferred, counts.orphans);
                } else {
                    prop_assert_eq!(report.summary.status, Status::Completed, "{:?}", report);
                    // What a name mentions stays.
                    let mentions = &report.summary.more.held_back_mentions;
                    let held: BTreeSet<&str> = mentions.iter().map(|one| one.key.as_str()).collect();
                    prop_assert_eq!(held.len() as u64, report.summary.more.held_back);
                    for key in gone.into_iter().filter(|key| !held.contains(key.as_str())) {
                        left.remove(key);
                    }
                }
            }
            prop_assert_eq!(world.keys(), left.into_iter().collect::<Vec<_>>());
            Ok(())
        })?;
    }
}

/// Three named images and an orphan in each of two halves.
async fn halves() -> World {
    let world = World::new().await;
    world
        .put_named(
            &[
                "a/1.png", "a/2.png", "a/3.png", "b/1.png", "b/2.png", "b/3.png",
            ],
            48,
        )
        .await;
    world.put("a/left.png", 48);
    world.put("b/left.png", 48);
    world
}

/// A name like this may name any key: so a part must not be blind to those of the others.
#[tokio::test]
async fn a_name_that_cannot_be_read_ends_every_part_wherever_it_lies() {
    let world = halves().await;
    world.name(&["https://cdn.example.com/a/left.png"]).await;
    for (after, up_to) in [("", "a/3.png"), ("a/3.png", "b/1.png"), ("b/1.png", "")] {
        let report = world.run(&part(after, up_to, &[])).await;
        assert_eq!(report.summary.status, Status::Failed, "{report:?}");
        assert!(failure(&report).contains("https://cdn.example.com/a/left.png"));
    }
    assert_eq!(world.keys().len(), 8);
}

#[tokio::test]
async fn a_part_lists_no_more_than_its_range() {
    let world = halves().await;
    let report = world.run(&part("a/3.png", "b/2.png", &[])).await;
    assert_eq!(report.summary.status, Status::Completed, "{report:?}");
    let counts = report.summary.counts;
    assert_eq!(
        (counts.listed, counts.references, counts.referenced),
        (3, 2, 2)
    );
    assert_eq!((counts.orphans, counts.deleted, counts.dangling), (1, 1, 0));
    // The page that holds the range's end was asked for where the range begins.
    let lists: Vec<_> = world
        .server
        .requests()
        .into_iter()
        .filter(|request| request.operation == Operation::ListObjectsV2)
        .collect();
    assert_eq!(lists.len(), 1, "{lists:?}");
    assert!(world.keys().contains(&"b/left.png".to_owned()));
}

fn guard(report: &Report) -> Option<&'static str> {
    report.summary.refusal.as_ref().map(|refusal| refusal.guard)
}

#[tokio::test]
async fn two_parts_run_at_once_and_one_part_not_twice() {
    let world = halves().await;
    let (arrived, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (arrives, goes_on) = (Arc::clone(&arrived), Arc::clone(&go_on));
    world
        .server
        .on_request(Operation::ListObjectsV2, move |_, record| {
            let (arrives, goes_on) = (Arc::clone(&arrives), Arc::clone(&goes_on));
            async move {
                if record.nth == 1 {
                    arrives.notify_one();
                    goes_on.notified().await;
                }
            }
        });
    let first = part("", "a/3.png", &[]);
    let others = async {
        arrived.notified().await;
        let again = world.run(&first).await;
        assert_eq!(guard(&again), Some("another_run"));
        let other = world.run(&part("a/3.png", "", &[])).await;
        assert_eq!(other.summary.status, Status::Completed, "{other:?}");
        go_on.notify_one();
    };
    let (report, ()) = tokio::join!(world.run(&first), others);
    assert_eq!(report.summary.status, Status::Completed, "{report:?}");
    assert_eq!(world.keys().len(), 6);
}

/// Each part is compared with its own past, and not with that of the whole.
#[tokio::test]
async fn a_part_has_a_baseline_of_its_own() {
    let world = World::new().await;
    let names: Vec<String> = (0..60)
        .map(|n| format!("{}/{n:02}.png", if n < 40 { "a" } else { "b" }))
        .collect();
    world
        .put_named(&names.iter().map(String::as_str).collect::<Vec<_>>(), 48)
        .await;
    world.put("a/left.png", 48);
    let dry = (Setting::DryRun, "true");
    for range in [("", ""), ("", "a/99.png"), ("a/99.png", "")] {
        let report = world.run(&part(range.0, range.1, &[dry])).await;
        // A third of the whole's references is no drop from the whole.
        assert_eq!(
            report.summary.status,
            Status::DryRun,
            "{range:?} {report:?}"
        );
    }
    world
        .sql("DELETE FROM images WHERE name LIKE 'a/0%' OR name LIKE 'a/1%'")
        .await;
    let report = world.run(&part("", "a/99.png", &[])).await;
    assert_eq!(guard(&report), Some("referenced_drop"), "{report:?}");
    let report = world.run(&part("a/99.png", "", &[])).await;
    assert_eq!(report.summary.status, Status::Completed, "{report:?}");
    assert_eq!(world.keys().len(), 60);
}

/// The command prints events, each of which is taken; together they are the whole scope.
#[tokio::test]
async fn ranges_prints_the_events_of_a_distributed_run() {
    let world = World::new().await;
    let names: Vec<String> = (0..1_000)
        .map(|n| format!("images/{n:04}\u{202e}.png"))
        .collect();
    world.name(&names).await;
    let environment = Environment::of(&world).with(&[("SWEEPER_PREFIX", "images")]);
    let ended = environment.cli(&["ranges", "--parts", "4"]).await;
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (Some(0), ""),
        "{ended:?}"
    );
    assert!(!ended.stdout.contains('\u{202e}'), "a terminal may see it");
    let ranges: Vec<Value> = serde_json::from_str(&ended.stdout).expect("a list");
    assert_eq!(ranges.len(), 4);
    let settings = world.settings(&[(Setting::Prefix, "images")]);
    let mut named = Vec::new();
    let mut before = Value::Null;
    for range in &ranges {
        assert_eq!(range["after"], before, "{ranges:?}");
        before = range["up_to"].clone();
        let options = orphan_sweeper::event::options(range).expect("an event");
        let scope = settings.tighten(&options).expect("settings").scope;
        named.push(names.iter().filter(|name| scope.contains(name)).count());
    }
    assert_eq!(before, Value::Null);
    assert_eq!(named, [200, 300, 200, 300]);
    assert_eq!(world.server.requests(), [], "it needs no bucket");

    let ended = environment
        .cli(&["ranges", "--parts", "2", "--output", "text"])
        .await;
    let lines: Vec<&str> = ended.stdout.lines().collect();
    let [first, last] = lines[..] else {
        panic!("{ended:?}")
    };
    let cut = first.strip_prefix("up to images/").expect("a range");
    assert_eq!(last, format!("after images/{cut}"));
    assert!(!cut.contains('\u{202e}'), "a terminal may see it");
    let ended = environment
        .cli(&[
            "ranges", "--parts", "2", "--output", "text", "--prefix", "none",
        ])
        .await;
    assert_eq!(ended.stdout, "all keys\n");

    for (parts, why) in [
        ("0", "0 is not in 1..=1000"),
        ("1001", "1001 is not in 1..=1000"),
        ("x", "invalid digit"),
    ] {
        let ended = environment.cli(&["ranges", "--parts", parts]).await;
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.stderr.contains(why), "{ended:?}");
    }
    let ended = environment
        .without("DATABASE_URL")
        .cli(&["ranges", "--parts", "2"])
        .await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
}

/// The plan of a part is applied within its range, and a page of it says the range.
#[tokio::test]
async fn a_part_that_was_planned_is_applied_and_shown() {
    let world = halves().await;
    let environment = Environment::of(&world).with(&[("SWEEPER_ALLOW_UNREFERENCED_FOLDER", "*")]);
    let planned = environment
        .cli(&["plan", "--after", "a/3.png", "--up-to", "b/left.png"])
        .await;
    assert_eq!(planned.code, Some(0), "{planned:?}");
    let summary = planned.json();
    assert_eq!(
        (&summary["orphans"], &summary["up_to"]),
        (&json!(2), &json!("b/left.png"))
    );
    let run_id = summary["run_id"].as_str().expect("an id");
    let shown = environment.cli(&["report", run_id]).await;
    assert!(
        shown.stdout.contains("after a/3.png up to b/left.png"),
        "{shown:?}"
    );

    let elsewhere = environment.cli(&["apply", run_id]).await;
    assert_eq!(elsewhere.code, Some(0), "{elsewhere:?}");
    let applied = elsewhere.json();
    assert_eq!(
        (&applied["deleted"], &applied["after"]),
        (&json!(2), &json!("a/3.png"))
    );
    let other = environment
        .with(&[("SWEEPER_AFTER", "b/1.png")])
        .cli(&["apply", run_id])
        .await;
    assert_eq!(other.code, Some(2), "{other:?}");
    assert!(
        other
            .stderr
            .starts_with("orphan-sweeper: SWEEPER_AFTER: not what the manifest was made with"),
        "{other:?}"
    );
}
