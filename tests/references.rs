//! The database's side: a query that is not what it should be, names that cannot be read, rows
//! that are hidden or lost, all mean zero deletions.
#![cfg(feature = "demo")]

mod support;

use std::time::Duration;

use futures::TryStreamExt as _;
use orphan_sweeper::chain::chain;
use orphan_sweeper::hands::{FreshCheck as _, Identity, ReferenceSnapshot as _, SnapshotError};
use orphan_sweeper::key::ObjectKey;
use orphan_sweeper::local::s3::Operation;
use orphan_sweeper::postgres::{
    Database, DatabaseError, DatabaseUrl, PrimaryCheck, ReferencesQuery, Snapshot, examine,
};
use orphan_sweeper::run::Report;
use orphan_sweeper::settings::Setting;
use orphan_sweeper::summary::Status;
use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};
use support::pooler::{self, Habit};
use support::{World, before_the_fresh_check, failure};
use tokio::time::timeout;

/// Two referenced images and one orphan, all old.
async fn world() -> World {
    let world = World::new().await;
    world.put_named(&["a.png", "b.png"], 48).await;
    world.put("orphan.png", 48);
    world
}

/// The database's name, which is unique in the server.
async fn database(world: &World) -> String {
    let mut connection = world.connect().await;
    let row = connection
        .fetch_one("SELECT current_database()::text")
        .await;
    row.expect("asked").get(0)
}

async fn names(world: &World) -> Vec<String> {
    let rows = sqlx::query("SELECT name FROM images ORDER BY name")
        .fetch_all(&mut world.connect().await)
        .await
        .expect("read");
    rows.iter().map(|row| row.get(0)).collect()
}

fn deletions(world: &World) -> usize {
    world.server.count(Operation::DeleteObjects) + world.server.count(Operation::DeleteObject)
}

#[tokio::test]
async fn a_query_that_is_not_one_reading_statement_with_one_column_is_refused() {
    let world = world().await;
    world.sql("CREATE FUNCTION wipe() RETURNS SETOF text LANGUAGE sql AS 'DELETE FROM images RETURNING name'").await;
    for (query, word) in [
        (
            "SELECT name FROM images; DELETE FROM images",
            "multiple commands",
        ),
        (
            "SELECT name FROM images) r(k)) TO STDOUT; DELETE FROM images; --",
            "syntax error",
        ),
        ("DELETE FROM images RETURNING name", ""),
        (
            "WITH gone AS (DELETE FROM images RETURNING name) SELECT name FROM gone",
            "",
        ),
        ("SELECT wipe()", "read-only transaction"),
        (
            "SELECT name, name FROM images",
            "exactly one column, but yields 2 (name, name)",
        ),
        ("SELECT FROM images", "exactly one column"),
        ("SELECT name FROM images WHERE name > $1", "parameter"),
        ("SELECT name FROM pictures", "does not exist"),
        ("UPDATE images SET name = 'x'", "exactly one column"),
    ] {
        let report = world.run(&[(Setting::References, query)]).await;
        let failure = failure(&report);
        assert!(
            failure.starts_with("Database: ") && failure.contains(word),
            "{query}: {failure}"
        );
        assert_eq!(names(&world).await, ["a.png", "b.png"], "{query}");
        assert_eq!(deletions(&world), 0, "{query}");
    }
}

#[tokio::test]
async fn harmless_ends_of_a_query_do_no_harm() {
    for query in [
        "SELECT name FROM images;",
        "SELECT name FROM images -- all of them",
        "SELECT name FROM images ORDER BY name DESC LIMIT 10 ; ",
    ] {
        let world = world().await;
        let report = world.run(&[(Setting::References, query)]).await;
        assert_eq!(report.summary.counts.deleted, 1, "{query}: {report:?}");
        assert_eq!(world.keys(), ["a.png", "b.png"]);
    }
}

#[tokio::test]
async fn every_type_of_text_is_read_and_nothing_is_skipped_but_null_and_empty() {
    let uuid = "0f8fad5b-d9cb-469f-a165-70867728950e";
    for (column, cast) in [
        ("varchar(60)", ""),
        ("text COLLATE \"en-x-icu\"", ""),
        ("uuid", "::uuid"),
        ("char(36)", ""),
    ] {
        let world = World::new().await;
        world.sql(&format!("DROP TABLE images; CREATE TABLE images (name {column}); INSERT INTO images VALUES ('{uuid}'{cast}), (NULL)")).await;
        if cast.is_empty() {
            world.sql("INSERT INTO images VALUES ('')").await;
        }
        world.put(uuid, 48);
        world.put("orphan", 48);
        let report = world.run(&[(Setting::Include, "*")]).await;
        let counts = report.summary.counts;
        assert_eq!(
            (counts.references, counts.referenced, counts.deleted),
            (1, 1, 1),
            "{column}: {report:?}"
        );
        assert_eq!(world.keys(), [uuid]);
    }
}

#[tokio::test]
async fn a_column_of_another_collation_gives_the_same_result() {
    let keys = [
        "A.png",
        "a.png",
        "B.png",
        "_a.png",
        "a b.png",
        "a-b.png",
        "ab.png",
        "é.png",
        "e\u{301}.png",
        "가.png",
        "나.png",
        "Z/1.png",
        "z/1.png",
    ];
    let world = World::new().await;
    world.sql("DROP TABLE images; CREATE TABLE images (name text COLLATE \"en-x-icu\"); CREATE INDEX ON images (name)").await;
    world.put_named(&keys, 48).await;
    for key in ["aa.png", "zz.png", "다.png"] {
        world.put(key, 48);
    }
    let report = world.run(&[]).await;
    assert_eq!(
        (
            report.summary.counts.referenced,
            report.summary.counts.deleted
        ),
        (13, 3),
        "{report:?}"
    );
    assert_eq!(world.keys().len(), keys.len());
}

#[tokio::test]
async fn a_name_that_cannot_be_read_ends_the_run_wherever_it_lies() {
    for (name, word) in [
        (
            "https://cdn.example.com/a.png?sig=secret",
            "looks like a URL",
        ),
        ("elsewhere/s3://x/a.png", "looks like a URL"),
        ("[\"a.png\"]", "looks like JSON"),
        ("{a.png,b.png}", "looks like JSON"),
        (&"x".repeat(1_025), "1025 bytes"),
    ] {
        let world = world().await;
        world.put("images/orphan.png", 48);
        world.name(&[name, "images/kept.png"]).await;
        let report = world.run(&[(Setting::Prefix, "images")]).await;
        assert!(failure(&report).contains(word), "{}", failure(&report));
        assert!(!failure(&report).contains("secret"));
        assert_eq!(deletions(&world), 0);
    }
}

#[tokio::test]
async fn names_that_are_urls_are_widened_and_an_unknown_host_ends_the_run() {
    let world = World::new().await;
    for key in [
        "고양이 1.png",
        "a b.png",
        "a+b.png",
        "raw%20name.png",
        "orphan.png",
    ] {
        world.put(key, 48);
    }
    let urls = [
        "https://pictures.s3.eu-west-1.amazonaws.com/%EA%B3%A0%EC%96%91%EC%9D%B4%201.png?X-Amz-Signature=secret",
        "https://cdn.example.com/a+b.png#top",
        "https://s3.amazonaws.com/pictures/raw%20name.png",
        "https://lh3.example.org/avatar",
    ];
    world.name(&urls).await;
    world
        .name(&["https://cdn.example.com/x/broken+image.png"])
        .await;
    let base = [
        (Setting::ReferenceForm, "url"),
        (Setting::ReferenceHost, "cdn.example.com"),
        (Setting::MaxDanglingPercent, "100"),
    ];
    let report = world.run(&base).await;
    assert!(
        failure(&report)
            .contains("the host lh3.example.org of 'https://lh3.example.org/avatar' is not known"),
        "{}",
        failure(&report)
    );
    assert_eq!(world.keys().len(), 5);

    let report = world
        .run(&[&base[..], &[(Setting::ForeignHost, "lh3.example.org")]].concat())
        .await;
    let counts = report.summary.counts;
    // `raw name.png` is what the third URL means first, and it is missing; what else it means is
    // there, so that only `x/broken+image.png` is.
    assert_eq!(
        (
            counts.references,
            counts.referenced,
            counts.dangling,
            counts.deleted
        ),
        (4, 4, 1, 1),
        "{report:?}"
    );
    assert!(!world.keys().contains(&"orphan.png".to_owned()));
    // What it means in the first place is missing, however many others may mean it, too.
    world
        .name(&[
            "https://cdn.example.com/x/y%20z.png",
            "https://cdn.example.com/x/y+z.png",
        ])
        .await;
    world.put("x/y+z.png", 48);
    let report = world
        .run(&[&base[..], &[(Setting::ForeignHost, "lh3.example.org")]].concat())
        .await;
    assert_eq!(report.summary.counts.dangling, 2, "{report:?}");
}

