//! Undoing deletions by another who may, where the run itself may not: the right to remove a
//! version can also destroy one, so a sweep does not hold it.
//!
//! What the other says is not counted. It is asked, and then the bucket is looked at: a lost
//! answer, one that claims too much and one that claims too little all end in the same words.

use std::collections::HashSet;

use crate::hands::LookError;
use crate::key::ObjectKey;
use crate::object::Orphan;
use crate::undelete::{Claim, NULL_VERSION, TakeBack, Undelete, Undone, undelete_all};

/// Keys in one request. The longest keys, with every byte escaped, make 3 MiB of it, of the
/// 6 MiB that Lambda takes.
const AT_A_TIME: usize = 500;

/// Who may undo deletions of one run.
pub trait Restorer {
    /// Undoes the run's deletions of these keys, as far as that is possible, and says what
    /// it could not undo and why.
    fn restore(&self, keys: &[&ObjectKey])
    -> impl Future<Output = Result<Vec<Refused>, LookError>>;
}

/// A deletion that was not undone.
#[derive(Debug)]
pub struct Refused {
    /// Of this key.
    pub key: ObjectKey,
    /// Why not.
    pub why: LookError,
}

/// The hands of one that may only look, and those of another that may undo.
#[derive(Debug)]
pub struct Delegated<U, R> {
    /// Who looks. It is never asked to remove a marker.
    pub looks: U,
    /// Who undoes.
    pub restorer: R,
}

impl<U: Undelete + Sync, R: Restorer> TakeBack for Delegated<U, R> {
    async fn take_back(&self, deletions: &[(&Orphan, Claim)]) -> Vec<Result<Undone, LookError>> {
        let mut ended = Vec::with_capacity(deletions.len());
        for deletions in deletions.chunks(AT_A_TIME) {
            let keys: Vec<&ObjectKey> = deletions.iter().map(|(orphan, _)| &orphan.key).collect();
            let before = self.unnamed_markers(deletions).await;
            let answer = self.restorer.restore(&keys).await;
            let seen = undelete_all(&self.looks, deletions, true).await;
            for ((orphan, claim), seen) in deletions.iter().zip(seen) {
                let stood_below = before.contains(&orphan.key);
                let is_its_own = matches!(claim, Claim::Marker(id) if id != NULL_VERSION);
                ended.push(match seen {
                    // The marker still stands: nobody removed it.
                    Ok(Undone::Restorable) => Err(why(&orphan.key, &answer)),
                    // What was deleted is current, so it was given back.
                    Ok(Undone::Present) if is_its_own => Ok(Undone::Restored),
                    // (With its marker goes all that showed that it was deleted.)
                    Ok(Undone::Untouched) if stood_below => Ok(Undone::Restored),
                    seen => seen,
                });
            }
        }
        ended
    }

    async fn only_look(&self, deletions: &[(&Orphan, Claim)]) -> Vec<Result<Undone, LookError>> {
        undelete_all(&self.looks, deletions, true).await
    }
}

impl<U: Undelete + Sync, R> Delegated<U, R> {
    /// The keys, of those whose marker nobody wrote down, over which one stands that can be taken
    /// away.
    async fn unnamed_markers(&self, deletions: &[(&Orphan, Claim)]) -> HashSet<ObjectKey> {
        let within = |(_, claim): &&(&Orphan, Claim)| matches!(claim, Claim::Within(_));
        let unnamed: Vec<(&Orphan, Claim)> = deletions.iter().filter(within).cloned().collect();
        let seen = undelete_all(&self.looks, &unnamed, true).await;
        let seen = unnamed.iter().zip(seen);
        seen.filter(|(_, seen)| matches!(seen, Ok(Undone::Restorable)))
            .map(|((orphan, _), _)| orphan.key.clone())
            .collect()
    }
}

