//! Forgotten references: a column that the query does not read and that names orphans blocks
//! the sweep, however the name is written there; and nothing else does.
#![cfg(feature = "demo")]

mod support;

use orphan_sweeper::local::s3::Operation;
use orphan_sweeper::run::Report;
use orphan_sweeper::settings::Setting;
use orphan_sweeper::summary::Status;
use sqlx::{Connection as _, Executor as _, PgConnection};
use support::World;
use support::program::{Environment, reader};

/// Referenced images, and orphans in the same folder, so that no other guard says no.
async fn world(orphans: &[&str]) -> World {
    let world = World::new().await;
    let kept: Vec<String> = (0..=orphans.len())
        .map(|index| format!("images/kept-{index:05}.png"))
        .collect();
    world
        .put_named(&kept.iter().map(String::as_str).collect::<Vec<_>>(), 48)
        .await;
    for key in orphans {
        world.put(key, 48);
    }
    world
}

fn deletions(world: &World) -> usize {
    world.server.count(Operation::DeleteObjects) + world.server.count(Operation::DeleteObject)
}

/// What the guard says, of a run that it refused.
#[track_caller]
fn hint(report: &Report) -> &str {
    assert_eq!(report.summary.status, Status::Refused, "{report:?}");
    let refusal = report
        .refusals
        .iter()
        .find(|refusal| refusal.guard == "forgotten_reference")
        .unwrap_or_else(|| panic!("{report:?}"));
    &refusal.hint
}

/// A column's type, a value in it, the orphan that it names, and words of the answer.
const NAMED: &[(&str, &str, &str, &[&str])] = &[
    (
        "text",
        "'images/portrait-1.png'",
        "images/portrait-1.png",
        &["add to the query: UNION ALL SELECT held FROM public.users"],
    ),
    (
        "varchar(80)",
        "'portrait-1.png'",
        "images/portrait-1.png",
        &["UNION ALL SELECT 'images/' || held FROM public.users"],
    ),
    (
        "text",
        "'/images/portrait-1.png'",
        "images/portrait-1.png",
        &["UNION ALL SELECT ltrim(held, '/') FROM public.users"],
    ),
    (
        "text",
        "'https://cdn.example.com/images/portrait-1.png?X-Amz-Signature=secret'",
        "images/portrait-1.png",
        &["as 'https://cdn.example.com/images/portrait-1.png' for"],
    ),
    (
        "text",
        "'https://cdn.example.com/images%2Fportrait%201.png'",
        "images/portrait 1.png",
        &[],
    ),
    (
        "text",
        "'https://cdn.example.com/images/portrait+1.png'",
        "images/portrait 1.png",
        &[],
    ),
    (
        "text",
        "'https://cdn.example.com/images/%ea%b3%a0%ec%96%91%ec%9d%b4.png'",
        "images/고양이.png",
        &[],
    ),
    (
        "text",
        "'<p>Look: <img src=\"/media/portrait-1.png\"></p>'",
        "images/portrait-1.png",
        &[],
    ),
    (
        "text[]",
        "ARRAY['x', 'images/portrait 1.png']",
        "images/portrait 1.png",
        &["UNION ALL SELECT unnest(held) FROM public.users"],
    ),
    (
        "jsonb",
        "'{\"profile\": {\"photos\": [\"images/portrait-1.png\"]}}'",
        "images/portrait-1.png",
        &[],
    ),
    (
        "json",
        "'{\"photo\": \"images\\/\\uace0\\uc591\\uc774-\\u00e9.png\"}'",
        "images/고양이-é.png",
        &[],
    ),
    ("text", "'7.png'", "images/7.png", &["'images/' || held"]),
    ("text", "'avatars/7.png'", "images/7.png", &[]),
    (
        "char(40)",
        "'images/portrait-1.png'",
        "images/portrait-1.png",
        &[],
    ),
    (
        "path_of_image",
        "'images/portrait-1.png'",
        "images/portrait-1.png",
        &[],
    ),
];