#[tokio::test]
async fn rows_hidden_by_row_level_security_are_an_error_and_not_fewer_rows() {
    let world = world().await;
    let role = format!("reader_{}", database(&world).await);
    world
        .sql(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'reader'; GRANT SELECT ON images TO {role}; \
             ALTER TABLE images ENABLE ROW LEVEL SECURITY; CREATE POLICY visible ON images USING (name = 'a.png')"
        ))
        .await;
    let mut url = url::Url::parse(world.database.url()).expect("a URL");
    url.set_username(&role).expect("set");
    url.set_password(Some("reader")).expect("set");
    let report = world.run(&[(Setting::DatabaseUrl, url.as_str())]).await;
    assert!(
        failure(&report).contains("row-level security"),
        "{}",
        failure(&report)
    );
    assert_eq!((world.keys().len(), deletions(&world)), (3, 0));
}

#[tokio::test]
async fn a_database_of_another_encoding_is_refused() {
    let world = world().await;
    let mut url = url::Url::parse(world.database.url()).expect("a URL");
    let name = format!("{}_latin1", database(&world).await);
    world.sql(&format!("CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")).await;
    url.set_path(&name);
    PgConnection::connect(url.as_str())
        .await
        .expect("connected")
        .execute("CREATE TABLE images AS SELECT 'a.png'::text AS name")
        .await
        .expect("made");
    let report = world.run(&[(Setting::DatabaseUrl, url.as_str())]).await;
    assert!(failure(&report).contains("LATIN1"), "{}", failure(&report));
    assert_eq!(deletions(&world), 0);
}

#[tokio::test]
async fn a_connection_that_ends_in_the_middle_ends_the_run() {
    let world = world().await;
    // More than the buffers between server and client hold.
    world
        .sql("INSERT INTO images SELECT repeat('x', 900) || n FROM generate_series(1, 50000) n")
        .await;
    let url = world.database.url().to_owned();
    world.server.on_request(Operation::ListObjectsV2, move |_, record| {
        let url = url.clone();
        async move {
            if record.nth == 1 {
                let mut connection = PgConnection::connect(&url).await.expect("connected");
                let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'orphan-sweeper' AND datname = current_database()";
                connection.execute(kill).await.expect("terminated");
            }
        }
    });
    let report = world
        .run(&[
            (Setting::MaxDanglingPercent, "100"),
            (Setting::Concurrency, "1"),
        ])
        .await;
    assert!(
        failure(&report).starts_with("Database"),
        "{}",
        failure(&report)
    );
    assert_eq!((world.keys().len(), deletions(&world)), (3, 0));
}

/// Commits once the sweeper's session waits for a lock: then its snapshot is taken.
async fn commit_when_awaited(world: &World, other: &mut PgConnection) {
    let mut watcher = world.connect().await;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'orphan-sweeper' AND wait_event_type = 'Lock' AND datname = current_database()";
    loop {
        let row = watcher.fetch_one(waits).await.expect("asked");
        if row.get::<i64, _>(0) > 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
    other.execute("COMMIT").await.expect("committed");
}

/// Opens a snapshot whose references query waits for a lock that another session holds, lets
/// that session do its work and commit, and reads on: what the snapshot sees then, and how it
/// ends.
async fn snapshot_meanwhile(work: &str) -> (usize, Result<(), SnapshotError>) {
    let world = world().await;
    world
        .sql("CREATE TABLE spare (name text); CREATE SCHEMA hidden; CREATE SCHEMA hidden_old; CREATE TABLE hidden.images (name text)")
        .await;
    let mut other = world.connect().await;
    other
        .execute(sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
            "BEGIN; LOCK TABLE images IN ACCESS EXCLUSIVE MODE; {work}"
        ))))
        .await
        .expect("worked");
    let url = DatabaseUrl::new(world.database.url()).expect("a URL");
    let (database, query) = (
        Database::new(url),
        ReferencesQuery::new("SELECT name FROM images"),
    );
    let opening = Snapshot::open(&database, &query);
    let (snapshot, ()) = tokio::join!(opening, commit_when_awaited(&world, &mut other));
    let mut snapshot = snapshot.expect("opened");
    let seen = snapshot
        .names(true)
        .await
        .expect("reading")
        .try_fold(0, async |count, _| Ok(count + 1))
        .await
        .expect("read");
    (seen, snapshot.finish().await)
}

#[tokio::test]
async fn rows_lost_under_the_snapshot_are_noticed() {
    for work in [
        "TRUNCATE images; INSERT INTO images VALUES ('a.png'), ('b.png')",
        "CREATE TABLE fresh AS SELECT * FROM images; DROP TABLE images; ALTER TABLE fresh RENAME TO images",
        "ALTER TABLE images ALTER COLUMN name TYPE varchar(80) USING name || ''",
        // A spare table that was there before, loaded and put in the other's place.
        "INSERT INTO spare SELECT * FROM images; ALTER TABLE images RENAME TO old; ALTER TABLE spare RENAME TO images",
        "INSERT INTO hidden.images SELECT * FROM images; ALTER TABLE images SET SCHEMA hidden_old; ALTER TABLE hidden.images SET SCHEMA public",
    ] {
        let (seen, ended) = snapshot_meanwhile(work).await;
        assert!(seen == 0 || seen == 2);
        let rewritten = |SnapshotError(error): &SnapshotError| {
            matches!(error.downcast_ref(), Some(DatabaseError::Rewritten { .. }))
        };
        assert!(
            ended.as_ref().is_err_and(rewritten),
            "{work}: saw {seen}, ended {ended:?}"
        );
    }
}

/// What was filled in the transaction that puts it in place is not seen by the snapshot.
#[tokio::test]
async fn a_view_that_is_replaced_and_a_child_that_is_taken_away_are_noticed() {
    for (tables, work, relation) in [
        (
            "CREATE TABLE other (name text); CREATE VIEW named AS SELECT name FROM images",
            "LOCK TABLE named IN ACCESS EXCLUSIVE MODE; INSERT INTO other SELECT name FROM images; CREATE OR REPLACE VIEW named AS SELECT name FROM other",
            Some("named"),
        ),
        (
            "CREATE TABLE named (name text) PARTITION BY LIST (name); CREATE TABLE p1 PARTITION OF named FOR VALUES IN ('a.png'); CREATE TABLE rest PARTITION OF named DEFAULT; INSERT INTO named SELECT name FROM images",
            "ALTER TABLE named DETACH PARTITION p1; INSERT INTO named SELECT name FROM p1",
            Some("named"),
        ),
        (
            "CREATE TABLE named (name text); CREATE TABLE child () INHERITS (named); CREATE TABLE spare () INHERITS (named); INSERT INTO child SELECT name FROM images",
            "LOCK TABLE named IN ACCESS EXCLUSIVE MODE; INSERT INTO spare SELECT name FROM child; ALTER TABLE child NO INHERIT named",
            Some("named"),
        ),
        (
            "CREATE TABLE named (name text); INSERT INTO named SELECT name FROM images",
            "ALTER TABLE named RENAME COLUMN name TO old; ALTER TABLE named ADD COLUMN name text; UPDATE named SET name = old",
            Some("named"),
        ),
        (
            "CREATE TABLE named (name text); INSERT INTO named SELECT name FROM images",
            "ALTER TABLE named ADD COLUMN other text; UPDATE named SET other = name; ALTER TABLE named DROP COLUMN name; ALTER TABLE named RENAME COLUMN other TO name",
            Some("named"),
        ),
        // Nothing of it was taken away.
        (
            "CREATE TABLE named (name text); INSERT INTO named SELECT name FROM images",
            "ALTER TABLE named ADD COLUMN other text",
            None,
        ),
        (
            "CREATE TABLE named (name text); CREATE TABLE child (name text); INSERT INTO named SELECT name FROM images",
            "LOCK TABLE named IN ACCESS EXCLUSIVE MODE; ALTER TABLE child INHERIT named",
            None,
        ),
        (
            "CREATE VIEW named AS SELECT name FROM images",
            "LOCK TABLE named IN ACCESS EXCLUSIVE MODE; SAVEPOINT s; CREATE OR REPLACE VIEW named AS SELECT name || 'x' AS name FROM images; ROLLBACK TO s",
            None,
        ),
    ] {
        let world = world().await;
        world.sql(tables).await;
        let mut other = world.connect().await;
        other
            .execute(sqlx::raw_sql(sqlx::AssertSqlSafe(format!("BEGIN; {work}"))))
            .await
            .expect("worked");
        let database = Database::new(DatabaseUrl::new(world.database.url()).expect("a URL"));
        let query = ReferencesQuery::new("SELECT name::text FROM named");
        let read = async {
            let mut snapshot = Snapshot::open(&database, &query).await?;
            let names: Vec<_> = snapshot.names(false).await?.try_collect().await?;
            snapshot.finish().await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(names.len())
        };
        let (read, ()) = tokio::join!(read, commit_when_awaited(&world, &mut other));
        match (relation, read) {
            (None, Ok(names)) => assert_eq!(names, 2, "{work}"),
            (Some(relation), Err(error)) => {
                assert!(error.to_string().contains(relation), "{work}: {error}");
            }
            (_, read) => panic!("{work}: {read:?}"),
        }
    }
}

