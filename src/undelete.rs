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
pub(crate) const NULL_VERSION: &str = "null";

/// What is said of an object that is kept below a marker that is left alone.
pub(crate) const KEPT_BELOW: &str = "is kept right below a delete marker of which nothing shows that it is the run's: its id is null, as that \
     of an upload of this moment would be (versioning is suspended), or S3 named none. It is left alone; copy the object back by its version id \
     (`aws s3api list-object-versions` tells it, `copy-object --copy-source 'BUCKET/KEY?versionId=ID'` copies)";

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

/// A version that is looked for.
#[derive(Debug, Clone, Copy)]
pub enum Wanted<'a> {
    /// The one of this id.
    Id(&'a str),
    /// An object with this entity tag.
    Tag(&'a ETag),
}

impl Wanted<'_> {
    /// Whether it is this one.
    #[must_use]
    pub fn is(&self, version: &KeyVersion) -> bool {
        match self {
            Self::Id(id) => version.id == *id,
            Self::Tag(etag) => is_object(Some(version), etag),
        }
    }
}

/// Who looks at versions and takes delete markers away.
pub trait Undelete {
    /// The newest two versions of the key.
    fn top(&self, key: &ObjectKey) -> impl Future<Output = Result<Top, LookError>> + Send;

    /// Whether the key has such a version, however deep.
    fn has_version(
        &self,
        key: &ObjectKey,
        wanted: &Wanted<'_>,
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

    /// What would become of each, in their order: it is only looked at.
    fn only_look(
        &self,
        deletions: &[(&Orphan, Claim)],
    ) -> impl Future<Output = Vec<Result<Undone, LookError>>>;
}

impl<U: Undelete + Sync> TakeBack for U {
    async fn take_back(&self, deletions: &[(&Orphan, Claim)]) -> Vec<Result<Undone, LookError>> {
        undelete_all(self, deletions, false).await
    }

    async fn only_look(&self, deletions: &[(&Orphan, Claim)]) -> Vec<Result<Undone, LookError>> {
        undelete_all(self, deletions, true).await
    }
}

/// Undoes some deletions at once, or only looks.
pub(crate) async fn undelete_all(
    hands: &impl Undelete,
    deletions: &[(&Orphan, Claim)],
    look_only: bool,
) -> Vec<Result<Undone, LookError>> {
    stream::iter(deletions)
        .map(|(orphan, claim)| undelete(hands, orphan, claim, look_only))
        .buffered(AT_ONCE)
        .collect()
        .await
}

/// Which delete marker is the run's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The one whose id S3 gave for the deletion.
    Marker(String),
    /// S3 confirmed the deletion and named no marker. Where one stands by now it may be
    /// another's: versioning was turned on since, and somebody deleted what was uploaded again.
    Unnamed,
    /// Nobody wrote down what became of the orphan: the one made in this time. S3 does not say
    /// whose a marker is; it may be another's.
    Within(Span),
}

/// A time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Not before.
    pub from: Timestamp,
    /// Not after.
    pub until: Timestamp,
}

impl Span {
    fn contains(&self, at: Option<Timestamp>) -> bool {
        // S3's times are whole seconds.
        at.is_some_and(|at| {
            (self.from.as_second()..=self.until.as_second()).contains(&at.as_second())
        })
    }
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
    /// What was deleted is kept right below a delete marker that was left alone: its id is `null`,
    /// as that of an upload would be while versioning is suspended; or S3 named no marker, and
    /// nothing shows that it is the run's.
    Kept,
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
            let stands = hands.has_version(&orphan.key, &Wanted::Id(marker)).await?;
            return Ok(match (&top.newest, stands) {
                (None, _) => Undone::Lost,
                (newest, false) if is_object(newest.as_ref(), &orphan.etag) => Undone::Present,
                (Some(_), _) => Undone::Newer,
            });
        }
        Verdict::Missing => {
            let kept = Wanted::Tag(&orphan.etag);
            return Ok(if hands.has_version(&orphan.key, &kept).await? {
                Undone::Newer
            } else {
                Undone::Lost
            });
        }
        Verdict::Remove(marker) => marker,
    };
    if look_only {
        return Ok(Undone::Restorable);
    }
    // Confirmed, not attempted: what S3 answered, if an answer arrived, is not what counts.
    let removed = hands.remove_marker(&orphan.key, marker).await;
    let (newest, removed) = match (hands.top(&orphan.key).await, removed) {
        (Ok(Top { newest, .. }), removed) => (newest, removed),
        (Err(error), Ok(())) | (Err(_), Err(error)) => return Err(error),
    };
    match newest {
        Some(version) if version.id == marker => Err(removed.err().unwrap_or_else(|| LookError {
            code: Some("NotRemoved".to_owned()),
            message: "S3 said that the delete marker was removed, and it still stands there"
                .to_owned(),
        })),
        newest if newest == top.below => Ok(Undone::Restored),
        Some(_) => Ok(Undone::Newer),
        None => Ok(Undone::Lost),
    }
}

