//! What a database, a manifest or a secret may not hold, and the line that refuses each:
//! what is wrong, where, and what would be right. Nothing is deleted.
#![cfg(feature = "demo")]

mod support;

use orphan_sweeper::local::s3::Operation;
use serde_json::{Value, json};
use sqlx::{Executor as _, Row as _};
use support::program::{Environment, files};
use support::{BUCKET, World};

const KEY_FORM: &[&str] = &[];
const URL_FORM: &[&str] = &["--reference-form", "url"];

/// A name, how names are written, and the line.
const NAMES: &[(&str, &[&str], &str)] = &[
    (
        "https://me:hunter2@cdn.example.com/a.png?sig=hunter2",
        KEY_FORM,
        "the name 'https://cdn.example.com/a.png' looks like a URL, but --reference-form is key; mixed forms need a query that yields one form",
    ),
    (
        "[\"a.png\",\"b.png\"]",
        KEY_FORM,
        "the name '[\"a.png\",\"b.png\"]' looks like JSON or an array; let the references query yield one key a row",
    ),
    (
        "{a.png,b.png}",
        KEY_FORM,
        "the name '{a.png,b.png}' looks like JSON or an array; let the references query yield one key a row",
    ),
    (
        "a.png",
        URL_FORM,
        "the name 'a.png' is not an http, https or s3 URL, but --reference-form is url; mixed forms need a query that yields one form",
    ),
    (
        "ftp://cdn.example.com/a.png",
        URL_FORM,
        "the name 'ftp://cdn.example.com/a.png' is not an http, https or s3 URL, but --reference-form is url; mixed forms need a query that yields one form",
    ),
    (
        "https://cdn.example.com/a.png?sig=hunter2",
        URL_FORM,
        "the host cdn.example.com of 'https://cdn.example.com/a.png' is not known: declare it with --reference-host if it stands for the bucket, or with --foreign-host if it is not ours",
    ),
    (
        "https://pictures.s3.amazonaws.com/%ff.png?sig=hunter2",
        URL_FORM,
        "the path of 'https://pictures.s3.amazonaws.com/%ff.png' does not decode to UTF-8",
    ),
    (
        "s3://paintings/a.png",
        URL_FORM,
        "the host paintings of 's3://paintings/a.png' is not known: declare it with --reference-host if it stands for the bucket, or with --foreign-host if it is not ours",
    ),
];

/// A references query, and the line.
const QUERIES: &[(&str, &str)] = &[
    (
        "SELECT name FROM pictures",
        "the references query is refused by the database: relation \"pictures\" does not exist",
    ),
    (
        "SELECT nom FROM images",
        "the references query is refused by the database: column \"nom\" does not exist",
    ),
    (
        "SELECT name, name FROM images",
        "the references query must yield exactly one column, but yields 2 (name, name)",
    ),
    (
        "SELECT FROM images",
        "the references query must yield exactly one column, but yields 0 ()",
    ),
    (
        "SELECT name FROM images WHERE name > $1",
        "the references query has a parameter ($1), and nothing would fill it",
    ),
    (
        "SELECT name FROM images; DELETE FROM images",
        "the references query is refused by the database: cannot insert multiple commands into a prepared statement",
    ),
    (
        "SELECT name FROM images) AS r(k)) AS names) TO STDOUT; DELETE FROM images; --",
        "the references query is refused by the database: syntax error at or near \")\"",
    ),
    (
        "DELETE FROM images RETURNING name",
        "syntax error at or near \"FROM\"",
    ),
    (
        "WITH gone AS (DELETE FROM images RETURNING name) SELECT name FROM gone",
        "WITH clause containing a data-modifying statement must be at the top level",
    ),
    (
        "SELECT wipe()",
        "cannot execute DELETE in a read-only transaction",
    ),
    (
        "SELECT nextval('counter')::text",
        "cannot execute nextval() in a read-only transaction",
    ),
    (
        "UPDATE images SET name = 'x'",
        "the references query must yield exactly one column, but yields 0 ()",
    ),
    (
        "TRUNCATE images",
        "the references query must yield exactly one column, but yields 0 ()",
    ),
];

