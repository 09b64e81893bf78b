//! Pages of a bucket: where they start, where they end, what they hold.
//!
//! A page costs what it shows. It starts by a search in the ordered map, and
//! jumps over all that one common prefix stands for.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::bucket::{Bucket, Object, Version, VersionId};

/// The most that one page holds, whatever was asked.
pub(super) const MAX_PAGE: usize = 1_000;

/// Where the next page starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// At this key, or the first one behind it.
    At(String),
    /// Behind this key.
    After(String),
}

impl Start {
    /// What S3 calls an opaque token. Hexadecimal digits keep every key whole.
    pub(super) fn to_token(&self) -> String {
        let (mark, key) = match self {
            Self::At(key) => ('0', key),
            Self::After(key) => ('1', key),
        };
        key.bytes().fold(String::from(mark), |mut token, byte| {
            for half in [byte >> 4, byte & 0xF] {
                token.extend(char::from_digit(u32::from(half), 16));
            }
            token
        })
    }

    /// Reads [`Self::to_token`] back, or `None` if this server never wrote it.
    pub(super) fn from_token(token: &str) -> Option<Self> {
        let digits = token.as_bytes().get(1..)?;
        let digit = |byte: u8| {
            char::from(byte)
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        };
        let byte = |pair: &[u8]| match *pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        };
        let bytes = digits.chunks(2).map(byte).collect::<Option<Vec<_>>>()?;
        let key = String::from_utf8(bytes).ok()?;
        match token.as_bytes().first() {
            Some(b'0') => Some(Self::At(key)),
            Some(b'1') => Some(Self::After(key)),
            _ => None,
        }
    }

    fn bound(&self) -> Bound<&str> {
        match self {
            Self::At(key) => Bound::Included(key),
            Self::After(key) => Bound::Excluded(key),
        }
    }

    /// The later of this start and the first key with `prefix`.
    fn within(self, prefix: &str) -> Self {
        let (Self::At(key) | Self::After(key)) = &self;
        if key.as_str() < prefix {
            Self::At(prefix.to_owned())
        } else {
            self
        }
    }
}

/// One page of the objects.
#[derive(Debug, Default)]
pub(super) struct Page<'a> {
    pub(super) objects: Vec<(&'a str, &'a Object)>,
    pub(super) common_prefixes: Vec<String>,
    /// Where the next page starts, when there is more.
    pub(super) next: Option<Start>,
}

/// Lists live objects in byte order.
pub(super) fn objects<'a>(
    live: &'a BTreeMap<String, Object>,
    prefix: &str,
    delimiter: Option<&str>,
    start: Start,
    limit: usize,
) -> Page<'a> {
    let mut page = Page::default();
    if limit == 0 {
        // S3 answers an empty page that is not truncated.
        return page;
    }
    let mut start = start.within(prefix);
    let mut last: Option<&str> = None;
    'jump: loop {
        for (key, object) in live.range::<str, _>((start.bound(), Bound::Unbounded)) {
            let Some(rest) = key.strip_prefix(prefix) else {
                return page;
            };
            if page.objects.len() + page.common_prefixes.len() == limit {
                page.next = Some(match last {
                    Some(key) => Start::After(key.to_owned()),
                    // The common prefix shown last set `start` behind itself.
                    None => start,
                });
                return page;
            }
            let end = delimiter.and_then(|mark| rest.find(mark).map(|at| at + mark.len()));
            if let Some(end) = end {
                let common = &key[..prefix.len() + end];
                page.common_prefixes.push(common.to_owned());
                let Some(behind) = first_behind(common) else {
                    return page;
                };
                start = Start::At(behind);
                last = None;
                continue 'jump;
            }
            page.objects.push((key, object));
            last = Some(key);
        }
        return page;
    }
}

/// The least string behind all that start with `prefix`: its last character
/// stepped on. Order by character and by UTF-8 byte is the same order.
fn first_behind(prefix: &str) -> Option<String> {
    let mut rest = prefix.to_owned();
    while let Some(last) = rest.pop() {
        let step = match last {
            // The surrogates between these two are no characters.
            '\u{D7FF}' => Some('\u{E000}'),
            other => char::from_u32(u32::from(other) + 1),
        };
        if let Some(next) = step {
            rest.push(next);
            return Some(rest);
        }
    }
    None
}

/// One line of a listing of versions.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) key: String,
    pub(super) version: Version,
    pub(super) is_latest: bool,
}

/// Lists versions: keys in byte order, each key's versions newest first.
/// The second value says whether there are more.
pub(super) fn versions(
    bucket: &Bucket,
    prefix: &str,
    after: Option<(&str, Option<VersionId>)>,
    limit: usize,
) -> (Vec<Line>, bool) {
    let start = match after {
        None => Start::At(String::new()),
        Some((key, None)) => Start::After(key.to_owned()),
        Some((key, Some(_))) => Start::At(key.to_owned()),
    };
    let start = start.within(prefix);
    let range = || (start.bound(), Bound::Unbounded);
    let mut live = bucket
        .live
        .range::<str, _>(range())
        .map(|(key, _)| key)
        .peekable();
    let mut history = bucket
        .history
        .range::<str, _>(range())
        .map(|(key, _)| key)
        .peekable();

    let mut lines = Vec::new();
    loop {
        let key = match (live.peek(), history.peek()) {
            (Some(a), Some(b)) => (*a).min(*b),
            (Some(key), None) | (None, Some(key)) => *key,
            (None, None) => return (lines, false),
        };
        live.next_if(|next| *next == key);
        history.next_if(|next| *next == key);
        if !key.starts_with(prefix) {
            return (lines, false);
        }
        let all = bucket.versions(key);
        let from = match after {
            Some((marked, Some(id))) if marked == key => all
                .iter()
                .position(|version| version.id() == id)
                .map(|place| place + 1)
                .or_else(|| {
                    all.iter()
                        .position(|version| version.id().is_older_than(id))
                })
                .unwrap_or(all.len()),
            _ => 0,
        };
        for (place, version) in all.into_iter().enumerate().skip(from) {
            if lines.len() == limit {
                return (lines, limit > 0);
            }
            lines.push(Line {
                key: key.clone(),
                version,
                is_latest: place == 0,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_keeps_every_key() {
        for key in ["", "a", "line\nbreak", "한글/\u{10FFFF}", "\u{1}"] {
            for start in [Start::At(key.to_owned()), Start::After(key.to_owned())] {
                assert_eq!(Start::from_token(&start.to_token()), Some(start));
            }
        }
        for foreign in ["", "2", "1zz", "1616", "0+1", "1ff"] {
            assert_eq!(Start::from_token(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn behind_a_prefix_lies_what_does_not_start_with_it() {
        assert_eq!(first_behind("a/").as_deref(), Some("a0"));
        assert_eq!(first_behind("\u{D7FF}").as_deref(), Some("\u{E000}"));
        assert_eq!(first_behind("a\u{10FFFF}").as_deref(), Some("b"));
        assert_eq!(first_behind("\u{10FFFF}"), None);
    }
}
