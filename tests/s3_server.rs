//! The rules of the local S3 server, asked with the real client.
//!
//! The sweeper's tests lean on this server, so each rule of S3 that decides
//! over a deletion is asked here once, over the wire.
#![cfg(feature = "demo")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::delete_objects::{DeleteObjectsError, DeleteObjectsOutput};
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{
    BucketVersioningStatus, Delete, EncodingType, ObjectIdentifier, VersioningConfiguration,
};
use jiff::{SignedDuration, Timestamp};
use orphan_sweeper::local::s3::{
    ACCESS_KEY, Effect, Fault, MAX_KEY_BYTES, Operation, REGION, S3Server, SECRET_KEY, Version,
    VersionId, Versioning,
};
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const BUCKET: &str = "pictures";

async fn start() -> (S3Server, Client) {
    let server = S3Server::start().await.expect("a free port");
    server.create_bucket(BUCKET);
    let client = client(&server, SECRET_KEY);
    (server, client)
}

/// A client that never asks twice, so that every fault is seen.
fn client(server: &S3Server, secret: &str) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .credentials_provider(Credentials::new(ACCESS_KEY, secret, None, None, "test"))
        .region(Region::new(REGION))
        .endpoint_url(server.endpoint())
        .force_path_style(true)
        .http_client(orphan_sweeper::s3::http_client())
        .retry_config(RetryConfig::disabled())
        .build();
    Client::from_conf(config)
}

fn long_ago() -> Timestamp {
    "2026-01-02T03:04:05.678Z".parse().expect("a time")
}

fn code<T, E: ProvideErrorMetadata>(answer: Result<T, SdkError<E>>) -> String {
    match answer {
        Ok(_) => "no error".to_owned(),
        Err(error) => error.code().unwrap_or("no code").to_owned(),
    }
}

fn status<T, E>(answer: Result<T, SdkError<E>>) -> u16 {
    let error = answer.err();
    let raw = error.as_ref().and_then(SdkError::raw_response);
    raw.map(|raw| raw.status().as_u16()).unwrap_or_default()
}

fn identifier(key: &str, etag: Option<&str>) -> ObjectIdentifier {
    let builder = ObjectIdentifier::builder().key(key);
    builder
        .set_e_tag(etag.map(str::to_owned))
        .build()
        .expect("a key")
}

async fn delete(
    client: &Client,
    quiet: bool,
    objects: Vec<ObjectIdentifier>,
) -> Result<DeleteObjectsOutput, SdkError<DeleteObjectsError>> {
    let batch = Delete::builder().set_objects(Some(objects)).quiet(quiet);
    let batch = batch.build().expect("objects");
    let request = client.delete_objects().bucket(BUCKET).delete(batch);
    request.send().await
}

fn deleted(answer: &DeleteObjectsOutput) -> Vec<&str> {
    let deleted = answer.deleted().iter();
    deleted.filter_map(|one| one.key()).collect()
}

fn errors(answer: &DeleteObjectsOutput) -> Vec<(&str, &str)> {
    let errors = answer.errors().iter();
    errors
        .map(|one| {
            (
                one.key().unwrap_or_default(),
                one.code().unwrap_or_default(),
            )
        })
        .collect()
}

fn keys(page: &ListObjectsV2Output) -> Vec<&str> {
    let objects = page.contents().iter();
    objects.filter_map(|object| object.key()).collect()
}

/// Decodes what `encoding-type=url` wrote.
fn decode(text: &str) -> String {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded.expect("UTF-8").into_owned()
}

/// Lists everything, page by page.
async fn list_all(client: &Client, prefix: &str, page_size: i32) -> Vec<String> {
    let mut all = Vec::new();
    let mut token = None;
    loop {
        let page = client
            .list_objects_v2()
            .bucket(BUCKET)
            .prefix(prefix)
            .encoding_type(EncodingType::Url)
            .max_keys(page_size)
            .set_continuation_token(token)
            .send()
            .await
            .expect("a page");
        assert_eq!(page.encoding_type(), Some(&EncodingType::Url));
        all.extend(keys(&page).into_iter().map(decode));
        token = page.next_continuation_token().map(str::to_owned);
        assert_eq!(page.is_truncated(), Some(token.is_some()));
        if token.is_none() {
            return all;
        }
    }
}

/// Keys that other servers lose, rename or merge.
#[rustfmt::skip]
fn nasty_keys() -> BTreeSet<String> {
    let mut keys: BTreeSet<String> = [
        "plain.png", "with space.png", "with+plus.png", "with%20percent.png", "%", "%2F", "%zz",
        "quotes\"and'.png", "a&b<c>.png", "&amp;", "]]>", "line\nfeed", "tab\tbed",
        "carriage\rreturn", "both\r\nends", "\u{FFEE}", "\u{1F600}.png", "e\u{301}.png",
        "\u{E9}.png", "한글/사진.png", "/leading", "trailing/", "double//slash", "//", "/", "..",
        ".", "../up", "a/../b", "./here", "a", "a/", "a/b", "a//b", " a ", "?query=1",
        "#hash", "semi;colon", "back\\slash", "~tilde", "star*", "(1)", "comma,equals=", "\u{7F}",
        "nel\u{85}", "line\u{2028}", "\u{10FFFF}", "\u{D7FF}\u{E000}", "pipe|caret^{brace}`[x]", "@:$!",
    ]
    .into_iter()
    .map(str::to_owned)
    .collect();
    keys.insert("k".repeat(MAX_KEY_BYTES));
    keys.insert("한".repeat(MAX_KEY_BYTES / 3));
    keys
}

