//! What is asked of AWS beside S3: the secret that holds the database's password, the tokens
//! that sign in without one, and the function that gives deleted objects back.

mod arn;
mod ask;
mod function;
mod secret;
mod token;

pub use function::{FunctionArn, UndoFunction};
pub use secret::{Secret, SecretArn, SecretError};
pub use token::{Token, TokenError};

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};

use crate::s3;

/// All but what a part of an address takes as it is
/// (<https://datatracker.ietf.org/doc/html/rfc3986#section-2.3>).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// How long an answer may take.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// One attempt at it.
    attempt: Duration,
    /// All of them.
    whole: Duration,
}

/// For what is ready at once.
const PATIENCE: Patience = Patience {
    attempt: Duration::from_secs(10),
    whole: Duration::from_secs(30),
};

/// The configuration from the environment, the profile and the machine's role; in this
/// region, if one is known. No question waits longer than that for its answer.
async fn configuration(region: Option<&str>, patience: Patience) -> SdkConfig {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(5))
        .operation_attempt_timeout(patience.attempt)
        .operation_timeout(patience.whole)
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(s3::http_client())
        .retry_config(RetryConfig::standard())
        .timeout_config(timeouts);
    if let Some(region) = region {
        loader = loader.region(Region::new(region.to_owned()));
    }
    s3::signable(loader.load().await)
}
