//! Sign-in by IAM: a token, signed for one database, one role and a quarter of an hour,
//! takes the place of a password
//! (<https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.IAMDBAuth.html>).

use std::error::Error as StdError;
use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_sigv4::http_request::{
    SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign,
};
use aws_sigv4::sign::v4;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use percent_encoding::utf8_percent_encode;
use thiserror::Error;
use tokio::sync::OnceCell;
use url::Url;

use super::{PATIENCE, RESERVED};
use crate::postgres::{Access, AccessError, DatabaseUrl, rds_region};

/// As long as RDS takes a token; only the sign-in must fall within it.
const VALID: Duration = Duration::from_mins(15);

/// No token could be signed.
#[derive(Debug, Error)]
pub enum TokenError {
    /// Neither the host nor the environment says where the database is.
    #[error("the region of the database is not known; set AWS_REGION")]
    Region,
    /// What should be a region is none.
    #[error("{0:?} is not a region; set AWS_REGION")]
    BadRegion(String),
    /// Nothing to sign with.
    #[error("there are no AWS credentials to sign in to the database with")]
    Credentials(#[source] Box<dyn StdError + Send + Sync>),
    /// Signing failed.
    #[error("the token for the database could not be signed")]
    Signing(#[source] Box<dyn StdError + Send + Sync>),
}

/// A database that is signed in to by IAM.
#[derive(Debug)]
pub struct Token {
    database: DatabaseUrl,
    configuration: OnceCell<SdkConfig>,
}

impl Token {
    /// The database and role of this address, which holds no password.
    #[must_use]
    pub fn new(database: DatabaseUrl) -> Self {
        Self {
            database,
            configuration: OnceCell::new(),
        }
    }

    async fn sign_in(&self) -> Result<DatabaseUrl, TokenError> {
        let configuration = self
            .configuration
            .get_or_init(|| super::configuration(None, PATIENCE))
            .await;
        // A token holds for one region; the host's name knows best.
        let region = rds_region(self.database.host())
            .or_else(|| configuration.region().map(AsRef::as_ref))
            .ok_or(TokenError::Region)?;
        if !is_region(region) {
            return Err(TokenError::BadRegion(region.to_owned()));
        }
        let credentials = configuration
            .credentials_provider()
            .ok_or_else(|| TokenError::Credentials("none are configured".into()))?
            .provide_credentials()
            .await
            .map_err(|error| TokenError::Credentials(error.into()))?;
        let token = token(&self.database, region, credentials, SystemTime::now())?;
        Ok(self.database.with_password(&token))
    }
}

impl Access for Token {
    fn address(&self) -> BoxFuture<'_, Result<DatabaseUrl, AccessError>> {
        async { self.sign_in().await.map_err(AccessError::new) }.boxed()
    }

    /// Each sign-in has a token of its own already.
    fn renewed(&self) -> BoxFuture<'_, Result<Option<DatabaseUrl>, AccessError>> {
        async { Ok(None) }.boxed()
    }
}

fn is_region(text: &str) -> bool {
    text.contains('-') && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn token(
    database: &DatabaseUrl,
    region: &str,
    credentials: Credentials,
    now: SystemTime,
) -> Result<String, TokenError> {
    let signing = |error: Box<dyn StdError + Send + Sync>| TokenError::Signing(error);
    let url = format!(
        "https://{}:{}/?Action=connect&DBUser={}",
        database.host(),
        database.port(),
        utf8_percent_encode(database.user(), RESERVED)
    );
    let mut settings = SigningSettings::default();
    settings.expires_in = Some(VALID);
    settings.signature_location = SignatureLocation::QueryParams;
    let identity = credentials.into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("rds-db")
        .time(now)
        .settings(settings)
        .build()
        .map_err(|error| signing(error.into()))?;
    let request = SignableRequest::new("GET", &url, std::iter::empty(), SignableBody::Bytes(&[]))
        .map_err(|error| signing(error.into()))?;
    let (instructions, _) = sign(request, &parameters.into())
        .map_err(|error| signing(error.into()))?
        .into_parts();
    let mut url = Url::parse(&url).map_err(|error| signing(error.into()))?;
    for (name, value) in instructions.params() {
        url.query_pairs_mut().append_pair(name, value);
    }
    // The scheme is no part of a token.
    Ok(url.as_str().trim_start_matches("https://").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(session: Option<&str>) -> String {
        let database = DatabaseUrl::new(
            "postgres://sweeper@pictures.abc123.us-east-1.rds.amazonaws.com:5432/app",
        )
        .unwrap();
        let credentials = Credentials::new(
            "AKIDEXAMPLE",
            "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            session.map(str::to_owned),
            None,
            "test",
        );
        // 2026-01-01T00:00:00Z
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(490_896);
        token(&database, "us-east-1", credentials, now).unwrap()
    }

    /// What boto3's `generate_db_auth_token` gives for the same role at the same moment.
    #[test]
    fn a_token_is_what_other_clients_sign() {
        // Parameters come in any order.
        let sorted = |token: &str| {
            let mut parts: Vec<String> = token.trim_end().split('&').map(str::to_owned).collect();
            parts[1..].sort();
            parts
        };
        for (session, other) in [
            (None, include_str!("token.txt")),
            (
                Some("FwoG/session+token=="),
                include_str!("token-session.txt"),
            ),
        ] {
            assert_eq!(sorted(&signed(session)), sorted(other));
        }
    }

    #[test]
    fn a_region_is_told_from_other_text() {
        assert!(is_region("us-east-1") && is_region("us-gov-west-1"));
        for other in ["", "localhost", "us east 1", "us-east-1/x"] {
            assert!(!is_region(other), "{other}");
        }
    }
}