async fn world() -> World {
    let world = World::new().await;
    world
        .sql(
            "CREATE SEQUENCE counter; CREATE FUNCTION wipe() RETURNS SETOF text LANGUAGE sql \
             AS 'DELETE FROM images RETURNING name'",
        )
        .await;
    world.put_named(&["images/a.png", "images/b.png"], 48).await;
    world.put("images/orphan.png", 48);
    world
}

/// The one problem of a sweep that failed and deleted nothing.
async fn refusal(world: &World, arguments: &[&str]) -> String {
    let arguments = [&["sweep"], arguments].concat();
    let ended = Environment::of(world).cli(&arguments).await;
    let about = format!("{arguments:?}");
    assert_eq!(ended.code, Some(1), "{about}: {ended:?}");
    let summary = ended.json();
    assert_eq!(summary["status"], "failed", "{about}");
    let [problem] = &summary["errors"].as_array().expect("a list")[..] else {
        panic!("{about}: {summary}")
    };
    assert_eq!(problem["code"], "Database", "{about}: {problem}");
    assert!(
        !ended.stdout.contains("hunter2") && !ended.stderr.contains("hunter2"),
        "{about}: {ended:?}"
    );
    for operation in [
        Operation::DeleteObjects,
        Operation::DeleteObject,
        Operation::PutObject,
    ] {
        assert_eq!(world.server.count(operation), 0, "{about}");
    }
    assert_eq!(world.keys().len(), 3, "{about}");
    let message = problem["message"].as_str().expect("a text").to_owned();
    assert!(!message.contains('\n'), "{about}: {message}");
    message
}

async fn rows(world: &World) -> i64 {
    let mut connection = world.connect().await;
    let row = connection.fetch_one("SELECT count(*) FROM images").await;
    row.expect("counted").get(0)
}

#[tokio::test]
async fn every_name_that_cannot_be_read_is_refused_by_its_line() {
    let world = world().await;
    let long = "x".repeat(1_025);
    let too_long = format!(
        "the name '{}…' makes a key of 1025 bytes, but a key has at most 1024",
        "x".repeat(200)
    );
    let rows = NAMES
        .iter()
        .copied()
        .chain([(long.as_str(), KEY_FORM, too_long.as_str())]);
    for (name, form, line) in rows {
        world.sql("DELETE FROM images").await;
        world.name(&[name]).await;
        let told = refusal(&world, form).await;
        assert!(told.ends_with(&format!(": {line}")), "{name}: {told}");
    }
}

#[tokio::test]
async fn every_query_that_is_no_reading_of_one_column_is_refused_by_its_line() {
    let world = world().await;
    for (query, line) in QUERIES {
        let told = refusal(&world, &["--references", query]).await;
        assert!(told.ends_with(&format!(": {line}")), "{query}: {told}");
        assert_eq!(rows(&world).await, 2, "{query}");
        let mut connection = world.connect().await;
        let counted = connection.fetch_one("SELECT is_called FROM counter").await;
        assert!(!counted.expect("read").get::<bool, _>(0), "{query}");
    }
    // A large object is made by a function that READ ONLY lets pass: the ROLLBACK undoes it.
    let makes = "SELECT name FROM images WHERE lo_create(0) > 0";
    let ended = Environment::of(&world)
        .cli(&["plan", "--references", makes])
        .await;
    assert_eq!(ended.json()["referenced"], 2, "{ended:?}");
    let mut connection = world.connect().await;
    let left = connection
        .fetch_one("SELECT count(*) FROM pg_largeobject_metadata")
        .await;
    assert_eq!(left.expect("counted").get::<i64, _>(0), 0);
}

