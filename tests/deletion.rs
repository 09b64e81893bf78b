//! What is deleted, what is spared, and what is said of it, over the wire.
#![cfg(feature = "demo")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use orphan_sweeper::local::s3::{Effect, Fault, Operation, Version, Versioning};
use orphan_sweeper::run::Report;
use orphan_sweeper::settings::Setting;
use orphan_sweeper::stop::Stop;
use orphan_sweeper::summary::Status;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use support::{BUCKET, World, ago, failure};
use tokio::sync::Notify;

/// A world with so many referenced images and so many orphans, two days old.
async fn world(referenced: usize, orphans: usize) -> World {
    let world = World::new().await;
    let names: Vec<String> = (0..referenced)
        .map(|index| format!("kept/{index:05}.png"))
        .collect();
    world.name(&names).await;
    for key in names.into_iter().chain((0..orphans).map(orphan)) {
        world.put(&key, 48);
    }
    world
}

fn orphan(index: usize) -> String {
    format!("left/{index:05}.png")
}

/// Runs statements in the database when the first deletion is asked for, which is the probe:
/// after the snapshot, before the fresh check.
fn meanwhile(world: &World, statements: &str) {
    let (url, statements) = (world.database.url().to_owned(), statements.to_owned());
    world
        .server
        .on_request(Operation::DeleteObjects, move |_, record| {
            let (url, statements) = (url.clone(), statements.clone());
            async move {
                if record.nth == 1 {
                    let mut connection = PgConnection::connect(&url).await.expect("connected");
                    connection
                        .execute(sqlx::raw_sql(AssertSqlSafe(statements)))
                        .await
                        .expect("run");
                }
            }
        });
}

fn deletions(world: &World) -> usize {
    world.server.count(Operation::DeleteObjects) + world.server.count(Operation::DeleteObject)
}

/// Every outcome of the run's ledger, by key.
fn outcomes(world: &World, report: &Report) -> Vec<(String, String, Option<String>)> {
    let mut outcomes = Vec::new();
    for batch in 0.. {
        let file = format!("outcomes/{batch:06}.json");
        if !world.has(report, &file) {
            return outcomes;
        }
        let batch = world.read(report, &file);
        for line in batch["outcomes"].as_array().expect("a list") {
            let text = |field: &str| line[field].as_str().map(str::to_owned);
            outcomes.push((
                text("key").expect("a key"),
                text("outcome").expect("a word"),
                text("marker"),
            ));
        }
    }
    outcomes
}

#[tokio::test]
async fn the_fresh_check_spares_by_whatever_way_the_database_is_asked() {
    let indexes = [
        "",
        "CREATE INDEX ON images (name); ANALYZE images",
        "CREATE INDEX ON images (name COLLATE \"C\"); ANALYZE images",
    ];
    for index in indexes {
        let world = world(10, 20).await;
        world
            .sql("INSERT INTO images SELECT 'elsewhere/' || n FROM generate_series(1, 20000) n")
            .await;
        world.sql(index).await;
        meanwhile(
            &world,
            &format!("INSERT INTO images VALUES ('{}')", orphan(7)),
        );
        let report = world
            .run(&[
                (Setting::MaxOrphanPercent, "100"),
                (Setting::MaxDanglingPercent, "100"),
            ])
            .await;
        assert_eq!(
            report.summary.status,
            Status::Completed,
            "{index}: {report:?}"
        );
        assert_eq!(
            (report.summary.counts.deleted, report.summary.counts.spared),
            (19, 1),
            "{index}"
        );
        assert!(world.keys().contains(&orphan(7)), "{index}");
    }
}

