//! Reads small objects of the ledger.

use aws_sdk_s3::Client;
use thiserror::Error;

use super::bucket::said;
use crate::chain::chain;

/// An object could not be read.
#[derive(Debug, Error)]
#[error("{code}: {message}")]
pub struct GetError {
    code: String,
    message: String,
}

/// Reads a small object; `None` where there is none. (Whoever may not list the bucket is told
/// `AccessDenied` of an absent one.)
///
/// # Errors
/// S3 refuses or does not answer.
pub async fn get(client: &Client, bucket: &str, key: &str) -> Result<Option<Vec<u8>>, GetError> {
    let sent = client.get_object().bucket(bucket).key(key).send().await;
    let answer = match sent {
        Ok(answer) => answer,
        Err(error) => {
            let said = said(&error);
            let code = said.code.unwrap_or_else(|| "NoAnswer".to_owned());
            return match code.as_str() {
                "NoSuchKey" => Ok(None),
                "AccessDenied" => Err(GetError {
                    code,
                    message: format!(
                        "{} (reading back what was written needs s3:GetObject, and s3:ListBucket to be told that nothing is there)",
                        said.message
                    ),
                }),
                _ => Err(GetError {
                    code,
                    message: said.message,
                }),
            };
        }
    };
    let body = answer.body.collect().await.map_err(|error| GetError {
        code: "NoAnswer".to_owned(),
        message: chain(&error),
    })?;
    Ok(Some(body.to_vec()))
}
