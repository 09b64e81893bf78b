//! Judge: every range is listed and merged with its references; the findings go into the
//! plan in key order.
//!
//! A window of ranges is listed at once. A range that turns out long (a folder full of
//! orphans is invisible to the database) hands over its findings part by part, so memory
//! is bounded by pages whatever a range holds.

use futures::stream::{FuturesOrdered, Stream, StreamExt as _};
use thiserror::Error;

use crate::listing::{Bookmark, ListError, Pages, RangeListing};
use crate::mark::MarkError;
use crate::merge::{Criteria, Findings, Merge};
use crate::plan::PlanBuilder;
use crate::references::Chunk;
use crate::summary::Counts;

/// Pages after which a range hands over what it found.
const PAGES_PER_PART: usize = 16;

/// The scope could not be judged as a whole.
#[derive(Debug, Error)]
pub enum JudgeError {
    /// The references.
    #[error(transparent)]
    Mark(#[from] MarkError),
    /// The listing.
    #[error(transparent)]
    List(#[from] ListError),
    /// The plan's temporary file.
    #[error("the plan could not be written to the temporary folder")]
    Spool(#[from] std::io::Error),
}

/// Judges every chunk's range, at most `at_once` of them at a time.
///
/// # Errors
/// The first error of the references, the listing or the plan's file; the plan must then
/// not be used.
pub async fn judge<P: Pages>(
    pages: &P,
    chunks: impl Stream<Item = Result<Chunk, MarkError>>,
    criteria: &Criteria,
    at_once: usize,
    plan: &mut PlanBuilder,
    mut progress: impl FnMut(&Counts),
) -> Result<(), JudgeError> {
    let mut chunks = std::pin::pin!(chunks.fuse());
    let mut ranges = FuturesOrdered::new();
    let mut marked = false;
    loop {
        tokio::select! {
            biased;
            Some(part) = ranges.next(), if !ranges.is_empty() => {
                let Part { findings, rest } = part?;
                plan.add(findings)?;
                progress(&plan.counts());
                if let Some((bookmark, references)) = rest {
                    ranges.push_front(judge_part(pages, criteria, bookmark, references));
                }
            }
            chunk = chunks.next(), if !marked && ranges.len() < at_once.max(1) => match chunk {
                Some(chunk) => {
                    let chunk = chunk?;
                    ranges.push_back(judge_part(pages, criteria, Bookmark::at_start(chunk.range.clone()), chunk));
                }
                None => marked = true,
            },
            else => return Ok(()),
        }
    }
}

/// What some pages of a range gave, and what is left of it.
struct Part {
    findings: Findings,
    rest: Option<(Bookmark, Chunk)>,
}

async fn judge_part<P: Pages>(
    pages: &P,
    criteria: &Criteria,
    bookmark: Bookmark,
    references: Chunk,
) -> Result<Part, ListError> {
    let mut merge = Merge::new(criteria, references);
    let mut listing = RangeListing::resume(pages, bookmark);
    let mut goes_on = true;
    for _ in 0..PAGES_PER_PART {
        goes_on = listing.next_page(|object| merge.object(object)).await?;
        if !goes_on {
            break;
        }
    }
    let listed = listing.listed();
    let (mut findings, rest) = if goes_on {
        let (findings, references) = merge.pause();
        (findings, Some((listing.pause(), references)))
    } else {
        (merge.finish(), None)
    };
    findings.counts.listed = listed;
    Ok(Part { findings, rest })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ops::Bound;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::stream;
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::key::{KeyRange, ObjectKey, Prefix};
    use crate::listing::{Page, PageStart};
    use crate::object::ListedObject;
    use crate::plan::Plan;
    use crate::references::{Chunker, ReferenceKind};
    use crate::scope::Scope;

    fn listed(key: &str) -> ListedObject<'_> {
        ListedObject {
            key,
            etag: "\"e\"",
            size: 3,
            last_modified: Some(Timestamp::UNIX_EPOCH),
        }
    }

    /// These keys, so many a page. It counts who asks at once.
    struct Bucket {
        keys: BTreeSet<String>,
        page: usize,
        asking: AtomicUsize,
        most: AtomicUsize,
        /// So many pages are answered.
        answers: AtomicUsize,
    }

    impl Bucket {
        fn of(keys: BTreeSet<String>, page: usize) -> Self {
            Self {
                keys,
                page,
                asking: AtomicUsize::new(0),
                most: AtomicUsize::new(0),
                answers: AtomicUsize::new(usize::MAX),
            }
        }
    }

    impl Pages for Bucket {
        async fn page(&self, start: &PageStart) -> Result<Page, ListError> {
            let asking = self.asking.fetch_add(1, Ordering::Relaxed) + 1;
            self.most.fetch_max(asking, Ordering::Relaxed);
            tokio::task::yield_now().await;
            self.asking.fetch_sub(1, Ordering::Relaxed);
            if self.answers.fetch_sub(1, Ordering::Relaxed) == 0 {
                return Err(ListError::Page("cut".to_owned()));
            }
            let after = match start {
                PageStart::After(None) => Bound::Unbounded,
                PageStart::After(Some(key)) => Bound::Excluded(key.as_str()),
                PageStart::Token(token) => Bound::Excluded(token.as_str()),
            };
            let mut left = self.keys.range::<str, _>((after, Bound::Unbounded));
            let mut page = Page::default();
            let mut last = None;
            for key in left.by_ref().take(self.page) {
                page.push(listed(key));
                last = Some(key.clone());
            }
            page.next = last.filter(|_| left.next().is_some());
            Ok(page)
        }
    }

    fn criteria() -> Criteria {
        let scope = Scope::new(Prefix::default(), &["*".to_owned()], &["x*".to_owned()]).unwrap();
        Criteria {
            scope,
            cutoff: Timestamp::UNIX_EPOCH + jiff::Span::new().seconds(1),
        }
    }

    fn chunks(names: &[String], per_chunk: usize) -> Vec<Result<Chunk, MarkError>> {
        let mut chunker = Chunker::new(KeyRange::default(), per_chunk);
        let mut chunks = Vec::new();
        for name in names {
            chunks.extend(chunker.push(name, ReferenceKind::Primary).unwrap().map(Ok));
        }
        chunks.push(Ok(chunker.finish()));
        chunks
    }

    /// The plan, and what was counted each time that something was handed over.
    fn judged(
        bucket: &Bucket,
        chunks: Vec<Result<Chunk, MarkError>>,
        at_once: usize,
    ) -> Result<(Plan, Vec<Counts>), JudgeError> {
        let mut plan = PlanBuilder::new(None)?;
        let mut seen = Vec::new();
        let (criteria, chunks) = (criteria(), stream::iter(chunks));
        let work = judge(bucket, chunks, &criteria, at_once, &mut plan, |counts| {
            seen.push(*counts);
        });
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        runtime.block_on(work)?;
        Ok((plan.finish()?, seen))
    }

    fn orphans(plan: &Plan) -> Vec<ObjectKey> {
        let mut orphans = plan.spool().orphans().unwrap();
        std::iter::from_fn(|| orphans.next_orphan().unwrap().map(|orphan| orphan.key)).collect()
    }

    proptest! {
        /// However the scope is cut into ranges, pages and parts, and in whatever order they
        /// come, it is the one merge over all of it.
        #[test]
        fn the_plan_is_the_merge_of_the_whole_scope(
            keys in proptest::collection::btree_set("[a-bx]{1,5}", 0..120),
            mut names in proptest::collection::vec("[a-bx]{1,5}", 0..60),
            per_chunk in 1_usize..70,
            page in 1_usize..4,
            at_once in 0_usize..5,
        ) {
            names.sort();
            let bucket = Bucket::of(keys, page);
            let (plan, seen) = judged(&bucket, chunks(&names, per_chunk), at_once).unwrap();

            let criteria = criteria();
            let references = names.iter().map(|name| (name.as_str(), ReferenceKind::Primary));
            let mut merge = Merge::new(&criteria, Chunk::new(KeyRange::default(), references));
            for key in &bucket.keys {
                merge.object(listed(key));
            }
            let mut whole = merge.finish();
            whole.counts.listed = bucket.keys.len() as u64;
            prop_assert_eq!(plan.counts(), whole.counts);
            prop_assert_eq!(seen.last(), Some(&whole.counts));
            prop_assert_eq!(plan.dangling(), &whole.dangling);
            let expected: Vec<ObjectKey> = whole.orphans.into_iter().map(|orphan| orphan.key).collect();
            prop_assert_eq!(orphans(&plan), expected);
            prop_assert!(bucket.most.into_inner() <= at_once.max(1));
        }
    }

    fn many() -> BTreeSet<String> {
        (0..100).map(|number| format!("{number:03}")).collect()
    }

    #[test]
    fn a_long_range_hands_over_what_it_found_after_sixteen_pages() {
        let (plan, seen) = judged(&Bucket::of(many(), 2), chunks(&[], 9), 1).unwrap();
        let seen: Vec<u64> = seen.iter().map(|counts| counts.listed).collect();
        assert_eq!(seen, [32, 64, 96, 100]);
        assert_eq!(plan.counts().orphans, 100);
    }

    #[test]
    fn whatever_is_missing_there_is_no_plan() {
        let names: Vec<String> = many().into_iter().collect();
        let sound = || chunks(&names, 9);
        let pages = {
            let bucket = Bucket::of(many(), 2);
            judged(&bucket, sound(), 3).unwrap();
            usize::MAX - bucket.answers.into_inner()
        };
        for answers in 0..pages {
            let mut bucket = Bucket::of(many(), 2);
            bucket.answers = AtomicUsize::new(answers);
            let error = judged(&bucket, sound(), 3).unwrap_err();
            assert!(matches!(error, JudgeError::List(_)), "{error}");
        }
        for broken in 0..sound().len() {
            let mut chunks = sound();
            chunks[broken] = Err(MarkError::Source("gone".into()));
            let error = judged(&Bucket::of(many(), 2), chunks, 3).unwrap_err();
            assert!(matches!(error, JudgeError::Mark(_)), "{error}");
        }
    }
}
