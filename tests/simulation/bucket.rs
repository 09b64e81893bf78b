//! The simulated bucket: every version of every key, and pages of what is current.

use std::collections::BTreeMap;
use std::ops::Bound;

/// Milliseconds of true time since the world began.
pub(crate) type Ms = i64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) id: u64,
    pub(crate) etag: String,
    pub(crate) size: u64,
    /// By S3's clock, in whole seconds; of a multipart upload: its start.
    pub(crate) last_modified: i64,
    /// When it became visible, in true time.
    pub(crate) visible: Ms,
    /// Whether its upload may still commit a row.
    pub(crate) open: bool,
    /// Whether this is a delete marker.
    pub(crate) marker: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Bucket {
    /// The newest version last.
    pub(crate) keys: BTreeMap<String, Vec<Version>>,
    pub(crate) versioned: bool,
    pub(crate) next: u64,
}

impl Bucket {
    pub(crate) fn put(
        &mut self,
        key: &str,
        body: u64,
        last_modified: i64,
        visible: Ms,
        open: bool,
    ) -> u64 {
        let version = Version {
            id: self.next_id(),
            etag: format!("\"{body:032x}\""),
            size: 100 + body,
            last_modified,
            visible,
            open,
            marker: false,
        };
        let id = version.id;
        let versions = self.keys.entry(key.to_owned()).or_default();
        if !self.versioned {
            versions.clear();
        }
        versions.push(version);
        id
    }

    fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// What a reader sees under the key.
    pub(crate) fn current(&self, key: &str) -> Option<&Version> {
        self.keys
            .get(key)
            .and_then(|versions| versions.last())
            .filter(|version| !version.marker)
    }

    /// The upload of this version has ended: no row of it will come any more.
    pub(crate) fn close(&mut self, key: &str, id: u64) {
        if let Some(versions) = self.keys.get_mut(key) {
            for version in versions.iter_mut().filter(|version| version.id == id) {
                version.open = false;
            }
        }
    }

    /// Deletes what is current; the marker's id on a bucket that keeps versions.
    pub(crate) fn delete(&mut self, key: &str, at: i64, now: Ms) -> Option<u64> {
        if !self.versioned {
            self.keys.remove(key);
            return None;
        }
        let id = self.next_id();
        self.keys.entry(key.to_owned()).or_default().push(Version {
            id,
            etag: String::new(),
            size: 0,
            last_modified: at,
            visible: now,
            open: false,
            marker: true,
        });
        Some(id)
    }

    /// Whether this delete marker stands, or stood, over the key.
    pub(crate) fn has_marker(&self, key: &str, marker: Option<&str>) -> bool {
        let versions = self.keys.get(key).into_iter().flatten();
        let mut markers = versions.filter(|version| version.marker);
        markers.any(|version| Some(version.id.to_string().as_str()) == marker)
    }

    /// The current objects below the prefix, after the key.
    pub(crate) fn listed<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a str, &'a Version)> {
        let from = after.unwrap_or(prefix).max(prefix);
        self.keys
            .range::<str, _>((Bound::Included(from), Bound::Unbounded))
            .filter(move |(key, _)| after.is_none_or(|after| key.as_str() > after))
            .take_while(move |(key, _)| key.starts_with(prefix))
            .filter_map(|(key, versions)| {
                let current = versions.last().filter(|version| !version.marker)?;
                Some((key.as_str(), current))
            })
    }
}
