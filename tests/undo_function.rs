//! A sweep that may not undo asks the function that may, over real sockets.
#![cfg(all(feature = "demo", feature = "lambda"))]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use orphan_sweeper::local::s3::Operation;
use serde_json::{Value, json};
use support::program::{Environment, Function};
use support::runtime_api::Answer;
use support::{BUCKET, World, at_the_last_moment};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const ARN: &str = "arn:aws:lambda:eu-west-3:123456789012:function:sweeper-Restorer-1a2B";

/// What Lambda says to a request.
enum Says {
    /// The real function's answer.
    Truth(Function),
    /// Nothing, although the real function did what was asked.
    TruthLost(Function),
    /// This status, function error, and body; nothing is done.
    Words(u16, Option<&'static str>, Value),
    /// Nothing.
    Nothing,
}

/// Lambda, as far as it is asked.
struct Lambda {
    endpoint: String,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    /// Whether the function is at work.
    busy: Arc<AtomicBool>,
    serving: tokio::task::AbortHandle,
}

impl Lambda {
    async fn that(mut says: Says) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let busy = Arc::new(AtomicBool::new(false));
        let (noted, working) = (Arc::clone(&asked), Arc::clone(&busy));
        let serving = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let (head, body) = read(&mut stream).await;
                noted.lock().expect("locked").push((head, body.clone()));
                working.store(true, Ordering::SeqCst);
                let answer = match &mut says {
                    Says::Truth(function) => Some(match function.invoke(&body.to_string()).await {
                        Answer::Response(value) => (200, None, value),
                        Answer::Error { kind, message } => {
                            let value = json!({"errorType": kind, "errorMessage": message});
                            (200, Some("Unhandled"), value)
                        }
                    }),
                    Says::TruthLost(function) => {
                        function.invoke(&body.to_string()).await.response();
                        None
                    }
                    Says::Words(status, failed, value) => Some((*status, *failed, value.clone())),
                    Says::Nothing => None,
                };
                working.store(false, Ordering::SeqCst);
                let Some((status, failed, value)) = answer else {
                    continue;
                };
                let failed = failed.map_or_else(String::new, |kind| {
                    format!("x-amz-function-error: {kind}\r\n")
                });
                let value = value.to_string();
                let answer = format!(
                    "HTTP/1.1 {status} X\r\n{failed}content-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{value}",
                    value.len()
                );
                // Whoever hung up wants no answer.
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self {
            endpoint,
            asked,
            busy,
            serving: serving.abort_handle(),
        }
    }

    fn asked(&self) -> Vec<(String, Value)> {
        self.asked.lock().expect("locked").clone()
    }
}

impl Drop for Lambda {
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
            let length: usize = head
                .to_ascii_lowercase()
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ").map(str::to_owned))
                .map_or(0, |length| length.parse().expect("a number"));
            if body.len() >= length {
                return (head.to_owned(), serde_json::from_str(body).expect("JSON"));
            }
        }
        let read = stream.read_buf(&mut bytes).await.expect("read");
        assert!(read > 0, "the request broke off: {text}");
    }
}

/// Ten referenced images and three orphans, of which a row names one in the last moment.
async fn world() -> World {
    let world = World::new().await;
    let names: Vec<String> = (0..10).map(|index| format!("kept/{index}.png")).collect();
    world.name(&names).await;
    for key in names {
        world.put(&key, 48);
    }
    for key in ["left/00000.png", LATE, "left/00002.png"] {
        world.put(key, 48);
    }
    world.server.create_bucket("ledger");
    at_the_last_moment(&world, &format!("INSERT INTO images VALUES ('{LATE}')"));
    world
}

const LATE: &str = "left/00001.png";

async fn restorer(world: &World) -> Function {
    let environment = Environment::bare(world).with(&[
        ("_HANDLER", "restore"),
        ("SWEEPER_BUCKET", BUCKET),
        ("SWEEPER_REPORT", "s3://ledger/sweeps"),
    ]);
    environment.function().await
}

/// A sweep whose undo function is behind this Lambda; its answer and its log.
async fn sweep(world: &World, lambda: &Lambda) -> (Value, String) {
    let environment = Environment::of(world).with(&[
        ("SWEEPER_REPORT", "s3://ledger/sweeps"),
        ("SWEEPER_UNDO_FUNCTION", ARN),
        ("AWS_ENDPOINT_URL_LAMBDA", &lambda.endpoint),
    ]);
    // Whoever sweeps must not remove a version: only while the function is at work may anybody.
    let (busy, removed) = (Arc::clone(&lambda.busy), Arc::new(AtomicBool::new(false)));
    let early = Arc::clone(&removed);
    world
        .server
        .on_request(Operation::DeleteObject, move |_, record| {
            let (busy, early) = (Arc::clone(&busy), Arc::clone(&early));
            async move {
                if record.keys.iter().any(|key| key == LATE) && !busy.load(Ordering::SeqCst) {
                    early.store(true, Ordering::SeqCst);
                }
            }
        });
    let mut function = environment.function().await;
    let summary = function.invoke("{}").await.response();
    assert!(
        !removed.load(Ordering::SeqCst),
        "the sweep removed a version by itself: {summary}"
    );
    assert_eq!(
        (&summary["status"], &summary["deleted"]),
        (&json!("incomplete"), &json!(3)),
        "{summary}"
    );
    assert_eq!(
        summary["errors"][0]["code"],
        json!("ReferencedAfterDeletion"),
        "{summary}"
    );
    assert_eq!(summary["errors"][0]["key"], json!(LATE));
    (summary, function.end().await)
}

