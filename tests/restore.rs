//! A run undone: exactly the delete markers that it made, over the wire.
#![cfg(feature = "demo")]

mod support;

use std::path::Path;
use std::sync::Arc;

use jiff::SignedDuration;
use orphan_sweeper::archive::Archive;
use orphan_sweeper::chain::chain;
use orphan_sweeper::key::{ObjectKey, Prefix};
use orphan_sweeper::local::s3::{Effect, Fault, Operation, Version, Versioning};
use orphan_sweeper::restore::{Restoration, Wish};
use orphan_sweeper::run::Report;
use orphan_sweeper::settings::{RawSettings, RestoreSettings, Setting};
use orphan_sweeper::stop::Stop;
use orphan_sweeper::summary::Status;
use orphan_sweeper::undo::{UndoError, undo};
use serde_json::json;
use support::program::{Environment, files};
use support::{BUCKET, World};
use tokio::sync::Notify;
use uuid::Uuid;

/// Ten referenced images and so many orphans, two days old.
async fn world(orphans: usize) -> World {
    let world = World::new().await;
    let names: Vec<String> = (0..10)
        .map(|index| format!("kept/{index:05}.png"))
        .collect();
    world.name(&names).await;
    for key in names.into_iter().chain((0..orphans).map(orphan)) {
        world.put(&key, 48);
    }
    world
}

fn orphan(index: usize) -> String {
    // What an encoding could make of a key.
    format!("left/+ {index:03}.png")
}

const ALL: [(Setting, &str); 2] = [
    (Setting::MaxOrphanPercent, "100"),
    // Else objects are looked at before the plan is approved, too.
    (Setting::NotAReference, "public.images.name"),
];

async fn swept(world: &World, deleted: u64) -> Report {
    let report = world.run(&ALL).await;
    assert_eq!(report.summary.counts.deleted, deleted, "{report:?}");
    report
}

async fn try_restore(world: &World, run_id: Uuid, wish: &Wish) -> Result<Restoration, UndoError> {
    let mut raw = RawSettings::default();
    raw.flag(Setting::Report, [world.ledger.path().display().to_string()]);
    let settings = RestoreSettings::new(raw, None).expect("settings");
    undo(&settings, &world.client(), run_id, wish, &Stop::never()).await
}

async fn restore(world: &World, run_id: Uuid, wish: &Wish) -> Restoration {
    let done = try_restore(world, run_id, wish).await.expect("restored");
    assert_eq!(done.settled(), done.planned, "{done:?}");
    done
}

/// Every version of every key, as text.
fn versions(world: &World, keys: usize) -> Vec<String> {
    (0..keys)
        .map(|index| format!("{:?}", world.server.versions(BUCKET, &orphan(index))))
        .collect()
}

/// Requests for single deletions, the run's question whether conditions are honoured left out.
fn removals(world: &World) -> usize {
    let asked = world.server.requests().into_iter();
    asked
        .filter(|request| request.operation == Operation::DeleteObject)
        .filter(|request| !request.keys.iter().any(|key| key.contains("probe")))
        .count()
}

#[tokio::test]
async fn a_run_is_undone_to_the_byte_and_once_more_does_no_harm() {
    let world = world(5).await;
    let before = (world.keys(), versions(&world, 5));
    let report = swept(&world, 5).await;
    assert_eq!(world.keys().len(), 10);
    let done = restore(&world, report.summary.run_id, &Wish::default()).await;
    assert_eq!(
        (done.status, done.restored, done.planned),
        (Status::Completed, 5, 5),
        "{done:?}"
    );
    assert_eq!(done.restored_bytes, report.summary.counts.deleted_bytes);
    assert_eq!((world.keys(), versions(&world, 5)), before);
    let asked = removals(&world);
    let done = restore(&world, report.summary.run_id, &Wish::default()).await;
    assert_eq!((done.restored, done.present), (0, 5), "{done:?}");
    assert_eq!((world.keys(), versions(&world, 5)), before);
    assert_eq!(
        removals(&world),
        asked,
        "nothing was asked of S3 that changes it"
    );
    let written = Path::new(&report.summary.report).join("restored");
    assert_eq!(files(&written).len(), 2);
}

