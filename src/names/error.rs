//! What is said of a name that cannot be read.

use thiserror::Error;

use crate::key::{MAX_KEY_BYTES, escape};

/// A name that cannot be read; it may name a live image in a way that this program would
/// miss, so it ends the run.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NameError {
    /// Form `key`, but it looks like a URL.
    #[error(
        "the name {0} looks like a URL, but --reference-form is key; mixed forms need a query that yields one form"
    )]
    LooksLikeUrl(String),
    /// Form `key`, but it looks like JSON or an array.
    #[error(
        "the name {0} looks like JSON or an array; let the references query yield one key a row"
    )]
    LooksLikeList(String),
    /// Its key would be longer than S3 allows.
    #[error("the name {name} makes a key of {bytes} bytes, but a key has at most {MAX_KEY_BYTES}")]
    TooLong {
        /// The name's beginning.
        name: String,
        /// The key's length in bytes.
        bytes: usize,
    },
    /// Form `url`, but it is none.
    #[error(
        "the name {0} is not an http, https or s3 URL, but --reference-form is url; mixed forms need a query that yields one form"
    )]
    NotUrl(String),
    /// Form `url`, and a user stands before the host.
    #[error(
        "the name {0} has a user or a password before its host; let the references query yield the URL without it"
    )]
    HasUser(String),
    /// Form `url`, but it is a list of them.
    #[error(
        "the name {0} holds several URLs, or text before one; let the references query yield one URL a row"
    )]
    SeveralUrls(String),
    /// It can be read in too many ways.
    #[error(
        "the name {0} may mean more keys than can be tried; let the references query yield the key or the URL of the object, or leave it out"
    )]
    TooManyReadings(String),
    /// A host that nobody declared.
    #[error(
        "the host {host} of {name} is not known: declare it with --reference-host if it stands for the bucket, or with --foreign-host if it is not ours"
    )]
    UnknownHost {
        /// The host, with the bucket behind it for path-style S3 hosts.
        host: String,
        /// The name, without its query.
        name: String,
    },
    /// Its path does not decode to UTF-8.
    #[error("the path of {0} does not decode to UTF-8")]
    NotUtf8(String),
}

impl NameError {
    /// Fails where the key that a name makes is longer than S3 allows.
    pub(super) fn if_too_long(name: &str, key: &str) -> Result<(), Self> {
        if key.len() > MAX_KEY_BYTES {
            return Err(Self::TooLong {
                name: shown(name),
                bytes: key.len(),
            });
        }
        Ok(())
    }
}

/// How much of a name an error shows, in characters.
const SHOWN_CHARS: usize = 200;

/// How every parameter of a presigned URL begins.
const SIGNATURE: &[u8] = b"X-Amz-";

/// A name as an error may show it: no query (it may be signed), no user, no control
/// characters, not too long.
pub(crate) fn shown(name: &str) -> String {
    let bare = name.split(['?', '#']).next().unwrap_or_default();
    let bare = match bare.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            let host = authority.rsplit('@').next().unwrap_or_default();
            // Another URL may stand in the path, with a user of its own.
            let path = path.split_once("://").map_or(path, |(before, _)| before);
            format!("{scheme}://{host}/{path}")
        }
        None => bare.to_owned(),
    };
    format!("'{}'", short(&bare))
}

/// The beginning of a text as an error may show it. A signature is left out wherever it stands:
/// where its `?` was encoded or lost, no query ends the text before it.
pub(super) fn short(text: &str) -> String {
    let unsigned = signature(text).map_or(text, |at| &text[..at]);
    let mut short: String = unsigned.chars().take(SHOWN_CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    escape(&short)
}

/// Where the first parameter of a presigned URL begins, in any case.
pub(crate) fn signature(text: &str) -> Option<usize> {
    let text = text.as_bytes();
    memchr::memchr2_iter(b'x', b'X', text).find(|at| {
        let begins = text.get(*at..at + SIGNATURE.len());
        begins.is_some_and(|begins| begins.eq_ignore_ascii_case(SIGNATURE))
    })
}
