//! A secret of AWS Secrets Manager that says where the database is and how to sign in.

use std::fmt;
use std::path::PathBuf;

use aws_config::SdkConfig;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::json;
use thiserror::Error;
use tokio::sync::{Mutex, OnceCell};

use super::PATIENCE;
use super::arn::Arn;
use super::ask::{Question, ask};
use crate::chain::chain;
use crate::postgres::{Access, AccessError, DatabaseUrl, Parts};

/// The ARN of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretArn(Arn);

impl SecretArn {
    /// `arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME`, in any partition.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        Arn::of(text, "secretsmanager", "secret").map(|(arn, _)| Self(arn))
    }
}

impl fmt::Display for SecretArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The secret does not say where the database is or how to sign in. It never repeats what
/// the secret says.
#[derive(Debug, Error)]
pub enum SecretError {
    /// It was not handed out.
    #[error("the secret {arn} could not be read: {code}: {message}")]
    Unread {
        /// Which.
        arn: String,
        /// The service's error code.
        code: String,
        /// The service's words.
        message: String,
    },
    /// It holds something else.
    #[error(
        "the secret {arn} {problem}; it must be the JSON that RDS writes: host, port, username, password, dbname, engine"
    )]
    Content {
        /// Which.
        arn: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// A database whose address and password a secret holds.
pub struct Secret {
    arn: SecretArn,
    ca: Option<PathBuf>,
    configuration: OnceCell<SdkConfig>,
    /// What was read last: a run asks for many connections.
    read: Mutex<Option<DatabaseUrl>>,
}

impl Secret {
    /// The secret of this name. An authority of the file `ca` may have signed the database's
    /// certificate, too.
    #[must_use]
    pub fn new(arn: SecretArn, ca: Option<PathBuf>) -> Self {
        Self {
            arn,
            ca,
            configuration: OnceCell::new(),
            read: Mutex::new(None),
        }
    }

    async fn read(&self) -> Result<DatabaseUrl, SecretError> {
        let unread = |code: String, message: String| SecretError::Unread {
            arn: self.arn.to_string(),
            code,
            message,
        };
        let configuration = self
            .configuration
            .get_or_init(|| super::configuration(Some(&self.arn.0.region), PATIENCE))
            .await;
        // https://docs.aws.amazon.com/general/latest/gr/asm.html
        let endpoint = self.arn.0.endpoint(
            "secretsmanager",
            "AWS_ENDPOINT_URL_SECRETS_MANAGER",
            configuration,
        );
        let question = Question {
            service: "secretsmanager",
            operation: "GetSecretValue",
            endpoint,
            path: "/".to_owned(),
            region: &self.arn.0.region,
            headers: &[
                ("content-type", "application/x-amz-json-1.1"),
                ("x-amz-target", "secretsmanager.GetSecretValue"),
            ],
            body: json!({"SecretId": self.arn.to_string()}).to_string(),
        };
        let answer = ask(configuration, &question)
            .await
            .map_err(|error| unread("NoAnswer".to_owned(), chain(&error)))?;
        if answer.status != 200 {
            let (code, message) = answer.refusal("Secrets Manager");
            return Err(unread(code, message));
        }
        let url = serde_json::from_str(&answer.text)
            .ok()
            .and_then(|answer: Answer| answer.secret_string)
            .ok_or_else(|| "holds no text".to_owned())
            .and_then(|secret| address(&secret))
            .map_err(|problem| SecretError::Content {
                arn: self.arn.to_string(),
                problem,
            })?;
        Ok(match &self.ca {
            Some(file) => url.with_ca(file),
            None => url,
        })
    }
}

/// The part of the answer that is wanted
/// (<https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_GetSecretValue.html>).
#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "SecretString")]
    secret_string: Option<String>,
}

/// The password is nowhere in it.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.arn)
    }
}

impl Access for Secret {
    fn address(&self) -> BoxFuture<'_, Result<DatabaseUrl, AccessError>> {
        async {
            let mut read = self.read.lock().await;
            if let Some(url) = &*read {
                return Ok(url.clone());
            }
            let url = self.read().await.map_err(AccessError::new)?;
            *read = Some(url.clone());
            Ok(url)
        }
        .boxed()
    }

    fn renewed(&self) -> BoxFuture<'_, Result<Option<DatabaseUrl>, AccessError>> {
        async {
            let mut read = self.read.lock().await;
            let url = self.read().await.map_err(AccessError::new)?;
            *read = Some(url.clone());
            Ok(Some(url))
        }
        .boxed()
    }
}