#[tokio::test]
async fn what_stands_above_the_marker_is_left_alone_and_what_is_gone_is_lost() {
    let world = world(6).await;
    let report = swept(&world, 6).await;
    // Uploaded again; deleted once more by somebody; uploaded and deleted; the deleted version
    // destroyed; another version destroyed below which an older one stood.
    world.put(&orphan(0), 0);
    world.server.delete(BUCKET, &orphan(1));
    world
        .server
        .put_at(BUCKET, &orphan(2), "other", support::ago(0));
    world.server.delete(BUCKET, &orphan(2));
    let client = world.client();
    let [Version::Marker { .. }, Version::Object(object)] =
        &world.server.versions(BUCKET, &orphan(3))[..]
    else {
        panic!("a marker over an object")
    };
    let sent = client
        .delete_object()
        .bucket(BUCKET)
        .key(orphan(3))
        .version_id(object.version_id.to_string())
        .send();
    sent.await.expect("destroyed");
    // A marker that somebody else removed, and what was below it overwritten.
    let marker = world.server.versions(BUCKET, &orphan(4))[0]
        .id()
        .to_string();
    let sent = client
        .delete_object()
        .bucket(BUCKET)
        .key(orphan(4))
        .version_id(marker)
        .send();
    sent.await.expect("removed");
    world
        .server
        .put_at(BUCKET, &orphan(4), "other", support::ago(0));
    let before = versions(&world, 5);
    let done = restore(&world, report.summary.run_id, &Wish::default()).await;
    assert_eq!(
        (done.restored, done.newer, done.lost, done.present),
        (1, 4, 1, 0),
        "{done:?}"
    );
    assert_eq!(versions(&world, 5), before);
    assert!(world.keys().contains(&orphan(5)));
}

#[tokio::test]
async fn an_older_version_is_never_brought_up_in_place_of_the_deleted_one() {
    let world = world(0).await;
    world
        .server
        .put_at(BUCKET, &orphan(0), "an older picture", support::ago(90));
    world.put(&orphan(0), 48);
    let report = swept(&world, 1).await;
    let versions = world.server.versions(BUCKET, &orphan(0));
    let client = world.client();
    let sent = client
        .delete_object()
        .bucket(BUCKET)
        .key(orphan(0))
        .version_id(versions[1].id().to_string())
        .send();
    sent.await.expect("destroyed");
    let done = restore(&world, report.summary.run_id, &Wish::default()).await;
    assert_eq!((done.restored, done.lost), (0, 1), "{done:?}");
    assert!(!world.keys().contains(&orphan(0)));
}

/// The next key of the listing begins like this one, and holds the same bytes.
#[tokio::test]
async fn another_keys_version_is_not_taken_for_the_deleted_one() {
    let world = world(0).await;
    for key in [orphan(0), format!("{}.png", orphan(0))] {
        world
            .server
            .put_at(BUCKET, &key, "the same", support::ago(48));
    }
    world.name(&[format!("{}.png", orphan(0))]).await;
    let report = swept(&world, 1).await;
    let below = world.server.versions(BUCKET, &orphan(0))[1].id();
    let client = world.client();
    let sent = client
        .delete_object()
        .bucket(BUCKET)
        .key(orphan(0))
        .version_id(below.to_string())
        .send();
    sent.await.expect("destroyed");
    let done = restore(&world, report.summary.run_id, &Wish::default()).await;
    assert_eq!((done.restored, done.lost), (0, 1), "{done:?}");
    assert_eq!(world.server.versions(BUCKET, &orphan(0)).len(), 1);
}

#[tokio::test]
async fn of_a_run_without_orphans_all_is_nothing() {
    let world = world(0).await;
    let report = swept(&world, 0).await;
    let done = restore(&world, report.summary.run_id, &Wish::default()).await;
    assert_eq!(done.planned, 0, "{done:?}");
}

#[tokio::test]
async fn keys_and_folders_can_be_chosen() {
    let world = world(4).await;
    world.put("left/deep/x\n.png", 48);
    world.put("left2/y.png", 48);
    let report = swept(&world, 6).await;
    let key = |key: &str| Wish {
        keys: [ObjectKey::new(key)].into(),
        ..Wish::default()
    };
    let done = restore(&world, report.summary.run_id, &key(&orphan(2))).await;
    assert_eq!((done.planned, done.restored), (1, 1), "{done:?}");
    let folder = Wish {
        prefix: Prefix::folder("left/deep"),
        ..Wish::default()
    };
    let done = restore(&world, report.summary.run_id, &folder).await;
    assert_eq!((done.planned, done.restored), (1, 1), "{done:?}");
    let folder = Wish {
        prefix: Prefix::folder("left"),
        ..Wish::default()
    };
    let done = restore(&world, report.summary.run_id, &folder).await;
    assert_eq!(
        (done.planned, done.restored, done.present),
        (5, 3, 2),
        "{done:?}"
    );
    assert!(!world.keys().contains(&"left2/y.png".to_owned()));
    let error = try_restore(&world, report.summary.run_id, &key("kept/00000.png")).await;
    let error = error.expect_err("not in the plan");
    assert!(matches!(error, UndoError::Config(_)), "{error:?}");
    assert!(
        error
            .to_string()
            .contains("kept/00000.png is not in the plan"),
        "{error}"
    );
}

