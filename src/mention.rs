//! Orphans that a name *mentions* without meaning them: their key stands in it, in whatever
//! place, case or encoding, and what the name does mean is not there.
//!
//! How image servers, proxies and careless code write a key into a URL has no end, and a name
//! that is read wrongly looks like one whose object is missing. So whoever deletes an object whose
//! key stands in such a name has perhaps read the name wrongly: it is held back.

use std::borrow::Cow;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{Hash as _, Hasher as _};
use std::iter;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization as _;

use crate::key::{MAX_KEY_BYTES, ObjectKey};
use crate::names::signature;

/// A key in any case and Unicode form, as far as it must be told from others. (Two that are taken
/// for one are both held back.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(u64);

impl KeyHash {
    /// The hash of a key.
    #[must_use]
    pub fn of(key: &ObjectKey) -> Self {
        Self::of_folded(&folded(key.as_str()))
    }

    fn of_folded(folded: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        folded.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// Keys that names are held against: some bytes for each.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    hashes: HashSet<KeyHash>,
    /// How long they are, folded, in bytes.
    lengths: BTreeSet<usize>,
}

impl Keys {
    /// Adds a key.
    pub fn add(&mut self, key: &ObjectKey) {
        let folded = folded(key.as_str());
        self.lengths.insert(folded.len());
        self.hashes.insert(KeyHash::of_folded(&folded));
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// The keys that stand in a text. Nothing of what stands behind a signature is read.
    #[must_use]
    pub fn mentioned_in(&self, text: &str) -> BTreeSet<KeyHash> {
        let mut found = BTreeSet::new();
        for text in writings(text) {
            self.find(&folded(&text), &mut found);
        }
        found
    }

    /// Adds the keys that stand in a folded text as a whole: no letter or digit goes on where one
    /// begins or ends.
    fn find(&self, text: &str, found: &mut BTreeSet<KeyHash>) {
        let Some(&longest) = self.lengths.last() else {
            return;
        };
        let places = boundaries(text);
        for (index, &start) in places.iter().enumerate() {
            let ends = &places[index + 1..];
            let too_long = ends.iter().position(|end| end - start > longest);
            let ends = &ends[..too_long.unwrap_or(ends.len())];
            let mut look_at = |end: usize| {
                let hash = KeyHash::of_folded(&text[start..end]);
                if self.hashes.contains(&hash) {
                    found.insert(hash);
                }
            };
            // Whichever are fewer.
            if self.lengths.len() < ends.len() {
                let lengths = self.lengths.iter();
                let ends = lengths.filter_map(|length| {
                    ends.binary_search(&(start + length))
                        .ok()
                        .map(|_| start + length)
                });
                ends.for_each(&mut look_at);
            } else {
                let ends = ends.iter().copied();
                ends.filter(|end| self.lengths.contains(&(end - start)))
                    .for_each(&mut look_at);
            }
        }
    }
}

/// Where a key may begin or end in a text: everywhere but within a word.
fn boundaries(text: &str) -> Vec<usize> {
    let mut places = Vec::with_capacity(32);
    let mut was_word = false;
    let mut add = |at: usize, is_word: bool| {
        if !(was_word && is_word) {
            places.push(at);
        }
        was_word = is_word;
    };
    if text.is_ascii() {
        let words = text.bytes().map(|byte| byte.is_ascii_alphanumeric());
        words.enumerate().for_each(|(at, is_word)| add(at, is_word));
    } else {
        let words = text.char_indices();
        words.for_each(|(at, c)| add(at, c.is_alphanumeric()));
    }
    places.push(text.len());
    places
}

/// A text in lower case and one Unicode form: some systems fold the names of files, and others
/// do not.
fn folded(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            text.to_ascii_lowercase().into()
        } else {
            text.into()
        }
    } else {
        text.nfc()
            .flat_map(char::to_lowercase)
            .collect::<String>()
            .into()
    }
}

/// So often a text is decoded.
const DECODED: usize = 4;

/// What a text may say: as it is, decoded, and as the ways of escaping mean it.
fn writings(text: &str) -> Vec<Cow<'_, str>> {
    let text = match signature(text) {
        Some(at) => &text[..at],
        None => text,
    };
    let mut said = Vec::new();
    decode(text.into(), &mut said);
    let hidden: Vec<String> = said.iter().flat_map(|text| hidden_in(text)).collect();
    for text in hidden {
        decode(text.into(), &mut said);
    }
    let unescaped: Vec<String> = said.iter().filter_map(|text| unescaped(text)).collect();
    said.extend(unescaped.into_iter().map(Cow::Owned));
    let with_plus = said.iter().filter(|text| text.contains('+'));
    let spaced: Vec<String> = with_plus.map(|text| text.replace('+', " ")).collect();
    said.extend(spaced.into_iter().map(Cow::Owned));
    said
}

