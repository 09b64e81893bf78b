//! What is looked for of a key, in which spellings, and what a text that holds it may say.

use std::collections::BTreeSet;

use aho_corasick::{AhoCorasick, Input, MatchKind};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::{DiscoveryError, Token};
use crate::key::ObjectKey;

/// What there is to be looked for.
pub(super) struct Needles<'sample>(Vec<Needle<'sample>>);

struct Needle<'sample> {
    key: &'sample ObjectKey,
    /// So much of the key's end that no other sampled key ends so.
    text: &'sample str,
    /// Whether it is so short that it may stand in many texts by chance.
    is_short: bool,
}

/// A name shorter than this before its extension is no name to find inside of texts.
const SHORT: usize = 6;

impl<'sample> Needles<'sample> {
    pub(super) fn of(sample: &'sample [ObjectKey]) -> Self {
        let needles = sample
            .iter()
            // PostgreSQL's text holds no NUL.
            .filter(|key| !key.as_str().is_empty() && !key.as_str().contains('\0'))
            .map(|key| {
                let text = distinctive_end(key.as_str(), sample);
                let stem = text.split('.').next().unwrap_or_default();
                Needle {
                    key,
                    text,
                    is_short: stem.chars().count() < SHORT,
                }
            });
        Self(needles.collect())
    }

    /// Whether there is nothing to be looked for.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys that a piece of text may mean.
    pub(super) fn named_by<'n>(
        &'n self,
        token: &'n Token,
    ) -> impl Iterator<Item = &'sample ObjectKey> + 'n {
        let readings = readings(&token.text);
        self.0
            .iter()
            .filter(move |needle| readings.iter().any(|reading| needle.is_in(reading)))
            .map(|needle| needle.key)
    }
}

impl Needle<'_> {
    /// Whether it stands in the text as a name of its own. A `+` may stand for a space, and
    /// nobody can tell which one does.
    fn is_in(&self, text: &str) -> bool {
        let with_spaces = |text: &str| text.replace('+', " ");
        self.stands_in(self.text, text)
            || self.text.contains(' ')
                && self.stands_in(&with_spaces(self.text), &with_spaces(text))
    }

    fn stands_in(&self, needle: &str, text: &str) -> bool {
        let is_name = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_');
        text.match_indices(needle).any(|(at, _)| {
            let before = text[..at].chars().next_back();
            let mut rest = text[at + needle.len()..].chars();
            let after = rest.next();
            if self.is_short {
                before.is_none_or(|c| matches!(c, '/' | '=' | ':'))
                    && after.is_none_or(|c| matches!(c, '?' | '#' | '&'))
            } else {
                before.is_none_or(|c| !is_name(c) && c != '.')
                    && after.is_none_or(|c| {
                        !(is_name(c) || c == '.' && rest.next().is_some_and(is_name))
                    })
            }
        })
    }
}

/// The shortest end of the key, from behind a slash, that no other key of the sample has.
fn distinctive_end<'key>(key: &'key str, sample: &[ObjectKey]) -> &'key str {
    let starts = key.rmatch_indices('/').map(|(slash, _)| slash + 1);
    let ends = starts.map(|start| &key[start..]);
    let has = |other: &ObjectKey, end: &str| {
        other
            .as_str()
            .strip_suffix(end)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
    };
    ends.filter(|end| !end.is_empty())
        .find(|end| sample.iter().filter(|other| has(other, end)).count() == 1)
        .unwrap_or(key)
}

