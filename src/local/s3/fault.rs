//! Faults on demand: what goes wrong, at which request.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// An operation of this server, by its name in the S3 API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the S3 API reference")]
pub enum Operation {
    AbortMultipartUpload,
    CreateBucket,
    CreateMultipartUpload,
    DeleteObject,
    DeleteObjects,
    GetBucketLifecycleConfiguration,
    GetBucketLocation,
    GetBucketVersioning,
    GetObject,
    HeadBucket,
    HeadObject,
    ListBuckets,
    ListMultipartUploads,
    ListObjectVersions,
    ListObjectsV2,
    ListParts,
    PutBucketVersioning,
    PutObject,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

type KeyTest = Arc<dyn Fn(&str) -> bool + Send + Sync>;
type Edit = Arc<dyn Fn(String) -> String + Send + Sync>;

/// What happens instead of, or beside, the right thing.
#[derive(Clone)]
#[non_exhaustive]
pub enum Effect {
    /// The request is refused whole with this HTTP status and error code. Nothing is done.
    Error {
        /// HTTP status.
        status: u16,
        /// S3's error code.
        code: &'static str,
    },
    /// The connection closes without an answer. Nothing is done.
    CloseBefore,
    /// The request is carried out, then the connection closes without an answer.
    CloseAfter,
    /// The request is carried out; the answer's body breaks off in the middle.
    CutBody,
    /// This is answered, and nothing is done.
    Answer {
        /// HTTP status.
        status: u16,
        /// The body, sent as `application/xml`.
        body: String,
    },
    /// The request is carried out; its answer's body goes through this function.
    /// It takes the XML of a listing or of a batch, not binary data.
    EditBody(Edit),
    /// The request is carried out; its answer lacks this header, given in lower case.
    DropHeader(&'static str),
    /// `DeleteObjects` only: the keys that match are not deleted, and each is
    /// answered with this error code.
    KeyError(&'static str),
    /// `DeleteObjects` only: the answer does not mention the keys that match.
    OmitKey {
        /// Whether they are deleted nevertheless.
        deleted: bool,
    },
}

impl Effect {
    /// 503 `SlowDown`, S3's way to say that requests come too fast.
    #[must_use]
    pub const fn slow_down() -> Self {
        Self::Error {
            status: 503,
            code: "SlowDown",
        }
    }

    /// 500 `InternalError`.
    #[must_use]
    pub const fn internal_error() -> Self {
        Self::Error {
            status: 500,
            code: "InternalError",
        }
    }

    /// 403 `AccessDenied`.
    #[must_use]
    pub const fn access_denied() -> Self {
        Self::Error {
            status: 403,
            code: "AccessDenied",
        }
    }

    /// 409 `ConditionalRequestConflict`: another write came between a condition and its effect.
    #[must_use]
    pub const fn conflict() -> Self {
        Self::Error {
            status: 409,
            code: "ConditionalRequestConflict",
        }
    }

    /// [`Self::EditBody`] with this function.
    pub fn edit_body(edit: impl Fn(String) -> String + Send + Sync + 'static) -> Self {
        Self::EditBody(Arc::new(edit))
    }

    /// [`Self::EditBody`] that puts `body` in place of the right one.
    pub fn replace_body(body: impl Into<String>) -> Self {
        let body = body.into();
        Self::edit_body(move |_| body.clone())
    }
}

impl fmt::Debug for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error { status, code } => write!(f, "Error({status} {code})"),
            Self::CloseBefore => f.write_str("CloseBefore"),
            Self::CloseAfter => f.write_str("CloseAfter"),
            Self::CutBody => f.write_str("CutBody"),
            Self::Answer { status, .. } => write!(f, "Answer({status})"),
            Self::EditBody(_) => f.write_str("EditBody"),
            Self::DropHeader(name) => write!(f, "DropHeader({name})"),
            Self::KeyError(code) => write!(f, "KeyError({code})"),
            Self::OmitKey { deleted } => write!(f, "OmitKey(deleted: {deleted})"),
        }
    }
}

