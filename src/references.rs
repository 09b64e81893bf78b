//! Chunks of references in key order: the database's side of the merge.
//!
//! A chunk says which keys the database names within one [`KeyRange`], completely. Its
//! bounds are names of the database themselves, so the bucket is cut where the keys are,
//! with no guessing. Keys lie packed in one text, because a window of chunks is held at
//! once and a `String` for each would treble their memory.

use std::mem;

use thiserror::Error;

use crate::key::{KeyRange, ObjectKey};

/// One key that protects an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// The key that is named.
    pub key: ObjectKey,
    /// How it is named. Primary orders before alternate.
    pub kind: ReferenceKind,
}

impl Reference {
    /// The one key that a name means.
    #[must_use]
    pub fn primary(key: impl Into<Box<str>>) -> Self {
        Self {
            key: ObjectKey::new(key),
            kind: ReferenceKind::Primary,
        }
    }
}

/// How a reference's key came out of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReferenceKind {
    /// The one key that the name means: counted, and dangling when its object is missing.
    Primary,
    /// Another reading of the same name: protects, and is neither counted nor dangling.
    Alternate,
}

/// Every reference of one key range, in order.
#[derive(Debug, Clone, Default)]
pub struct Chunk {
    /// The range that the chunk speaks for.
    pub range: KeyRange,
    text: String,
    ends: Vec<(u32, ReferenceKind)>,
    /// How many references were taken from the front already.
    taken: usize,
}

impl Chunk {
    /// The chunk of these references over the range.
    pub fn new<'a>(
        range: KeyRange,
        references: impl IntoIterator<Item = (&'a str, ReferenceKind)>,
    ) -> Self {
        let mut chunk = Self {
            range,
            ..Self::default()
        };
        for (key, kind) in references {
            chunk.push(key, kind);
        }
        chunk
    }

    fn push(&mut self, key: &str, kind: ReferenceKind) {
        self.text.push_str(key);
        let end = u32::try_from(self.text.len()).expect("a chunk is cut long before 4 GiB");
        self.ends.push((end, kind));
    }

    /// How many references are left.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len() - self.taken
    }

    /// Whether none is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first reference that is left.
    #[must_use]
    pub fn first(&self) -> Option<(&str, ReferenceKind)> {
        let &(_, kind) = self.ends.get(self.taken)?;
        Some((self.at(self.taken), kind))
    }

    /// Takes the first key that is left with all its repetitions, and says how it is
    /// named: primary if any name means it so.
    pub fn advance(&mut self) -> Option<ReferenceKind> {
        let (_, mut kind) = self.first()?;
        loop {
            let before = self.taken;
            self.taken += 1;
            match self.first() {
                Some((key, its_kind)) if key == self.at(before) => kind = kind.min(its_kind),
                _ => return Some(kind),
            }
        }
    }

    fn at(&self, index: usize) -> &str {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before].0);
        &self.text[start as usize..self.ends[index].0 as usize]
    }

    fn last(&self) -> Option<&str> {
        Some(self.at(self.ends.len().checked_sub(1)?))
    }
}

/// The database's keys came in falling order.
#[derive(Debug, Error)]
#[error("the references are out of order: {key} came after {before}")]
pub struct ReferenceDisorder {
    before: ObjectKey,
    key: ObjectKey,
}

impl ReferenceDisorder {
    pub(crate) fn new(before: &str, key: &str) -> Self {
        Self {
            before: ObjectKey::new(before),
            key: ObjectKey::new(key),
        }
    }
}

/// Cuts an ordered sequence of references into chunks whose ranges cover every key of one
/// range.
#[derive(Debug)]
pub struct Chunker {
    references_per_chunk: usize,
    /// Where the last chunk ends.
    up_to: Option<ObjectKey>,
    current: Chunk,
}

impl Chunker {
    /// A chunker of the references within the range, whose chunks hold about this many of
    /// them (more only where one key is named again and again at the cut).
    #[must_use]
    pub fn new(range: KeyRange, references_per_chunk: usize) -> Self {
        let KeyRange { after, up_to } = range;
        Self {
            references_per_chunk: references_per_chunk.max(1),
            up_to,
            current: Chunk::new(KeyRange { after, up_to: None }, []),
        }
    }