#[tokio::test]
async fn the_fresh_check_spares_names_that_are_urls() {
    let world = World::new().await;
    let url = |key: &str| {
        format!(
            "https://cdn.example.com/{}?w=1",
            key.replace('고', "%EA%B3%A0")
        )
    };
    for key in ["kept 고.png", "left 고.png", "left 2.png"] {
        world.put(key, 48);
    }
    world.name(&[url("kept 고.png")]).await;
    meanwhile(
        &world,
        &format!("INSERT INTO images VALUES ('{}')", url("left 고.png")),
    );
    let report = world
        .run(&[
            (Setting::ReferenceForm, "url"),
            (Setting::ReferenceHost, "cdn.example.com"),
            (Setting::MaxOrphanPercent, "100"),
        ])
        .await;
    assert_eq!(
        (report.summary.counts.deleted, report.summary.counts.spared),
        (1, 1),
        "{report:?}"
    );
    assert_eq!(world.keys(), ["kept 고.png", "left 고.png"]);
}

#[tokio::test]
async fn a_check_that_finds_many_rows_says_that_the_snapshot_was_wrong() {
    let world = world(30, 25).await;
    meanwhile(
        &world,
        "INSERT INTO images SELECT 'left/' || lpad(n::text, 5, '0') || '.png' FROM generate_series(0, 10) n",
    );
    let report = world.run(&[]).await;
    assert!(
        failure(&report).contains("11 of 25"),
        "{}",
        failure(&report)
    );
    assert_eq!(report.summary.counts.deleted, 0);
    assert_eq!(world.keys().len(), 55);
}

#[tokio::test]
async fn what_changes_in_between_is_spared_and_what_goes_is_gone() {
    let world = world(10, 4).await;
    let hostile = ["left/tab\there.png", "left/other\u{1}.png"];
    for key in hostile {
        world.put(key, 48);
    }
    world
        .server
        .on_request(Operation::DeleteObjects, |buckets, record| async move {
            // The batch itself: nothing but its condition can notice.
            if record.nth == 2 {
                buckets.put_at(BUCKET, &orphan(0), "another picture", ago(48));
                buckets.delete(BUCKET, &orphan(1));
                buckets.put_at(BUCKET, "left/tab\there.png", "another picture", ago(48));
            }
        });
    let report = world.run(&[]).await;
    let counts = report.summary.counts;
    assert_eq!(
        (counts.deleted, counts.spared, counts.gone),
        (3, 2, 1),
        "{report:?}"
    );
    assert!(world.keys().contains(&orphan(0)) && world.keys().contains(&hostile[0].to_owned()));
    assert_eq!(world.keys().len(), 12);
}

/// An answer with an error in the place of this key's deletion.
fn failed_all_the_same(body: &str, key: &str) -> String {
    let Some(at) = body.find(key) else {
        return body.to_owned();
    };
    let from = body[..at].rfind("<Deleted>").expect("a deletion");
    let (_, rest) = body[at..].split_once("</Deleted>").expect("its end");
    format!(
        "{}<Error><Key>{key}</Key><Code>InternalError</Code></Error>{rest}",
        &body[..from]
    )
}

#[tokio::test]
async fn a_key_counts_by_what_s3_said_of_it() {
    for (effect, status, outcome, left) in [
        (
            Effect::KeyError("AccessDenied"),
            Status::Incomplete,
            "failed",
            true,
        ),
        (
            Effect::KeyError("InternalError"),
            Status::Incomplete,
            "failed",
            true,
        ),
        // Failed, and done all the same.
        (
            Effect::edit_body(|body| failed_all_the_same(&body, &orphan(1))),
            Status::Completed,
            "deleted",
            false,
        ),
        (
            Effect::KeyError("ConditionalRequestConflict"),
            Status::Completed,
            "spared",
            true,
        ),
        (
            Effect::OmitKey { deleted: false },
            Status::Incomplete,
            "unknown",
            true,
        ),
        (
            Effect::OmitKey { deleted: true },
            Status::Completed,
            "deleted",
            false,
        ),
    ] {
        let world = world(10, 3).await;
        world
            .server
            .inject(Fault::new(Operation::DeleteObjects, effect.clone()).key(orphan(1)));
        let report = world.run(&[]).await;
        assert_eq!(report.summary.status, status, "{effect:?}: {report:?}");
        let outcomes = outcomes(&world, &report);
        assert_eq!(outcomes.len(), 3);
        assert_eq!(
            (outcomes[1].0.as_str(), outcomes[1].1.as_str()),
            (orphan(1).as_str(), outcome),
            "{effect:?}"
        );
        assert_eq!(world.keys().contains(&orphan(1)), left, "{effect:?}");
    }
}

