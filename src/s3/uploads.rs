//! Multipart uploads that were begun and not ended.

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::EncodingType;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use percent_encoding::percent_decode_str;

use super::bucket::{Bucket, said, timestamp};
use super::delete::Deleter;
use crate::hands::LookError;
use crate::key::ObjectKey;
use crate::uploads::{AbortUpload, ListUploads, Upload, UploadPage};

fn look_error<E>(error: &SdkError<E, HttpResponse>) -> LookError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let said = said(error);
    LookError {
        code: said.code,
        message: said.message,
    }
}

impl ListUploads for Bucket {
    async fn uploads(&self, after: Option<&(String, String)>) -> Result<UploadPage, LookError> {
        let (key, id) = after.cloned().unzip();
        let prefix = Some(self.prefix.as_str()).filter(|prefix| !prefix.is_empty());
        let page = self
            .client
            .list_multipart_uploads()
            .bucket(&self.name)
            .set_prefix(prefix.map(str::to_owned))
            .encoding_type(EncodingType::Url)
            .set_key_marker(key)
            .set_upload_id_marker(id)
            .send()
            .await
            .map_err(|error| look_error(&error))?;
        let url = page.encoding_type == Some(EncodingType::Url);
        let decode = |text: &str| {
            if !url {
                return Ok(text.to_owned());
            }
            percent_decode_str(&text.replace('+', " "))
                .decode_utf8()
                .map(std::borrow::Cow::into_owned)
                .map_err(|_| LookError {
                    code: Some("Key".to_owned()),
                    message: "the key of an upload is not UTF-8".to_owned(),
                })
        };
        let mut uploads = Vec::new();
        for upload in page.uploads() {
            let (Some(key), Some(id)) = (upload.key(), upload.upload_id()) else {
                continue;
            };
            let key = decode(key)?;
            if self.prefix.contains(&key) {
                uploads.push(Upload {
                    key: ObjectKey::new(key),
                    id: id.to_owned(),
                    initiated: upload.initiated.and_then(timestamp),
                });
            }
        }
        let next = match (page.next_key_marker(), page.next_upload_id_marker()) {
            (Some(key), Some(id)) if page.is_truncated == Some(true) => {
                Some((decode(key)?, id.to_owned()))
            }
            _ if page.is_truncated == Some(true) => {
                return Err(LookError {
                    code: Some("NoMarker".to_owned()),
                    message: "a page of uploads claims to go on and does not say where".to_owned(),
                });
            }
            _ => None,
        };
        Ok(UploadPage { uploads, next })
    }

    async fn upload_bytes(&self, upload: &Upload) -> Result<u64, LookError> {
        let mut bytes = 0;
        let mut after: Option<String> = None;
        loop {
            let page = self
                .client
                .list_parts()
                .bucket(&self.name)
                .key(upload.key.as_str())
                .upload_id(&upload.id)
                .set_part_number_marker(after.clone())
                .send()
                .await
                .map_err(|error| look_error(&error))?;
            for part in page.parts() {
                bytes += part
                    .size
                    .and_then(|size| u64::try_from(size).ok())
                    .unwrap_or(0);
            }
            match page.next_part_number_marker {
                Some(next) if page.is_truncated == Some(true) && after.as_ref() != Some(&next) => {
                    after = Some(next);
                }
                _ => return Ok(bytes),
            }
        }
    }
}

impl AbortUpload for Deleter {
    async fn abort(&self, upload: &Upload) -> Result<bool, LookError> {
        let bucket = self.bucket();
        let sent = bucket
            .client
            .abort_multipart_upload()
            .bucket(&bucket.name)
            .key(upload.key.as_str())
            .upload_id(&upload.id)
            .send()
            .await;
        match sent {
            Ok(_) => Ok(true),
            Err(error) => match look_error(&error) {
                // Completed or aborted by somebody else meanwhile.
                LookError {
                    code: Some(code), ..
                } if code == "NoSuchUpload" => Ok(false),
                error => Err(error),
            },
        }
    }
}
