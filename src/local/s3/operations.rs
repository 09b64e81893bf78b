//! The operations, as the S3 API reference describes them.
//!
//! What this server does not honour it refuses: a condition that is silently
//! ignored would let a test pass that proves nothing.

use std::time::Duration;

use hyper::StatusCode;
use jiff::Timestamp;
use s3s::dto::{self, ETag, ETagCondition, StreamingBlob};
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::answer::{
    Encoding, asked_version, condition, error, in_xml, int, long, malformed_xml, marker_headers,
    no_such_key, not_honoured, page_size, shown, stamp, strong,
};
use super::bucket::{
    Bucket, Condition, Content, Deletion, MAX_KEY_BYTES, Object, Unmet, Version, Versioning,
};
use super::buckets::{Buckets, World, etag, version_id};
use super::fault::{Effect, KeyFate, KeyFaults, Operation, Wire};
use super::page::{self, Start};

/// The most keys that one `DeleteObjects` takes.
const MAX_BATCH: usize = 1_000;

impl World {
    fn named(&mut self, bucket: &str) -> S3Result<&mut Bucket> {
        self.buckets
            .get_mut(bucket)
            .ok_or_else(|| error("NoSuchBucket", "The specified bucket does not exist"))
    }
}

impl Buckets {
    /// What comes before every effect: the log, the latency, the hooks, and
    /// the faults that need no effect. Returns those that befall single keys.
    async fn begin<T: Sync>(
        &self,
        request: &S3Request<T>,
        operation: Operation,
        bucket: &str,
        keys: &[String],
    ) -> S3Result<KeyFaults> {
        let (record, latency, hooks, faults) = {
            let mut world = self.lock();
            let record = world.record(operation, bucket, keys, request.uri.query());
            let hooks: Vec<_> = world
                .hooks
                .iter()
                .filter(|(hooked, _)| *hooked == operation)
                .map(|(_, hook)| hook.clone())
                .collect();
            let mut faults = Vec::new();
            for fault in &mut world.faults {
                if fault.strikes(operation, keys) {
                    faults.push(fault.clone());
                }
            }
            (record, world.latency, hooks, faults)
        };
        if latency > Duration::ZERO {
            tokio::time::sleep(latency).await;
        }
        for hook in hooks {
            hook(self.clone(), record.clone()).await;
        }
        let wire = request
            .extensions
            .get::<Wire>()
            .cloned()
            .unwrap_or_default();
        let mut key_faults = KeyFaults::default();
        for fault in faults {
            match fault.effect() {
                Effect::Error { status, code } => {
                    let mut refused = error(code, "A fault that a test asked for");
                    refused.set_status_code(
                        StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
                    );
                    return Err(refused);
                }
                Effect::CloseBefore | Effect::Answer { .. } => {
                    wire.ask(fault.effect().clone());
                    return Err(error(
                        "InternalError",
                        "never sent: the wire does otherwise",
                    ));
                }
                Effect::KeyError(_) | Effect::OmitKey { .. } => key_faults.push(fault),
                _ => wire.ask(fault.effect().clone()),
            }
        }
        Ok(key_faults)
    }
}

/// Finds what a read of `key` reads.
fn find(
    world: &mut World,
    bucket: &str,
    key: &str,
    version: Option<&str>,
) -> S3Result<(Object, Option<String>)> {
    let version = asked_version(version)?;
    let bucket = world.named(bucket)?;
    let object = if let Some(id) = version {
        match bucket.version(key, id) {
            Some(Version::Object(object)) => object,
            Some(Version::Marker { .. }) => {
                let mut refused = error(
                    "MethodNotAllowed",
                    "The specified method is not allowed against this resource.",
                );
                refused.set_headers(marker_headers(id));
                return Err(refused);
            }
            None => {
                return Err(error(
                    "NoSuchVersion",
                    "The specified version does not exist.",
                ));
            }
        }
    } else if let Some(object) = bucket.live.get(key) {
        object.clone()
    } else {
        let mut absent = no_such_key();
        if let Some(id) = bucket.marker(key) {
            absent.set_headers(marker_headers(id));
        }
        return Err(absent);
    };
    let shown = shown(bucket.versioning, object.version_id);
    Ok((object, shown))
}