/// Adds a text and what it decodes to.
fn decode<'text>(text: Cow<'text, str>, said: &mut Vec<Cow<'text, str>>) {
    let decode = |text: &Cow<'text, str>| {
        let decoded = percent_decode_str(text).decode_utf8_lossy();
        (decoded != *text).then(|| Cow::Owned(decoded.into_owned()))
    };
    said.extend(iter::successors(Some(text), decode).take(1 + DECODED));
}

/// What is written in Base64 within a text, as image servers write what they fetch
/// (<https://docs.imgproxy.net/usage/processing#source-url>,
/// <https://docs.aws.amazon.com/solutions/latest/dynamic-image-transformation-for-amazon-cloudfront/use-supported-query-param-edits.html>).
fn hidden_in(text: &str) -> Vec<String> {
    /// Shorter ones are words.
    const SHORTEST: usize = 8;
    /// How such a text begins, in which a slash may stand anywhere: `http`, `s3:/`, `{"`, `local:`.
    const BEGINNINGS: [&str; 4] = ["aHR0c", "czM6L", "eyJ", "bG9jYWw6"];
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'_');
    let mut found = Vec::new();
    for part in text.as_bytes().split(|byte| !is_letter(*byte)) {
        if (SHORTEST..=2 * MAX_KEY_BYTES).contains(&part.len()) {
            found.extend(from_base64(part));
        }
    }
    for beginning in BEGINNINGS {
        for (at, _) in text.match_indices(beginning) {
            let rest = &text.as_bytes()[at..];
            let end = rest
                .iter()
                .position(|byte| !is_letter(*byte) && *byte != b'/');
            let part = &rest[..end.unwrap_or(rest.len())];
            found.extend(from_base64(part));
            let pieces: Vec<u8> = part.iter().copied().filter(|byte| *byte != b'/').collect();
            found.extend(from_base64(&pieces));
        }
    }
    found
}

/// Base64, of the alphabet of URLs.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The text that is written so, in either alphabet.
fn from_base64(letters: &[u8]) -> Option<String> {
    /// Most of what is not text shows in its beginning. (Four letters are three bytes.)
    const BEGINNING: usize = 16;
    let in_urls = |letter: &u8| match letter {
        b'+' => b'-',
        b'/' => b'_',
        other => *other,
    };
    let mut beginning = [0; BEGINNING];
    let mut bytes = [0; BEGINNING];
    let length = letters.len().min(BEGINNING);
    for (to, letter) in beginning.iter_mut().zip(letters) {
        *to = in_urls(letter);
    }
    let length = BASE64
        .decode_slice_unchecked(&beginning[..length], &mut bytes)
        .ok()?;
    let cut = str::from_utf8(&bytes[..length]).map_or_else(|error| error.valid_up_to(), str::len);
    // (A character of four bytes may be cut.)
    if cut + 3 < length {
        return None;
    }
    let letters: Vec<u8> = letters.iter().map(in_urls).collect();
    String::from_utf8(BASE64.decode(letters).ok()?).ok()
}

/// The text without what HTML, JSON and other systems' paths put in; `None` where that is the same.
fn unescaped(text: &str) -> Option<String> {
    let mut plain = text.replace("&amp;", "&").replace('\\', "/");
    while plain.contains("//") {
        plain = plain.replace("//", "/");
    }
    (plain != text).then_some(plain)
}

/// The orphans that names mention.
#[derive(Debug, Default)]
pub struct Mentions {
    /// By what, for the first of them.
    of: HashMap<KeyHash, Option<String>>,
}

/// How many are told with what mentions them.
pub const MAX_TOLD: usize = 20;

impl Mentions {
    /// Adds a key that is mentioned by this name.
    pub fn add(&mut self, key: KeyHash, by: impl FnOnce() -> String) {
        let is_told = self.of.len() < MAX_TOLD;
        self.of.entry(key).or_insert_with(|| is_told.then(by));
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Whether the key is known to be mentioned.
    #[must_use]
    pub fn contains(&self, key: KeyHash) -> bool {
        self.of.contains_key(&key)
    }

    /// The orphan of this key as it is told of, if it is one of the first that are mentioned.
    #[must_use]
    pub fn told(&self, key: &ObjectKey) -> Option<Mention> {
        let name = self.of.get(&KeyHash::of(key))?.clone()?;
        Some(Mention {
            key: key.clone(),
            name,
        })
    }
}

/// An orphan that is held back because a name mentions it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mention {
    /// The orphan's key.
    pub key: ObjectKey,
    /// The name, as an error may show it.
    pub name: String,
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;

    fn mentions(text: &str, key: &str) -> bool {
        let key = ObjectKey::new(key);
        let mut keys = Keys::default();
        // Others of other lengths, few or many.
        keys.add(&ObjectKey::new("quite/another.png"));
        keys.add(&key);
        let found = keys.mentioned_in(text);
        for length in 1..40 {
            keys.add(&ObjectKey::new("\u{e000}".repeat(length)));
        }
        assert_eq!(keys.mentioned_in(text), found);
        assert_eq!(keys.len(), 41);
        found.contains(&KeyHash::of(&key))
    }

