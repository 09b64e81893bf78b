//! The guards that tell a broken match from a backlog, over real servers: what each refuses or
//! holds back, what it says, what lets it go, and that no event does.
#![cfg(feature = "demo")]

mod support;

use std::path::Path;

use orphan_sweeper::event;
use orphan_sweeper::local::postgres::PostgresServer;
use orphan_sweeper::local::s3::{Effect, Fault, Operation, Versioning};
use orphan_sweeper::progress::Progress;
use orphan_sweeper::run::{Report, run};
use orphan_sweeper::settings::{Setting, Settings};
use orphan_sweeper::stop::Stop;
use orphan_sweeper::summary::{Refusal, Status};
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};
use support::program::{Environment, files, reader};
use support::{BUCKET, World, failure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// A world with so many referenced images in `images/`.
async fn world(referenced: usize) -> World {
    let world = World::new().await;
    let kept: Vec<String> = (0..referenced).map(kept).collect();
    world
        .put_named(&kept.iter().map(String::as_str).collect::<Vec<_>>(), 48)
        .await;
    world
}

fn kept(index: usize) -> String {
    format!("images/kept-{index:05}.png")
}

fn put_orphans(world: &World, folder: &str, count: usize) {
    for index in 0..count {
        world.put(&format!("{folder}{index:05}-old.png"), 48);
    }
}

fn deletions(world: &World) -> usize {
    world.server.count(Operation::DeleteObjects) + world.server.count(Operation::DeleteObject)
}

fn guards(report: &Report) -> Vec<&'static str> {
    report
        .refusals
        .iter()
        .map(|refusal| refusal.guard)
        .collect()
}

/// Runs once, with a ledger that need not be a folder.
async fn run_with(world: &World, settings: &[(Setting, &str)]) -> Report {
    run(
        &world.settings(settings),
        &world.client(),
        &Stop::never(),
        &Progress::default(),
    )
    .await
}

