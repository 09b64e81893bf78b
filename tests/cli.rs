//! The real command-line program: what it prints, what it writes, and its exit codes.
#![cfg(feature = "demo")]

mod support;

use std::path::Path;

use orphan_sweeper::local::s3::{Effect, Fault, Operation, Versioning};
use serde_json::{Value, json};
use support::program::{Ended, Environment, files, reader};
use support::{BUCKET, World, ago};
use tokio::sync::mpsc;

/// Two referenced images and one orphan.
async fn world() -> World {
    let world = World::new().await;
    world.put("images/orphan.png", 100);
    world.put_named(&["images/a.png", "images/b.png"], 48).await;
    world
}

/// The summary that was printed, which must be the ledger's, too.
#[track_caller]
fn summary(ended: &Ended) -> Value {
    let printed = ended.json();
    let file = Path::new(printed["report"].as_str().expect("a place")).join("summary.json");
    let written = std::fs::read_to_string(file).expect("a summary");
    assert_eq!(ended.stdout, written, "the ledger says what was printed");
    printed
}

#[tokio::test]
async fn a_plan_deletes_nothing_and_a_sweep_the_orphans() {
    let world = world().await;
    let environment = Environment::of(&world).with(&[("SWEEPER_DRY_RUN", "false")]);
    for arguments in [
        &["plan", "--output", "json"][..],
        &["sweep", "--dry-run", "--output=json"],
        &["plan", "--dry-run"],
    ] {
        let ended = environment.cli(arguments).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert_eq!(ended.stderr, "", "{arguments:?}");
        let summary = summary(&ended);
        assert_eq!(
            (&summary["status"], &summary["deferred"]),
            (&json!("dry_run"), &json!(1))
        );
        assert_eq!(world.keys().len(), 3, "{arguments:?}");
        assert_eq!(
            world.server.count(Operation::DeleteObjects),
            0,
            "{arguments:?}"
        );
    }
    for deleted in [1, 0] {
        let ended = environment.cli(&["sweep"]).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert_eq!(ended.stderr, "");
        let summary = summary(&ended);
        assert_eq!(
            (&summary["status"], &summary["deleted"]),
            (&json!("completed"), &json!(deleted))
        );
    }
    assert_eq!(world.keys(), ["images/a.png", "images/b.png"]);
}

#[tokio::test]
async fn each_ending_has_its_exit_code() {
    let world = world().await;
    let environment = || Environment::of(&world);
    let usage = environment().cli(&["sweep", "--no-such-flag"]).await;
    assert_eq!((usage.code, usage.stdout.as_str()), (Some(2), ""));
    for arguments in [
        &[][..],
        &["swep"],
        &["sweep", "surplus"],
        &["sweep", "--output", "xml"],
        &["sweep", "--max-delete"],
        &["sweep", "--bucket", "a", "--bucket", "b"],
    ] {
        let ended = environment().cli(arguments).await;
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (Some(2), ""),
            "{arguments:?}"
        );
        assert!(!ended.stderr.is_empty());
    }

    // A dry run that a guard would refuse is refused, too.
    for command in ["sweep", "plan"] {
        let ended = environment()
            .cli(&[command, "--max-orphan-percent", "10"])
            .await;
        assert_eq!(ended.code, Some(3), "{ended:?}");
        let summary = summary(&ended);
        assert_eq!(summary["status"], "refused");
        assert_eq!(summary["refusal"]["guard"], "orphan_percent");
    }

    let failed = environment().cli(&["sweep", "--bucket", "missing"]).await;
    assert_eq!(failed.code, Some(1));
    assert_eq!(summary(&failed)["errors"][0]["code"], "Storage");
    assert!(failed.stderr.contains("NoSuchBucket"), "{failed:?}");

    world.server.inject(
        Fault::new(Operation::DeleteObjects, Effect::KeyError("AccessDenied"))
            .key("images/orphan.png"),
    );
    let incomplete = environment().cli(&["sweep"]).await;
    assert_eq!(incomplete.code, Some(4));
    let printed = summary(&incomplete);
    assert_eq!(
        (&printed["status"], &printed["failed"]),
        (&json!("incomplete"), &json!(1))
    );
    assert_eq!(world.keys().len(), 3);
}