#[tokio::test]
async fn a_dry_run_tells_and_changes_nothing() {
    let world = world(3).await;
    let report = swept(&world, 3).await;
    let before = versions(&world, 3);
    let wish = Wish {
        dry_run: true,
        ..Wish::default()
    };
    let done = restore(&world, report.summary.run_id, &wish).await;
    assert_eq!(
        (done.status, done.restored, done.deferred),
        (Status::DryRun, 0, 3),
        "{done:?}"
    );
    assert_eq!((removals(&world), versions(&world, 3)), (0, before));
    assert!(!world.has(&report, "restored"));
}

#[tokio::test]
async fn what_was_not_deleted_is_untouched() {
    let world = world(3).await;
    let planned = world
        .run(&[
            (Setting::MaxOrphanPercent, "100"),
            (Setting::DryRun, "true"),
        ])
        .await;
    // Somebody deletes one meanwhile.
    world.server.delete(BUCKET, &orphan(0));
    world.server.clear_requests();
    let done = restore(&world, planned.summary.run_id, &Wish::default()).await;
    assert_eq!((done.untouched, done.planned), (3, 3), "{done:?}");
    assert_eq!(world.server.count(Operation::ListObjectVersions), 0);
    let partly = world
        .run(&[
            (Setting::MaxOrphanPercent, "100"),
            (Setting::MaxDelete, "1"),
        ])
        .await;
    assert_eq!(partly.summary.counts.deleted, 1);
    let done = restore(&world, partly.summary.run_id, &Wish::default()).await;
    assert_eq!((done.restored, done.untouched), (1, 1), "{done:?}");
}

/// Kills a run when its first batch was carried out and its answer lost: the outcome is never
/// written down. Returns the run's id.
async fn killed(world: &World) -> Uuid {
    let kill = Arc::new(Notify::new());
    let killed = Arc::clone(&kill);
    world
        .server
        .inject(Fault::new(Operation::DeleteObjects, Effect::CloseAfter).nth(2));
    world.server.on_request(Operation::HeadObject, move |_, _| {
        let kill = Arc::clone(&kill);
        async move {
            kill.notify_one();
            std::future::pending::<()>().await;
        }
    });
    tokio::select! {
        () = killed.notified() => {}
        report = world.run(&ALL) => panic!("it was not killed: {report:?}"),
    }
    world.server.heal();
    let mut runs = std::fs::read_dir(world.ledger.path().join("runs")).expect("runs");
    let run = runs.next().expect("a run").expect("readable").file_name();
    assert!(runs.next().is_none());
    run.to_string_lossy().parse().expect("a run's id")
}

#[tokio::test]
async fn a_batch_whose_outcome_was_never_written_is_undone_too() {
    let world = world(4).await;
    let before = (world.keys(), versions(&world, 4));
    let run_id = killed(&world).await;
    assert_eq!(world.keys().len(), 10);
    // It may as well go on.
    let told = "it was killed, or goes on";
    let looked = ["restore", &run_id.to_string(), "--dry-run"];
    let ended = Environment::of(&world).cli(&looked).await;
    assert!(ended.stderr.contains(told), "{ended:?}");
    let done = restore(&world, run_id, &Wish::default()).await;
    assert_eq!(
        (done.status, done.restored),
        (Status::Completed, 4),
        "{done:?}"
    );
    assert_eq!((world.keys(), versions(&world, 4)), before);
    let done = restore(&world, run_id, &Wish::default()).await;
    assert_eq!((done.restored, done.untouched), (0, 4), "{done:?}");
}

/// S3 may answer with less than was asked for.
#[tokio::test]
async fn a_short_page_of_versions_hides_none() {
    let world = world(3).await;
    world.server.set_versions_a_page(1);
    let before = (world.keys(), versions(&world, 3));
    let run_id = killed(&world).await;
    let done = restore(&world, run_id, &Wish::default()).await;
    counted(&done, &[("restored", 3)]);
    assert_eq!((world.keys(), versions(&world, 3)), before);
    // So it is behind an answer that was lost.
    world
        .server
        .inject(Fault::new(Operation::DeleteObjects, Effect::CloseAfter).nth(2));
    world.server.clear_requests();
    let report = world.run(&ALL).await;
    assert_eq!(report.summary.counts.deleted, 3, "{report:?}");
    assert_eq!(bytes(&report)[2], report.summary.counts.deleted_bytes);
}

#[tokio::test]
async fn a_run_that_ended_does_not_go_on() {
    let world = world(2).await;
    let run_id = world.run(&ALL).await.summary.run_id.to_string();
    let ended = Environment::of(&world)
        .cli(&["restore", &run_id, "--dry-run"])
        .await;
    assert!(!ended.stderr.contains("goes on"), "{ended:?}");
}

/// Takes the newest version away: a marker.
async fn undelete(world: &World, index: usize) {
    let marker = world.server.versions(BUCKET, &orphan(index))[0]
        .id()
        .to_string();
    let sent = world
        .client()
        .delete_object()
        .bucket(BUCKET)
        .key(orphan(index))
        .version_id(marker)
        .send();
    sent.await.expect("removed");
}

