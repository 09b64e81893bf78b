//! What AWS knows of the database: the secret that holds its password, and the tokens that
//! sign in without one.

mod ask;
mod secret;
mod token;

pub use secret::{Secret, SecretArn, SecretError};
pub use token::{Token, TokenError};

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};

use crate::s3;

/// The configuration from the environment, the profile and the machine's role; in this
/// region, if one is known.
async fn configuration(region: Option<&str>) -> SdkConfig {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(5))
        .operation_attempt_timeout(Duration::from_secs(10))
        .operation_timeout(Duration::from_secs(30))
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(s3::http_client())
        .retry_config(RetryConfig::standard())
        .timeout_config(timeouts);
    if let Some(region) = region {
        loader = loader.region(Region::new(region.to_owned()));
    }
    loader.load().await
}