/// Why a marker still stands.
fn why(key: &ObjectKey, answer: &Result<Vec<Refused>, LookError>) -> LookError {
    let said = match answer {
        Ok(refused) => refused
            .iter()
            .find(|refused| refused.key == *key)
            .map(|refused| &refused.why),
        Err(error) => Some(error),
    };
    match said {
        Some(LookError { code, message }) => LookError {
            code: code.clone(),
            message: message.clone(),
        },
        None => LookError {
            code: Some("NotRemoved".to_owned()),
            message: "the undo function answered, and the delete marker still stands there"
                .to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    use futures::executor::block_on;
    use jiff::Timestamp;

    use super::*;
    use crate::object::ETag;
    use crate::undelete::{KeyVersion, Span, Top, VersionKind, Wanted};

    /// A bucket of which everything was deleted, and one who gives back all keys but those
    /// that end with 7.
    #[derive(Default)]
    struct Bucket {
        given_back: Mutex<BTreeSet<String>>,
        asked: Mutex<Vec<usize>>,
    }

    fn version(id: &str, kind: VersionKind) -> KeyVersion {
        KeyVersion {
            id: id.to_owned(),
            last_modified: Some(Timestamp::UNIX_EPOCH),
            kind,
        }
    }

    impl Undelete for &Bucket {
        async fn top(&self, key: &ObjectKey) -> Result<Top, LookError> {
            let object = version("object", VersionKind::Object(Some(ETag::new("e"))));
            let marker = version("marker", VersionKind::Marker);
            let back = self.given_back.lock().unwrap().contains(key.as_str());
            Ok(Top {
                newest: Some(if back { object.clone() } else { marker }),
                below: (!back).then_some(object),
            })
        }

        async fn has_version(&self, _: &ObjectKey, _: &Wanted<'_>) -> Result<bool, LookError> {
            Ok(false)
        }

        async fn remove_marker(&self, key: &ObjectKey, _: &str) -> Result<(), LookError> {
            panic!("who only looks was asked to remove the marker of {key}");
        }
    }

    impl Restorer for &Bucket {
        async fn restore(&self, keys: &[&ObjectKey]) -> Result<Vec<Refused>, LookError> {
            self.asked.lock().unwrap().push(keys.len());
            let mut refused = Vec::new();
            for key in keys {
                if key.as_str().ends_with('7') {
                    let why = LookError {
                        code: Some("AccessDenied".to_owned()),
                        message: format!("no to {key}"),
                    };
                    let key = (*key).clone();
                    refused.push(Refused { key, why });
                } else if !key.as_str().ends_with('8') {
                    let key = key.as_str().to_owned();
                    self.given_back.lock().unwrap().insert(key);
                }
            }
            Ok(refused)
        }
    }

    #[test]
    fn what_counts_is_seen_and_asked_for_in_portions() {
        let bucket = Bucket::default();
        let orphans: Vec<Orphan> = (0..1_201)
            .map(|index| Orphan {
                key: ObjectKey::new(format!("{index}")),
                etag: ETag::new("e"),
                size: 1,
                last_modified: Timestamp::UNIX_EPOCH,
            })
            .collect();
        let deletions: Vec<(&Orphan, Claim)> = orphans
            .iter()
            .map(|orphan| (orphan, Claim::Marker("marker".to_owned())))
            .collect();
        let hands = Delegated {
            looks: &bucket,
            restorer: &bucket,
        };
        let ended = block_on(hands.take_back(&deletions));
        assert_eq!(*bucket.asked.lock().unwrap(), [500, 500, 201]);
        for ((orphan, _), ended) in deletions.iter().zip(&ended) {
            let key = orphan.key.as_str();
            match (key.chars().last(), ended) {
                (Some('7'), Err(why)) => assert_eq!(why.message, format!("no to {key}")),
                // It was not even spoken of.
                (Some('8'), Err(why)) => assert_eq!(why.code.as_deref(), Some("NotRemoved")),
                (Some('7' | '8'), Ok(undone)) => panic!("{key}: {undone:?}"),
                (_, ended) => assert_eq!(ended.as_ref().unwrap(), &Undone::Restored, "{key}"),
            }
        }
        assert_eq!(ended.len(), orphans.len());
    }

    #[test]
    fn what_stands_there_without_a_marker_of_the_run_was_not_given_back() {
        let bucket = Bucket::default();
        let orphan = Orphan {
            key: ObjectKey::new("1"),
            etag: ETag::new("e"),
            size: 1,
            last_modified: Timestamp::UNIX_EPOCH,
        };
        let hands = Delegated {
            looks: &bucket,
            restorer: &bucket,
        };
        let within = Claim::Within(Span {
            from: Timestamp::MIN,
            until: Timestamp::MAX,
        });
        for (claim, expected) in [
            // It stood below a marker, and does not any more.
            (within.clone(), Undone::Restored),
            (within, Undone::Untouched),
            (Claim::Marker("marker".to_owned()), Undone::Restored),
            (Claim::Marker(NULL_VERSION.to_owned()), Undone::Present),
            (Claim::Unnamed, Undone::Present),
        ] {
            let ended = block_on(hands.take_back(&[(&orphan, claim)]));
            assert_eq!(ended[0].as_ref().unwrap(), &expected);
        }
    }
}