/// Deletes one key of a batch, under the conditions that it came with.
fn delete_one(
    bucket: &mut Bucket,
    asked: &dto::ObjectIdentifier,
    now: Timestamp,
) -> Result<dto::DeletedObject, (&'static str, &'static str)> {
    let version = match asked.version_id.as_deref() {
        None => None,
        Some(text) => Some(
            version_id(text).ok_or(("NoSuchVersion", "The specified version does not exist."))?,
        ),
    };
    let condition = asked.e_tag.as_ref().map(|tag| match tag.value() {
        "*" => Condition::Exists,
        tag => Condition::Tag(tag.to_owned()),
    });
    let deletion = bucket
        .delete(&asked.key, version, condition.as_ref(), now)
        .map_err(|unmet| (unmet.code(), unmet.message()))?;
    let mut deleted = dto::DeletedObject {
        key: Some(asked.key.clone()),
        ..Default::default()
    };
    match deletion {
        Deletion::Gone => {}
        Deletion::Marked(id) => {
            deleted.delete_marker = Some(true);
            deleted.delete_marker_version_id = Some(id.to_string());
        }
        Deletion::Version {
            version_id,
            was_marker,
        } => {
            deleted.version_id = Some(version_id.to_string());
            if was_marker {
                deleted.delete_marker = Some(true);
                deleted.delete_marker_version_id = Some(version_id.to_string());
            }
        }
    }
    Ok(deleted)
}

#[async_trait::async_trait]
impl S3 for Buckets {
    async fn create_bucket(
        &self,
        request: S3Request<dto::CreateBucketInput>,
    ) -> S3Result<S3Response<dto::CreateBucketOutput>> {
        let name = &request.input.bucket;
        self.begin(&request, Operation::CreateBucket, name, &[])
            .await?;
        let mut world = self.lock();
        if world.buckets.contains_key(name) {
            return Err(error(
                "BucketAlreadyOwnedByYou",
                "Your previous request to create the named bucket succeeded",
            ));
        }
        let now = world.now();
        world.buckets.insert(name.clone(), Bucket::new(now));
        Ok(S3Response::new(dto::CreateBucketOutput {
            location: Some(format!("/{name}")),
        }))
    }

    async fn head_bucket(
        &self,
        request: S3Request<dto::HeadBucketInput>,
    ) -> S3Result<S3Response<dto::HeadBucketOutput>> {
        let bucket = &request.input.bucket;
        self.begin(&request, Operation::HeadBucket, bucket, &[])
            .await?;
        self.lock().named(bucket)?;
        Ok(S3Response::new(dto::HeadBucketOutput {
            bucket_region: Some(super::REGION.to_owned()),
            ..Default::default()
        }))
    }

    async fn list_buckets(
        &self,
        request: S3Request<dto::ListBucketsInput>,
    ) -> S3Result<S3Response<dto::ListBucketsOutput>> {
        self.begin(&request, Operation::ListBuckets, "", &[])
            .await?;
        let world = self.lock();
        let buckets = world.buckets.iter().map(|(name, bucket)| dto::Bucket {
            name: Some(name.clone()),
            creation_date: Some(stamp(bucket.created)),
            ..Default::default()
        });
        Ok(S3Response::new(dto::ListBucketsOutput {
            buckets: Some(buckets.collect()),
            ..Default::default()
        }))
    }

    async fn get_bucket_location(
        &self,
        request: S3Request<dto::GetBucketLocationInput>,
    ) -> S3Result<S3Response<dto::GetBucketLocationOutput>> {
        let bucket = &request.input.bucket;
        self.begin(&request, Operation::GetBucketLocation, bucket, &[])
            .await?;
        self.lock().named(bucket)?;
        // S3 names no constraint for us-east-1.
        Ok(S3Response::new(dto::GetBucketLocationOutput::default()))
    }

    async fn get_bucket_versioning(
        &self,
        request: S3Request<dto::GetBucketVersioningInput>,
    ) -> S3Result<S3Response<dto::GetBucketVersioningOutput>> {
        let bucket = &request.input.bucket;
        self.begin(&request, Operation::GetBucketVersioning, bucket, &[])
            .await?;
        let status = match self.lock().named(bucket)?.versioning {
            Versioning::Unversioned => None,
            Versioning::Enabled => Some(dto::BucketVersioningStatus::ENABLED),
            Versioning::Suspended => Some(dto::BucketVersioningStatus::SUSPENDED),
        };
        Ok(S3Response::new(dto::GetBucketVersioningOutput {
            status: status.map(dto::BucketVersioningStatus::from_static),
            ..Default::default()
        }))
    }