#[tokio::test]
async fn a_ledger_that_cannot_be_written_fails_before_anything_is_deleted() {
    let world = world().await;
    let file = world.ledger.path().join("file");
    std::fs::write(&file, "").expect("written");
    let environment =
        Environment::of(&world).with(&[("SWEEPER_REPORT", &file.display().to_string())]);
    let ended = environment.cli(&["sweep"]).await;
    assert_eq!(ended.code, Some(1));
    assert_eq!(ended.json()["errors"][0]["code"], "Ledger");
    assert_eq!(world.keys().len(), 3);
}

#[tokio::test]
async fn interrupted_while_listing_nothing_is_deleted() {
    for held in [Operation::GetBucketVersioning, Operation::ListObjectsV2] {
        let world = world().await;
        let (reached, mut arrivals) = mpsc::unbounded_channel();
        world.server.on_request(held, move |_, _| {
            reached.send(()).expect("the test goes on");
            std::future::pending()
        });
        let sweeping = Environment::of(&world).start_cli(&["sweep"]);
        arrivals.recv().await.expect("a request");
        sweeping.interrupt().await;
        let ended = sweeping.end().await;
        assert_eq!(ended.code, Some(130), "{held}: {ended:?}");
        assert!(
            ended.stderr.starts_with("orphan-sweeper: stopping"),
            "{ended:?}"
        );
        let summary = summary(&ended);
        assert_eq!(
            (&summary["status"], &summary["deleted"]),
            (&json!("incomplete"), &json!(0))
        );
        assert_eq!(world.keys().len(), 3);
    }
}

#[tokio::test]
async fn interrupted_while_sweeping_what_is_under_way_is_finished_and_recorded() {
    const ORPHANS: u64 = 2_500;
    let world = World::new().await;
    for n in 0..ORPHANS {
        world.server.insert_listed(
            BUCKET,
            format!("{n:04}.png"),
            1,
            "0123456789abcdef0123456789abcdef",
            ago(100),
        );
    }
    world.put_named(&["named.png"], 48).await;
    let (reached, mut arrivals) = mpsc::unbounded_channel();
    let (release, released) = tokio::sync::watch::channel(false);
    world
        .server
        .on_request(Operation::DeleteObjects, move |_, record| {
            let (reached, mut released) = (reached.clone(), released.clone());
            async move {
                // The first is the probe, the second the first batch.
                if record.nth == 2 {
                    reached.send(()).expect("the test goes on");
                    released
                        .wait_for(|released| *released)
                        .await
                        .expect("released");
                }
            }
        });
    let environment = Environment::of(&world);
    let mut sweeping =
        environment.start_cli(&["sweep", "--max-orphan-percent", "100", "--concurrency", "1"]);
    arrivals.recv().await.expect("a batch");
    sweeping.interrupt().await;
    sweeping.says("stopping after what is under way").await;
    release.send(true).expect("sent");
    let ended = sweeping.end().await;
    assert_eq!(ended.code, Some(130), "{ended:?}");
    let summary = summary(&ended);
    assert_eq!(summary["status"], "incomplete");
    assert_eq!(
        (&summary["deleted"], &summary["deferred"]),
        (&json!(1_000), &json!(1_500))
    );
    assert_eq!(world.server.len(BUCKET), 1_501);
    let outcomes = Path::new(summary["report"].as_str().expect("a place")).join("outcomes");
    assert_eq!(files(&outcomes).len(), 1);
}

#[tokio::test]
async fn a_second_interrupt_ends_it_at_once() {
    let world = world().await;
    let (reached, mut arrivals) = mpsc::unbounded_channel();
    world
        .server
        .on_request(Operation::DeleteObjects, move |_, record| {
            let reached = reached.clone();
            async move {
                if record.nth == 2 {
                    reached.send(()).expect("the test goes on");
                    std::future::pending::<()>().await;
                }
            }
        });
    let mut sweeping = Environment::of(&world).start_cli(&["sweep"]);
    arrivals.recv().await.expect("a batch");
    sweeping.interrupt().await;
    sweeping.says("once more to stop at once").await;
    sweeping.interrupt().await;
    let ended = sweeping.end().await;
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (Some(130), ""),
        "{ended:?}"
    );
    assert_eq!(world.keys().len(), 3);
}

