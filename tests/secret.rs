//! A database whose address and password a secret holds, over real sockets.
#![cfg(feature = "demo")]

mod support;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use support::program::Environment;
use support::{BUCKET, World};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const ARN: &str = "arn:aws:secretsmanager:eu-west-3:123456789012:secret:pictures-AbCdEf";

/// Secrets Manager, as far as it is asked: it gives one answer after another, the last one
/// again and again.
struct Secrets {
    endpoint: String,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    serving: tokio::task::AbortHandle,
}

impl Secrets {
    async fn that_answer(answers: &[(u16, Value)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (noted, mut answers) = (Arc::clone(&asked), VecDeque::from(answers.to_vec()));
        let serving = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let question = read(&mut stream).await;
                noted.lock().expect("locked").push(question);
                let (status, body) = if answers.len() > 1 {
                    answers.pop_front().expect("an answer")
                } else {
                    answers[0].clone()
                };
                let body = body.to_string();
                let answer = format!(
                    "HTTP/1.1 {status} X\r\ncontent-type: application/x-amz-json-1.1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                // Whoever hung up wants no answer.
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self {
            endpoint,
            asked,
            serving: serving.abort_handle(),
        }
    }

    fn asked(&self) -> Vec<(String, Value)> {
        self.asked.lock().expect("locked").clone()
    }
}

impl Drop for Secrets {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The head and the body of a request.
async fn read(stream: &mut TcpStream) -> (String, Value) {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length: usize = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse().expect("a number"));
            if body.len() >= length {
                return (head, serde_json::from_str(body).expect("JSON"));
            }
        }
        let read = stream.read_buf(&mut bytes).await.expect("read");
        assert!(read > 0, "the request broke off: {text}");
    }
}

/// The world's database, and a role of the test's own that can only read.
async fn reader(world: &World, role: &str) -> url::Url {
    let create =
        format!("CREATE ROLE {role} LOGIN PASSWORD 'hunter2'; GRANT SELECT ON images TO {role}");
    world.sql(&create).await;
    let mut url = url::Url::parse(world.database.url()).expect("a URL");
    url.set_username(role).expect("set");
    url
}

/// The answer with what RDS would write of this world's database.
fn secret(url: &url::Url, password: &str) -> (u16, Value) {
    let database = percent_encoding::percent_decode_str(url.path().trim_start_matches('/'));
    let content = json!({
        "engine": "postgres",
        "host": url.host_str(),
        "port": url.port(),
        "username": url.username(),
        "password": password,
        "dbname": database.decode_utf8().expect("UTF-8"),
    });
    (
        200,
        json!({"ARN": ARN, "SecretString": content.to_string()}),
    )
}

async fn world() -> World {
    let world = World::new().await;
    world.put("images/a.png", 100);
    world.put_named(&["images/named.png"], 48).await;
    world
}

fn environment(world: &World, secrets: &Secrets) -> Environment {
    Environment::of(world).without("DATABASE_URL").with(&[
        ("DATABASE_SECRET_ARN", ARN),
        ("AWS_ENDPOINT_URL_SECRETS_MANAGER", &secrets.endpoint),
        ("SWEEPER_MAX_ORPHAN_PERCENT", "100"),
    ])
}

