//! After the sweep: what a row names although it was deleted is reported, and taken back
//! where that is allowed.
#![cfg(feature = "demo")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use orphan_sweeper::local::s3::{Effect, Fault, Operation, Versioning};
use orphan_sweeper::run::Report;
use orphan_sweeper::settings::Setting;
use orphan_sweeper::stop::Stop;
use orphan_sweeper::summary::Status;
use serde_json::json;
use sqlx::{Executor as _, Row as _};
use support::program::Environment;
use support::{BUCKET, World, at_the_last_moment};
use tokio::sync::Notify;

/// Ten referenced images and three orphans, two days old.
async fn world() -> World {
    let world = World::new().await;
    let names: Vec<String> = (0..10)
        .map(|index| format!("kept/{index:05}.png"))
        .collect();
    world.name(&names).await;
    for key in names.into_iter().chain((0..3).map(orphan)) {
        world.put(&key, 48);
    }
    world
}

fn orphan(index: usize) -> String {
    format!("left/{index:05}.png")
}

const LATE: &str = "INSERT INTO images VALUES ('left/00001.png')";

#[track_caller]
fn found(report: &Report, restored: u64) -> String {
    assert_eq!(report.summary.status, Status::Incomplete, "{report:?}");
    let rechecked = report.summary.more.rechecked.expect("asked");
    assert_eq!(
        (rechecked.referenced, rechecked.restored),
        (1, restored),
        "{report:?}"
    );
    let problem = &report.summary.errors[0];
    assert_eq!(problem.code, "ReferencedAfterDeletion");
    assert_eq!(problem.key.as_ref().expect("a key").as_str(), orphan(1));
    problem.message.clone()
}

#[tokio::test]
async fn what_a_row_names_in_the_last_moment_is_taken_back() {
    let world = world().await;
    let versions = format!("{:?}", world.server.versions(BUCKET, &orphan(1)));
    at_the_last_moment(&world, LATE);
    let report = world.run(&[]).await;
    assert!(found(&report, 1).contains("it was restored"), "{report:?}");
    // A count means what S3 confirmed, and it did delete all three.
    assert_eq!(report.summary.counts.deleted, 3);
    // What stands there again is not to be recovered any more.
    let (deleted, more) = (report.summary.counts.deleted_bytes, &report.summary.more);
    assert_eq!(
        [more.freed_bytes, more.recoverable_bytes, more.kept_bytes],
        [0, deleted / 3 * 2, 0]
    );
    assert!(world.keys().contains(&orphan(1)));
    assert_eq!(
        format!("{:?}", world.server.versions(BUCKET, &orphan(1))),
        versions
    );
    assert_eq!(world.keys().len(), 11);
}

#[tokio::test]
async fn what_somebody_deleted_once_more_is_not_called_restored() {
    let world = world().await;
    at_the_last_moment(&world, LATE);
    // The first question for versions is the one after the sweep.
    world.server.on_request(
        Operation::ListObjectVersions,
        |buckets, record| async move {
            if record.nth == 1 {
                buckets.delete(BUCKET, &orphan(1));
            }
        },
    );
    let report = world.run(&[]).await;
    let message = found(&report, 0);
    assert!(
        message.contains("something newer stands above"),
        "{message}"
    );
    assert!(!world.keys().contains(&orphan(1)));
}

#[tokio::test]
async fn without_the_right_it_is_reported_with_the_way_on() {
    let world = world().await;
    at_the_last_moment(&world, LATE);
    world
        .server
        .inject(Fault::new(Operation::DeleteObject, Effect::access_denied()).key(orphan(1)));
    let environment = Environment::of(&world);
    let ended = environment.cli(&["sweep"]).await;
    assert_eq!(ended.code, Some(4), "{ended:?}");
    let printed = ended.json();
    assert_eq!(
        printed["rechecked"],
        json!({"referenced": 1, "restored": 0})
    );
    assert_eq!(printed["errors"][0]["code"], "ReferencedAfterDeletion");
    let message = printed["errors"][0]["message"].as_str().expect("words");
    assert!(
        message.contains("AccessDenied") && message.contains("s3:DeleteObjectVersion"),
        "{message}"
    );
    assert!(
        ended.stderr.contains("ReferencedAfterDeletion"),
        "{ended:?}"
    );
    // Somebody with the right follows the way.
    world.server.heal();
    let run_id = printed["run_id"].as_str().expect("an id");
    let ended = environment
        .cli(&["restore", run_id, "--key", &orphan(1)])
        .await;
    assert_eq!(
        (ended.code, &ended.json()["restored"]),
        (Some(0), &json!(1))
    );
    assert!(world.keys().contains(&orphan(1)));
}

#[tokio::test]
async fn where_nothing_is_kept_the_loss_is_named() {
    let world = world().await;
    world.server.set_versioning(BUCKET, Versioning::Unversioned);
    at_the_last_moment(&world, LATE);
    let report = world.run(&[(Setting::AllowUnversioned, "true")]).await;
    assert!(found(&report, 0).contains("so it is lost"), "{report:?}");
    assert_eq!(
        report.summary.more.freed_bytes,
        report.summary.counts.deleted_bytes
    );
    assert_eq!(report.summary.more.recoverable_bytes, 0);
}

