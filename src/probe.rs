//! Whether the storage honours the condition that protects an object uploaded again.

use std::time::Duration;

use futures::future::join;
use jiff::Timestamp;
use uuid::Uuid;

use crate::hands::{BatchFault, Delete};
use crate::key::{ObjectKey, Prefix};
use crate::object::{ETag, Orphan, Outcome};
use crate::reconcile::{BatchAnswer, Word, reconcile};

/// After a pause as long as this the storage is not asked again.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// What a try at a deletion that cannot delete anything showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// The storage refused because the condition was not met.
    Honoured,
    /// It refused so in a batch or for a single deletion, and did not in the other way: whether
    /// it looks at conditions there cannot be told from an absent key.
    Unclear,
    /// It claims every deletion: it does not look at conditions.
    Ignored,
    /// It refused for another reason.
    Failed {
        /// Its error code.
        code: String,
        /// Its words.
        message: String,
    },
}

/// Asks for the deletion of a key that does not exist, on a condition that nothing fulfils, in a
/// batch and alone: some storages look at the condition in one of them only.
///
/// S3 answers a single one with `NoSuchKey`
/// (measured in <https://github.com/ministackorg/ministack/issues/1475>). A storage that
/// ignores conditions claims a deletion, as S3 itself does of an absent key without one.
pub async fn probe(delete: &impl Delete, prefix: &Prefix) -> Probe {
    // Two keys: of two requests for one at the same time S3 may refuse the second as a conflict.
    let (one, other) = (nothing(prefix), nothing(prefix));
    let asked = std::slice::from_ref(&one);
    let (together, alone) = join(
        patiently(async || delete.delete_batch(asked).await),
        patiently(async || delete.delete_alone(&other).await),
    )
    .await;
    match (shown(&one, together), shown(&other, alone)) {
        (Probe::Honoured, Probe::Honoured) => Probe::Honoured,
        (Probe::Honoured, _) | (Probe::Ignored, Probe::Honoured) => Probe::Unclear,
        (Probe::Ignored, alone) => alone,
        (together, _) => together,
    }
}

/// A key that does not exist, with an entity tag that no object has.
fn nothing(prefix: &Prefix) -> Orphan {
    Orphan {
        key: ObjectKey::new(format!(
            "{}orphan-sweeper-probe-{}",
            prefix.as_str(),
            Uuid::new_v4()
        )),
        etag: ETag::new("\"00000000000000000000000000000000\""),
        size: 0,
        last_modified: Timestamp::UNIX_EPOCH,
    }
}

/// Asks again while S3 asks to slow down, for some ten seconds.
async fn patiently(
    ask: impl AsyncFn() -> Result<BatchAnswer, BatchFault>,
) -> Result<BatchAnswer, BatchFault> {
    let mut pause = Duration::from_millis(200);
    loop {
        match ask().await {
            Err(BatchFault::Throttled { .. }) if pause < MAX_PAUSE => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            answer => return answer,
        }
    }
}

