//! Who knows where the database is and how to sign in there.

use std::error::Error as StdError;
use std::fmt;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use thiserror::Error;

use super::DatabaseUrl;

/// How to sign in could not be learnt.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct AccessError(Box<dyn StdError + Send + Sync>);

impl AccessError {
    /// For this reason.
    pub fn new(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

/// Who knows where the database is and how to sign in there.
pub trait Access: fmt::Debug + Send + Sync {
    /// The address, with what signs in now.
    fn address(&self) -> BoxFuture<'_, Result<DatabaseUrl, AccessError>>;

    /// The address once more, after the server refused what signed in: read anew, or `None`
    /// when nothing else can come of it.
    fn renewed(&self) -> BoxFuture<'_, Result<Option<DatabaseUrl>, AccessError>>;
}

/// An address that holds its password.
impl Access for DatabaseUrl {
    fn address(&self) -> BoxFuture<'_, Result<DatabaseUrl, AccessError>> {
        async { Ok(self.clone()) }.boxed()
    }

    fn renewed(&self) -> BoxFuture<'_, Result<Option<DatabaseUrl>, AccessError>> {
        async { Ok(None) }.boxed()
    }
}
