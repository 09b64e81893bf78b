//! Incomplete multipart uploads: found in every run, aborted where that is wished.
#![cfg(feature = "demo")]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::Timestamp;
use orphan_sweeper::hands::{CheckError, FreshCheck, LookError};
use orphan_sweeper::key::{ObjectKey, Prefix};
use orphan_sweeper::local::s3::{Effect, Fault, Operation};
use orphan_sweeper::merge::Criteria;
use orphan_sweeper::run::Report;
use orphan_sweeper::scope::Scope;
use orphan_sweeper::settings::Setting;
use orphan_sweeper::summary::{Status, UploadCounts};
use orphan_sweeper::uploads::{self, AbortUpload, ListUploads, Upload, UploadPage};
use serde_json::json;
use support::program::Environment;
use support::{BUCKET, World, ago};

/// Two referenced images and an orphan; beside them three old uploads in scope, a young one,
/// and three that are not the run's.
async fn world() -> World {
    let world = World::new().await;
    world.put_named(&["images/a.png", "images/b.png"], 48).await;
    world.put("images/left.png", 48);
    for (key, age, parts) in [
        ("images/old +%.png", 48, &[5, 6][..]),
        ("images/old +%.png", 30, &[]),
        ("images/older\n.jpg", 90, &[7]),
        ("images/young.png", 1, &[100]),
        ("images/dump.sql", 90, &[100]),
        ("images2/x.png", 90, &[100]),
        ("x.png", 90, &[100]),
    ] {
        let id = world.server.begin_upload_at(BUCKET, key, ago(age));
        for part in parts {
            world.server.add_part(BUCKET, &id, *part);
        }
    }
    world
}

const IMAGES: (Setting, &str) = (Setting::Prefix, "images");
const ABORT: (Setting, &str) = (Setting::AbortUploads, "true");

fn counts(report: &Report) -> UploadCounts {
    report.summary.more.uploads.expect("listed")
}

const FOUND: UploadCounts = UploadCounts {
    found: 4,
    old: 3,
    measured: 3,
    bytes: 18,
    named: 0,
    aborted: 0,
    gone: 0,
    failed: 0,
};

#[tokio::test]
async fn they_are_found_in_every_run_and_left_alone() {
    let world = world().await;
    for changes in [
        &[IMAGES][..],
        &[IMAGES],
        &[IMAGES, (Setting::DryRun, "true")],
        &[IMAGES, (Setting::DryRun, "true"), ABORT],
    ] {
        let report = world.run(changes).await;
        assert_eq!(counts(&report), FOUND, "{report:?}");
        assert_eq!(world.server.uploads(BUCKET).len(), 7);
    }
    assert_eq!(world.server.count(Operation::AbortMultipartUpload), 0);
}

#[tokio::test]
async fn the_old_ones_in_scope_are_aborted_on_wish() {
    let world = world().await;
    let report = world.run(&[IMAGES, ABORT]).await;
    assert_eq!(report.summary.status, Status::Completed, "{report:?}");
    assert_eq!(
        counts(&report),
        UploadCounts {
            aborted: 3,
            ..FOUND
        }
    );
    let left: Vec<String> = world
        .server
        .uploads(BUCKET)
        .into_iter()
        .map(|upload| upload.key)
        .collect();
    assert_eq!(
        left,
        [
            "images/dump.sql",
            "images/young.png",
            "images2/x.png",
            "x.png"
        ]
    );
    // With no orphan left, too; and once more does no harm.
    let _id = world
        .server
        .begin_upload_at(BUCKET, "images/late.png", ago(30));
    for aborted in [1, 0] {
        let report = world.run(&[IMAGES, ABORT]).await;
        assert_eq!(counts(&report).aborted, aborted, "{report:?}");
    }
}

#[tokio::test]
async fn one_whose_key_a_row_names_is_left_alone() {
    let world = world().await;
    world.name(&["images/older\n.jpg"]).await;
    // What the row names dangles, which is not what this is about.
    let report = world.run(&[IMAGES, ABORT]).await;
    assert_eq!(report.summary.status, Status::Completed, "{report:?}");
    assert_eq!(
        counts(&report),
        UploadCounts {
            named: 1,
            aborted: 2,
            ..FOUND
        }
    );
    let named = |upload: &str| upload == "images/older\n.jpg";
    let left = world.server.uploads(BUCKET);
    assert!(left.iter().any(|upload| named(&upload.key)));
    let text = Environment::of(&world)
        .with(&[("SWEEPER_ABORT_UPLOADS", "true")])
        .cli(&["sweep", "--prefix", "images", "--output", "text"])
        .await;
    let words = "1 of them older than the cutoff with 7 B; 1 left alone, a row names their key\n";
    assert!(text.stdout.contains(words), "{text:?}");
}

