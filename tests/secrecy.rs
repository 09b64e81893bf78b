//! Whatever is run, however it ends and however much is logged: no password, no key and no
//! signature is printed, logged, answered or written down. Everything is searched for them.
#![cfg(feature = "demo")]

mod support;

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use orphan_sweeper::local::s3::{Effect, Fault, Operation, SECRET_KEY};
use serde_json::{Value, json};
use support::World;
use support::program::{Ended, Environment, files};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use url::Url;

/// Needs to be encoded in a URL.
const PASSWORD: &str = "Tr0ub4dor/3:h@rses";
const ENCODED: &str = "Tr0ub4dor%2F3%3Ah%40rses";
const WRONG: &str = "Wr0ngHorse";
const SESSION_TOKEN: &str = "IQoJsessiontokenZZZ";
const SIGNATURE: &str = "0ffee0ffee0ffee0";
const OF_THE_SECRET: &str = "Batt3ryStaple";

/// Has the server quote the URL in its complaint.
const A_CAST: &str = "SELECT (url::int)::text FROM signed";
const A_SIGNED_URL: &str = "https://elsewhere.example.com/ledger?X-Amz-Signature=0ffee0ffee0ffee0";

/// What may stand nowhere. A part is as bad as the whole.
const SECRETS: &[&str] = &[
    "Tr0ub4dor",
    "h@rses",
    "h%40rses",
    "Wr0ngHorse",
    SESSION_TOKEN,
    SIGNATURE,
    OF_THE_SECRET,
    SECRET_KEY,
    // Of requests that were signed, whoever did it.
    "X-Amz-Signature=",
];

/// Everything that was said.
#[derive(Default)]
struct Said(String);

impl Said {
    #[track_caller]
    fn add(&mut self, about: &str, text: &str) {
        for secret in SECRETS {
            if let Some(at) = text.find(secret) {
                let mut from = at.saturating_sub(300);
                while !text.is_char_boundary(from) {
                    from -= 1;
                }
                panic!("{about} tells {secret}: …{}", &text[from..at]);
            }
        }
        self.0.push_str(text);
    }

    #[track_caller]
    fn run(&mut self, about: &str, ended: &Ended) {
        self.add(&format!("{about}: stdout"), &ended.stdout);
        self.add(&format!("{about}: stderr"), &ended.stderr);
    }

    /// All files of the ledger and of the user's home.
    #[track_caller]
    fn files(&mut self, world: &World, environment: &Environment) {
        for folder in [world.ledger.path(), environment.home()] {
            for file in files(folder) {
                let text =
                    String::from_utf8_lossy(&std::fs::read(&file).expect("read")).into_owned();
                self.add(&file.display().to_string(), &text);
            }
        }
    }
}

/// A role whose password is the secret one.
async fn address(world: &World, role: &str) -> Url {
    world
        .sql(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'; GRANT SELECT ON images TO {role}; \
             CREATE TABLE signed (url text); GRANT SELECT ON signed TO {role}; \
             INSERT INTO signed VALUES ('https://elsewhere.example.com/images/a.png?X-Amz-Signature={SIGNATURE}'); \
             CREATE FUNCTION cry() RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN \
             RAISE WARNING 'look at %', (SELECT url FROM signed); \
             RAISE EXCEPTION 'not %', (SELECT url FROM signed) USING HINT = (SELECT url FROM signed); END $$"
        ))
        .await;
    let mut url = Url::parse(world.database.url()).expect("a URL");
    url.set_username(role).expect("set");
    let text = url
        .as_str()
        .replace(&format!("{role}@"), &format!("{role}:{ENCODED}@"));
    if text.contains(ENCODED) {
        return Url::parse(&text).expect("a URL");
    }
    url.set_password(Some(PASSWORD)).expect("set");
    assert!(url.as_str().contains(ENCODED), "{url}");
    url
}

fn talkative(world: &World, url: &str) -> Environment {
    Environment::of(world).with(&[
        ("DATABASE_URL", url),
        ("AWS_SESSION_TOKEN", SESSION_TOKEN),
        ("RUST_LOG", "trace"),
        ("SWEEPER_MAX_ORPHAN_PERCENT", "100"),
        ("SWEEPER_NOT_A_REFERENCE", "public.signed.url"),
    ])
}