#[tokio::test]
async fn without_an_outcome_only_a_marker_of_the_runs_time_over_the_listed_version_is_undone() {
    let world = world(5).await;
    let run_id = killed(&world).await;
    // Deleted by somebody else, an hour after and an hour before the run.
    undelete(&world, 0).await;
    world.server.set_clock_skew(SignedDuration::from_hours(1));
    world.server.delete(BUCKET, &orphan(0));
    undelete(&world, 1).await;
    world.server.set_clock_skew(SignedDuration::from_hours(-1));
    world.server.delete(BUCKET, &orphan(1));
    world.server.set_clock_skew(SignedDuration::ZERO);
    // Overwritten and deleted by somebody else at the same time.
    world
        .server
        .put_at(BUCKET, &orphan(2), "other", support::ago(0));
    world.server.delete(BUCKET, &orphan(2));
    // Deleted twice.
    world.server.delete(BUCKET, &orphan(3));
    let before = versions(&world, 4);
    let done = restore(&world, run_id, &Wish::default()).await;
    assert_eq!((done.restored, done.untouched), (1, 4), "{done:?}");
    assert_eq!(versions(&world, 4), before);
    assert!(world.keys().contains(&orphan(4)));
}

#[tokio::test]
async fn a_run_whose_ledger_broke_is_undone_by_its_plan() {
    let world = world(3).await;
    let folder = world.ledger.path().to_owned();
    world
        .server
        .on_request(Operation::DeleteObjects, move |_, record| {
            if record.nth == 1 {
                for run in std::fs::read_dir(folder.join("runs")).expect("runs") {
                    let run = run.expect("readable").path();
                    std::fs::write(run.join("outcomes"), b"in the way").expect("written");
                }
            }
            async {}
        });
    let report = world.run(&ALL).await;
    assert_eq!(
        (report.summary.status, report.summary.counts.deleted),
        (Status::Failed, 3)
    );
    std::fs::remove_file(Path::new(&report.summary.report).join("outcomes")).expect("removed");
    let done = restore(&world, report.summary.run_id, &Wish::default()).await;
    assert_eq!(done.restored, 3, "{done:?}");
}

/// The summary says that more was decided than outcomes are left.
#[tokio::test]
async fn a_run_whose_outcomes_were_lost_is_undone_by_its_plan() {
    let world = world(5).await;
    let report = swept(&world, 5).await;
    let folder = Path::new(&report.summary.report);
    // As if it had deleted for an hour.
    let ended = std::time::SystemTime::now() + std::time::Duration::from_hours(1);
    let summary = std::fs::File::options()
        .write(true)
        .open(folder.join("summary.json"));
    summary
        .expect("a summary")
        .set_modified(ended)
        .expect("set");
    world.server.set_clock_skew(SignedDuration::from_mins(55));
    undelete(&world, 0).await;
    world.server.delete(BUCKET, &orphan(0));
    world.server.set_clock_skew(SignedDuration::from_hours(2));
    undelete(&world, 1).await;
    world.server.delete(BUCKET, &orphan(1));
    world.server.set_clock_skew(SignedDuration::ZERO);
    std::fs::remove_dir_all(folder.join("outcomes")).expect("removed");
    let done = restore(&world, report.summary.run_id, &Wish::default()).await;
    // The one that was deleted after the run is not its.
    assert_eq!((done.restored, done.untouched), (4, 1), "{done:?}");
    assert!(!world.keys().contains(&orphan(1)));
}

/// The answer was lost, and nobody could look: the run counts the orphans as unknown.
#[tokio::test]
async fn what_nobody_could_tell_is_undone_by_its_versions() {
    let world = world(3).await;
    world
        .server
        .inject(Fault::new(Operation::DeleteObjects, Effect::CloseAfter).nth(2));
    world
        .server
        .inject(Fault::new(Operation::HeadObject, Effect::access_denied()));
    let report = world.run(&ALL).await;
    assert_eq!(report.summary.counts.unknown, 3, "{report:?}");
    world.server.heal();
    let done = restore(&world, report.summary.run_id, &Wish::default()).await;
    assert_eq!(
        (done.status, done.restored),
        (Status::Completed, 3),
        "{done:?}"
    );
    assert_eq!(world.keys().len(), 13);
}

/// S3 failed at it, and deleted it later all the same.
#[tokio::test]
async fn what_failed_and_was_deleted_later_is_undone() {
    for (code, restored) in [("InternalError", 1), ("AccessDenied", 0)] {
        let world = world(2).await;
        world
            .server
            .inject(Fault::new(Operation::DeleteObjects, Effect::KeyError(code)).key(orphan(0)));
        let report = world.run(&ALL).await;
        let counts = report.summary.counts;
        assert_eq!((counts.deleted, counts.failed), (1, 1), "{report:?}");
        world.server.delete(BUCKET, &orphan(0));
        let done = restore(&world, report.summary.run_id, &Wish::default()).await;
        assert_eq!(
            (done.restored, done.untouched),
            (1 + restored, 1 - restored),
            "{done:?}"
        );
        assert_eq!(world.keys().contains(&orphan(0)), restored == 1);
    }
}