#[tokio::test]
async fn nasty_keys_go_round_byte_for_byte() {
    let (server, client) = start().await;
    let in_order: Vec<String> = nasty_keys().into_iter().collect();
    for key in &in_order {
        let body = ByteStream::from(key.clone().into_bytes());
        let put = client.put_object().bucket(BUCKET).key(key).body(body);
        let put = put.send().await;
        put.unwrap_or_else(|error| panic!("put {key:?}: {error:?}"));
    }
    assert_eq!(server.keys(BUCKET), in_order);
    assert_eq!(list_all(&client, "", 1_000).await, in_order);
    assert_eq!(list_all(&client, "", 7).await, in_order);
    for (place, key) in in_order.iter().enumerate() {
        let head = client.head_object().bucket(BUCKET).key(key).send().await;
        let head = head.unwrap_or_else(|error| panic!("head {key:?}: {error:?}"));
        assert_eq!(head.content_length(), i64::try_from(key.len()).ok());
        let got = client.get_object().bucket(BUCKET).key(key).send().await;
        let body = got.expect("the object").body.collect().await;
        assert_eq!(body.expect("a body").to_vec(), key.as_bytes());
        let after = client.list_objects_v2().bucket(BUCKET).start_after(key);
        let after = after.encoding_type(EncodingType::Url).send().await;
        let after = after.expect("a page");
        let rest: Vec<String> = keys(&after).into_iter().map(decode).collect();
        assert_eq!(rest, in_order[place + 1..], "after {key:?}");
        assert_eq!(after.start_after().map(decode).as_ref(), Some(key));
        // Taken away alone, and nothing else with it.
        let gone = client.delete_object().bucket(BUCKET).key(key).send();
        gone.await.expect("deleted");
        assert_eq!(server.object(BUCKET, key).map(|object| object.size), None);
        assert_eq!(server.len(BUCKET), in_order.len() - 1);
        server.put(BUCKET, key, key.clone());
    }
    // All of them in one batch, each under its ETag.
    let tags = in_order.iter().map(|key| {
        let object = server.object(BUCKET, key).expect("an object");
        identifier(key, Some(&object.etag))
    });
    let answer = delete(&client, false, tags.collect()).await;
    let answer = answer.expect("an answer");
    assert_eq!(errors(&answer), []);
    assert_eq!(deleted(&answer), in_order);
    assert_eq!(server.len(BUCKET), 0);
}

/// The client takes a key of nothing but white space for a missing one, and
/// sends no request that names it in the path. In a batch it goes.
#[tokio::test]
async fn a_key_of_white_space_can_be_deleted_in_a_batch_only() {
    let (server, client) = start().await;
    let blank = [" ", "\n", "\u{85}", "\u{2003}"];
    for key in blank {
        server.put(BUCKET, key, "x");
    }
    let mut in_order = server.keys(BUCKET);
    assert_eq!(list_all(&client, "", 2).await, in_order);
    let alone = client.delete_object().bucket(BUCKET).key(" ").send().await;
    assert!(matches!(alone, Err(SdkError::ConstructionFailure(_))));
    let batch = blank.map(|key| identifier(key, None)).to_vec();
    let answer = delete(&client, false, batch).await.expect("an answer");
    let mut seen = deleted(&answer);
    seen.sort_unstable();
    in_order.sort();
    assert_eq!(seen, in_order);
    assert_eq!(server.len(BUCKET), 0);
}

#[tokio::test]
async fn an_encoded_page_is_written_as_s3_writes_it() {
    let (server, client) = start().await;
    for key in ["a b/c+d.png", "test_file(3).png", "100%/~x*"] {
        server.put(BUCKET, key, "x");
    }
    let list = || {
        let list = client.list_objects_v2().bucket(BUCKET);
        list.encoding_type(EncodingType::Url)
    };
    let page = list().start_after("1 0").delimiter("/").send().await;
    let page = page.expect("a page");
    assert_eq!(keys(&page), ["test_file%283%29.png"]);
    let common = page.common_prefixes().iter();
    let common: Vec<_> = common.filter_map(|one| one.prefix()).collect();
    assert_eq!(common, ["100%25/", "a+b/"]);
    assert_eq!(page.start_after(), Some("1+0"));
    assert_eq!(page.delimiter(), Some("/"));
    let page = list().prefix("a b/").send().await.expect("a page");
    assert_eq!(keys(&page), ["a+b/c%2Bd.png"]);
    assert_eq!(page.prefix(), Some("a+b/"));
    let wrong = list().encoding_type(EncodingType::from("hex"));
    assert_eq!(code(wrong.send().await), "InvalidArgument");
}