async fn world() -> World {
    let world = World::new().await;
    world.put("images/a.png", 100);
    world.put("images/b.png", 100);
    world.put_named(&["images/named.png"], 48).await;
    world
}

/// A name of form `key` is a key, whatever stands in it.
#[tokio::test]
async fn the_signature_of_a_name_without_an_object_is_told_nowhere() {
    let world = world().await;
    world
        .name(&[format!("images/gone.png?X-Amz-Signature={SIGNATURE}")])
        .await;
    let mut said = Said::default();
    // (The SDK's own log has every key that S3 is asked for.)
    let environment = || {
        talkative(&world, world.database.url())
            .without("SWEEPER_NOT_A_REFERENCE")
            .with(&[("RUST_LOG", "orphan_sweeper=trace,warn")])
    };
    for (dangling, code) in [("1", 3), ("100", 0)] {
        let ended = environment()
            .cli(&["sweep", "--max-dangling-percent", dangling])
            .await;
        assert_eq!(ended.code, Some(code), "{ended:?}");
        said.run("a sweep", &ended);
        for format in ["text", "html", "csv"] {
            let ended = environment().cli(&["report", "--format", format]).await;
            said.run(format, &ended);
        }
    }
    said.files(&world, &environment());
    assert!(said.0.matches("images/gone.png?…").count() > 3);
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "one world and every way to end in it"
)]
async fn no_command_tells_a_secret_however_it_ends() {
    let world = world().await;
    let url = address(&world, "secrecy_cli").await;
    let mut said = Said::default();
    let environment = || talkative(&world, url.as_str());

    // What a forgotten column holds is shown without its query.
    let ended = environment()
        .without("SWEEPER_NOT_A_REFERENCE")
        .cli(&["doctor"])
        .await;
    assert!(ended.stdout.contains("public.signed.url"), "{ended:?}");
    said.run("a forgotten column", &ended);
    let misplaced = environment().cli(&["plan", url.as_str()]).await;
    assert_eq!(misplaced.code, Some(2), "{misplaced:?}");
    assert!(
        misplaced.stderr.contains("unexpected argument"),
        "{misplaced:?}"
    );
    said.run("an address in the wrong place", &misplaced);
    for (about, arguments, code) in [
        ("doctor", &["doctor", "--verbose"][..], 0),
        ("plan", &["plan"], 0),
        ("refused", &["sweep", "--max-orphan-percent", "1"], 3),
        ("text", &["plan", "--output", "text"], 0),
        ("no such bucket", &["sweep", "--bucket", "missing"], 1),
        (
            "a bad query",
            &["sweep", "--references", "SELECT nothing FROM images"],
            1,
        ),
        (
            "a signed name",
            &["sweep", "--references", "SELECT url FROM signed"],
            1,
        ),
        (
            "a signed URL",
            &[
                "sweep",
                "--references",
                "SELECT url FROM signed",
                "--reference-form",
                "url",
            ],
            1,
        ),
        ("a cast", &["sweep", "--references", A_CAST], 1),
        ("a cast, examined", &["doctor", "--references", A_CAST], 1),
        (
            "no JSON",
            &[
                "sweep",
                "--references",
                "SELECT url::json->>'a' FROM signed",
            ],
            1,
        ),
        (
            "a function that complains",
            &["sweep", "--references", "SELECT cry()", "--output", "text"],
            1,
        ),
        (
            "a ledger by a signed URL",
            &["sweep", "--report", A_SIGNED_URL],
            2,
        ),
        ("a bad flag", &["sweep", "--min-age", "x"], 2),
        ("an unknown flag", &["sweep", "--mystery"], 2),
    ] {
        let ended = environment().cli(arguments).await;
        assert_eq!(ended.code, Some(code), "{about}: {}", ended.stdout);
        said.run(about, &ended);
    }

    // What S3 refuses.
    for operation in [
        Operation::ListObjectsV2,
        Operation::DeleteObjects,
        Operation::HeadObject,
    ] {
        world
            .server
            .inject(Fault::new(operation, Effect::access_denied()));
        said.run("denied", &environment().cli(&["sweep", "--dry-run"]).await);
        said.run("denied", &environment().cli(&["doctor"]).await);
        world.server.heal();
    }

    // What it says of single objects, as far as it quotes what was signed.
    let error = |of: &str| {
        format!("<Error>{of}<Code>Odd</Code><Message>see {A_SIGNED_URL}</Message></Error>")
    };
    let [a, b] = ["a", "b"].map(|name| error(&format!("<Key>images/{name}.png</Key>")));
    let refused = Effect::Answer {
        status: 200,
        body: format!("<DeleteResult>{a}{b}</DeleteResult>"),
    };
    // Behind the probe.
    let batch = Fault::new(Operation::DeleteObjects, refused).nth(2);
    world.server.inject(batch);
    let ended = environment().cli(&["sweep"]).await;
    assert_eq!(ended.json()["failed"], 2, "{}", ended.stdout);
    said.run("refused objects", &ended);
    world.server.heal();

    // To the end, and back.
    let planned = environment().cli(&["plan"]).await;
    let run_id = planned.json()["run_id"].as_str().expect("an id").to_owned();
    let applied = environment()
        .cli(&["apply", &run_id, "--max-delete", "1"])
        .await;
    assert_eq!(applied.json()["deleted"], 1, "{}", applied.stdout);
    said.run("apply", &applied);
    let swept = environment().cli(&["sweep"]).await;
    assert_eq!(swept.json()["deleted"], 1, "{}", swept.stdout);
    said.run("sweep", &swept);
    let swept_id = swept.json()["run_id"].as_str().expect("an id").to_owned();
    let last = environment();
    world.server.inject(Fault::new(
        Operation::DeleteObject,
        Effect::Answer {
            status: 403,
            body: error(""),
        },
    ));
    let refused = last.cli(&["restore", &swept_id]).await;
    assert_eq!(refused.json()["failed"], 1, "{}", refused.stdout);
    said.run("a refused restoration", &refused);
    world.server.heal();
    said.run("restore", &last.cli(&["restore", &swept_id]).await);
    said.files(&world, &last);

    // It was searched at all, where it was talkative.
    for word in [
        "DEBUG",
        "images/a.png",
        "elsewhere.example.com",
        r#"for type integer: \"https://elsewhere.example.com/images/a.png?…\""#,
        "look at https://elsewhere.example.com/images/a.png?…",
    ] {
        assert!(said.0.contains(word), "{word}");
    }
}