#[tokio::test]
async fn every_field_of_a_manifests_header_is_needed_and_sealed() {
    let world = world().await;
    let planned = Environment::of(&world).cli(&["plan"]).await.json();
    let plan = format!("{}plan.jsonl", planned["report"].as_str().expect("a place"));
    let text = std::fs::read_to_string(&plan).expect("a plan");
    let (first, rest) = text.split_once('\n').expect("a header");
    let header: serde_json::Map<String, Value> = serde_json::from_str(first).expect("JSON");
    world.server.clear_requests();
    let ledger = files(world.ledger.path());
    let home = tempfile::TempDir::new().expect("a folder");
    let path = home.path().join("bad.jsonl").display().to_string();
    let refused = async |header: &serde_json::Map<String, Value>| {
        let header = serde_json::to_string(header).expect("JSON");
        std::fs::write(&path, format!("{header}\n{rest}")).expect("written");
        let ended = Environment::of(&world).cli(&["apply", &path]).await;
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (Some(2), ""),
            "{header}: {ended:?}"
        );
        let line = ended.stderr.strip_suffix('\n').expect("a line").to_owned();
        assert!(!line.contains('\n'), "{line}");
        line.strip_prefix(&format!("orphan-sweeper: MANIFEST: {path}: "))
            .unwrap_or_else(|| panic!("{line}"))
            .to_owned()
    };
    let not_ours = "this is not a manifest: its first line is not a header as `orphan-sweeper plan` writes it in plan.jsonl";
    for field in header.keys() {
        let mut without = header.clone();
        without.remove(field);
        let line = refused(&without).await;
        // Manifests of before have no schemas; this one's seal covers them.
        let expected = if field == "schemas" {
            "the manifest's header was changed".to_owned()
        } else {
            format!("{not_ours} (missing field `{field}`")
        };
        assert!(line.starts_with(&expected), "{line}");
        assert!(line.ends_with("; plan again"), "{line}");

        let mut wrong = header.clone();
        wrong.insert(field.clone(), json!({"no": "type"}));
        let line = refused(&wrong).await;
        assert!(
            line.starts_with(&format!("{not_ours} (invalid type: map"))
                || (field == "reference_form"
                    && line.contains("unknown variant `no`, expected `key` or `url`")),
            "{field}: {line}"
        );

        let mut changed = header.clone();
        changed.insert(field.clone(), another(&header[field]));
        let line = refused(&changed).await;
        let expected = if field == "manifest" {
            "the manifest has format 2, and this program reads 1; plan again"
        } else {
            "the manifest's header was changed after it was written (its seal does not fit); plan again"
        };
        assert_eq!(line, expected, "{field}");
    }
    let mut more = header.clone();
    more.insert("dry_run".to_owned(), json!(false));
    let line = refused(&more).await;
    assert!(
        line.starts_with(&format!("{not_ours} (unknown field `dry_run`")),
        "{line}"
    );

    assert_eq!(world.server.requests(), []);
    assert_eq!(files(world.ledger.path()), ledger);
    assert_eq!(world.server.keys(BUCKET).len(), 3);
}

/// Another value that the field could have.
fn another(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_u64().expect("whole") + 1),
        Value::Array(_) => json!(["x.example.com"]),
        Value::String(text) if text == "key" => json!("url"),
        Value::String(text) if text.parse::<uuid::Uuid>().is_ok() => json!(uuid::Uuid::now_v7()),
        Value::String(text) if text.parse::<jiff::Timestamp>().is_ok() => {
            json!("2026-01-01T00:00:00Z")
        }
        Value::String(text) => json!(format!("{text}x/")),
        other => panic!("a field of another kind: {other}"),
    }
}

