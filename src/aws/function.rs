//! The second function of the same program, which undoes deletions with a role of its own
//! (`Handler: restore`): asked in one signed request, and waited for.

use std::fmt;
use std::time::Duration;

use aws_config::SdkConfig;
use percent_encoding::utf8_percent_encode;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::arn::Arn;
use super::ask::{Question, ask};
use super::{Patience, RESERVED};
use crate::chain::{chain, unsigned};
use crate::delegate::{Refused, Restorer};
use crate::hands::LookError;
use crate::key::ObjectKey;

/// How long it may take in all. It gets a few hundred keys at a time, and reads the ledger of
/// the run first; what it does twice does no harm.
const PATIENCE: Patience = Patience {
    attempt: Duration::from_mins(2),
    whole: Duration::from_mins(2),
};

/// The ARN of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionArn(Arn);

impl FunctionArn {
    /// `arn:aws:lambda:REGION:ACCOUNT:function:NAME`, in any partition; a version or an alias
    /// may follow.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let (arn, name) = Arn::of(text, "lambda", "function")?;
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b':' | b'$');
        name.bytes().all(fits).then_some(Self(arn))
    }
}

impl fmt::Display for FunctionArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The function, and the run whose deletions it is to undo.
#[derive(Debug)]
pub struct UndoFunction {
    arn: FunctionArn,
    run_id: Uuid,
    configuration: OnceCell<SdkConfig>,
}

/// What is wanted of its answer, which is a [`Restoration`](crate::restore::Restoration).
#[derive(Deserialize)]
struct Told {
    errors: Vec<ToldProblem>,
}

#[derive(Deserialize)]
struct ToldProblem {
    key: Option<ObjectKey>,
    code: String,
    message: String,
}

/// What Lambda says of a function that failed
/// (<https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>).
#[derive(Deserialize)]
struct Failure {
    #[serde(rename = "errorType")]
    kind: Option<String>,
    #[serde(rename = "errorMessage")]
    message: Option<String>,
}

impl UndoFunction {
    /// The function of this name.
    #[must_use]
    pub fn new(arn: FunctionArn, run_id: Uuid) -> Self {
        Self {
            arn,
            run_id,
            configuration: OnceCell::new(),
        }
    }

    fn failed(&self, code: impl Into<String>, message: &str) -> LookError {
        LookError {
            code: Some(code.into()),
            message: format!("the undo function {}: {}", self.arn, unsigned(message)),
        }
    }
}

impl Restorer for UndoFunction {
    async fn restore(&self, keys: &[&ObjectKey]) -> Result<Vec<Refused>, LookError> {
        let region = &self.arn.0.region;
        let configuration = self
            .configuration
            .get_or_init(|| super::configuration(Some(region), PATIENCE))
            .await;
        // https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html
        let name = utf8_percent_encode(&self.arn.0.text, RESERVED);
        let question = Question {
            service: "lambda",
            operation: "Invoke",
            endpoint: self
                .arn
                .0
                .endpoint("lambda", "AWS_ENDPOINT_URL_LAMBDA", configuration),
            path: format!("/2015-03-31/functions/{name}/invocations"),
            region,
            headers: &[
                ("content-type", "application/json"),
                ("x-amz-invocation-type", "RequestResponse"),
            ],
            body: json!({"run_id": self.run_id, "keys": keys}).to_string(),
        };
        let answer = ask(configuration, &question)
            .await
            .map_err(|error| self.failed("NoAnswer", &chain(&error)))?;
        if answer.status != 200 {
            let (code, message) = answer.refusal("Lambda");
            return Err(self.failed(code, &message));
        }
        if let Some(failed) = answer.failed {
            let said: Option<Failure> = serde_json::from_str(&answer.text).ok();
            let (kind, message) = said.map_or((None, None), |said| (said.kind, said.message));
            return Err(self.failed(
                kind.unwrap_or(failed),
                &message.unwrap_or_else(|| "it gave no reason".to_owned()),
            ));
        }
        let told: Told = serde_json::from_str(&answer.text)
            .map_err(|_| self.failed("Answer", "it answered something else than a restoration"))?;
        Ok(told
            .errors
            .into_iter()
            .filter_map(|problem| {
                let why = LookError {
                    code: Some(problem.code),
                    message: problem.message,
                };
                problem.key.map(|key| Refused { key, why })
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_is_told_from_other_text() {
        for good in [
            "arn:aws:lambda:us-east-1:123456789012:function:sweeper-Restorer-1A2b_3",
            "arn:aws-cn:lambda:cn-north-1:123456789012:function:undo:live",
            "arn:aws:lambda:us-east-1:123456789012:function:undo:$LATEST",
        ] {
            assert_eq!(FunctionArn::new(good).unwrap().to_string(), good);
        }
        for bad in [
            "",
            "undo",
            "arn:aws:lambda:us-east-1:123456789012:function:",
            "arn:aws:lambda:us-east-1:123456789012:function:*",
            "arn:aws:lambda:us-east-1:123456789012:function:a/../b",
            "arn:aws:lambda:us-east-1:123456789012:layer:undo:1",
            "arn:aws:secretsmanager:us-east-1:123456789012:secret:undo",
        ] {
            assert_eq!(FunctionArn::new(bad), None, "{bad}");
        }
    }
}
