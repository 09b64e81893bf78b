//! All buckets of a server, and the hands that tests and the demo lay on them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use md5::{Digest, Md5};
use uuid::Uuid;

use super::bucket::{
    Bucket, Content, MAX_KEY_BYTES, Object, Upload, Version, VersionId, Versioning,
};
use super::fault::{Fault, Operation};

/// One request that was understood, its signature checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    /// What was asked.
    pub operation: Operation,
    /// The bucket; empty for `ListBuckets`.
    pub bucket: String,
    /// The keys named, in the request's order. Listings name none.
    pub keys: Vec<String>,
    /// The query of the URI, as it was sent; empty when there was none.
    pub query: String,
    /// How many requests of this operation came, this one included, since the
    /// server started or the log was cleared.
    pub nth: usize,
}

/// What runs before the effect of a request.
pub(super) type Hook = Arc<dyn Fn(Buckets, RequestRecord) -> BoxFuture<'static, ()> + Send + Sync>;

#[derive(Default)]
pub(super) struct World {
    pub(super) buckets: BTreeMap<String, Bucket>,
    pub(super) faults: Vec<Fault>,
    pub(super) hooks: Vec<(Operation, Hook)>,
    pub(super) latency: Duration,
    requests: Vec<RequestRecord>,
    counts: HashMap<Operation, usize>,
    skew: SignedDuration,
    versions_a_page: Option<usize>,
}

impl World {
    /// The time by this server's clock.
    pub(super) fn now(&self) -> Timestamp {
        Timestamp::now()
            .saturating_add(self.skew)
            .unwrap_or(Timestamp::MAX)
    }

    pub(super) fn record(
        &mut self,
        operation: Operation,
        bucket: &str,
        keys: &[String],
        query: Option<&str>,
    ) -> RequestRecord {
        let count = self.counts.entry(operation).or_default();
        *count += 1;
        let record = RequestRecord {
            operation,
            bucket: bucket.to_owned(),
            keys: keys.to_vec(),
            query: query.unwrap_or_default().to_owned(),
            nth: *count,
        };
        self.requests.push(record.clone());
        record
    }

    /// A test that names a bucket which it never made is itself wrong.
    fn bucket(&mut self, name: &str) -> &mut Bucket {
        match self.buckets.get_mut(name) {
            Some(bucket) => bucket,
            None => panic!("no bucket {name}"),
        }
    }
}

/// A handle on everything that a server holds. Clones share it.
///
/// Its methods act at once, without HTTP, and are no requests: they are not
/// logged, and no fault befalls them. Those that name a bucket panic when it
/// does not exist.
#[derive(Clone, Default)]
pub struct Buckets(Arc<Mutex<World>>);

