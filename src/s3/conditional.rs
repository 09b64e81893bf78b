//! Writes on a condition, and reads what others wrote: what a ledger needs to hold two runs
//! apart (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html>).

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;

use super::bucket::{Said, said};
use super::put::PutError;
use crate::chain::chain;

/// On what condition an object is written.
#[derive(Debug, Clone, Copy)]
pub enum Condition<'lock> {
    /// Nothing is there.
    Absent,
    /// What is there carries this entity tag.
    Unchanged(&'lock str),
}

/// What became of it.
#[derive(Debug)]
pub enum Put {
    /// It was written, and carries this entity tag.
    Written(String),
    /// The condition is not met, or somebody was writing at the same time.
    Unmet,
    /// The storage takes no such condition.
    NotHonoured,
}

/// Writes a small object on a condition.
///
/// # Errors
/// S3 refuses or does not answer.
pub async fn put_if(
    client: &Client,
    bucket: &str,
    key: &str,
    bytes: Vec<u8>,
    condition: Condition<'_>,
) -> Result<Put, PutError> {
    let request = client
        .put_object()
        .bucket(bucket)
        .key(key)
        .body(ByteStream::from(bytes));
    let request = match condition {
        Condition::Absent => request.if_none_match("*"),
        Condition::Unchanged(etag) => request.if_match(etag),
    };
    match request.send().await {
        Ok(written) => Ok(Put::Written(written.e_tag.unwrap_or_default())),
        Err(error) => match said(&error) {
            // Gone since it was read is a condition that is not met, too.
            Said {
                status: Some(404 | 409 | 412),
                code: Some(code),
                ..
            } if code != "NoSuchBucket" => Ok(Put::Unmet),
            Said {
                status: Some(501), ..
            } => Ok(Put::NotHonoured),
            said => Err(said.into()),
        },
    }
}

/// Reads a small object: its bytes and its entity tag, or `None` where nothing is.
///
/// # Errors
/// S3 refuses or does not answer.
pub async fn get(
    client: &Client,
    bucket: &str,
    key: &str,
) -> Result<Option<(Vec<u8>, String)>, PutError> {
    let found = match client.get_object().bucket(bucket).key(key).send().await {
        Ok(found) => found,
        Err(error) => {
            let mut said = said(&error);
            return match said.code.as_deref() {
                Some("NoSuchKey") => Ok(None),
                // Whoever may not list the bucket is told so of an absent object, too.
                Some("AccessDenied") => {
                    said.message.push_str(
                        " (reading back what was written needs s3:GetObject, and s3:ListBucket to be told that nothing is there)",
                    );
                    Err(said.into())
                }
                _ => Err(said.into()),
            };
        }
    };
    let etag = found.e_tag.unwrap_or_default();
    let body = found.body.collect().await.map_err(|error| {
        PutError::from(Said {
            code: None,
            message: chain(&error),
            status: None,
        })
    })?;
    Ok(Some((body.to_vec(), etag)))
}