#[tokio::test]
async fn no_address_tells_its_password_however_wrong_it_is() {
    let world = world().await;
    let url = address(&world, "secrecy_addresses").await;
    let mut said = Said::default();
    let environment = || talkative(&world, url.as_str());
    // What cannot sign in, connect, or be read.
    let text = url.as_str();
    let wrong = text.replace(ENCODED, WRONG);
    let port = url.port().expect("a port").to_string();
    let with = |parameter: &str| {
        let mut url = url.clone();
        url.set_query(Some(parameter));
        url.to_string()
    };
    let mut missing = url.clone();
    missing.set_path("/missing");
    for (about, url, code) in [
        ("a wrong password", wrong.clone(), 1),
        ("TLS that is refused", with("sslmode=verify-full"), 1),
        ("nobody listens", text.replace(&port, "1"), 1),
        (
            "no such host",
            text.replace("127.0.0.1", "nowhere.invalid")
                .replace("localhost", "nowhere.invalid"),
            1,
        ),
        ("no such database", missing.to_string(), 1),
        ("a bad port", text.replace(&port, "many"), 2),
        ("a bad parameter", with(&format!("sslmode={WRONG}")), 2),
        (
            "an unknown parameter",
            with(&format!("sslmode=disable&pass={WRONG}")),
            0,
        ),
        ("another scheme", text.replacen("postgres", "mysql", 1), 2),
        (
            "no scheme",
            text.split_once("://").expect("a scheme").1.to_owned(),
            2,
        ),
        ("the password alone", PASSWORD.to_owned(), 2),
    ] {
        for command in ["plan", "doctor"] {
            let ended = talkative(&world, &url).cli(&[command]).await;
            assert_eq!(
                ended.code,
                Some(code),
                "{about}, {command}: {}",
                ended.stdout
            );
            said.run(&format!("{about}, {command}"), &ended);
        }
        let ended = environment().cli(&["plan", "--database-url", &url]).await;
        assert_eq!(ended.code, Some(code), "{about}");
        said.run(about, &ended);
    }
    // A file of passwords that cannot be read.
    let mut without = url.clone();
    without.set_password(None).expect("set");
    let files_of_passwords = talkative(&world, without.as_str());
    let file = files_of_passwords.home().join(".pgpass");
    std::fs::write(&file, format!("127.0.0.1 {PASSWORD}\n")).expect("written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("set");
    let ended = files_of_passwords.cli(&["plan"]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.stdout);
    said.run("a .pgpass", &ended);
    // A token that is signed for a server whose TLS cannot be verified never leaves.
    let tokens = talkative(
        &world,
        "postgres://reader@localhost/app?sslmode=verify-full",
    )
    .with(&[
        ("SWEEPER_DATABASE_IAM", "true"),
        ("SWEEPER_MAX_DELETE", "1"),
    ]);
    said.run("IAM", &tokens.cli(&["doctor"]).await);
    said.files(&world, &environment());
    assert!(
        said.0.contains("for user \\\"secrecy_addresses"),
        "a sign-in was refused"
    );
}

/// Secrets Manager, which hands out this password.
async fn secrets(url: &Url, password: &str) -> String {
    let database = percent_encoding::percent_decode_str(url.path().trim_start_matches('/'))
        .decode_utf8()
        .expect("UTF-8");
    let content = json!({
        "engine": "postgres", "host": url.host_str(), "port": url.port(), "username": url.username(),
        "password": password, "dbname": database, "note": OF_THE_SECRET,
    });
    let body = json!({ "SecretString": content.to_string() }).to_string();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = Vec::new();
            while !String::from_utf8_lossy(&asked).contains("SecretId") {
                stream.read_buf(&mut asked).await.expect("read");
            }
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            // Whoever hung up wants no answer.
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    endpoint
}

#[tokio::test]
async fn neither_does_the_function_nor_what_reads_a_secret() {
    const ARN: &str = "arn:aws:secretsmanager:eu-west-3:123456789012:secret:pictures-AbCdEf";
    let world = world().await;
    let url = address(&world, "secrecy_lambda").await;
    let mut said = Said::default();
    let with_secret = |endpoint: &str| {
        talkative(&world, "").without("DATABASE_URL").with(&[
            ("DATABASE_SECRET_ARN", ARN),
            ("AWS_ENDPOINT_URL_SECRETS_MANAGER", endpoint),
        ])
    };
    let right = secrets(&url, PASSWORD).await;
    let wrong = secrets(&url, WRONG).await;
    for (endpoint, code) in [(&right, 0), (&wrong, 1)] {
        for command in ["plan", "doctor"] {
            let ended = with_secret(endpoint).cli(&[command]).await;
            assert_eq!(ended.code, Some(code), "{}", ended.stdout);
            said.run(command, &ended);
        }
    }

    let wrong_url = url.as_str().replace(ENCODED, WRONG);
    let bad_url = url.as_str().replacen("postgres", "mysql", 1);
    for (about, environment) in [
        ("its own URL", talkative(&world, url.as_str())),
        ("a wrong password", talkative(&world, &wrong_url)),
        ("a bad URL", talkative(&world, &bad_url)),
        ("a secret", with_secret(&right)),
        ("a secret that is wrong", with_secret(&wrong)),
        (
            "a signed name",
            talkative(&world, url.as_str()).with(&[
                ("SWEEPER_REFERENCES", "SELECT url FROM signed"),
                ("SWEEPER_REFERENCE_FORM", "url"),
            ]),
        ),
        (
            "a cast",
            talkative(&world, url.as_str()).with(&[("SWEEPER_REFERENCES", A_CAST)]),
        ),
        (
            "a function that complains",
            talkative(&world, url.as_str()).with(&[("SWEEPER_REFERENCES", "SELECT cry()")]),
        ),
    ] {
        let mut function = environment.function().await;
        let mut answers = String::new();
        for event in ["{\"dry_run\": true}", "{\"dry_run\": 1}", "nonsense", "{}"] {
            write!(answers, "{:?}", function.invoke(event).await).expect("written");
        }
        said.add(about, &answers);
        let log = function.end().await;
        for line in log.lines() {
            let _line: Value = serde_json::from_str(line).expect("JSON");
        }
        said.add(about, &log);
        said.files(&world, &environment);
    }
    assert!(said.0.contains("images/a.png") && said.0.contains("elsewhere.example.com"));
}