    /// Adds the next reference, and returns the chunk that it completes. A chunk is
    /// complete only when a greater key has come, so that the last one stays open to the
    /// end of the range and no key is named in two chunks. (Only references within the
    /// range belong here.)
    ///
    /// # Errors
    /// The key is less than the one before.
    pub fn push(
        &mut self,
        key: &str,
        kind: ReferenceKind,
    ) -> Result<Option<Chunk>, ReferenceDisorder> {
        let before =
            self.current
                .last()
                .or(self.current.range.after.as_ref().map(ObjectKey::as_str));
        if let Some(before) = before {
            if key < before {
                return Err(ReferenceDisorder::new(before, key));
            }
            if self.current.len() >= self.references_per_chunk && key > before {
                let cut = ObjectKey::new(before);
                let next = KeyRange {
                    after: Some(cut.clone()),
                    up_to: None,
                };
                let mut complete = mem::replace(&mut self.current, Chunk::new(next, []));
                complete.range.up_to = Some(cut);
                self.current.push(key, kind);
                return Ok(Some(complete));
            }
        }
        self.current.push(key, kind);
        Ok(None)
    }

    /// The last chunk, open to the end of the range.
    #[must_use]
    pub fn finish(mut self) -> Chunk {
        self.current.range.up_to = self.up_to;
        self.current
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunks(range: KeyRange, keys: &[String], per_chunk: usize) -> Vec<Chunk> {
        let mut chunker = Chunker::new(range, per_chunk);
        let mut chunks = Vec::new();
        for key in keys {
            chunks.extend(chunker.push(key, ReferenceKind::Primary).unwrap());
        }
        chunks.push(chunker.finish());
        chunks
    }

    fn drain(mut chunk: Chunk) -> Vec<String> {
        let mut keys = Vec::new();
        while let Some((key, _)) = chunk.first() {
            let (key, before) = (key.to_owned(), chunk.len());
            chunk.advance();
            keys.extend(std::iter::repeat_n(key, before - chunk.len()));
        }
        keys
    }

    proptest! {
        #[test]
        fn chunks_cover_every_key_once_and_keep_each_reference_in_its_range(
            mut keys in proptest::collection::vec("[a-c]{0,3}|고.?", 0..60),
            after in proptest::option::of("[a-b]{1,2}"),
            up_to in proptest::option::of("[b-c]{1,2}"),
            per_chunk in 1_usize..9,
        ) {
            let range = KeyRange { after: after.map(ObjectKey::new), up_to: up_to.map(ObjectKey::new) };
            keys.retain(|key| range.contains(key));
            keys.sort();
            let chunks = chunks(range.clone(), &keys, per_chunk);
            prop_assert_eq!(&chunks[0].range.after, &range.after);
            prop_assert_eq!(&chunks[chunks.len() - 1].range.up_to, &range.up_to);
            for pair in chunks.windows(2) {
                prop_assert_eq!(&pair[0].range.up_to, &pair[1].range.after);
                prop_assert!(pair[0].range.up_to.is_some());
                prop_assert!(pair[0].len() >= per_chunk);
            }
            for chunk in &chunks {
                let keys = drain(chunk.clone());
                for key in &keys {
                    prop_assert!(!chunk.range.is_after(key) && !chunk.range.is_before(key));
                }
                // More only where one key is named again and again at the cut.
                let over = keys.iter().skip(per_chunk - 1);
                prop_assert!(over.clone().zip(over.skip(1)).all(|(key, next)| key == next));
            }
            let all: Vec<String> = chunks.into_iter().flat_map(drain).collect();
            prop_assert_eq!(all, keys);
        }
    }

    #[test]
    fn a_falling_key_is_an_error_even_across_a_cut() {
        let mut chunker = Chunker::new(KeyRange::default(), 1);
        for key in ["a", "b"] {
            chunker.push(key, ReferenceKind::Primary).unwrap();
        }
        chunker.push("c", ReferenceKind::Primary).unwrap();
        let error = chunker.push("b", ReferenceKind::Primary).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the references are out of order: b came after c"
        );
    }
}
