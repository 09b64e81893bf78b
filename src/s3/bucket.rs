//! The bucket as far as a run reads it: what it is, its pages, single objects.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::ConfigBag;
use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_s3::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Error;
use aws_sdk_s3::primitives::{ByteStream, DateTime, SdkBody};
use aws_sdk_s3::types::{BucketVersioningStatus, EncodingType};
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::retries::classifiers::{
    ClassifyRetry, RetryAction, RetryClassifierPriority,
};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use bytes::Bytes;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use thiserror::Error;

use super::page;
use crate::chain::{chain, unsigned};
use crate::guards::Versioning;
use crate::hands::{Current, Look, LookError};
use crate::key::{ObjectKey, Prefix};
use crate::listing::{ListError, Page, PageStart, Pages};
use crate::object::ETag;

/// Keys in a page, at most
/// (<https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html>).
const MAX_KEYS: i32 = 1_000;

/// Attempts at a page whose body breaks off; the SDK repeats only what fails before the
/// body.
const BODY_ATTEMPTS: u32 = 3;

/// A bucket could not be read.
#[derive(Debug, Error)]
#[error("could not {tried} bucket {bucket}: {code}: {message}")]
pub struct BucketError {
    tried: &'static str,
    bucket: String,
    /// S3's error code, or what kind of failure it was.
    pub code: String,
    message: String,
}

/// What S3 said, for people.
pub(crate) struct Said {
    pub(super) code: Option<String>,
    pub(super) message: String,
    pub(super) status: Option<u16>,
}

/// What there is to say about an error of the SDK: S3's own code and words, or the chain of
/// causes when it did not answer.
pub(crate) fn said<E>(error: &SdkError<E, HttpResponse>) -> Said
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let status = error
        .raw_response()
        .map(|response| response.status().as_u16());
    match error {
        SdkError::ServiceError(service) => {
            let code = service.err().code().map(str::to_owned).or_else(|| {
                // A HEAD has no body to carry a code.
                match status? {
                    403 => Some("AccessDenied".to_owned()),
                    404 => Some("NotFound".to_owned()),
                    412 => Some("PreconditionFailed".to_owned()),
                    status => Some(format!("Http{status}")),
                }
            });
            let message = service.err().message().unwrap_or("S3 gave no reason");
            Said {
                code,
                message: unsigned(message).into_owned(),
                status,
            }
        }
        other => Said {
            code: None,
            message: chain(other),
            status,
        },
    }
}

impl Said {
    /// Whether S3 itself asks to slow down. A bare status comes from something in between.
    pub(super) fn asks_to_slow_down(&self) -> bool {
        let Some(code) = &self.code else { return false };
        code == "SlowDown" || matches!(self.status, Some(429 | 503)) && !code.starts_with("Http")
    }
}

/// Keeps the SDK from repeating what S3 refused with the wish to slow down.
#[derive(Debug)]
struct SlowDown;

