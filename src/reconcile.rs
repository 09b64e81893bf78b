//! What S3's answer to a batch says of each key that was asked about.
//!
//! `DeleteObjects` answers 200 with errors inside, and an empty `<DeleteResult/>` names
//! nothing: so the answer is held against what was asked, key by key, and a key that it
//! does not mention is unknown.

use std::collections::HashMap;

use crate::object::{Orphan, Outcome, SparedBy};

/// S3's answer to a batch, as it came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BatchAnswer {
    /// The keys that S3 says it deleted.
    pub deleted: Vec<DeletedKey>,
    /// The keys that it says it did not.
    pub errors: Vec<KeyError>,
}

/// One `<Deleted>` of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletedKey {
    /// The key.
    pub key: String,
    /// The version id of the delete marker that the deletion left.
    pub marker: Option<String>,
}

/// One `<Error>` of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyError {
    /// The key.
    pub key: String,
    /// S3's error code.
    pub code: String,
    /// S3's words.
    pub message: String,
}

/// What the answer says of one orphan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// This is what became of it.
    Settled(Outcome),
    /// It was not deleted because the condition failed: a look at the object tells
    /// whether it changed or is gone.
    ConditionFailed,
    /// S3 failed at it, and may have done it all the same: a look at the object tells.
    Doubtful {
        /// S3's error code.
        code: String,
        /// S3's words.
        message: String,
    },
    /// The answer does not say: a look at the object may.
    Silent {
        /// Why not.
        reason: &'static str,
    },
}

/// Holds the answer against what was asked: one word for each orphan, in order.
#[must_use]
pub fn reconcile(asked: &[Orphan], answer: BatchAnswer) -> Vec<Word> {
    let mut deleted: HashMap<String, Option<String>> = answer
        .deleted
        .into_iter()
        .map(|deleted| (deleted.key, deleted.marker))
        .collect();
    let mut errors: HashMap<String, (String, String)> = answer
        .errors
        .into_iter()
        .map(|error| (error.key, (error.code, error.message)))
        .collect();
    asked
        .iter()
        .map(|orphan| {
            match (
                deleted.remove(orphan.key.as_str()),
                errors.remove(orphan.key.as_str()),
            ) {
                (Some(marker), None) => Word::Settled(Outcome::Deleted { marker }),
                (None, Some((code, message))) => of_error(code, message),
                (None, None) => Word::Silent {
                    reason: "S3's answer did not mention the key",
                },
                (Some(_), Some(_)) => Word::Silent {
                    reason: "S3's answer called the key both deleted and not",
                },
            }
        })
        .collect()
}

/// What an error of S3 about one key means
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-deletes.html>).
#[must_use]
pub fn of_error(code: String, message: String) -> Word {
    match code.as_str() {
        "PreconditionFailed" => Word::ConditionFailed,
        "NoSuchKey" | "NotFound" => Word::Settled(Outcome::Gone),
        "ConditionalRequestConflict" | "OperationAborted" => {
            Word::Settled(Outcome::Spared(SparedBy::Conflict))
        }
        uncertain if may_act_later(uncertain) => Word::Doubtful { code, message },
        _ => Word::Settled(Outcome::Failed { code, message }),
    }
}

/// Whether what S3 calls failed with this code may take effect all the same.
#[must_use]
pub fn may_act_later(code: &str) -> bool {
    matches!(
        code,
        "InternalError" | "ServiceUnavailable" | "RequestTimeout"
    )
}

/// Whether S3 says with this code that it did nothing of what was asked: it was asked too
/// often. Others that ask to come again later may have passed the request on.
#[must_use]
pub fn did_nothing(code: &str) -> bool {
    code == "SlowDown"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::key::ObjectKey;
    use crate::object::ETag;

    fn orphan(key: &str) -> Orphan {
        Orphan {
            key: ObjectKey::new(key),
            etag: ETag::new("\"e\""),
            size: 1,
            last_modified: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn an_error_means_what_its_code_says() {
        let of = |code: &str| of_error(code.to_owned(), "words".to_owned());
        assert_eq!(of("PreconditionFailed"), Word::ConditionFailed);
        for code in ["NoSuchKey", "NotFound"] {
            assert_eq!(of(code), Word::Settled(Outcome::Gone));
        }
        for code in ["ConditionalRequestConflict", "OperationAborted"] {
            assert_eq!(of(code), Word::Settled(Outcome::Spared(SparedBy::Conflict)));
        }
        let failed = Outcome::Failed {
            code: "AccessDenied".to_owned(),
            message: "words".to_owned(),
        };
        assert_eq!(of("AccessDenied"), Word::Settled(failed));
        for code in ["InternalError", "ServiceUnavailable", "RequestTimeout"] {
            let (code, message) = (code.to_owned(), "words".to_owned());
            assert_eq!(of(&code.clone()), Word::Doubtful { code, message });
        }
    }

    proptest! {
        /// A key counts as deleted only when the answer says so and nothing else.
        #[test]
        fn deleted_means_confirmed(
            asked in proptest::collection::btree_set("[a-f]", 0..6),
            deleted in proptest::collection::btree_set("[a-h]", 0..8),
            errors in proptest::collection::btree_set("[a-h]", 0..8),
        ) {
            let orphans: Vec<Orphan> = asked.iter().map(|key| orphan(key)).collect();
            let answer = BatchAnswer {
                deleted: deleted.iter().map(|key| DeletedKey { key: key.clone(), marker: Some(format!("m{key}")) }).collect(),
                errors: errors.iter().map(|key| KeyError { key: key.clone(), code: "AccessDenied".to_owned(), message: String::new() }).collect(),
            };
            let words = reconcile(&orphans, answer);
            prop_assert_eq!(words.len(), asked.len());
            let confirmed: BTreeSet<String> = deleted.difference(&errors).cloned().collect();
            let refused: BTreeSet<String> = errors.difference(&deleted).cloned().collect();
            for (key, word) in asked.iter().zip(&words) {
                match word {
                    Word::Settled(Outcome::Deleted { marker }) => {
                        prop_assert!(confirmed.contains(key));
                        prop_assert_eq!(marker, &Some(format!("m{key}")));
                    }
                    Word::Settled(Outcome::Failed { .. }) => prop_assert!(refused.contains(key)),
                    Word::Silent { .. } => prop_assert!(!confirmed.contains(key) && !refused.contains(key)),
                    other => prop_assert!(false, "{other:?}"),
                }
            }
        }
    }
}