    async fn put_bucket_versioning(
        &self,
        request: S3Request<dto::PutBucketVersioningInput>,
    ) -> S3Result<S3Response<dto::PutBucketVersioningOutput>> {
        let bucket = &request.input.bucket;
        self.begin(&request, Operation::PutBucketVersioning, bucket, &[])
            .await?;
        let status = request.input.versioning_configuration.status.as_ref();
        let versioning = match status.map(dto::BucketVersioningStatus::as_str) {
            Some(dto::BucketVersioningStatus::ENABLED) => Versioning::Enabled,
            Some(dto::BucketVersioningStatus::SUSPENDED) => Versioning::Suspended,
            _ => return Err(malformed_xml()),
        };
        self.lock().named(bucket)?.versioning = versioning;
        Ok(S3Response::new(dto::PutBucketVersioningOutput::default()))
    }

    async fn put_object(
        &self,
        mut request: S3Request<dto::PutObjectInput>,
    ) -> S3Result<S3Response<dto::PutObjectOutput>> {
        let mut body = request
            .input
            .body
            .take()
            .map_or_else(s3s::Body::empty, s3s::Body::from);
        let body = super::whole(&mut body)
            .await
            .map_err(|cause| S3Error::with_source(S3ErrorCode::IncompleteBody, cause))?;
        let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
        // Without the field for the body, which was not `Sync`.
        let request =
            request.map_input(|input| (input.if_none_match, input.if_match, input.content_type));
        self.begin(
            &request,
            Operation::PutObject,
            &bucket,
            std::slice::from_ref(&key),
        )
        .await?;
        let (if_none_match, if_match, content_type) = request.input;

        let mut world = self.lock();
        let now = world.now();
        let bucket = world.named(&bucket)?;
        match if_none_match {
            Some(ETagCondition::Any) if bucket.live.contains_key(&key) => {
                return Err(Unmet::PreconditionFailed.into());
            }
            None | Some(ETagCondition::Any) => {}
            Some(ETagCondition::ETag(_)) => return Err(not_honoured("If-None-Match takes * only")),
        }
        if let Some(condition) = condition(if_match) {
            bucket.check(&key, &condition)?;
        }
        let tag = etag(&body);
        let size = body.len() as u64;
        let content = Content { body, content_type };
        let id = bucket.put(key, tag.as_str().into(), size, Some(content), now);
        Ok(S3Response::new(dto::PutObjectOutput {
            e_tag: Some(ETag::Strong(tag)),
            version_id: shown(bucket.versioning, id),
            ..Default::default()
        }))
    }

