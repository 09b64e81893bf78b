//! Conditional deletion. The only place of the program that deletes objects.

use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::error::{BuildError, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{Delete as DeleteRequest, ObjectIdentifier};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use jiff::Timestamp;

use super::bucket::{Bucket, said};
use crate::chain::unsigned;
use crate::hands::{BatchFault, Current, Delete, Look, LookError};
use crate::key::ObjectKey;
use crate::object::Orphan;
use crate::reconcile::{BatchAnswer, DeletedKey, KeyError};
use crate::undelete::{VersionKind, Wanted};

/// Deletes objects of a bucket, each on the condition of its entity tag.
#[derive(Debug)]
pub struct Deleter(Bucket);

impl Deleter {
    /// The hands of a real sweep; a dry run must not make one.
    #[must_use]
    pub fn new(bucket: Bucket) -> Self {
        Self(bucket)
    }

    pub(super) fn bucket(&self) -> &Bucket {
        &self.0
    }
}

/// A deletion is sent once: when its answer is lost, a repetition could report the first
/// one's work as somebody else's.
fn once() -> aws_sdk_s3::config::Builder {
    aws_sdk_s3::Config::builder().retry_config(RetryConfig::disabled())
}

fn fault<E>(error: &SdkError<E, HttpResponse>) -> BatchFault
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let unsent = matches!(error, SdkError::ConstructionFailure(_));
    let said = said(error);
    let slow_down = said.asks_to_slow_down();
    let message = said.message;
    match (said.code, said.status) {
        (None, _) if unsent => BatchFault::Refused {
            code: "Request".to_owned(),
            message,
        },
        // (What comes from something in between may have been passed on.)
        (Some(code), _) if slow_down => BatchFault::Throttled { code },
        (Some(code), Some(400..500))
            if matches!(code.as_str(), "MalformedXML" | "KeyTooLongError") =>
        {
            BatchFault::Unreadable { code, message }
        }
        (Some(code), Some(400..500)) => BatchFault::Refused { code, message },
        (_, _) => BatchFault::Lost { message },
    }
}

fn unbuilt(error: &BuildError) -> BatchFault {
    BatchFault::Refused {
        code: "Request".to_owned(),
        message: error.to_string(),
    }
}

impl Look for Deleter {
    async fn look(&self, key: &ObjectKey) -> Result<Current, LookError> {
        self.0.look(key).await
    }
}

impl Delete for Deleter {
    async fn delete_batch(&self, orphans: &[Orphan]) -> Result<BatchAnswer, BatchFault> {
        let identify = |orphan: &Orphan| {
            ObjectIdentifier::builder()
                .key(orphan.key.as_str())
                .e_tag(orphan.etag.as_str())
                .build()
        };
        let objects = orphans
            .iter()
            .map(identify)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| unbuilt(&error))?;
        let request = DeleteRequest::builder()
            .set_objects(Some(objects))
            .quiet(false)
            .build()
            .map_err(|error| unbuilt(&error))?;
        let answer = self
            .0
            .client
            .delete_objects()
            .bucket(&self.0.name)
            .delete(request)
            .customize()
            .config_override(once())
            .send()
            .await
            .map_err(|error| fault(&error))?;
        let deleted = answer
            .deleted
            .unwrap_or_default()
            .into_iter()
            .filter_map(|deleted| {
                let marker = deleted
                    .delete_marker_version_id
                    .filter(|_| deleted.delete_marker == Some(true));
                Some(DeletedKey {
                    key: deleted.key?,
                    marker,
                })
            });
        let errors = answer
            .errors
            .unwrap_or_default()
            .into_iter()
            .filter_map(|error| {
                Some(KeyError {
                    key: error.key?,
                    code: error.code.unwrap_or_else(|| "NoCode".to_owned()),
                    message: unsigned(&error.message.unwrap_or_default()).into_owned(),
                })
            });
        Ok(BatchAnswer {
            deleted: deleted.collect(),
            errors: errors.collect(),
        })
    }

    async fn delete_alone(&self, orphan: &Orphan) -> Result<BatchAnswer, BatchFault> {
        let key = orphan.key.as_str().to_owned();
        let sent = self
            .0
            .client
            .delete_object()
            .bucket(&self.0.name)
            .key(&key)
            .if_match(orphan.etag.as_str())
            .customize()
            .config_override(once())
            .send()
            .await;
        match sent {
            Ok(answer) => {
                let marker = answer
                    .version_id
                    .filter(|_| answer.delete_marker == Some(true));
                Ok(BatchAnswer {
                    deleted: vec![DeletedKey { key, marker }],
                    errors: Vec::new(),
                })
            }
            Err(error) => match fault(&error) {
                // About one key, a refusal is that key's.
                BatchFault::Refused { code, message }
                | BatchFault::Unreadable { code, message } => Ok(BatchAnswer {
                    deleted: Vec::new(),
                    errors: vec![KeyError { key, code, message }],
                }),
                fault => Err(fault),
            },
        }
    }

    async fn marker_over(
        &self,
        orphan: &Orphan,
        since: Timestamp,
    ) -> Result<Option<String>, LookError> {
        // S3's times are whole seconds.
        let is_since =
            |at: Option<Timestamp>| at.is_some_and(|at| at.as_second() >= since.as_second());
        let top = self.0.top(&orphan.key).await?;
        let stands_below = top
            .below
            .is_some_and(|below| Wanted::Tag(&orphan.etag).is(&below));
        let marker = top.newest.filter(|newest| {
            stands_below && newest.kind == VersionKind::Marker && is_since(newest.last_modified)
        });
        Ok(marker.map(|marker| marker.id).filter(|id| !id.is_empty()))
    }
}