#[tokio::test]
async fn a_control_character_fails_a_plain_page_and_an_encoded_one_carries_it() {
    let (server, client) = start().await;
    let key = "bell\u{7}";
    server.put(BUCKET, key, "x");
    let plain = client.list_objects_v2().bucket(BUCKET).send().await;
    assert!(plain.is_err(), "{plain:?}");
    assert_eq!(list_all(&client, "", 10).await, [key]);
    let batch = delete(&client, false, vec![identifier(key, None)]).await;
    assert_eq!(code(batch), "MalformedXML");
    let alone = client.delete_object().bucket(BUCKET).key(key).send();
    alone.await.expect("deleted alone");
    assert_eq!(server.len(BUCKET), 0);
}

#[tokio::test]
async fn pages_are_ordered_capped_and_complete() {
    let (server, client) = start().await;
    for number in 0..2_345 {
        let key = format!("in/{number:05}");
        server.insert_listed(BUCKET, key, 7, "abc-2", long_ago());
    }
    server.put(BUCKET, "in", "x");
    server.put(BUCKET, "inside", "x");
    let list = || client.list_objects_v2().bucket(BUCKET).prefix("in/");
    let page = list().max_keys(5_000).send().await.expect("a page");
    assert_eq!(page.contents().len(), 1_000);
    assert_eq!(
        (page.max_keys(), page.key_count()),
        (Some(1_000), Some(1_000))
    );
    let object = &page.contents()[0];
    assert_eq!(
        (object.size(), object.e_tag()),
        (Some(7), Some("\"abc-2\""))
    );
    // S3 keeps no fractions of a second.
    let seconds = DateTime::from_secs(long_ago().as_second());
    assert_eq!(object.last_modified(), Some(&seconds));

    for page_size in [1_000, 999, 469] {
        let all = list_all(&client, "in/", page_size).await;
        assert_eq!(all.len(), 2_345);
        assert!(all.is_sorted_by(|a, b| a < b));
    }
    let none = list().max_keys(0).send().await.expect("a page");
    assert_eq!(
        (none.contents().len(), none.is_truncated()),
        (0, Some(false))
    );
    let foreign = list().continuation_token("made up").send().await;
    assert_eq!(code(foreign), "InvalidArgument");
    let missing = list().bucket("nowhere").send().await;
    assert_eq!(code(missing), "NoSuchBucket");
}

#[tokio::test]
async fn common_prefixes_count_and_carry_over_pages() {
    let (server, client) = start().await;
    for key in ["a/1", "a/2", "b", "c/1", "c/x/2", "c0", "d"] {
        server.put(BUCKET, key, "x");
    }
    for page_size in 1..=5 {
        let (mut seen, mut token) = (Vec::new(), None);
        loop {
            let page = client.list_objects_v2().bucket(BUCKET).delimiter("/");
            let page = page.max_keys(page_size).set_continuation_token(token);
            let page = page.send().await.expect("a page");
            assert!(page.key_count() <= Some(page_size));
            let common = page.common_prefixes().iter();
            seen.extend(common.filter_map(|one| one.prefix().map(str::to_owned)));
            seen.extend(keys(&page).into_iter().map(str::to_owned));
            token = page.next_continuation_token().map(str::to_owned);
            if token.is_none() {
                break;
            }
        }
        seen.sort();
        assert_eq!(seen, ["a/", "b", "c/", "c0", "d"], "pages of {page_size}");
    }
}

#[tokio::test]
async fn a_conditional_delete_spares_what_changed() {
    let (server, client) = start().await;
    let tag = server.put(BUCKET, "same", "one");
    server.put(BUCKET, "changed", "two");
    let batch = vec![
        // As a listing has it, in quotes.
        identifier("same", Some(&format!("\"{tag}\""))),
        identifier("changed", Some(&tag)),
        identifier("absent", Some(&tag)),
        identifier("never there", None),
    ];
    let answer = delete(&client, false, batch).await.expect("an answer");
    assert_eq!(deleted(&answer), ["same", "never there"]);
    let spared = [("changed", "PreconditionFailed"), ("absent", "NoSuchKey")];
    assert_eq!(errors(&answer), spared);
    assert_eq!(server.keys(BUCKET), ["changed"]);

    let single = |key: &str, tag: &str| {
        let request = client.delete_object().bucket(BUCKET).key(key);
        request.if_match(tag).send()
    };
    assert_eq!(code(single("changed", &tag).await), "PreconditionFailed");
    assert_eq!(status(single("changed", &tag).await), 412);
    assert_eq!(code(single("absent", &tag).await), "NoSuchKey");
    assert_eq!(code(single("absent", "*").await), "NoSuchKey");
    single("changed", "*").await.expect("deleted");
    let nothing = client.delete_object().bucket(BUCKET).key("absent").send();
    nothing.await.expect("to delete nothing succeeds");
    assert_eq!(server.len(BUCKET), 0);
}

