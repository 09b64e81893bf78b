//! Texts that are known again, without being kept.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher as _;

/// Names or keys that are known again, by some bytes for each. All are, where there is no room for more.
#[derive(Debug)]
pub struct KnownTexts {
    texts: HashSet<u64>,
    room: usize,
}

/// So many are known again, some 80 MB.
pub const MAX_KNOWN: usize = 4_000_000;

impl Default for KnownTexts {
    fn default() -> Self {
        Self::with_room(MAX_KNOWN)
    }
}

impl KnownTexts {
    fn with_room(room: usize) -> Self {
        Self {
            texts: HashSet::new(),
            room,
        }
    }

    /// Adds a text, as long as there is room.
    pub fn add(&mut self, text: &str) {
        if self.texts.len() <= self.room {
            self.texts.insert(Self::hash(text));
        }
    }

    /// Whether this is one of them.
    #[must_use]
    pub fn contain(&self, text: &str) -> bool {
        self.texts.len() > self.room || self.texts.contains(&Self::hash(text))
    }

    fn hash(text: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write(text.as_bytes());
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_more_names_than_there_is_room_for_all_are_known() {
        let mut known = KnownTexts::with_room(2);
        for (name, is_known) in [("a", false), ("b", false), ("c", true), ("d", true)] {
            known.add(name);
            assert!(known.contain(name));
            assert_eq!(known.contain("another"), is_known);
        }
        assert_eq!(known.texts.len(), 3);
    }
}
