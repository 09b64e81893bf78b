//! Two sweeps that share a ledger are held apart, and a dead one holds nobody up.
#![cfg(feature = "demo")]

mod support;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use orphan_sweeper::local::s3::{Effect, Fault, Operation};
use orphan_sweeper::progress::Progress;
use orphan_sweeper::run::{Report, run};
use orphan_sweeper::settings::Setting;
use orphan_sweeper::stop::Stop;
use orphan_sweeper::summary::Status;
use serde_json::{Value, json};
use support::{BUCKET, World, failure};
use tokio::sync::Notify;

const LEDGER: &str = "ledger";
const IN_S3: &str = "s3://ledger/sweeps";

/// Two orphans, one image that is named, and a second bucket for a ledger.
async fn world() -> World {
    let world = World::new().await;
    world.put("images/a.png", 100);
    world.put("images/b.png", 100);
    world.put_named(&["images/named.png"], 48).await;
    world.server.create_bucket(LEDGER);
    world
}

/// Runs once with a ledger there.
async fn sweep(world: &World, ledger: &str, more: &[(Setting, &str)]) -> Report {
    let mut changes = vec![
        (Setting::Report, ledger),
        (Setting::MaxOrphanPercent, "100"),
    ];
    changes.extend(more);
    run(
        &world.settings(&changes),
        &world.client(),
        &Stop::never(),
        &Progress::default(),
    )
    .await
}

fn guard(report: &Report) -> Option<&'static str> {
    report.summary.refusal.as_ref().map(|refusal| refusal.guard)
}

/// The only lock of the ledger in S3: its key and what it says.
fn lock(world: &World) -> (String, Value) {
    let keys = world.server.keys(LEDGER);
    let locks: Vec<&String> = keys
        .iter()
        .filter(|key| key.starts_with("sweeps/locks/"))
        .collect();
    let [key] = locks[..] else { panic!("{keys:?}") };
    let object = world.server.object(LEDGER, key).expect("the lock");
    let content = object.content.expect("its body");
    (
        key.clone(),
        serde_json::from_slice(&content.body).expect("JSON"),
    )
}

#[tokio::test]
async fn the_second_of_two_sweeps_leaves_the_work_to_the_first() {
    for in_s3 in [false, true] {
        let world = world().await;
        let folder = world.ledger.path().display().to_string();
        let ledger = if in_s3 { IN_S3 } else { &folder };
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
        let first = sweep(&world, ledger, &[]);
        let others = async {
            arrived.notified().await;
            let second = sweep(&world, ledger, &[]).await;
            assert_eq!(second.summary.status, Status::Refused);
            assert_eq!(guard(&second), Some("another_run"));
            assert_eq!(second.summary.counts.listed, 0);
            let dry = sweep(&world, ledger, &[(Setting::DryRun, "true")]).await;
            assert_eq!(
                dry.summary.status,
                Status::DryRun,
                "a dry run disturbs nobody"
            );
            let elsewhere = sweep(&world, ledger, &[(Setting::Prefix, "other")]).await;
            assert_ne!(guard(&elsewhere), Some("another_run"));
            go_on.notify_one();
            second
        };
        let (first, second) = tokio::join!(first, others);
        assert_eq!(first.summary.status, Status::Completed, "{first:?}");
        assert_eq!(first.summary.counts.deleted, 2);
        assert_eq!(world.keys(), ["images/named.png"]);
        let hint = &second.summary.refusal.expect("a refusal").hint;
        assert!(hint.contains(&first.summary.run_id.to_string()), "{hint}");

        // And it let go.
        world.put("images/c.png", 100);
        let third = sweep(&world, ledger, &[]).await;
        assert_eq!(third.summary.counts.deleted, 1, "{third:?}");
    }
}

#[tokio::test]
async fn what_a_dead_run_left_is_free_when_it_expires_and_not_before() {
    let world = world().await;
    sweep(&world, IN_S3, &[]).await;
    let (key, mut note) = lock(&world);
    assert_eq!(note["released"], true);
    note["released"] = json!(false);
    note["run_id"] = json!("018f0000-0000-7000-8000-000000000000");
    // The last was written by a wrong clock, and would hold up every night for a year.
    for (minutes, free) in [(1, false), (14, false), (-1, true), (525_600, true)] {
        let expires = Timestamp::now() + SignedDuration::from_mins(minutes);
        note["expires"] = json!(expires);
        world.server.put(LEDGER, &key, note.to_string());
        let report = sweep(&world, IN_S3, &[]).await;
        assert_eq!(guard(&report) != Some("another_run"), free, "{report:?}");
        if free {
            assert_eq!(report.summary.status, Status::Completed);
        } else {
            let hint = &report.summary.refusal.expect("a refusal").hint;
            assert!(
                hint.contains("018f0000-") && hint.contains(&expires.to_string()),
                "{hint}"
            );
        }
    }
    assert_eq!(lock(&world).1["released"], true);
}

#[tokio::test]
async fn a_killed_run_leaves_a_lock_that_says_when_it_is_free() {
    let world = world().await;
    let killed = Arc::new(Notify::new());
    let kill = Arc::clone(&killed);
    world
        .server
        .on_request(Operation::ListObjectsV2, move |_, _| {
            kill.notify_one();
            std::future::pending()
        });
    tokio::select! {
        () = killed.notified() => {}
        report = sweep(&world, IN_S3, &[]) => panic!("{report:?}"),
    }
    world.server.heal();
    let (_, note) = lock(&world);
    assert_eq!(
        (&note["released"], &note["bucket"]),
        (&json!(false), &json!(BUCKET))
    );
    let expires: Timestamp = note["expires"]
        .as_str()
        .expect("a time")
        .parse()
        .expect("a time");
    let left = expires.duration_since(Timestamp::now());
    assert!(
        left > SignedDuration::ZERO && left <= SignedDuration::from_mins(10),
        "{left}"
    );
    // A folder's is free at once.
    let report = world.run(&[(Setting::MaxOrphanPercent, "100")]).await;
    assert_eq!(report.summary.counts.deleted, 2);
}

#[tokio::test]
async fn a_lock_whose_answer_was_lost_is_this_runs_own() {
    let world = world().await;
    world
        .server
        .inject(Fault::new(Operation::PutObject, Effect::CloseAfter).first(1));
    let report = sweep(&world, IN_S3, &[]).await;
    assert_eq!(report.summary.status, Status::Completed, "{report:?}");
    assert_eq!(report.summary.counts.deleted, 2);
}

#[tokio::test]
async fn a_lock_that_cannot_be_read_deletes_nothing() {
    let world = world().await;
    sweep(&world, IN_S3, &[(Setting::MaxDelete, "0")]).await;
    let (key, _) = lock(&world);
    world.server.put(LEDGER, &key, "nonsense");
    let report = sweep(&world, IN_S3, &[]).await;
    assert!(
        failure(&report).starts_with("Ledger: "),
        "{}",
        failure(&report)
    );
    assert!(failure(&report).contains(&key), "{}", failure(&report));
    assert_eq!(world.keys().len(), 3);
}
