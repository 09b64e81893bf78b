//! Reads objects of the ledger.

use std::path::Path;

use aws_sdk_s3::Client;
use jiff::Timestamp;
use thiserror::Error;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;

use super::bucket::{said, timestamp};

/// An object could not be read.
#[derive(Debug, Error)]
#[error("{code}: {message}")]
pub struct GetError {
    /// S3's error code, or what kind of failure it was.
    pub code: String,
    message: String,
}

impl GetError {
    fn new(code: &str, message: &(impl ToString + ?Sized)) -> Self {
        Self {
            code: code.to_owned(),
            message: message.to_string(),
        }
    }

    /// Whether there is no such object.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.code == "NoSuchKey"
    }
}

fn failed<E>(
    error: &aws_sdk_s3::error::SdkError<
        E,
        aws_smithy_runtime_api::client::orchestrator::HttpResponse,
    >,
) -> GetError
where
    E: aws_sdk_s3::error::ProvideErrorMetadata + std::error::Error + 'static,
{
    let said = said(error);
    GetError {
        code: said.code.unwrap_or_else(|| "NoAnswer".to_owned()),
        message: said.message,
    }
}

/// Reads an object into a file; when it was written.
///
/// # Errors
/// S3 refuses, does not answer, or breaks off; or the file cannot be written.
pub async fn get_file(
    client: &Client,
    bucket: &str,
    key: &str,
    to: &Path,
) -> Result<Option<Timestamp>, GetError> {
    let mut answer = client
        .get_object()
        .bucket(bucket)
        .key(key)
        .send()
        .await
        .map_err(|error| failed(&error))?;
    let local = |error: std::io::Error| GetError::new("File", &error);
    let mut file = File::create(to).await.map_err(local)?;
    while let Some(bytes) = answer.body.next().await {
        let bytes = bytes.map_err(|error| GetError::new("Body", &crate::chain::chain(&error)))?;
        file.write_all(&bytes).await.map_err(local)?;
    }
    file.flush().await.map_err(local)?;
    Ok(answer.last_modified.and_then(timestamp))
}

/// The keys below a prefix that this program itself named, with the times of their objects.
///
/// # Errors
/// S3 refuses, does not answer, or its pages do not end.
pub async fn names(
    client: &Client,
    bucket: &str,
    prefix: &str,
) -> Result<Vec<(String, Option<Timestamp>)>, GetError> {
    let mut names: Vec<(String, Option<Timestamp>)> = Vec::new();
    loop {
        let after = names.last().map(|(key, _)| key.clone());
        let page = client
            .list_objects_v2()
            .bucket(bucket)
            .prefix(prefix)
            .set_start_after(after.clone())
            .send()
            .await
            .map_err(|error| failed(&error))?;
        for object in page.contents() {
            let Some(key) = object.key() else { continue };
            if names
                .last()
                .is_some_and(|(before, _)| before.as_str() >= key)
            {
                return Err(GetError::new("Disorder", "the listing is out of order"));
            }
            names.push((key.to_owned(), object.last_modified.and_then(timestamp)));
        }
        match page.is_truncated {
            Some(false) => return Ok(names),
            _ if names.last().map(|(key, _)| key) == after.as_ref() => {
                return Err(GetError::new(
                    "Page",
                    "a page without an object says that more follow",
                ));
            }
            _ => {}
        }
    }
}

/// The folders right below a prefix, with the slash at their ends.
///
/// # Errors
/// S3 refuses, does not answer, or its pages do not end.
pub async fn folders(client: &Client, bucket: &str, prefix: &str) -> Result<Vec<String>, GetError> {
    let mut folders: Vec<String> = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let page = client
            .list_objects_v2()
            .bucket(bucket)
            .prefix(prefix)
            .delimiter("/")
            .set_continuation_token(token.clone())
            .send()
            .await
            .map_err(|error| failed(&error))?;
        let found = page.common_prefixes().iter();
        folders.extend(found.filter_map(|folder| folder.prefix().map(str::to_owned)));
        if page.is_truncated == Some(false) {
            return Ok(folders);
        }
        let next = page.next_continuation_token;
        if next.is_none() || next == token {
            return Err(GetError::new(
                "Page",
                "a page says that more follow, and not where",
            ));
        }
        token = next;
    }
}