#[tokio::test]
async fn a_name_in_any_type_and_spelling_blocks_the_first_sweep() {
    for (kind, value, orphan, words) in NAMED {
        let world = world(&[orphan]).await;
        world
            .sql(&format!(
                "CREATE DOMAIN path_of_image AS text; CREATE TABLE users (id int, held {kind}); INSERT INTO users VALUES (1, {value}), (2, NULL)"
            ))
            .await;
        let report = world.run(&[]).await;
        let hint = hint(&report);
        assert!(
            hint.contains("1 of 1 sampled orphans is named in public.users.held, which the references query does not read"),
            "{kind} {value}: {hint}"
        );
        assert!(
            hint.contains("--not-a-reference public.users.held"),
            "{hint}"
        );
        for word in *words {
            assert!(hint.contains(word), "{kind} {value}: {hint}");
        }
        assert!(!hint.contains("secret"), "{hint}");
        let refusal = report.summary.refusal.as_ref().expect("a refusal");
        assert_eq!((refusal.value, refusal.limit), (1.0, 0.0));
        assert_eq!(refusal.examples[0].as_str(), *orphan);
        assert_eq!(deletions(&world), 0, "{kind} {value}");

        // A refused run is no baseline: the next one is blocked, too.
        assert_eq!(world.run(&[]).await.summary.status, Status::Refused);
        let said = world
            .run(&[(Setting::NotAReference, "public.users.held")])
            .await;
        assert_eq!(said.summary.counts.deleted, 1, "{said:?}");
    }
}

#[tokio::test]
async fn what_only_looks_like_a_name_of_an_orphan_blocks_nothing() {
    let world = world(&["images/left/cat-picture.png", "images/left/7.png"]).await;
    world.put_named(&["thumbs/cat-picture.png"], 48).await;
    world
        .sql(
            "CREATE TABLE notes (body text); INSERT INTO notes VALUES \
             ('my-cat-picture.png'), ('cat-picture.png.bak'), ('thumbs/cat-picture.png'), ('https://cdn.example.com/thumbs/cat-picture.png'), \
             ('17.png'), ('see 7.pngs'), ('cat-picture_png'), (NULL), (''); \
             CREATE TABLE numbers (n int, at timestamptz); INSERT INTO numbers VALUES (7, now())",
        )
        .await;
    let report = world.run(&[]).await;
    assert_eq!(report.summary.status, Status::Completed, "{report:?}");
    assert_eq!(report.summary.counts.deleted, 2);
}

#[tokio::test]
async fn the_query_that_reads_the_column_is_not_blocked() {
    let world = world(&["images/portrait-1.png", "images/left.png"]).await;
    world
        .sql("CREATE TABLE users (avatar text); INSERT INTO users VALUES ('portrait-1.png')")
        .await;
    let report = world.run(&[]).await;
    let hint = hint(&report).to_owned();
    let (_, added) = hint.split_once("add to the query: ").expect("a remedy");
    let (added, _) = added.split_once(". Let").expect("an end");
    // The words of the answer mend the query.
    let query = format!("SELECT name FROM images {added}");
    let report = world.run(&[(Setting::References, &query)]).await;
    assert_eq!(
        report.summary.status,
        Status::Completed,
        "{query}: {report:?}"
    );
    assert_eq!(report.summary.counts.deleted, 1);
    assert!(world.keys().contains(&"images/portrait-1.png".to_owned()));
}