enum Verdict<'a> {
    Settled(Undone),
    /// The run's marker is not the newest version; it may stand below.
    Below(&'a str),
    /// A delete marker stands above something else than what was deleted, which may be deeper.
    Missing,
    Remove(&'a str),
}

fn judge<'a>(top: &'a Top, orphan: &Orphan, claim: &'a Claim) -> Verdict<'a> {
    let newest = match (&top.newest, claim) {
        (None, Claim::Marker(_) | Claim::Unnamed) => return Verdict::Settled(Undone::Lost),
        (None, Claim::Within(_)) => return Verdict::Settled(Undone::Untouched),
        (Some(newest), _) => newest,
    };
    let is_marker = newest.kind == VersionKind::Marker;
    let is_null = newest.id == NULL_VERSION;
    let restorable = is_object(top.below.as_ref(), &orphan.etag);
    match claim {
        Claim::Marker(id) if id != NULL_VERSION => {
            if *id != newest.id || !is_marker {
                Verdict::Below(id)
            } else if restorable {
                Verdict::Remove(id)
            } else {
                // What was deleted may have been destroyed since, so that an older version
                // stands there; or the storage did not look at the entity tag.
                Verdict::Missing
            }
        }
        // The run's marker has no id of its own. What stands there tells what it can.
        Claim::Marker(_) | Claim::Unnamed if !is_marker => {
            Verdict::Settled(if is_object(Some(newest), &orphan.etag) {
                Undone::Present
            } else {
                Undone::Newer
            })
        }
        Claim::Marker(_) | Claim::Unnamed if !restorable => Verdict::Missing,
        Claim::Unnamed => Verdict::Settled(Undone::Kept),
        Claim::Marker(_) if is_null => Verdict::Settled(Undone::Kept),
        Claim::Marker(_) => Verdict::Settled(Undone::Newer),
        Claim::Within(time) => {
            if !is_marker || !restorable || !time.contains(newest.last_modified) {
                Verdict::Settled(Undone::Untouched)
            } else if is_null {
                Verdict::Settled(Undone::Kept)
            } else {
                Verdict::Remove(&newest.id)
            }
        }
    }
}

fn is_object(version: Option<&KeyVersion>, etag: &ETag) -> bool {
    matches!(version, Some(KeyVersion { kind: VersionKind::Object(Some(its)), .. }) if its == etag)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    /// The versions of one key, the newest first.
    struct Stack {
        versions: Mutex<Vec<KeyVersion>>,
        /// What stands there after a removal, where that is not what it should be.
        then: Option<Vec<KeyVersion>>,
        removed: Mutex<Vec<String>>,
        /// Whether the answer to a removal is lost, and whether it was carried out all the same.
        lost: Option<bool>,
    }

    impl Stack {
        fn of(versions: Vec<KeyVersion>) -> Self {
            Self {
                versions: Mutex::new(versions),
                then: None,
                removed: Mutex::new(Vec::new()),
                lost: None,
            }
        }
    }

    impl Undelete for Stack {
        async fn top(&self, _: &ObjectKey) -> Result<Top, LookError> {
            let versions = self.versions.lock().unwrap();
            Ok(Top {
                newest: versions.first().cloned(),
                below: versions.get(1).cloned(),
            })
        }

        async fn has_version(&self, _: &ObjectKey, wanted: &Wanted<'_>) -> Result<bool, LookError> {
            let versions = self.versions.lock().unwrap();
            Ok(versions.iter().any(|version| wanted.is(version)))
        }

        async fn remove_marker(&self, _: &ObjectKey, id: &str) -> Result<(), LookError> {
            let mut versions = self.versions.lock().unwrap();
            self.removed.lock().unwrap().push(id.to_owned());
            match &self.then {
                Some(then) => then.clone_into(&mut versions),
                None if self.lost == Some(false) => {}
                None => versions.retain(|version| version.id != id),
            }
            if self.lost.is_none() {
                return Ok(());
            }
            Err(LookError {
                code: None,
                message: "the answer was lost".to_owned(),
            })
        }
    }

    fn at(second: i64, nanosecond: i32) -> Timestamp {
        Timestamp::new(second, nanosecond).unwrap()
    }

    fn orphan(key: &str) -> Orphan {
        Orphan {
            key: ObjectKey::new(key),
            etag: ETag::new("\"e\""),
            size: 1,
            last_modified: at(0, 0),
        }
    }

    fn version(id: &str, kind: VersionKind) -> KeyVersion {
        KeyVersion {
            id: id.to_owned(),
            last_modified: Some(at(3, 0)),
            kind,
        }
    }

    fn object(id: &str, etag: &str) -> KeyVersion {
        version(id, VersionKind::Object(Some(ETag::new(etag))))
    }

    fn marker(id: &str) -> KeyVersion {
        version(id, VersionKind::Marker)
    }

    fn undone(stack: &Stack, claim: &Claim, look_only: bool) -> Result<Undone, LookError> {
        undelete(stack, &orphan("a.png"), claim, look_only)
            .now_or_never()
            .expect("nothing waits")
    }

    fn ids() -> impl Strategy<Value = &'static str> {
        prop_oneof![Just("0"), Just("1"), Just("2"), Just("null")]
    }

    fn stacks() -> impl Strategy<Value = Vec<KeyVersion>> {
        let kind = prop_oneof![
            3 => Just(VersionKind::Marker),
            3 => Just(VersionKind::Object(Some(ETag::new("\"e\"")))),
            1 => Just(VersionKind::Object(Some(ETag::new("\"other\"")))),
            1 => Just(VersionKind::Object(None)),
        ];
        let version = (ids(), proptest::option::of(0_i64..6), kind);
        proptest::collection::vec(version, 0..4).prop_map(|versions| {
            let mut stack: Vec<KeyVersion> = Vec::new();
            for (id, second, kind) in versions {
                if stack.iter().all(|version| version.id != id) {
                    stack.push(KeyVersion {
                        id: id.to_owned(),
                        last_modified: second.map(|second| at(second, 0)),
                        kind,
                    });
                }
            }
            stack
        })
    }

    /// From and to within a second, which S3's times do not show.
    fn times() -> impl Strategy<Value = Span> {
        (0_i64..4, 0_i64..3).prop_map(|(from, seconds)| Span {
            from: at(from, 900_000_000),
            until: at(from + seconds, 950_000_000),
        })
    }

    fn claims() -> impl Strategy<Value = Claim> {
        prop_oneof![
            ids().prop_map(|id| Claim::Marker(id.to_owned())),
            times().prop_map(Claim::Within),
            Just(Claim::Unnamed),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

        /// What is removed is the run's own marker, where it is the newest and right above the
        /// version that was deleted; nothing else is touched, and the answer says why.
        #[test]
        fn only_the_runs_own_marker_right_above_what_was_deleted_is_removed(
            before in stacks(),
            claim in claims(),
        ) {
            let is_it = |version: &KeyVersion| version.kind == VersionKind::Object(Some(ETag::new("\"e\"")));
            let is_marker = |version: &KeyVersion| version.kind == VersionKind::Marker;
            let is_claimed = |version: &KeyVersion| is_marker(version) && match &claim {
                Claim::Marker(id) => version.id == *id,
                Claim::Unnamed => false,
                Claim::Within(time) => version.last_modified.is_some_and(|at| (time.from.as_second()..=time.until.as_second()).contains(&at.as_second())),
            };
            let newest = before.first();
            let over_it = before.get(1).is_some_and(is_it);
            let is_null = newest.is_some_and(|newest| newest.id == "null");
            let removable = newest.is_some_and(is_claimed) && over_it && !is_null;
            let expected = match &claim {
                _ if removable => Undone::Restored,
                Claim::Within(_) if over_it && newest.is_some_and(is_claimed) => Undone::Kept,
                Claim::Within(_) => Undone::Untouched,
                Claim::Marker(id) if id != "null" => match newest {
                    None => Undone::Lost,
                    Some(newest) if is_claimed(newest) && before.iter().any(is_it) => Undone::Newer,
                    Some(newest) if is_claimed(newest) => Undone::Lost,
                    Some(newest) if is_it(newest) && before.iter().all(|version| version.id != *id) => Undone::Present,
                    Some(_) => Undone::Newer,
                },
                // Without an id to go by, lost is only what is nowhere.
                Claim::Marker(_) | Claim::Unnamed => match newest {
                    Some(newest) if is_it(newest) => Undone::Present,
                    Some(newest) if !is_marker(newest) => Undone::Newer,
                    Some(_) if over_it && (is_null || claim == Claim::Unnamed) => Undone::Kept,
                    Some(_) if before.iter().any(is_it) => Undone::Newer,
                    _ => Undone::Lost,
                },
            };

            let stack = Stack::of(before.clone());
            let looked = if removable { Undone::Restorable } else { expected };
            prop_assert_eq!(undone(&stack, &claim, true).unwrap(), looked);
            prop_assert_eq!(&*stack.versions.lock().unwrap(), &before);

            prop_assert_eq!(undone(&stack, &claim, false).unwrap(), expected);
            let left = if removable { &before[1..] } else { &before[..] };
            prop_assert_eq!(&stack.versions.lock().unwrap()[..], left);
            prop_assert_eq!(stack.removed.lock().unwrap().len(), usize::from(removable));
        }
    }

    #[test]
    fn an_object_is_restored_only_when_it_stands_there_again() {
        let restored = |then: Vec<KeyVersion>| {
            let mut stack = Stack::of(vec![marker("2"), object("1", "\"e\"")]);
            stack.then = Some(then);
            undone(&stack, &Claim::Marker("2".to_owned()), false)
        };
        let it = || object("1", "\"e\"");
        assert_eq!(restored(vec![it()]).unwrap(), Undone::Restored);
        assert_eq!(restored(vec![]).unwrap(), Undone::Lost);
        for newer in [marker("3"), object("3", "\"other\"")] {
            assert_eq!(restored(vec![newer, it()]).unwrap(), Undone::Newer);
        }
        let error = restored(vec![marker("2"), it()]).unwrap_err();
        assert_eq!(error.code.as_deref(), Some("NotRemoved"));
    }

    #[test]
    fn a_lost_answer_is_settled_by_a_look() {
        for carried_out in [true, false] {
            let mut stack = Stack::of(vec![marker("2"), object("1", "\"e\"")]);
            stack.lost = Some(carried_out);
            let undone = undone(&stack, &Claim::Marker("2".to_owned()), false);
            match undone {
                Ok(undone) => assert!(carried_out && undone == Undone::Restored, "{undone:?}"),
                Err(error) => assert!(!carried_out && error.message == "the answer was lost"),
            }
        }
    }

    #[test]
    fn of_many_each_has_its_answer() {
        let stack = Stack::of(vec![marker("2"), object("1", "\"e\"")]);
        let orphans = [orphan("a.png"), orphan("b.png")];
        let wanted: Vec<_> = orphans
            .iter()
            .zip(["null", "2"])
            .map(|(orphan, id)| (orphan, Claim::Marker(id.to_owned())))
            .collect();
        let answers = stack.take_back(&wanted).now_or_never().unwrap();
        let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
        assert_eq!(answers, [Undone::Newer, Undone::Restored]);
    }
}