#[tokio::test]
async fn a_delete_marker_counts_as_absent() {
    let (server, client) = start().await;
    server.set_versioning(BUCKET, Versioning::Enabled);
    let tag = server.put(BUCKET, "key", "one");
    server.delete(BUCKET, "key");
    let batch = vec![identifier("key", Some(&tag))];
    let answer = delete(&client, false, batch).await.expect("an answer");
    assert_eq!(errors(&answer), [("key", "NoSuchKey")]);
    assert_eq!(server.versions(BUCKET, "key").len(), 2);

    let head = |key: &str| client.head_object().bucket(BUCKET).key(key);
    let absent = head("key").send().await.expect_err("absent");
    let raw = absent.raw_response().expect("an answer");
    let marker = server.versions(BUCKET, "key")[0].id().to_string();
    assert_eq!(raw.status().as_u16(), 404);
    assert_eq!(raw.headers().get("x-amz-delete-marker"), Some("true"));
    assert_eq!(raw.headers().get("x-amz-version-id"), Some(marker.as_str()));
    assert_eq!(status(head("key").version_id(marker).send().await), 405);
    let never = head("never").send().await.expect_err("absent");
    let raw = never.raw_response().expect("an answer");
    assert_eq!(raw.status().as_u16(), 404);
    assert_eq!(raw.headers().get("x-amz-delete-marker"), None);
}

#[tokio::test]
async fn a_batch_is_judged_whole_before_any_of_it_is_done() {
    let (server, client) = start().await;
    server.put(BUCKET, "k0000", "x");
    let many = |count: usize| {
        let keys = (0..count).map(|number| format!("k{number:04}"));
        keys.map(|key| identifier(&key, None)).collect()
    };
    assert_eq!(
        code(delete(&client, false, many(1_001)).await),
        "MalformedXML"
    );
    let long = "k".repeat(MAX_KEY_BYTES + 1);
    let batch = vec![identifier("k0000", None), identifier(&long, None)];
    assert_eq!(code(delete(&client, false, batch).await), "KeyTooLongError");
    assert_eq!(server.len(BUCKET), 1);
    let put = client.put_object().bucket(BUCKET).key(&long).send().await;
    assert_eq!(code(put), "KeyTooLongError");
    let full = delete(&client, false, many(1_000)).await;
    assert_eq!(full.expect("an answer").deleted().len(), 1_000);
    assert_eq!(server.len(BUCKET), 0);
}

#[tokio::test]
async fn a_quiet_batch_names_only_errors() {
    let (server, client) = start().await;
    server.put(BUCKET, "a", "x");
    server.put(BUCKET, "b", "x");
    let batch = vec![identifier("a", None), identifier("b", Some("other"))];
    let answer = delete(&client, true, batch).await.expect("an answer");
    assert_eq!(deleted(&answer), Vec::<&str>::new());
    assert_eq!(errors(&answer), [("b", "PreconditionFailed")]);
    assert_eq!(server.keys(BUCKET), ["b"]);
}

#[tokio::test]
async fn a_versioned_delete_can_be_undone() {
    let (server, client) = start().await;
    let enabled = VersioningConfiguration::builder()
        .status(BucketVersioningStatus::Enabled)
        .build();
    let set = client.put_bucket_versioning().bucket(BUCKET);
    let set = set.versioning_configuration(enabled).send().await;
    set.expect("an answer");
    let read = client.get_bucket_versioning().bucket(BUCKET).send().await;
    let status = read.expect("an answer").status().cloned();
    assert_eq!(status, Some(BucketVersioningStatus::Enabled));

    let tag = server.put(BUCKET, "key", "one");
    server.put(BUCKET, "other", "x");
    let batch = vec![identifier("key", Some(&tag))];
    let answer = delete(&client, false, batch).await.expect("an answer");
    let done = &answer.deleted()[0];
    assert_eq!(
        (done.delete_marker(), done.version_id()),
        (Some(true), None)
    );
    let marker = done.delete_marker_version_id().expect("a marker");
    assert_eq!(server.keys(BUCKET), ["other"]);
    assert!(server.versions(BUCKET, "key")[0].is_marker());

    let undo = ObjectIdentifier::builder().key("key").version_id(marker);
    let batch = vec![undo.build().expect("a key")];
    let answer = delete(&client, false, batch).await.expect("an answer");
    let done = &answer.deleted()[0];
    assert_eq!(done.delete_marker(), Some(true));
    assert_eq!(done.version_id(), Some(marker));
    assert_eq!(server.keys(BUCKET), ["key", "other"]);
    let object = server.object(BUCKET, "key").expect("an object");
    assert_eq!(*object.etag, *tag);

    // The same with single deletes, whose answer has the marker in its headers.
    let single = || client.delete_object().bucket(BUCKET).key("key");
    let gone = single().send().await.expect("deleted");
    assert_eq!(gone.delete_marker(), Some(true));
    assert_eq!(server.keys(BUCKET), ["other"]);
    let marker = gone.version_id().expect("a marker");
    let back = single().version_id(marker).send().await.expect("undone");
    assert_eq!(back.delete_marker(), Some(true));
    assert_eq!(server.keys(BUCKET), ["key", "other"]);
}