#[tokio::test]
async fn the_function_gives_back_what_a_row_names() {
    let world = world().await;
    let lambda = Lambda::that(Says::Truth(restorer(&world).await)).await;
    let (summary, log) = sweep(&world, &lambda).await;
    assert_eq!(
        summary["rechecked"],
        json!({"referenced": 1, "restored": 1}),
        "{summary}"
    );
    let message = summary["errors"][0]["message"].as_str().expect("words");
    assert!(message.ends_with("it was restored"), "{message}");
    assert!(world.keys().iter().any(|key| key == LATE));
    assert_eq!(world.keys().len(), 11);

    let asked = lambda.asked();
    let [(head, body)] = &asked[..] else {
        panic!("{asked:?}")
    };
    assert_eq!(body, &json!({"run_id": summary["run_id"], "keys": [LATE]}));
    let name = ARN.replace(':', "%3A");
    let expected = format!("POST /2015-03-31/functions/{name}/invocations HTTP/1.1");
    assert!(head.starts_with(&expected), "{head}");
    for part in [
        "x-amz-invocation-type: RequestResponse",
        "/eu-west-3/lambda/aws4_request",
    ] {
        assert!(head.contains(part), "{head}");
    }

    // The alarm on it hears of it, although nothing is lost.
    let told: Value = log
        .lines()
        .find(|line| line.contains("\"_aws\""))
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .expect("metrics");
    assert_eq!(
        (&told["referenced_after_deletion"], &told["restored"]),
        (&json!(1), &json!(1))
    );
    let place = format!(
        "sweeps/runs/{}/restored/",
        summary["run_id"].as_str().expect("an id")
    );
    let kept = world.server.keys("ledger");
    let restored: Vec<_> = kept.iter().filter(|key| key.starts_with(&place)).collect();
    assert_eq!(restored.len(), 1, "{kept:?}");
}

#[tokio::test]
async fn a_lost_answer_is_settled_by_a_look() {
    let world = world().await;
    let lambda = Lambda::that(Says::TruthLost(restorer(&world).await)).await;
    let (summary, _) = sweep(&world, &lambda).await;
    assert_eq!(
        summary["rechecked"],
        json!({"referenced": 1, "restored": 1}),
        "{summary}"
    );
    assert!(world.keys().iter().any(|key| key == LATE));
}

#[tokio::test]
async fn what_the_function_did_not_do_is_not_counted_and_told_with_the_way_on() {
    let denied = json!({"__type": "AccessDeniedException", "Message": "not authorized to perform: lambda:InvokeFunction"});
    let claimed = json!({"status": "completed", "restored": 1, "errors": []});
    let refused = json!({"status": "incomplete", "restored": 0, "failed": 1, "errors": [
        {"key": LATE, "code": "AccessDenied", "message": "no s3:DeleteObjectVersion"}]});
    let failed = json!({"errorType": "Ledger", "errorMessage": "there is no https://h/plan.jsonl?X-Amz-Signature=0ffee"});
    for (says, code, words) in [
        (
            Says::Words(403, None, denied),
            "AccessDeniedException",
            "not authorized",
        ),
        (
            Says::Words(200, None, claimed),
            "NotRemoved",
            "still stands",
        ),
        (
            Says::Words(200, None, refused),
            "AccessDenied",
            "no s3:DeleteObjectVersion",
        ),
        (
            Says::Words(200, Some("Unhandled"), failed),
            "Ledger",
            "there is no https://h/plan.jsonl?…",
        ),
        (
            Says::Words(200, None, json!("hello")),
            "Answer",
            "something else than a restoration",
        ),
        (Says::Nothing, "NoAnswer", "did not answer"),
    ] {
        let world = world().await;
        let lambda = Lambda::that(says).await;
        let (summary, _) = sweep(&world, &lambda).await;
        assert_eq!(
            summary["rechecked"],
            json!({"referenced": 1, "restored": 0}),
            "{summary}"
        );
        let message = summary["errors"][0]["message"].as_str().expect("words");
        for part in [
            format!("it was not restored ({code}: "),
            words.to_owned(),
            "`orphan-sweeper restore` with this run's id".to_owned(),
        ] {
            assert!(message.contains(&part), "{part}: {message}");
        }
        assert!(!world.keys().iter().any(|key| key == LATE));
        assert!(!lambda.asked().is_empty());
    }
}

#[tokio::test]
async fn a_function_that_cannot_be_asked_is_refused_before_anything_is_read() {
    let world = world().await;
    for (changes, words) in [
        (
            &[("SWEEPER_UNDO_FUNCTION", "sweeper-Restorer")][..],
            "is not the ARN of a function, like arn:aws:lambda:REGION:ACCOUNT:function:NAME",
        ),
        (
            &[("SWEEPER_UNDO_FUNCTION", ARN)],
            "cannot read a folder; give s3://bucket/prefix by --report (SWEEPER_REPORT)",
        ),
    ] {
        let ended = Environment::of(&world).with(changes).cli(&["sweep"]).await;
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.stderr.contains(words), "{ended:?}");
        assert!(
            ended.stderr.contains("SWEEPER_UNDO_FUNCTION: "),
            "{ended:?}"
        );
    }
    assert_eq!(world.keys().len(), 13);
}