fn shown(nothing: &Orphan, answer: Result<BatchAnswer, BatchFault>) -> Probe {
    let failed = |code: &str, message: String| Probe::Failed {
        code: code.to_owned(),
        message,
    };
    match answer {
        Ok(answer) => match reconcile(std::slice::from_ref(nothing), answer).pop() {
            Some(Word::ConditionFailed | Word::Settled(Outcome::Gone)) => Probe::Honoured,
            Some(Word::Settled(Outcome::Deleted { .. })) => Probe::Ignored,
            Some(
                Word::Settled(Outcome::Failed { code, message }) | Word::Doubtful { code, message },
            ) => Probe::Failed { code, message },
            other => failed("NoWord", format!("the answer says {other:?}")),
        },
        Err(BatchFault::Throttled { code }) => failed(&code, "asked to slow down".to_owned()),
        Err(BatchFault::Unreadable { code, message } | BatchFault::Refused { code, message }) => {
            Probe::Failed { code, message }
        }
        Err(BatchFault::Lost { message }) => failed("NoAnswer", message),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use tokio::time::Instant;

    use super::*;
    use crate::hands::{Current, Look, LookError};
    use crate::reconcile::{DeletedKey, KeyError};

    /// What a storage does with a deletion on a condition that is not met.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Does {
        Refuse,
        SayNoSuchKey,
        Claim,
        Forbid,
        SaySomethingElse,
    }

    struct Storage {
        together: Does,
        alone: Does,
        /// How often it first asks to slow down, in a batch.
        throttles: Mutex<VecDeque<BatchFault>>,
    }

    fn answer(does: Does, orphan: &Orphan) -> Result<BatchAnswer, BatchFault> {
        let key = orphan.key.as_str().to_owned();
        let code = match does {
            Does::Claim => {
                return Ok(BatchAnswer {
                    deleted: vec![DeletedKey { key, marker: None }],
                    errors: Vec::new(),
                });
            }
            Does::Forbid => {
                return Err(BatchFault::Refused {
                    code: "AccessDenied".to_owned(),
                    message: "no".to_owned(),
                });
            }
            Does::SaySomethingElse => return Ok(BatchAnswer::default()),
            Does::Refuse => "PreconditionFailed",
            Does::SayNoSuchKey => "NoSuchKey",
        };
        Ok(BatchAnswer {
            deleted: Vec::new(),
            errors: vec![KeyError {
                key,
                code: code.to_owned(),
                message: String::new(),
            }],
        })
    }

    impl Look for Storage {
        async fn look(&self, _: &ObjectKey) -> Result<Current, LookError> {
            unreachable!("a probe only deletes")
        }
    }

    impl Delete for Storage {
        async fn delete_batch(&self, orphans: &[Orphan]) -> Result<BatchAnswer, BatchFault> {
            let throttled = self.throttles.lock().unwrap().pop_front();
            throttled.map_or_else(|| answer(self.together, &orphans[0]), Err)
        }

        async fn delete_alone(&self, orphan: &Orphan) -> Result<BatchAnswer, BatchFault> {
            answer(self.alone, orphan)
        }

        async fn marker_over(&self, _: &Orphan, _: Timestamp) -> Result<Option<String>, LookError> {
            unreachable!("a probe only deletes")
        }
    }

    async fn probed(together: Does, alone: Does, throttles: usize) -> Probe {
        let throttled = BatchFault::Throttled {
            code: "SlowDown".to_owned(),
        };
        let storage = Storage {
            together,
            alone,
            throttles: Mutex::new(vec![throttled; throttles].into()),
        };
        probe(&storage, &Prefix::default()).await
    }

    #[tokio::test]
    async fn a_storage_is_asked_in_both_ways() {
        let failed = |code: &str, message: &str| Probe::Failed {
            code: code.to_owned(),
            message: message.to_owned(),
        };
        let forbidden = failed("AccessDenied", "no");
        for (together, alone, shown) in [
            (Does::Refuse, Does::Refuse, Probe::Honoured),
            (Does::Refuse, Does::SayNoSuchKey, Probe::Honoured),
            (Does::Claim, Does::Claim, Probe::Ignored),
            (Does::Claim, Does::Refuse, Probe::Unclear),
            (Does::Refuse, Does::Claim, Probe::Unclear),
            (Does::Refuse, Does::Forbid, Probe::Unclear),
            (Does::Claim, Does::Forbid, forbidden.clone()),
            (Does::Forbid, Does::Refuse, forbidden),
        ] {
            assert_eq!(
                probed(together, alone, 0).await,
                shown,
                "{together:?} {alone:?}"
            );
        }
        let silent = probed(Does::SaySomethingElse, Does::Refuse, 0).await;
        assert!(
            matches!(&silent, Probe::Failed { code, .. } if code == "NoWord"),
            "{silent:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_asked_again_while_it_asks_to_slow_down_and_not_for_ever() {
        let began = Instant::now();
        let shown = probed(Does::Refuse, Does::Refuse, 6).await;
        assert_eq!(shown, Probe::Honoured);
        // Ever more slowly: 0.2 + 0.4 + 0.8 + 1.6 + 3.2 + 6.4 s.
        assert_eq!(began.elapsed(), Duration::from_millis(12_600));
        let shown = probed(Does::Refuse, Does::Refuse, 7).await;
        assert!(
            matches!(&shown, Probe::Failed { code, .. } if code == "SlowDown"),
            "{shown:?}"
        );
    }
}
