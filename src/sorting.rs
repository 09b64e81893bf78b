//! Puts references in order whose names did not keep it, on disk where there are many.

use std::cmp::Ordering;
use std::io::{self, Read, Write};

use extsort::{ExternalSorter, PushExternalSorter, Sortable};

use crate::key::ObjectKey;
use crate::references::{Reference, ReferenceKind};

/// References held in memory at once, some 10 MiB of them.
const IN_MEMORY: usize = 100_000;

/// How references are compared.
type Comparison = fn(&Reference, &Reference) -> Ordering;

/// Takes references in any order and gives them back by key, primary before alternate.
pub struct ReferenceSorter {
    sorter: PushExternalSorter<Reference, Comparison>,
    pushed: u64,
}

impl Default for ReferenceSorter {
    fn default() -> Self {
        Self::with_segments_of(IN_MEMORY)
    }
}

impl ReferenceSorter {
    fn with_segments_of(references: usize) -> Self {
        let comparison: Comparison = Reference::cmp;
        Self {
            sorter: ExternalSorter::new()
                .with_segment_size(references)
                .pushed_by(comparison),
            pushed: 0,
        }
    }

    /// Takes one more.
    ///
    /// # Errors
    /// The temporary folder is full, or broken.
    pub fn push(&mut self, reference: Reference) -> io::Result<()> {
        self.pushed += 1;
        self.sorter.push(reference)
    }

    /// All of them, in order.
    ///
    /// # Errors
    /// The temporary folder is full, or broken.
    pub fn finish(self) -> io::Result<impl Iterator<Item = io::Result<Reference>> + Send> {
        Ok(Complete {
            references: self.sorter.done()?,
            left: self.pushed,
        })
    }
}

/// The sorter takes the early end of a file for its end, and a lost reference could cost a
/// live image: so they are counted.
struct Complete<I> {
    references: I,
    left: u64,
}

impl<I: Iterator<Item = io::Result<Reference>>> Iterator for Complete<I> {
    type Item = io::Result<Reference>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.references.next();
        match (&next, self.left) {
            (Some(Ok(_)), 1..) => {
                self.left -= 1;
                next
            }
            (Some(Err(_)), _) => next,
            (None, 0) => None,
            (Some(Ok(_)), 0) | (None, _) => {
                self.left = 0;
                Some(Err(io::Error::other(
                    "the sorted references are not as many as were sorted",
                )))
            }
        }
    }
}

impl Sortable for Reference {
    fn encode<W: Write>(&self, to: &mut W) -> io::Result<()> {
        let key = self.key.as_str().as_bytes();
        let length = u32::try_from(key.len()).map_err(io::Error::other)?;
        to.write_all(&length.to_le_bytes())?;
        to.write_all(&[u8::from(self.kind == ReferenceKind::Alternate)])?;
        to.write_all(key)
    }

    fn decode<R: Read>(from: &mut R) -> io::Result<Self> {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let mut kind = [0];
        from.read_exact(&mut kind)?;
        let mut key = vec![0; u32::from_le_bytes(length) as usize];
        from.read_exact(&mut key)?;
        let key = String::from_utf8(key).map_err(io::Error::other)?;
        let kind = if kind == [0] {
            ReferenceKind::Primary
        } else {
            ReferenceKind::Alternate
        };
        Ok(Self {
            key: ObjectKey::new(key),
            kind,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn references_come_back_in_order_from_disk_too(names in proptest::collection::vec((".{0,4}", any::<bool>()), 0..50)) {
            let mut references: Vec<Reference> = names
                .into_iter()
                .map(|(key, alternate)| Reference {
                    key: ObjectKey::new(key),
                    kind: if alternate { ReferenceKind::Alternate } else { ReferenceKind::Primary },
                })
                .collect();
            let mut sorter = ReferenceSorter::with_segments_of(7);
            for reference in &references {
                sorter.push(reference.clone()).unwrap();
            }
            let sorted: Vec<Reference> = sorter.finish().unwrap().collect::<io::Result<_>>().unwrap();
            references.sort();
            prop_assert_eq!(sorted, references);
        }
    }

    #[test]
    fn a_lost_reference_is_an_error() {
        let references = || {
            ["a", "b"]
                .map(|key| {
                    Ok(Reference {
                        key: ObjectKey::new(key),
                        kind: ReferenceKind::Primary,
                    })
                })
                .into_iter()
        };
        let read = |left| {
            Complete {
                references: references(),
                left,
            }
            .collect::<io::Result<Vec<_>>>()
        };
        assert_eq!(read(2).unwrap().len(), 2);
        assert!(read(3).is_err());
        assert!(read(1).is_err());
    }
}