#[tokio::test]
async fn rows_that_the_query_leaves_out_and_other_spellings_are_told_apart() {
    let world = world(&["images/portrait-1.png"]).await;
    world.sql("ALTER TABLE images ADD COLUMN deleted_at timestamptz, ADD COLUMN thumb text; INSERT INTO images (name, deleted_at) VALUES ('images/portrait-1.png', now())").await;
    let query = "SELECT name FROM images WHERE deleted_at IS NULL";
    let report = world.run(&[(Setting::References, query)]).await;
    assert!(
        hint(&report).contains("public.images.name, in rows that the references query leaves out"),
        "{}",
        hint(&report)
    );
    // What a function reads is read, too.
    world
        .sql("CREATE FUNCTION living() RETURNS SETOF text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN QUERY SELECT name::text FROM images WHERE deleted_at IS NULL; END $$")
        .await;
    world
        .sql("CREATE TABLE posts (id int); INSERT INTO posts SELECT generate_series(1, 4); CREATE FUNCTION nth(int) RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN (SELECT name FROM images WHERE deleted_at IS NULL ORDER BY name LIMIT 1 OFFSET $1 - 1); END $$")
        .await;
    for query in ["SELECT living()", "SELECT nth(id) FROM posts"] {
        let report = world.run(&[(Setting::References, query)]).await;
        assert!(
            hint(&report).contains("public.images.name, a column or rows that the references query leaves out of a table that it reads"),
            "{}",
            hint(&report)
        );
    }
    // One that fails there, or takes too long, tells of nothing. (The run reads otherwise isolated.)
    world
        .sql("CREATE OR REPLACE FUNCTION living() RETURNS SETOF text LANGUAGE plpgsql STABLE AS $$ BEGIN IF current_setting('transaction_isolation') = 'read committed' THEN RAISE 'not now'; END IF; RETURN QUERY SELECT name::text FROM images WHERE deleted_at IS NULL; END $$")
        .await;
    let report = world.run(&[(Setting::References, "SELECT living()")]).await;
    assert!(
        hint(&report).contains("public.images.name, which the references query does not read, unless a function of it does, which failed or took too long"),
        "{}",
        hint(&report)
    );
    world
        .sql("UPDATE images SET name = 'x', thumb = name WHERE deleted_at IS NOT NULL")
        .await;
    let report = world.run(&[(Setting::References, query)]).await;
    assert!(
        hint(&report).contains("public.images.thumb, a column or rows that the references query leaves out of a table that it reads"),
        "{}",
        hint(&report)
    );
    world
        .sql("UPDATE images SET name = '/' || thumb, thumb = NULL, deleted_at = NULL WHERE thumb IS NOT NULL")
        .await;
    let report = world.run(&[(Setting::References, query)]).await;
    assert!(
        hint(&report).contains("public.images.name, which the references query reads, but in another spelling (as '/images/portrait-1.png' for images/portrait-1.png)"),
        "{}",
        hint(&report)
    );
    assert_eq!(deletions(&world), 0);
}

#[tokio::test]
async fn a_row_of_this_moment_is_no_forgotten_one() {
    let world = world(&["images/portrait-1.png"]).await;
    let url = world.database.url().to_owned();
    // Behind the snapshot.
    world
        .server
        .on_request(Operation::ListObjectsV2, move |_, record| {
            let url = url.clone();
            async move {
                if record.nth == 1 {
                    let mut connection = PgConnection::connect(&url).await.expect("connected");
                    connection
                        .execute("INSERT INTO images (name) VALUES ('images/portrait-1.png')")
                        .await
                        .expect("run");
                }
            }
        });
    let report = world.run(&[]).await;
    assert!(
        hint(&report).contains("public.images.name, in rows whose names the snapshot of this run does not hold so: they were committed since (the next run sees them)"),
        "{}",
        hint(&report)
    );
    assert_eq!(world.run(&[]).await.summary.status, Status::Completed);
    assert_eq!(deletions(&world), 0);
}