/// What fails in a function that handles exceptions yields fewer rows, in silence.
#[tokio::test]
async fn a_query_that_calls_what_handles_exceptions_ends_the_run() {
    let world = world().await;
    world
        .sql("CREATE FUNCTION careful() RETURNS SETOF text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN QUERY SELECT name::text FROM images; EXCEPTION WHEN insufficient_privilege THEN NULL; END $$; \
            CREATE FUNCTION names() RETURNS SETOF text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN QUERY SELECT * FROM careful(); END $$; \
            CREATE FUNCTION \"Plain\"() RETURNS SETOF text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN QUERY SELECT name::text FROM images; IF NOT FOUND THEN RAISE EXCEPTION 'when?'; END IF; END $$; \
            CREATE FUNCTION \"Careful\"() RETURNS SETOF text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN QUERY SELECT name::text FROM images; exception -- nothing
 /* at all */ when others then null; END $$; \
            CREATE FUNCTION atomic() RETURNS SETOF text VOLATILE SECURITY DEFINER BEGIN ATOMIC SELECT careful(); END; \
            CREATE FUNCTION quoting() RETURNS SETOF text LANGUAGE sql STABLE AS $$ SELECT * FROM \"Careful\"() $$; \
            CREATE FUNCTION loud() RETURNS SETOF text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN QUERY SELECT CAREFUL(); END $$; \
            CREATE FUNCTION folded() RETURNS text[] LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN array(SELECT name::text FROM images); EXCEPTION WHEN insufficient_privilege THEN RETURN '{}'; END $$; \
            CREATE FUNCTION \"Folded é\"() RETURNS text[] LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN folded(); EXCEPTION WHEN others THEN RETURN '{}'; END $$; \
            CREATE FUNCTION \"größe7\"() RETURNS SETOF text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN QUERY SELECT name::text FROM images; EXCEPTION -- over\r WHEN others THEN NULL; END $$; \
            CREATE FUNCTION av$names() RETURNS SETOF text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN QUERY SELECT name::text FROM images; EXCEPTION WHEN others THEN NULL; END $$; \
            CREATE FUNCTION dollars() RETURNS SETOF text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN QUERY SELECT Av$Names(); END $$; \
            CREATE FUNCTION dynamic() RETURNS SETOF text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN QUERY EXECUTE 'SELECT unnest(' || $q$folded()$q$ || ')'; END $$; \
            CREATE LANGUAGE other HANDLER plpgsql_call_handler; \
            CREATE FUNCTION foreign_words() RETURNS SETOF text LANGUAGE other STABLE AS $$ BEGIN RETURN QUERY EXECUTE 'SELECT name::text FROM images'; END $$; \
            CREATE FUNCTION foreign_help(text) RETURNS text LANGUAGE other STABLE AS $$ BEGIN RETURN $1; END $$; \
            CREATE FUNCTION is_good(text) RETURNS bool LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN true; EXCEPTION WHEN others THEN RETURN false; END $$; \
            CREATE DOMAIN good_name AS text CHECK (is_good(VALUE)); \
            CREATE VIEW behind AS SELECT * FROM careful() AS t (name); \
            CREATE FUNCTION through() RETURNS SETOF text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN QUERY SELECT name FROM behind; END $$; \
            CREATE VIEW held AS SELECT unnest(folded()) AS name; \
            CREATE VIEW named AS SELECT * FROM careful() AS t (name)")
        .await;
    for (query, function) in [
        ("SELECT careful()", "careful()"),
        ("SELECT * FROM names()", "careful()"),
        ("SELECT name FROM named", "careful()"),
        ("SELECT atomic()", "careful()"),
        (
            "SELECT upper(n) FROM \"Careful\"() AS t (n)",
            "\"Careful\"()",
        ),
        ("SELECT quoting()", "\"Careful\"(), careful()"),
        ("SELECT loud()", "careful()"),
        // The planner calls it, and no plan names it.
        ("SELECT unnest(folded())", "folded()"),
        ("SELECT unnest(FOLDED -- (\n /**/ ())", "folded()"),
        ("SELECT unnest(\"folded\"())", "folded()"),
        ("SELECT unnest(\"Folded é\"())", "\"Folded é\"(), folded()"),
        ("SELECT name FROM held", "folded()"),
        // No plan shows it.
        (
            "SELECT v.name FROM (VALUES ('a'), ((SELECT array_to_string(folded(), ',')))) AS v (name)",
            "folded()",
        ),
        (
            "SELECT name FROM images LIMIT cardinality(folded())",
            "folded()",
        ),
        ("SELECT * FROM through()", "careful()"),
        ("SELECT GRößE7()", "\"größe7\"()"),
        ("SELECT dollars()", "\"av$names\"()"),
        ("SELECT dynamic()", "folded()"),
        // What it catches, and by which word, only the language knows.
        ("SELECT foreign_words()", "foreign_words()"),
        (
            "SELECT v.n FROM (VALUES ('a'), ((SELECT min(k) FROM av$names() AS k))) AS v (n)",
            "\"av$names\"()",
        ),
    ] {
        let report = world.run(&[(Setting::References, query)]).await;
        let failure = failure(&report);
        let told = format!("may call {function}, where exceptions are handled");
        assert!(failure.contains(&told), "{query}: {failure}");
    }
    assert_eq!((world.keys().len(), deletions(&world)), (3, 0));
    // One whose name merely ends like what is called is not called.
    world
        .sql("CREATE TABLE odd AS SELECT name, name AS \"Careful\", name AS \"größe8\" FROM images; CREATE FUNCTION watching() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; EXCEPTION WHEN others THEN RETURN NULL; END $$; \
            CREATE FUNCTION unt(int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 1; EXCEPTION WHEN others THEN RETURN 2; END $$")
        .await;
    for query in [
        "SELECT * FROM \"Plain\"()",
        "SELECT name FROM images, (SELECT count(*) FROM images) AS n",
        "SELECT foreign_help(name) FROM images",
        // A column may be called like a type.
        "SELECT good_name FROM (SELECT name AS good_name FROM images) AS i",
        "SELECT odd.\"Careful\" FROM odd WHERE \"größe8\" <> 'watching()'",
    ] {
        let report = world.run(&[(Setting::References, query)]).await;
        assert_eq!(report.summary.status, Status::Completed, "{report:?}");
    }
    // Nor is what a column is called like.
    world
        .sql("CREATE FUNCTION name() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 1; EXCEPTION WHEN others THEN RETURN 2; END $$")
        .await;
    let report = world.run(&[]).await;
    assert_eq!(report.summary.status, Status::Completed, "{report:?}");
}