/// A key with more versions than a page of them holds, beside one that begins like it.
#[tokio::test]
async fn a_marker_deep_below_is_found() {
    let world = world(1).await;
    world.put(&format!("{}.png", orphan(0)), 48);
    let report = swept(&world, 2).await;
    for _ in 0..1_001 {
        world.put(&orphan(0), 0);
    }
    let done = restore(&world, report.summary.run_id, &Wish::default()).await;
    assert_eq!((done.restored, done.newer), (1, 1), "{done:?}");
    // The same bytes stand there, and the marker does not.
    let versions = world.server.versions(BUCKET, &orphan(0));
    let marker = versions[versions.len() - 2].id().to_string();
    let client = world.client();
    let sent = client
        .delete_object()
        .bucket(BUCKET)
        .key(orphan(0))
        .version_id(marker)
        .send();
    sent.await.expect("removed");
    let done = restore(&world, report.summary.run_id, &Wish::default()).await;
    assert_eq!((done.present, done.newer), (2, 0), "{done:?}");
}

#[tokio::test]
async fn a_refused_removal_is_counted_and_named() {
    let world = world(3).await;
    let report = swept(&world, 3).await;
    world
        .server
        .inject(Fault::new(Operation::DeleteObject, Effect::access_denied()).key(orphan(1)));
    let done = restore(&world, report.summary.run_id, &Wish::default()).await;
    assert_eq!(
        (done.status, done.restored, done.failed),
        (Status::Incomplete, 2, 1),
        "{done:?}"
    );
    assert_eq!(done.errors[0].code, "AccessDenied");
    assert_eq!(done.errors[0].key, Some(ObjectKey::new(orphan(1))));
    // An answer that lies: the marker is still there.
    world.server.heal();
    let lie = Effect::Answer {
        status: 204,
        body: String::new(),
    };
    world
        .server
        .inject(Fault::new(Operation::DeleteObject, lie));
    let done = restore(&world, report.summary.run_id, &Wish::default()).await;
    assert_eq!((done.present, done.failed), (2, 1), "{done:?}");
    assert_eq!(done.errors[0].code, "NotRemoved");
    // A lost answer: it may be asked again, and counts once.
    world.server.heal();
    world
        .server
        .inject(Fault::new(Operation::DeleteObject, Effect::CloseAfter).first(1));
    let done = restore(&world, report.summary.run_id, &Wish::default()).await;
    assert_eq!((done.present, done.restored), (2, 1), "{done:?}");
}

#[tokio::test]
async fn a_stop_leaves_the_rest_for_another_time() {
    let world = world(3).await;
    let report = swept(&world, 3).await;
    let mut raw = RawSettings::default();
    raw.flag(Setting::Report, [world.ledger.path().display().to_string()]);
    let settings = RestoreSettings::new(raw, None).expect("settings");
    let stop = Stop::never();
    stop.interrupt();
    let done = undo(
        &settings,
        &world.client(),
        report.summary.run_id,
        &Wish::default(),
        &stop,
    )
    .await
    .expect("stopped");
    assert_eq!(
        (done.status, done.deferred, done.planned),
        (Status::Incomplete, 3, 3)
    );
    assert_eq!(removals(&world), 0);
}

#[tokio::test]
async fn where_versions_are_not_kept_nothing_is_touched() {
    let world = world(2).await;
    world.server.set_versioning(BUCKET, Versioning::Unversioned);
    let changes = [
        (Setting::MaxOrphanPercent, "100"),
        (Setting::AllowUnversioned, "true"),
    ];
    let report = world.run(&changes).await;
    assert_eq!(report.summary.counts.deleted, 2, "{report:?}");
    let error = try_restore(&world, report.summary.run_id, &Wish::default())
        .await
        .expect_err("final");
    assert!(
        chain(&error).contains("pictures does not keep versions"),
        "{error}"
    );
}

const FINAL: [(Setting, &str); 3] = [ALL[0], ALL[1], (Setting::AllowUnversioned, "true")];

fn bytes(report: &Report) -> [u64; 4] {
    let told = support::read_back(&report.summary);
    ["deleted", "freed", "recoverable", "kept"].map(|what| {
        let bytes = &told[format!("{what}_bytes")];
        bytes.as_u64().unwrap_or_else(|| panic!("{what}: {told}"))
    })
}

fn counted(done: &Restoration, words: &[(&str, u64)]) {
    let told = serde_json::to_value(done).expect("JSON");
    for word in [
        "restored",
        "present",
        "newer",
        "kept",
        "lost",
        "untouched",
        "failed",
        "deferred",
    ] {
        let wanted = words.iter().find(|(wanted, _)| *wanted == word);
        assert_eq!(
            told[word],
            wanted.map_or(0, |(_, count)| *count),
            "{word}: {told}"
        );
    }
}

