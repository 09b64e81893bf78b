//! The S3 client, from the standard AWS configuration.

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{Builder, RequestChecksumCalculation, SharedHttpClient};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;

use super::signable::signable;

/// How long one attempt at a request may take. `DeleteObjects` of 1,000 keys takes S3 well
/// under this.
const ATTEMPT: Duration = Duration::from_secs(20);

/// Attempts at a request that only reads.
const ATTEMPTS: u32 = 6;

/// Makes the client from the environment, the profile and the machine's role.
///
/// A custom endpoint (`AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL` or the profile's) is
/// addressed in path style and needs no region.
pub async fn connect() -> Client {
    let loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http_client());
    client(&signable(loader.load().await))
}

/// What speaks HTTP and TLS for the SDK.
#[must_use]
pub fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https()
}

/// Makes the client from a configuration that was already read.
#[must_use]
pub fn client(shared: &SdkConfig) -> Client {
    Client::from_conf(configure(shared, custom_endpoint(shared)))
}

fn custom_endpoint(shared: &SdkConfig) -> bool {
    let set = |name| std::env::var(name).is_ok_and(|value| !value.is_empty());
    shared.endpoint_url().is_some() || set("AWS_ENDPOINT_URL_S3") || set("AWS_ENDPOINT_URL")
}

fn configure(shared: &SdkConfig, custom_endpoint: bool) -> aws_sdk_s3::Config {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(5))
        .operation_attempt_timeout(ATTEMPT)
        .build();
    let mut config = Builder::from(shared)
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
        .timeout_config(timeouts)
        // Servers other than S3 know the checksums that S3 requires, not all that it offers.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired);
    if shared.http_client().is_none() {
        config = config.http_client(http_client());
    }
    if custom_endpoint {
        config = config.force_path_style(true);
        if shared.region().is_none() {
            config = config.region(Region::from_static("us-east-1"));
        }
    }
    config.build()
}