#[tokio::test]
async fn a_version_deleted_by_its_id_is_destroyed() {
    let (server, client) = start().await;
    server.set_versioning(BUCKET, Versioning::Enabled);
    server.put(BUCKET, "key", "one");
    let first = server.object(BUCKET, "key").expect("an object").version_id;
    let put = client.put_object().bucket(BUCKET).key("key").send().await;
    let put = put.expect("put");
    let second = put.version_id().expect("an id");
    assert_ne!(second, first.to_string());
    let single = |id: &str| {
        let request = client.delete_object().bucket(BUCKET).key("key");
        request.version_id(id).send()
    };
    let gone = single(second).await.expect("deleted");
    assert_eq!(
        (gone.delete_marker(), gone.version_id()),
        (None, Some(second))
    );
    let object = server.object(BUCKET, "key").expect("the older one");
    assert_eq!(object.version_id, first);
    assert_eq!(server.versions(BUCKET, "key").len(), 1);
    assert_eq!(code(single("not an id").await), "InvalidArgument");
    // A marker is made for a key that never was, too.
    let never = client.delete_object().bucket(BUCKET).key("never").send();
    never.await.expect("deleted");
    let versions = server.versions(BUCKET, "never");
    assert!(matches!(versions[..], [Version::Marker { .. }]));
}

#[tokio::test]
async fn suspended_versioning_destroys_the_null_version() {
    let (server, client) = start().await;
    server.put(BUCKET, "key", "zero");
    server.set_versioning(BUCKET, Versioning::Enabled);
    server.put(BUCKET, "key", "one");
    let ids = || {
        let versions = server.versions(BUCKET, "key");
        versions.iter().map(Version::id).collect::<Vec<_>>()
    };
    let kept = ids()[0];
    assert_eq!(ids(), [kept, VersionId::NULL]);

    server.set_versioning(BUCKET, Versioning::Suspended);
    let batch = vec![identifier("key", None)];
    let answer = delete(&client, false, batch).await.expect("an answer");
    let marker = answer.deleted()[0].delete_marker_version_id();
    assert_eq!(marker, Some("null"));
    // The marker has taken the place of "zero"; "one" is still below it.
    assert_eq!(ids(), [VersionId::NULL, kept]);
    assert!(server.versions(BUCKET, "key")[0].is_marker());
    server.put(BUCKET, "key", "two");
    assert_eq!(ids(), [VersionId::NULL, kept]);
    assert_eq!(server.keys(BUCKET), ["key"]);
}

#[tokio::test]
async fn versions_are_listed_by_key_then_newest_first() {
    let (server, client) = start().await;
    server.set_versioning(BUCKET, Versioning::Enabled);
    for key in ["a b", "b", "c"] {
        server.put(BUCKET, key, "one");
    }
    server.put(BUCKET, "b", "two");
    server.delete(BUCKET, "b");
    let mut expected = Vec::new();
    for key in ["a b", "b", "c"] {
        for version in server.versions(BUCKET, key) {
            expected.push((key.to_owned(), version.id().to_string()));
        }
    }
    assert_eq!(expected.len(), 5);

    // Pages of one line show the order, which the client's two lists hide.
    for page_size in [1, 2, 3, 5] {
        let (mut seen, mut latest) = (Vec::new(), Vec::new());
        let (mut key_marker, mut id_marker) = (None, None);
        loop {
            let page = client
                .list_object_versions()
                .bucket(BUCKET)
                .encoding_type(EncodingType::Url)
                .max_keys(page_size)
                .set_key_marker(key_marker)
                .set_version_id_marker(id_marker)
                .send()
                .await
                .expect("a page");
            let objects = page.versions().iter();
            let objects = objects.map(|one| (one.key(), one.version_id(), one.is_latest()));
            let markers = page.delete_markers().iter();
            let markers = markers.map(|one| (one.key(), one.version_id(), one.is_latest()));
            for (key, id, is_latest) in objects.chain(markers) {
                let key = decode(key.expect("a key"));
                if is_latest == Some(true) {
                    latest.push(key.clone());
                }
                seen.push((key, id.expect("an id").to_owned()));
            }
            if page.is_truncated() != Some(true) {
                break;
            }
            key_marker = page.next_key_marker().map(decode);
            id_marker = page.next_version_id_marker().map(str::to_owned);
        }
        if page_size > 1 {
            seen.sort();
            expected.sort();
            latest.sort();
        }
        assert_eq!(seen, expected, "pages of {page_size}");
        assert_eq!(latest, ["a b", "b", "c"]);
    }
    let page = client.list_object_versions().bucket(BUCKET).prefix("b");
    let page = page.send().await.expect("a page");
    assert_eq!((page.versions().len(), page.delete_markers().len()), (2, 1));
    assert_eq!(page.delete_markers()[0].is_latest(), Some(true));
}