/// Not everything that calls a function has parentheses.
#[tokio::test]
async fn what_is_called_as_an_attribute_an_operator_an_aggregate_or_a_domain_is_seen() {
    let world = world().await;
    world
        .sql("CREATE FUNCTION kept(images) RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN $1.name; EXCEPTION WHEN others THEN RETURN NULL; END $$; \
            CREATE FUNCTION \"Kept\"(images) RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN $1.name; EXCEPTION WHEN others THEN RETURN NULL; END $$; \
            CREATE FUNCTION joined(text, text) RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN $1 || $2; EXCEPTION WHEN others THEN RETURN NULL; END $$; \
            CREATE OPERATOR |+| (FUNCTION = joined, LEFTARG = text, RIGHTARG = text); \
            CREATE AGGREGATE joined_all(text) (SFUNC = joined, STYPE = text, INITCOND = ''); \
            CREATE FUNCTION plussed() RETURNS text LANGUAGE sql STABLE AS $$ SELECT 'a' |+| 'b' $$; \
            CREATE FUNCTION is_good(text) RETURNS bool LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN true; EXCEPTION WHEN others THEN RETURN false; END $$; \
            CREATE DOMAIN good_name AS text CHECK (is_good(VALUE)); \
            CREATE FUNCTION shown(images) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN $1.name; EXCEPTION WHEN others THEN RETURN NULL; END $$; \
            CREATE FUNCTION \"Shown\"(images) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN $1.name; EXCEPTION WHEN others THEN RETURN NULL; END $$")
        .await;
    for (query, function) in [
        ("SELECT i.kept FROM images AS i", "kept(images)"),
        // The planner calls it, and no plan names it.
        (
            "SELECT n FROM (VALUES ('a'), ((ROW('x')::images) . Shown)) AS v (n)",
            "shown(images)",
        ),
        (
            "SELECT n FROM (VALUES ('a'), ((ROW('x')::images).\"Shown\")) AS v (n)",
            "\"Shown\"(images)",
        ),
        (
            "SELECT (i). /* */ \"Kept\" FROM images AS i",
            "\"Kept\"(images)",
        ),
        ("SELECT name |+| '' FROM images", "joined(text,text)"),
        ("SELECT plussed()", "joined(text,text)"),
        ("SELECT joined_all(name) FROM images", "joined(text,text)"),
        (
            "SELECT CAST(name AS Good_Name) FROM images",
            "is_good(text)",
        ),
        (
            "SELECT name FROM images WHERE good_name (name) > ''",
            "is_good(text)",
        ),
    ] {
        let report = world.run(&[(Setting::References, query)]).await;
        let failure = failure(&report);
        let told = format!("may call {function}, where exceptions are handled");
        assert!(failure.contains(&told), "{query}: {failure}");
    }
    assert_eq!((world.keys().len(), deletions(&world)), (3, 0));
}

/// It is called wherever a value becomes one of another type, and no word tells of it.
#[tokio::test]
async fn what_casts_is_called_without_a_word() {
    for (cast, is_seen) in [
        (
            "CREATE FUNCTION keyof(r ref) RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN (SELECT name FROM images WHERE id = r.id); EXCEPTION WHEN insufficient_privilege THEN RETURN NULL; END $$; CREATE CAST (ref AS text) WITH FUNCTION keyof(ref)",
            true,
        ),
        (
            "CREATE FUNCTION keyof(r ref) RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN (SELECT name FROM images WHERE id = r.id); EXCEPTION WHEN insufficient_privilege THEN RETURN NULL; END $$; CREATE CAST (ref AS text) WITH FUNCTION keyof(ref) AS IMPLICIT",
            true,
        ),
        (
            "CREATE FUNCTION keyof(r ref) RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN (SELECT name FROM images WHERE id = r.id); END $$; CREATE CAST (ref AS text) WITH FUNCTION keyof(ref) AS IMPLICIT",
            false,
        ),
    ] {
        let world = World::new().await;
        world.put_named(&["a.png", "b.png"], 48).await;
        world.put("orphan.png", 48);
        world
            .sql(&format!(
                "ALTER TABLE images ADD COLUMN id serial; CREATE TYPE ref AS (id int); {cast}; CREATE TABLE refs AS SELECT ROW(id)::ref AS r FROM images"
            ))
            .await;
        for query in ["SELECT r FROM refs", "SELECT ltrim(r::text, '/') FROM refs"] {
            let report = world.run(&[(Setting::References, query)]).await;
            if is_seen {
                let failure = failure(&report);
                let told = "may call keyof(ref), where exceptions are handled";
                assert!(failure.contains(told), "{query}: {failure}");
                assert_eq!(world.keys().len(), 3);
            } else {
                assert_eq!(report.summary.status, Status::Completed, "{report:?}");
                assert_eq!(world.keys(), ["a.png", "b.png"]);
            }
        }
    }
}

/// Each statement of a volatile function sees another moment, also in the fresh check.
#[tokio::test]
async fn a_volatile_function_that_reads_ends_the_run() {
    let world = world().await;
    world
        .sql("CREATE FUNCTION names() RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY SELECT name::text FROM images; END $$; \
            CREATE FUNCTION outer_names() RETURNS SETOF text LANGUAGE sql STABLE AS 'SELECT names()'; \
            CREATE FUNCTION atomic_names() RETURNS SETOF text BEGIN ATOMIC SELECT name::text FROM images; END; \
            CREATE FUNCTION one() RETURNS text[] LANGUAGE sql STABLE AS 'SELECT array_agg(name::text) FROM images'; \
            CREATE FUNCTION two_reads() RETURNS text[] LANGUAGE plpgsql AS $$ DECLARE a text[]; b text[]; BEGIN a := one(); b := one(); RETURN a || b; END $$; \
            CREATE FUNCTION volatile_help(t text) RETURNS text LANGUAGE sql AS 'SELECT btrim(substring($1 from 2)) WHERE $1 IS DISTINCT FROM NULL'; \
            CREATE FUNCTION nested_help(t text) RETURNS text LANGUAGE sql AS $$ SELECT substring(lower(coalesce($1, 'x')) from 1) WHERE extract(epoch from date(now())) > 0 $$; \
            CREATE FUNCTION atomic_help(t text) RETURNS text BEGIN ATOMIC SELECT btrim(t); END; \
            CREATE FUNCTION within(t text) RETURNS text LANGUAGE sql AS 'SELECT substring((SELECT max(name) FROM images) from 1)'; \
            CREATE FUNCTION folded_names() RETURNS text[] LANGUAGE sql IMMUTABLE AS 'SELECT array_agg(name::text) FROM images'; \
            CREATE FUNCTION extended_names() RETURNS text[] LANGUAGE sql IMMUTABLE AS 'SELECT array_agg(name::text) FROM images'; \
            ALTER EXTENSION plpgsql ADD FUNCTION extended_names(); \
            CREATE FUNCTION folded_others() RETURNS text[] LANGUAGE sql IMMUTABLE AS 'SELECT one()'; \
            CREATE FUNCTION trimmed(t text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN btrim(t); END $$")
        .await;
    for (query, function) in [
        ("SELECT names()", "names()"),
        ("SELECT outer_names()", "names()"),
        ("SELECT atomic_names()", "atomic_names()"),
        ("SELECT within(name) FROM images", "within(text)"),
        // It reads by others, one after the other.
        ("SELECT unnest(two_reads())", "two_reads()"),
        // The planner calls it.
        ("SELECT unnest(folded_names())", "folded_names()"),
        ("SELECT unnest(folded_others())", "folded_others()"),
    ] {
        let report = world.run(&[(Setting::References, query)]).await;
        let failure = failure(&report);
        let told =
            format!("may call {function}, which reads, by itself or by others, and is not STABLE");
        assert!(failure.contains(&told), "{query}: {failure}");
    }
    assert_eq!((world.keys().len(), deletions(&world)), (3, 0));
    world.sql("ALTER FUNCTION names() STABLE").await;
    for query in [
        "SELECT outer_names()",
        "SELECT trimmed(name) FROM images",
        // An extension knows what it says of its own.
        "SELECT n FROM unnest(extended_names()) AS n",
        // One that reads nothing, beside one that does.
        "SELECT volatile_help('x' || n) FROM names() AS t (n)",
        "SELECT nested_help(atomic_help(n)) FROM names() AS t (n)",
    ] {
        let report = world.run(&[(Setting::References, query)]).await;
        assert_eq!(report.summary.status, Status::Completed, "{report:?}");
    }
}

/// A fresh check of what this query names in the world's database.
async fn primary_check(world: &World, query: &str) -> PrimaryCheck {
    let database = Database::new(DatabaseUrl::new(world.database.url()).expect("a URL"));
    let query = ReferencesQuery::new(query);
    let snapshot = Snapshot::open(&database, &query).await.expect("opened");
    let identity = snapshot.identity().clone();
    let relations = snapshot.relations().clone();
    snapshot.finish().await.expect("ended");
    PrimaryCheck::new(database, query, world.settings(&[]).rules, identity).of_relations(relations)
}

