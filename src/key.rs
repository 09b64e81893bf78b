//! Keys, prefixes and key ranges. Byte order lives here and nowhere else.
//!
//! S3 lists general purpose buckets in UTF-8 byte order
//! (<https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html>), PostgreSQL
//! orders the same way under `COLLATE "C"` in a UTF8 database, and Rust compares `str`
//! byte by byte: the three orders are one, which is what the merge rests on.

use std::borrow::Borrow;
use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

/// The longest key that S3 accepts, in bytes of UTF-8
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html>).
pub const MAX_KEY_BYTES: usize = 1_024;

/// The full name of an object, byte for byte as S3 lists it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ObjectKey(Box<str>);

impl ObjectKey {
    /// The key that is exactly this text.
    pub fn new(key: impl Into<Box<str>>) -> Self {
        Self(key.into())
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key with control characters escaped, so that a key can neither break a log
    /// line nor drive a terminal.
    #[must_use]
    pub fn escaped(&self) -> String {
        escape(&self.0)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for ObjectKey {
    /// Writes the escaped form; use [`ObjectKey::as_str`] for the bytes themselves.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.escaped())
    }
}

impl Borrow<str> for ObjectKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Text from a bucket or a database, safe to show: control characters and the marks that
/// reorder a line, or that nobody sees, are written as `\u{…}`.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hostile(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// JSON with the same escaped, as JSON does: a terminal takes it for text, and a reader has
/// the same strings.
#[must_use]
pub fn escape_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        // JSON escapes the control characters below U+0020 itself. One unit of UTF-16 is
        // enough for each of the others.
        if is_hostile(c) && c >= '\u{7f}' {
            let _ = write!(shown, "\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    shown
}

fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// The folder that a run is about: empty, or text that ends with `/`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Prefix(String);

impl Prefix {
    /// The prefix that a person meant: `images` and `images/` both mean the folder
    /// `images/`, so that `images2/cat.png` is never inside.
    #[must_use]
    pub fn folder(text: &str) -> Self {
        if text.is_empty() || text.ends_with('/') {
            Self(text.to_owned())
        } else {
            Self(format!("{text}/"))
        }
    }

    /// The prefix as text, empty for the whole bucket.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the key lies inside.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        // Asked of every key. To compare with an empty text is slow: its address may be one
        // where nothing lies, and a processor takes long to see that it need not read there.
        self.0.is_empty() || key.starts_with(&self.0)
    }

    /// Whether every key inside `self` also lies inside `outer`.
    #[must_use]
    pub fn extends(&self, outer: &Self) -> bool {
        self.0.starts_with(&outer.0)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.0))
    }
}

/// The keys of `(after, up_to]`; a missing bound is open. The unit of listing, of
/// resuming and of distribution.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyRange {
    /// Keys up to and including this one come before the range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<ObjectKey>,
    /// The last key that may belong to the range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up_to: Option<ObjectKey>,
}

impl KeyRange {
    /// Whether the key lies in the range.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        !self.is_after(key) && !self.is_before(key)
    }

    /// Whether every key lies in the range.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the key lies at or before the range's lower bound.
    #[must_use]
    pub fn is_after(&self, key: &str) -> bool {
        self.after
            .as_ref()
            .is_some_and(|after| key <= after.as_str())
    }

    /// Whether the key lies beyond the range's upper bound.
    #[must_use]
    pub fn is_before(&self, key: &str) -> bool {
        self.up_to
            .as_ref()
            .is_some_and(|up_to| key > up_to.as_str())
    }
}

impl fmt::Display for KeyRange {
    /// Writes the bounds that there are, behind the name of what they cut.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(after) = &self.after {
            write!(f, " after {after}")?;
        }
        if let Some(up_to) = &self.up_to {
            write!(f, " up to {up_to}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_prefix_is_a_folder_with_an_exact_boundary() {
        let prefix = Prefix::folder("images");
        assert_eq!(prefix.as_str(), "images/");
        assert_eq!(prefix, Prefix::folder("images/"));
        assert!(prefix.contains("images/cat.png"));
        assert!(!prefix.contains("images2/cat.png"));
        assert!(!prefix.contains("images"));
        assert!(Prefix::folder("images/2026").extends(&prefix));
        assert!(!Prefix::folder("images2").extends(&prefix));
        assert!(prefix.extends(&Prefix::folder("")));
    }

    #[test]
    fn a_shown_key_cannot_break_a_line_or_drive_a_terminal() {
        let shown = ObjectKey::new("a\n\u{1b}[2Jb\u{202e}고양이.png").to_string();
        assert_eq!(shown, "a\\n\\u{1b}[2Jb\\u{202e}고양이.png");
    }

    proptest! {
        #[test]
        fn escaped_json_says_the_same_in_characters_that_do_no_harm(text in any::<String>(), hostile in "[\u{7f}-\u{9f}\u{202a}-\u{202e}\u{2028}\u{61c}]{0,3}") {
            let said = serde_json::json!({ "key": format!("{text}{hostile}") });
            let shown = escape_json(&said.to_string());
            prop_assert!(!shown.chars().any(is_hostile), "{}", shown);
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), said);
        }

        #[test]
        fn keys_order_by_their_bytes(a in any::<String>(), b in any::<String>()) {
            let (x, y) = (ObjectKey::new(a.clone()), ObjectKey::new(b.clone()));
            prop_assert_eq!(x.cmp(&y), a.as_bytes().cmp(b.as_bytes()));
        }

        /// From so few keys that a bound itself is often asked about.
        #[test]
        fn a_range_splits_the_keys_in_three(a in "[a-b고]{0,2}", b in "[a-b고]{0,2}", key in "[a-b고]{0,2}") {
            let (lower, upper) = if a <= b { (a, b) } else { (b, a) };
            let range = KeyRange { after: Some(ObjectKey::new(lower.clone())), up_to: Some(ObjectKey::new(upper.clone())) };
            prop_assert_eq!(range.is_after(&key), key <= lower);
            prop_assert_eq!(range.is_before(&key), key > upper);
            prop_assert_eq!(range.contains(&key), lower < key && key <= upper);
            prop_assert!(!range.is_whole() && KeyRange::default().is_whole());
            prop_assert!(KeyRange::default().contains(&key));
        }
    }
}
