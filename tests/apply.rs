//! A plan that people reviewed, applied: no more than it lists, each key judged again.
#![cfg(feature = "demo")]

mod support;

use std::collections::HashSet;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use orphan_sweeper::archive::Archive;
use orphan_sweeper::key::ObjectKey;
use orphan_sweeper::local::postgres::SharedPostgres;
use orphan_sweeper::local::s3::{Operation, Versioning};
use orphan_sweeper::manifest::{Header, Manifest};
use orphan_sweeper::progress::Progress;
use orphan_sweeper::reviewed::Reviewed;
use orphan_sweeper::run::{Report, apply};
use orphan_sweeper::settings::{RawSettings, Setting, for_manifest};
use orphan_sweeper::stop::Stop;
use orphan_sweeper::summary::Status;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};
use support::program::{Ended, Environment};
use support::{BUCKET, World, ago, before_the_fresh_check, failure};

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
    format!("left/{index:05}.png")
}

/// Where the plan of a new dry run lies.
async fn plan(world: &World) -> PathBuf {
    let report = world
        .run(&[
            (Setting::DryRun, "true"),
            (Setting::MaxOrphanPercent, "100"),
        ])
        .await;
    assert_eq!(report.summary.status, Status::DryRun, "{report:?}");
    Path::new(&report.summary.report).join("plan.jsonl")
}

/// The manifest there.
fn manifest(plan: &Path) -> Manifest {
    Manifest::read(BufReader::new(File::open(plan).expect("a plan"))).expect("a manifest")
}

async fn apply_to(
    world: &World,
    manifest: Manifest,
    except: &[&str],
    changes: &[(Setting, &str)],
) -> Report {
    let mut raw = RawSettings::default();
    raw.flag(Setting::DatabaseUrl, [world.database.url().to_owned()]);
    raw.flag(Setting::Report, [world.ledger.path().display().to_string()]);
    for (setting, text) in changes {
        raw.flag(*setting, [(*text).to_owned()]);
    }
    let settings = for_manifest(&raw, manifest.header(), None).expect("settings");
    let except: HashSet<ObjectKey> = except.iter().map(|key| ObjectKey::new(*key)).collect();
    let reviewed = Reviewed::new(manifest, except).expect("reviewed");
    let report = apply(
        &settings,
        &reviewed,
        &world.client(),
        &Stop::never(),
        &Progress::default(),
    )
    .await;
    report.summary.counts.check().expect("the sums hold");
    assert_eq!(
        world.read(&report, "summary.json"),
        support::read_back(&report.summary)
    );
    assert_eq!(report.summary.more.applied, Some(reviewed.header().run_id));
    report
}

fn deletions(world: &World) -> usize {
    world.server.count(Operation::DeleteObjects) + world.server.count(Operation::DeleteObject)
}

/// Changes the header of a plan and seals it anew, as only a run does.
fn rewritten(plan: &Path, change: impl FnOnce(&mut Header)) -> Manifest {
    let read = manifest(plan);
    let mut header = read.header().clone();
    change(&mut header);
    let mut text = Vec::new();
    let sealed = header.sealed().expect("sealed");
    read.spool()
        .write_manifest(&sealed, &mut text)
        .expect("written");
    Manifest::read(&text[..]).expect("a manifest")
}

#[tokio::test]
async fn what_a_name_mentions_by_now_is_held_back() {
    let world = world(3).await;
    let plan = plan(&world).await;
    world.name(&["/left/00001.png"]).await;
    let report = apply_to(&world, manifest(&plan), &[], &[]).await;
    let counts = report.summary.counts;
    assert_eq!((counts.deleted, counts.deferred), (2, 1), "{report:?}");
    assert_eq!(report.summary.more.held_back, 1);
    assert!(world.has(&report, "held_back.jsonl"));
    assert!(world.keys().contains(&orphan(1)));
}

