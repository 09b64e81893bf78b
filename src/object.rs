//! What S3 says of an object, and what a run decides about it.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::key::ObjectKey;

/// An entity tag, with its quotes, exactly as S3 listed it: the condition under which
/// the object may be deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ETag(Box<str>);

impl ETag {
    /// The tag that is exactly this text.
    pub fn new(etag: impl Into<Box<str>>) -> Self {
        Self(etag.into())
    }

    /// The tag as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One object of a page of the listing, borrowed from the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedObject<'page> {
    /// Its key.
    pub key: &'page str,
    /// Its entity tag, with quotes.
    pub etag: &'page str,
    /// Its size in bytes.
    pub size: u64,
    /// When it was written (of a multipart upload: when that *started*), or `None` when
    /// S3 did not say in a way that can be read. An object of unknown age is new.
    pub last_modified: Option<Timestamp>,
}

/// An object in scope that no row names and that is older than the cutoff.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Orphan {
    /// Its key.
    pub key: ObjectKey,
    /// The entity tag that it was listed with.
    pub etag: ETag,
    /// Its size in bytes.
    pub size: u64,
    /// When it was written.
    pub last_modified: Timestamp,
}

/// What became of an orphan that a sweep took up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// S3 confirmed the deletion, or its answer was lost and the versions show a delete marker
    /// that was made since.
    Deleted {
        /// The version id of the delete marker, on a bucket that keeps versions: the
        /// deletion is undone by removing that marker.
        marker: Option<String>,
    },
    /// It was already absent.
    Gone,
    /// It was saved.
    Spared(SparedBy),
    /// S3 refused.
    Failed {
        /// S3's error code.
        code: String,
        /// S3's own words.
        message: String,
    },
    /// Nobody can say: S3 did not mention the key, or its answer was lost.
    Unknown {
        /// What is known.
        reason: String,
    },
    /// The run did not ask S3 about it.
    Deferred,
}

/// What saved an orphan from deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SparedBy {
    /// The fresh check found a row that names it.
    Check,
    /// Its age, read again, is not older than the cutoff.
    Age,
    /// It no longer carries the entity tag that it was listed with.
    ETag,
    /// S3 reported a concurrent write (409).
    Conflict,
}

impl fmt::Display for SparedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Check => "fresh check",
            Self::Age => "age",
            Self::ETag => "etag",
            Self::Conflict => "conflict",
        })
    }
}
