//! One bucket: what each key holds now, and the versions below it.
//!
//! The rules are those of general purpose buckets, as the S3 User Guide has
//! them under "Retaining multiple versions of objects with S3 Versioning" and
//! "How to perform conditional deletes".

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use jiff::{Timestamp, Unit};
use uuid::Uuid;

/// The longest key that S3 takes, in bytes of UTF-8.
pub const MAX_KEY_BYTES: usize = 1_024;

/// Whether a bucket keeps what is overwritten and deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Versioning {
    /// Never turned on: a delete is final, and nothing has a version id.
    #[default]
    Unversioned,
    /// Every write makes a version; a delete leaves a delete marker on top.
    Enabled,
    /// Writes and deletes replace the version `null`, which destroys it; older versions stay.
    Suspended,
}

/// The id of a version. Later ones are greater, except the id `null`, which
/// belongs to what was written while versioning was not enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VersionId(Option<Uuid>);

impl VersionId {
    /// The id of the version written without versioning.
    pub const NULL: Self = Self(None);

    pub(super) fn next() -> Self {
        // Version 7 ids of one process increase, so a page of versions can go
        // on after one that has been deleted meanwhile.
        Self(Some(Uuid::now_v7()))
    }

    /// Whether this version is known to be older than `other`.
    pub(super) fn is_older_than(self, other: Self) -> bool {
        matches!((self.0, other.0), (Some(this), Some(that)) if this < that)
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("null"),
            Some(id) => id.simple().fmt(f),
        }
    }
}

impl FromStr for VersionId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "null" {
            return Ok(Self::NULL);
        }
        Uuid::try_parse(text).map(|id| Self(Some(id)))
    }
}

/// What was uploaded beside its key.
#[derive(Clone, Debug)]
pub struct Content {
    /// The bytes.
    pub body: Bytes,
    /// The `Content-Type` it was uploaded with.
    pub content_type: Option<String>,
}

/// One version of a key that holds data.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its version id, `null` unless written with versioning enabled.
    pub version_id: VersionId,
    /// When it was written; S3 knows whole seconds only.
    pub last_modified: Timestamp,
    /// The entity tag without its quotes.
    pub etag: Arc<str>,
    /// Size in bytes.
    pub size: u64,
    /// The data, unless the object was only listed.
    pub content: Option<Arc<Content>>,
}

/// One version of a key.
#[derive(Clone, Debug)]
pub enum Version {
    /// Data.
    Object(Object),
    /// A delete marker: while it is the newest version, the key reads as absent.
    Marker {
        /// The marker's own version id; deleting that version undoes the delete.
        version_id: VersionId,
        /// When the key was deleted.
        last_modified: Timestamp,
    },
}

impl Version {
    /// The id of this version.
    #[must_use]
    pub fn id(&self) -> VersionId {
        match self {
            Self::Object(object) => object.version_id,
            Self::Marker { version_id, .. } => *version_id,
        }
    }

    /// Whether it is a delete marker.
    #[must_use]
    pub fn is_marker(&self) -> bool {
        matches!(self, Self::Marker { .. })
    }
}

/// The `ETag` that a write asks for.
#[derive(Clone, Debug)]
pub(super) enum Condition {
    /// `*`: the key must exist.
    Exists,
    /// The current object must have this tag, given without quotes.
    Tag(String),
}

/// Why a conditional write was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unmet {
    /// There is nothing to compare with, or a delete marker.
    NoSuchKey,
    /// The current object has another tag.
    PreconditionFailed,
}

/// What a delete did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deletion {
    /// The object is gone, or was already.
    Gone,
    /// A delete marker with this id now hides the key.
    Marked(VersionId),
    /// This one version is gone.
    Version {
        version_id: VersionId,
        was_marker: bool,
    },
}

/// A multipart upload that was begun and neither completed nor aborted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// The key that it will become.
    pub key: String,
    /// Its id.
    pub upload_id: String,
    /// When it was begun.
    pub initiated: Timestamp,
}

/// A bucket's contents.
///
/// Live objects are apart from everything else, so that a page of the listing
/// never walks over versions and delete markers. A key's newest version is in
/// `live`, or else the last of its `history`, which is then a delete marker.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) created: Timestamp,
    pub(super) versioning: Versioning,
    pub(super) live: BTreeMap<String, Object>,
    /// Oldest first.
    pub(super) history: BTreeMap<String, Vec<Version>>,
    /// By key, then by upload id, the order in which S3 lists them.
    pub(super) uploads: BTreeMap<(String, String), Timestamp>,
    /// The sizes of the parts that an upload holds, by its id.
    pub(super) parts: BTreeMap<String, Vec<u64>>,
    /// After how many days the bucket's lifecycle expires noncurrent versions, by the prefix
    /// of the rule. It is only told, not carried out.
    pub(super) noncurrent_days: Vec<(String, u32)>,
}

impl Bucket {
    pub(super) fn new(created: Timestamp) -> Self {
        Self {
            created: whole_second(created),
            versioning: Versioning::default(),
            live: BTreeMap::new(),
            history: BTreeMap::new(),
            uploads: BTreeMap::new(),
            parts: BTreeMap::new(),
            noncurrent_days: Vec::new(),
        }
    }