#[tokio::test]
async fn what_the_plan_lists_is_deleted_and_nothing_else() {
    let world = world(5).await;
    let plan = plan(&world).await;
    // Orphans that nobody reviewed.
    world.put("left/more.png", 48);
    world.put("a.png", 48);
    let report = apply_to(&world, manifest(&plan), &[], &[]).await;
    let counts = report.summary.counts;
    assert_eq!(report.summary.status, Status::Completed, "{report:?}");
    assert_eq!((counts.listed, counts.orphans, counts.deleted), (5, 5, 5));
    assert_eq!((counts.references, counts.dangling), (10, 0));
    assert_eq!(world.keys().len(), 12);
    assert_eq!(report.summary.cutoff, Some(manifest(&plan).header().cutoff));
    // It has a manifest and outcomes of its own, so it can be undone.
    let past = Archive::new(&world.settings(&[]).report, &world.client())
        .past(report.summary.run_id)
        .await
        .expect("a run");
    assert_eq!(past.manifest.spool().len(), 5);
    // Once more does no harm.
    let report = apply_to(&world, manifest(&plan), &[], &[]).await;
    let counts = report.summary.counts;
    assert_eq!((counts.deleted, counts.gone), (0, 5), "{report:?}");
    assert_eq!(world.keys().len(), 12);
}

#[tokio::test]
async fn each_key_is_judged_again() {
    let world = world(6).await;
    let plan = plan(&world).await;
    // Named again; uploaded again, with other and with the same bytes; deleted.
    world.name(&[orphan(0)]).await;
    world.server.put_at(BUCKET, &orphan(1), "other", ago(48));
    world.put(&orphan(2), 0);
    world.server.delete(BUCKET, &orphan(3));
    let report = apply_to(&world, manifest(&plan), &[], &[]).await;
    let counts = report.summary.counts;
    assert_eq!(
        (counts.listed, counts.referenced, counts.orphans),
        (6, 1, 5),
        "{report:?}"
    );
    assert_eq!(
        (counts.deleted, counts.spared, counts.gone),
        (2, 2, 1),
        "{report:?}"
    );
    for kept in [0, 1, 2] {
        assert!(world.keys().contains(&orphan(kept)), "{kept}");
    }
}

#[tokio::test]
async fn a_row_written_after_the_snapshot_spares_its_object() {
    let world = world(3).await;
    let plan = plan(&world).await;
    before_the_fresh_check(&world, "INSERT INTO images VALUES ('left/00001.png')");
    let report = apply_to(&world, manifest(&plan), &[], &[]).await;
    let counts = report.summary.counts;
    assert_eq!((counts.deleted, counts.spared), (2, 1), "{report:?}");
    assert!(world.keys().contains(&orphan(1)));
}

#[tokio::test]
async fn exceptions_stay_and_the_oldest_go_first() {
    let world = world(3).await;
    world.put("left/old.png", 90);
    let plan = plan(&world).await;
    let report = apply_to(
        &world,
        manifest(&plan),
        &["left/00001.png"],
        &[(Setting::MaxDelete, "1")],
    )
    .await;
    let counts = report.summary.counts;
    assert_eq!(
        (counts.listed, counts.out_of_scope, counts.orphans),
        (4, 1, 3),
        "{report:?}"
    );
    assert_eq!((counts.deleted, counts.deferred), (1, 2));
    assert!(!world.keys().contains(&"left/old.png".to_owned()));
    let report = apply_to(&world, manifest(&plan), &["left/00001.png"], &[]).await;
    assert_eq!(report.summary.counts.deleted, 2, "{report:?}");
    assert!(world.keys().contains(&orphan(1)));
}

#[tokio::test]
async fn long_plans_are_judged_page_by_page() {
    let world = World::new().await;
    let mut names = Vec::new();
    for index in 0..2_500 {
        let key = format!("k/{index:05}.png");
        let tag = "0123456789abcdef0123456789abcdef";
        world.server.insert_listed(BUCKET, &key, 1, tag, ago(48));
        names.push(key);
    }
    world.name(&["k/00000.png"]).await;
    let plan = plan(&world).await;
    world
        .name(&["k/00999.png", "k/01000.png", "k/01001.png", "k/02499.png"])
        .await;
    let report = apply_to(
        &world,
        manifest(&plan),
        &["k/00001.png", "k/01002.png"],
        &[],
    )
    .await;
    let counts = report.summary.counts;
    assert_eq!(report.summary.status, Status::Completed, "{report:?}");
    assert_eq!((counts.listed, counts.listed_bytes), (2_499, 2_499));
    assert_eq!(
        (counts.referenced, counts.out_of_scope, counts.deleted),
        (4, 2, 2_493)
    );
    assert_eq!(
        world.keys(),
        [
            "k/00000.png",
            "k/00001.png",
            "k/00999.png",
            "k/01000.png",
            "k/01001.png",
            "k/01002.png",
            "k/02499.png"
        ]
    );
}

/// A change to a header.
type Change = fn(&mut Header);