/// A request whose answer was lost may take effect after the look at what became of it.
#[tokio::test]
async fn what_may_have_been_deleted_is_asked_about_too() {
    for (versioning, effect, takes_effect, restored, words) in [
        (
            Versioning::Enabled,
            Effect::CloseBefore,
            true,
            1,
            "it was restored",
        ),
        (
            Versioning::Enabled,
            Effect::CloseBefore,
            false,
            0,
            "may yet take effect",
        ),
        // S3 failed at it, and deletes it all the same, later.
        (
            Versioning::Enabled,
            Effect::KeyError("InternalError"),
            true,
            1,
            "it was restored",
        ),
        (
            Versioning::Unversioned,
            Effect::CloseAfter,
            false,
            0,
            "it is lost",
        ),
    ] {
        let world = world().await;
        world.server.set_versioning(BUCKET, versioning);
        at_the_last_moment(&world, LATE);
        world
            .server
            .inject(Fault::new(Operation::DeleteObjects, effect).key(orphan(1)));
        // The first question for versions is the one after the sweep.
        world.server.on_request(
            Operation::ListObjectVersions,
            move |buckets, record| async move {
                if takes_effect && record.nth == 1 {
                    buckets.delete(BUCKET, &orphan(1));
                }
            },
        );
        let report = world.run(&[(Setting::AllowUnversioned, "true")]).await;
        let counts = report.summary.counts;
        assert!(
            matches!((counts.unknown, counts.failed), (3, 0) | (0, 1)),
            "{report:?}"
        );
        let rechecked = report.summary.more.rechecked.expect("asked");
        assert_eq!(
            (rechecked.referenced, rechecked.restored),
            (restored, restored)
        );
        let problem = report
            .summary
            .errors
            .iter()
            .find(|problem| problem.code.starts_with("Referenced"))
            .expect("told");
        assert_eq!(problem.code, "ReferencedAndUnknown");
        assert_eq!(problem.key.as_ref().expect("a key").as_str(), orphan(1));
        assert!(problem.message.contains(words), "{problem:?}");
        let keeps = world.keys().contains(&orphan(1));
        assert_eq!(keeps, versioning == Versioning::Enabled);
    }
}

/// What was written while versioning was enabled stays below the marker `null`.
#[tokio::test]
async fn what_a_suspended_bucket_keeps_is_not_called_lost() {
    let world = world().await;
    world.server.set_versioning(BUCKET, Versioning::Suspended);
    at_the_last_moment(&world, LATE);
    let report = world.run(&[(Setting::AllowUnversioned, "true")]).await;
    let message = found(&report, 0);
    assert!(message.contains("copy the object back"), "{message}");
    assert_eq!(report.summary.more.freed_bytes, 0);
}

#[tokio::test]
async fn a_database_that_does_not_answer_again_leaves_a_doubt() {
    let world = world().await;
    at_the_last_moment(&world, "ALTER TABLE images RENAME TO gone");
    let report = world.run(&[]).await;
    assert_eq!(report.summary.status, Status::Incomplete, "{report:?}");
    assert_eq!(
        (report.summary.counts.deleted, report.summary.more.rechecked),
        (3, None)
    );
    assert_eq!(report.summary.errors[0].code, "NotRechecked");
}

