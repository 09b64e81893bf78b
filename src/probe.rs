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