#[tokio::test]
async fn each_guard_refuses_with_nothing_deleted() {
    let world = world(30).await;
    let plan = plan(&world).await;
    let guard = |report: &Report| {
        assert_eq!(report.summary.status, Status::Refused, "{report:?}");
        assert_eq!(report.summary.counts.deleted, 0);
        report
            .refusals
            .iter()
            .map(|refusal| refusal.guard)
            .collect::<Vec<_>>()
    };
    let changes: [(Change, &str); 5] = [
        (
            |header| header.refused_by = vec!["orphan_percent".to_owned()],
            "refused_plan",
        ),
        (
            |header| header.started_at = Timestamp::now() + SignedDuration::from_hours(1),
            "manifest_age",
        ),
        (
            |header| header.database = "other".to_owned(),
            "other_database",
        ),
        (
            |header| header.system_identifier = "1".to_owned(),
            "other_database",
        ),
        (
            |header| header.schemas = vec!["other".to_owned()],
            "other_database",
        ),
    ];
    for (change, expected) in changes {
        let report = apply_to(&world, rewritten(&plan, change), &[], &[]).await;
        assert_eq!(guard(&report), [expected]);
    }
    world.server.set_versioning(BUCKET, Versioning::Suspended);
    let report = apply_to(&world, manifest(&plan), &[], &[]).await;
    assert_eq!(guard(&report), ["unversioned"]);
    world.server.set_versioning(BUCKET, Versioning::Enabled);
    world.server.set_clock_skew(SignedDuration::from_mins(6));
    assert_eq!(
        guard(&apply_to(&world, manifest(&plan), &[], &[]).await),
        ["clocks_apart"]
    );
    world.server.set_clock_skew(SignedDuration::ZERO);

    // Ten rows that name old keys again may be; eleven mean that the plan knew too little.
    world.name(&(0..11).map(orphan).collect::<Vec<_>>()).await;
    let report = apply_to(&world, manifest(&plan), &[], &[]).await;
    assert_eq!(guard(&report), ["outdated_plan"]);
    assert!(
        report.refusals[0].hint.contains("11 of the manifest's 30"),
        "{report:?}"
    );
    world.sql("TRUNCATE images").await;
    let report = apply_to(&world, manifest(&plan), &[], &[]).await;
    assert_eq!(guard(&report), ["no_references"]);
    assert_eq!(deletions(&world), 0);
    assert_eq!(world.keys().len(), 40);
    // Its own manifest can not be applied either.
    let own = manifest(&Path::new(&report.summary.report).join("plan.jsonl"));
    assert_eq!(own.header().refused_by, ["no_references"]);
}

#[tokio::test]
async fn an_old_plan_is_refused() {
    let world = World::new().await;
    world
        .put_named(&["kept/1.png", "kept/2.png"], 24 * 30)
        .await;
    world.put("left/1.png", 24 * 30);
    let plan = plan(&world).await;
    for (days, refused) in [(6, false), (8, true)] {
        let manifest = rewritten(&plan, |header| {
            header.started_at = Timestamp::now() - SignedDuration::from_hours(24 * days);
            header.cutoff = header.started_at - SignedDuration::from_hours(24);
        });
        let report = apply_to(&world, manifest, &[], &[(Setting::DryRun, "true")]).await;
        let guards: Vec<_> = report
            .refusals
            .iter()
            .map(|refusal| refusal.guard)
            .collect();
        assert_eq!(guards.contains(&"manifest_age"), refused, "{report:?}");
        assert_eq!(deletions(&world), 0);
    }
}

#[tokio::test]
async fn a_copy_of_the_database_under_another_name_is_refused() {
    let world = world(3).await;
    let plan = plan(&world).await;
    let copy = SharedPostgres::database().await.expect("a database");
    let mut connection = PgConnection::connect(copy.url()).await.expect("connected");
    let copied = "CREATE TABLE images (name text); INSERT INTO images SELECT 'kept/' || lpad(n::text, 5, '0') || '.png' FROM generate_series(0, 9) n";
    connection
        .execute(sqlx::raw_sql(copied))
        .await
        .expect("copied");
    let environment = Environment::of(&world).with(&[("DATABASE_URL", copy.url())]);
    let ended = environment
        .cli(&["apply", &plan.display().to_string()])
        .await;
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert_eq!(ended.json()["refusal"]["guard"], "other_database");
    assert_eq!(deletions(&world), 0);
}