#[tokio::test]
async fn versions_deleted_between_two_pages_hide_none() {
    let (server, client) = start().await;
    server.set_versioning(BUCKET, Versioning::Enabled);
    for body in ["one", "two", "three"] {
        server.put(BUCKET, "key", body);
    }
    let list = || client.list_object_versions().bucket(BUCKET);
    let page = list().max_keys(1).send().await.expect("a page");
    let newest = page.next_version_id_marker().expect("an id");
    let gone = client.delete_object().bucket(BUCKET).key("key");
    gone.version_id(newest).send().await.expect("deleted");
    let page = list().key_marker("key").version_id_marker(newest);
    let page = page.send().await.expect("a page");
    assert_eq!(page.versions().len(), 2);
}

#[tokio::test]
async fn conditional_puts_keep_what_is_there() {
    let (server, client) = start().await;
    let put = |body: &'static [u8]| {
        let put = client.put_object().bucket(BUCKET).key("key");
        put.body(ByteStream::from_static(body))
    };
    assert_eq!(code(put(b"one").if_match("x").send().await), "NoSuchKey");
    let first = put(b"one").if_none_match("*").content_type("image/png");
    let first = first.send().await.expect("put");
    let refused = "PreconditionFailed";
    assert_eq!(code(put(b"two").if_none_match("*").send().await), refused);
    assert_eq!(code(put(b"two").if_match("x").send().await), refused);
    let got = client.get_object().bucket(BUCKET).key("key");
    let got = got.range("bytes=1-").send().await.expect("the object");
    assert_eq!(got.content_type(), Some("image/png"));
    assert_eq!(got.content_range(), Some("bytes 1-2/3"));
    let body = got.body.collect().await.expect("a body");
    assert_eq!(body.to_vec(), b"ne");
    let second = put(b"two").if_match(first.e_tag().expect("a tag"));
    second.send().await.expect("put");
    // S3 takes the MD5 of what was uploaded in one part: here of "two".
    let tag = server.object(BUCKET, "key").expect("an object").etag;
    assert_eq!(&*tag, "b8a9f715dbb64fd5c56e7783c6820a61");
}

#[tokio::test]
async fn buckets_are_made_found_and_listed() {
    let (_server, client) = start().await;
    let make = || client.create_bucket().bucket("second").send();
    make().await.expect("made");
    assert_eq!(code(make().await), "BucketAlreadyOwnedByYou");
    let head = |name: &str| client.head_bucket().bucket(name).send();
    head("second").await.expect("there");
    assert_eq!(status(head("third").await), 404);
    let listed = client.list_buckets().send().await.expect("a list");
    let names = listed.buckets().iter();
    let names: Vec<_> = names.filter_map(|bucket| bucket.name()).collect();
    assert_eq!(names, [BUCKET, "second"]);
    let versioning = client.get_bucket_versioning().bucket("second").send();
    assert_eq!(versioning.await.expect("an answer").status(), None);
    let location = client.get_bucket_location().bucket("second").send();
    location.await.expect("an answer");
}

#[tokio::test]
async fn uploads_under_way_are_listed_with_their_start_and_aborted() {
    let (server, client) = start().await;
    let old = server.begin_upload_at(BUCKET, "b", long_ago());
    let begun = client.create_multipart_upload().bucket(BUCKET).key("a");
    let begun = begun.send().await.expect("begun");
    let list = || client.list_multipart_uploads().bucket(BUCKET);
    let page = list().max_uploads(1).send().await.expect("a page");
    assert_eq!(page.uploads()[0].upload_id(), begun.upload_id());
    assert_eq!(page.is_truncated(), Some(true));
    let page = list()
        .set_key_marker(page.next_key_marker().map(str::to_owned))
        .set_upload_id_marker(page.next_upload_id_marker().map(str::to_owned))
        .send()
        .await
        .expect("a page");
    assert_eq!(
        (page.uploads().len(), page.is_truncated()),
        (1, Some(false))
    );
    let upload = &page.uploads()[0];
    assert_eq!(
        (upload.key(), upload.upload_id()),
        (Some("b"), Some(old.as_str()))
    );
    let seconds = DateTime::from_secs(long_ago().as_second());
    assert_eq!(upload.initiated(), Some(&seconds));
    let abort = || {
        let abort = client.abort_multipart_upload().bucket(BUCKET).key("b");
        abort.upload_id(&old).send()
    };
    abort().await.expect("aborted");
    assert_eq!(code(abort().await), "NoSuchUpload");
    assert_eq!(server.uploads(BUCKET).len(), 1);
}

