//! `report`: pages, tables and text of runs of the past, read back as a browser, a spreadsheet
//! and a person do.
#![cfg(feature = "demo")]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use orphan_sweeper::local::s3::{Effect, Fault, Operation};
use orphan_sweeper::pages::sheet::COLUMNS;
use quick_xml::events::Event;
use serde_json::{Value, json};
use support::World;
use support::program::{Ended, Environment};

/// Keys that a page, a spreadsheet or a terminal could take for something else, and how each
/// is shown in text and pages, and in a table.
const NASTY: &[(&str, &str, &str)] = &[
    (
        "+cmd|' /C calc'!A0.png",
        "+cmd|' /C calc'!A0.png",
        "'+cmd|' /C calc'!A0.png",
    ),
    ("-1,\"2\".png", "-1,\"2\".png", "'-1,\"2\".png"),
    (
        "=HYPERLINK(\"x\";\"y\").png",
        "=HYPERLINK(\"x\";\"y\").png",
        "'=HYPERLINK(\"x\";\"y\").png",
    ),
    ("@SUM(1).png", "@SUM(1).png", "'@SUM(1).png"),
    ("\t=1.png", "\\t=1.png", "\\t=1.png"),
    (
        "<script>alert(1)</script>&amp;'\".png",
        "<script>alert(1)</script>&amp;'\".png",
        "<script>alert(1)</script>&amp;'\".png",
    ),
    (
        "a\n\r\u{1b}[2J\u{202e}b.png",
        "a\\n\\r\\u{1b}[2J\\u{202e}b.png",
        "a\\n\\r\\u{1b}[2J\\u{202e}b.png",
    ),
    ("고양이 🐈.png", "고양이 🐈.png", "고양이 🐈.png"),
];

/// So many bytes is each of them long.
fn size(key: &str) -> u64 {
    key.len() as u64
}

/// Old orphans with those keys, twenty referenced objects, and a folder that is held back.
async fn world() -> World {
    let world = World::new().await;
    for (key, ..) in NASTY {
        world.put(key, 100);
    }
    for n in 0..20 {
        world.put(&format!("<b>albums/{n:02}.png"), 51);
        world.put_named(&[&format!("kept/{n:02}.png")], 48).await;
    }
    world
}

async fn run(world: &World, arguments: &[&str]) -> Value {
    let ended = Environment::of(world)
        .with(&[("SWEEPER_MAX_ORPHAN_PERCENT", "100")])
        .cli(arguments)
        .await;
    ended.json()
}

async fn report(world: &World, arguments: &[&str]) -> Ended {
    Environment::of(world)
        .cli(&[&["report"], arguments].concat())
        .await
}

/// The table, as a reader of CSV has it: each line by its columns' names.
fn sheet(text: &str) -> Vec<BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let columns = reader.headers().expect("a first line").clone();
    assert_eq!(columns.iter().collect::<Vec<_>>(), COLUMNS);
    let rows = reader.records().map(|row| {
        let row = row.expect("as many fields as columns");
        columns
            .iter()
            .map(str::to_owned)
            .zip(row.iter().map(str::to_owned))
            .collect()
    });
    rows.collect()
}

/// What stands in the page: the text of each cell or item, by the table that it is in.
#[derive(Debug, Default)]
struct Page {
    elements: Vec<String>,
    tables: BTreeMap<String, Vec<Vec<String>>>,
    text: String,
}