#[tokio::test]
async fn however_much_is_logged_standard_output_stays_clean_and_the_password_secret() {
    const PASSWORD: &str = "Tr0ub4dor-and-3-horses";
    let world = world().await;
    let url = reader(&world, PASSWORD).await;
    let environment = Environment::of(&world).with(&[("DATABASE_URL", url.as_str())]);
    let ended = environment.cli(&["plan", "--verbose"]).await;
    assert!(ended.stderr.contains("started a run"), "{ended:?}");
    assert_eq!(summary(&ended)["status"], "dry_run");

    let environment = environment.with(&[("RUST_LOG", "trace")]);
    for command in ["plan", "doctor"] {
        let ended = environment.cli(&[command]).await;
        assert_eq!(ended.code, Some(0), "{}", ended.stdout);
        ended.json();
        assert!(ended.stderr.contains("DEBUG"));
        assert!(!ended.stderr.contains("Tr0ub4dor"), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn a_glob_that_excludes_nothing_is_told_of() {
    let world = world().await;
    world.put("images/logo.svg", 48);
    world.put("notes.txt", 48);
    let environment = Environment::of(&world);
    let unused = "no object below the prefix matches a glob of --exclude";
    for (globs, told) in [
        (&["*.svg", "images/logo*", "*.txt"][..], &[][..]),
        (&["*.svg", "logo/*", "*.text"], &["logo/*", "*.text"]),
    ] {
        let mut arguments = vec!["plan"];
        for glob in globs {
            arguments.extend(["--exclude", glob]);
        }
        let ended = environment.cli(&arguments).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let lines: Vec<&str> = ended
            .stderr
            .lines()
            .filter(|line| line.contains(unused))
            .collect();
        assert_eq!(lines.len(), told.len(), "{lines:?}");
        for (line, glob) in lines.iter().zip(told) {
            assert!(line.contains(glob), "{line}");
        }
        // A part sees only a part.
        arguments.extend(["--up-to", "a"]);
        let ended = environment.cli(&arguments).await;
        assert!(!ended.stderr.contains(unused), "{ended:?}");
    }
}

#[tokio::test]
async fn text_is_for_people() {
    let world = world().await;
    let environment = Environment::of(&world);
    for (arguments, headline, words) in [
        (
            &["plan"][..],
            "planned, nothing deleted: pictures in ",
            &["orphans", "deferred"][..],
        ),
        (
            &["plan", "--prefix", "images"],
            "planned, nothing deleted: pictures/images/ in ",
            &["listed"],
        ),
        (
            &["sweep", "--max-orphan-percent", "10"],
            "refused, nothing deleted: pictures in ",
            &[
                "guard orphan_percent: 33.33 (limit 10)",
                "--max-orphan-percent",
                "for example images/orphan.png",
            ],
        ),
        (
            &["sweep", "--bucket", "missing"],
            "failed: missing in ",
            &["Storage: ", "NoSuchBucket"],
        ),
        (
            &["sweep"],
            "swept pictures in ",
            &[
                "deleted",
                "report  ",
                "freed now",
                "recoverable",
                "restore 0",
            ],
        ),
    ] {
        let ended = environment
            .cli(&[arguments, &["--output", "text"]].concat())
            .await;
        assert!(ended.stdout.starts_with(headline), "{ended:?}");
        for word in words {
            assert!(ended.stdout.contains(word), "{word}: {ended:?}");
        }
    }
}

#[tokio::test]
async fn a_flag_wins_over_the_environment_and_an_empty_variable_is_unset() {
    let world = world().await;
    let environment = Environment::of(&world).with(&[
        ("SWEEPER_BUCKET", "missing"),
        ("SWEEPER_INCLUDE", "*.gif"),
        ("SWEEPER_MIN_AGE", "999h"),
        ("SWEEPER_PREFIX", ""),
        ("SWEEPER_MAX_DELETE", ""),
        ("SWEEPER_DRY_RUN", ""),
        ("SWEEPER_REFERENCES", ""),
    ]);
    let ended = environment
        .cli(&[
            "sweep",
            "--bucket",
            BUCKET,
            "--include",
            "*.png",
            "--min-age",
            "24h",
        ])
        .await;
    assert_eq!(summary(&ended)["deleted"], 1);
    assert_eq!(world.keys(), ["images/a.png", "images/b.png"]);
}

#[tokio::test]
async fn the_ledger_is_in_the_users_state_folder_by_default() {
    let world = world().await;
    let environment = Environment::of(&world).without("SWEEPER_REPORT");
    let state = environment.home().join("state");
    let at = |environment: Environment, folder: std::path::PathBuf| async move {
        let ended = environment.cli(&["plan"]).await;
        let report = summary(&ended)["report"]
            .as_str()
            .expect("a place")
            .to_owned();
        assert!(
            Path::new(&report).starts_with(folder.join("orphan-sweeper/runs")),
            "{report}"
        );
        environment
    };
    let home = environment.home().join(".local/state");
    let environment = at(environment, home.clone()).await;
    // The specification ignores a relative path.
    let environment = at(environment.with(&[("XDG_STATE_HOME", "relative")]), home).await;
    at(
        environment.with(&[("XDG_STATE_HOME", &state.display().to_string())]),
        state,
    )
    .await;
}

#[tokio::test]
async fn every_help_has_examples() {
    let world = World::new().await;
    for arguments in [
        &["--help"][..],
        &["sweep", "--help"],
        &["plan", "--help"],
        &["doctor", "--help"],
        &["apply", "--help"],
        &["restore", "--help"],
        &["report", "--help"],
        &["demo", "--help"],
    ] {
        let ended = Environment::bare(&world).cli(arguments).await;
        assert_eq!(
            (ended.code, ended.stderr.as_str()),
            (Some(0), ""),
            "{arguments:?}"
        );
        assert!(
            ended.stdout.contains("Examples:\n"),
            "{arguments:?}: {}",
            ended.stdout
        );
        assert!(
            ended
                .stdout
                .contains(&format!("orphan-sweeper {}", arguments[0]).replace(" --help", "")),
            "{arguments:?}"
        );
    }
}

/// What the doctor found: the verdict and the message of each check.
#[track_caller]
fn findings(ended: &Ended) -> Vec<(String, String, String)> {
    let text = |finding: &Value, name: &str| finding[name].as_str().expect("a text").to_owned();
    let findings = ended.json();
    let found: Vec<_> = findings
        .as_array()
        .expect("a list")
        .iter()
        .map(|finding| {
            (
                text(finding, "about"),
                text(finding, "verdict"),
                text(finding, "message"),
            )
        })
        .collect();
    let problem = found.iter().any(|(_, verdict, _)| verdict == "problem");
    assert_eq!(ended.code, Some(i32::from(problem)), "{ended:?}");
    assert_eq!(ended.stderr, "");
    for (about, _, message) in &found {
        assert!(
            !message.is_empty() && !message.contains('\n'),
            "{about}: {message}"
        );
    }
    found
}

#[track_caller]
fn finding<'found>(
    found: &'found [(String, String, String)],
    about: &str,
) -> (&'found str, &'found str) {
    found.iter().find(|(name, ..)| name == about).map_or_else(
        || panic!("{about}: {found:?}"),
        |(_, verdict, message)| (verdict.as_str(), message.as_str()),
    )
}

/// An index that serves the order, so that nothing is left to say.
async fn healthy() -> World {
    let world = world().await;
    world
        .sql("CREATE INDEX ON images (name COLLATE \"C\")")
        .await;
    world
}

#[tokio::test]
async fn the_doctor_finds_a_healthy_world_healthy_and_changes_nothing() {
    let world = healthy().await;
    world.server.expire_noncurrent_after(BUCKET, "", 30);
    world.server.create_bucket("ledgers");
    for report in [
        world.ledger.path().display().to_string(),
        "s3://ledgers/sweeper".to_owned(),
    ] {
        let environment = Environment::of(&world).with(&[("SWEEPER_REPORT", &report)]);
        let found = findings(&environment.cli(&["doctor"]).await);
        for about in [
            "bucket",
            "versioning",
            "undo",
            "uploads",
            "listing",
            "s3:GetObject",
            "s3:DeleteObject",
            "database",
            "tls",
            "order",
            "matching",
            "report",
        ] {
            assert_eq!(finding(&found, about).0, "ok", "{about}: {found:?}");
        }
    }
    assert_eq!(
        world.keys(),
        ["images/a.png", "images/b.png", "images/orphan.png"]
    );
    // What it tried to write is no run.
    assert_eq!(world.server.keys("ledgers"), ["sweeper/doctor.txt"]);
    assert_eq!(
        files(world.ledger.path()),
        [world.ledger.path().join("doctor.txt")]
    );
    for key in world.keys() {
        assert_eq!(world.server.versions(BUCKET, &key).len(), 1, "{key}");
    }

    let text = Environment::of(&world)
        .cli(&["doctor", "--output", "text"])
        .await;
    assert_eq!((text.code, text.stderr.as_str()), (Some(0), ""));
    assert!(
        text.stdout
            .lines()
            .all(|line| line.starts_with("ok ") || line.starts_with("warning ")),
        "{text:?}"
    );
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one sickness after the other")]
async fn the_doctor_names_each_sickness_in_one_line() {
    let world = healthy().await;
    let denied = |operation| {
        world.server.heal();
        world
            .server
            .inject(Fault::new(operation, Effect::access_denied()));
    };
    let doctor = async |variables: &[(&str, &str)]| {
        let environment = Environment::of(&world).with(variables);
        let found = findings(&environment.cli(&["doctor"]).await);
        let text = environment.cli(&["doctor", "--output", "text"]).await;
        assert_eq!(text.stdout.lines().count(), found.len(), "{text:?}");
        assert_eq!(text.code, Some(1), "{found:?}");
        found
    };
    for (operation, about) in [
        (Operation::GetBucketVersioning, "bucket"),
        (Operation::ListObjectsV2, "listing"),
        (Operation::HeadObject, "s3:GetObject"),
        (Operation::DeleteObjects, "s3:DeleteObject"),
    ] {
        denied(operation);
        let found = doctor(&[]).await;
        let (verdict, message) = finding(&found, about);
        assert_eq!(verdict, "problem", "{about}");
        assert!(message.contains("AccessDenied"), "{about}: {message}");
        let problems = found.iter().filter(|(_, verdict, _)| verdict == "problem");
        assert_eq!(problems.count(), 1, "{found:?}");
        // Without a sample nothing was looked for.
        let sampled = operation != Operation::ListObjectsV2;
        let looked = found.iter().any(|(about, ..)| about == "references");
        assert_eq!(looked, sampled, "{operation:?}: {found:?}");
    }
    world.server.create_bucket("ledgers");
    denied(Operation::PutObject);
    let found = doctor(&[("SWEEPER_REPORT", "s3://ledgers/x")]).await;
    assert!(
        finding(&found, "report").1.contains("AccessDenied"),
        "{found:?}"
    );
    world.server.heal();

    let file = world.ledger.path().join("file");
    std::fs::write(&file, "").expect("written");
    let (file, everything) = (file.display().to_string(), "SELECT name, name FROM images");
    for (variable, value, about, words) in [
        ("SWEEPER_BUCKET", "missing", "bucket", &["NoSuchBucket"][..]),
        ("SWEEPER_REPORT", &file, "report", &[file.as_str()]),
        (
            "SWEEPER_REPORT",
            "s3://missing",
            "report",
            &["NoSuchBucket"],
        ),
        (
            "SWEEPER_REFERENCES",
            "SELECT nothing FROM images",
            "database",
            &["references query", "nothing"],
        ),
        (
            "SWEEPER_REFERENCES",
            everything,
            "database",
            &["exactly one column"],
        ),
        (
            "SWEEPER_REFERENCES",
            "SELECT name FROM images; DELETE FROM images",
            "database",
            &["references query"],
        ),
        (
            "SWEEPER_REFERENCES",
            "SELECT '/' || name FROM images",
            "matching",
            &["0 of 3", "--reference-prefix"],
        ),
        (
            "DATABASE_URL",
            "postgres://u:p@127.0.0.1:1/d",
            "database",
            &["connect"],
        ),
    ] {
        let found = doctor(&[(variable, value)]).await;
        let (verdict, message) = finding(&found, about);
        assert_eq!(verdict, "problem", "{value}: {found:?}");
        for word in words {
            assert!(message.contains(word), "{value}: {message}");
        }
    }

    for (versioning, allow, verdict) in [
        (Versioning::Suspended, "false", "problem"),
        (Versioning::Suspended, "true", "warning"),
    ] {
        world.server.set_versioning(BUCKET, versioning);
        let environment = Environment::of(&world).with(&[("SWEEPER_ALLOW_UNVERSIONED", allow)]);
        let found = findings(&environment.cli(&["doctor"]).await);
        let (said, message) = finding(&found, "versioning");
        assert_eq!(said, verdict);
        assert!(message.contains("--allow-unversioned"), "{message}");
    }
    assert_eq!(world.keys().len(), 3);
}

#[tokio::test]
async fn the_doctor_warns_of_what_is_worth_knowing() {
    let world = healthy().await;
    let _id = world
        .server
        .begin_upload_at(BUCKET, "images/half.png", ago(48));
    for (operation, about, words) in [
        (None, "undo", "for ever"),
        (None, "undo", "put-bucket-lifecycle-configuration"),
        (None, "uploads", "1 multipart uploads"),
        (
            Some(Operation::GetBucketLifecycleConfiguration),
            "undo",
            "s3:GetLifecycleConfiguration",
        ),
        (
            Some(Operation::ListMultipartUploads),
            "uploads",
            "s3:ListBucketMultipartUploads",
        ),
    ] {
        if let Some(operation) = operation {
            let fault = Fault::new(operation, Effect::access_denied());
            world.server.inject(fault);
        }
        let found = findings(&Environment::of(&world).cli(&["doctor"]).await);
        let (verdict, message) = finding(&found, about);
        assert_eq!(verdict, "warning", "{about}: {found:?}");
        assert!(message.contains(words), "{about}: {message}");
        world.server.heal();
    }

    world.server.set_versioning(BUCKET, Versioning::Suspended);
    let environment = Environment::of(&world).with(&[("SWEEPER_ALLOW_UNVERSIONED", "true")]);
    let found = findings(&environment.cli(&["doctor"]).await);
    let (verdict, message) = finding(&found, "undo");
    assert_eq!(verdict, "warning");
    assert!(message.contains("Status=Enabled"), "{message}");
}

#[tokio::test]
async fn the_doctor_advises_no_index_where_none_would_help() {
    let world = world().await;
    world
        .sql("UPDATE images SET name = 's3://pictures/' || name")
        .await;
    let environment = Environment::of(&world).with(&[("SWEEPER_REFERENCE_FORM", "url")]);
    let found = findings(&environment.cli(&["doctor"]).await);
    assert!(
        found.iter().all(|(about, ..)| about != "order"),
        "{found:?}"
    );
    let (verdict, message) = finding(&found, "fresh check");
    assert_eq!(
        (verdict, message),
        (
            "ok",
            "all names are read once more for each window of batches, as they are URLs"
        )
    );
}

#[tokio::test]
async fn the_doctors_statement_makes_the_index_that_it_misses() {
    let world = world().await;
    world
        .sql(
            "CREATE TABLE varchars (name varchar(99)); INSERT INTO varchars SELECT name FROM images;
             CREATE TABLE uuids (id uuid); INSERT INTO uuids VALUES ('018fd0b5-0000-7000-8000-000000000001');
             CREATE SCHEMA \"My Schema\";
             CREATE TABLE \"My Schema\".\"Images\" (\"Name\" text); INSERT INTO \"My Schema\".\"Images\" SELECT name FROM images;
             CREATE TABLE parts (name text) PARTITION BY RANGE (name);
             CREATE TABLE part PARTITION OF parts DEFAULT; INSERT INTO parts SELECT name FROM images;
             CREATE VIEW seen AS SELECT name FROM images;",
        )
        .await;
    let doctor = async |query: &str| {
        let environment = Environment::of(&world).with(&[("SWEEPER_REFERENCES", query)]);
        let found = findings(&environment.cli(&["doctor"]).await);
        let (verdict, message) = finding(&found, "order");
        (verdict.to_owned(), message.to_owned())
    };
    // Neither view nor expression has an index of its own to make.
    for query in ["SELECT lower(name) FROM images", "SELECT name FROM seen"] {
        let (verdict, message) = doctor(query).await;
        assert_eq!(verdict, "warning", "{query}");
        assert!(!message.contains("CREATE INDEX"), "{query}: {message}");
    }
    for query in [
        "SELECT name FROM images",
        "SELECT name FROM varchars WHERE name IS NOT NULL",
        "SELECT id FROM uuids",
        "SELECT \"Name\" FROM \"My Schema\".\"Images\"",
        "SELECT name FROM parts",
    ] {
        let (verdict, message) = doctor(query).await;
        assert_eq!(verdict, "warning", "{query}: {message}");
        let statement = &message[message
            .find("CREATE INDEX")
            .unwrap_or_else(|| panic!("{query}: {message}"))..];
        world.sql(statement).await;
        assert_eq!(
            doctor(query).await,
            (
                "ok".to_owned(),
                "an index yields the names in byte order".to_owned()
            ),
            "{query}: {statement}"
        );
    }
}
