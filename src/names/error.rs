//! What is said of a name that cannot be read.

use thiserror::Error;

use crate::key::{MAX_KEY_BYTES, ObjectKey, escape};

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
/// characters, not too long; of a URL nothing behind what may begin a query or another URL, and of a
/// long piece that may hide one only the beginning.
pub(crate) fn shown(name: &str) -> String {
    let bare = name.split(['?', '#']).next().unwrap_or_default();
    let bare = match bare.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit('@').next().unwrap_or_default();
            // Another URL may stand in the path, with a user of its own.
            let path = path.split_once("://").map_or(path, |(before, _)| before);
            format!("{scheme}://{host}{}", plain(path))
        }
        None if encoded(bare, &["3a"]).is_some() => plain(bare),
        None => public(bare),
    };
    format!("'{}'", short(&bare))
}

/// So long a piece of a path may hide what it was made of: a UUID is shorter.
const OPAQUE: usize = 40;

/// What of a text that is no whole URL may be known to all: nothing behind a user with a password, nor
/// behind a parameter.
fn public(text: &str) -> String {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let is_named = |rest: &str| {
        let rest = rest.trim_start_matches("amp;");
        rest.trim_start_matches(is_name).starts_with('=')
    };
    let parameters = text.match_indices([';', '&']);
    let parameter = parameters
        .map(|(at, _)| at)
        .find(|at| is_named(&text[at + 1..]));
    let ends = [user(text), parameter, secret(text)];
    match ends.into_iter().flatten().min() {
        Some(end) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Where the value of what is called like a secret begins, in whatever part of a text.
fn secret(text: &str) -> Option<usize> {
    let mut at = 0;
    for part in text.split_inclusive(['/', '\\', ',', ' ']) {
        if let Some((name, _)) = part.split_once('=')
            && is_secret(name)
        {
            return Some(at + name.len() + 1);
        }
        at += part.len();
    }
    None
}

fn is_secret(name: &str) -> bool {
    /// As part of a word, or as a whole one.
    const PARTS: [&str; 8] = [
        "apikey",
        "credential",
        "hmac",
        "jwt",
        "password",
        "secret",
        "signature",
        "token",
    ];
    const WORDS: [&str; 5] = ["auth", "pass", "passwd", "pwd", "sig"];
    let name = name.to_ascii_lowercase();
    let mut words = name.split(|c: char| !c.is_ascii_alphanumeric());
    PARTS.iter().any(|part| name.contains(part)) || words.any(|word| WORDS.contains(&word))
}

/// Where a user with a password stands, in whatever part of a text.
fn user(text: &str) -> Option<usize> {
    let is_user = |part: &str| {
        let named = part.rsplit_once('@').map(|(user, _)| user);
        named.is_some_and(|user| user.contains(':'))
    };
    let mut at = 0;
    for part in text.split_inclusive(['/', '\\']) {
        if is_user(part) {
            return Some(at);
        }
        at += part.len();
    }
    None
}

/// What of a URL's path is plain.
fn plain(path: &str) -> String {
    let ends = [
        user(path),
        path.find([';', '&']),
        encoded(path, &["3f", "23", "26", "3b", "3a", "40"]),
    ];
    let path = match ends.into_iter().flatten().min() {
        Some(end) => format!("{}…", &path[..end]),
        None => path.to_owned(),
    };
    let is_letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '_' | '=');
    let mut plain = String::new();
    for piece in path.split_inclusive(|c| !is_letter(c)) {
        if piece.len() > OPAQUE && piece.is_ascii() {
            plain.push_str(&piece[..8]);
            plain.push('…');
        } else {
            plain.push_str(piece);
        }
    }
    plain
}

/// Where one of these stands percent-encoded, however often.
fn encoded(text: &str, codes: &[&str]) -> Option<usize> {
    text.match_indices('%').map(|(at, _)| at).find(|at| {
        let code = text[at + 1..].trim_start_matches("25");
        codes.iter().any(|known| {
            code.get(..2)
                .is_some_and(|code| code.eq_ignore_ascii_case(known))
        })
    })
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

/// A key that a name made, as people may read it: without the signature of a URL that was kept as a key.
pub(crate) fn shown_key(key: &ObjectKey) -> ObjectKey {
    let text = key.as_str();
    match signature(text) {
        Some(at) => ObjectKey::new(format!("{}…", &text[..at])),
        None => key.clone(),
    }
}

/// Where the first parameter of a presigned URL begins, in any case.
pub(crate) fn signature(text: &str) -> Option<usize> {
    let text = text.as_bytes();
    memchr::memchr2_iter(b'x', b'X', text).find(|at| {
        let begins = text.get(*at..at + SIGNATURE.len());
        begins.is_some_and(|begins| begins.eq_ignore_ascii_case(SIGNATURE))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_may_be_a_secret_is_shown() {
        for (name, expected) in [
            ("a/R&D;1.png", "'a/R&D;1.png'"),
            ("a/100%25.png", "'a/100%25.png'"),
            ("a.png?sig=SECRET", "'a.png'"),
            ("photos/http://x.png", "'photos/http://x.png'"),
            ("https://me:SECRET@h/a.png#SECRET", "'https://h/a.png'"),
            ("https://h", "'https://h'"),
            ("//me:SECRET@h/a.png", "'//…'"),
            ("https:\\/\\/me:SECRET@h\\/a.png", "'https:\\/\\/…'"),
            ("https:\\\\me:SECRET@h\\a.png", "'https:\\\\…'"),
            ("http:/me:SECRET@h/a.png", "'http:/…'"),
            ("http:me:SECRET@h/a.png", "'…'"),
            ("me:SE@CRET@h/a.png", "'…'"),
            ("a.png&Signature=SECRET", "'a.png…'"),
            ("a.png&amp;X=SECRET", "'a.png…'"),
            ("r;sig=SECRET/a.png", "'r…'"),
            ("sig=SECRET/a.png", "'sig=…'"),
            ("access_token=SECRET", "'access_token=…'"),
            ("r/x-auth=SECRET/a.png", "'r/x-auth=…'"),
            ("r\\Token=SECRET", "'r\\Token=…'"),
            ("design=1/author=x.png", "'design=1/author=x.png'"),
            ("a@b:SECRET@h/a.png", "'…'"),
            ("token", "'token'"),
            ("thumb=a.png", "'thumb=a.png'"),
            ("a@2x.png", "'a@2x.png'"),
            ("a:b/c@2x.png", "'a:b/c@2x.png'"),
            (
                "https://h/a.png%3FExpires%3D1%26Signature%3DSECRET",
                "'https://h/a.png…'",
            ),
            ("https://h/a.png%253Fsig%253DSECRET", "'https://h/a.png…'"),
            ("https://h/a.png&sig=SECRET", "'https://h/a.png…'"),
            ("https://h/a.png;token=SECRET", "'https://h/a.png…'"),
            (
                "https://h/x/https%3A%2F%2Fme%3ASECRET%40h/a.png",
                "'https://h/x/https…'",
            ),
            ("https://h/me%40SECRET", "'https://h/me…'"),
            (
                "https://h/r/https:/me:SECRET@h/a.png",
                "'https://h/r/https:/…'",
            ),
            ("https://h/plain/a.png@webp", "'https://h/plain/a.png@webp'"),
            ("https%3A//me:SECRET@h/a.png", "'https…'"),
            (
                "https://h/x/https://me:SECRET@h/a.png",
                "'https://h/x/https'",
            ),
            (
                "https://h/018fd0b5-0000-7000-8000-000000000001.png",
                "'https://h/018fd0b5-0000-7000-8000-000000000001.png'",
            ),
            (
                "https://h/r/aHR0cHM6Ly9oL2EucG5nP3NpZz1TRUNSRVRTRUNSRVRTRUNSRVQ.png",
                "'https://h/r/aHR0cHM6…png'",
            ),
        ] {
            assert_eq!(shown(name), expected);
        }
    }
}