fn page(html: &str) -> Page {
    let mut reader =
        quick_xml::Reader::from_str(html.strip_prefix("<!DOCTYPE html>\n").expect("a page"));
    let mut page = Page::default();
    let (mut table, mut cell) = (String::new(), None::<String>);
    loop {
        match reader.read_event().expect("well-formed") {
            Event::Start(start) => {
                let name = String::from_utf8(start.name().as_ref().to_vec()).expect("UTF-8");
                if matches!(name.as_str(), "table" | "ul") {
                    table = start
                        .try_get_attribute("id")
                        .expect("attributes")
                        .map_or_else(String::new, |id| {
                            String::from_utf8_lossy(&id.value).into_owned()
                        });
                }
                if matches!(name.as_str(), "tr" | "li") {
                    page.tables
                        .entry(table.clone())
                        .or_default()
                        .push(Vec::new());
                }
                if matches!(name.as_str(), "td" | "th" | "li") {
                    cell = Some(String::new());
                }
                page.elements.push(name);
            }
            Event::Text(text) => {
                let text = text.decode().expect("UTF-8");
                page.text.push_str(&text);
                if let Some(cell) = &mut cell {
                    cell.push_str(&text);
                }
            }
            Event::GeneralRef(reference) => {
                let name = reference.decode().expect("UTF-8");
                let text = match &*name {
                    "lt" => "<",
                    "gt" => ">",
                    "amp" => "&",
                    "quot" => "\"",
                    "apos" => "'",
                    other => panic!("an entity of its own: {other}"),
                };
                page.text.push_str(text);
                if let Some(cell) = &mut cell {
                    cell.push_str(text);
                }
            }
            Event::End(end) if matches!(end.name().as_ref(), b"td" | b"th" | b"li") => {
                let row = page.tables.get_mut(&table).and_then(|rows| rows.last_mut());
                row.expect("a row").push(cell.take().expect("a cell"));
            }
            Event::Eof => return page,
            _ => {}
        }
    }
}

/// Nothing of a key became an element, an attribute or an address.
#[track_caller]
fn assert_quiet(html: &str, page: &Page) {
    for element in ["script", "b", "a", "img", "iframe", "form", "link"] {
        assert!(
            !page.elements.iter().any(|name| name == element),
            "{element}: {html}"
        );
    }
    assert!(
        !html.contains("http://") && !html.contains("https://"),
        "{html}"
    );
    assert!(!html.contains(['\u{1b}', '\u{202e}', '\r']), "{html:?}");
}

/// What becomes of it, where S3 refuses one.
fn outcome(key: &str) -> &'static str {
    if key == "@SUM(1).png" {
        "failed"
    } else {
        "deleted"
    }
}

#[track_caller]
fn check_page(html: &str, run_id: &str) {
    let shown_page = page(html);
    assert_quiet(html, &shown_page);
    let orphans = &shown_page.tables["orphans"];
    assert_eq!(orphans.len(), 1 + 28, "a head, and each orphan");
    for (key, shown, _) in NASTY {
        let row = orphans
            .iter()
            .find(|row| row[0] == *shown)
            .unwrap_or_else(|| panic!("{shown}: {orphans:?}"));
        assert_eq!(row[1], format!("{} B", size(key)));
        assert_eq!(row[3], "4 d 4 h");
        assert!(row[4].starts_with(outcome(key)), "{row:?}");
    }
    for words in [
        "48 listed = 20 referenced + 0 young + 0 out of scope + 28 orphans",
        "28 orphans = 7 deleted + 0 gone + 0 spared + 1 failed + 0 unknown + 20 deferred",
        run_id,
    ] {
        assert!(
            shown_page.text.contains(words),
            "{words}: {}",
            shown_page.text
        );
    }
    assert_eq!(shown_page.tables["held_back"], [["<b>albums/", "20"]]);
    assert_eq!(shown_page.tables["dangling"], [["missing/<i>.png"]]);
    assert_eq!(
        shown_page.tables["problems"][0][..2],
        ["@SUM(1).png", "AccessDenied"]
    );
}

