//! Ranges: where a scope is cut for a distributed run, so that each part names about as
//! many keys as the others.
//!
//! The cuts are names of the database. They touch the balance only: whatever lies between
//! two of them belongs to exactly one range.

use futures::stream::{Stream, TryStreamExt as _};

use crate::key::{KeyRange, ObjectKey};
use crate::mark::MarkError;
use crate::references::Chunk;

/// Cuts that are kept to choose from. When there are more, every other one is dropped.
const CANDIDATES: usize = 16_384;

/// Cuts the range of these chunks, which must cover it, in at most so many parts.
///
/// # Errors
/// The references cannot be read.
pub async fn ranges(
    chunks: impl Stream<Item = Result<Chunk, MarkError>>,
    parts: usize,
) -> Result<Vec<KeyRange>, MarkError> {
    let mut chunks = std::pin::pin!(chunks);
    let mut candidates = Candidates::new(CANDIDATES);
    let (mut after, mut up_to) = (None, None);
    while let Some(chunk) = chunks.try_next().await? {
        if candidates.chunks == 0 {
            after = chunk.range.after;
        }
        up_to = chunk.range.up_to;
        candidates.add(up_to.clone());
    }
    let mut ranges = Vec::new();
    for cut in candidates.choose(parts) {
        ranges.push(KeyRange {
            after: after.replace(cut.clone()),
            up_to: Some(cut),
        });
    }
    ranges.push(KeyRange { after, up_to });
    Ok(ranges)
}

/// Ends of chunks, equally far from each other.
struct Candidates {
    room: usize,
    /// Chunks from one kept end to the next.
    stride: usize,
    kept: Vec<ObjectKey>,
    chunks: usize,
}

impl Candidates {
    fn new(room: usize) -> Self {
        Self {
            room,
            stride: 1,
            kept: Vec::new(),
            chunks: 0,
        }
    }

    fn add(&mut self, end: Option<ObjectKey>) {
        self.chunks += 1;
        if !self.chunks.is_multiple_of(self.stride) {
            return;
        }
        self.kept.extend(end);
        if self.kept.len() > self.room {
            let mut is_kept = false;
            self.kept.retain(|_| {
                is_kept = !is_kept;
                !is_kept
            });
            self.stride *= 2;
        }
    }

    /// At most so many cuts that they make `parts` parts, of about as many chunks each. The
    /// last chunk's end is where the range ends, and no cut.
    fn choose(self, parts: usize) -> Vec<ObjectKey> {
        let steps = self.chunks.div_ceil(self.stride);
        let parts = parts.clamp(1, steps.max(1));
        let wanted: Vec<usize> = (1..parts).map(|part| part * steps / parts).collect();
        self.kept
            .into_iter()
            .enumerate()
            .filter(|(index, _)| wanted.binary_search(&(index + 1)).is_ok())
            .map(|(_, cut)| cut)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use futures::stream;
    use proptest::prelude::*;

    use super::*;
    use crate::references::{Chunker, ReferenceKind};

    fn key(number: usize) -> ObjectKey {
        ObjectKey::new(format!("{number:06}"))
    }

    fn cut(range: KeyRange, names: usize, per_chunk: usize, parts: usize) -> Vec<KeyRange> {
        let mut chunker = Chunker::new(range, per_chunk);
        let mut chunks = Vec::new();
        for number in 0..names {
            let name = key(number);
            chunks.extend(chunker.push(name.as_str(), ReferenceKind::Primary).unwrap());
        }
        chunks.push(chunker.finish());
        block_on(ranges(stream::iter(chunks.into_iter().map(Ok)), parts)).unwrap()
    }

    proptest! {
        #[test]
        fn the_ranges_cover_the_whole_one_and_are_about_equal(
            names in 0_usize..400,
            per_chunk in 1_usize..6,
            parts in 1_usize..12,
            bounded in any::<bool>(),
        ) {
            let whole = if bounded {
                KeyRange { after: Some(ObjectKey::new("")), up_to: Some(ObjectKey::new("zz")) }
            } else {
                KeyRange::default()
            };
            let ranges = cut(whole.clone(), names, per_chunk, parts);
            prop_assert_eq!(&ranges[0].after, &whole.after);
            prop_assert_eq!(&ranges[ranges.len() - 1].up_to, &whole.up_to);
            for pair in ranges.windows(2) {
                prop_assert!(pair[0].up_to.is_some());
                prop_assert_eq!(&pair[0].up_to, &pair[1].after);
                prop_assert!(pair[0].after < pair[0].up_to);
            }
            let chunks = names.div_ceil(per_chunk).max(1);
            prop_assert_eq!(ranges.len(), parts.min(chunks));
            let sizes: Vec<usize> = ranges
                .iter()
                .map(|range| (0..names).filter(|&number| range.contains(key(number).as_str())).count())
                .collect();
            let fair = names / parts;
            for size in sizes {
                prop_assert!(size <= fair + 2 * per_chunk && size + 2 * per_chunk >= fair, "{size} of {names} in {parts}");
            }
        }

        /// Many names: only some ends are kept, and the parts stay about equal.
        #[test]
        fn ends_that_were_dropped_make_no_part_uneven(chunks in 1_usize..3_000, room in 8_usize..60, parts in 1_usize..5) {
            let mut candidates = Candidates::new(room);
            for number in 1..chunks {
                candidates.add(Some(key(number)));
            }
            candidates.add(None);
            prop_assert!(candidates.kept.len() <= room);
            let stride = candidates.stride;
            // Each that is kept ends as many chunks, and none is dropped while there is room.
            let ends: Vec<ObjectKey> = (1..chunks).filter(|number| number % stride == 0).map(key).collect();
            prop_assert_eq!(&candidates.kept, &ends);
            prop_assert!(stride == 1 || (chunks - 1) / (stride / 2) > room);
            let cuts = candidates.choose(parts);
            prop_assert!(cuts.len() < parts.max(1));
            let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.as_str().parse().unwrap()).collect();
            ends.insert(0, 0);
            ends.push(chunks);
            if cuts.len() + 1 == parts {
                for pair in ends.windows(2) {
                    let size = pair[1] - pair[0];
                    prop_assert!(size.abs_diff(chunks / parts) <= 2 * stride, "{size} of {chunks} in {parts}, by {stride}");
                }
            } else {
                prop_assert!(chunks < parts * stride * 2, "too few parts");
            }
        }
    }
}