    async fn get_object(
        &self,
        request: S3Request<dto::GetObjectInput>,
    ) -> S3Result<S3Response<dto::GetObjectOutput>> {
        let input = &request.input;
        let keys = std::slice::from_ref(&input.key);
        self.begin(&request, Operation::GetObject, &input.bucket, keys)
            .await?;
        if input.if_match.is_some()
            || input.if_none_match.is_some()
            || input.if_modified_since.is_some()
            || input.if_unmodified_since.is_some()
            || input.part_number.is_some()
        {
            return Err(not_honoured("GetObject with a condition or a part number"));
        }
        let (object, version_id) = find(
            &mut self.lock(),
            &input.bucket,
            &input.key,
            input.version_id.as_deref(),
        )?;
        let Some(content) = object.content else {
            return Err(error(
                "InternalError",
                "This object was put in for listings only",
            ));
        };
        let (body, content_range) = match input.range {
            None => (content.body.clone(), None),
            Some(range) => {
                let part = range.check(object.size)?;
                let shown = format!("bytes {}-{}/{}", part.start, part.end - 1, object.size);
                let whole = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
                (
                    content.body.slice(whole(part.start)..whole(part.end)),
                    Some(shown),
                )
            }
        };
        let status = content_range
            .as_ref()
            .map_or(StatusCode::OK, |_| StatusCode::PARTIAL_CONTENT);
        let output = dto::GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(long(body.len() as u64)),
            body: Some(StreamingBlob::from(s3s::Body::from(body))),
            content_range,
            content_type: content.content_type.clone(),
            e_tag: Some(strong(&object.etag)),
            last_modified: Some(stamp(object.last_modified)),
            version_id,
            ..Default::default()
        };
        Ok(S3Response::with_status(output, status))
    }

    async fn head_object(
        &self,
        request: S3Request<dto::HeadObjectInput>,
    ) -> S3Result<S3Response<dto::HeadObjectOutput>> {
        let input = &request.input;
        let keys = std::slice::from_ref(&input.key);
        self.begin(&request, Operation::HeadObject, &input.bucket, keys)
            .await?;
        if input.if_match.is_some()
            || input.if_none_match.is_some()
            || input.if_modified_since.is_some()
            || input.if_unmodified_since.is_some()
            || input.part_number.is_some()
            || input.range.is_some()
        {
            return Err(not_honoured(
                "HeadObject with a condition, a range or a part number",
            ));
        }
        let (object, version_id) = find(
            &mut self.lock(),
            &input.bucket,
            &input.key,
            input.version_id.as_deref(),
        )?;
        Ok(S3Response::new(dto::HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(long(object.size)),
            content_type: object
                .content
                .as_ref()
                .and_then(|content| content.content_type.clone()),
            e_tag: Some(strong(&object.etag)),
            last_modified: Some(stamp(object.last_modified)),
            version_id,
            ..Default::default()
        }))
    }

    async fn delete_object(
        &self,
        request: S3Request<dto::DeleteObjectInput>,
    ) -> S3Result<S3Response<dto::DeleteObjectOutput>> {
        let input = &request.input;
        let keys = std::slice::from_ref(&input.key);
        self.begin(&request, Operation::DeleteObject, &input.bucket, keys)
            .await?;
        if input.if_match_size.is_some() || input.if_match_last_modified_time.is_some() {
            return Err(not_honoured(
                "Conditions on size and time are for directory buckets",
            ));
        }
        let version = asked_version(input.version_id.as_deref())?;
        let condition = condition(input.if_match.clone());
        let mut world = self.lock();
        let now = world.now();
        let deletion =
            world
                .named(&input.bucket)?
                .delete(&input.key, version, condition.as_ref(), now)?;
        let (delete_marker, version_id) = match deletion {
            Deletion::Gone => (None, None),
            Deletion::Marked(id) => (Some(true), Some(id.to_string())),
            Deletion::Version {
                version_id,
                was_marker,
            } => (was_marker.then_some(true), Some(version_id.to_string())),
        };
        let output = dto::DeleteObjectOutput {
            delete_marker,
            version_id,
            ..Default::default()
        };
        Ok(S3Response::with_status(output, StatusCode::NO_CONTENT))
    }

    async fn delete_objects(
        &self,
        request: S3Request<dto::DeleteObjectsInput>,
    ) -> S3Result<S3Response<dto::DeleteObjectsOutput>> {
        let dto::DeleteObjectsInput { bucket, delete, .. } = &request.input;
        let keys: Vec<_> = delete
            .objects
            .iter()
            .map(|asked| asked.key.clone())
            .collect();
        let faults = self
            .begin(&request, Operation::DeleteObjects, bucket, &keys)
            .await?;
        // The whole batch is judged before any of it is done.
        if !(1..=MAX_BATCH).contains(&keys.len()) || keys.iter().any(|key| !key.chars().all(in_xml))
        {
            return Err(malformed_xml());
        }
        if keys.iter().any(String::is_empty) {
            return Err(error(
                "UserKeyMustBeSpecified",
                "The bucket POST must contain the specified field name.",
            ));
        }
        if keys.iter().any(|key| key.len() > MAX_KEY_BYTES) {
            return Err(error("KeyTooLongError", "Your key is too long"));
        }
        if delete
            .objects
            .iter()
            .any(|asked| asked.size.is_some() || asked.last_modified_time.is_some())
        {
            return Err(not_honoured(
                "Conditions on size and time are for directory buckets",
            ));
        }

        let mut world = self.lock();
        let now = world.now();
        let bucket = world.named(bucket)?;
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for asked in &delete.objects {
            let fate = faults.fate(&asked.key);
            let outcome = match fate {
                KeyFate::Omitted { deleted: false } => continue,
                KeyFate::Refused(code) => Err((code, "A fault that a test asked for")),
                KeyFate::Ruled | KeyFate::Omitted { deleted: true } => {
                    delete_one(bucket, asked, now)
                }
            };
            if fate == (KeyFate::Omitted { deleted: true }) {
                continue;
            }
            match outcome {
                Ok(done) => deleted.push(done),
                Err((code, message)) => errors.push(dto::Error {
                    code: Some(code.to_owned()),
                    key: Some(asked.key.clone()),
                    message: Some(message.to_owned()),
                    version_id: asked.version_id.clone(),
                }),
            }
        }
        let quiet = delete.quiet == Some(true);
        Ok(S3Response::new(dto::DeleteObjectsOutput {
            deleted: (!quiet).then_some(deleted),
            errors: Some(errors),
            ..Default::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<dto::ListObjectsV2Input>,
    ) -> S3Result<S3Response<dto::ListObjectsV2Output>> {
        let input = &request.input;
        self.begin(&request, Operation::ListObjectsV2, &input.bucket, &[])
            .await?;
        let encoding = Encoding::of(input.encoding_type.as_ref())?;
        let limit = page_size(input.max_keys)?;
        let start = match (&input.continuation_token, &input.start_after) {
            (Some(token), _) => Start::from_token(token).ok_or_else(|| {
                error(
                    "InvalidArgument",
                    "The continuation token provided is incorrect",
                )
            })?,
            (None, Some(key)) if !key.is_empty() => Start::After(key.clone()),
            (None, _) => Start::At(String::new()),
        };
        let delimiter = input
            .delimiter
            .as_ref()
            .filter(|delimiter| !delimiter.is_empty());
        let prefix = input.prefix.as_deref().unwrap_or_default();

        let mut world = self.lock();
        let bucket = world.named(&input.bucket)?;
        let page = page::objects(
            &bucket.live,
            prefix,
            delimiter.map(String::as_str),
            start,
            limit,
        );
        let contents: Vec<_> = page
            .objects
            .iter()
            .map(|(key, object)| dto::Object {
                key: Some(encoding.text(key)),
                e_tag: Some(strong(&object.etag)),
                last_modified: Some(stamp(object.last_modified)),
                size: Some(long(object.size)),
                storage_class: Some(dto::ObjectStorageClass::from_static(
                    dto::ObjectStorageClass::STANDARD,
                )),
                ..Default::default()
            })
            .collect();
        let common_prefixes: Vec<_> = page
            .common_prefixes
            .iter()
            .map(|prefix| dto::CommonPrefix {
                prefix: Some(encoding.text(prefix)),
            })
            .collect();
        Ok(S3Response::new(dto::ListObjectsV2Output {
            name: Some(input.bucket.clone()),
            prefix: Some(encoding.text(prefix)),
            max_keys: Some(int(limit)),
            key_count: Some(int(contents.len() + common_prefixes.len())),
            continuation_token: input.continuation_token.clone(),
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next.map(|next| next.to_token()),
            contents: Some(contents),
            common_prefixes: Some(common_prefixes),
            delimiter: encoding.optional(delimiter),
            encoding_type: encoding.named(),
            start_after: encoding.optional(input.start_after.as_ref()),
            ..Default::default()
        }))
    }

    async fn list_object_versions(
        &self,
        request: S3Request<dto::ListObjectVersionsInput>,
    ) -> S3Result<S3Response<dto::ListObjectVersionsOutput>> {
        let input = &request.input;
        self.begin(&request, Operation::ListObjectVersions, &input.bucket, &[])
            .await?;
        if input
            .delimiter
            .as_ref()
            .is_some_and(|delimiter| !delimiter.is_empty())
        {
            return Err(not_honoured("ListObjectVersions with a delimiter"));
        }
        let encoding = Encoding::of(input.encoding_type.as_ref())?;
        let limit = page_size(input.max_keys)?.min(self.versions_a_page());
        let key_marker = input.key_marker.as_deref().filter(|key| !key.is_empty());
        let id_marker = asked_version(
            input
                .version_id_marker
                .as_deref()
                .filter(|id| !id.is_empty()),
        )?;
        if id_marker.is_some() && key_marker.is_none() {
            return Err(error(
                "InvalidArgument",
                "A version-id marker cannot be specified without a key marker.",
            ));
        }
        let prefix = input.prefix.as_deref().unwrap_or_default();

        let mut world = self.lock();
        let bucket = world.named(&input.bucket)?;
        let after = key_marker.map(|key| (key, id_marker));
        let (lines, more) = page::versions(bucket, prefix, after, limit);
        let next = lines
            .last()
            .filter(|_| more)
            .map(|line| (encoding.text(&line.key), line.version.id().to_string()));
        let (next_key_marker, next_version_id_marker) = next.unzip();
        let (mut versions, mut markers) = (Vec::new(), Vec::new());
        for line in lines {
            let (key, is_latest) = (Some(encoding.text(&line.key)), Some(line.is_latest));
            match line.version {
                Version::Object(object) => versions.push(dto::ObjectVersion {
                    key,
                    is_latest,
                    version_id: Some(object.version_id.to_string()),
                    e_tag: Some(strong(&object.etag)),
                    last_modified: Some(stamp(object.last_modified)),
                    size: Some(long(object.size)),
                    storage_class: Some(dto::ObjectVersionStorageClass::from_static(
                        dto::ObjectVersionStorageClass::STANDARD,
                    )),
                    ..Default::default()
                }),
                Version::Marker {
                    version_id,
                    last_modified,
                } => markers.push(dto::DeleteMarkerEntry {
                    key,
                    is_latest,
                    version_id: Some(version_id.to_string()),
                    last_modified: Some(stamp(last_modified)),
                    ..Default::default()
                }),
            }
        }
        Ok(S3Response::new(dto::ListObjectVersionsOutput {
            name: Some(input.bucket.clone()),
            prefix: Some(encoding.text(prefix)),
            max_keys: Some(int(limit)),
            is_truncated: Some(more),
            key_marker: Some(encoding.text(key_marker.unwrap_or_default())),
            version_id_marker: Some(input.version_id_marker.clone().unwrap_or_default()),
            next_key_marker,
            next_version_id_marker,
            versions: Some(versions),
            delete_markers: Some(markers),
            encoding_type: encoding.named(),
            ..Default::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<dto::CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<dto::CreateMultipartUploadOutput>> {
        let dto::CreateMultipartUploadInput { bucket, key, .. } = &request.input;
        let keys = std::slice::from_ref(key);
        self.begin(&request, Operation::CreateMultipartUpload, bucket, keys)
            .await?;
        self.lock().named(bucket)?;
        let upload_id = self.begin_upload_at(bucket, key, self.now());
        Ok(S3Response::new(dto::CreateMultipartUploadOutput {
            bucket: Some(bucket.clone()),
            key: Some(key.clone()),
            upload_id: Some(upload_id),
            ..Default::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<dto::AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<dto::AbortMultipartUploadOutput>> {
        let dto::AbortMultipartUploadInput {
            bucket,
            key,
            upload_id,
            ..
        } = &request.input;
        let keys = std::slice::from_ref(key);
        self.begin(&request, Operation::AbortMultipartUpload, bucket, keys)
            .await?;
        let mut world = self.lock();
        let uploads = &mut world.named(bucket)?.uploads;
        uploads
            .remove(&(key.clone(), upload_id.clone()))
            .ok_or_else(|| error("NoSuchUpload", "The specified upload does not exist."))?;
        world.named(bucket)?.parts.remove(upload_id);
        let output = dto::AbortMultipartUploadOutput::default();
        Ok(S3Response::with_status(output, StatusCode::NO_CONTENT))
    }

    async fn list_parts(
        &self,
        request: S3Request<dto::ListPartsInput>,
    ) -> S3Result<S3Response<dto::ListPartsOutput>> {
        let dto::ListPartsInput {
            bucket,
            key,
            upload_id,
            part_number_marker,
            ..
        } = &request.input;
        let keys = std::slice::from_ref(key);
        self.begin(&request, Operation::ListParts, bucket, keys)
            .await?;
        let limit = page_size(request.input.max_parts)?;
        let after = part_number_marker.unwrap_or_default();
        let mut world = self.lock();
        let named = world.named(bucket)?;
        if !named
            .uploads
            .contains_key(&(key.clone(), upload_id.clone()))
        {
            return Err(error(
                "NoSuchUpload",
                "The specified upload does not exist.",
            ));
        }
        let numbered = (1..).zip(named.parts.get(upload_id).into_iter().flatten());
        let mut parts: Vec<_> = numbered
            .filter(|(number, _)| *number > after)
            .take(limit + 1)
            .map(|(number, size)| dto::Part {
                part_number: Some(number),
                size: Some(long(*size)),
                ..Default::default()
            })
            .collect();
        let more = parts.len() > limit;
        parts.truncate(limit);
        Ok(S3Response::new(dto::ListPartsOutput {
            bucket: Some(bucket.clone()),
            key: Some(key.clone()),
            upload_id: Some(upload_id.clone()),
            is_truncated: Some(more),
            next_part_number_marker: parts
                .last()
                .filter(|_| more)
                .and_then(|part| part.part_number),
            parts: Some(parts),
            ..Default::default()
        }))
    }

    async fn get_bucket_lifecycle_configuration(
        &self,
        request: S3Request<dto::GetBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<dto::GetBucketLifecycleConfigurationOutput>> {
        let bucket = &request.input.bucket;
        self.begin(
            &request,
            Operation::GetBucketLifecycleConfiguration,
            bucket,
            &[],
        )
        .await?;
        let kept = self.lock().named(bucket)?.noncurrent_days.clone();
        if kept.is_empty() {
            let mut absent = error(
                "NoSuchLifecycleConfiguration",
                "The lifecycle configuration does not exist",
            );
            absent.set_status_code(StatusCode::NOT_FOUND);
            return Err(absent);
        }
        let rule = |(prefix, days): (String, u32)| dto::LifecycleRule {
            status: dto::ExpirationStatus::from_static(dto::ExpirationStatus::ENABLED),
            filter: Some(dto::LifecycleRuleFilter {
                prefix: Some(prefix),
                ..Default::default()
            }),
            noncurrent_version_expiration: Some(dto::NoncurrentVersionExpiration {
                noncurrent_days: Some(i32::try_from(days).unwrap_or(i32::MAX)),
                ..Default::default()
            }),
            abort_incomplete_multipart_upload: None,
            expiration: None,
            id: None,
            noncurrent_version_transitions: None,
            prefix: None,
            transitions: None,
        };
        Ok(S3Response::new(
            dto::GetBucketLifecycleConfigurationOutput {
                rules: Some(kept.into_iter().map(rule).collect()),
                ..Default::default()
            },
        ))
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<dto::ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<dto::ListMultipartUploadsOutput>> {
        let input = &request.input;
        self.begin(
            &request,
            Operation::ListMultipartUploads,
            &input.bucket,
            &[],
        )
        .await?;
        if input
            .delimiter
            .as_ref()
            .is_some_and(|delimiter| !delimiter.is_empty())
        {
            return Err(not_honoured("ListMultipartUploads with a delimiter"));
        }
        let encoding = Encoding::of(input.encoding_type.as_ref())?;
        let limit = page_size(input.max_uploads)?;
        let key_marker = input.key_marker.clone().unwrap_or_default();
        let id_marker = input
            .upload_id_marker
            .clone()
            .filter(|_| !key_marker.is_empty());
        let prefix = input.prefix.as_deref().unwrap_or_default();

        let mut world = self.lock();
        let bucket = world.named(&input.bucket)?;
        let mut uploads: Vec<_> = bucket
            .uploads
            .iter()
            .filter(|((key, id), _)| match &id_marker {
                _ if key_marker.is_empty() => true,
                Some(marker) => (key, id) > (&key_marker, marker),
                None => *key > key_marker,
            })
            .filter(|((key, _), _)| key.starts_with(prefix))
            .take(limit + 1)
            .collect();
        let more = limit > 0 && uploads.len() > limit;
        uploads.truncate(limit);
        let next = uploads
            .last()
            .filter(|_| more)
            .map(|((key, id), _)| (encoding.text(key), id.clone()));
        let (next_key_marker, next_upload_id_marker) = next.unzip();
        let listed = uploads
            .into_iter()
            .map(|((key, id), initiated)| dto::MultipartUpload {
                key: Some(encoding.text(key)),
                upload_id: Some(id.clone()),
                initiated: Some(stamp(*initiated)),
                storage_class: Some(dto::StorageClass::from_static(dto::StorageClass::STANDARD)),
                ..Default::default()
            });
        Ok(S3Response::new(dto::ListMultipartUploadsOutput {
            bucket: Some(input.bucket.clone()),
            prefix: Some(encoding.text(prefix)),
            max_uploads: Some(int(limit)),
            is_truncated: Some(more),
            key_marker: Some(encoding.text(&key_marker)),
            upload_id_marker: Some(id_marker.unwrap_or_default()),
            next_key_marker,
            next_upload_id_marker,
            uploads: Some(listed.collect()),
            encoding_type: encoding.named(),
            ..Default::default()
        }))
    }
}
