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