impl ClassifyRetry for SlowDown {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let Some(Err(error)) = context.output_or_error() else {
            return RetryAction::NoActionIndicated;
        };
        let code = error
            .as_operation_error()
            .and_then(|error| error.downcast_ref::<ListObjectsV2Error>())
            .and_then(ProvideErrorMetadata::code);
        let said = Said {
            code: code.map(str::to_owned),
            message: String::new(),
            status: context
                .response()
                .map(|response| response.status().as_u16()),
        };
        if said.asks_to_slow_down() {
            RetryAction::RetryForbidden
        } else {
            RetryAction::NoActionIndicated
        }
    }

    fn name(&self) -> &'static str {
        "SlowDown"
    }

    fn priority(&self) -> RetryClassifierPriority {
        // Whoever comes later has the last word.
        RetryClassifierPriority::run_after(RetryClassifierPriority::transient_error_classifier())
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.code {
            Some(code) => write!(f, "{code}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// A bucket, and the prefix that a run is about.
#[derive(Debug, Clone)]
pub struct Bucket {
    pub(super) client: Client,
    /// The same client, but that it hands on S3's wish to slow down: the SDK would keep each
    /// page waiting for itself, longer every time, where all of them are too fast.
    lister: Client,
    pub(super) name: String,
    pub(super) prefix: Prefix,
}

impl Bucket {
    /// The bucket of this name below the prefix.
    #[must_use]
    pub fn new(client: Client, name: &str, prefix: Prefix) -> Self {
        let handing_on = client.config().to_builder().retry_classifier(SlowDown);
        Self {
            lister: Client::from_conf(handing_on.build()),
            client,
            name: name.to_owned(),
            prefix,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the bucket keeps versions, and S3's clock: the first question of a run.
    ///
    /// # Errors
    /// The bucket does not exist or may not be asked, or the answer has no `Date`.
    pub async fn ground(&self) -> Result<(Versioning, Timestamp), BucketError> {
        let failed = |code: String, message: String| BucketError {
            tried: "read the versioning of",
            bucket: self.name.clone(),
            code,
            message,
        };
        let tap = Tap::default();
        let answer = self
            .client
            .get_bucket_versioning()
            .bucket(&self.name)
            .customize()
            .interceptor(tap.clone())
            .send()
            .await
            .map_err(|error| {
                let said = said(&error);
                failed(
                    said.code.unwrap_or_else(|| "NoAnswer".to_owned()),
                    said.message,
                )
            })?;
        let date = tap.take().date.ok_or_else(|| {
            failed(
                "NoDate".to_owned(),
                "the answer has no readable Date, so the age of objects cannot be told".to_owned(),
            )
        })?;
        let versioning = match answer.status {
            Some(BucketVersioningStatus::Enabled) => Versioning::Enabled,
            Some(BucketVersioningStatus::Suspended) => Versioning::Suspended,
            None => Versioning::Off,
            Some(other) => {
                return Err(failed(
                    "Versioning".to_owned(),
                    format!("the status {:?} is not known", other.as_str()),
                ));
            }
        };
        Ok((versioning, date))
    }

    async fn fetch(&self, start: &PageStart) -> Result<Bytes, ListError> {
        let mut request = self
            .lister
            .list_objects_v2()
            .bucket(&self.name)
            .encoding_type(EncodingType::Url)
            .max_keys(MAX_KEYS);
        if !self.prefix.as_str().is_empty() {
            request = request.prefix(self.prefix.as_str());
        }
        request = match start {
            PageStart::After(after) => {
                request.set_start_after(after.as_ref().map(|key| key.as_str().to_owned()))
            }
            PageStart::Token(token) => request.continuation_token(token),
        };
        let mut attempt = 1;
        loop {
            let tap = Tap::keeping_body();
            request
                .clone()
                .customize()
                .interceptor(tap.clone())
                .send()
                .await
                .map_err(|error| {
                    let said = said(&error);
                    let slow_down = said.asks_to_slow_down();
                    let code = said.code.unwrap_or_else(|| "no answer".to_owned());
                    let context = format!("{code}: {}", said.message);
                    if slow_down {
                        ListError::SlowDown { context }
                    } else {
                        ListError::Storage {
                            context,
                            source: None,
                        }
                    }
                })?;
            let body = tap
                .take()
                .body
                .ok_or_else(|| ListError::Page("the answer has no body".to_owned()))?;
            match ByteStream::new(body).collect().await {
                // (`to_vec` would copy it byte by byte, a third of a page's time.)
                Ok(body) => return Ok(body.into_bytes()),
                Err(error) if attempt == BODY_ATTEMPTS => {
                    return Err(ListError::Storage {
                        context: "a page broke off again and again".to_owned(),
                        source: Some(error.into()),
                    });
                }
                Err(error) => {
                    tracing::warn!(attempt, error = chain(&error), "a page broke off");
                    attempt += 1;
                }
            }
        }
    }
}

impl Pages for Bucket {
    async fn page(&self, start: &PageStart) -> Result<Page, ListError> {
        let body = self.fetch(start).await?;
        let page = page::parse(&body).map_err(|fault| ListError::Page(fault.to_string()))?;
        if let Some(outside) = page
            .objects()
            .find(|object| !self.prefix.contains(object.key))
        {
            return Err(ListError::Outside {
                key: ObjectKey::new(outside.key),
                prefix: self.prefix.to_string(),
            });
        }
        Ok(page)
    }
}

impl Look for Bucket {
    async fn look(&self, key: &ObjectKey) -> Result<Current, LookError> {
        match self
            .client
            .head_object()
            .bucket(&self.name)
            .key(key.as_str())
            .send()
            .await
        {
            Ok(head) => Ok(Current::Present {
                etag: head.e_tag.map(ETag::new),
                last_modified: head.last_modified.and_then(timestamp),
            }),
            Err(error) => {
                let said = said(&error);
                // A delete marker as the current version answers 404, too.
                if said.status == Some(404) {
                    return Ok(Current::Absent);
                }
                Err(LookError {
                    code: said.code,
                    message: said.message,
                })
            }
        }
    }
}

/// The SDK's time as ours; `None` where it lies outside of what can be told.
pub(super) fn timestamp(at: DateTime) -> Option<Timestamp> {
    Timestamp::new(at.secs(), i32::try_from(at.subsec_nanos()).ok()?).ok()
}

/// Takes from an answer what the SDK would not hand out: its `Date`, and the body before it
/// is deserialised. So the SDK keeps doing what it does well (credentials, endpoints,
/// signatures, retries) and [`page`] reads the listing.
#[derive(Debug, Clone, Default)]
struct Tap {
    keep_body: bool,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    date: Option<Timestamp>,
    body: Option<SdkBody>,
}

impl Tap {
    fn keeping_body() -> Self {
        Self {
            keep_body: true,
            ..Self::default()
        }
    }

    fn take(&self) -> Taken {
        std::mem::take(&mut self.taken.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the SDK deserialises instead of the page.
const STUB: &str = "<ListBucketResult/>";

impl Intercept for Tap {
    fn name(&self) -> &'static str {
        "Tap"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response_mut();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.date = response
            .headers()
            .get("date")
            .and_then(|date| rfc2822::DateTimeParser::new().parse_timestamp(date).ok());
        // Errors stay whole: the SDK reads their codes.
        if self.keep_body && response.status().is_success() {
            taken.body = Some(std::mem::replace(response.body_mut(), SdkBody::from(STUB)));
        }
        Ok(())
    }
}