impl Buckets {
    pub(super) fn lock(&self) -> MutexGuard<'_, World> {
        // Nothing leaves the maps half changed, so a test thread's panic spoils nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time by this server's clock, skew included.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.lock().now()
    }

    /// Makes an empty, unversioned bucket, unless it is there already.
    pub fn create_bucket(&self, name: &str) {
        let mut world = self.lock();
        let now = world.now();
        world
            .buckets
            .entry(name.to_owned())
            .or_insert_with(|| Bucket::new(now));
    }

    /// Turns versioning on or off.
    pub fn set_versioning(&self, bucket: &str, versioning: Versioning) {
        self.lock().bucket(bucket).versioning = versioning;
    }

    /// Writes an object as of now; returns its `ETag` without quotes.
    pub fn put(&self, bucket: &str, key: &str, body: impl Into<Bytes>) -> String {
        self.put_at(bucket, key, body, self.now())
    }

    /// Writes an object with this `LastModified`, of which S3 keeps whole
    /// seconds; returns its `ETag` without quotes. Where versions are kept it
    /// becomes the newest, whatever its time.
    pub fn put_at(
        &self,
        bucket: &str,
        key: &str,
        body: impl Into<Bytes>,
        last_modified: Timestamp,
    ) -> String {
        let body = body.into();
        let tag = etag(&body);
        let (size, content) = (
            body.len() as u64,
            Content {
                body,
                content_type: None,
            },
        );
        checked(key);
        self.lock().bucket(bucket).put(
            key.to_owned(),
            tag.as_str().into(),
            size,
            Some(content),
            last_modified,
        );
        tag
    }

    /// Writes an object that is there for listings and deletions only: cheap,
    /// for millions of keys. It has no data: a `GetObject` of it fails.
    pub fn insert_listed(
        &self,
        bucket: &str,
        key: impl Into<String>,
        size: u64,
        etag: &str,
        last_modified: Timestamp,
    ) {
        let key = key.into();
        checked(&key);
        self.lock()
            .bucket(bucket)
            .put(key, etag.into(), size, None, last_modified);
    }

    /// Makes every object that a key holds now older by this much. Clients cannot: S3 alone
    /// says when an object was written.
    pub fn age(&self, bucket: &str, by: SignedDuration) {
        for object in self.lock().bucket(bucket).live.values_mut() {
            object.last_modified -= by;
        }
    }

    /// Deletes a key without a condition, as versioning has it.
    pub fn delete(&self, bucket: &str, key: &str) {
        let mut world = self.lock();
        let now = world.now();
        let deleted = world.bucket(bucket).delete(key, None, None, now);
        debug_assert!(deleted.is_ok(), "only a condition can fail");
    }

    /// Begins a multipart upload with this initiation time; returns its id.
    #[must_use]
    pub fn begin_upload_at(&self, bucket: &str, key: &str, initiated: Timestamp) -> String {
        checked(key);
        let upload_id = Uuid::now_v7().simple().to_string();
        self.lock().bucket(bucket).uploads.insert(
            (key.to_owned(), upload_id.clone()),
            super::bucket::whole_second(initiated),
        );
        upload_id
    }

    /// Adds a part of this size to an upload under way.
    pub fn add_part(&self, bucket: &str, upload_id: &str, size: u64) {
        let mut world = self.lock();
        let parts = &mut world.bucket(bucket).parts;
        parts.entry(upload_id.to_owned()).or_default().push(size);
    }

    /// Adds a rule to the bucket's lifecycle that expires noncurrent versions below a prefix
    /// after so many days. It is told to whoever asks, and not carried out.
    pub fn expire_noncurrent_after(&self, bucket: &str, prefix: &str, days: u32) {
        let mut world = self.lock();
        let rules = &mut world.bucket(bucket).noncurrent_days;
        rules.push((prefix.to_owned(), days));
    }

    /// The multipart uploads under way, by key, then by upload id.
    #[must_use]
    pub fn uploads(&self, bucket: &str) -> Vec<Upload> {
        let mut world = self.lock();
        let uploads = world.bucket(bucket).uploads.iter();
        uploads
            .map(|((key, upload_id), initiated)| Upload {
                key: key.clone(),
                upload_id: upload_id.clone(),
                initiated: *initiated,
            })
            .collect()
    }

    /// The keys that hold an object now, in byte order.
    #[must_use]
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        self.lock().bucket(bucket).live.keys().cloned().collect()
    }

    /// How many keys hold an object now.
    #[must_use]
    pub fn len(&self, bucket: &str) -> usize {
        self.lock().bucket(bucket).live.len()
    }

    /// What a key holds now, if anything.
    #[must_use]
    pub fn object(&self, bucket: &str, key: &str) -> Option<Object> {
        self.lock().bucket(bucket).live.get(key).cloned()
    }

    /// All versions of a key, delete markers among them, newest first.
    #[must_use]
    pub fn versions(&self, bucket: &str, key: &str) -> Vec<Version> {
        self.lock().bucket(bucket).versions(key)
    }

    /// Makes each request wait this long before its effect.
    pub fn set_latency(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// Sets the server's clock off from the machine's: the `Date` of every
    /// answer, and the times of what is written from now on.
    pub fn set_clock_skew(&self, skew: SignedDuration) {
        self.lock().skew = skew;
    }

    /// Answers with at most so many versions a page, however many are asked for.
    pub fn set_versions_a_page(&self, most: usize) {
        self.lock().versions_a_page = Some(most);
    }

    /// The versions of a page, at most.
    pub(super) fn versions_a_page(&self) -> usize {
        self.lock().versions_a_page.unwrap_or(usize::MAX)
    }

    /// The requests since the start, or since [`Self::clear_requests`], in order.
    #[must_use]
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.lock().requests.clone()
    }

    /// How many requests of this operation came since the start, or since
    /// [`Self::clear_requests`].
    #[must_use]
    pub fn count(&self, operation: Operation) -> usize {
        self.lock()
            .counts
            .get(&operation)
            .copied()
            .unwrap_or_default()
    }

    /// Empties the log of requests and starts its counts anew.
    pub fn clear_requests(&self) {
        let mut world = self.lock();
        world.requests.clear();
        world.counts.clear();
    }

    /// Adds a fault. Where several befall one request, the earliest added comes first.
    pub fn inject(&self, fault: Fault) {
        self.lock().faults.push(fault);
    }

    /// Takes all faults and hooks away.
    pub fn heal(&self) {
        let mut world = self.lock();
        world.faults.clear();
        world.hooks.clear();
    }

    /// Runs `hook` at each request of `operation` before its effect, which
    /// waits until the hook is done: here a test changes the world between
    /// two steps of its subject. [`RequestRecord::nth`] tells them apart.
    pub fn on_request<F>(
        &self,
        operation: Operation,
        hook: impl Fn(Buckets, RequestRecord) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let hook: Hook = Arc::new(move |buckets, record| Box::pin(hook(buckets, record)));
        self.lock().hooks.push((operation, hook));
    }
}

impl fmt::Debug for Buckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let world = self.lock();
        let sizes = world
            .buckets
            .iter()
            .map(|(name, bucket)| (name, bucket.live.len()));
        f.debug_map().entries(sizes).finish()
    }
}

/// The `ETag` of an object uploaded in one part: the MD5 of its bytes.
pub(super) fn etag(body: &[u8]) -> String {
    format!("{:032x}", u128::from_be_bytes(Md5::digest(body).into()))
}

/// No bucket of S3 can hold another key, so no test may put one in by hand.
fn checked(key: &str) {
    assert!(
        (1..=MAX_KEY_BYTES).contains(&key.len()),
        "a key has 1 to {MAX_KEY_BYTES} bytes, this one {}",
        key.len()
    );
}

/// Reads a version id out of a request.
pub(super) fn version_id(text: &str) -> Option<VersionId> {
    text.parse().ok()
}