/// What hides rows between the snapshot and the fresh check may be put back later, with a row that
/// has come meanwhile.
#[tokio::test]
async fn the_fresh_check_reads_all_that_the_snapshot_read() {
    const TABLES: &str = "DROP TABLE images; CREATE TABLE images (name text) PARTITION BY RANGE (name); CREATE TABLE p1 PARTITION OF images FOR VALUES FROM ('a') TO ('n'); CREATE TABLE p2 PARTITION OF images FOR VALUES FROM ('n') TO ('z'); CREATE VIEW named AS SELECT name FROM images; CREATE TABLE other (name text)";
    for (query, work, hidden) in [
        (
            "SELECT name FROM images",
            "ALTER TABLE images DETACH PARTITION p2",
            Some("p2"),
        ),
        (
            "SELECT name FROM named",
            "ALTER TABLE images DETACH PARTITION p2",
            Some("p2"),
        ),
        (
            "SELECT name FROM images",
            "ALTER TABLE images RENAME TO old; CREATE TABLE images (name text)",
            Some("old, p1, p2"),
        ),
        (
            "SELECT name FROM named",
            "CREATE OR REPLACE VIEW named AS SELECT name FROM images WHERE name < 'n'",
            Some("named, p2"),
        ),
        (
            "SELECT name FROM named",
            "CREATE OR REPLACE VIEW named AS SELECT name FROM other",
            Some("images, named, p1, p2"),
        ),
        (
            "SELECT name FROM named",
            "CREATE OR REPLACE VIEW named AS SELECT name FROM images WHERE name <> 'x.png'",
            Some("named"),
        ),
        // What is gone hides nothing, and what is new does not either.
        ("SELECT name FROM images", "DROP TABLE p2", None),
        (
            "SELECT name FROM images",
            "CREATE TABLE p3 PARTITION OF images FOR VALUES FROM ('z') TO ('zz')",
            None,
        ),
        (
            "SELECT name FROM named",
            "CREATE OR REPLACE VIEW named AS SELECT name FROM images",
            None,
        ),
        ("SELECT name FROM named", "VACUUM FULL p1", None),
    ] {
        let world = World::new().await;
        world.sql(TABLES).await;
        let check = primary_check(&world, query).await;
        world.sql(work).await;
        let key = ObjectKey::new("x.png");
        match (hidden, check.referenced(&[&key]).await) {
            (None, Ok(named)) => assert_eq!(named, [false], "{work}"),
            (Some(hidden), Err(error)) => {
                let error = error.0.to_string();
                let told = format!("does not read {hidden} any more");
                assert!(error.contains(&told), "{work}: {error}");
            }
            (_, named) => panic!("{work}: {named:?}"),
        }
    }
    // Where no snapshot was taken, the first question counts.
    let world = World::new().await;
    world.sql(TABLES).await;
    let database = Database::new(DatabaseUrl::new(world.database.url()).expect("a URL"));
    let query = ReferencesQuery::new("SELECT name FROM images");
    let snapshot = Snapshot::open(&database, &query).await.expect("opened");
    let identity = snapshot.identity().clone();
    snapshot.finish().await.expect("ended");
    let check = PrimaryCheck::new(database, query, world.settings(&[]).rules, identity);
    let key = ObjectKey::new("x.png");
    assert!(check.referenced(&[&key]).await.is_ok());
    world.sql("ALTER TABLE images DETACH PARTITION p2").await;
    assert!(check.referenced(&[&key]).await.is_err());
}

/// A run beside which something is done just before the first fresh check.
async fn run_beside(tables: &str, query: &str, work: &str) -> (World, Report) {
    let world = World::new().await;
    world.sql(tables).await;
    world.put_named(&["a.png", "b.png"], 48).await;
    world.put("orphan.png", 48);
    before_the_fresh_check(&world, work);
    let report = world.run(&[(Setting::References, query)]).await;
    (world, report)
}

#[tokio::test]
async fn a_run_beside_which_a_partition_is_detached_deletes_nothing() {
    let (world, report) = run_beside(
        "DROP TABLE images; CREATE TABLE images (name text) PARTITION BY RANGE (name); CREATE TABLE p1 PARTITION OF images FOR VALUES FROM ('a') TO ('n'); CREATE TABLE p2 PARTITION OF images FOR VALUES FROM ('n') TO ('z')",
        "SELECT name FROM images",
        "INSERT INTO images VALUES ('orphan.png'); ALTER TABLE images DETACH PARTITION p2",
    )
    .await;
    let failure = failure(&report);
    assert!(failure.contains("does not read p2 any more"), "{failure}");
    assert_eq!(world.keys(), ["a.png", "b.png", "orphan.png"]);
}

#[tokio::test]
async fn a_run_beside_which_another_column_takes_the_name_deletes_nothing() {
    const WORK: &str = "INSERT INTO images VALUES ('orphan.png'); ALTER TABLE images RENAME COLUMN name TO old; ALTER TABLE images ADD COLUMN name text";
    for (tables, query, work) in [
        ("SELECT", "SELECT Name FROM images", WORK),
        ("SELECT", "SELECT i.name FROM images AS i", WORK),
        (
            "ALTER TABLE images ADD COLUMN \"of\"\"us\" bool DEFAULT true",
            "SELECT name FROM images WHERE \"of\"\"us\"",
            "INSERT INTO images VALUES ('orphan.png', true); ALTER TABLE images RENAME COLUMN \"of\"\"us\" TO old; ALTER TABLE images ADD COLUMN \"of\"\"us\" bool",
        ),
        (
            "CREATE TYPE inner_meta AS (file text, alt text); CREATE TYPE meta AS (i inner_meta[]); DROP TABLE images; CREATE TABLE images (name text, m meta)",
            "SELECT ((m).i[1]).file FROM images WHERE m IS NOT NULL UNION ALL SELECT name FROM images",
            "INSERT INTO images VALUES (NULL, ROW(ARRAY[ROW('orphan.png', 'x.png')::inner_meta])::meta); ALTER TYPE inner_meta RENAME ATTRIBUTE file TO old; ALTER TYPE inner_meta RENAME ATTRIBUTE alt TO file",
        ),
        // What is joined hangs on columns that nobody says.
        (
            "ALTER TABLE images ADD COLUMN of int DEFAULT 1; CREATE TABLE users (of int); INSERT INTO users VALUES (1)",
            "SELECT name FROM images NATURAL JOIN users",
            "INSERT INTO images VALUES ('orphan.png'); ALTER TABLE users ADD COLUMN name text",
        ),
    ] {
        let (world, report) = run_beside(tables, query, work).await;
        let failure = failure(&report);
        assert!(
            failure.contains("any more as when the run began"),
            "{query}: {failure}"
        );
        assert_eq!(world.keys(), ["a.png", "b.png", "orphan.png"]);
    }
    // Another column may come.
    let (world, report) = run_beside(
        "SELECT",
        "SELECT name FROM images",
        "ALTER TABLE images ADD COLUMN size int",
    )
    .await;
    assert_eq!(report.summary.status, Status::Completed, "{report:?}");
    assert_eq!(world.keys(), ["a.png", "b.png"]);
}

/// A function's tables are locked by its statement, after that has taken its snapshot.
#[tokio::test]
async fn the_fresh_check_sees_the_rows_that_a_function_reads_of_a_reloaded_table() {
    let world = World::new().await;
    world
        .sql("INSERT INTO images VALUES ('a.png'), ('x.png'); CREATE FUNCTION names() RETURNS SETOF text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN QUERY SELECT name::text FROM images; END $$")
        .await;
    let check = primary_check(&world, "SELECT * FROM names()").await;
    let keys = ["a.png", "b.png", "x.png"].map(ObjectKey::new);
    let asked: Vec<&ObjectKey> = keys.iter().collect();
    check.referenced(&asked).await.expect("asked");
    for work in [
        "TRUNCATE images; INSERT INTO images VALUES ('a.png'), ('x.png')",
        "CREATE TABLE fresh AS SELECT * FROM images; DROP TABLE images; ALTER TABLE fresh RENAME TO images",
    ] {
        let mut other = world.connect().await;
        other
            .execute(sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
                "BEGIN; LOCK TABLE images IN ACCESS EXCLUSIVE MODE; {work}"
            ))))
            .await
            .expect("worked");
        let (named, ()) = tokio::join!(
            check.referenced(&asked),
            commit_when_awaited(&world, &mut other)
        );
        assert_eq!(named.expect("asked"), [true, false, true], "{work}");
    }
}

/// Behind a foreign table rows may be truncated or filtered, and nothing here shows it.
#[tokio::test]
async fn a_query_that_reads_a_foreign_table_ends_the_run() {
    let world = world().await;
    world
        .sql("CREATE FOREIGN DATA WRAPPER elsewhere; CREATE SERVER other FOREIGN DATA WRAPPER elsewhere; CREATE FOREIGN TABLE thumbs (name text) SERVER other")
        .await;
    let database = Database::new(DatabaseUrl::new(world.database.url()).expect("a URL"));
    let query = ReferencesQuery::new("SELECT name FROM images UNION ALL SELECT name FROM thumbs");
    let error = Snapshot::open(&database, &query)
        .await
        .expect_err("a foreign table");
    assert!(
        error.to_string().contains("reads thumbs, a foreign table"),
        "{error}"
    );
    // The doctor says so before the first run does.
    let error = examine(&database, &query)
        .await
        .expect_err("a foreign table");
    assert!(
        error.to_string().contains("reads thumbs, a foreign table"),
        "{error}"
    );
}

