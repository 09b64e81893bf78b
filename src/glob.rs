//! Globs that match keys by characters.

use globset::GlobBuilder;
use regex_automata::meta::{BuildError, Regex};
use regex_automata::util::syntax;
use regex_automata::{Input, MatchKind, PatternSet};
use thiserror::Error;

/// A glob that cannot be used.
#[derive(Debug, Error)]
#[error("{glob:?} is not a glob: {source}")]
pub struct GlobError {
    glob: String,
    source: Unusable,
}

#[derive(Debug, Error)]
enum Unusable {
    #[error(transparent)]
    Glob(#[from] globset::Error),
    #[error(transparent)]
    Regex(#[from] Box<BuildError>),
}

/// Globs in two heaps: those without `/` match a key's last segment, those with `/` the
/// whole key.
#[derive(Debug, Clone)]
pub(crate) struct Globs {
    texts: Vec<String>,
    segment: Heap,
    key: Heap,
}

/// Some of the globs.
#[derive(Debug, Clone)]
struct Heap {
    all: Regex,
    /// Where in `texts` they stand.
    places: Vec<usize>,
}

impl Globs {
    /// # Errors
    /// A glob that does not parse.
    pub(crate) fn new(texts: &[String]) -> Result<Self, GlobError> {
        let places = 0..texts.len();
        let (key, segment) = places.partition(|&place| texts[place].contains('/'));
        Ok(Self {
            texts: texts.to_vec(),
            segment: Heap::new(texts, segment)?,
            key: Heap::new(texts, key)?,
        })
    }

    /// As they were given.
    pub(crate) fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Whether one of them matches the key.
    pub(crate) fn matches(&self, key: &str) -> bool {
        self.segment.matches(last_segment(key)) || self.key.matches(key)
    }

    /// Which of them match the key, by their places.
    pub(crate) fn all_matching(&self, key: &str) -> impl Iterator<Item = usize> {
        let segment = self.segment.all_matching(last_segment(key));
        segment.into_iter().chain(self.key.all_matching(key))
    }
}

/// As the globs' library has it.
const CACHE_BYTES: usize = 10 << 20;

impl Heap {
    fn new(texts: &[String], places: Vec<usize>) -> Result<Self, GlobError> {
        let failed = |glob: &str, source| {
            let glob = glob.to_owned();
            GlobError { glob, source }
        };
        let mut all = Vec::with_capacity(places.len());
        for &place in &places {
            let text = &texts[place];
            all.push(of_characters(text).map_err(|error| failed(text, error.into()))?);
        }
        let syntax = syntax::Config::new().dot_matches_new_line(true);
        let all = Regex::builder()
            .syntax(syntax)
            .configure(
                Regex::config()
                    .match_kind(MatchKind::All)
                    .hybrid_cache_capacity(CACHE_BYTES),
            )
            .build_many(&all)
            .map_err(|error| failed(&texts.join(","), Box::new(error).into()))?;
        Ok(Self { all, places })
    }

    fn matches(&self, text: &str) -> bool {
        !self.places.is_empty() && self.all.is_match(text)
    }

    fn all_matching(&self, text: &str) -> Vec<usize> {
        let mut found = PatternSet::new(self.all.pattern_len());
        let text = Input::new(text);
        self.all.which_overlapping_matches(&text, &mut found);
        found
            .iter()
            .map(|pattern| self.places[pattern.as_usize()])
            .collect()
    }
}

fn last_segment(key: &str) -> &str {
    key.rsplit_once('/').map_or(key, |(_, last)| last)
}

/// The regular expression of a glob. The library's own matches bytes, so that its `?` is no `é`, and
/// escapes each byte that is not of ASCII
/// (<https://docs.rs/globset/0.4/globset/struct.Glob.html#method.regex>).
fn of_characters(glob: &str) -> Result<String, globset::Error> {
    let glob = GlobBuilder::new(glob)
        .literal_separator(true)
        .backslash_escape(true)
        .build()?;
    let regex = glob.regex().trim_start_matches("(?-u)");
    let mut characters: Vec<u8> = Vec::with_capacity(regex.len());
    let mut rest = regex;
    while let Some(at) = rest.find('\\') {
        let (before, escaped) = rest.split_at(at);
        characters.extend(before.bytes());
        let byte = escaped.strip_prefix("\\x").and_then(|code| code.get(..2));
        let byte = byte.and_then(|code| u8::from_str_radix(code, 16).ok());
        // (A backslash of the glob is escaped by one more.)
        let length = if byte.is_some() { 4 } else { 2 };
        match byte {
            Some(byte) => characters.push(byte),
            None => characters.extend(escaped.bytes().take(length)),
        }
        rest = &escaped[length..];
    }
    characters.extend(rest.bytes());
    Ok(String::from_utf8_lossy(&characters).into_owned())
}

#[cfg(test)]
mod tests {
    use globset::GlobBuilder;
    use proptest::prelude::*;

    use super::*;

    fn matches(glob: &str, key: &str) -> bool {
        Globs::new(&[glob.to_owned()]).unwrap().matches(key)
    }

    #[test]
    fn a_glob_matches_characters_and_not_bytes() {
        for (glob, matching, others) in [
            (
                "keep/?.png",
                &["keep/é.png", "keep/語.png", "keep/😀.png", "keep/a.png"][..],
                &["keep/ab.png", "keep/.png", "keep//.png"][..],
            ),
            (
                "keep/[é語].png",
                &["keep/é.png", "keep/語.png"],
                &["keep/e.png", "keep/\u{3a9}.png"],
            ),
            (
                "keep/[!a].png",
                &["keep/é.png", "keep/b.png"],
                &["keep/a.png", "keep/éé.png"],
            ),
            ("[а-я]?.png", &["яж.png", "x/бé.png"], &["zж.png", "Яж.png"]),
            ("é*", &["éclair.png", "x/é"], &["e", "xé"]),
            ("{é,語}.png", &["é.png", "語.png"], &["e.png"]),
            ("a\\?b\\\\é", &["a?b\\é"], &["axb\\é"]),
            ("a\\\\xe9", &["a\\xe9"], &["aé"]),
            ("a.b+(c)|d", &["a.b+(c)|d"], &["axb+(c)|d", "d"]),
            ("**/é/*.png", &["é/x.png", "a/é/\n.png"], &["aé/x.png"]),
        ] {
            for key in matching {
                assert!(matches(glob, key), "{glob} {key}");
            }
            for key in others {
                assert!(!matches(glob, key), "{glob} {key}");
            }
        }
    }

    proptest! {
        /// Where every character is a byte, as the library does.
        #[test]
        fn of_ascii_a_glob_matches_what_the_library_says(
            glob in "([ab/*?.\\\\]|\\*\\*/|/\\*\\*|\\[[!]?[a-c]\\]|\\{a,b[*]\\}){0,6}",
            keys in prop::collection::vec("[ab/.*\\\\\n]{0,6}", 8),
        ) {
            let library = GlobBuilder::new(&glob).literal_separator(true).backslash_escape(true).build();
            let ours = Globs::new(std::slice::from_ref(&glob));
            prop_assert_eq!(library.is_ok(), ours.is_ok());
            let (Ok(library), Ok(ours)) = (library, ours) else { return Ok(()) };
            let library = library.compile_matcher();
            for key in keys {
                let text = if glob.contains('/') { &key } else { last_segment(&key) };
                prop_assert_eq!(library.is_match(text), ours.matches(&key), "{} {}", glob, key);
                prop_assert_eq!(ours.matches(&key), ours.all_matching(&key).next().is_some());
            }
        }
    }
}