#[tokio::test]
async fn a_lost_answer_is_settled_by_the_versions_and_never_asked_again() {
    for (versioning, effect, counts, left) in [
        (Versioning::Enabled, Effect::CloseAfter, [3, 0, 0], 0),
        (Versioning::Unversioned, Effect::CloseAfter, [0, 0, 3], 0),
        (Versioning::Enabled, Effect::CloseBefore, [0, 0, 3], 3),
        (
            Versioning::Enabled,
            Effect::replace_body("<DeleteResult/>"),
            [3, 0, 0],
            0,
        ),
        (Versioning::Enabled, Effect::internal_error(), [0, 0, 3], 3),
        // Something in between says no for S3, which had done it.
        (
            Versioning::Enabled,
            Effect::Answer {
                status: 503,
                body: String::new(),
            },
            [0, 0, 3],
            3,
        ),
    ] {
        let world = world(10, 3).await;
        world.server.set_versioning(BUCKET, versioning);
        world
            .server
            .inject(Fault::new(Operation::DeleteObjects, effect.clone()).key(orphan(1)));
        let report = world.run(&[(Setting::AllowUnversioned, "true")]).await;
        let found = report.summary.counts;
        assert_eq!(
            [found.deleted, found.gone, found.unknown],
            counts,
            "{versioning:?} {effect:?}: {report:?}"
        );
        assert_eq!(world.keys().len(), 10 + left);
        assert_eq!(
            world.server.count(Operation::DeleteObjects),
            2,
            "the probe and one batch"
        );
    }
}

#[tokio::test]
async fn batches_hold_at_most_a_thousand_and_each_key_is_written_down_once() {
    let world = world(10, 0).await;
    let keys: BTreeSet<String> = (0..2_500).map(orphan).collect();
    for key in &keys {
        world
            .server
            .insert_listed(BUCKET, key, 1, "0123456789abcdef0123456789abcdef", ago(48));
    }
    world.server.inject(
        Fault::new(Operation::DeleteObjects, Effect::slow_down())
            .keys(|key| key.starts_with("left/00"))
            .first(3),
    );
    let report = world.run(&[(Setting::MaxOrphanPercent, "100")]).await;
    assert_eq!(report.summary.status, Status::Completed, "{report:?}");
    assert_eq!(report.summary.counts.deleted, 2_500);
    assert!(
        world
            .server
            .requests()
            .iter()
            .all(|request| request.keys.len() <= 1_000)
    );
    let outcomes = outcomes(&world, &report);
    assert_eq!(outcomes.len(), 2_500);
    for (key, outcome, marker) in &outcomes {
        assert_eq!(outcome, "deleted");
        let newest = world.server.versions(BUCKET, key).into_iter().next();
        assert!(
            matches!(newest, Some(Version::Marker { version_id, .. }) if Some(version_id.to_string()) == *marker),
            "{key}"
        );
    }
    assert_eq!(
        outcomes
            .into_iter()
            .map(|(key, ..)| key)
            .collect::<BTreeSet<_>>(),
        keys
    );
}

#[tokio::test]
async fn the_plan_is_written_down_before_the_first_batch() {
    let world = world(10, 3).await;
    let folder = world.ledger.path().to_owned();
    let lines = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&lines);
    world
        .server
        .on_request(Operation::DeleteObjects, move |_, _| {
            let run = std::fs::read_dir(folder.join("runs"))
                .expect("runs")
                .next()
                .expect("a run")
                .expect("readable")
                .path();
            let plan = std::fs::read_to_string(run.join("plan.jsonl")).expect("the plan is there");
            seen.lock()
                .expect("not poisoned")
                .push(plan.lines().count());
            async {}
        });
    let report = world.run(&[]).await;
    assert_eq!(report.summary.status, Status::Completed);
    assert_eq!(*lines.lock().expect("not poisoned"), [4, 4]);
}