#[tokio::test]
async fn each_orphan_is_shown_with_size_age_and_outcome_and_nothing_acts() {
    let world = world().await;
    world.server.inject(
        Fault::new(Operation::DeleteObjects, Effect::KeyError("AccessDenied")).key("@SUM(1).png"),
    );
    world.name(&["missing/<i>.png"]).await;
    let summary = run(&world, &["sweep"]).await;
    assert_eq!(
        (
            &summary["orphans"],
            &summary["deleted"],
            &summary["failed"],
            &summary["held_back"]
        ),
        (&json!(28), &json!(7), &json!(1), &json!(20)),
        "{summary}"
    );
    let run_id = summary["run_id"].as_str().expect("an id");

    let table = report(&world, &[run_id, "--format", "csv"]).await;
    assert_eq!(
        (table.code, table.stderr.as_str()),
        (Some(0), ""),
        "{table:?}"
    );
    assert!(
        table.stdout.split_terminator("\r\n").count() == 29,
        "{}",
        table.stdout
    );
    let rows = sheet(&table.stdout);
    assert_eq!(rows.len(), 28);
    for (key, _, shown) in NASTY {
        let row = rows
            .iter()
            .find(|row| row["key"] == *shown)
            .unwrap_or_else(|| panic!("{shown}: {rows:?}"));
        assert_eq!(row["size"], size(key).to_string());
        assert_eq!(row["outcome"], outcome(key), "{key}");
        let age: i64 = row["age_seconds"].parse().expect("a number");
        assert!((100 * 3_600..101 * 3_600).contains(&age), "{age}");
    }
    let held: Vec<_> = rows
        .iter()
        .filter(|row| row["key"].starts_with("<b>albums/"))
        .collect();
    assert_eq!(held.len(), 20);
    assert!(
        held.iter()
            .all(|row| row["outcome"] == "deferred" && row["reason"].starts_with("held back"))
    );
    for row in &rows {
        let formula = row
            .values()
            .find(|field| field.starts_with(['=', '+', '-', '@', '\t', '\r']));
        assert_eq!(formula, None);
    }

    let html = report(&world, &[run_id, "--format", "html"]).await;
    assert_eq!(html.code, Some(0), "{html:?}");
    check_page(&html.stdout, run_id);

    let text = report(&world, &[run_id, "--format", "text"]).await;
    for (key, shown, _) in NASTY {
        let line = text
            .stdout
            .lines()
            .find(|line| line.contains(shown))
            .unwrap_or_else(|| panic!("{shown}: {}", text.stdout));
        assert!(
            line.contains(outcome(key)) || line.contains("AccessDenied"),
            "{line}"
        );
    }
    assert!(text.stdout.contains("dangling  missing/<i>.png"));
    let printed = report(&world, &[run_id, "--format", "json"]).await;
    assert_eq!(printed.json(), summary);
}

