//! One signed question to a service of AWS that speaks JSON: what an SDK of its own would
//! do, for the one operation that is needed.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::time::SystemTime;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::provider::ProvideCredentials as _;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_runtime::client::orchestrator::operation::Operation;
use aws_smithy_runtime::client::retries::classifiers::{
    HttpStatusCodeClassifier, TransientErrorClassifier,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_types::body::SdkBody;
use thiserror::Error;

use crate::s3;

/// What is asked, and where.
pub(super) struct Question<'asked> {
    pub(super) service: &'static str,
    pub(super) target: &'static str,
    pub(super) endpoint: String,
    pub(super) region: &'asked str,
    pub(super) body: String,
}

/// There is no answer.
#[derive(Debug, Error)]
pub(super) enum AskError {
    #[error("there are no AWS credentials to ask with")]
    Credentials(#[source] Box<dyn StdError + Send + Sync>),
    #[error("the question to {endpoint} could not be signed")]
    Unsigned {
        endpoint: String,
        source: Box<dyn StdError + Send + Sync>,
    },
    #[error("{endpoint} did not answer")]
    NoAnswer {
        endpoint: String,
        source: Box<dyn StdError + Send + Sync>,
    },
}

/// Asks; the status and the text of the answer.
pub(super) async fn ask(
    configuration: &SdkConfig,
    question: &Question<'_>,
) -> Result<(u16, String), AskError> {
    let endpoint = question.endpoint.trim_end_matches('/');
    let request = signed(configuration, question, endpoint).await?;
    let no_answer = |source| AskError::NoAnswer {
        endpoint: endpoint.to_owned(),
        source,
    };
    let operation = Operation::builder()
        .service_name(question.service)
        .operation_name(question.target)
        .behavior_version(BehaviorVersion::latest())
        .http_client(configuration.http_client().unwrap_or_else(s3::http_client))
        .endpoint_url(endpoint)
        .no_auth()
        .standard_retry(
            &configuration
                .retry_config()
                .cloned()
                .unwrap_or_else(RetryConfig::standard),
        )
        .retry_classifier(HttpStatusCodeClassifier::default())
        .retry_classifier(TransientErrorClassifier::<Infallible>::new())
        .timeout_config(
            configuration
                .timeout_config()
                .cloned()
                .unwrap_or_else(TimeoutConfig::disabled),
        )
        .serializer(|request: Signed| request.into_request())
        .deserializer::<_, Infallible>(|response: &HttpResponse| {
            let bytes = response.body().bytes().unwrap_or_default();
            Ok((
                response.status().as_u16(),
                String::from_utf8_lossy(bytes).into_owned(),
            ))
        })
        .build();
    operation
        .invoke(request)
        .await
        .map_err(|error| no_answer(error.into()))
}

/// A request as text: what the operation takes is built of it.
#[derive(Debug)]
struct Signed {
    headers: Vec<(String, String)>,
    body: String,
}

impl Signed {
    fn into_request(self) -> Result<HttpRequest, Box<dyn StdError + Send + Sync>> {
        let mut request = HttpRequest::new(SdkBody::from(self.body));
        request.set_method("POST")?;
        // The endpoint is put before it.
        request.set_uri("/")?;
        for (name, value) in self.headers {
            request.headers_mut().try_insert(name, value)?;
        }
        Ok(request)
    }
}

async fn signed(
    configuration: &SdkConfig,
    question: &Question<'_>,
    endpoint: &str,
) -> Result<Signed, AskError> {
    let credentials = configuration
        .credentials_provider()
        .ok_or_else(|| AskError::Credentials("none are configured".into()))?
        .provide_credentials()
        .await
        .map_err(|error| AskError::Credentials(error.into()))?;
    let unsigned = |source| AskError::Unsigned {
        endpoint: endpoint.to_owned(),
        source,
    };
    let identity = credentials.into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(question.region)
        .name(question.service)
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| unsigned(error.into()))?;
    let mut headers = vec![
        (
            "content-type".to_owned(),
            "application/x-amz-json-1.1".to_owned(),
        ),
        ("x-amz-target".to_owned(), question.target.to_owned()),
    ];
    let request = SignableRequest::new(
        "POST",
        format!("{endpoint}/"),
        headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
        SignableBody::Bytes(question.body.as_bytes()),
    )
    .map_err(|error| unsigned(error.into()))?;
    let (instructions, _) = sign(request, &parameters.into())
        .map_err(|error| unsigned(error.into()))?
        .into_parts();
    headers.extend(
        instructions
            .headers()
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    Ok(Signed {
        headers,
        body: question.body.clone(),
    })
}