/// A port is written as a number or as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Port {
    Number(u16),
    Text(String),
}

/// What RDS writes
/// (<https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_secret_json_structure.html>).
#[derive(Deserialize)]
struct Content {
    engine: Option<String>,
    host: Option<String>,
    port: Option<Port>,
    username: Option<String>,
    password: Option<String>,
    dbname: Option<String>,
}

/// Serde's words would repeat what they stumbled over, so problems are told in our own.
fn address(text: &str) -> Result<DatabaseUrl, String> {
    let content: Content = serde_json::from_str(text).map_err(|error| {
        format!(
            "is not such an object (line {}, column {})",
            error.line(),
            error.column()
        )
    })?;
    if let Some(engine) = &content.engine
        && !engine.contains("postgres")
    {
        return Err("is of another engine than postgres".to_owned());
    }
    let required = |name: &str, value: &Option<String>| {
        value
            .clone()
            .filter(|value| !value.is_empty())
            .ok_or_else(|| format!("has no {name}"))
    };
    let port = match content.port {
        None => 5432,
        Some(Port::Number(port)) => port,
        Some(Port::Text(text)) => text
            .parse()
            .map_err(|_| "has a port that is no number".to_owned())?,
    };
    let user = required("username", &content.username)?;
    Ok(DatabaseUrl::from_parts(&Parts {
        host: &required("host", &content.host)?,
        port,
        user: &user,
        password: &required("password", &content.password)?,
        // PostgreSQL's own rule: a database of the role's name.
        database: content
            .dbname
            .as_deref()
            .filter(|name| !name.is_empty())
            .unwrap_or(&user),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rds_writes_is_an_address_that_must_prove_itself() {
        for (port, expected) in [("5433", 5433), ("\"5434\"", 5434)] {
            let text = format!(
                r#"{{"engine":"postgres","host":"db.example.com","username":"sweeper","password":"p@:/","dbname":"app","port":{port},"dbInstanceIdentifier":"x"}}"#
            );
            let url = address(&text).unwrap();
            assert_eq!(
                (url.host(), url.port(), url.user()),
                ("db.example.com", expected, "sweeper")
            );
            assert!(!url.is_unverified());
        }
        let least = r#"{"host":"h","username":"u","password":"p"}"#;
        assert_eq!(address(least).unwrap().port(), 5432);
    }

    #[test]
    fn anything_else_is_refused_without_repeating_it() {
        for (text, named) in [
            ("hunter2", "is not such an object"),
            (r#"["hunter2"]"#, "is not such an object"),
            (
                r#"{"host":"h","username":"u","password":7}"#,
                "is not such an object",
            ),
            (
                r#"{"host":"h","username":"u","password":"hunter2","port":"hunter2"}"#,
                "a port that is no number",
            ),
            (
                r#"{"host":"h","username":"u","password":"hunter2","port":70000}"#,
                "is not such an object",
            ),
            (
                r#"{"host":"h","username":"u","password":""}"#,
                "has no password",
            ),
            (r#"{"host":"h","password":"hunter2"}"#, "has no username"),
            (r#"{"username":"u","password":"hunter2"}"#, "has no host"),
            (
                r#"{"engine":"mysql","host":"h","username":"u","password":"hunter2"}"#,
                "another engine",
            ),
        ] {
            let problem = address(text).unwrap_err();
            assert!(problem.contains(named), "{text}: {problem}");
            assert!(!problem.contains("hunter2"), "{problem}");
        }
    }

    #[test]
    fn an_arn_is_told_from_other_text() {
        for good in [
            "arn:aws:secretsmanager:us-east-1:123456789012:secret:rds!db-1a2b-AbCdEf",
            "arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:app/db-AbCdEf",
        ] {
            assert_eq!(SecretArn::new(good).unwrap().to_string(), good);
        }
        for bad in [
            "",
            "app/db",
            "arn:aws:secretsmanager:us-east-1:123456789012:secret:",
            "arn:aws:secretsmanager:us-east-1:123456789012:secret:*",
            "arn:aws:secretsmanager::123456789012:secret:app",
            "arn:aws:s3:us-east-1:123456789012:secret:app",
            "arn:aws:ssm:us-east-1:123456789012:parameter/app",
        ] {
            assert_eq!(SecretArn::new(bad), None, "{bad}");
        }
    }
}