/// Versioning was enabled, and is suspended now. What was written before stays below the marker
/// `null`; what was written since is destroyed. The id `null` may be anything by now, also an
/// object that was uploaded meanwhile: it is never removed.
#[tokio::test]
async fn where_versioning_is_suspended_what_is_kept_is_told_from_what_is_lost() {
    let world = world(2).await;
    world.server.set_versioning(BUCKET, Versioning::Suspended);
    world.put(&orphan(2), 48);
    world.put(&orphan(3), 48);
    let report = world.run(&FINAL).await;
    assert_eq!(report.summary.counts.deleted, 4, "{report:?}");
    assert_eq!(bytes(&report), [56, 28, 0, 28]);
    let page = Environment::of(&world)
        .cli(&["report", "--format", "html"])
        .await;
    assert!(
        page.stdout.contains("28 B lay below delete markers"),
        "{page:?}"
    );
    let run_id = report.summary.run_id;
    let before = versions(&world, 4);
    let alone = removals(&world);
    let dry_run = Wish {
        dry_run: true,
        ..Wish::default()
    };
    let done = restore(&world, run_id, &dry_run).await;
    counted(&done, &[("kept", 2), ("lost", 2)]);
    assert_eq!(done.status, Status::DryRun);
    let done = restore(&world, run_id, &Wish::default()).await;
    counted(&done, &[("kept", 2), ("lost", 2)]);
    // Something is left to do, by hand.
    assert_eq!(done.status, Status::Incomplete);
    let codes: Vec<_> = done
        .errors
        .iter()
        .map(|problem| problem.code.as_str())
        .collect();
    assert_eq!(codes, ["Kept", "Kept"]);
    assert!(
        done.errors[0].message.contains("copy the object back"),
        "{done:?}"
    );
    assert_eq!((versions(&world, 4), removals(&world)), (before, alone));

    // Uploads that come meanwhile.
    world
        .server
        .put_at(BUCKET, &orphan(0), "other", support::ago(0));
    world.put(&orphan(2), 0);
    let before = versions(&world, 4);
    let done = restore(&world, run_id, &Wish::default()).await;
    counted(
        &done,
        &[("kept", 1), ("newer", 1), ("present", 1), ("lost", 1)],
    );
    assert_eq!((versions(&world, 4), removals(&world)), (before, alone));
    // And one that is deleted again, below which another marker `null` is what was deleted.
    world.server.delete(BUCKET, &orphan(0));
    // The version is not right below what stands there now, but it stands there.
    world.server.set_versioning(BUCKET, Versioning::Enabled);
    world.server.delete(BUCKET, &orphan(1));
    let done = restore(&world, run_id, &Wish::default()).await;
    counted(
        &done,
        &[("kept", 1), ("newer", 1), ("present", 1), ("lost", 1)],
    );
    assert_eq!(removals(&world), alone);
}

#[tokio::test]
async fn people_are_told_what_is_kept_and_that_it_is_theirs_to_copy_back() {
    let world = world(2).await;
    world.server.set_versioning(BUCKET, Versioning::Suspended);
    let environment = Environment::of(&world).with(&[
        ("SWEEPER_ALLOW_UNVERSIONED", "true"),
        ("SWEEPER_ALLOW_UNREFERENCED_FOLDER", "left/"),
    ]);
    let swept = environment.cli(&["sweep", "--output", "text"]).await;
    assert_eq!(swept.code, Some(0), "{swept:?}");
    let line = |printed: &str, word: &str| -> Option<String> {
        let line = printed.lines().find(|line| line.trim().starts_with(word));
        line.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    assert_eq!(
        line(&swept.stdout, "freed now").as_deref(),
        Some("freed now 0 B")
    );
    let kept = line(&swept.stdout, "kept").expect("a line");
    assert!(kept.starts_with("kept 28 B below"), "{kept}");
    assert_eq!(line(&swept.stdout, "the rest"), None);
    let run_id = line(&swept.stdout, "run").expect("its id");
    let run_id = run_id.trim_start_matches("run ");
    let restored = environment
        .cli(&["restore", run_id, "--output", "text"])
        .await;
    assert_eq!(restored.code, Some(4), "{restored:?}");
    let kept = line(&restored.stdout, "kept").expect("a line");
    assert!(kept.starts_with("kept 2 below"), "{kept}");
    assert!(
        restored.stdout.contains("copy the object back"),
        "{restored:?}"
    );
    // What nobody can tell has a line of its own.
    world.put(&orphan(2), 48);
    world.server.inject(Fault::new(
        Operation::ListObjectVersions,
        Effect::access_denied(),
    ));
    let swept = environment.cli(&["sweep", "--output", "text"]).await;
    let unclear = line(&swept.stdout, "the rest").expect("a line");
    assert!(
        unclear.starts_with("the rest 14 B current again, or nobody"),
        "{unclear}"
    );
}

/// The rights to look at versions are not everybody's.
#[tokio::test]
async fn bytes_of_which_nobody_can_tell_are_neither_free_nor_kept() {
    let world = world(2).await;
    world.server.set_versioning(BUCKET, Versioning::Suspended);
    world.server.inject(Fault::new(
        Operation::ListObjectVersions,
        Effect::access_denied(),
    ));
    let report = world.run(&FINAL).await;
    assert_eq!(report.summary.status, Status::Completed, "{report:?}");
    assert_eq!(bytes(&report), [28, 0, 0, 0]);
}

/// Lets the storage name no marker in its answer to a batch.
fn hide_markers(world: &World) {
    let edit = |body: String| {
        let mut parts = body.split("<DeleteMarker>");
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |kept, part| {
            let (_, rest) = part
                .split_once("</DeleteMarkerVersionId>")
                .expect("a marker's id");
            kept + rest
        })
    };
    world.server.inject(Fault::new(
        Operation::DeleteObjects,
        Effect::edit_body(edit),
    ));
}