#[tokio::test]
async fn the_oldest_go_first() {
    let world = world(10, 0).await;
    for (key, age) in [("a.png", 30), ("b.png", 90), ("c.png", 50), ("d.png", 70)] {
        world.put(key, age);
    }
    let report = world.run(&[(Setting::MaxDelete, "2")]).await;
    assert_eq!(
        (
            report.summary.counts.deleted,
            report.summary.counts.deferred
        ),
        (2, 2)
    );
    assert_eq!(
        world
            .keys()
            .iter()
            .filter(|key| !key.starts_with("kept/"))
            .collect::<Vec<_>>(),
        ["a.png", "c.png"]
    );
}

#[tokio::test]
async fn a_ledger_that_cannot_be_written_means_no_deletion() {
    let world = world(10, 3).await;
    let file = world.ledger.path().join("a file");
    std::fs::write(&file, "").expect("written");
    let settings = world.settings(&[(Setting::Report, &file.display().to_string())]);
    let report = orphan_sweeper::run::run(
        &settings,
        &world.client(),
        &Stop::never(),
        &orphan_sweeper::progress::Progress::default(),
    )
    .await;
    assert!(
        failure(&report).starts_with("Ledger"),
        "{}",
        failure(&report)
    );
    assert_eq!((world.keys().len(), deletions(&world)), (13, 0));
}

#[tokio::test]
async fn counts_stay_true_when_an_outcome_cannot_be_written() {
    let world = world(10, 3).await;
    let folder = world.ledger.path().to_owned();
    world
        .server
        .on_request(Operation::DeleteObjects, move |_, record| {
            if record.nth == 2 {
                let run = std::fs::read_dir(folder.join("runs"))
                    .expect("runs")
                    .next()
                    .expect("a run")
                    .expect("readable")
                    .path();
                std::fs::write(run.join("outcomes"), "in the way").expect("written");
            }
            async {}
        });
    let report = world.run(&[]).await;
    assert!(
        failure(&report).starts_with("Ledger"),
        "{}",
        failure(&report)
    );
    assert_eq!(report.summary.counts.deleted, 3);
    assert_eq!(world.keys().len(), 10);
}

/// A storage that claims every deletion of what is not there, in batches and alone.
fn ignore_conditions(world: &World, together: bool, alone: bool) {
    let probe = |key: &str| key.contains("orphan-sweeper-probe");
    let edit = Effect::edit_body(|body| {
        let key = body
            .split("<Key>")
            .nth(1)
            .and_then(|rest| rest.split("</Key>").next())
            .unwrap_or_default()
            .to_owned();
        format!("<DeleteResult><Deleted><Key>{key}</Key></Deleted></DeleteResult>")
    });
    if together {
        world
            .server
            .inject(Fault::new(Operation::DeleteObjects, edit).keys(probe));
    }
    if alone {
        world.server.inject(
            Fault::new(
                Operation::DeleteObject,
                Effect::Answer {
                    status: 204,
                    body: String::new(),
                },
            )
            .keys(probe),
        );
    }
}

#[tokio::test]
async fn a_storage_that_ignores_conditions_is_refused_unless_allowed() {
    let world = world(10, 3).await;
    ignore_conditions(&world, true, true);
    let report = world.run(&[]).await;
    assert_eq!(
        report.summary.refusal.as_ref().map(|refusal| refusal.guard),
        Some("conditions_ignored"),
        "{report:?}"
    );
    assert_eq!(world.keys().len(), 13);

    // Allowed, or where one way honours conditions: each object is looked at before.
    for (together, alone) in [(true, true), (true, false), (false, true)] {
        let world = crate::world(10, 3).await;
        ignore_conditions(&world, together, alone);
        let allow = if together && alone { "true" } else { "false" };
        let report = world
            .run(&[
                (Setting::AllowUnconditional, allow),
                // Else objects are looked at before the plan is approved, too.
                (Setting::NotAReference, "public.images.name"),
            ])
            .await;
        assert_eq!(report.summary.counts.deleted, 3, "{report:?}");
        assert_eq!(world.server.count(Operation::HeadObject), 3);
    }
}

