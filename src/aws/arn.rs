//! Amazon resource names, as far as they say where something is to be asked for
//! (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html>).

use std::fmt;

use aws_config::SdkConfig;

/// A name whose partition and region are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Arn {
    pub(super) text: String,
    partition: String,
    pub(super) region: String,
}

impl Arn {
    /// `arn:PARTITION:SERVICE:REGION:ACCOUNT:KIND:NAME`, and its name.
    pub(super) fn of<'text>(
        text: &'text str,
        service: &str,
        kind: &str,
    ) -> Option<(Self, &'text str)> {
        let parts: Vec<&str> = text.splitn(7, ':').collect();
        let [
            "arn",
            partition,
            its_service,
            region,
            account,
            its_kind,
            name,
        ] = parts[..]
        else {
            return None;
        };
        let word = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        let named = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '*');
        let fits = its_service == service && its_kind == kind;
        (fits && word(partition) && word(region) && word(account) && named).then(|| {
            let arn = Self {
                text: text.to_owned(),
                partition: partition.to_owned(),
                region: region.to_owned(),
            };
            (arn, name)
        })
    }

    /// Where its service is asked: the standard places, or the service's own address.
    pub(super) fn endpoint(&self, host: &str, variable: &str, configuration: &SdkConfig) -> String {
        if let Ok(endpoint) = std::env::var(variable)
            && !endpoint.is_empty()
        {
            return endpoint;
        }
        if let Some(endpoint) = configuration.endpoint_url() {
            return endpoint.to_owned();
        }
        let suffix = if self.partition == "aws-cn" {
            "amazonaws.com.cn"
        } else {
            "amazonaws.com"
        };
        format!("https://{host}.{}.{suffix}", self.region)
    }
}

impl fmt::Display for Arn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
