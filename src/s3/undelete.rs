//! Delete markers, taken away. The only place of the program that removes a version.

use super::bucket::{Bucket, said};
use crate::hands::LookError;
use crate::key::ObjectKey;
use crate::undelete::{Top, Undelete, Wanted};

/// Takes delete markers of a bucket away.
#[derive(Debug)]
pub struct Undeleter(Bucket);

impl Undeleter {
    /// The hands of a restoration.
    #[must_use]
    pub fn new(bucket: Bucket) -> Self {
        Self(bucket)
    }
}

impl Undelete for Undeleter {
    async fn top(&self, key: &ObjectKey) -> Result<Top, LookError> {
        self.0.top(key).await
    }

    async fn has_version(&self, key: &ObjectKey, wanted: &Wanted<'_>) -> Result<bool, LookError> {
        self.0.has_version(key, wanted).await
    }

    async fn remove_marker(&self, key: &ObjectKey, id: &str) -> Result<(), LookError> {
        // A repetition after a lost answer is harmless: the id names one version for ever.
        self.0
            .client
            .delete_object()
            .bucket(&self.0.name)
            .key(key.as_str())
            .version_id(id)
            .send()
            .await
            .map(|_| ())
            .map_err(|error| {
                let said = said(&error);
                LookError {
                    code: said.code,
                    message: said.message,
                }
            })
    }
}