#[tokio::test]
async fn the_secret_is_read_once_a_run_in_its_own_region() {
    let world = world().await;
    let url = reader(&world, "secret_once").await;
    let secrets = Secrets::that_answer(&[secret(&url, "hunter2")]).await;
    let ended = environment(&world, &secrets).cli(&["sweep"]).await;
    assert_eq!(ended.json()["deleted"], 1, "{ended:?}");
    assert_eq!(world.server.keys(BUCKET), ["images/named.png"]);
    let asked = secrets.asked();
    let [(head, body)] = &asked[..] else {
        panic!("{asked:?}")
    };
    assert_eq!(body, &json!({"SecretId": ARN}));
    assert!(head.starts_with("post / "), "{head}");
    assert!(
        head.contains("x-amz-target: secretsmanager.getsecretvalue"),
        "{head}"
    );
    assert!(
        head.contains("/eu-west-3/secretsmanager/aws4_request"),
        "{head}"
    );
    assert!(!format!("{ended:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_password_that_was_rotated_is_read_anew_once() {
    let world = world().await;
    let url = reader(&world, "secret_rotated").await;
    for (answers, status, asked) in [
        (
            vec![secret(&url, "of yesterday"), secret(&url, "hunter2")],
            "completed",
            2,
        ),
        (vec![secret(&url, "of yesterday")], "failed", 2),
    ] {
        let secrets = Secrets::that_answer(&answers).await;
        let ended = environment(&world, &secrets).cli(&["sweep"]).await;
        assert_eq!(ended.json()["status"], status, "{ended:?}");
        assert_eq!(secrets.asked().len(), asked, "{ended:?}");
        let said = format!("{ended:?}");
        assert!(
            !said.contains("hunter2") && !said.contains("of yesterday"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn a_secret_that_is_not_handed_out_deletes_nothing_and_is_told_by_name() {
    let world = world().await;
    let denied = json!({"__type": "AccessDeniedException", "Message": "not authorized to perform: secretsmanager:GetSecretValue"});
    for (answer, named) in [
        ((400, denied), "AccessDeniedException: not authorized"),
        (
            (200, json!({"SecretBinary": "aHVudGVyMg=="})),
            "holds no text",
        ),
        (
            (200, json!({"SecretString": "hunter2"})),
            "the JSON that RDS writes",
        ),
    ] {
        let secrets = Secrets::that_answer(&[answer]).await;
        let ended = environment(&world, &secrets).cli(&["sweep"]).await;
        let summary = ended.json();
        assert_eq!(
            (&summary["status"], &summary["errors"][0]["code"]),
            (&json!("failed"), &json!("Database"))
        );
        let message = summary["errors"][0]["message"].as_str().expect("a message");
        assert!(
            message.contains(named) && message.contains(ARN),
            "{message}"
        );
        assert!(!format!("{ended:?}").contains("hunter2"));
    }
    assert_eq!(world.keys().len(), 2);
}

#[tokio::test]
async fn a_service_that_stumbles_is_asked_again() {
    let world = world().await;
    let url = reader(&world, "secret_stumbles").await;
    let secrets = Secrets::that_answer(&[
        (503, json!({"__type": "ServiceUnavailable"})),
        secret(&url, "hunter2"),
    ])
    .await;
    let ended = environment(&world, &secrets).cli(&["sweep"]).await;
    assert_eq!(ended.json()["deleted"], 1, "{ended:?}");
    assert_eq!(secrets.asked().len(), 2);
}

/// What each field may not be, and what is said of it.
const BAD_SECRETS: &[(&str, &str, &str)] = &[
    ("", "hunter2", "is not such an object (line 1, column 1)"),
    (
        "",
        r#"["hunter2"]"#,
        "is not such an object (line 1, column 11)",
    ),
    (
        "host",
        r#"{"username":"u","password":"hunter2"}"#,
        "has no host",
    ),
    (
        "host",
        r#"{"host":"","username":"u","password":"hunter2"}"#,
        "has no host",
    ),
    (
        "port",
        r#"{"host":"h","username":"u","password":"hunter2","port":"hunter2"}"#,
        "has a port that is no number",
    ),
    (
        "username",
        r#"{"host":"h","password":"hunter2"}"#,
        "has no username",
    ),
    (
        "password",
        r#"{"host":"h","username":"hunter2"}"#,
        "has no password",
    ),
    (
        "password",
        r#"{"password":7,"host":"h","username":"hunter2"}"#,
        "is not such an object (line 1, column 13)",
    ),
    (
        "dbname",
        r#"{"dbname":7,"host":"h","username":"u","password":"hunter2"}"#,
        "is not such an object (line 1, column 11)",
    ),
    (
        "engine",
        r#"{"engine":"mysql","host":"h","username":"u","password":"hunter2"}"#,
        "is of another engine than postgres",
    ),
];

#[tokio::test]
async fn every_field_of_a_secret_that_cannot_be_used_is_refused_by_its_line() {
    const FIELDS: &str = "host, port, username, password, dbname, engine";
    for field in FIELDS.split(", ") {
        let rows = BAD_SECRETS.iter().filter(|(about, ..)| *about == field);
        assert!(rows.count() > 0, "{field} has no row");
    }
    let world = world().await;
    for (_, content, problem) in BAD_SECRETS {
        let secrets = Secrets::that_answer(&[(200, json!({"SecretString": content}))]).await;
        let ended = environment(&world, &secrets).cli(&["sweep"]).await;
        assert_eq!(ended.code, Some(1), "{content}: {ended:?}");
        assert_eq!(
            ended.json()["errors"][0]["message"],
            format!(
                "the database could not be read: could not learn how to sign in to the database: \
                 the secret {ARN} {problem}; it must be the JSON that RDS writes: {FIELDS}"
            ),
            "{content}"
        );
        assert!(!format!("{ended:?}").contains("hunter2"), "{ended:?}");
    }
    assert_eq!(world.keys().len(), 2);
}