#[tokio::test]
async fn the_answer_counts_the_orphans_of_the_sample() {
    let keys: Vec<String> = (0..70)
        .map(|index| format!("images/avatar-{index:03}.png"))
        .collect();
    let world = world(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
    world
        .sql("CREATE SCHEMA \"Audit\"; CREATE TABLE \"Audit\".\"Log\" (\"Payload\" jsonb); INSERT INTO \"Audit\".\"Log\" SELECT jsonb_build_object('avatar', 'avatar-' || lpad(n::text, 3, '0') || '.png') FROM generate_series(0, 69) n")
        .await;
    let report = world.run(&[(Setting::MaxOrphanPercent, "100")]).await;
    let hint = hint(&report);
    assert!(
        hint.contains("50 of 50 sampled orphans are named in Audit.Log.Payload"),
        "{hint}"
    );
    let refusal = report.summary.refusal.as_ref().expect("a refusal");
    assert_eq!((refusal.value, refusal.examples.len()), (50.0, 3));
}

#[tokio::test]
async fn later_runs_search_until_enough_was_looked_for_and_to_explain_a_refusal() {
    let keys: Vec<String> = (0..30)
        .map(|index| format!("images/portrait-{index:03}.png"))
        .collect();
    let world = world(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let one = (Setting::MaxDelete, "1");
    let mention = "CREATE TABLE users (avatar text); INSERT INTO users VALUES ('portrait-020.png')";
    world.sql(mention).await;
    // Whoever only looks decides nothing, however often.
    for look in [(Setting::DryRun, "true"), (Setting::MaxDelete, "0")] {
        for _ in 0..3 {
            let looked = world
                .run(&[look, (Setting::NotAReference, "public.users.avatar")])
                .await;
            assert!(looked.refusals.is_empty(), "{looked:?}");
        }
    }
    assert!(hint(&world.run(&[one]).await).contains("1 of 30"));
    world.sql("DROP TABLE users").await;
    assert_eq!(world.run(&[one]).await.summary.counts.deleted, 1);
    world.sql(mention).await;
    // 30 of 50 were looked for.
    assert!(hint(&world.run(&[one]).await).contains("1 of 29"));
    world.sql("DROP TABLE users").await;
    assert_eq!(world.run(&[one]).await.summary.counts.deleted, 1);
    world.sql(mention).await;
    assert_eq!(world.run(&[one]).await.summary.counts.deleted, 1);
    // Other rules begin anew.
    let allowed = (Setting::NotAReference, "public.others.name");
    assert!(hint(&world.run(&[one, allowed]).await).contains("1 of 27"));
    // So do other schemas: the same names may be those of other tables.
    let path = |path: &str| {
        format!(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I {path}', current_database()); END $$"
        )
    };
    world
        .sql(&format!(
            "CREATE SCHEMA tenant; {}",
            path("SET search_path = tenant, public")
        ))
        .await;
    assert!(hint(&world.run(&[one]).await).contains("1 of 27"));
    world.sql(&path("RESET search_path")).await;
    let refused = world.run(&[(Setting::MaxOrphanPercent, "1")]).await;
    let guards: Vec<&str> = refused
        .refusals
        .iter()
        .map(|refusal| refusal.guard)
        .collect();
    assert_eq!(guards, ["orphan_percent", "forgotten_reference"]);
    // Another query begins anew.
    let other = world
        .run(&[(Setting::References, "SELECT name FROM images WHERE true")])
        .await;
    assert!(hint(&other).contains("public.users.avatar"));
    assert_eq!(other.summary.counts.deleted, 0);
}

#[tokio::test]
async fn a_search_that_did_not_come_to_its_end_is_made_again() {
    let keys: Vec<String> = (0..60)
        .map(|index| format!("images/portrait-{index:03}.png"))
        .collect();
    let world = world(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
    world
        .sql("CREATE TABLE users (avatar text); INSERT INTO users SELECT 'portrait-0' || n || '.png' FROM generate_series(10, 59) n")
        .await;
    // As a migration at midnight does, for longer than a column is waited for.
    let mut migration = world.connect().await;
    migration.execute("BEGIN").await.expect("begun");
    migration
        .execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        .await
        .expect("locked");
    let first = world.run(&[(Setting::MaxDelete, "1")]).await;
    assert_eq!(first.summary.counts.deleted, 1, "{first:?}");
    migration.execute("ROLLBACK").await.expect("ended");
    let second = world.run(&[(Setting::MaxDelete, "1")]).await;
    assert!(hint(&second).contains("public.users.avatar"), "{second:?}");
    assert_eq!(second.summary.counts.deleted, 0);
}

/// A column that fails is not the end of the search, wherever it stands.
#[tokio::test]
async fn a_column_that_cannot_be_read_to_its_end_is_skipped() {
    let world = world(&["images/portrait-1.png"]).await;
    let hidden = "CREATE TABLE hidden_0 (name text); ALTER TABLE hidden_0 ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON hidden_0 USING (true)";
    let again = hidden.replace("hidden_0", "hidden_1");
    world
        .sql(&format!("{hidden}; {again}; CREATE TABLE users (avatar text); INSERT INTO users VALUES ('portrait-1.png')"))
        .await;
    let url = reader(&world, "reader").await;
    world
        .sql(&format!(
            "GRANT SELECT ON hidden_0, hidden_1, users TO {}",
            url.username()
        ))
        .await;
    let as_reader = [(Setting::DatabaseUrl, url.as_str())];
    let report = world.run(&as_reader).await;
    assert!(
        hint(&report).contains("named in public.users.avatar, which"),
        "{}",
        hint(&report)
    );
    // Without it nothing is found, and the search does not end the run.
    world.sql("DROP TABLE users").await;
    let report = world.run(&as_reader).await;
    assert_eq!(report.summary.status, Status::Completed, "{report:?}");
}

/// The role may not be able to read what is behind the view that the query reads.
#[tokio::test]
async fn a_view_that_the_query_reads_is_searched_for_other_spellings() {
    let world = world(&["images/portrait-1.png"]).await;
    world
        .sql("CREATE VIEW named AS SELECT name FROM images; INSERT INTO images VALUES ('/images/portrait-1.png')")
        .await;
    let url = reader(&world, "reader").await;
    world
        .sql(&format!(
            "REVOKE ALL ON images FROM {0}; GRANT SELECT ON named TO {0}",
            url.username()
        ))
        .await;
    let report = world
        .run(&[
            (Setting::DatabaseUrl, url.as_str()),
            (Setting::References, "SELECT name FROM named"),
        ])
        .await;
    assert!(
        hint(&report).contains(
            "public.named.name, which the references query reads, but in another spelling"
        ),
        "{}",
        hint(&report)
    );
    assert_eq!(deletions(&world), 0);
}

#[tokio::test]
async fn what_may_not_be_read_or_takes_too_long_is_said_and_stops_nothing() {
    let world = world(&["images/portrait-1.png"]).await;
    world
        .sql("CREATE TABLE users (avatar text); INSERT INTO users VALUES ('portrait-1.png'); CREATE SCHEMA secret; CREATE TABLE secret.users (avatar text)")
        .await;
    let url = reader(&world, "reader").await;
    let environment = Environment::of(&world).with(&[("DATABASE_URL", url.as_str())]);
    let ended = environment.cli(&["doctor", "--output", "json"]).await;
    let findings = ended.json();
    let about = |about: &str| -> Vec<String> {
        let findings = findings.as_array().expect("a list").iter();
        findings
            .filter(|finding| finding["about"] == about)
            .map(|finding| format!("{}: {}", finding["verdict"], finding["message"]))
            .collect()
    };
    let references = about("references").join("\n");
    assert!(
        references
            .contains("none of 1 sampled objects without a reference is named in any of 1 columns"),
        "{references}"
    );
    for column in ["public.users.avatar", "secret.users.avatar"] {
        assert!(
            references.contains(&format!("{column} (the role may not read it)")),
            "{references}"
        );
    }
    assert!(
        about("role")[0].contains("it can read, and nothing else"),
        "{findings}"
    );
    assert!(about("transactions")[0].contains("sleeps"), "{findings}");

    // The owner can do too much, and sees everything.
    let ended = Environment::of(&world)
        .cli(&["doctor", "--output", "json"])
        .await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let said = ended.stdout;
    for word in [
        "1 of 1 sampled orphans is named in public.users.avatar",
        "the role is a superuser",
        "can write to 3 tables",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
}
