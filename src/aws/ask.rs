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
use serde::Deserialize;
use thiserror::Error;

use crate::s3;

/// What is asked, and where.
pub(super) struct Question<'asked> {
    pub(super) service: &'static str,
    pub(super) operation: &'static str,
    pub(super) endpoint: String,
    /// Begins with a slash; percent-encoded.
    pub(super) path: String,
    pub(super) region: &'asked str,
    pub(super) headers: &'asked [(&'static str, &'static str)],
    pub(super) body: String,
}

/// What was answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Lambda's word for it that the function failed, or the name of a refusal.
    pub(super) failed: Option<String>,
    pub(super) text: String,
}

impl Answer {
    /// Code and words of a refusal by this service.
    pub(super) fn refusal(&self, service: &str) -> (String, String) {
        #[derive(Deserialize)]
        struct Refusal {
            #[serde(rename = "__type")]
            kind: Option<String>,
            #[serde(alias = "Message")]
            message: Option<String>,
        }
        let refusal: Option<Refusal> = serde_json::from_str(&self.text).ok();
        let (kind, message) = refusal.map_or((None, None), |said| (said.kind, said.message));
        // The type may have a namespace before it, and an address behind it.
        let code = kind
            .as_ref()
            .or(self.failed.as_ref())
            .and_then(|kind| kind.rsplit('#').next()?.split(':').next())
            .map(str::to_owned);
        (
            code.unwrap_or_else(|| format!("Http{}", self.status)),
            message.unwrap_or_else(|| format!("{service} gave no reason")),
        )
    }
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

/// Asks.
pub(super) async fn ask(
    configuration: &SdkConfig,
    question: &Question<'_>,
) -> Result<Answer, AskError> {
    let endpoint = question.endpoint.trim_end_matches('/');
    let request = signed(configuration, question, endpoint).await?;
    let no_answer = |source| AskError::NoAnswer {
        endpoint: endpoint.to_owned(),
        source,
    };
    let operation = Operation::builder()
        .service_name(question.service)
        .operation_name(question.operation)
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
            let header = |name| response.headers().get(name).map(str::to_owned);
            Ok(Answer {
                status: response.status().as_u16(),
                failed: header("x-amz-function-error").or_else(|| header("x-amzn-errortype")),
                text: String::from_utf8_lossy(bytes).into_owned(),
            })
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
    path: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Signed {
    fn into_request(self) -> Result<HttpRequest, Box<dyn StdError + Send + Sync>> {
        let mut request = HttpRequest::new(SdkBody::from(self.body));
        request.set_method("POST")?;
        // The endpoint is put before it.
        request.set_uri(self.path)?;
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
    let mut headers: Vec<(String, String)> = question
        .headers
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let request = SignableRequest::new(
        "POST",
        format!("{endpoint}{}", question.path),
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
        path: question.path.clone(),
        headers,
        body: question.body.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_by_its_code() {
        let refusal = |status, failed: Option<&str>, text: &str| {
            let answer = Answer {
                status,
                failed: failed.map(str::to_owned),
                text: text.to_owned(),
            };
            answer.refusal("Lambda")
        };
        let text = r#"{"__type":"com.amazonaws#AccessDeniedException","Message":"no"}"#;
        assert_eq!(
            refusal(400, None, text),
            ("AccessDeniedException".into(), "no".into())
        );
        let header = "TooManyRequestsException:http://internal.amazon.com/coral/";
        assert_eq!(
            refusal(429, Some(header), r#"{"message":"slower"}"#),
            ("TooManyRequestsException".into(), "slower".into())
        );
        assert_eq!(
            refusal(502, None, "<html>"),
            ("Http502".into(), "Lambda gave no reason".into())
        );
    }
}
