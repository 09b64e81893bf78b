//! The service's side: several images uploaded at once, all or none. Here orphans come from.
//!
//! Each image gets a key of its own (a random `UUIDv4` and the original extension), so that
//! no key is ever used twice. If one upload fails, the others are rolled back; what even the
//! roll-back cannot delete is left to the sweeper, on purpose, and the error says so.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_s3::Client;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use thiserror::Error;
use uuid::Uuid;

use crate::key::{ObjectKey, Prefix, escape};
use crate::s3::said;

/// The most keys of one `DeleteObjects`.
const MAX_BATCH: usize = 1_000;

/// The longest extension that is kept, in characters.
const MAX_EXTENSION: usize = 8;

/// An image as a person sent it.
#[derive(Debug, Clone)]
pub struct Image {
    /// The name that it had there.
    pub name: String,
    /// Its bytes.
    pub bytes: Bytes,
}

/// Uploads into one bucket.
#[derive(Debug, Clone)]
pub struct Uploader {
    client: Client,
    bucket: String,
    prefix: Prefix,
    at_once: usize,
}

/// One image that was not uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedImage {
    /// The name that it had.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// Not every image was uploaded, so none is kept.
#[derive(Debug, Error)]
pub struct UploadError {
    /// The images that failed.
    pub failed: Vec<FailedImage>,
    /// Keys that the roll-back could not delete, or of which it does not know.
    pub left_behind: Vec<ObjectKey>,
}

impl fmt::Display for UploadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("could not upload ")?;
        for (index, FailedImage { name, reason }) in self.failed.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{} ({})", escape(name), escape(reason))?;
        }
        match self.left_behind.as_slice() {
            [] => f.write_str("; the others were rolled back"),
            keys => {
                f.write_str("; the roll-back could not delete ")?;
                for (index, key) in keys.iter().enumerate() {
                    write!(f, "{}{key}", if index == 0 { "" } else { ", " })?;
                }
                f.write_str(", left to the sweeper")
            }
        }
    }
}

/// What became of one image.
enum Put {
    Done(ObjectKey),
    /// It may have taken effect all the same: an answer can be lost.
    Failed(ObjectKey, FailedImage),
    /// Another one had failed before this was begun.
    NotBegun,
}

impl Uploader {
    /// Uploads below the prefix, at most `at_once` images at a time.
    #[must_use]
    pub fn new(client: Client, bucket: &str, prefix: Prefix, at_once: usize) -> Self {
        Self {
            client,
            bucket: bucket.to_owned(),
            prefix,
            at_once: at_once.max(1),
        }
    }

    /// Uploads all images, or none. Their keys come in the order of the images.
    ///
    /// # Errors
    /// An image could not be uploaded; see [`UploadError`] for what that leaves.
    pub async fn upload(&self, images: Vec<Image>) -> Result<Vec<ObjectKey>, UploadError> {
        let failed = AtomicBool::new(false);
        let puts: Vec<Put> = stream::iter(images)
            .map(async |image| {
                if failed.load(Ordering::Relaxed) {
                    return Put::NotBegun;
                }
                let put = self.put(image).await;
                failed.fetch_or(matches!(put, Put::Failed(..)), Ordering::Relaxed);
                put
            })
            .buffered(self.at_once)
            .collect()
            .await;

        let (mut keys, mut failures) = (Vec::new(), Vec::new());
        for put in puts {
            match put {
                Put::Done(key) => keys.push(key),
                Put::Failed(key, image) => {
                    keys.push(key);
                    failures.push(image);
                }
                Put::NotBegun => {}
            }
        }
        if failures.is_empty() {
            return Ok(keys);
        }
        let left_behind = self.roll_back(keys).await;
        Err(UploadError {
            failed: failures,
            left_behind,
        })
    }

    async fn put(&self, image: Image) -> Put {
        let (extension, content_type) = kind(&image.name);
        let key = ObjectKey::new(format!(
            "{}{}{extension}",
            self.prefix.as_str(),
            Uuid::new_v4()
        ));
        let sent = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key.as_str())
            .content_type(content_type)
            .body(image.bytes.into())
            .send()
            .await;
        match sent {
            Ok(_) => Put::Done(key),
            Err(error) => {
                let reason = said(&error).to_string();
                let name = image.name;
                Put::Failed(key, FailedImage { name, reason })
            }
        }
    }

    /// Deletes the keys, and returns those that may still be there.
    async fn roll_back(&self, keys: Vec<ObjectKey>) -> Vec<ObjectKey> {
        let mut left_behind = Vec::new();
        for batch in keys.chunks(MAX_BATCH) {
            let deleted = self.delete(batch).await;
            let still_there = batch.iter().filter(|key| !deleted.contains(key.as_str()));
            left_behind.extend(still_there.cloned());
        }
        left_behind
    }

    /// The keys of the batch that S3 says are deleted.
    async fn delete(&self, batch: &[ObjectKey]) -> BTreeSet<String> {
        let identify = |key: &ObjectKey| ObjectIdentifier::builder().key(key.as_str()).build();
        let objects: Result<Vec<_>, _> = batch.iter().map(identify).collect();
        let Ok(delete) =
            objects.and_then(|objects| Delete::builder().set_objects(Some(objects)).build())
        else {
            return BTreeSet::new();
        };
        let answer = self
            .client
            .delete_objects()
            .bucket(&self.bucket)
            .delete(delete)
            .send()
            .await;
        match answer {
            Ok(answer) => answer
                .deleted
                .unwrap_or_default()
                .into_iter()
                .filter_map(|deleted| deleted.key)
                .collect(),
            Err(error) => {
                tracing::warn!(objects = batch.len(), error = %said(&error), "could not roll back a batch");
                BTreeSet::new()
            }
        }
    }
}

/// The extension with its dot, in lower case, and the content type. An extension that is
/// long or holds anything but ASCII letters and digits is left off.
fn kind(name: &str) -> (String, &'static str) {
    let extension = match name.rsplit_once('.') {
        Some((_, extension))
            if (1..=MAX_EXTENSION).contains(&extension.len())
                && extension.bytes().all(|b| b.is_ascii_alphanumeric()) =>
        {
            extension.to_ascii_lowercase()
        }
        _ => return (String::new(), "application/octet-stream"),
    };
    let content_type = match extension.as_str() {
        "jpg" | "jpeg" => "image/jpeg",
        "png" => "image/png",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "heic" => "image/heic",
        "heif" => "image/heif",
        "svg" => "image/svg+xml",
        "bmp" => "image/bmp",
        "tif" | "tiff" => "image/tiff",
        "ico" => "image/x-icon",
        _ => "application/octet-stream",
    };
    (format!(".{extension}"), content_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_extension_is_kept() {
        for (name, extension, content_type) in [
            ("cat.PNG", ".png", "image/png"),
            ("a.b.jpeg", ".jpeg", "image/jpeg"),
            ("notes.txt", ".txt", "application/octet-stream"),
            ("cat", "", "application/octet-stream"),
            ("cat.", "", "application/octet-stream"),
            ("a.png/../../x", "", "application/octet-stream"),
            ("a.고양이", "", "application/octet-stream"),
            ("a.averylongone", "", "application/octet-stream"),
        ] {
            assert_eq!(kind(name), (extension.to_owned(), content_type), "{name}");
        }
    }
}