/// The address of the database behind a pooler with this habit.
async fn behind_a_pooler(world: &World, habit: Habit) -> String {
    let url = DatabaseUrl::new(world.database.url()).expect("a URL");
    let port = pooler::start((url.host().to_owned(), url.port()), habit).await;
    (world.database.url()).replace(&format!(":{}/", url.port()), &format!(":{port}/"))
}

/// An answer gets older while its connection ends.
#[tokio::test]
async fn an_answer_of_the_fresh_check_does_not_wait_for_a_server_that_says_no_more() {
    let world = world().await;
    let query = "SELECT name FROM images";
    let key = ObjectKey::new("a.png");
    let url = behind_a_pooler(&world, Habit::Swallows("ROLLBACK")).await;
    let silent = Database::new(DatabaseUrl::new(&url).expect("a URL"));
    let query = ReferencesQuery::new(query);
    let database = Database::new(DatabaseUrl::new(world.database.url()).expect("a URL"));
    let snapshot = Snapshot::open(&database, &query).await.expect("opened");
    let identity = snapshot.identity().clone();
    let rules = world.settings(&[]).rules;
    let check = PrimaryCheck::new(silent, query, rules, identity);
    let keys = [&key];
    let answer = timeout(Duration::from_mins(2), check.referenced(&keys));
    assert_eq!(answer.await.expect("in time").expect("asked"), [true]);
}

/// Another client of a pooler, which sets this in its session.
async fn leave(url: &str, left: &str) -> PgConnection {
    let mut other = PgConnection::connect(url).await.expect("connected");
    other
        .execute(sqlx::raw_sql(sqlx::AssertSqlSafe(left.to_owned())))
        .await
        .expect("set");
    other
}

/// The names that are read through a pooler which gives a session in which another client left this.
async fn names_after(world: &World, left: &str, query: &str) -> Result<Vec<String>, DatabaseError> {
    let url = behind_a_pooler(world, Habit::None).await;
    let mut other = leave(&url, left).await;
    // What was set and prepared is there as before.
    let session = "SELECT concat_ws(' ', pg_backend_pid(), current_user, session_user, current_setting('app.tenant', true), \
        (SELECT count(*) FROM pg_prepared_statements), (SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings))";
    let before: String = other
        .fetch_one(sqlx::raw_sql(session))
        .await
        .expect("asked")
        .get(0);
    other.close().await.expect("closed");
    let names = names_at(&url, query).await;
    let mut same = PgConnection::connect(&url).await.expect("connected");
    let after = same.fetch_one(sqlx::raw_sql(session)).await.expect("asked");
    // (One that was left within a transaction is not given again.)
    if names.is_ok() {
        assert_eq!(after.get::<String, _>(0), before, "{left}");
    }
    names
}

/// All names that a query yields at this address.
async fn names_at(url: &str, query: &str) -> Result<Vec<String>, DatabaseError> {
    let database = Database::new(DatabaseUrl::new(url).expect("a URL"));
    let mut snapshot = Snapshot::open(&database, &ReferencesQuery::new(query)).await?;
    assert!(snapshot.state().sees_all_transactions);
    let names: Vec<_> = snapshot
        .names(false)
        .await
        .expect("read")
        .try_collect()
        .await
        .expect("read");
    let names = names.into_iter().flatten();
    let mut names: Vec<String> = names
        .map(|name| String::from_utf8(name.to_vec()).expect("UTF-8"))
        .collect();
    names.sort();
    snapshot.finish().await.expect("ended");
    Ok(names)
}

/// It would look for them again.
#[tokio::test]
async fn what_a_pooler_prepares_under_its_own_names_is_left_to_it() {
    let world = world().await;
    let url = behind_a_pooler(&world, Habit::Renames).await;
    let names = names_at(&url, "SELECT name FROM images").await;
    assert_eq!(names.expect("read"), ["a.png", "b.png"]);
    let mut same = PgConnection::connect(&url).await.expect("connected");
    let kept = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'pool%'";
    let kept = same.fetch_one(sqlx::raw_sql(kept)).await.expect("asked");
    assert_eq!(kept.get::<i64, _>(0), 1);
}

#[tokio::test]
async fn what_the_address_sets_holds_behind_a_pooler_too() {
    let world = world().await;
    world
        .sql("CREATE SCHEMA tenant; CREATE SCHEMA more; CREATE TABLE tenant.images (name text); INSERT INTO tenant.images VALUES ('of tenant.png'); GRANT CREATE ON SCHEMA more TO PUBLIC")
        .await;
    let query = "SELECT name FROM images WHERE current_setting('app.tenant') = 'a b' AND current_setting('intervalstyle') = 'iso_8601' AND current_setting('role') = 'postgres'";
    // (This pooler heeds no options but those of its first client.)
    let behind = behind_a_pooler(&world, Habit::None).await;
    leave(&behind, "SELECT 1")
        .await
        .close()
        .await
        .expect("closed");
    for url in [world.database.url(), &behind] {
        let mut url = url::Url::parse(url).expect("a URL");
        let options = "-c search_path=more,tenant -c app.tenant=a\\ b --intervalstyle=iso_8601 -c role=postgres";
        url.query_pairs_mut().append_pair("options", options);
        let names = names_at(url.as_str(), query).await.expect("read");
        assert_eq!(names, ["of tenant.png"]);
    }
}

#[tokio::test]
async fn what_another_client_left_in_the_session_of_a_pooler_changes_no_name() {
    let world = world().await;
    let role = database(&world).await;
    world
        .sql(&format!("CREATE SCHEMA tenant; CREATE TABLE tenant.images (name text); INSERT INTO images VALUES ('я.png'); CREATE ROLE \"{role}\"; GRANT SELECT ON images TO \"{role}\""))
        .await;
    let of_all = "SELECT name FROM images";
    for (left, query) in [
        ("PREPARE sqlx_s_9 AS SELECT 1", of_all),
        (
            "SET app.tenant = 'other'",
            "SELECT name FROM images WHERE current_setting('app.tenant', true) IS DISTINCT FROM 'other'",
        ),
        ("SET client_encoding = 'WIN1251'", of_all),
        ("SET default_transaction_isolation = 'serializable'", of_all),
        (
            "SET timezone = 'Asia/Seoul'; SET datestyle = 'SQL, DMY'; SET extra_float_digits = -15",
            "SELECT name FROM images WHERE current_setting('timezone') || current_setting('datestyle') || current_setting('extra_float_digits') = 'UTCISO, MDY2'",
        ),
    ] {
        let names = names_after(&world, left, query).await.expect(left);
        assert_eq!(names, ["a.png", "b.png", "я.png"], "{left}");
    }
    // Or did the pooler set it for us?
    for (left, word) in [
        ("SET search_path = tenant", "search_path is tenant and not "),
        (&format!("SET ROLE \"{role}\""), "role is "),
        (
            &format!("SET SESSION AUTHORIZATION \"{role}\""),
            "session_authorization is ",
        ),
    ] {
        let error = names_after(&world, left, of_all).await;
        let error = error.expect_err(left).to_string();
        assert!(error.contains(word), "{error}");
    }
    let temporary = "CREATE TEMPORARY TABLE images (name text)";
    world
        .sql("CREATE FUNCTION named() RETURNS SETOF text LANGUAGE plpgsql STABLE AS 'BEGIN RETURN QUERY SELECT name FROM images; END'")
        .await;
    let error = names_after(&world, temporary, of_all).await;
    let error = error.expect_err("a temporary table").to_string();
    assert!(error.contains("reads images, a temporary table"), "{error}");
    let qualified = names_after(&world, temporary, "SELECT name FROM public.images").await;
    assert_eq!(qualified.expect("read").len(), 3);
    // What a function reads is known only once it has run.
    let query = "SELECT named()";
    let url = behind_a_pooler(&world, Habit::None).await;
    leave(&url, temporary).await.close().await.expect("closed");
    let usual = Database::new(DatabaseUrl::new(world.database.url()).expect("a URL"));
    let snapshot = Snapshot::open(&usual, &ReferencesQuery::new(query)).await;
    let identity = snapshot.expect("opened").identity().clone();
    let polluted = Database::new(DatabaseUrl::new(&url).expect("a URL"));
    let rules = world.settings(&[]).rules;
    let check = PrimaryCheck::new(polluted, ReferencesQuery::new(query), rules, identity);
    let error = check.referenced(&[&ObjectKey::new("a.png")]).await;
    let error = chain(&error.expect_err("a temporary table"));
    assert!(error.contains("a temporary table"), "{error}");
    // The role that the database sets stays.
    world
        .sql(&format!(
            "GRANT pg_read_all_stats TO \"{role}\"; ALTER DATABASE \"{role}\" SET role = '{role}'"
        ))
        .await;
    let of_role = format!("SELECT name FROM images WHERE current_user = '{role}'");
    let names = names_at(world.database.url(), &of_role).await;
    assert_eq!(names.expect("read").len(), 3);
}

