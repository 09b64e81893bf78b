//! Puts references in order whose names did not keep it, on disk where there are many.
//!
//! Sorted runs in temporary files and a merge over them. A reference lost here could cost a
//! live image, so every run knows how many it holds and fails when it ends early. (A crate
//! was tried first and lost all of them whenever the last run was exactly full.)

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::vec;

use crate::key::ObjectKey;
use crate::references::{Reference, ReferenceKind};

/// References held in memory at once, some 20 MiB of them. Each run keeps a file open, so
/// 100 million references need 500.
const IN_MEMORY: usize = 200_000;

/// Takes references in any order and gives them back by key, primary before alternate.
#[derive(Debug)]
pub struct ReferenceSorter {
    in_memory: usize,
    buffer: Vec<Reference>,
    runs: Vec<Run>,
}

impl Default for ReferenceSorter {
    fn default() -> Self {
        Self::with_runs_of(IN_MEMORY)
    }
}

impl ReferenceSorter {
    fn with_runs_of(references: usize) -> Self {
        Self {
            in_memory: references,
            buffer: Vec::new(),
            runs: Vec::new(),
        }
    }

    /// Takes one more.
    ///
    /// # Errors
    /// The temporary folder is full, or broken.
    pub fn push(&mut self, reference: Reference) -> io::Result<()> {
        if self.buffer.len() >= self.in_memory {
            self.buffer.sort_unstable();
            self.runs.push(Run::write(&self.buffer)?);
            self.buffer.clear();
        }
        self.buffer.push(reference);
        Ok(())
    }

    /// All of them, in order.
    ///
    /// # Errors
    /// The temporary folder is broken.
    pub fn finish(mut self) -> io::Result<SortedReferences> {
        self.buffer.sort_unstable();
        let mut sorted = SortedReferences {
            runs: self.runs,
            buffer: self.buffer.into_iter(),
            heads: BinaryHeap::new(),
        };
        for source in 0..=sorted.runs.len() {
            sorted.refill(source)?;
        }
        Ok(sorted)
    }
}

/// References in order, from all runs.
#[derive(Debug)]
pub struct SortedReferences {
    runs: Vec<Run>,
    /// What was still in memory: the source behind the last run.
    buffer: vec::IntoIter<Reference>,
    /// The first reference that is left of each source.
    heads: BinaryHeap<Reverse<(Reference, usize)>>,
}

impl SortedReferences {
    fn refill(&mut self, source: usize) -> io::Result<()> {
        let next = match self.runs.get_mut(source) {
            Some(run) => run.read()?,
            None => self.buffer.next(),
        };
        self.heads
            .extend(next.map(|reference| Reverse((reference, source))));
        Ok(())
    }
}

impl Iterator for SortedReferences {
    type Item = io::Result<Reference>;

    fn next(&mut self) -> Option<Self::Item> {
        let Reverse((reference, source)) = self.heads.pop()?;
        Some(self.refill(source).map(|()| reference))
    }
}

/// Sorted references in a file without a name.
#[derive(Debug)]
struct Run {
    file: BufReader<File>,
    left: usize,
}

impl Run {
    fn write(references: &[Reference]) -> io::Result<Self> {
        let mut writer = BufWriter::new(tempfile::tempfile()?);
        for Reference { key, kind } in references {
            let bytes = key.as_str().as_bytes();
            let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
            writer.write_all(&length.to_le_bytes())?;
            writer.write_all(&[u8::from(*kind == ReferenceKind::Alternate)])?;
            writer.write_all(bytes)?;
        }
        let mut file = writer
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        Ok(Self {
            file: BufReader::new(file),
            left: references.len(),
        })
    }

    /// The next reference; a file that ends before it held all is an error.
    fn read(&mut self) -> io::Result<Option<Reference>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let mut head = [0; 5];
        self.file.read_exact(&mut head)?;
        let [length @ .., kind] = head;
        let mut key = vec![0; u32::from_le_bytes(length) as usize];
        self.file.read_exact(&mut key)?;
        let key = ObjectKey::new(String::from_utf8(key).map_err(io::Error::other)?);
        let kind = match kind {
            0 => ReferenceKind::Primary,
            _ => ReferenceKind::Alternate,
        };
        Ok(Some(Reference { key, kind }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reference((key, alternate): (String, bool)) -> Reference {
        let kind = if alternate {
            ReferenceKind::Alternate
        } else {
            ReferenceKind::Primary
        };
        Reference {
            key: ObjectKey::new(key),
            kind,
        }
    }

    proptest! {
        #[test]
        fn references_come_back_in_order_from_disk_too(
            names in proptest::collection::vec((".{0,4}", any::<bool>()), 0..50),
            in_memory in 1_usize..9,
        ) {
            let mut references: Vec<Reference> = names.into_iter().map(reference).collect();
            let mut sorter = ReferenceSorter::with_runs_of(in_memory);
            for reference in &references {
                sorter.push(reference.clone()).unwrap();
            }
            // Each keeps a file open: no more of them than it takes.
            prop_assert_eq!(sorter.runs.len(), references.len().saturating_sub(1) / in_memory);
            let sorted: Vec<Reference> = sorter.finish().unwrap().collect::<io::Result<_>>().unwrap();
            references.sort();
            prop_assert_eq!(sorted, references);
        }
    }

    #[test]
    fn a_run_that_lost_its_end_is_an_error() {
        let references = ["a", "bb"].map(|key| reference((key.to_owned(), false)));
        for lost in 1..12 {
            let mut run = Run::write(&references).unwrap();
            let length = run.file.get_ref().metadata().unwrap().len();
            run.file.get_ref().set_len(length - lost).unwrap();
            let read = (0..2).map(|_| run.read()).collect::<io::Result<Vec<_>>>();
            assert!(read.is_err(), "{lost} bytes lost");
        }
    }
}
