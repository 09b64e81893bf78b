//! Undoing one deletion: the delete marker that a run made is taken away, and the object
//! below it is current again.
//!
//! These are hands of their own: who sweeps never holds them, because the right to remove a
//! version can also destroy one. What is removed here is always a marker, by its id, never
//! data.

use futures::stream::{self, StreamExt as _};
use jiff::Timestamp;

use crate::hands::LookError;
use crate::key::ObjectKey;
use crate::object::{ETag, Orphan};

/// The id of what was written while a bucket did not keep versions. It names whatever was
/// written last so: removing it could destroy an object that was uploaded meanwhile.
const NULL_VERSION: &str = "null";

/// Deletions that are undone at once.
pub(crate) const AT_ONCE: usize = 16;

/// One version of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyVersion {
    /// Its id.
    pub id: String,
    /// When it was written.
    pub last_modified: Option<Timestamp>,
    /// What it is.
    pub kind: VersionKind,
}

/// What a version is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionKind {
    /// Data, with its entity tag.
    Object(Option<ETag>),
    /// A delete marker.
    Marker,
}

/// The newest two versions of a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Top {
    /// The current one.
    pub newest: Option<KeyVersion>,
    /// The one right below it.
    pub below: Option<KeyVersion>,
}

/// Who looks at versions and takes delete markers away.
pub trait Undelete {
    /// The newest two versions of the key.
    fn top(&self, key: &ObjectKey) -> impl Future<Output = Result<Top, LookError>> + Send;

    /// Whether the key has a version of this id.
    fn has_version(
        &self,
        key: &ObjectKey,
        id: &str,
    ) -> impl Future<Output = Result<bool, LookError>> + Send;

    /// Removes the delete marker of this id. It is not called with the id of anything else.
    fn remove_marker(
        &self,
        key: &ObjectKey,
        id: &str,
    ) -> impl Future<Output = Result<(), LookError>> + Send;
}

/// Who undoes many deletions: with a right of its own, or by [another](mod@crate::delegate).
pub trait TakeBack {
    /// What became of each, in their order.
    fn take_back(
        &self,
        deletions: &[(&Orphan, Claim)],
    ) -> impl Future<Output = Vec<Result<Undone, LookError>>>;
}

impl<U: Undelete + Sync> TakeBack for U {
    async fn take_back(&self, deletions: &[(&Orphan, Claim)]) -> Vec<Result<Undone, LookError>> {
        stream::iter(deletions)
            .map(|(orphan, claim)| undelete(self, orphan, claim, false))
            .buffered(AT_ONCE)
            .collect()
            .await
    }
}

/// Which delete marker is the run's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The one whose id S3 gave for the deletion.
    Marker(String),
    /// Nobody wrote down what became of the orphan: the one made in this time.
    Within {
        /// Not before.
        from: Timestamp,
        /// Not after.
        until: Timestamp,
    },
}

/// What became of the wish to undo a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undone {
    /// The marker is gone; the object is current again.
    Restored,
    /// The marker stands there and could be removed; it was only looked at.
    Restorable,
    /// The object stands there, without the run's marker.
    Present,
    /// Something newer than the run's deletion stands above; it was left alone.
    Newer,
    /// The version that was deleted is not kept any more.
    Lost,
    /// Nothing shows that the run deleted it.
    Untouched,
}

/// Undoes the deletion of one orphan, or only looks whether that is possible.
///
/// # Errors
/// S3 refuses or does not answer.
pub async fn undelete(
    hands: &impl Undelete,
    orphan: &Orphan,
    claim: &Claim,
    look_only: bool,
) -> Result<Undone, LookError> {
    let top = hands.top(&orphan.key).await?;
    let marker = match judge(&top, orphan, claim) {
        Verdict::Settled(undone) => return Ok(undone),
        Verdict::Below(marker) => {
            let stands = hands.has_version(&orphan.key, marker).await?;
            return Ok(match (&top.newest, stands) {
                (None, _) => Undone::Lost,
                (newest, false) if is_object(newest.as_ref(), &orphan.etag) => Undone::Present,
                (Some(_), _) => Undone::Newer,
            });
        }
        Verdict::Remove(marker) => marker,
    };
    if look_only {
        return Ok(Undone::Restorable);
    }
    hands.remove_marker(&orphan.key, marker).await?;
    // Confirmed, not attempted.
    let Top { newest, .. } = hands.top(&orphan.key).await?;
    match newest {
        Some(version) if version.id == marker => Err(LookError {
            code: Some("NotRemoved".to_owned()),
            message: "S3 said that the delete marker was removed, and it still stands there"
                .to_owned(),
        }),
        newest if is_object(newest.as_ref(), &orphan.etag) => Ok(Undone::Restored),
        Some(_) => Ok(Undone::Newer),
        None => Ok(Undone::Lost),
    }
}

enum Verdict<'a> {
    Settled(Undone),
    /// The run's marker is not the newest version; it may stand below.
    Below(&'a str),
    Remove(&'a str),
}

fn judge<'a>(top: &'a Top, orphan: &Orphan, claim: &'a Claim) -> Verdict<'a> {
    let newest = match (&top.newest, claim) {
        (None, Claim::Marker(_)) => return Verdict::Settled(Undone::Lost),
        (None, Claim::Within { .. }) => return Verdict::Settled(Undone::Untouched),
        (Some(newest), _) => newest,
    };
    let restorable = is_object(top.below.as_ref(), &orphan.etag);
    match claim {
        Claim::Marker(id) if id == NULL_VERSION => Verdict::Settled(Undone::Lost),
        Claim::Marker(id) if *id != newest.id || newest.kind != VersionKind::Marker => {
            Verdict::Below(id)
        }
        Claim::Marker(id) if restorable => Verdict::Remove(id),
        Claim::Marker(_) => Verdict::Settled(Undone::Lost),
        Claim::Within { from, until } => {
            // S3's times are whole seconds.
            let within = newest
                .last_modified
                .is_some_and(|at| (from.as_second()..=until.as_second()).contains(&at.as_second()));
            if newest.kind == VersionKind::Marker
                && newest.id != NULL_VERSION
                && within
                && restorable
            {
                Verdict::Remove(&newest.id)
            } else {
                Verdict::Settled(Undone::Untouched)
            }
        }
    }
}

fn is_object(version: Option<&KeyVersion>, etag: &ETag) -> bool {
    matches!(version, Some(KeyVersion { kind: VersionKind::Object(Some(its)), .. }) if its == etag)
}