#[tokio::test]
async fn a_database_that_fails_deletes_nothing() {
    let world = world(3).await;
    let plan = plan(&world).await;
    world.sql("DROP TABLE images").await;
    let report = apply_to(&world, manifest(&plan), &[], &[]).await;
    assert!(
        failure(&report).starts_with("Database: "),
        "{}",
        failure(&report)
    );
    world
        .sql("CREATE TABLE images (name text); INSERT INTO images VALUES ('https://other/a.png')")
        .await;
    let report = apply_to(&world, manifest(&plan), &[], &[]).await;
    assert!(
        failure(&report).contains("https://other/a.png"),
        "{}",
        failure(&report)
    );
    assert_eq!(deletions(&world), 0);
}

#[tokio::test]
async fn a_snapshot_that_lost_rows_deletes_nothing() {
    let world = world(3).await;
    let plan = plan(&world).await;
    let mut other = world.connect().await;
    let work = "BEGIN; LOCK TABLE images IN ACCESS EXCLUSIVE MODE; TRUNCATE images; INSERT INTO images VALUES ('kept/00000.png')";
    other.execute(sqlx::raw_sql(work)).await.expect("worked");
    let mut watcher = world.connect().await;
    let commit = async {
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
        other.execute("COMMIT").await.expect("committed");
    };
    let (report, ()) = tokio::join!(
        Box::pin(apply_to(&world, manifest(&plan), &[], &[])),
        commit
    );
    assert!(
        failure(&report).contains("images was truncated, rewritten"),
        "{}",
        failure(&report)
    );
    assert_eq!(deletions(&world), 0);
}