    #[test]
    fn a_key_is_found_however_an_image_server_writes_it() {
        for text in [
            "x/a.png",
            "https://img.example.net/s3.amazonaws.com/pics/x/a.png",
            "https://img.example.net/?src=pics/x/a.png&w=3",
            "https://img.example.net/x/a.png/300x300",
            "https://img.example.net/x/a.png@webp",
            "https://img.example.net/#/x/a.png",
            "https://img.example.net/r;url=x/a.png;w=64",
            "https://img.example.net/?images=[\"b.png\",\"x\\/a.png\"]",
            "https://img.example.net/?%7B%22key%22%3A%22x%2Fa.png%22%7D",
            "https://img.example.net/?x/a.png",
            "https://img.example.net/?k=b.png&amp;l=x/a.png%26w=3",
            "https://img.example.net/b.png+x/a.png",
            "https://img.example.net/x\\a.png",
            "https://img.example.net//x//a.png",
            "https://img.example.net/%252Fx%25252Fa.png",
            "https://img.example.net/X/A.PNG",
            "img{x/a.png}",
            "x/a.png?X-Amz-Signature=0",
        ] {
            assert!(mentions(text, "x/a.png"), "{text}");
        }
        assert!(mentions("https://img.example.net/R&amp;D.png", "R&D.png"));
        assert!(mentions("https://img.example.net/R+D.png", "R D.png"));
        assert!(mentions("https://img.example.net/R%2BD.png", "R D.png"));
        assert!(mentions("x//a.png", "x//a.png"));
        assert!(mentions("x/caf\u{e9}.png", "x/cafe\u{301}.png"));
        assert!(mentions("x/CAFE\u{301}.png", "x/caf\u{e9}.png"));
        assert!(mentions("x/#1 of (2).png", "#1 of (2).png"));
        assert!(mentions("a.png!thumb", "a.png!"));
    }

    #[test]
    fn a_key_is_no_part_of_a_word_and_stands_as_a_whole() {
        for text in [
            "",
            "x/banana.png",
            "x/a.pngs",
            "x/a.pn",
            "y/a.png",
            "x/b/a.png",
            "\u{e9}x/a.png",
            "x/a.png\u{e9}",
            "r?X-Amz-Credential=x/a.png",
        ] {
            assert!(!mentions(text, "x/a.png"), "{text}");
        }
        assert!(Keys::default().is_empty());
        assert!(Keys::default().mentioned_in("a.png").is_empty());
    }

    #[test]
    fn what_is_written_in_base64_is_read() {
        for source in [
            "https://pics.s3.amazonaws.com/x/a.png",
            "s3://pics/x/a.png",
            "local:///x/a.png",
            r#"{"bucket":"pics","key":"x/a.png","edits":{"resize":{"width":64}}}"#,
            "x/a.png",
            "???>>>/x/a.png",
            "https%3A%2F%2Fpics.s3.amazonaws.com%2Fx%2Fa.png",
        ] {
            for encoded in [STANDARD.encode(source), URL_SAFE_NO_PAD.encode(source)] {
                for text in [
                    format!("https://img.example.net/sig/rs:fit:3/{encoded}"),
                    format!("https://img.example.net/{encoded}.webp"),
                    format!("https://img.example.net/?u={}", encoded.replace('=', "%3D")),
                ] {
                    assert!(mentions(&text, "x/a.png"), "{source} in {text}");
                }
            }
        }
        // Cut in pieces, as one server's documentation shows it.
        let encoded = URL_SAFE_NO_PAD.encode("https://pics.s3.amazonaws.com/x/a.png");
        let (first, second) = encoded.split_at(16);
        assert!(mentions(
            &format!("https://img.example.net/{first}/{second}.png"),
            "x/a.png"
        ));
        let path = STANDARD.encode("https://pics.example.net/>>>???/x/a.png");
        assert!(path.contains('/'));
        assert!(mentions(
            &format!("https://img.example.net/{path}"),
            "x/a.png"
        ));
    }

    proptest! {
        /// Whatever stands around it, and however often it was encoded.
        #[test]
        fn a_key_is_found_wherever_it_stands(
            // (What decodes once more is another key.)
            key in "[a-z0-9][ -~é고]{0,20}[a-z0-9]".prop_map(|key| key.replace(['%', '+', '\\'], "~")),
            before in "([ -~]{0,20}[-_ !\"#$'()*,.:;<=>?@{|}~\u{200b}])?",
            after in "([-_ !\"#$'()*,.:;<=>?@{|}~\u{200b}][ -~]{0,20})?",
            encoded in 0..4,
        ) {
            let mut text = format!("{before}{key}{after}");
            for _ in 0..encoded {
                text = utf8_percent_encode(&text, NON_ALPHANUMERIC).to_string();
            }
            prop_assert!(mentions(&text, &key), "{key} in {text}");
        }

        #[test]
        fn what_is_found_stands_there(text in "[a-cA-C/.?]{0,7}", key in "[a-c]{1,2}[/.][a-c]{1,3}") {
            prop_assert!(text.to_lowercase().replace("//", "/").contains(&key) || !mentions(&text, &key));
        }
    }
}