#[tokio::test]
async fn each_upload_of_a_named_key_is_left_alone_however_the_database_is_asked() {
    let by_url = "SELECT 's3://pictures/' || replace(name, '%', '%25') FROM images";
    for form in [
        &[][..],
        &[
            (Setting::References, by_url),
            (Setting::ReferenceForm, "url"),
        ],
    ] {
        let world = world().await;
        world.name(&["images/old +%.png"]).await;
        let report = world.run(&[&[IMAGES, ABORT], form].concat()).await;
        let UploadCounts { named, aborted, .. } = counts(&report);
        assert_eq!((named, aborted), (2, 1), "{report:?}");
    }
}

#[tokio::test]
async fn no_more_are_aborted_than_objects_may_be_deleted() {
    let world = world().await;
    for (most, aborted, left) in [("0", 0, 7), ("2", 2, 5), ("2", 1, 4)] {
        let report = world
            .run(&[IMAGES, ABORT, (Setting::MaxDelete, most)])
            .await;
        assert_eq!(counts(&report).aborted, aborted, "{report:?}");
        assert_eq!(world.server.uploads(BUCKET).len(), left);
    }
}

/// 1,500 old uploads, each of which can be aborted.
struct Hands;

impl AbortUpload for Hands {
    async fn abort(&self, _: &Upload) -> Result<bool, LookError> {
        Ok(true)
    }
}

impl ListUploads for Hands {
    async fn uploads(&self, _: Option<&(String, String)>) -> Result<UploadPage, LookError> {
        let upload = |index: usize| Upload {
            key: ObjectKey::new(format!("{index:04}.png")),
            id: index.to_string(),
            initiated: Some(Timestamp::UNIX_EPOCH),
        };
        Ok(UploadPage {
            uploads: (0..1_500).map(upload).collect(),
            next: None,
        })
    }

    async fn upload_bytes(&self, _: &Upload) -> Result<u64, LookError> {
        Ok(1)
    }
}

/// Answers so often, then as it is told.
struct Check {
    answers: AtomicUsize,
    then: fn() -> Result<Vec<bool>, CheckError>,
}

impl FreshCheck for Check {
    async fn referenced(&self, keys: &[&ObjectKey]) -> Result<Vec<bool>, CheckError> {
        if self.answers.load(Ordering::SeqCst) == 0 {
            return (self.then)();
        }
        self.answers.fetch_sub(1, Ordering::SeqCst);
        Ok(vec![false; keys.len()])
    }
}

async fn many() -> uploads::Found {
    let criteria = Criteria {
        scope: Scope::new(Prefix::default(), &[], &[]).expect("a scope"),
        cutoff: ago(24),
    };
    uploads::find(&Hands, &criteria, 4).await.expect("found")
}

#[tokio::test]
async fn without_an_answer_of_the_database_none_is_aborted() {
    let fails: fn() -> Result<Vec<bool>, CheckError> = || Err(CheckError("broken".into()));
    let falls_short: fn() -> Result<Vec<bool>, CheckError> = || Ok(vec![false; 3]);
    for (then, word) in [(fails, "broken"), (falls_short, "every key")] {
        for (answers, aborted) in [(0, 0), (1, 1_000)] {
            let mut found = many().await;
            let check = Check {
                answers: AtomicUsize::new(answers),
                then,
            };
            let error = uploads::abort(&mut found, &Hands, &check, u64::MAX, 4).await;
            let error = error.expect("an error");
            assert!(error.message.contains(word), "{error:?}");
            assert_eq!((found.counts.aborted, found.counts.failed), (aborted, 0));
        }
    }
}

#[tokio::test]
async fn the_bound_holds_for_all_windows_together() {
    let check = Check {
        answers: AtomicUsize::new(usize::MAX),
        then: || unreachable!("it always answers"),
    };
    for most in [0, 1, 1_000, 1_200, 2_000] {
        let mut found = many().await;
        let error = uploads::abort(&mut found, &Hands, &check, most, 4).await;
        assert!(error.is_none());
        assert_eq!(found.counts.aborted, most.min(1_500));
    }
}