/// What stands as it is in URLs, besides letters and digits.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// The ways in which a text may be written down.
fn spellings(text: &str) -> BTreeSet<String> {
    let encoded = utf8_percent_encode(text, UNRESERVED).to_string();
    let with_slashes = encoded.replace("%2F", "/");
    let in_json: String = text
        .encode_utf16()
        .map(|unit| match u8::try_from(unit) {
            Ok(byte) if byte.is_ascii() => char::from(byte).to_string(),
            _ => format!("\\u{unit:04x}"),
        })
        .collect();
    let lower = |encoded: &str| {
        let mut parts = encoded.split('%');
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |text, part| {
            let (code, rest) = part.split_at_checked(2).unwrap_or((part, ""));
            format!("{text}%{}{rest}", code.to_lowercase())
        })
    };
    BTreeSet::from([
        text.to_owned(),
        text.replace('/', "\\/"),
        text.replace(' ', "+"),
        with_slashes.replace("%20", "+"),
        in_json.replace('/', "\\/"),
        in_json,
        lower(&encoded),
        lower(&with_slashes),
        with_slashes,
        encoded,
    ])
}

/// Finds the pieces of text that hold a needle in any spelling.
pub(super) struct Finder {
    spellings: AhoCorasick,
    /// Ends of needles that stand in every spelling of theirs, such as `.png`; none where some
    /// needle has no such end.
    pub(super) endings: Vec<String>,
}

/// Pieces of text that are looked at closely in one column.
const MAX_TOKENS: usize = 2_000;

impl Finder {
    pub(super) fn of(needles: &Needles<'_>) -> Result<Self, DiscoveryError> {
        let all: BTreeSet<String> = needles
            .0
            .iter()
            .flat_map(|needle| spellings(needle.text))
            .collect();
        let spellings = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(&all)
            .map_err(|error| DiscoveryError(error.into()))?;
        let endings: Option<BTreeSet<String>> =
            needles.0.iter().map(|needle| ending(needle.text)).collect();
        Ok(Self {
            spellings,
            endings: endings.unwrap_or_default().into_iter().collect(),
        })
    }

    /// Adds the pieces of the text that hold a needle.
    pub(super) fn tokens(&self, text: &str, tokens: &mut Vec<Token>) {
        // What parts one name from the next in lists, JSON, markup and sentences.
        let parts = |c: char| {
            c.is_whitespace()
                || matches!(
                    c,
                    '"' | '\'' | '<' | '>' | ',' | ';' | '|' | '{' | '}' | '(' | ')' | '[' | ']'
                )
        };
        let mut from = 0;
        while tokens.len() < MAX_TOKENS
            && let Some(found) = self.spellings.find(Input::new(text).range(from..))
        {
            let start = text[..found.start()].rfind(parts).map_or(0, |at| {
                at + text[at..].chars().next().map_or(0, char::len_utf8)
            });
            let end = text[found.end()..]
                .find(parts)
                .map_or(text.len(), |at| found.end() + at);
            tokens.push(Token {
                text: text[start..end].to_owned(),
                is_whole: start == 0 && end == text.len(),
            });
            from = end;
        }
    }
}

/// The extension of a name, with its dot, where every spelling keeps it.
fn ending(text: &str) -> Option<String> {
    let (_, extension) = text.rsplit_once('.')?;
    let plain = !extension.is_empty() && extension.bytes().all(|byte| byte.is_ascii_alphanumeric());
    plain.then(|| format!(".{extension}"))
}