/// Some that speak S3's protocol keep versions and do not name the marker in their answer.
#[tokio::test]
async fn nothing_is_called_lost_without_a_look_although_no_marker_was_named() {
    for versioning in [Versioning::Enabled, Versioning::Suspended] {
        let world = world(3).await;
        world.server.set_versioning(BUCKET, versioning);
        hide_markers(&world);
        let report = world.run(&FINAL).await;
        assert_eq!(report.summary.counts.deleted, 3, "{report:?}");
        assert_eq!(bytes(&report), [42, 0, 0, 42]);
        let outcomes = world.read(&report, "outcomes/000000.json");
        assert!(outcomes["outcomes"][0]["marker"].is_null(), "{outcomes}");
        // A marker may stand there that is not the run's.
        for _ in 0..2 {
            let done = restore(&world, report.summary.run_id, &Wish::default()).await;
            counted(&done, &[("kept", 3)]);
        }
    }
    // What is not there any more is lost; what another deleted is another's.
    let world = world(3).await;
    hide_markers(&world);
    let report = world.run(&FINAL).await;
    let remove = async |index: usize, nth: usize| {
        let version = world.server.versions(BUCKET, &orphan(index))[nth].id();
        let client = world.client();
        let sent = client
            .delete_object()
            .bucket(BUCKET)
            .key(orphan(index))
            .version_id(version.to_string());
        sent.send().await.expect("removed");
    };
    remove(0, 1).await;
    remove(1, 0).await;
    remove(1, 0).await;
    remove(2, 0).await;
    world.server.set_clock_skew(SignedDuration::from_hours(1));
    world.server.delete(BUCKET, &orphan(2));
    world.server.set_clock_skew(SignedDuration::ZERO);
    let done = restore(&world, report.summary.run_id, &Wish::default()).await;
    counted(&done, &[("lost", 2), ("kept", 1)]);
}

#[tokio::test]
async fn what_was_deleted_for_good_and_uploaded_again_is_another_matter() {
    let world = world(3).await;
    world.server.set_versioning(BUCKET, Versioning::Unversioned);
    let report = world.run(&FINAL).await;
    assert_eq!(report.summary.counts.deleted, 3, "{report:?}");
    world.server.set_versioning(BUCKET, Versioning::Enabled);
    for index in 0..3 {
        world.put(&orphan(index), 48);
    }
    for index in 0..2 {
        world.server.delete(BUCKET, &orphan(index));
    }
    let done = restore(&world, report.summary.run_id, &Wish::default()).await;
    counted(&done, &[("kept", 2), ("present", 1)]);
    assert!(!world.keys().contains(&orphan(0)));
}

#[tokio::test]
async fn a_ledger_in_a_bucket_is_read_too() {
    let world = world(3).await;
    world.server.create_bucket("ledgers");
    let report = world
        .run_for(&[
            (Setting::MaxOrphanPercent, "100"),
            (Setting::Report, "s3://ledgers/sweeper"),
        ])
        .await;
    assert_eq!(report.summary.counts.deleted, 3, "{report:?}");
    let environment = Environment::bare(&world).with(&[("SWEEPER_REPORT", "s3://ledgers/sweeper")]);
    let ended = environment
        .cli(&["restore", &report.summary.run_id.to_string()])
        .await;
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (Some(0), ""),
        "{ended:?}"
    );
    assert_eq!(ended.json()["restored"], 3);
    assert_eq!(world.keys().len(), 13);
    let restored = format!("sweeper/runs/{}/restored/", report.summary.run_id);
    assert!(
        world
            .server
            .keys("ledgers")
            .iter()
            .any(|key| key.starts_with(&restored))
    );
}

