//! Versions and delete markers. The only place of the program that removes a version.

use aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput;
use aws_sdk_s3::types::EncodingType;
use percent_encoding::percent_decode_str;

use super::bucket::{Bucket, said, timestamp};
use crate::hands::LookError;
use crate::key::ObjectKey;
use crate::object::ETag;
use crate::undelete::{KeyVersion, Top, Undelete, VersionKind, Wanted};

/// Takes delete markers of a bucket away.
#[derive(Debug)]
pub struct Undeleter(Bucket);

impl Undeleter {
    /// The hands of a restoration.
    #[must_use]
    pub fn new(bucket: Bucket) -> Self {
        Self(bucket)
    }

    async fn page(
        &self,
        key: &ObjectKey,
        max_keys: i32,
        after: Option<(String, String)>,
    ) -> Result<ListObjectVersionsOutput, LookError> {
        let (key_marker, id_marker) = after.unzip();
        self.0
            .client
            .list_object_versions()
            .bucket(&self.0.name)
            .prefix(key.as_str())
            .encoding_type(EncodingType::Url)
            .max_keys(max_keys)
            .set_key_marker(key_marker)
            .set_version_id_marker(id_marker)
            .send()
            .await
            .map_err(|error| {
                let said = said(&error);
                LookError {
                    code: said.code,
                    message: said.message,
                }
            })
    }
}

/// Every version of the key on the page, those that S3 calls the latest first, and whether
/// the page ends within them. Among all keys that begin with this one, it comes first.
fn of_key(page: &ListObjectVersionsOutput, key: &ObjectKey) -> Vec<(bool, KeyVersion)> {
    let is_ours = |name: Option<&str>| {
        name.is_some_and(|name| decode(page, name).as_deref() == Some(key.as_str()))
    };
    let markers = page
        .delete_markers()
        .iter()
        .filter(|marker| is_ours(marker.key()))
        .map(|marker| {
            let version = KeyVersion {
                id: marker.version_id.clone().unwrap_or_default(),
                last_modified: marker.last_modified.and_then(timestamp),
                kind: VersionKind::Marker,
            };
            (marker.is_latest == Some(true), version)
        });
    let objects = page
        .versions()
        .iter()
        .filter(|version| is_ours(version.key()))
        .map(|version| {
            let object = VersionKind::Object(version.e_tag().map(ETag::new));
            let one = KeyVersion {
                id: version.version_id.clone().unwrap_or_default(),
                last_modified: version.last_modified.and_then(timestamp),
                kind: object,
            };
            (version.is_latest == Some(true), one)
        });
    let mut versions: Vec<_> = markers.chain(objects).collect();
    versions.sort_by_key(|(latest, _)| !latest);
    versions
}

fn decode(page: &ListObjectVersionsOutput, text: &str) -> Option<String> {
    if page.encoding_type == Some(EncodingType::Url) {
        let text = text.replace('+', " ");
        let decoded = percent_decode_str(&text).decode_utf8().ok()?;
        Some(decoded.into_owned())
    } else {
        Some(text.to_owned())
    }
}

impl Undelete for Undeleter {
    async fn top(&self, key: &ObjectKey) -> Result<Top, LookError> {
        // Two entries are the newest two versions: S3 lists a key's from its newest on, and
        // the SDK keeps markers and objects apart, so more would lose their order.
        let page = self.page(key, 2, None).await?;
        let mut versions = of_key(&page, key).into_iter();
        match versions.next() {
            Some((true, newest)) => Ok(Top {
                newest: Some(newest),
                below: versions.next().map(|(_, below)| below),
            }),
            None => Ok(Top::default()),
            Some((false, _)) => Err(LookError {
                code: Some("NoLatest".to_owned()),
                message: "S3 listed versions of the key and called none the latest".to_owned(),
            }),
        }
    }

    async fn has_version(&self, key: &ObjectKey, wanted: &Wanted<'_>) -> Result<bool, LookError> {
        let mut after = None;
        loop {
            let page = self.page(key, 1_000, after.clone()).await?;
            let versions = of_key(&page, key);
            if versions.iter().any(|(_, version)| wanted.is(version)) {
                return Ok(true);
            }
            let next = page
                .next_key_marker
                .as_deref()
                .and_then(|next| decode(&page, next))
                .zip(page.next_version_id_marker.clone());
            match next {
                // Another key's versions follow only after all of this one's.
                Some((next, id))
                    if page.is_truncated == Some(true)
                        && next == key.as_str()
                        && after.as_ref() != Some(&(next.clone(), id.clone())) =>
                {
                    after = Some((next, id));
                }
                _ => return Ok(false),
            }
        }
    }

    async fn remove_marker(&self, key: &ObjectKey, id: &str) -> Result<(), LookError> {
        // A repetition after a lost answer is harmless: the id names one version for ever.
        self.0
            .client
            .delete_object()
            .bucket(&self.0.name)
            .key(key.as_str())
            .version_id(id)
            .send()
            .await
            .map(|_| ())
            .map_err(|error| {
                let said = said(&error);
                LookError {
                    code: said.code,
                    message: said.message,
                }
            })
    }
}
