//! How long a bucket keeps what a delete marker hides.

use aws_sdk_s3::types::{ExpirationStatus, LifecycleRule, LifecycleRuleFilter};

use super::bucket::{Bucket, said};
use crate::retention::Retention;

impl Bucket {
    /// How long noncurrent versions below the run's prefix are kept at least, as far as the
    /// bucket's lifecycle says; unknown where that may not be read.
    pub async fn retention(&self) -> Retention {
        let asked = self
            .client
            .get_bucket_lifecycle_configuration()
            .bucket(&self.name)
            .send()
            .await;
        match asked {
            Ok(lifecycle) => lifecycle
                .rules()
                .iter()
                .filter_map(|rule| self.days(rule))
                .min()
                .map_or(Retention::Forever, Retention::Days),
            Err(error) => {
                let said = said(&error);
                if said.code.as_deref() == Some("NoSuchLifecycleConfiguration") {
                    return Retention::Forever;
                }
                tracing::debug!(error = %said, "the bucket's lifecycle could not be read");
                Retention::Unknown
            }
        }
    }

    /// After how many days this rule expires noncurrent versions that the run may make.
    fn days(&self, rule: &LifecycleRule) -> Option<u32> {
        let expiration = rule.noncurrent_version_expiration()?;
        let days = u32::try_from(expiration.noncurrent_days?).ok()?;
        let prefix = rule_prefix(rule);
        let own = self.prefix.as_str();
        let touches = own.starts_with(prefix) || prefix.starts_with(own);
        (rule.status == ExpirationStatus::Enabled && touches).then_some(days)
    }
}

/// The prefix that a rule is limited to. A limit by tag or size is not looked at: such a rule
/// may touch an object, so its days count.
fn rule_prefix(rule: &LifecycleRule) -> &str {
    #[expect(
        deprecated,
        reason = "rules of the first generation have their prefix here"
    )]
    let old = rule.prefix();
    rule.filter()
        .and_then(|filter: &LifecycleRuleFilter| {
            filter
                .prefix()
                .or_else(|| filter.and().and_then(|and| and.prefix()))
        })
        .or(old)
        .unwrap_or_default()
}