#[tokio::test]
async fn the_command_line_says_what_became_of_it() {
    let world = world(3).await;
    let report = swept(&world, 3).await;
    let run_id = report.summary.run_id.to_string();
    let environment = || {
        let ledger = world.ledger.path().display().to_string();
        Environment::bare(&world).with(&[("SWEEPER_REPORT", &ledger)])
    };
    let ended = environment().cli(&["restore", &run_id, "--dry-run"]).await;
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (Some(0), ""),
        "{ended:?}"
    );
    let printed = ended.json();
    assert_eq!(
        (&printed["status"], &printed["deferred"]),
        (&json!("dry_run"), &json!(3))
    );
    // The environment's word for a dry run holds for every command.
    let cautious = environment().with(&[("SWEEPER_DRY_RUN", "true")]);
    assert_eq!(
        cautious.cli(&["restore", &run_id]).await.json()["restored"],
        0
    );
    let ended = environment()
        .cli(&["restore", &run_id, "--key", &orphan(1), "--output", "text"])
        .await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let words: Vec<&str> = ended.stdout.split_whitespace().collect();
    assert!(
        words.windows(2).any(|pair| pair == ["restored", "1"]),
        "{ended:?}"
    );
    assert!(
        ended.stdout.contains("the next run deletes it"),
        "{ended:?}"
    );

    world
        .server
        .inject(Fault::new(Operation::DeleteObject, Effect::access_denied()));
    let ended = environment().cli(&["restore", &run_id]).await;
    assert_eq!(
        (ended.code, &ended.json()["failed"]),
        (Some(4), &json!(2)),
        "{ended:?}"
    );
    world.server.heal();
}

#[tokio::test]
async fn bad_input_is_refused_in_one_line_and_restores_nothing() {
    let world = world(3).await;
    let report = swept(&world, 3).await;
    let run_id = report.summary.run_id.to_string();
    let environment = || {
        let ledger = world.ledger.path().display().to_string();
        Environment::bare(&world).with(&[("SWEEPER_REPORT", &ledger)])
    };
    let other = Uuid::now_v7().to_string();
    world.server.clear_requests();
    for (given, bucket, expected) in [
        (&[other.as_str()][..], "", "RUN_ID: there is no"),
        (
            &[&run_id, "--bucket", "paintings"],
            "",
            "--bucket: \"paintings\" is not the bucket of that run",
        ),
        (
            &[&run_id],
            "paintings",
            "SWEEPER_BUCKET: \"paintings\" is not the bucket",
        ),
        (
            &[&run_id, "--prefix", "nowhere"],
            "",
            "--prefix: no key of that run's plan lies in nowhere/",
        ),
        (
            &[&run_id, "--key", "nothing"],
            "",
            "--key: nothing is not in the plan",
        ),
        (&[&run_id, "--concurrency", "0"], "", "--concurrency: "),
        (&[&run_id, "--report", "s3:/x"], "", "--report: "),
    ] {
        let environment = environment().with(&[("SWEEPER_BUCKET", bucket)]);
        let ended = environment.cli(&[&["restore"], given].concat()).await;
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (Some(2), ""),
            "{ended:?}"
        );
        assert!(ended.stderr.contains(expected), "{expected}: {ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    }
    assert_eq!(world.server.requests(), []);
    // Another run's manifest, or a torn one, restores nothing.
    let plan = Path::new(&report.summary.report).join("plan.jsonl");
    let text = std::fs::read_to_string(&plan).expect("a plan");
    let elsewhere = world.ledger.path().join("runs").join(&other);
    std::fs::create_dir(&elsewhere).expect("a folder");
    std::fs::write(elsewhere.join("plan.jsonl"), &text).expect("written");
    let ended = environment().cli(&["restore", &other]).await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("it is another run's"), "{ended:?}");
    std::fs::write(&plan, &text[..text.len() - 20]).expect("written");
    let ended = environment().cli(&["restore", &run_id]).await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("it breaks off"), "{ended:?}");
}

#[tokio::test]
async fn outcomes_that_cannot_be_read_restore_nothing() {
    let world = world(3).await;
    let report = swept(&world, 3).await;
    let batch = Path::new(&report.summary.report).join("outcomes/000000.json");
    let text = std::fs::read_to_string(&batch).expect("outcomes");
    std::fs::write(&batch, &text[..text.len() / 2]).expect("written");
    let error = Archive::new(&world.settings(&[]).report, &world.client())
        .past(report.summary.run_id)
        .await
        .expect_err("torn");
    assert!(
        chain(&error).contains("000000.json could not be read"),
        "{error}"
    );
    let error = try_restore(&world, report.summary.run_id, &Wish::default())
        .await
        .expect_err("torn");
    assert!(matches!(error, UndoError::Archive(_)));
    assert_eq!(world.keys().len(), 10);
}