/// The driver asks for UTC; names that are made of days mean the days of the database.
#[tokio::test]
async fn names_are_made_in_the_time_zone_that_the_database_or_the_role_is_set_to() {
    const DAYS: &str = "SELECT to_char(timestamptz '2026-11-25 20:00+00', 'YYYY-MM-DD') || '.png'";
    let world = World::new().await;
    let database = Database::new(DatabaseUrl::new(world.database.url()).expect("a URL"));
    let query = ReferencesQuery::new(DAYS);
    let days = async || {
        let mut snapshot = Snapshot::open(&database, &query).await.expect("opened");
        let names = snapshot.names(true).await.expect("reading");
        let names: Vec<_> = names.try_collect().await.expect("read");
        snapshot.finish().await.expect("ended");
        let check = primary_check(&world, DAYS).await;
        let keys = ["2026-11-25.png", "2026-11-26.png"].map(ObjectKey::new);
        let named = check.referenced(&keys.iter().collect::<Vec<_>>()).await;
        (names, named.expect("asked"))
    };
    let of = |day: &str, named: [bool; 2]| {
        (
            vec![Some(bytes::Bytes::from(format!("2026-11-{day}.png")))],
            named.to_vec(),
        )
    };
    assert_eq!(days().await, of("25", [true, false]));
    let set = "DO $$ BEGIN EXECUTE format($f$ALTER DATABASE %I SET timezone = 'Asia/Seoul'$f$, current_database()); EXECUTE format($f$ALTER DATABASE %I SET DateStyle = 'SQL, DMY'$f$, current_database()); END $$";
    world.sql(set).await;
    assert_eq!(days().await, of("26", [false, true]));
    // A role's own, in this database, comes before it.
    let set = "DO $$ BEGIN EXECUTE format($f$ALTER ROLE %I IN DATABASE %I SET timezone = 'America/New_York'$f$, current_user, current_database()); END $$";
    world.sql(set).await;
    assert_eq!(days().await, of("25", [true, false]));
}

#[tokio::test]
async fn names_of_another_database_by_dblink_are_refused() {
    let world = world().await;
    // (The extension is not on every server.)
    world
        .sql("CREATE FUNCTION dblink(text, text) RETURNS SETOF record LANGUAGE plpgsql AS 'BEGIN RETURN QUERY SELECT name FROM images; END'; CREATE VIEW far AS SELECT name FROM dblink('dbname=app', 'SELECT name FROM images') AS t (name text)")
        .await;
    let report = world
        .run(&[(Setting::References, "SELECT name FROM far")])
        .await;
    assert!(
        failure(&report).contains("reads another database by dblink"),
        "{}",
        failure(&report)
    );
    world
        .sql("CREATE FUNCTION far_names() RETURNS SETOF text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN QUERY SELECT name FROM dblink('dbname=app', 'SELECT name FROM images') AS t (name text); END $$; \
            CREATE FUNCTION encoding() RETURNS SETOF text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN QUERY SELECT name FROM U&\"\\0069mages\"; END $$")
        .await;
    for (query, told) in [
        ("SELECT far_names()", "reads another database by dblink"),
        (
            "SELECT encoding()",
            "may call encoding(), which names something by U&",
        ),
        (
            "SELECT u&\"n\\0061me\" FROM images",
            "names something by U&",
        ),
    ] {
        let report = world.run(&[(Setting::References, query)]).await;
        let failure = failure(&report);
        assert!(failure.contains(told), "{query}: {failure}");
    }
    assert_eq!((world.keys().len(), deletions(&world)), (3, 0));
    // A name that only looks like it is none.
    world
        .sql("CREATE TABLE dblink_images AS SELECT name AS dblink_name FROM images")
        .await;
    let columns = "SELECT dblink_name FROM dblink_images";
    let report = world.run(&[(Setting::References, columns)]).await;
    assert_eq!(report.summary.status, Status::Completed, "{report:?}");
}

/// What a parallel worker locks it does not lock for long.
#[tokio::test]
async fn no_parallel_worker_reads() {
    let world = World::new().await;
    let database = Database::new(DatabaseUrl::new(world.database.url()).expect("an address"));
    let query = ReferencesQuery::new("SELECT current_setting('max_parallel_workers_per_gather')");
    let mut snapshot = Snapshot::open(&database, &query).await.expect("opened");
    let names: Vec<_> = {
        let names = snapshot.names(false).await.expect("names");
        names.try_collect().await.expect("names")
    };
    assert_eq!(names, [Some("0".into())]);
    let check = primary_check(&world, query.text()).await;
    let zero = ObjectKey::new("0");
    assert_eq!(check.referenced(&[&zero]).await.expect("asked"), [true]);
}

#[tokio::test]
async fn names_of_numbers_and_days_are_made_as_the_role_or_the_address_says() {
    let world = World::new().await;
    world
        .sql("CREATE TABLE odd (at timestamptz, n float8); INSERT INTO odd VALUES ('2026-11-25 20:00Z', 0.1::float8 + 0.2::float8)")
        .await;
    let names = async |options: &str| {
        let mut url = url::Url::parse(world.database.url()).expect("a URL");
        if !options.is_empty() {
            url.query_pairs_mut().append_pair("options", options);
        }
        let database = Database::new(DatabaseUrl::new(url.as_str()).expect("an address"));
        let query = ReferencesQuery::new("SELECT at::date || '/' || n FROM odd");
        let mut snapshot = Snapshot::open(&database, &query).await.expect("opened");
        let names = snapshot.names(false).await.expect("names");
        let names: Vec<_> = names.try_collect().await.expect("names");
        let [Some(name)] = &names[..] else {
            panic!("{names:?}")
        };
        String::from_utf8(name.to_vec()).expect("text")
    };
    assert_eq!(names("").await, "2026-11-25/0.30000000000000004");
    for (options, name) in [
        ("-c timezone=Asia/Seoul", "2026-11-26/0.30000000000000004"),
        (
            "-cTimeZone=Asia/Seoul -c extra-float-digits=0",
            "2026-11-26/0.3",
        ),
        (
            "--datestyle=SQL,\\ DMY -c work_mem=1MB -d 1",
            "25/11/2026/0.30000000000000004",
        ),
    ] {
        assert_eq!(names(options).await, name, "{options}");
    }
    let set = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET extra_float_digits = 0', current_database()); EXECUTE format($f$ALTER DATABASE %I SET timezone = 'Asia/Seoul'$f$, current_database()); END $$";
    world.sql(set).await;
    assert_eq!(names("").await, "2026-11-26/0.3");
    assert_eq!(names("-c timezone=UTC").await, "2026-11-25/0.3");
}

/// A partition that was attached under the snapshot holds rows that it does not see, in the
/// place of one whose rows are not read any more.
#[tokio::test]
async fn a_partition_that_is_swapped_in_while_the_snapshot_waits_is_noticed() {
    let swap = "BEGIN; ALTER TABLE images DETACH PARTITION p2; INSERT INTO spare SELECT * FROM p2; ALTER TABLE images ATTACH PARTITION spare FOR VALUES FROM ('n') TO ('z')";
    for (work, noticed) in [
        (swap, true),
        (
            "BEGIN; LOCK TABLE p2; INSERT INTO images VALUES ('y.png')",
            false,
        ),
        (
            "BEGIN; ALTER TABLE images DETACH PARTITION p2; ALTER TABLE images ATTACH PARTITION p2 FOR VALUES FROM ('n') TO ('z')",
            false,
        ),
    ] {
        let world = World::new().await;
        world
            .sql("DROP TABLE images; CREATE TABLE images (name text) PARTITION BY RANGE (name); CREATE TABLE p1 PARTITION OF images FOR VALUES FROM ('a') TO ('n'); CREATE TABLE p2 PARTITION OF images FOR VALUES FROM ('n') TO ('z'); INSERT INTO images VALUES ('a.png'), ('x.png'); CREATE TABLE spare (name text)")
            .await;
        let mut other = world.connect().await;
        other.execute(sqlx::raw_sql(work)).await.expect("worked");
        let settings = world.settings(&[]);
        let database = orphan_sweeper::access::database(&settings.database);
        let read = async {
            let mut snapshot = Snapshot::open(&database, &settings.references).await?;
            let names: Vec<_> = snapshot.names(true).await?.try_collect().await?;
            snapshot.finish().await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(names.len())
        };
        let (read, ()) = tokio::join!(read, commit_when_awaited(&world, &mut other));
        match read {
            Ok(names) => assert!(!noticed && names == 2, "{work}"),
            Err(error) => assert!(
                noticed && error.to_string().contains("spare"),
                "{work}: {error}"
            ),
        }
    }
}