#[tokio::test]
async fn a_refused_probe_deletes_nothing() {
    let world = world(10, 3).await;
    world.server.inject(Fault::new(
        Operation::DeleteObjects,
        Effect::access_denied(),
    ));
    let report = world.run(&[]).await;
    assert!(
        failure(&report).starts_with("Storage") && failure(&report).contains("AccessDenied"),
        "{}",
        failure(&report)
    );
    assert_eq!(
        (world.keys().len(), report.summary.counts.deferred),
        (13, 3)
    );
}

#[tokio::test]
async fn a_bucket_that_keeps_nothing_is_refused_unless_allowed() {
    for versioning in [Versioning::Unversioned, Versioning::Suspended] {
        let world = world(10, 3).await;
        world.server.set_versioning(BUCKET, versioning);
        let report = world.run(&[]).await;
        assert_eq!(
            report.summary.refusal.as_ref().map(|refusal| refusal.guard),
            Some("unversioned")
        );
        assert_eq!((world.keys().len(), deletions(&world)), (13, 0));
        let report = world.run(&[(Setting::DryRun, "true")]).await;
        assert_eq!(report.summary.status, Status::DryRun);
        let report = world.run(&[(Setting::AllowUnversioned, "true")]).await;
        assert_eq!(report.summary.counts.deleted, 3);
    }
}

#[tokio::test]
async fn the_lower_clock_decides_and_clocks_apart_refuse() {
    for (minutes, refused) in [(6, true), (-6, true), (4, false), (-4, false)] {
        let world = world(10, 1).await;
        // Old enough by this machine's clock alone, by the later one alone, by both.
        for (key, age) in [
            ("x1.png", 24 * 60 - 2),
            ("x2.png", 24 * 60 + 2),
            ("x3.png", 24 * 60 + 6),
        ] {
            let at = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(age);
            world.server.put_at(BUCKET, key, key, at);
        }
        world
            .server
            .set_clock_skew(jiff::SignedDuration::from_mins(minutes));
        let report = world.run(&[]).await;
        if refused {
            assert_eq!(
                report.summary.refusal.as_ref().map(|refusal| refusal.guard),
                Some("clocks_apart")
            );
            assert_eq!(world.keys().len(), 14);
            continue;
        }
        let left: Vec<String> = world
            .keys()
            .into_iter()
            .filter(|key| key.starts_with('x'))
            .collect();
        let expected = if minutes < 0 {
            &["x1.png", "x2.png"][..]
        } else {
            &["x1.png"]
        };
        assert_eq!(left, expected, "{minutes} min: {report:?}");
    }
}

