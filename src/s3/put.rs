//! Writes objects of the ledger.

use std::path::Path;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::primitives::ByteStream;
use thiserror::Error;

use super::bucket::{Said, said};

/// An object of the ledger could not be written or read.
#[derive(Debug, Error)]
#[error("{code}: {message}")]
pub struct PutError {
    code: String,
    message: String,
}

impl From<Said> for PutError {
    fn from(said: Said) -> Self {
        Self {
            code: said.code.unwrap_or_else(|| "NoAnswer".to_owned()),
            message: said.message,
        }
    }
}

/// A long plan may take longer than an ordinary request.
const UPLOAD: Duration = Duration::from_mins(5);

/// Writes a small object.
///
/// # Errors
/// S3 refuses or does not answer.
pub async fn put(client: &Client, bucket: &str, key: &str, bytes: Vec<u8>) -> Result<(), PutError> {
    send(client, bucket, key, ByteStream::from(bytes)).await
}

/// Writes an object from a file of at most 5 GiB
/// (<https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html>).
///
/// # Errors
/// The file cannot be read, or S3 refuses or does not answer.
pub async fn put_file(
    client: &Client,
    bucket: &str,
    key: &str,
    file: &Path,
) -> Result<(), PutError> {
    let body = ByteStream::from_path(file)
        .await
        .map_err(|error| PutError {
            code: "File".to_owned(),
            message: error.to_string(),
        })?;
    send(client, bucket, key, body).await
}

async fn send(client: &Client, bucket: &str, key: &str, body: ByteStream) -> Result<(), PutError> {
    let timeouts = TimeoutConfig::builder()
        .operation_attempt_timeout(UPLOAD)
        .build();
    let sent = client
        .put_object()
        .bucket(bucket)
        .key(key)
        .body(body)
        .customize()
        .config_override(aws_sdk_s3::Config::builder().timeout_config(timeouts))
        .send()
        .await;
    match sent {
        Ok(_) => Ok(()),
        Err(error) => Err(said(&error).into()),
    }
}
