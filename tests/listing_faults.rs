//! A listing that is broken in any way ends the run with nothing deleted; one that is only slow
//! or cut once does not.
#![cfg(feature = "demo")]

mod support;

use futures::future::join_all;
use orphan_sweeper::local::s3::{Effect, Fault, Operation};
use orphan_sweeper::settings::Setting;
use orphan_sweeper::summary::Status;
use support::{BUCKET, World, ago, failure};

const ETAG: &str = "0123456789abcdef0123456789abcdef";

/// Two pages: 1,500 objects of which every third is an orphan.
async fn world() -> World {
    let world = World::new().await;
    let mut names = Vec::new();
    for index in 0..1_500 {
        let key = format!("images/{index:05}.png");
        world.server.insert_listed(BUCKET, &key, 1, ETAG, ago(48));
        if index % 3 != 0 {
            names.push(key);
        }
    }
    world.name(&names).await;
    world
}

fn edited(from: &'static str, to: &'static str) -> Effect {
    Effect::edit_body(move |body| body.replace(from, to))
}

fn deletions(world: &World) -> usize {
    world.server.count(Operation::DeleteObjects) + world.server.count(Operation::DeleteObject)
}

/// Takes the text between these marks out of the page.
fn without(from: &'static str, to: &'static str) -> Effect {
    Effect::edit_body(move |body| match body.split_once(from) {
        Some((before, rest)) => match rest.split_once(to) {
            Some((_, after)) => format!("{before}{after}"),
            None => body,
        },
        None => body,
    })
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one table of what can break")]
async fn a_broken_page_means_zero_deletions() {
    let first = |effect| Fault::new(Operation::ListObjectsV2, effect).nth(1);
    let second = |effect| Fault::new(Operation::ListObjectsV2, effect).nth(2);
    let always = |effect| Fault::new(Operation::ListObjectsV2, effect);
    let lie = "<NextContinuationToken>again</NextContinuationToken>";
    let repeated = Effect::edit_body(move |body| {
        let body = body
            .split("<NextContinuationToken>")
            .next()
            .unwrap_or_default()
            .to_owned()
            + body
                .split("</NextContinuationToken>")
                .nth(1)
                .unwrap_or_default();
        body.replace("<IsTruncated>false", "<IsTruncated>true")
            .replace("</ListBucketResult>", &format!("{lie}</ListBucketResult>"))
    });
    let cases = [
        (
            "truncated without a token",
            first(without(
                "<NextContinuationToken>",
                "</NextContinuationToken>",
            )),
            "no token",
        ),
        (
            "a last page that claims to go on",
            second(edited("<IsTruncated>false", "<IsTruncated>true")),
            "no token",
        ),
        ("the same token again", always(repeated), ""),
        (
            "not said whether truncated",
            first(without("<IsTruncated>", "</IsTruncated>")),
            "IsTruncated",
        ),
        (
            "a first page that claims to be the last",
            first(edited("<IsTruncated>true", "<IsTruncated>false")),
            "is the last but has a token",
        ),
        (
            "a count that does not match",
            first(edited("<KeyCount>1000", "<KeyCount>999")),
            "counts 999 keys but holds 1000",
        ),
        (
            "a missing object",
            first(without("<Contents>", "</Contents>")),
            "counts 1000 keys but holds 999",
        ),
        (
            "keys out of order",
            first(edited("images/00500.png", "images/00400.png")),
            "out of order",
        ),
        (
            "a key of the first page again",
            second(edited("images/01400.png", "images/00400.png")),
            "out of order",
        ),
        (
            "a key outside the prefix",
            first(edited("images/00000.png", "imagery/00000.png")),
            "not below the prefix",
        ),
        (
            "an error with status 200",
            first(Effect::replace_body(
                "<Error><Code>InternalError</Code></Error>",
            )),
            "Error",
        ),
        ("no ETag", first(without("<ETag>", "</ETag>")), "no ETag"),
        (
            "a key that does not decode",
            first(edited("images/00500.png", "images/00500%ff.png")),
            "does not decode",
        ),
        (
            "keys grouped",
            first(edited(
                "</ListBucketResult>",
                "<CommonPrefixes><Prefix>a/</Prefix></CommonPrefixes></ListBucketResult>",
            )),
            "delimiter",
        ),
        (
            "something else",
            first(Effect::replace_body("hello")),
            "text between elements",
        ),
        ("always cut", always(Effect::CutBody), ""),
        (
            "always 500",
            always(Effect::internal_error()),
            "InternalError",
        ),
        ("always 503", always(Effect::slow_down()), "SlowDown"),
        ("no right", always(Effect::access_denied()), "AccessDenied"),
        ("no answer", always(Effect::CloseBefore), ""),
        (
            "no date",
            Fault::new(Operation::GetBucketVersioning, Effect::DropHeader("date")),
            "no readable Date",
        ),
        (
            "no right to ask for versioning",
            Fault::new(Operation::GetBucketVersioning, Effect::access_denied()),
            "AccessDenied",
        ),
    ];
    // At once, because a client that is refused again and again is patient.
    join_all(cases.into_iter().map(|(about, fault, word)| {
        Box::pin(async move {
            let world = world().await;
            world.server.inject(fault);
            let report = world.run(&[(Setting::Prefix, "images")]).await;
            let failure = failure(&report);
            assert!(
                failure.starts_with("Storage: ") && failure.contains(word),
                "{about}: {failure}"
            );
            assert_eq!(
                (world.server.len(BUCKET), deletions(&world)),
                (1_500, 0),
                "{about}"
            );
            if about == "always 503" {
                // Nobody else repeats what the pace of the listing repeats.
                assert_eq!(world.server.count(Operation::ListObjectsV2), 8);
            }
        })
    }))
    .await;
}

#[tokio::test]
async fn what_passes_is_borne() {
    let minio = Effect::Error {
        status: 503,
        code: "SlowDownRead",
    };
    let odd = Effect::Error {
        status: 400,
        code: "SlowDown",
    };
    let gateway = Effect::Answer {
        status: 503,
        body: "<html>busy</html>".to_owned(),
    };
    for (effect, times) in [
        (Effect::CutBody, 1),
        (Effect::internal_error(), 1),
        (Effect::slow_down(), 1),
        // More often than the SDK would ask.
        (Effect::slow_down(), 7),
        (minio, 7),
        (odd, 7),
        (gateway, 2),
        (Effect::CloseBefore, 1),
    ] {
        let world = world().await;
        world
            .server
            .inject(Fault::new(Operation::ListObjectsV2, effect.clone()).first(times));
        let report = world.run(&[]).await;
        assert_eq!(
            (report.summary.status, report.summary.counts.deleted),
            (Status::Completed, 500),
            "{effect:?}: {report:?}"
        );
        assert_eq!(world.server.len(BUCKET), 1_000);
    }
}

#[tokio::test]
async fn an_age_that_cannot_be_read_is_new() {
    let world = World::new().await;
    world.put_named(&["kept.png"], 48).await;
    world.put("left.png", 48);
    world.server.inject(Fault::new(
        Operation::ListObjectsV2,
        Effect::edit_body(|body| body.replace("<LastModified>", "<LastModified>yesterday ")),
    ));
    let report = world.run(&[]).await;
    assert_eq!(
        (report.summary.counts.young, report.summary.counts.orphans),
        (1, 0),
        "{report:?}"
    );
    assert_eq!(world.keys(), ["kept.png", "left.png"]);
}

#[tokio::test]
async fn many_ranges_and_long_ranges_are_counted_to_the_object() {
    let world = World::new().await;
    // Names enough for three ranges, and in the middle of one a folder that no name knows.
    world.sql("INSERT INTO images SELECT lpad(n::text, 6, '0') || '.png' FROM generate_series(1, 20000) n").await;
    for index in 0..20_000 {
        if index % 10 != 0 {
            world
                .server
                .insert_listed(BUCKET, format!("{index:06}.png"), 1, ETAG, ago(48));
        }
    }
    for index in 0..17_500 {
        world
            .server
            .insert_listed(BUCKET, format!("010000/{index:06}.png"), 1, ETAG, ago(48));
    }
    let report = world
        .run(&[
            (Setting::DryRun, "true"),
            (Setting::AllowUnreferencedFolder, "010000"),
            // Some of its names are missing, and look like the folder's in another spelling.
            (Setting::NotAReference, "public.images.name"),
        ])
        .await;
    assert_eq!(report.summary.status, Status::DryRun, "{report:?}");
    let counts = report.summary.counts;
    assert_eq!(
        (counts.listed, counts.referenced, counts.orphans),
        (35_500, 18_000, 17_500)
    );
    assert_eq!((counts.references, counts.dangling), (20_000, 2_000));
    let plan = String::from_utf8(world.read_bytes(&report, "plan.jsonl")).expect("text");
    // What is missing is called like a tenth of the folder's.
    assert_eq!(report.summary.more.held_back, 1_749);
    assert_eq!(plan.lines().count(), 1 + 17_500 - 1_749);
    // Each cut costs at most one page more, and the last, open range one.
    assert!(world.server.count(Operation::ListObjectsV2) <= 36 + 4);
}