#[tokio::test]
async fn one_that_was_completed_in_between_is_no_failure() {
    let world = world().await;
    world.server.inject(
        Fault::new(
            Operation::AbortMultipartUpload,
            Effect::Error {
                status: 404,
                code: "NoSuchUpload",
            },
        )
        .nth(1),
    );
    let report = world.run(&[IMAGES, ABORT]).await;
    assert_eq!(
        counts(&report),
        UploadCounts {
            aborted: 2,
            gone: 1,
            ..FOUND
        }
    );
}

#[tokio::test]
async fn a_refused_run_aborts_nothing() {
    let world = world().await;
    let report = world
        .run(&[IMAGES, ABORT, (Setting::MaxOrphanPercent, "10")])
        .await;
    assert_eq!(report.summary.status, Status::Refused);
    assert_eq!(counts(&report), FOUND);
    assert_eq!(world.server.uploads(BUCKET).len(), 7);
}

#[tokio::test]
async fn many_are_read_page_by_page() {
    let world = World::new().await;
    world.put_named(&["images/a.png"], 48).await;
    for index in 0..2_100 {
        let _id = world.server.begin_upload_at(
            BUCKET,
            &format!("images/{:03} ü.png", index / 3),
            ago(48),
        );
    }
    let report = world.run(&[IMAGES, ABORT]).await;
    let UploadCounts {
        found,
        old,
        aborted,
        measured,
        ..
    } = counts(&report);
    assert_eq!((found, old, aborted, measured), (2_100, 2_100, 2_100, 100));
    assert_eq!(world.server.uploads(BUCKET), []);
}

#[tokio::test]
async fn whatever_goes_wrong_with_them_fails_no_run() {
    let world = world().await;
    for effect in [
        Effect::access_denied(),
        Effect::Error {
            status: 501,
            code: "NotImplemented",
        },
    ] {
        world
            .server
            .inject(Fault::new(Operation::ListMultipartUploads, effect.clone()));
        let report = world.run(&[IMAGES, ABORT, (Setting::DryRun, "true")]).await;
        assert_eq!(
            report.summary.status,
            Status::DryRun,
            "{effect:?}: {report:?}"
        );
        assert_eq!(report.summary.more.uploads, None);
        world.server.heal();
    }
    // A page that does not say where it goes on is not the last.
    world.server.inject(Fault::new(
        Operation::ListMultipartUploads,
        Effect::edit_body(|body| {
            body.replace(
                "<IsTruncated>false</IsTruncated>",
                "<IsTruncated>true</IsTruncated>",
            )
        }),
    ));
    let report = world.run(&[IMAGES, (Setting::DryRun, "true")]).await;
    assert_eq!(report.summary.more.uploads, None, "{report:?}");
    world.server.heal();
    // A page that repeats its marker would never end.
    world.server.inject(Fault::new(
        Operation::ListMultipartUploads,
        Effect::edit_body(|body| {
            body.replace("<IsTruncated>false</IsTruncated>", "<IsTruncated>true</IsTruncated><NextKeyMarker>images/a</NextKeyMarker><NextUploadIdMarker>1</NextUploadIdMarker>")
        }),
    ));
    let report = world.run(&[IMAGES, (Setting::DryRun, "true")]).await;
    assert_eq!(
        (report.summary.status, report.summary.more.uploads),
        (Status::DryRun, None)
    );
    world.server.heal();
    // Parts that may not be read are not measured.
    world
        .server
        .inject(Fault::new(Operation::ListParts, Effect::access_denied()).nth(1));
    let report = world.run(&[IMAGES, (Setting::DryRun, "true")]).await;
    assert_eq!(counts(&report).measured, 2);
    world.server.heal();

    world.server.inject(
        Fault::new(Operation::AbortMultipartUpload, Effect::access_denied())
            .key("images/older\n.jpg"),
    );
    let text = Environment::of(&world)
        .cli(&["plan", "--prefix", "images", "--output", "text"])
        .await;
    for words in [
        "4  never completed, 3 of them older than the cutoff with 18 B; 3 left (--abort-uploads, at most --max-delete)",
        "orphan-sweeper apply 0",
    ] {
        assert!(text.stdout.contains(words), "{text:?}");
    }
    let environment = Environment::of(&world).with(&[("SWEEPER_ABORT_UPLOADS", "true")]);
    let ended = environment.cli(&["sweep", "--prefix", "images"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let printed = ended.json();
    assert_eq!(
        (
            &printed["uploads"]["aborted"],
            &printed["uploads"]["failed"]
        ),
        (&json!(2), &json!(1))
    );
    assert!(
        ended.stderr.contains("s3:AbortMultipartUpload"),
        "{ended:?}"
    );
}