/// The plan fits in the temporary folder, and what is remembered of its deletions does not.
#[cfg(unix)]
#[tokio::test]
async fn with_a_full_temporary_folder_no_byte_is_called_free_that_is_kept() {
    let world = world().await;
    world.server.create_bucket("ledgers");
    for index in 3..400 {
        world.put(&orphan(index), 48);
    }
    let environment = Environment::of(&world).with(&[
        ("SWEEPER_REPORT", "s3://ledgers/sweeper"),
        ("SWEEPER_MAX_ORPHAN_PERCENT", "100"),
        ("SWEEPER_ALLOW_UNREFERENCED_FOLDER", "left/"),
    ]);
    let ended = environment.cramped_cli(120, &["sweep"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let printed = ended.json();
    assert_eq!(
        (&printed["status"], &printed["deleted"]),
        (&json!("failed"), &json!(400)),
        "{printed}"
    );
    assert_eq!(
        (&printed["freed_bytes"], &printed["recoverable_bytes"]),
        (&json!(0), &printed["deleted_bytes"])
    );
    let errors = printed["errors"].as_array().expect("a list");
    assert!(
        errors.iter().any(|error| error["code"] == "NotRechecked"),
        "{printed}"
    );
}

/// A lock that is held on the table must not hold a run over its deadline.
#[tokio::test]
async fn a_run_that_is_to_stop_does_not_wait_for_the_answer() {
    let world = world().await;
    let mut other = world.connect().await;
    let (asked, locked) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (ask, lock) = (Arc::clone(&asked), Arc::clone(&locked));
    world
        .server
        .on_request(Operation::DeleteObjects, move |_, record| {
            let orphans = record.keys.iter().any(|key| key.starts_with("left/0"));
            let (ask, lock) = (Arc::clone(&ask), Arc::clone(&lock));
            async move {
                if orphans {
                    ask.notify_one();
                    lock.notified().await;
                }
            }
        });
    let stop = Stop::never();
    let meanwhile = async {
        asked.notified().await;
        let work = "BEGIN; LOCK TABLE images IN ACCESS EXCLUSIVE MODE";
        other.execute(sqlx::raw_sql(work)).await.expect("locked");
        locked.notify_one();
        let mut watcher = world.connect().await;
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'orphan-sweeper' AND wait_event_type = 'Lock' AND datname = current_database()";
        while watcher
            .fetch_one(waits)
            .await
            .expect("asked")
            .get::<i64, _>(0)
            == 0
        {
            tokio::task::yield_now().await;
        }
        stop.interrupt();
    };
    let run = async { tokio::join!(Box::pin(world.run_until(&[], &stop)), meanwhile) };
    // Nobody waits longer than this for a run that hangs.
    let ended = tokio::time::timeout(Duration::from_mins(2), run).await;
    let (report, ()) = ended.expect("it ends");
    assert_eq!(report.summary.status, Status::Incomplete, "{report:?}");
    assert_eq!(report.summary.counts.deleted, 3);
    assert_eq!(report.summary.errors[0].code, "NotRechecked");
    other.execute("ROLLBACK").await.expect("ended");
}

/// The alarm must hear of what was seen.
#[tokio::test]
async fn what_a_look_saw_is_told_although_it_ended_early() {
    let world = world().await;
    at_the_last_moment(&world, LATE);
    let stop = Arc::new(Stop::never());
    let stops = Arc::clone(&stop);
    // The first question for versions is the one after the sweep: it is never answered.
    world
        .server
        .on_request(Operation::ListObjectVersions, move |_, _| {
            let stops = Arc::clone(&stops);
            async move {
                stops.interrupt();
                std::future::pending::<()>().await;
            }
        });
    let report = Box::pin(world.run_until(&[], &stop)).await;
    assert_eq!(report.summary.status, Status::Incomplete, "{report:?}");
    let rechecked = report.summary.more.rechecked.expect("told");
    assert_eq!((rechecked.referenced, rechecked.restored), (1, 0));
    let codes: Vec<&str> = report
        .summary
        .errors
        .iter()
        .map(|problem| problem.code.as_str())
        .collect();
    assert_eq!(codes, ["ReferencedAfterDeletion", "NotRechecked"]);
    let message = &report.summary.errors[0].message;
    assert!(message.contains("no time to see"), "{message}");
}

#[tokio::test]
async fn a_quiet_sweep_says_that_it_asked_and_what_can_be_brought_back() {
    let world = world().await;
    let report = world.run(&[]).await;
    assert_eq!(report.summary.status, Status::Completed, "{report:?}");
    let more = &report.summary.more;
    let rechecked = more.rechecked.expect("asked");
    assert_eq!((rechecked.referenced, rechecked.restored), (0, 0));
    assert_eq!(
        (
            more.freed_bytes,
            more.recoverable_bytes,
            more.recoverable_days
        ),
        (0, report.summary.counts.deleted_bytes, None)
    );
    world.put(&orphan(7), 48);
    world.server.expire_noncurrent_after(BUCKET, "", 30);
    let report = world.run(&[]).await;
    assert_eq!(report.summary.more.recoverable_days, Some(30), "{report:?}");
    // Nothing deleted, nothing asked.
    let report = world.run(&[]).await;
    assert_eq!(report.summary.more.rechecked, None);
}

#[tokio::test]
async fn the_undo_window_is_the_shortest_that_a_rule_leaves() {
    for (prefix, rules, days) in [
        (
            "left",
            &[("", 90), ("left/", 30), ("kept/", 7)][..],
            Some(30),
        ),
        ("left", &[("left/deep/", 7), ("", 90)], Some(7)),
        ("left", &[("kept/", 7), ("le", 20)], Some(20)),
        ("left", &[("kept/", 7)], None),
        ("", &[("kept/", 7), ("left/", 9)], Some(7)),
    ] {
        let world = world().await;
        world.name(&["left/named.png"]).await;
        world.put("left/named.png", 48);
        for (prefix, days) in rules {
            world.server.expire_noncurrent_after(BUCKET, prefix, *days);
        }
        let changes = [
            (Setting::Prefix, prefix),
            (Setting::MaxOrphanPercent, "100"),
        ];
        let report = world.run(&changes).await;
        assert_eq!(report.summary.counts.deleted, 3, "{report:?}");
        assert_eq!(report.summary.more.recoverable_days, days, "{rules:?}");
    }
}
