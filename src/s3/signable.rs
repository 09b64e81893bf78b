//! Credentials that a request can be signed with. With others the SDK ends the program: it
//! puts them into a header that cannot hold them.

use aws_config::{Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};

/// The configuration, whose credentials are an error where no request can be signed with them.
#[must_use]
pub fn signable(shared: SdkConfig) -> SdkConfig {
    let Some(from) = shared.credentials_provider() else {
        return shared;
    };
    let region = shared.region().cloned();
    let checked = SharedCredentialsProvider::new(Checked { from, region });
    let builder = shared.into_builder();
    builder.credentials_provider(checked).build()
}

#[derive(Debug)]
struct Checked {
    from: SharedCredentialsProvider,
    region: Option<Region>,
}

impl ProvideCredentials for Checked {
    fn provide_credentials<'this>(&'this self) -> future::ProvideCredentials<'this>
    where
        Self: 'this,
    {
        future::ProvideCredentials::new(async {
            let credentials = self.from.provide_credentials().await?;
            for (what, value) in [
                ("access key id", Some(credentials.access_key_id())),
                ("session token", credentials.session_token()),
                ("region", self.region.as_ref().map(Region::as_ref)),
            ] {
                if value.is_some_and(|value| value.contains(char::is_control)) {
                    return Err(CredentialsError::invalid_configuration(format!(
                        "the {what} that AWS's configuration gives holds a control character"
                    )));
                }
            }
            Ok(credentials)
        })
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        self.from.fallback_on_interrupt()
    }
}