/// An [`Effect`] and the requests that it befalls.
///
/// ```
/// use orphan_sweeper::local::s3::{Effect, Fault, Operation};
///
/// // The second batch is carried out, and its answer lost.
/// let lost = Fault::new(Operation::DeleteObjects, Effect::CloseAfter).nth(2);
/// // One key is refused in whichever batch it comes.
/// let denied = Fault::new(Operation::DeleteObjects, Effect::KeyError("AccessDenied")).key("a.png");
/// ```
#[derive(Clone)]
pub struct Fault {
    operation: Operation,
    effect: Effect,
    key: Option<KeyTest>,
    from: usize,
    until: usize,
    seen: usize,
}

impl Fault {
    /// A fault at every request of `operation`.
    #[must_use]
    pub fn new(operation: Operation, effect: Effect) -> Self {
        Self {
            operation,
            effect,
            key: None,
            from: 1,
            until: usize::MAX,
            seen: 0,
        }
    }

    /// Only at the `n`th request that matches, counted from 1. A client's
    /// retries count.
    #[must_use]
    pub fn nth(mut self, n: usize) -> Self {
        (self.from, self.until) = (n, n);
        self
    }

    /// Only at the first `n` requests that match.
    #[must_use]
    pub fn first(mut self, n: usize) -> Self {
        (self.from, self.until) = (1, n);
        self
    }

    /// Only for this key.
    #[must_use]
    pub fn key(self, key: impl Into<String>) -> Self {
        let key = key.into();
        self.keys(move |asked| asked == key)
    }

    /// Only at requests that name such a key, and only for such keys.
    #[must_use]
    pub fn keys(mut self, test: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.key = Some(Arc::new(test));
        self
    }

    /// Counts a request in, and says whether it is to suffer.
    pub(super) fn strikes(&mut self, operation: Operation, keys: &[String]) -> bool {
        if operation != self.operation || !self.matches_any(keys) {
            return false;
        }
        self.seen += 1;
        (self.from..=self.until).contains(&self.seen)
    }

    fn matches_any(&self, keys: &[String]) -> bool {
        self.key
            .as_ref()
            .is_none_or(|test| keys.iter().any(|key| test(key)))
    }

    pub(super) fn effect(&self) -> &Effect {
        &self.effect
    }

    fn matches(&self, key: &str) -> bool {
        self.key.as_ref().is_none_or(|test| test(key))
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Fault({} {:?} {}..={})",
            self.operation, self.effect, self.from, self.until
        )
    }
}

/// What becomes of one key of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyFate {
    /// The rules apply.
    Ruled,
    /// Left alone, answered with this code.
    Refused(&'static str),
    /// Not mentioned.
    Omitted { deleted: bool },
}

/// The faults that befall single keys of one request.
#[derive(Debug, Default)]
pub(super) struct KeyFaults(Vec<Fault>);

impl KeyFaults {
    pub(super) fn push(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    pub(super) fn fate(&self, key: &str) -> KeyFate {
        let fault = self.0.iter().find(|fault| fault.matches(key));
        match fault.map(Fault::effect) {
            Some(Effect::KeyError(code)) => KeyFate::Refused(code),
            Some(Effect::OmitKey { deleted }) => KeyFate::Omitted { deleted: *deleted },
            _ => KeyFate::Ruled,
        }
    }
}

/// What the operation asks of the connection that carries it. It travels in
/// the request's extensions, so that faults can be chosen by operation and
/// key, which only the operation knows, and carried out on the wire.
#[derive(Clone, Debug, Default)]
pub(super) struct Wire(Arc<Mutex<Vec<Effect>>>);

impl Wire {
    pub(super) fn ask(&self, effect: Effect) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(effect);
    }

    pub(super) fn take(&self) -> Vec<Effect> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