/// The SDK would end the program with a panic: it signs requests with each of them.
#[tokio::test]
async fn what_no_request_can_be_signed_with_is_refused_by_the_variables_name() {
    let world = world().await;
    let run = uuid::Uuid::now_v7().to_string();
    for variable in [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
    ] {
        let line = format!(
            "{variable}: its value holds a control character, like the end of a line; set it again without"
        );
        for value in ["hunter2\n", "hunter2\r", "hunter2\r\n", "hun\u{1}ter2"] {
            let environment = Environment::of(&world).with(&[(variable, value)]);
            for arguments in [
                &["sweep"][..],
                &["doctor"],
                &["ranges", "--parts", "2"],
                &["apply", &run],
                &["restore", &run],
                &["report", &run],
            ] {
                let ended = environment.cli(arguments).await;
                assert_eq!(
                    (ended.code, ended.stdout.as_str(), ended.stderr.as_str()),
                    (Some(2), "", format!("orphan-sweeper: {line}\n").as_str()),
                    "{arguments:?}"
                );
            }
        }
        let environment = Environment::of(&world).with(&[(variable, "hunter2\n")]);
        let mut function = environment.function().await;
        let refused = function.invoke("{}").await.error();
        assert_eq!(refused, ("Config".to_owned(), line));
        assert!(!function.end().await.contains("hunter2"));
    }
    assert_eq!(world.server.requests(), []);
}

/// A profile's file holds them, too.
#[tokio::test]
async fn a_profile_no_request_can_be_signed_with_fails_in_one_line() {
    let world = world().await;
    let folder = tempfile::TempDir::new().expect("a folder");
    let file = folder.path().join("credentials").display().to_string();
    for (key, token, region, what) in [
        ("hun\u{1}ter2", "token", "eu-west-3", "access key id"),
        ("key", "hun\u{1}ter2", "eu-west-3", "session token"),
        ("key", "token", "hun\u{1}ter2", "region"),
    ] {
        let profile = format!(
            "[default]\naws_access_key_id = {key}\naws_secret_access_key = secret\naws_session_token = {token}\nregion = {region}\n"
        );
        std::fs::write(&file, profile).expect("written");
        let environment = Environment::of(&world)
            .without("AWS_ACCESS_KEY_ID")
            .without("AWS_SECRET_ACCESS_KEY")
            .without("AWS_REGION")
            .with(&[
                ("AWS_SHARED_CREDENTIALS_FILE", &file),
                ("AWS_CONFIG_FILE", &file),
            ]);
        let ended = environment.cli(&["sweep"]).await;
        assert_eq!((ended.code, ended.stderr.lines().count()), (Some(1), 1));
        let told = format!("{:?}", ended.json()["errors"]);
        let words = format!("the {what} that AWS's configuration gives holds a control character");
        assert!(told.contains(&words) && !told.contains("ter2"), "{ended:?}");
        // Who asks for a secret signs, too, in the secret's own region.
        if what == "region" {
            continue;
        }
        let secret = "arn:aws:secretsmanager:eu-west-3:123456789012:secret:pictures-AbCdEf";
        let environment = environment
            .without("DATABASE_URL")
            .with(&[("DATABASE_SECRET_ARN", secret)]);
        let ended = environment.cli(&["doctor"]).await;
        let found = ended.json();
        let mut found = found.as_array().expect("a list").iter();
        let told = found.find(|finding| finding["about"] == "database");
        let told = told.expect("of the database").to_string();
        assert!(told.contains(&words) && !told.contains("ter2"), "{ended:?}");
    }
    assert_eq!(world.server.requests(), []);
}

