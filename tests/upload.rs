//! Uploads: all or none, and honest about what a failed roll-back leaves.
#![cfg(feature = "demo")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use orphan_sweeper::key::Prefix;
use orphan_sweeper::local::s3::{Effect, Fault, Operation};
use orphan_sweeper::upload::{Image, Uploader};
use support::{BUCKET, World};

fn images(count: usize) -> Vec<Image> {
    (0..count)
        .map(|index| Image {
            name: format!("photo {index}.JPG"),
            bytes: Bytes::from(format!("bytes of {index}")),
        })
        .collect()
}

fn uploader(world: &World, at_once: usize) -> Uploader {
    Uploader::new(world.client(), BUCKET, Prefix::folder("images"), at_once)
}

#[tokio::test]
async fn keys_come_in_the_order_of_the_images_with_extension_and_content_type() {
    let world = World::new().await;
    let keys = uploader(&world, 4)
        .upload(images(9))
        .await
        .expect("uploaded");
    assert_eq!(keys.len(), 9);
    for (index, key) in keys.iter().enumerate() {
        let content = world
            .server
            .object(BUCKET, key.as_str())
            .and_then(|object| object.content)
            .expect("there");
        assert_eq!(content.body, format!("bytes of {index}"));
        assert_eq!(content.content_type.as_deref(), Some("image/jpeg"));
        let uuid = key
            .as_str()
            .strip_prefix("images/")
            .and_then(|name| name.strip_suffix(".jpg"))
            .expect("prefix and extension");
        assert_eq!(
            uuid::Uuid::parse_str(uuid)
                .expect("a UUID")
                .get_version_num(),
            4
        );
    }
    assert!(
        uploader(&world, 4)
            .upload(Vec::new())
            .await
            .expect("nothing to do")
            .is_empty()
    );
}

#[tokio::test]
async fn one_failure_rolls_the_others_back_and_is_named() {
    let world = World::new().await;
    world
        .server
        .inject(Fault::new(Operation::PutObject, Effect::access_denied()).nth(3));
    let error = uploader(&world, 1)
        .upload(images(6))
        .await
        .expect_err("failed");
    assert_eq!(world.keys(), [""; 0]);
    assert_eq!(error.failed.len(), 1);
    assert_eq!(error.failed[0].name, "photo 2.JPG");
    assert!(error.left_behind.is_empty());
    let text = error.to_string();
    assert!(
        text.contains("photo 2.JPG")
            && text.contains("AccessDenied")
            && text.contains("rolled back"),
        "{text}"
    );
    assert_eq!(
        world.server.count(Operation::PutObject),
        3,
        "nothing is begun after a failure"
    );
}

#[tokio::test]
async fn an_upload_whose_answer_was_lost_is_rolled_back_too() {
    let world = World::new().await;
    // Every attempt takes effect and says nothing.
    world
        .server
        .inject(Fault::new(Operation::PutObject, Effect::CloseAfter));
    let error = uploader(&world, 2)
        .upload(images(1))
        .await
        .expect_err("failed");
    assert_eq!(world.keys(), [""; 0]);
    assert!(error.left_behind.is_empty());
}

#[tokio::test]
async fn what_the_roll_back_cannot_delete_is_left_to_the_sweeper() {
    let refused = Effect::KeyError("InternalError");
    let silent = Effect::OmitKey { deleted: false };
    for effect in [refused, silent, Effect::access_denied()] {
        let world = World::new().await;
        world
            .server
            .inject(Fault::new(Operation::PutObject, Effect::access_denied()).nth(3));
        world
            .server
            .inject(Fault::new(Operation::DeleteObjects, effect.clone()));
        let error = uploader(&world, 1)
            .upload(images(3))
            .await
            .expect_err("failed");
        let left: Vec<&str> = error
            .left_behind
            .iter()
            .map(orphan_sweeper::key::ObjectKey::as_str)
            .collect();
        assert_eq!(world.keys().len(), 2, "{effect:?}");
        assert!(
            world.keys().iter().all(|key| left.contains(&key.as_str())),
            "{effect:?}"
        );
        assert!(
            error.to_string().ends_with("left to the sweeper"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn no_more_uploads_than_allowed_are_under_way() {
    let world = World::new().await;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, seen) = (Arc::clone(&now), Arc::clone(&most));
    world.server.on_request(Operation::PutObject, move |_, _| {
        let (counted, seen) = (Arc::clone(&counted), Arc::clone(&seen));
        async move {
            seen.fetch_max(counted.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            // Lets the others come as far as they may.
            for _ in 0..200 {
                tokio::task::yield_now().await;
            }
            counted.fetch_sub(1, Ordering::SeqCst);
        }
    });
    uploader(&world, 3)
        .upload(images(12))
        .await
        .expect("uploaded");
    let most = most.load(Ordering::SeqCst);
    assert!((2..=3).contains(&most), "{most} at once");
}
