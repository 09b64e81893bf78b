//! Errors for people: one line, from what was tried down to why it failed.

use std::borrow::Cow;
use std::error::Error;

use crate::key::escape;
use crate::names::signature;

/// An error and its causes in one line. What others say in it is shown [`unsigned`].
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // A transparent layer says what the next one says.
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    escape(&unsigned(&line))
}

/// Text of others as it may be shown: a database quotes the value that it complains of, and a
/// URL's query may be signed, its user have a password. Both are left out, the query also where
/// the URL is only its end.
#[must_use]
pub fn unsigned(text: &str) -> Cow<'_, str> {
    let ends_word = |c: char| c.is_whitespace() || matches!(c, '"' | '<' | '>' | '`');
    let mut shown = String::new();
    for word in text.split_inclusive(ends_word) {
        let (word, end) = match word.char_indices().next_back() {
            Some((at, c)) if ends_word(c) => word.split_at(at),
            _ => (word, ""),
        };
        let bare = &word[..query(word).unwrap_or(word.len())];
        let mut parts = bare.split("://");
        shown.push_str(parts.next().unwrap_or_default());
        for part in parts {
            let authority = part.split('/').next().unwrap_or_default();
            // (A slash may stand in a password.)
            let user = match authority.rfind('@') {
                Some(at) if authority[..at].contains(':') => part.rfind('@').unwrap_or(at) + 1,
                Some(at) => at + 1,
                None => 0,
            };
            shown.push_str("://");
            shown.push_str(&part[user..]);
        }
        if bare.len() < word.len() {
            shown.push('…');
        }
        shown.push_str(end);
    }
    if shown == text {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(shown)
    }
}

/// Where the query of this word begins, if it has one.
fn query(word: &str) -> Option<usize> {
    let mark = word.find(['?', '#']).map(|at| at + 1);
    let marked = mark.filter(|at| {
        let (before, behind) = word.split_at(*at);
        !behind.is_empty() && (before.contains("://") || behind.contains('='))
    });
    let assigned = |at: &usize| {
        ["=", "%3D", "%3d"]
            .iter()
            .any(|sign| word[*at..].contains(sign))
    };
    marked
        .into_iter()
        .chain(signature(word).filter(assigned))
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_is_shown_without_queries_and_users() {
        for (said, shown) in [
            (
                "for type integer: \"https://h/a.png?X-Amz-Signature=s3cret\"",
                "for type integer: \"https://h/a.png?…\"",
            ),
            (
                "https://h/a#s3cret and http://h/b?s3cret",
                "https://h/a#… and http://h/b?…",
            ),
            (
                "{\"u\":\"https://h/a?b=o's3cret\"}",
                "{\"u\":\"https://h/a?…\"}",
            ),
            (
                "{https://h/a,https://me:s3cret@h/b}",
                "{https://h/a,https://h/b}",
            ),
            ("postgres://me:p@s3cret@h/b", "postgres://h/b"),
            ("postgres://me:p@s3/cret@h/b", "postgres://h/b"),
            ("https://me@h/b@2x.png", "https://h/b@2x.png"),
            ("at \"a.png?Expires=1&Signature=s3cret\"", "at \"a.png?…\""),
            ("a%3FX-Amz-Signature%3Ds3cret, b", "a%3F… b"),
            ("a/x-amz-signature=s3cret\nb", "a/…\nb"),
        ] {
            assert_eq!(unsigned(said), shown, "{said}");
        }
        for said in [
            "",
            "is this a name? no",
            "column \"a?\" at line 1: https://h/a/b@2x.png",
            "x-amz-date is missing",
            "me@h says a=b",
        ] {
            assert!(
                matches!(unsigned(said), Cow::Borrowed(same) if same == said),
                "{said}"
            );
        }
    }
}