    /// Whether `condition` holds of the current object of `key`.
    pub(super) fn check(&self, key: &str, condition: &Condition) -> Result<(), Unmet> {
        let object = self.live.get(key).ok_or(Unmet::NoSuchKey)?;
        match condition {
            Condition::Tag(tag) if **tag != *object.etag => Err(Unmet::PreconditionFailed),
            _ => Ok(()),
        }
    }

    /// Writes an object and returns its version id.
    pub(super) fn put(
        &mut self,
        key: String,
        etag: Arc<str>,
        size: u64,
        content: Option<Content>,
        last_modified: Timestamp,
    ) -> VersionId {
        let version_id = match self.versioning {
            Versioning::Enabled => VersionId::next(),
            Versioning::Unversioned | Versioning::Suspended => {
                self.destroy_null(&key);
                VersionId::NULL
            }
        };
        self.retire_live(&key);
        let object = Object {
            version_id,
            last_modified: whole_second(last_modified),
            etag,
            size,
            content: content.map(Arc::new),
        };
        self.live.insert(key, object);
        version_id
    }

    /// Deletes a key, or one version of it, when `condition` holds.
    pub(super) fn delete(
        &mut self,
        key: &str,
        version: Option<VersionId>,
        condition: Option<&Condition>,
        now: Timestamp,
    ) -> Result<Deletion, Unmet> {
        if let Some(condition) = condition {
            self.check(key, condition)?;
        }
        if let Some(version_id) = version {
            let removed = self.remove_version(key, version_id);
            return Ok(Deletion::Version {
                version_id,
                was_marker: removed.is_some_and(|version| version.is_marker()),
            });
        }
        let version_id = match self.versioning {
            Versioning::Unversioned => {
                self.live.remove(key);
                return Ok(Deletion::Gone);
            }
            Versioning::Enabled => VersionId::next(),
            Versioning::Suspended => {
                self.destroy_null(key);
                VersionId::NULL
            }
        };
        self.retire_live(key);
        // S3 makes a marker for a key that it never held, too.
        self.history
            .entry(key.to_owned())
            .or_default()
            .push(Version::Marker {
                version_id,
                last_modified: whole_second(now),
            });
        Ok(Deletion::Marked(version_id))
    }

    /// All versions of a key, newest first.
    pub(super) fn versions(&self, key: &str) -> Vec<Version> {
        let live = self.live.get(key).cloned().map(Version::Object);
        let history = self.history.get(key).into_iter().flatten().rev().cloned();
        live.into_iter().chain(history).collect()
    }

    /// One version of a key.
    pub(super) fn version(&self, key: &str, id: VersionId) -> Option<Version> {
        self.versions(key)
            .into_iter()
            .find(|version| version.id() == id)
    }

    /// The delete marker that hides a key.
    pub(super) fn marker(&self, key: &str) -> Option<VersionId> {
        if self.live.contains_key(key) {
            return None;
        }
        self.history.get(key)?.last().map(Version::id)
    }

    fn remove_version(&mut self, key: &str, id: VersionId) -> Option<Version> {
        let removed = if self
            .live
            .get(key)
            .is_some_and(|object| object.version_id == id)
        {
            self.live.remove(key).map(Version::Object)
        } else {
            let history = self.history.get_mut(key)?;
            let place = history.iter().position(|version| version.id() == id)?;
            Some(history.remove(place))
        };
        self.settle(key);
        removed
    }

    /// Makes what is now the newest version current.
    fn settle(&mut self, key: &str) {
        let Some(history) = self.history.get_mut(key) else {
            return;
        };
        if !self.live.contains_key(key) {
            match history.pop() {
                Some(Version::Object(object)) => {
                    self.live.insert(key.to_owned(), object);
                }
                Some(marker @ Version::Marker { .. }) => history.push(marker),
                None => {}
            }
        }
        if history.is_empty() {
            self.history.remove(key);
        }
    }

    /// Moves the current object, if any, below what will be written next.
    fn retire_live(&mut self, key: &str) {
        if let Some(object) = self.live.remove(key) {
            self.history
                .entry(key.to_owned())
                .or_default()
                .push(Version::Object(object));
        }
    }

    /// Drops the version `null` for good. The key's newest version may be
    /// missing afterwards, so a write must follow.
    fn destroy_null(&mut self, key: &str) {
        if self
            .live
            .get(key)
            .is_some_and(|object| object.version_id == VersionId::NULL)
        {
            self.live.remove(key);
        }
        if let Some(history) = self.history.get_mut(key) {
            history.retain(|version| version.id() != VersionId::NULL);
            if history.is_empty() {
                self.history.remove(key);
            }
        }
    }
}

/// S3 keeps times to the second: listings end in `.000Z`, headers have no fraction.
pub(super) fn whole_second(time: Timestamp) -> Timestamp {
    let down = jiff::TimestampRound::new()
        .smallest(Unit::Second)
        .mode(jiff::RoundMode::Floor);
    // Fails only within a second of the ends of jiff's calendar.
    time.round(down).unwrap_or(time)
}
