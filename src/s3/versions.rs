//! The versions of one key.

use aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput;
use aws_sdk_s3::types::EncodingType;
use percent_encoding::percent_decode_str;

use super::bucket::{Bucket, said, timestamp};
use crate::hands::LookError;
use crate::key::ObjectKey;
use crate::object::ETag;
use crate::undelete::{KeyVersion, Top, VersionKind, Wanted};

/// Where a page of versions begins: behind this key and version.
type After = (String, String);

impl Bucket {
    async fn versions(
        &self,
        key: &ObjectKey,
        max_keys: i32,
        after: Option<After>,
    ) -> Result<ListObjectVersionsOutput, LookError> {
        let (key_marker, id_marker) = after.unzip();
        self.client
            .list_object_versions()
            .bucket(&self.name)
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

    /// The newest two versions of the key.
    pub(super) async fn top(&self, key: &ObjectKey) -> Result<Top, LookError> {
        // Two entries are the newest two versions: S3 lists a key's from its newest on, and
        // the SDK keeps markers and objects apart, so more would lose their order.
        let page = self.versions(key, 2, None).await?;
        let mut versions = of_key(&page, key).into_iter();
        let newest = match versions.next() {
            None => return Ok(Top::default()),
            Some((true, newest)) => newest,
            Some((false, _)) => {
                return Err(LookError {
                    code: Some("NoLatest".to_owned()),
                    message: "S3 listed versions of the key and called none the latest".to_owned(),
                });
            }
        };
        let mut below = versions.next().map(|(_, below)| below);
        // A page may hold less than was asked for.
        let mut after = next_page(&page, key, None);
        while let (None, Some(from)) = (&below, after) {
            let page = self.versions(key, 1, Some(from.clone())).await?;
            below = of_key(&page, key)
                .into_iter()
                .next()
                .map(|(_, below)| below);
            after = next_page(&page, key, Some(&from));
        }
        Ok(Top {
            newest: Some(newest),
            below,
        })
    }

    /// Whether the key has such a version, however deep.
    pub(super) async fn has_version(
        &self,
        key: &ObjectKey,
        wanted: &Wanted<'_>,
    ) -> Result<bool, LookError> {
        let mut after = None;
        loop {
            let page = self.versions(key, 1_000, after.clone()).await?;
            let versions = of_key(&page, key);
            if versions.iter().any(|(_, version)| wanted.is(version)) {
                return Ok(true);
            }
            match next_page(&page, key, after.as_ref()) {
                None => return Ok(false),
                next => after = next,
            }
        }
    }
}

/// Where the key's versions go on, if the page does not hold the last of them. Another key's
/// follow only after all of this one's.
fn next_page(
    page: &ListObjectVersionsOutput,
    key: &ObjectKey,
    from: Option<&After>,
) -> Option<After> {
    let next = decode(page, page.next_key_marker.as_deref()?)?;
    let next = (next, page.next_version_id_marker.clone()?);
    let goes_on = page.is_truncated == Some(true) && next.0 == key.as_str();
    (goes_on && from != Some(&next)).then_some(next)
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
