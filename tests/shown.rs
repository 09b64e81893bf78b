//! Whatever a key, a name, a column or an event holds, what is shown of it neither breaks a
//! line nor drives a terminal: text, JSON, errors and logs of the real programs.
#![cfg(feature = "demo")]

mod support;

use orphan_sweeper::local::s3::{Effect, Fault, Operation};
use serde_json::{Value, json};
use support::World;
use support::program::{Ended, Environment, files};

/// A line break, a carriage return, an escape sequence, a bell, C1's own escape, a mark that
/// turns the text around, a line separator and DEL.
const NASTY: &str = "\n\r\u{1b}[2J\u{7}\u{9b}31m\u{202e}\u{2028}\u{7f}";
const SHOWN: &str = r"\n\r\u{1b}[2J\u{7}\u{9b}31m\u{202e}\u{2028}\u{7f}";

/// The same without what S3 or PostgreSQL would turn into something else in JSON.
fn orphan() -> String {
    format!("images/{NASTY}.png")
}

fn shown() -> String {
    format!("images/{SHOWN}.png")
}

/// No character but line feeds does anything.
#[track_caller]
fn assert_harmless(about: &str, text: &str) {
    let hostile = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if let Some(line) = text.lines().find(|line| line.contains(hostile)) {
        panic!("{about}: {line:?}");
    }
    // What follows the key's line feed would begin a line.
    assert!(!text.contains("images/\n"), "{about}: {text}");
}

#[track_caller]
fn harmless(about: &str, ended: &Ended) {
    assert_harmless(about, &ended.stdout);
    assert_harmless(about, &ended.stderr);
}

async fn world() -> World {
    let world = World::new().await;
    world.put(&orphan(), 100);
    world.put_named(&["images/a.png", "images/b.png"], 48).await;
    world
}

fn environment(world: &World) -> Environment {
    Environment::of(world).with(&[("RUST_LOG", "debug")])
}

#[tokio::test]
async fn on_the_command_line() {
    let world = world().await;
    let said = async |arguments: &[&str], code: i32, words: &[&str]| {
        for output in ["text", "json"] {
            let arguments = [arguments, &["--output", output]].concat();
            let about = format!("{arguments:?}");
            let ended = environment(&world).cli(&arguments).await;
            assert_eq!(ended.code, Some(code), "{about}: {ended:?}");
            harmless(&about, &ended);
            if output == "text" {
                for word in words {
                    assert!(
                        ended.stdout.contains(word),
                        "{about}: {word}: {}",
                        ended.stdout
                    );
                }
            } else {
                let _summary: Value = ended.json();
            }
        }
    };
    // An example of a refusal.
    let example = format!("  for example {}\n", shown());
    said(&["sweep", "--max-orphan-percent", "1"], 3, &[&example]).await;
    // A prefix.
    let folder = format!("images/{NASTY}");
    let headline = format!("images/{SHOWN}/ in ");
    said(&["plan", "--prefix", &folder], 0, &[&headline]).await;

    // A key that S3 refuses to delete.
    world
        .server
        .inject(Fault::new(Operation::DeleteObject, Effect::access_denied()).key(orphan()));
    world.server.inject(
        Fault::new(Operation::DeleteObjects, Effect::KeyError("AccessDenied")).key(orphan()),
    );
    said(
        &["sweep", "--max-orphan-percent", "90"],
        4,
        &[&format!("{}: AccessDenied", shown())],
    )
    .await;
    world.server.heal();

    // A folder that is held back, and an orphan that another column names.
    for n in 0..20 {
        world.put(&format!("images/{NASTY}/{n}.png"), 100);
    }
    world
        .sql(&format!(
            "CREATE TABLE \"us\u{1b}ers\" (\"ava\u{202e}tar\" text); INSERT INTO \"us\u{1b}ers\" VALUES (E'{}')",
            orphan()
        ))
        .await;
    let held = format!("20 in images/{SHOWN}/\n");
    let found = r"public.us\u{1b}ers.ava\u{202e}tar";
    said(&["sweep", "--max-orphan-percent", "99"], 3, &[&held, found]).await;
    let ended = environment(&world)
        .cli(&["doctor", "--output", "text"])
        .await;
    harmless("doctor", &ended);
    assert!(ended.stdout.contains(found), "{}", ended.stdout);

    // Names that cannot be read, and one without an object.
    for name in [
        format!("https://x/{NASTY}"),
        format!("[{NASTY}"),
        format!("{NASTY}{}", "x".repeat(1_024)),
    ] {
        world
            .sql("DELETE FROM images WHERE length(name) <> 12")
            .await;
        world.name(&[&name]).await;
        said(&["plan"], 1, &[SHOWN]).await;
    }
    let bad = environment(&world).cli(&["plan", "--min-age", NASTY]).await;
    assert_eq!(bad.code, Some(2));
    assert_harmless("a bad flag", &bad.stderr);
    let bad = environment(&world)
        .with(&[(&format!("SWEEPER_{NASTY}"), "x")])
        .cli(&["plan"])
        .await;
    assert_eq!(bad.code, Some(2));
    assert_harmless("a bad variable", &bad.stderr);

    // And the ledger has the very bytes.
    let bytes = files(world.ledger.path())
        .into_iter()
        .filter(|file| file.ends_with("plan.jsonl"));
    let mut planned = bytes.map(|file| std::fs::read_to_string(file).expect("read"));
    assert!(planned.any(|plan| {
        plan.lines().any(|line| {
            let line: Value = serde_json::from_str(line).expect("JSON");
            line["key"] == json!(orphan())
        })
    }));
}

#[tokio::test]
async fn in_the_functions_log() {
    let world = world().await;
    world
        .server
        .inject(Fault::new(Operation::DeleteObject, Effect::access_denied()).key(orphan()));
    world.server.inject(
        Fault::new(Operation::DeleteObjects, Effect::KeyError("AccessDenied")).key(orphan()),
    );
    let mut function = environment(&world).function().await;
    let summary = function.invoke("{}").await.response();
    assert_eq!(summary["errors"][0]["key"], json!(orphan()), "{summary}");
    let (_, message) = function
        .invoke(&json!({NASTY: true}).to_string())
        .await
        .error();
    assert_harmless("a field", &message);
    let (_, message) = function
        .invoke(&json!({"prefix": 1, "min_age": NASTY}).to_string())
        .await
        .error();
    assert_harmless("a value", &message);
    world.name(&[format!("https://x/{NASTY}")]).await;
    let (_, message) = function.invoke("{}").await.error();
    assert!(message.contains(SHOWN), "{message}");
    assert_harmless("a name", &message);
    let log = function.end().await;
    assert_harmless("the log", &log);
    assert!(log.contains("AccessDenied"), "{log}");
    for line in log.lines() {
        let _line: Value = serde_json::from_str(line).expect("JSON");
    }

    // A folder's name, which the metrics repeat.
    let folder = format!("images/{NASTY}");
    let mut function = environment(&world)
        .with(&[
            ("SWEEPER_PREFIX", &folder),
            ("SWEEPER_REFERENCES", "SELECT 'images/a.png'"),
        ])
        .function()
        .await;
    function.invoke("{\"dry_run\": true}").await.response();
    let log = function.end().await;
    assert_harmless("the metrics", &log);
    let metrics = log
        .lines()
        .find(|line| line.contains("_aws"))
        .expect("metrics");
    let metrics: Value = serde_json::from_str(metrics).expect("JSON");
    assert_eq!(metrics["prefix"], json!(format!("{folder}/")));
}