/// What a role is given beside SELECT, and how the doctor says so.
const MORE_THAN_READING: &[(&str, &str)] = &[
    ("ALTER ROLE it CREATEROLE", "can make roles"),
    ("ALTER ROLE it CREATEDB", "can make databases"),
    (
        "ALTER ROLE it REPLICATION",
        "can open replication connections",
    ),
    // What it can become counts, whether it inherits its rights or not.
    (
        "ALTER ROLE it NOINHERIT; DO $$ BEGIN EXECUTE format('GRANT %I TO it', current_user); END $$",
        "can become a superuser (SET ROLE",
    ),
    (
        "ALTER ROLE it NOINHERIT; CREATE ROLE writer_of_it; GRANT DELETE ON images TO writer_of_it; GRANT writer_of_it TO it",
        "can write to 1 tables, public.images among them",
    ),
    (
        "CREATE FUNCTION wipe_all() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'DELETE FROM images'",
        "can call 1 functions that run with the rights of another (SECURITY DEFINER), wipe_all() among them",
    ),
    (
        "GRANT INSERT ON images TO it",
        "can write to 1 tables, public.images among them",
    ),
    (
        "GRANT TRUNCATE ON images TO it",
        "can write to 1 tables, public.images among them",
    ),
    (
        "GRANT UPDATE (name) ON images TO it",
        "can write to 1 tables, public.images among them",
    ),
    (
        "GRANT TRIGGER ON images TO it",
        "can write to 1 tables, public.images among them",
    ),
    (
        "CREATE VIEW all_images AS SELECT * FROM images; GRANT DELETE ON all_images TO it",
        "can write to 1 tables, public.all_images among them",
    ),
    (
        "CREATE FUNCTION own_one() RETURNS int LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION own_one() OWNER TO it",
        "owns 1 functions, own_one() among them",
    ),
    (
        "SELECT lo_create(4711); ALTER LARGE OBJECT 4711 OWNER TO it",
        "can write to 1 large objects, 4711 among them",
    ),
    (
        "SELECT lo_create(4712); GRANT UPDATE ON LARGE OBJECT 4712 TO it",
        "can write to 1 large objects, 4712 among them",
    ),
    (
        "ALTER TABLE images OWNER TO it",
        "owns 1 tables, public.images among them",
    ),
    (
        "GRANT USAGE ON SEQUENCE counter TO it",
        "can advance 1 sequences, public.counter among them",
    ),
    (
        "GRANT CREATE ON SCHEMA public TO it",
        "can make tables in schema public",
    ),
    (
        "DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO it', current_database()); END $$",
        "can make schemas",
    ),
    (
        "GRANT pg_execute_server_program TO it",
        "is a member of pg_execute_server_program",
    ),
    ("ALTER ROLE it SUPERUSER", "is a superuser"),
];

#[tokio::test]
async fn the_doctor_names_whatever_a_role_can_do_besides_reading() {
    for (index, (grant, words)) in MORE_THAN_READING.iter().enumerate() {
        let world = world().await;
        let role = format!("wrong_{index}_{}", std::process::id());
        world
            .sql(&format!(
                "REVOKE CREATE ON SCHEMA public FROM PUBLIC; \
                 CREATE ROLE {role} LOGIN PASSWORD 'reader'; GRANT SELECT ON images TO {role}"
            ))
            .await;
        let mut url = url::Url::parse(world.database.url()).expect("a URL");
        url.set_username(&role).expect("set");
        url.set_password(Some("reader")).expect("set");
        let said = async || {
            let environment = Environment::of(&world).with(&[("DATABASE_URL", url.as_str())]);
            let found = environment.cli(&["doctor"]).await.json();
            let about = found.as_array().expect("a list").iter();
            let mut about = about.filter(|finding| finding["about"] == "role");
            about.next().expect("of the role").clone()
        };
        let before = said().await;
        assert_eq!(
            (&before["verdict"], &before["message"]),
            (&json!("ok"), &json!("it can read, and nothing else"))
        );
        world
            .sql(
                &grant
                    .replace(" it", &format!(" {role}"))
                    .replace("_of_it", &format!("_of_{role}")),
            )
            .await;
        let after = said().await;
        assert_eq!(after["verdict"], "warning", "{grant}: {after}");
        let message = after["message"].as_str().expect("a text");
        assert!(message.contains(words), "{grant}: {message}");
    }
}