/// What a piece of text may say: as it is, and with what encodes it taken away.
pub(super) fn readings(text: &str) -> BTreeSet<String> {
    let plain = text.replace("\\/", "/");
    let unescaped = serde_json::from_str::<String>(&format!("\"{text}\"")).ok();
    let decoded = |text: &str| {
        percent_decode_str(text)
            .decode_utf8()
            .map(std::borrow::Cow::into_owned)
            .ok()
    };
    let mut readings = BTreeSet::from([text.to_owned(), plain.clone()]);
    readings.extend(decoded(&plain));
    readings.extend(decoded(&plain.replace('+', " ")));
    readings.extend(unescaped);
    readings
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The sampled keys that the texts name, by their places in the sample.
    fn named(sample: &[&str], texts: &[&str]) -> Vec<usize> {
        let keys: Vec<ObjectKey> = sample.iter().map(|key| ObjectKey::new(*key)).collect();
        let needles = Needles::of(&keys);
        let finder = Finder::of(&needles).unwrap();
        let mut tokens = Vec::new();
        for text in texts {
            let may_be_left_out = !finder.endings.is_empty()
                && !finder.endings.iter().any(|ending| text.contains(ending));
            if !may_be_left_out {
                finder.tokens(text, &mut tokens);
            }
        }
        let found: BTreeSet<&ObjectKey> = tokens
            .iter()
            .flat_map(|token| needles.named_by(token))
            .collect();
        (0..keys.len())
            .filter(|&place| found.contains(&keys[place]))
            .collect()
    }

    /// Keys as people make them, with the characters that spellings differ in.
    fn key() -> impl Strategy<Value = String> {
        let name = "[a-zé고 +%_()&'-]{1,9}";
        (
            proptest::collection::vec(name, 0..3),
            name,
            prop_oneof![Just(".png"), Just(".JPEG"), Just("")],
        )
            .prop_map(|(folders, name, extension)| {
                let folders: String = folders
                    .iter()
                    .flat_map(|name| [name.as_str(), "/"])
                    .collect();
                format!("{folders}{name}{extension}")
            })
    }

    proptest! {
        #[test]
        fn a_key_is_found_in_every_spelling(key in key(), which in any::<prop::sample::Index>(), around in 0_usize..7) {
            let spelled: Vec<String> = spellings(&key).into_iter().collect();
            let spelling = which.get(&spelled);
            let text = match around {
                0 => spelling.clone(),
                1 => format!("/{spelling}"),
                2 => format!("https://cdn.example.com/{spelling}?w=100&x=y"),
                3 => format!("{{\"photo\": [\"other.png\", \"media/{spelling}\"]}}"),
                4 => format!("first,{spelling},last"),
                5 => format!("<img src='/x/{spelling}'>"),
                _ => format!("old https://x.example/{spelling} new"),
            };
            prop_assert_eq!(named(&[&key], &[&text]), [0], "{} in {}", key, text);
        }

        #[test]
        fn the_last_part_alone_is_enough_where_it_is_the_only_one(keys in proptest::collection::btree_set(key(), 1..5)) {
            let sample: Vec<&str> = keys.iter().map(String::as_str).collect();
            let objects: Vec<ObjectKey> = sample.iter().map(|key| ObjectKey::new(*key)).collect();
            for (place, key) in sample.iter().enumerate() {
                let end = distinctive_end(key, &objects);
                prop_assert!(named(&sample, &[end]).contains(&place), "{} by {}", key, end);
                let others = sample.iter().filter(|other| other.ends_with(&format!("/{end}"))).count();
                prop_assert!(others <= 1);
            }
        }
    }

    #[test]
    fn a_longer_name_is_another_one() {
        let sample = ["images/cat-picture.png", "images/7.png"];
        for (text, found) in [
            ("cat-picture.png", &[0][..]),
            ("see cat-picture.png.", &[0]),
            ("my-cat-picture.png", &[]),
            ("cat-picture.png.bak", &[]),
            ("cat-picture.pngs", &[]),
            ("x.cat-picture.png", &[]),
            ("7.png", &[1]),
            ("avatars/7.png?v=2", &[1]),
            ("17.png", &[]),
            ("a-7.png", &[]),
            ("see:7.png.", &[]),
            ("17.png 7.png", &[1]),
            ("CAT-PICTURE.PNG", &[]),
        ] {
            assert_eq!(named(&sample, &[text]), found, "{text}");
        }
        // A name that many folders have means none of them.
        let albums = ["1/original.jpg", "21/original.jpg"];
        assert_eq!(named(&albums, &["original.jpg"]), [0; 0]);
        assert_eq!(named(&albums, &["21/original.jpg"]), [1]);
    }
}
