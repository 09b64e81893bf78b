//! The words of a text, whatever its marks, case and accents.

use unicode_normalization::UnicodeNormalization as _;

/// So many bytes of letters, or so many digits, tell a key even where a mark parts digits: a UUID with its
/// dashes or without, a date and time.
const TELLING_JOINED: usize = 24;
const TELLING_DIGITS_JOINED: usize = 12;

/// Whether these letters tell a key with its numbers joined.
pub(super) fn tell_joined(letters: &str) -> bool {
    letters.len() >= TELLING_JOINED
        || letters.bytes().filter(u8::is_ascii_digit).count() >= TELLING_DIGITS_JOINED
}

/// The letters and digits of a text, and where words begin and end among them. Only numbers are
/// kept apart, where few letters tell of a key.
#[derive(Debug, Default)]
pub(super) struct Words {
    pub(super) letters: String,
    pub(super) bounds: Vec<usize>,
}

/// Stands between two numbers.
pub(super) const PARTED: char = '-';

impl Words {
    pub(super) fn of(text: &str) -> Self {
        let mut words = Self::default();
        words.letters.reserve(text.len());
        // (The end of one word is the beginning of the next.)
        let mut within = false;
        if text.is_ascii() {
            for byte in text.bytes() {
                words.add(
                    char::from(byte.to_ascii_lowercase()),
                    byte.is_ascii_alphanumeric(),
                    &mut within,
                );
            }
        } else {
            for c in text.nfkd().flat_map(folded) {
                // An accent parts no words.
                if !unicode_normalization::char::is_combining_mark(c) {
                    words.add(c, c.is_alphanumeric(), &mut within);
                }
            }
        }
        words.bounds.push(words.letters.len());
        words
    }

    /// The same with all numbers joined.
    pub(super) fn joined(&self) -> Self {
        let mut bounds: Vec<usize> = Vec::with_capacity(self.bounds.len());
        let mut parted = self.letters.match_indices(PARTED).peekable();
        let mut before = 0;
        for bound in &self.bounds {
            while parted.next_if(|(at, _)| at < bound).is_some() {
                before += 1;
            }
            bounds.push(bound - before);
        }
        Self {
            letters: self.letters.replace(PARTED, ""),
            bounds,
        }
    }

    /// The letters that tell of a key.
    pub(super) fn telling(self) -> String {
        let joined = self.joined().letters;
        if tell_joined(&joined) {
            joined
        } else {
            self.letters
        }
    }

    fn add(&mut self, c: char, is_letter: bool, within: &mut bool) {
        if is_letter {
            if !*within {
                let is_digit = |c: char| c.is_ascii_digit();
                if is_digit(c) && self.letters.ends_with(is_digit) {
                    self.bounds.push(self.letters.len());
                    self.letters.push(PARTED);
                }
                self.bounds.push(self.letters.len());
            }
            self.letters.push(c);
        }
        *within = is_letter;
    }
}

/// A letter without its case: `ẞ`, `ß` and `SS` are one.
fn folded(c: char) -> impl Iterator<Item = char> {
    let upper = c.to_lowercase().flat_map(char::to_uppercase);
    upper.flat_map(char::to_lowercase)
}