#[tokio::test]
async fn a_wrong_secret_is_refused() {
    let (server, _) = start().await;
    let stranger = client(&server, "another secret");
    let list = stranger.list_objects_v2().bucket(BUCKET).send().await;
    assert_eq!(code(list), "SignatureDoesNotMatch");
    assert_eq!(server.requests(), []);
}

/// Sends an unsigned request and returns the whole answer in lower case.
async fn unsigned(server: &S3Server) -> String {
    let address = server.endpoint().replace("http://", "");
    let stream = tokio::net::TcpStream::connect(&address).await;
    let mut stream = stream.expect("a connection");
    let request = format!("GET /{BUCKET} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer).await;
    read.expect("an answer");
    answer.to_lowercase()
}

#[tokio::test]
async fn every_answer_has_the_servers_date() {
    let (server, client) = start().await;
    let date = |answer: &str| {
        let line = answer.lines().find_map(|line| line.strip_prefix("date: "));
        let date = jiff::fmt::rfc2822::parse(line.expect("a date"));
        date.expect("a time").timestamp()
    };
    let minute = SignedDuration::from_mins(1);
    let answer = unsigned(&server).await;
    assert!(answer.starts_with("http/1.1 403"), "{answer}");
    assert!(date(&answer).duration_since(Timestamp::now()).abs() < minute);

    let ahead = SignedDuration::from_mins(10);
    server.set_clock_skew(ahead);
    let shift = date(&unsigned(&server).await).duration_since(Timestamp::now());
    assert!((shift - ahead).abs() < minute, "{shift}");
    let put = client.put_object().bucket(BUCKET).key("key").send();
    put.await.expect("put");
    let object = server.object(BUCKET, "key").expect("an object");
    assert!(object.last_modified > Timestamp::now());
}

#[tokio::test]
async fn requests_are_logged_in_order() {
    let (server, client) = start().await;
    let list = client.list_objects_v2().bucket(BUCKET).prefix("a b");
    list.send().await.expect("a page");
    for batch in [&["b", "a"][..], &["c"]] {
        let batch = batch.iter().map(|key| identifier(key, None)).collect();
        delete(&client, false, batch).await.expect("an answer");
    }
    let log = server.requests();
    assert!(log[0].query.contains("prefix=a%20b"), "{}", log[0].query);
    let seen: Vec<_> = log.iter().map(|one| (one.operation, one.nth)).collect();
    let expected = [
        (Operation::ListObjectsV2, 1),
        (Operation::DeleteObjects, 1),
        (Operation::DeleteObjects, 2),
    ];
    assert_eq!(seen, expected);
    assert_eq!(
        (log[1].bucket.as_str(), &*log[1].keys),
        (BUCKET, &["b", "a"].map(str::to_owned)[..])
    );
    assert_eq!(server.count(Operation::DeleteObjects), 2);
    server.clear_requests();
    assert_eq!(server.requests(), []);
    assert_eq!(server.count(Operation::DeleteObjects), 0);
}

#[tokio::test]
async fn faults_refuse_the_requests_they_name() {
    let (server, client) = start().await;
    let list = || client.list_objects_v2().bucket(BUCKET).send();
    let fault = |effect| Fault::new(Operation::ListObjectsV2, effect);
    server.inject(fault(Effect::slow_down()).first(2));
    server.inject(fault(Effect::internal_error()).nth(4));
    assert_eq!(status(list().await), 503);
    assert_eq!(code(list().await), "SlowDown");
    list().await.expect("the third is spared");
    assert_eq!(status(list().await), 500);
    list().await.expect("the fifth is spared");

    server.put(BUCKET, "a", "x");
    server.put(BUCKET, "b", "x");
    server.inject(Fault::new(Operation::DeleteObject, Effect::conflict()).key("a"));
    let delete = |key: &str| client.delete_object().bucket(BUCKET).key(key).send();
    assert_eq!(code(delete("a").await), "ConditionalRequestConflict");
    assert_eq!(status(delete("a").await), 409);
    delete("b").await.expect("another key");
    assert_eq!(server.keys(BUCKET), ["a"]);
    server.heal();
    delete("a").await.expect("healed");
}

#[tokio::test]
async fn an_answer_can_be_lost_before_or_after_the_effect() {
    let (server, client) = start().await;
    server.put(BUCKET, "a", "x");
    let fault = |effect| Fault::new(Operation::DeleteObjects, effect);
    server.inject(fault(Effect::CloseBefore).nth(1));
    server.inject(fault(Effect::CloseAfter).nth(2));
    for left in [1, 0] {
        let lost = delete(&client, false, vec![identifier("a", None)]).await;
        assert!(
            matches!(lost, Err(SdkError::DispatchFailure(_))),
            "{lost:?}"
        );
        assert_eq!(server.len(BUCKET), left);
    }
}

#[tokio::test]
async fn a_body_can_break_off() {
    let (server, client) = start().await;
    server.put(BUCKET, "a", "0123456789");
    server.inject(Fault::new(Operation::ListObjectsV2, Effect::CutBody).nth(1));
    server.inject(Fault::new(Operation::GetObject, Effect::CutBody).nth(1));
    let list = || client.list_objects_v2().bucket(BUCKET).send();
    assert!(list().await.is_err());
    list().await.expect("the second is whole");
    let got = client.get_object().bucket(BUCKET).key("a").send().await;
    assert!(got.expect("a head").body.collect().await.is_err());
}

#[tokio::test]
async fn an_answer_can_lie() {
    let (server, client) = start().await;
    server.put(BUCKET, "a", "x");
    let lie = |nth, truth: &'static str, lie: &'static str| {
        let edit = move |page: String| {
            assert!(page.contains(truth), "{page}");
            page.replace(truth, lie)
        };
        Fault::new(Operation::ListObjectsV2, Effect::edit_body(edit)).nth(nth)
    };
    server.inject(lie(1, "<IsTruncated>false", "<IsTruncated>true"));
    server.inject(lie(2, "<IsTruncated>false</IsTruncated>", ""));
    server.inject(lie(3, "<Key>a</Key>", "<Key>b</Key>"));
    let list = || client.list_objects_v2().bucket(BUCKET).send();
    let page = list().await.expect("a page");
    assert_eq!(
        (page.is_truncated(), page.next_continuation_token()),
        (Some(true), None)
    );
    assert_eq!(list().await.expect("a page").is_truncated(), None);
    assert_eq!(keys(&list().await.expect("a page")), ["b"]);

    let nothing = Effect::replace_body("<DeleteResult/>");
    server.inject(Fault::new(Operation::DeleteObjects, nothing));
    let answer = delete(&client, false, vec![identifier("a", None)]).await;
    let answer = answer.expect("an answer");
    assert_eq!((answer.deleted().len(), answer.errors().len()), (0, 0));
    assert_eq!(server.len(BUCKET), 0);

    let (status_code, body) = (403, String::new());
    let instead = Effect::Answer {
        status: status_code,
        body,
    };
    server.inject(Fault::new(Operation::HeadBucket, instead));
    let head = client.head_bucket().bucket(BUCKET).send().await;
    assert_eq!(status(head), 403);
    server.inject(Fault::new(
        Operation::HeadObject,
        Effect::DropHeader("date"),
    ));
    let head = client.head_object().bucket(BUCKET).key("a").send().await;
    let head = head.expect_err("absent");
    let raw = head.raw_response().expect("an answer");
    assert_eq!(
        (raw.status().as_u16(), raw.headers().get("date")),
        (404, None)
    );
}

#[tokio::test]
async fn a_fault_can_befall_single_keys() {
    let (server, client) = start().await;
    let keys = ["denied", "fine", "kept back", "left out"];
    for key in keys {
        server.put(BUCKET, key, "x");
    }
    let fault = |effect| Fault::new(Operation::DeleteObjects, effect);
    server.inject(fault(Effect::KeyError("AccessDenied")).key("denied"));
    server.inject(fault(Effect::OmitKey { deleted: false }).key("kept back"));
    server.inject(fault(Effect::OmitKey { deleted: true }).keys(|key| key.starts_with("left")));
    let batch = keys.map(|key| identifier(key, None)).to_vec();
    let answer = delete(&client, false, batch).await.expect("an answer");
    assert_eq!(deleted(&answer), ["fine"]);
    assert_eq!(errors(&answer), [("denied", "AccessDenied")]);
    assert_eq!(server.keys(BUCKET), ["denied", "kept back"]);
}

#[tokio::test]
async fn a_hook_changes_the_world_between_two_steps() {
    let (server, client) = start().await;
    let tag = server.put(BUCKET, "key", "one");
    server.on_request(Operation::DeleteObjects, |buckets, request| async move {
        if request.nth == 1 {
            buckets.put(BUCKET, &request.keys[0], "uploaded again");
        }
    });
    let batch = || delete(&client, false, vec![identifier("key", Some(&tag))]);
    let answer = batch().await.expect("an answer");
    assert_eq!(errors(&answer), [("key", "PreconditionFailed")]);
    server.put(BUCKET, "key", "one");
    let answer = batch().await.expect("an answer");
    assert_eq!(deleted(&answer), ["key"]);
}

#[tokio::test]
async fn latency_holds_each_request_back() {
    let (server, client) = start().await;
    let latency = Duration::from_millis(50);
    server.set_latency(latency);
    let before = Instant::now();
    let head = client.head_bucket().bucket(BUCKET).send().await;
    head.expect("there");
    assert!(before.elapsed() >= latency);
}

#[tokio::test]
async fn a_dropped_server_answers_no_more() {
    let (server, client) = start().await;
    let head = || client.head_bucket().bucket(BUCKET).send();
    head().await.expect("there");
    let buckets = (*server).clone();
    drop(server);
    // Its task ends at its next turn; a request that comes before is answered.
    while head().await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(buckets.len(BUCKET), 0);
}