/// In a function that sets `row_security` for itself nothing tells of filtered rows.
#[tokio::test]
async fn rows_that_a_function_hides_from_itself_end_the_run() {
    let world = World::new().await;
    world
        .sql("ALTER TABLE images ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON images USING (name < 'b'); CREATE FUNCTION names() RETURNS SETOF text LANGUAGE sql STABLE SET row_security = on AS 'SELECT name FROM images'")
        .await;
    world.put_named(&["a.png", "b.png"], 48).await;
    let role = format!("filtered_{}", database(&world).await);
    world
        .sql(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'reader'; GRANT SELECT ON images TO {role}"
        ))
        .await;
    let mut url = url::Url::parse(world.database.url()).expect("a URL");
    url.set_username(&role).expect("set");
    url.set_password(Some("reader")).expect("set");
    let report = world
        .run(&[
            (Setting::DatabaseUrl, url.as_str()),
            (Setting::References, "SELECT names()"),
        ])
        .await;
    let failure = failure(&report);
    assert!(
        failure.contains("reads images, which has row level security"),
        "{failure}"
    );
    assert_eq!(world.keys(), ["a.png", "b.png"]);
    // One that turns it off hides nothing.
    world
        .sql("ALTER FUNCTION names() SET row_security = false")
        .await;
    let report = world.run(&[]).await;
    assert_eq!(report.summary.status, Status::Completed, "{report:?}");
    world
        .sql("CREATE FUNCTION read() RETURNS SETOF text LANGUAGE plpgsql STABLE AS 'BEGIN RETURN QUERY SELECT name::text FROM images; END'; \
            CREATE FUNCTION seen() RETURNS SETOF text STABLE BEGIN ATOMIC SELECT set_config('row_security', 'on', true); \
                SELECT unnest(x) FROM (SELECT array_agg(n) AS x FROM read() AS n) AS t WHERE set_config('row_security', 'off', true) IS NOT NULL; END")
        .await;
    // It may turn it on in its body, and put it back, or by a name that is made up there.
    for body in [
        "PERFORM set_config('ROW_SECURITY', 'on', true); RETURN QUERY SELECT name::text FROM images; PERFORM set_config('ROW_SECURITY', 'off', true);",
        "PERFORM set_config('row' || '_security', 'on', true); RETURN QUERY SELECT name::text FROM images;",
        "RETURN QUERY SELECT * FROM seen();",
    ] {
        world
        .sql(&format!("CREATE OR REPLACE FUNCTION names() RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN {body} END $$"))
        .await;
        let report = world
            .run(&[
                (Setting::DatabaseUrl, url.as_str()),
                (Setting::References, "SELECT names()"),
            ])
            .await;
        let failure = support::failure(&report);
        assert!(
            failure.contains("reads images, which has row level security"),
            "{failure}"
        );
    }
}

#[tokio::test]
async fn the_fresh_check_sees_the_rows_of_a_partition_that_is_reloaded_meanwhile() {
    let world = World::new().await;
    world
        .sql("DROP TABLE images; CREATE TABLE images (name text) PARTITION BY RANGE (name); CREATE TABLE p1 PARTITION OF images FOR VALUES FROM ('a') TO ('n'); CREATE TABLE p2 PARTITION OF images FOR VALUES FROM ('n') TO ('z'); INSERT INTO images VALUES ('a.png'), ('x.png')")
        .await;
    let check = primary_check(&world, "SELECT name FROM images").await;
    let keys = ["a.png", "b.png", "x.png", "y.png"].map(ObjectKey::new);
    let asked: Vec<&ObjectKey> = keys.iter().collect();
    // How the database is asked is decided the first time, by plans that lock all they read.
    check.referenced(&asked).await.expect("asked");
    let mut other = world.connect().await;
    other
        .execute(sqlx::raw_sql(
            "BEGIN; TRUNCATE p1; INSERT INTO images VALUES ('a.png'), ('b.png')",
        ))
        .await
        .expect("worked");
    let (named, ()) = tokio::join!(
        check.referenced(&asked),
        commit_when_awaited(&world, &mut other)
    );
    assert_eq!(named.expect("asked"), [true, true, true, false]);
}

#[tokio::test]
async fn the_fresh_check_answers_for_more_names_than_one_statement_holds() {
    let world = World::new().await;
    // Every third name below 2,500 is there, and enough others that an index is worth it.
    world
        .sql("CREATE UNIQUE INDEX ON images (name); INSERT INTO images SELECT lpad(n::text, 6, '0') FROM generate_series(0, 99999) n WHERE n % 3 = 0 OR n >= 2500; ANALYZE images")
        .await;
    let check = primary_check(&world, "SELECT name FROM images").await;
    let keys: Vec<ObjectKey> = (0..2_500)
        .map(|index| ObjectKey::new(format!("{index:06}")))
        .collect();
    let named = check.referenced(&keys.iter().collect::<Vec<_>>()).await;
    let third: Vec<bool> = (0..2_500).map(|index| index % 3 == 0).collect();
    assert_eq!(named.expect("asked"), third);
    assert!(check.by_index_of().is_some());
}

#[tokio::test]
async fn work_that_loses_no_row_is_no_error() {
    for work in [
        "INSERT INTO images VALUES ('later.png')",
        "CREATE INDEX later ON images (name)",
        "ALTER TABLE images ADD COLUMN more int",
    ] {
        let (seen, ended) = snapshot_meanwhile(work).await;
        assert_eq!(seen, 2, "{work}");
        assert!(ended.is_ok(), "{work}: {ended:?}");
    }
}

#[tokio::test]
async fn a_dead_database_and_a_wrong_password_are_named_without_the_password() {
    let world = world().await;
    let mut url = url::Url::parse(world.database.url()).expect("a URL");
    url.set_password(Some("hunter2")).expect("set");
    let report = world.run(&[(Setting::DatabaseUrl, url.as_str())]).await;
    assert!(
        failure(&report).starts_with("Database") && !failure(&report).contains("hunter2"),
        "{}",
        failure(&report)
    );
    assert_eq!(report.summary.status, Status::Failed);
    url.set_port(Some(1)).expect("set");
    let report = world.run(&[(Setting::DatabaseUrl, url.as_str())]).await;
    assert!(
        failure(&report).contains("could not connect"),
        "{}",
        failure(&report)
    );
    assert_eq!(deletions(&world), 0);
}

#[tokio::test]
async fn a_fresh_check_asks_no_other_database_than_the_snapshot_did() {
    let world = world().await;
    let settings = world.settings(&[]);
    let database = orphan_sweeper::access::database(&settings.database);
    let snapshot = Snapshot::open(&database, &settings.references)
        .await
        .expect("opened");
    let same = snapshot.identity().clone();
    assert_eq!(same.schemas, ["public"]);
    let others = [
        Identity {
            system_identifier: "1".to_owned(),
            ..same.clone()
        },
        Identity {
            database: "restored".to_owned(),
            ..same.clone()
        },
        Identity {
            standby: true,
            ..same.clone()
        },
        Identity {
            schemas: vec!["other".to_owned()],
            ..same.clone()
        },
    ];
    let key = ObjectKey::new("a.png");
    for identity in [same].into_iter().chain(others) {
        let known = identity == *snapshot.identity();
        let check = PrimaryCheck::new(
            database.clone(),
            settings.references.clone(),
            settings.rules.clone(),
            identity,
        );
        assert_eq!(check.referenced(&[&key]).await.is_ok(), known);
    }
}

#[tokio::test]
async fn a_run_whose_snapshot_lost_rows_deletes_nothing() {
    let world = world().await;
    let mut other = world.connect().await;
    let work = "BEGIN; LOCK TABLE images IN ACCESS EXCLUSIVE MODE; TRUNCATE images; INSERT INTO images VALUES ('a.png'), ('b.png')";
    other.execute(sqlx::raw_sql(work)).await.expect("worked");
    let (report, ()) = tokio::join!(
        Box::pin(world.run(&[])),
        commit_when_awaited(&world, &mut other)
    );
    assert!(
        failure(&report).contains("images was truncated, rewritten"),
        "{}",
        failure(&report)
    );
    assert_eq!((world.keys().len(), deletions(&world)), (3, 0));
}