#[tokio::test]
async fn the_command_line_applies_what_was_reviewed() {
    let world = world(4).await;
    let environment = || Environment::of(&world);
    let planned = environment().cli(&["plan"]).await;
    assert_eq!(planned.code, Some(0), "{planned:?}");
    let planned = planned.json();
    let plan = format!(
        "{}/plan.jsonl",
        planned["report"]
            .as_str()
            .expect("a place")
            .trim_end_matches('/')
    );
    let keep = world.ledger.path().join("keep.txt");
    let text = std::fs::read_to_string(&plan).expect("a plan");
    let copied = text.lines().nth(2).expect("an orphan");
    std::fs::write(&keep, format!("{}\n{copied}\n", orphan(0))).expect("written");
    let keep = keep.display().to_string();

    // The environment's word for a dry run holds for every command.
    let cautious = environment().with(&[("SWEEPER_DRY_RUN", "true")]);
    let ended = cautious.cli(&["apply", &plan]).await;
    assert_eq!(
        (ended.code, &ended.json()["status"]),
        (Some(0), &json!("dry_run")),
        "{ended:?}"
    );
    assert_eq!(deletions(&world), 0);

    let run_id = planned["run_id"].as_str().expect("an id");
    let ended = environment()
        .cli(&["apply", run_id, "--except", &keep])
        .await;
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (Some(0), ""),
        "{ended:?}"
    );
    let printed = ended.json();
    assert_eq!(
        (&printed["deleted"], &printed["out_of_scope"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(printed["applied"], run_id);
    assert_eq!(world.keys().len(), 12);
    let ended = environment()
        .cli(&["apply", &plan, "--output", "text"])
        .await;
    assert!(ended.stdout.starts_with("swept pictures"), "{ended:?}");
    assert_eq!(world.keys().len(), 10);
}

#[track_caller]
fn complaint(ended: &Ended, expected: &str) {
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (Some(2), ""),
        "{expected}: {ended:?}"
    );
    assert!(ended.stderr.contains(expected), "{expected}: {ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
}

#[tokio::test]
async fn a_manifest_that_is_not_whole_is_refused_before_anything_is_read() {
    let world = world(3).await;
    let plan = plan(&world).await;
    let text = std::fs::read_to_string(&plan).expect("a plan");
    world.server.clear_requests();
    for (text, expected) in [
        (&text[..text.len() - 1], "it breaks off"),
        (&text[..text.len() / 2], "MANIFEST: "),
        (&format!("{text}{text}"), "counts 3 orphans and 4"),
        (&text.replace("left/00001", "kept/00001"), "is out of order"),
        (
            &text.replace("\"size\":14", "\"size\":15"),
            "were changed after it was written",
        ),
        (
            &text.replace("\"pictures\"", "\"paintings\""),
            "header was changed",
        ),
        ("", "it is empty"),
        ("{\"key\": \"a\"}\n", "not a manifest"),
    ] {
        let path = world.ledger.path().join("broken.jsonl");
        std::fs::write(&path, text).expect("written");
        let path = path.display().to_string();
        complaint(
            &Environment::of(&world).cli(&["apply", &path]).await,
            expected,
        );
    }
    assert_eq!(world.server.requests(), []);
}

/// What is set, what is given behind the manifest, and words of the complaint.
type Contradiction = (
    &'static [(&'static str, &'static str)],
    &'static [&'static str],
    &'static str,
);

const CONTRADICTIONS: &[Contradiction] = &[
    (
        &[],
        &["--bucket", "paintings"],
        "--bucket: not what the manifest was made with (\"pictures\")",
    ),
    (
        &[("SWEEPER_BUCKET", "paintings")],
        &[],
        "SWEEPER_BUCKET: not what",
    ),
    (
        &[("SWEEPER_MIN_AGE", "7d")],
        &[],
        "SWEEPER_MIN_AGE: longer than the grace period of the manifest",
    ),
    (
        &[("SWEEPER_PREFIX", "left")],
        &[],
        "SWEEPER_PREFIX: not what",
    ),
    (
        &[("SWEEPER_INCLUDE", "*.png")],
        &[],
        "SWEEPER_INCLUDE: not what",
    ),
    (
        &[("SWEEPER_EXCLUDE", "*.png")],
        &[],
        "SWEEPER_EXCLUDE: not what",
    ),
    (
        &[(
            "SWEEPER_REFERENCES",
            "SELECT name FROM images UNION ALL SELECT avatar FROM users",
        )],
        &[],
        "SWEEPER_REFERENCES: not what",
    ),
    (
        &[("SWEEPER_REFERENCE_PREFIX", "x/")],
        &[],
        "SWEEPER_REFERENCE_PREFIX: not what",
    ),
    (
        &[("SWEEPER_REFERENCE_FORM", "url")],
        &[],
        "SWEEPER_REFERENCE_FORM: not what",
    ),
    (&[("DATABASE_URL", "")], &[], "--database-url: required"),
    (&[], &["--max-delete", "many"], "--max-delete: "),
    (
        &[],
        &["--except", "no/such/file"],
        "--except: no/such/file: could not be read",
    ),
];

#[tokio::test]
async fn what_contradicts_the_manifest_is_refused_in_one_line_before_anything_is_read() {
    let world = world(3).await;
    let plan = plan(&world).await.display().to_string();
    world.server.clear_requests();
    let environment = |set: &[(&str, &str)]| Environment::of(&world).with(set);
    for (path, expected) in [
        (
            "no/such/plan.jsonl",
            "MANIFEST: no/such/plan.jsonl: the manifest could not be read",
        ),
        (
            "0199c0de-0000-7000-8000-000000000000",
            "MANIFEST: there is no",
        ),
        (
            "s3://ledgers/runs/1/plan.jsonl",
            "MANIFEST: a manifest in a bucket is given by its run's id",
        ),
    ] {
        complaint(&environment(&[]).cli(&["apply", path]).await, expected);
    }
    for (set, given, expected) in CONTRADICTIONS {
        let arguments = [&["apply", plan.as_str()], *given].concat();
        complaint(&environment(set).cli(&arguments).await, expected);
    }
    let keep = world.ledger.path().join("keep.txt");
    for (text, expected) in [
        (
            "left/00001.png\nleft/1.png\n",
            "--except: left/1.png is not in the manifest",
        ),
        ("{nonsense}\n", "line 1 begins like a line of a manifest"),
    ] {
        std::fs::write(&keep, text).expect("written");
        let keep = keep.display().to_string();
        let arguments = ["apply", &plan, "--except", &keep];
        complaint(&environment(&[]).cli(&arguments).await, expected);
    }
    // What the contract leaves out, clap refuses.
    for flag in [
        "--prefix",
        "--references",
        "--min-age",
        "--max-orphan-percent",
    ] {
        let ended = environment(&[]).cli(&["apply", &plan, flag, "1"]).await;
        assert_eq!(ended.code, Some(2), "{flag}");
    }
    assert_eq!(world.server.requests(), []);
    // What agrees is no contradiction.
    let same = environment(&[
        ("SWEEPER_BUCKET", BUCKET),
        ("SWEEPER_REFERENCES", "SELECT name FROM images;"),
        ("SWEEPER_MIN_AGE", "24h"),
    ]);
    let ended = same.cli(&["apply", &plan]).await;
    let printed: Value = ended.json();
    assert_eq!(
        (ended.code, &printed["deleted"]),
        (Some(0), &json!(3)),
        "{ended:?}"
    );
}