/// The run's own words stay as they were written; what was given back since is told beside.
#[tokio::test]
async fn what_was_restored_since_is_told() {
    let world = world().await;
    let summary = run(&world, &["sweep"]).await;
    let run_id = summary["run_id"].as_str().expect("an id");
    let text = report(&world, &[run_id, "--format", "text"]).await;
    assert!(!text.stdout.contains("given back"), "{text:?}");
    let key = NASTY[7].0;
    for key in [&["--key", key][..], &[]] {
        let ended = Environment::of(&world)
            .cli(&[&["restore", run_id], key].concat())
            .await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
    let text = report(&world, &[run_id, "--format", "text"]).await;
    let html = report(&world, &[run_id, "--format", "html"]).await;
    assert_quiet(&html.stdout, &page(&html.stdout));
    for told in [&text.stdout, &page(&html.stdout).text] {
        let first = told.find("1 of 1 given back").expect("the first");
        let second = told.find("7 of 8 given back").expect("the second");
        assert!(first < second, "{told}");
    }
    // Of a dry run there is nothing to tell.
    let ended = Environment::of(&world)
        .cli(&["restore", run_id, "--dry-run"])
        .await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let again = report(&world, &[run_id, "--format", "text"]).await;
    assert_eq!(again.stdout, text.stdout);
}

#[tokio::test]
async fn a_refusal_is_told_with_its_figure_and_the_newest_run_is_the_default() {
    let world = world().await;
    run(&world, &["plan"]).await;
    let refused = run(&world, &["sweep", "--max-orphan-percent", "1"]).await;
    assert_eq!(refused["refusal"]["guard"], "orphan_percent");
    let html = report(&world, &[]).await;
    let told = page(&html.stdout);
    assert_quiet(&html.stdout, &told);
    assert!(
        told.text
            .contains(refused["run_id"].as_str().expect("an id"))
    );
    assert!(
        told.text.contains("Refused by orphan_percent"),
        "{}",
        told.text
    );
    let hint = refused["refusal"]["hint"].as_str().expect("a text");
    assert!(told.text.contains(hint), "{}", told.text);
    assert_eq!(told.tables["examples"].len(), 3);
    // What a refused run did not ask about is deferred, and said so of each.
    let csv = report(&world, &["--format", "csv"]).await;
    assert!(
        sheet(&csv.stdout)
            .iter()
            .all(|row| row["outcome"] == "deferred")
    );
    let text = report(&world, &["--format", "text"]).await;
    assert!(
        text.stdout.contains("guard orphan_percent: "),
        "{}",
        text.stdout
    );
}

/// The only run of the ledger.
fn folder(summary: &Value) -> PathBuf {
    Path::new(summary["report"].as_str().expect("a place")).to_owned()
}

#[tokio::test]
async fn a_run_that_broke_off_is_shown_as_far_as_it_wrote() {
    let world = world().await;
    let summary = run(&world, &["sweep"]).await;
    std::fs::remove_file(folder(&summary).join("summary.json")).expect("removed");
    std::fs::remove_dir_all(folder(&summary).join("outcomes")).expect("removed");
    let html = report(&world, &[]).await;
    assert_eq!(html.code, Some(0), "{html:?}");
    assert!(html.stdout.contains("it was killed, or goes on"));
    let rows = sheet(&report(&world, &["--format", "csv"]).await.stdout);
    let of_the_plan = rows.iter().filter(|row| row["outcome"] == "not recorded");
    assert_eq!((of_the_plan.count(), rows.len()), (8, 28));
    let text = report(&world, &["--format", "text"]).await;
    assert!(text.stdout.starts_with("no summary: the run was killed"));
    let json = report(&world, &["--format", "json"]).await;
    assert_eq!((json.code, json.stdout.as_str()), (Some(1), ""));
    assert!(
        json.stderr
            .contains("holds no summary.json: the run was killed")
            && !json.stderr.contains("write"),
        "{}",
        json.stderr
    );

    // Outcomes of which some are missing prove nothing of the others.
    world.put("later.png", 100);
    let again = run(&world, &["plan"]).await;
    let mut told = again.clone();
    told["deferred"] = json!(20);
    told["spared"] = json!(1);
    std::fs::write(folder(&again).join("summary.json"), told.to_string()).expect("written");
    let rows = sheet(&report(&world, &["--format", "csv"]).await.stdout);
    let later = rows.iter().find(|row| row["key"] == "later.png");
    assert_eq!(later.expect("a row")["outcome"], "not recorded");

    // One that failed before there was a plan.
    let failed = run(
        &world,
        &["sweep", "--references", "SELECT nothing FROM images"],
    )
    .await;
    assert_eq!(failed["status"], "failed");
    let html = report(&world, &[]).await;
    assert_eq!(html.code, Some(0), "{html:?}");
    assert_eq!(page(&html.stdout).tables["problems"][0][1], "Database");
}

#[tokio::test]
async fn a_file_is_written_as_a_whole_and_a_ledger_in_a_bucket_is_read() {
    let world = world().await;
    world.server.create_bucket("ledgers");
    let environment = || {
        Environment::of(&world).with(&[
            ("SWEEPER_REPORT", "s3://ledgers/x"),
            ("SWEEPER_MAX_ORPHAN_PERCENT", "100"),
        ])
    };
    for _ in 0..2 {
        environment().cli(&["plan"]).await.json();
    }
    let last = environment().cli(&["sweep"]).await.json();
    let place = world.ledger.path().join("page.html");
    let out = place.display().to_string();
    std::fs::write(&place, "of yesterday").expect("written");
    let ended = environment().cli(&["report", "--out", &out]).await;
    assert_eq!(
        (ended.code, ended.stdout.as_str(), ended.stderr.as_str()),
        (Some(0), "", "")
    );
    let html = std::fs::read_to_string(&place).expect("read");
    assert!(
        page(&html)
            .text
            .contains(last["run_id"].as_str().expect("an id"))
    );
    for (name, begins) in [
        ("t.csv", "\"key\","),
        ("t.json", "{\"run_id\""),
        ("t.txt", "completed: pictures"),
    ] {
        let out = world.ledger.path().join(name);
        let ended = environment()
            .cli(&["report", "--out", &out.display().to_string()])
            .await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let text = std::fs::read_to_string(&out).expect("read");
        assert!(text.starts_with(begins), "{name}: {text}");
    }
    assert_eq!(
        std::fs::read_dir(world.ledger.path())
            .expect("read")
            .count(),
        4,
        "nothing else is left"
    );
}

/// A run that asked about orphans, or came to its end, has written its plan.
#[tokio::test]
async fn a_run_whose_plan_was_lost_is_not_shown_as_one_without_orphans() {
    let world = World::new().await;
    world.put_named(&["a.png"], 48).await;
    let of = |status: &str| format!("\"status\":\"{status}\"");
    for (command, status, is_shown) in [
        ("plan", "dry_run", false),
        ("plan", "failed", true),
        ("sweep", "completed", false),
        ("sweep", "incomplete", false),
    ] {
        world.put("b.png", 48);
        let summary = run(&world, &[command]).await;
        let told = folder(&summary).join("summary.json");
        let text = std::fs::read_to_string(&told).expect("read");
        let ended = summary["status"].as_str().expect("a status");
        std::fs::write(&told, text.replace(&of(ended), &of(status))).expect("written");
        std::fs::remove_file(folder(&summary).join("plan.jsonl")).expect("removed");
        for format in ["text", "csv", "html"] {
            let ended = report(&world, &["--format", format]).await;
            assert_eq!(
                ended.code,
                Some(i32::from(!is_shown)),
                "{status}: {ended:?}"
            );
            assert_eq!(ended.stdout.is_empty(), !is_shown);
            let words = "holds no plan.jsonl, which lists the run's 1 orphans";
            assert_eq!(ended.stderr.contains(words), !is_shown, "{ended:?}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_shown_is_refused_in_one_line() {
    let world = World::new().await;
    let none = "018f0000-0000-7000-8000-000000000000";
    let place = world.ledger.path().display().to_string();
    for (arguments, code, line) in [
        (&[][..], 2, "RUN_ID: the ledger holds no run; --report says where it lies".to_owned()),
        (
            &[none],
            2,
            format!("RUN_ID: {place}/runs/{none}/ holds neither summary.json nor plan.jsonl; the run's id and --report say where its ledger lies"),
        ),
        (
            &["--out", "page.xls"],
            2,
            "--out: \"page.xls\" does not end with .html, .csv, .json or .txt; say with --format what it is to hold".to_owned(),
        ),
        (&["--report", "ftp://x"], 2, "--report: \"ftp://x\" is neither s3://bucket/prefix nor a folder".to_owned()),
        (&["--report", "s3://me:pw@bucket/x"], 2, "--report: \"s3://bucket/x\" is neither s3://bucket/prefix nor a folder".to_owned()),
    ] {
        let ended = report(&world, arguments).await;
        assert_eq!(
            (ended.code, ended.stdout.as_str(), ended.stderr),
            (Some(code), "", format!("orphan-sweeper: {line}\n")),
            "{arguments:?}"
        );
    }
    world.put_named(&["a.png"], 48).await;
    world.put("b.png", 48);
    let summary = run(&world, &["plan"]).await;
    let ended = report(&world, &["--out", "/no/such/folder/page.html"]).await;
    assert_eq!(ended.code, Some(1));
    assert!(
        ended
            .stderr
            .starts_with("orphan-sweeper: could not write /no/such/folder/page.html: "),
        "{ended:?}"
    );
    // A damaged ledger is no report.
    for (file, words) in [
        ("summary.json", "is not a summary"),
        ("plan.jsonl", "is not a manifest"),
    ] {
        let path = folder(&summary).join(file);
        let sound = std::fs::read(&path).expect("read");
        std::fs::write(&path, "{}\n").expect("written");
        let ended = report(&world, &[]).await;
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (Some(1), ""),
            "{file}: {ended:?}"
        );
        assert!(
            ended.stderr.contains(words) && ended.stderr.lines().count() == 1,
            "{ended:?}"
        );
        std::fs::write(&path, sound).expect("written");
    }
    // What is read while the report is written, too: it names the file and not its own output.
    let out = world.ledger.path().join("page.html").display().to_string();
    for file in ["dangling.jsonl", "held_back.jsonl"] {
        let path = folder(&summary).join(file);
        std::fs::write(&path, "{\"key\": 1}\n").expect("written");
        for arguments in [
            &["--format", "text"][..],
            &["--format", "html"],
            &["--out", &out],
            &["--format", "csv"],
        ] {
            let ended = report(&world, arguments).await;
            if file == "dangling.jsonl" && arguments.contains(&"csv") {
                assert_eq!(ended.code, Some(0), "a sheet has the orphans only");
                continue;
            }
            let line = format!("orphan-sweeper: {} could not be read: ", path.display());
            assert!(
                ended.code == Some(1)
                    && ended.stderr.starts_with(&line)
                    && ended.stderr.lines().count() == 1,
                "{file}, {arguments:?}: {ended:?}"
            );
            assert!(!Path::new(&out).exists());
        }
        std::fs::remove_file(&path).expect("removed");
    }
}
