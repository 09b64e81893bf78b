//! The hosts of URLs, as a person declares them.

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A host, optionally with a path behind it, under which URLs name objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Host {
    host: String,
    /// Without slashes at its ends; empty where keys begin right behind the host.
    base: String,
}

/// Text that is not a host.
#[derive(Debug, Error)]
#[error("{0:?} is not a host; write it like `cdn.example.com`, without scheme, query or user")]
pub struct HostError(String);

impl Host {
    /// The host that this text names: `cdn.example.com`, with a port where it has one,
    /// and with a path where keys begin behind one (`localhost:9000/bucket`).
    ///
    /// # Errors
    /// A scheme, a query, a user, white space, or nothing.
    pub fn new(text: &str) -> Result<Self, HostError> {
        let (host, base) = text.split_once('/').unwrap_or((text, ""));
        let bad =
            |c: char| c.is_whitespace() || c.is_control() || matches!(c, '@' | '?' | '#' | ',');
        if host.is_empty() || text.contains("//") || text.chars().any(bad) {
            return Err(HostError(text.to_owned()));
        }
        Ok(Self {
            host: host.to_lowercase(),
            base: base.trim_end_matches('/').to_owned(),
        })
    }

    /// The raw key behind this host in a URL of that host and path.
    pub(super) fn key<'url>(&self, host: &str, path: &'url str) -> Option<&'url str> {
        (host == self.host).then(|| behind(path, &self.base))?
    }

    /// Where this host stands in a text that names it without a scheme, as a proxy's path may.
    pub(super) fn found_in(&self, text: &str) -> impl Iterator<Item = usize> {
        found_in(&self.host, text)
    }
}

/// Where a host stands in a text, in lower case, that names it without a scheme. What stands before it
/// belongs to no host.
pub(super) fn found_in(host: &str, text: &str) -> impl Iterator<Item = usize> {
    let begins = |at: &usize| {
        at.checked_sub(1)
            .is_some_and(|before| !matches!(text.as_bytes()[before], b'.' | b'-' | b'_' | b'a'..=b'z' | b'0'..=b'9' | 128..))
    };
    text.match_indices(host).map(|(at, _)| at).filter(begins)
}

/// What stands in a path behind this base, however the base is encoded there.
pub(super) fn behind<'url>(path: &'url str, base: &str) -> Option<&'url str> {
    if base.is_empty() {
        return Some(path);
    }
    let plain = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
    let base = plain(base);
    let slashes = path.match_indices('/');
    let encoded = path.match_indices('%').filter_map(|(at, _)| {
        let slash = path.get(at..at + 3)?;
        slash.eq_ignore_ascii_case("%2f").then_some((at, slash))
    });
    slashes
        .chain(encoded)
        // (No base is encoded in more than three times its length.)
        .filter(|(at, _)| (base.len()..=3 * base.len()).contains(at))
        .find(|(at, _)| plain(&path[..*at]) == base)
        .map(|(at, slash)| &path[at + slash.len()..])
}

impl TryFrom<String> for Host {
    type Error = HostError;

    fn try_from(text: String) -> Result<Self, HostError> {
        Self::new(&text)
    }
}

impl From<Host> for String {
    fn from(Host { host, base }: Host) -> Self {
        if base.is_empty() {
            host
        } else {
            format!("{host}/{base}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_hosts() {
        for bad in [
            "",
            "https://cdn.example.com",
            "a b",
            "me@cdn",
            "cdn?x",
            "/x",
            "a\nb",
        ] {
            assert!(Host::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            String::from(Host::new("CDN.example.com/x/").unwrap()),
            "cdn.example.com/x"
        );
    }
}