/// Each line of a file of the ledger.
fn lines(world: &World, report: &Report, file: &str) -> Vec<Value> {
    let text = String::from_utf8(world.read_bytes(report, file)).expect("UTF-8");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

#[tokio::test]
async fn a_folder_without_a_reference_is_held_back_and_named_while_the_rest_goes_on() {
    let world = world(60).await;
    put_orphans(&world, "images/", 5);
    put_orphans(&world, "images/avatars/a/", 10);
    put_orphans(&world, "images/avatars/b/", 10);
    put_orphans(&world, "tmp/", 19);
    let report = world.run(&[]).await;
    let summary = &report.summary;
    assert_eq!(summary.status, Status::Completed, "{report:?}");
    assert_eq!(
        (
            summary.counts.orphans,
            summary.counts.deleted,
            summary.counts.deferred
        ),
        (44, 24, 20)
    );
    assert_eq!(
        serde_json::to_value(summary).expect("JSON")["held_back_folders"],
        json!([{"folder": "images/avatars/", "orphans": 20}])
    );
    assert_eq!(summary.more.held_back, 20);
    // The manifest holds what may be deleted, and the rest is there to be read.
    let plan = lines(&world, &report, "plan.jsonl");
    assert_eq!(
        (plan.len(), &plan[0]["orphans"]),
        (1 + 24, &json!(24)),
        "{plan:?}"
    );
    let held = lines(&world, &report, "held_back.jsonl");
    assert_eq!(held.len(), 20);
    assert!(held.iter().all(|line| {
        let key = line["key"].as_str().expect("a key");
        key.starts_with("images/avatars/")
    }));
    assert_eq!(world.keys().len(), 80);

    // Another folder's permission lets nothing go; with a limit, what is held takes no place.
    put_orphans(&world, "images/new-", 3);
    let report = world
        .run(&[
            (Setting::AllowUnreferencedFolder, "avatars/"),
            (Setting::MaxDelete, "3"),
        ])
        .await;
    assert_eq!(report.summary.counts.deleted, 3, "{report:?}");
    let allowed = world
        .run(&[(Setting::AllowUnreferencedFolder, "images/avatars")])
        .await;
    assert_eq!(
        (
            allowed.summary.counts.deleted,
            allowed.summary.more.held_back
        ),
        (20, 0)
    );
    assert!(!world.has(&allowed, "held_back.jsonl"));
    assert_eq!(world.keys().len(), 60);
}

#[tokio::test]
async fn what_lies_directly_in_a_folder_is_held_back_on_its_own_and_people_read_of_it() {
    let world = World::new().await;
    let thumbs: Vec<String> = (0..25)
        .map(|index| format!("images/thumbs/{index:05}-small.png"))
        .collect();
    world
        .put_named(&thumbs.iter().map(String::as_str).collect::<Vec<_>>(), 48)
        .await;
    put_orphans(&world, "images/", 20);
    let environment = Environment::of(&world);
    let ended = environment
        .cli(&["sweep", "--prefix", "images", "--output", "text"])
        .await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for word in [
        "held back: 20",
        "--allow-unreferenced-folder",
        "20 in images/*",
    ] {
        assert!(ended.stdout.contains(word), "{}", ended.stdout);
    }
    assert!(
        ended.stderr.contains("held back a folder") && ended.stderr.contains("images/*"),
        "{}",
        ended.stderr
    );
    assert_eq!(world.keys().len(), 45);
    let allowed = environment.with(&[(
        "SWEEPER_ALLOW_UNREFERENCED_FOLDER",
        "elsewhere/, images/* ,",
    )]);
    let ended = allowed.cli(&["sweep", "--prefix", "images"]).await;
    assert_eq!(ended.json()["deleted"], 20, "{ended:?}");
}

/// Every file of the ledger's `latest` folder.
fn latest(ledger: &Path) -> Vec<std::path::PathBuf> {
    let mut files = files(ledger);
    files.retain(|file| file.components().any(|part| part.as_os_str() == "latest"));
    files
}

#[tokio::test]
async fn far_fewer_referenced_objects_than_in_the_last_good_run_refuse() {
    let world = world(200).await;
    world.server.create_bucket("ledgers");
    for place in [None, Some("s3://ledgers/sweeper")] {
        let ledger: &[(Setting, &str)] = match place {
            None => &[],
            Some(place) => &[(Setting::Report, place)],
        };
        let run = async |more: &[(Setting, &str)]| run_with(&world, &[ledger, more].concat()).await;
        assert_eq!(run(&[]).await.summary.status, Status::Completed);
        // A fifth of the names lose their form, as when an application is deployed.
        world
            .sql("UPDATE images SET name = 'v2/' || reverse(name) WHERE name < 'images/kept-00040'")
            .await;
        for _ in 0..2 {
            let refused = run(&[]).await;
            let refusal = refused.summary.refusal.as_ref().expect("a refusal");
            assert_eq!(refusal.guard, "referenced_drop", "{refused:?}");
            assert_eq!((refusal.value, refusal.limit), (20.0, 10.0));
            assert_eq!(refusal.examples.len(), 3);
            for word in ["160 objects", "200 were", "--max-referenced-drop-percent"] {
                assert!(refusal.hint.contains(word), "{}", refusal.hint);
            }
        }
        // Failed and refused runs are no baseline, and another query has another one.
        let failed = run(&[(Setting::References, "SELECT nothing FROM images")]).await;
        assert_eq!(failed.summary.status, Status::Failed);
        let other = run(&[
            (Setting::References, "SELECT name FROM images WHERE true"),
            (Setting::NotAReference, "public.images.name"),
            (Setting::DryRun, "true"),
        ])
        .await;
        assert_eq!(other.summary.status, Status::DryRun, "{other:?}");
        assert_eq!(guards(&run(&[]).await)[0], "referenced_drop");
        assert_eq!(deletions(&world), 0);
        // A look with a raised limit decides nothing for the next run.
        let looked = run(&[
            (Setting::DryRun, "true"),
            (Setting::NotAReference, "public.images.name"),
            (Setting::MaxReferencedDropPercent, "20"),
        ])
        .await;
        assert_eq!(looked.summary.status, Status::DryRun, "{looked:?}");
        assert_eq!(guards(&run(&[]).await)[0], "referenced_drop");
        world
            .sql("UPDATE images SET name = reverse(substr(name, 4)) WHERE name LIKE 'v2/%'")
            .await;
    }
    // The way on; from then on this is what the next run is compared with.
    world
        .sql("UPDATE images SET name = 'v2/' || reverse(name) WHERE name < 'images/kept-00040'")
        .await;
    let allowed = (Setting::NotAReference, "public.images.name");
    let swept = world
        .run(&[allowed, (Setting::MaxReferencedDropPercent, "20")])
        .await;
    assert_eq!(swept.summary.counts.deleted, 40, "{swept:?}");
    assert_eq!(
        world.run(&[allowed]).await.summary.status,
        Status::Completed
    );
    assert_eq!(latest(world.ledger.path()).len(), 2);
    let in_bucket = world.server.keys("ledgers");
    assert_eq!(
        in_bucket
            .iter()
            .filter(|key| key.starts_with("sweeper/runs/latest/"))
            .count(),
        2
    );
}

#[tokio::test]
async fn a_last_run_that_cannot_be_read_is_an_error_and_not_a_new_beginning() {
    let world = world(10).await;
    put_orphans(&world, "images/", 1);
    let dry = world.run(&[(Setting::DryRun, "true")]).await;
    assert_eq!(dry.summary.status, Status::DryRun, "{dry:?}");
    let [file] = latest(world.ledger.path()).try_into().expect("one file");
    let text = std::fs::read_to_string(&file).expect("read");
    let of_another = text.replacen("\"bucket\":\"pictures\"", "\"bucket\":\"others\"", 1);
    assert_ne!(of_another, text);
    for (bad, word) in [
        ("", "EOF"),
        (&text[..text.len() / 2], "EOF"),
        (&of_another, "another scope"),
        (&text.replacen(":1,", ":2,", 1), "another version"),
        (&text.replacen("\"failed\"", "\"fialed\"", 1), "fialed"),
    ] {
        std::fs::write(&file, bad).expect("written");
        let report = world.run(&[]).await;
        let failure = failure(&report);
        assert!(
            failure.starts_with("Ledger: ") && failure.contains(word),
            "{failure}"
        );
        assert!(failure.contains(&file.display().to_string()), "{failure}");
        assert_eq!(deletions(&world), 0);
    }
    std::fs::remove_file(&file).expect("removed");
    let folder = file.parent().expect("a folder");
    std::fs::remove_dir(folder).expect("empty");
    std::fs::write(folder, "").expect("written");
    let failure_of_folder = failure(&world.run(&[]).await);
    assert!(
        failure_of_folder.starts_with("Ledger: "),
        "{failure_of_folder}"
    );
    assert_eq!(deletions(&world), 0);
    std::fs::remove_file(folder).expect("removed");
    assert_eq!(world.run(&[]).await.summary.counts.deleted, 1);

    // S3 that does not let it be read.
    world.server.create_bucket("ledgers");
    let report = (Setting::Report, "s3://ledgers");
    world.server.inject(Fault::new(
        Operation::GetObject,
        Effect::Error {
            status: 403,
            code: "AccessDenied",
        },
    ));
    let failure = failure(&run_with(&world, &[report]).await);
    assert!(
        failure.contains("s3:ListBucket") && failure.contains("s3://ledgers/runs/latest/"),
        "{failure}"
    );
}

#[tokio::test]
async fn keys_that_failed_the_last_time_go_last() {
    let world = world(10).await;
    for (key, age) in [("old-1", 90), ("old-2", 80), ("new-1", 70), ("new-2", 60)] {
        world.put(&format!("images/{key}-orphan.png"), age);
    }
    for key in ["old-1", "old-2"] {
        world.server.inject(
            Fault::new(Operation::DeleteObjects, Effect::KeyError("AccessDenied"))
                .key(format!("images/{key}-orphan.png")),
        );
    }
    let run = async || world.run(&[(Setting::MaxDelete, "2")]).await.summary;
    let orphans = || {
        let mut keys = world.keys();
        keys.retain(|key| key.contains("orphan"));
        keys.len()
    };
    let first = run().await;
    assert_eq!((first.status, first.counts.failed), (Status::Incomplete, 2));
    assert_eq!(orphans(), 4);
    // A dry run in between forgets nothing.
    let dry = [(Setting::MaxDelete, "2"), (Setting::DryRun, "true")];
    assert_eq!(world.run(&dry).await.summary.status, Status::DryRun);
    let second = run().await;
    assert_eq!(
        (second.counts.deleted, second.counts.failed),
        (2, 0),
        "{second:?}"
    );
    assert_eq!(orphans(), 2);
    // When nothing else is left they are tried again, and then forgotten.
    world.server.heal();
    assert_eq!(run().await.counts.deleted, 2);
    let [file] = latest(world.ledger.path()).try_into().expect("one file");
    let text = std::fs::read_to_string(file).expect("read");
    assert!(text.contains("\"failed\":[]"), "{text}");
}

#[tokio::test]
async fn a_transaction_older_than_the_grace_period_refuses_where_it_can_be_seen() {
    let world = world(10).await;
    put_orphans(&world, "images/", 1);
    let mut importer = world.connect().await;
    importer
        .execute(sqlx::raw_sql(
            "SET application_name = 'nightly import'; BEGIN; INSERT INTO images VALUES ('images/00000-old.png')",
        ))
        .await
        .expect("begun");
    // Any transaction is older than no time at all.
    let short = [(Setting::MinAge, "0s"), (Setting::AllowShortMinAge, "true")];
    let with = |more: &[(Setting, &'static str)]| [&short[..], more].concat();
    let refused = world.run(&short).await;
    let refusal = refused.summary.refusal.as_ref().expect("a refusal");
    assert_eq!(refusal.guard, "old_transactions", "{refused:?}");
    for word in ["nightly import", "--allow-old-transactions", "--min-age"] {
        assert!(refusal.hint.contains(word), "{}", refusal.hint);
    }
    assert_eq!(refused.summary.counts.listed, 0, "nothing was read");
    let dry = world.run(&with(&[(Setting::DryRun, "true")])).await;
    assert_eq!(guards(&dry), ["old_transactions"]);
    // Younger than the grace period.
    assert_eq!(
        world.run(&[(Setting::DryRun, "true")]).await.summary.status,
        Status::DryRun
    );

    // A role that sees only its own transactions cannot know.
    let url = reader(&world, "reader").await;
    let mut as_reader = short.to_vec();
    as_reader.extend([
        (Setting::DryRun, "true"),
        (Setting::DatabaseUrl, url.as_str()),
    ]);
    let asleep = world.run(&as_reader).await;
    assert_eq!(asleep.summary.status, Status::DryRun, "{asleep:?}");
    world
        .sql(&format!("GRANT pg_read_all_stats TO {}", url.username()))
        .await;
    assert_eq!(guards(&world.run(&as_reader).await), ["old_transactions"]);

    let allowed = world
        .run(&with(&[
            (Setting::AllowOldTransactions, "true"),
            (Setting::DryRun, "true"),
        ]))
        .await;
    assert_eq!(allowed.summary.status, Status::DryRun, "{allowed:?}");
    importer.execute("COMMIT").await.expect("committed");
    let after = world.run(&short).await;
    assert_eq!(
        (after.summary.status, after.summary.counts.orphans),
        (Status::Completed, 0),
        "{after:?}"
    );
}

/// A session as tools for replication open one, which speaks SQL all the same. The driver has no
/// word for it, so it is put in on the way.
async fn replication_session(world: &World) -> PgConnection {
    let options: PgConnectOptions = world.database.url().parse().expect("an address");
    let server = TcpStream::connect((options.get_host(), options.get_port())).await;
    let mut server = server.expect("connected");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.expect("accepted");
        let length = client.read_u32().await.expect("a length");
        let mut startup = vec![0; length as usize - 4];
        client.read_exact(&mut startup).await.expect("a startup");
        startup.pop();
        startup.extend(b"replication\0database\0\0");
        let length = u32::try_from(startup.len() + 4).expect("short");
        server.write_u32(length).await.expect("sent");
        server.write_all(&startup).await.expect("sent");
        copy_bidirectional(&mut client, &mut server).await.ok();
    });
    let options = options.host("127.0.0.1").port(port);
    PgConnection::connect_with(&options.ssl_mode(PgSslMode::Disable))
        .await
        .expect("connected")
}

#[tokio::test]
async fn a_transaction_of_a_session_that_does_not_tell_is_seen_too() {
    let world = world(3).await;
    let mut session = replication_session(&world).await;
    session
        .execute(sqlx::raw_sql("BEGIN; INSERT INTO images VALUES ('late')"))
        .await
        .expect("begun");
    let kind = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'";
    let row = world.connect().await.fetch_one(kind).await.expect("a row");
    assert_eq!(row.get::<i64, _>(0), 1);
    let short = [(Setting::MinAge, "0s"), (Setting::AllowShortMinAge, "true")];
    let refused = world.run(&short).await;
    assert_eq!(guards(&refused), ["old_transactions"], "{refused:?}");
    session.execute("ROLLBACK").await.expect("rolled back");
    assert_eq!(world.run(&short).await.summary.status, Status::Completed);

    // Nor does a session tell that was told to be silent.
    let mut silent = world.connect().await;
    let begin = "SET application_name = 'silent'; SET track_activities = off; BEGIN";
    silent.execute(sqlx::raw_sql(begin)).await.expect("begun");
    let refused = world.run(&short).await;
    assert_eq!(guards(&refused), ["old_transactions"], "{refused:?}");
    let hint = &refused.refusals[0].hint;
    assert!(hint.contains("of silent (the session is as"), "{hint}");
    silent.execute("ROLLBACK").await.expect("rolled back");
    assert_eq!(world.run(&short).await.summary.status, Status::Completed);
}

#[tokio::test]
async fn what_the_query_makes_besides_rows_is_undone_or_refused() {
    let world = world(2).await;
    put_orphans(&world, "images/", 1);
    world
        .sql("CREATE SEQUENCE counter; CREATE TABLE witness (n int); CREATE FUNCTION write() RETURNS text LANGUAGE plpgsql AS 'BEGIN INSERT INTO witness VALUES (1); RETURN NULL; END'")
        .await;
    for (query, works) in [
        (
            "SELECT name FROM images UNION ALL SELECT NULL FROM (SELECT lo_create(0)) AS made WHERE false",
            true,
        ),
        (
            "SELECT CASE WHEN lo_create(0) > 0 THEN name END FROM images",
            true,
        ),
        (
            "SELECT CASE WHEN nextval('counter') > 0 THEN name END FROM images",
            false,
        ),
        ("SELECT COALESCE(write(), name) FROM images", false),
        (
            "SELECT name FROM images) AS r(k)) TO PROGRAM 'touch /tmp/x'; --",
            false,
        ),
    ] {
        let report = world
            .run(&[(Setting::References, query), (Setting::DryRun, "true")])
            .await;
        let expected = if works {
            Status::DryRun
        } else {
            Status::Failed
        };
        assert_eq!(report.summary.status, expected, "{query}: {report:?}");
        let mut connection = world.connect().await;
        for made in [
            "SELECT count(*) FROM pg_largeobject_metadata",
            "SELECT count(*) FROM witness",
            "SELECT count(*) FROM counter WHERE is_called",
        ] {
            let row = connection.fetch_one(made).await.expect("asked");
            assert_eq!(row.get::<i64, _>(0), 0, "{query}: {made}");
        }
    }
}

/// A world and settings for each guard, and its name.
async fn each_refusal() -> Vec<Refusal> {
    let mut refusals = Vec::new();
    let mut refuse = async |world: &World, settings: &[(Setting, &str)]| {
        let report = world.run(settings).await;
        assert_eq!(report.summary.status, Status::Refused, "{report:?}");
        assert_eq!(deletions(world), 0);
        refusals.extend(report.refusals);
    };
    let some = world(10).await;
    put_orphans(&some, "images/", 10);
    refuse(&some, &[(Setting::MaxOrphanPercent, "10")]).await;
    some.sql(
        "INSERT INTO images SELECT 'images/lost-' || n || '.png' FROM generate_series(1, 30) n",
    )
    .await;
    refuse(&some, &[]).await;
    some.server.set_versioning(BUCKET, Versioning::Suspended);
    refuse(&some, &[]).await;
    let empty = world(0).await;
    put_orphans(&empty, "images/", 30);
    refuse(&empty, &[]).await;
    empty.name(&["images/lost.png"]).await;
    refuse(&empty, &[]).await;
    let stale = world(60).await;
    for index in 0..20 {
        stale.put(&format!("images/{index:05}-newer.png"), 40);
    }
    refuse(&stale, &[]).await;
    stale
        .sql("CREATE TABLE users (avatar text); INSERT INTO users SELECT 'images/0000' || n || '-newer.png' FROM generate_series(0, 4) n")
        .await;
    refuse(&stale, &[(Setting::AllowNewerOrphans, "true")]).await;
    let mut importer = stale.connect().await;
    importer.execute("BEGIN").await.expect("begun");
    let short = [(Setting::MinAge, "0s"), (Setting::AllowShortMinAge, "true")];
    refuse(&stale, &short).await;
    let fewer = world(100).await;
    fewer.run(&[]).await;
    fewer
        .sql("DELETE FROM images WHERE name < 'images/kept-00030'")
        .await;
    refuse(&fewer, &[]).await;
    refusals
}

#[tokio::test]
async fn every_refusal_says_figure_limit_examples_and_the_way_on() {
    let refusals = each_refusal().await;
    let mut names: Vec<&str> = refusals.iter().map(|refusal| refusal.guard).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(
        names,
        [
            "dangling_percent",
            "forgotten_reference",
            "newer_orphans",
            "no_references",
            "nothing_matched",
            "old_transactions",
            "orphan_percent",
            "referenced_drop",
            "unversioned"
        ]
    );
    let flags: Vec<&str> = Setting::ALL
        .into_iter()
        .map(|setting| setting.names().0)
        .collect();
    for refusal in &refusals {
        let about = format!("{refusal:?}");
        let names_flag = refusal
            .hint
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
            .any(|word| flags.contains(&word));
        assert!(
            names_flag || refusal.hint.contains("no flag allows this"),
            "{about}"
        );
        #[expect(clippy::float_cmp, reason = "they are the very figures")]
        let differ = refusal.value != refusal.limit || matches!(refusal.guard, "newer_orphans");
        assert!(differ && refusal.value.is_finite(), "{about}");
        let few = refusal.guard == "dangling_percent" && refusal.hint.starts_with("1 of 1 ");
        let expected = match refusal.guard {
            "unversioned" | "old_transactions" => 0,
            _ if few => 1,
            _ => 3,
        };
        assert_eq!(refusal.examples.len(), expected, "{about}");
    }
}

#[test]
fn no_event_loosens_a_guard() {
    let settings = || -> Settings {
        let mut raw = orphan_sweeper::settings::RawSettings::default();
        for (setting, text) in [
            (Setting::Bucket, "pictures"),
            (Setting::DatabaseUrl, "postgres://u:p@localhost/d"),
            (Setting::Report, "/tmp/ledger"),
            (Setting::MaxDelete, "10"),
        ] {
            raw.flag(setting, [text.to_owned()]);
        }
        Settings::new(&raw, None).expect("settings")
    };
    let strict = settings();
    for setting in Setting::ALL {
        let (flag, variable) = setting.names();
        let field = flag.trim_start_matches("--").replace('-', "_");
        for name in [field.as_str(), flag, variable] {
            for value in [
                json!(true),
                json!(false),
                json!("true"),
                json!(100),
                json!("100"),
                json!("*"),
                json!(["*"]),
                json!("0s"),
                json!("public.users.avatar"),
            ] {
                let Ok(options) = event::options(&json!({name: value})) else {
                    continue;
                };
                let Ok(tight) = strict.tighten(&options) else {
                    continue;
                };
                // What an event may say at all, and it tightened.
                let mut rest = tight.clone();
                assert!(tight.max_delete <= strict.max_delete, "{name} {value}");
                assert!(tight.min_age >= strict.min_age, "{name} {value}");
                assert!(
                    tight.limits.max_orphan_percent <= strict.limits.max_orphan_percent,
                    "{name} {value}"
                );
                assert!(
                    tight.allowed.dry_run >= strict.allowed.dry_run,
                    "{name} {value}"
                );
                assert!(
                    tight.scope.prefix().extends(strict.scope.prefix()),
                    "{name} {value}"
                );
                rest.max_delete = strict.max_delete;
                rest.min_age = strict.min_age;
                rest.limits.max_orphan_percent = strict.limits.max_orphan_percent;
                rest.allowed.dry_run = strict.allowed.dry_run;
                rest.scope = strict.scope.clone();
                assert_eq!(format!("{rest:?}"), format!("{strict:?}"), "{name} {value}");
            }
        }
    }
}

#[tokio::test]
async fn a_prepared_transaction_counts_as_open_and_a_standby_as_far_behind_as_it_is() {
    let world = world(3).await;
    // Its user must be able to come in.
    let parent = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()
        .expect("a folder");
    let folder = parent.path().join("server");
    let server = PostgresServer::start(&folder).await.expect("a server");
    let conf = files(&folder)
        .into_iter()
        .find(|file| file.ends_with("postgresql.auto.conf"))
        .expect("its settings");
    let mut settings = std::fs::OpenOptions::new()
        .append(true)
        .open(&conf)
        .expect("opened");
    std::io::Write::write_all(&mut settings, b"max_prepared_transactions = 2\n").expect("written");
    server.stop().await.expect("stopped");
    let server = PostgresServer::start(&folder).await.expect("a server");
    let url = server.create_database("pictures").await.expect("made");
    let mut connection = PgConnection::connect(&url).await.expect("connected");
    for text in [
        "CREATE TABLE images AS SELECT 'images/kept-0000' || n || '.png' AS name FROM generate_series(0, 2) n",
        "BEGIN; INSERT INTO images VALUES ('x'); PREPARE TRANSACTION 'forgotten import'",
    ] {
        connection.execute(sqlx::raw_sql(text)).await.expect("run");
    }
    let short = [
        (Setting::DatabaseUrl, url.as_str()),
        (Setting::MinAge, "0s"),
        (Setting::AllowShortMinAge, "true"),
        (Setting::DryRun, "true"),
    ];
    let refused = world.run(&short).await;
    assert_eq!(guards(&refused), ["old_transactions"], "{refused:?}");
    let hint = &refused.refusals[0].hint;
    assert!(
        hint.contains("prepared transaction forgotten import"),
        "{hint}"
    );
    connection
        .execute("ROLLBACK PREPARED 'forgotten import'")
        .await
        .expect("rolled back");
    connection.close().await.expect("closed");
    server.stop().await.expect("stopped");

    // In recovery, and with nobody to follow: it falls behind from its start on.
    std::fs::write(conf.with_file_name("standby.signal"), "").expect("written");
    let server = PostgresServer::start(&folder).await.expect("a standby");
    let url = server.url("pictures");
    let base = [
        (Setting::DatabaseUrl, url.as_str()),
        (Setting::DryRun, "true"),
    ];
    let with = |more: &[(Setting, &'static str)]| [&base[..], more].concat();
    assert_eq!(guards(&world.run(&base).await), ["standby"]);
    let replica = (Setting::AllowReplica, "true");
    let behind = world
        .run(&with(&[replica, (Setting::MaxReplicaLag, "0s")]))
        .await;
    assert_eq!(guards(&behind), ["replica_lag"], "{behind:?}");
    let near = world
        .run(&with(&[replica, (Setting::MaxReplicaLag, "1h")]))
        .await;
    assert_eq!(near.summary.status, Status::DryRun, "{near:?}");
    server.stop().await.expect("stopped");
}