#[tokio::test]
async fn a_dry_run_writes_nothing_but_its_ledger_and_plans_what_the_sweep_does() {
    let world = world(10, 5).await;
    let dry = world.run(&[(Setting::DryRun, "true")]).await;
    assert_eq!(dry.summary.status, Status::DryRun);
    assert_eq!(dry.summary.counts.deferred, 5);
    let reads = [
        Operation::ListObjectsV2,
        Operation::GetBucketVersioning,
        Operation::HeadObject,
        Operation::ListMultipartUploads,
        Operation::ListParts,
    ];
    assert!(
        world
            .server
            .requests()
            .iter()
            .all(|request| reads.contains(&request.operation))
    );
    let lines = |report: &Report| {
        String::from_utf8(world.read_bytes(report, "plan.jsonl"))
            .expect("text")
            .lines()
            .skip(1)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let swept = world.run(&[]).await;
    assert_eq!(swept.summary.counts.deleted, 5);
    assert_eq!(lines(&dry), lines(&swept));
    assert_eq!(lines(&dry).len(), 5);
}

#[tokio::test]
async fn two_sweeps_at_once_do_no_harm() {
    let world = world(10, 40).await;
    // Those that share a ledger are held apart: tests/lock.rs.
    let ledger = tempfile::TempDir::new().expect("a folder");
    let elsewhere = ledger.path().display().to_string();
    let any = (Setting::MaxOrphanPercent, "100");
    let (here, there) = ([any], [any, (Setting::Report, elsewhere.as_str())]);
    let (one, two) = tokio::join!(world.run(&here), world.run(&there));
    assert_eq!(world.keys().len(), 10);
    let (one, two) = (one.summary.counts, two.summary.counts);
    assert_eq!(one.deleted + two.deleted, 40, "{one:?} {two:?}");
}

#[tokio::test]
async fn killed_anywhere_the_next_run_completes_the_work() {
    for (operation, nth) in [
        (Operation::GetBucketVersioning, 1),
        (Operation::ListObjectsV2, 1),
        (Operation::ListObjectsV2, 2),
        (Operation::DeleteObjects, 1),
        (Operation::DeleteObjects, 2),
        (Operation::DeleteObjects, 3),
    ] {
        let world = world(10, 0).await;
        for index in 0..1_200 {
            world.server.insert_listed(
                BUCKET,
                orphan(index),
                1,
                "0123456789abcdef0123456789abcdef",
                ago(48),
            );
        }
        let changes = [(Setting::MaxOrphanPercent, "100")];
        let killed = Arc::new(Notify::new());
        let kill = Arc::clone(&killed);
        world.server.on_request(operation, move |_, record| {
            if record.nth == nth {
                kill.notify_one();
            }
            async {}
        });
        tokio::select! {
            biased;
            () = killed.notified() => {}
            report = world.run(&changes) => assert_eq!(report.summary.status, Status::Completed),
        }
        world.server.heal();
        let report = world.run(&changes).await;
        assert_eq!(
            report.summary.status,
            Status::Completed,
            "{operation:?} {nth}: {report:?}"
        );
        assert_eq!(world.keys().len(), 10, "{operation:?} {nth}");
    }
}

#[tokio::test]
async fn each_guard_refuses_with_the_plan_written_and_nothing_deleted() {
    for (guard, statements, changes) in [
        ("no_references", "TRUNCATE images", &[][..]),
        (
            "nothing_matched",
            "UPDATE images SET name = 'x' || name",
            &[
                (Setting::MaxOrphanPercent, "100"),
                (Setting::MaxDanglingPercent, "100"),
            ],
        ),
        (
            "orphan_percent",
            "DELETE FROM images WHERE name > 'kept/00005'",
            &[],
        ),
        (
            "dangling_percent",
            "INSERT INTO images SELECT 'gone/' || n FROM generate_series(1, 31) n",
            &[],
        ),
        ("newer_orphans", "SELECT", &[]),
    ] {
        let world = world(30, 20).await;
        if guard == "newer_orphans" {
            for index in 0..20 {
                world.put(&orphan(index), 47);
            }
        }
        world.sql(statements).await;
        let report = world.run(changes).await;
        let refusal = report.summary.refusal.clone().expect("refused");
        assert_eq!(
            (refusal.guard, report.summary.status),
            (guard, Status::Refused),
            "{report:?}"
        );
        assert_eq!(refusal.examples.len(), 3, "{guard}");
        assert_eq!((world.keys().len(), deletions(&world)), (50, 0), "{guard}");
        assert!(world.has(&report, "plan.jsonl"));
    }
}

#[tokio::test]
async fn only_what_is_still_dangling_is_called_so() {
    let world = world(10, 0).await;
    world.name(&["row goes.png", "comes.png", "gone.png"]).await;
    let url = world.database.url().to_owned();
    world
        .server
        .on_request(Operation::ListObjectsV2, move |buckets, record| {
            let url = url.clone();
            async move {
                if record.nth == 1 {
                    let mut connection = PgConnection::connect(&url).await.expect("connected");
                    connection
                        .execute("DELETE FROM images WHERE name = 'row goes.png'")
                        .await
                        .expect("deleted");
                }
                let _ = buckets;
            }
        });
    // The object appears after the listing, before the look at it.
    world
        .server
        .on_request(Operation::HeadObject, |buckets, _| async move {
            buckets.put(BUCKET, "comes.png", "there now");
        });
    let report = world.run(&[]).await;
    assert_eq!(report.summary.counts.dangling, 1, "{report:?}");
    assert_eq!(world.read(&report, "dangling.jsonl")["key"], "gone.png");
}
