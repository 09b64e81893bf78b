//! Mark: the database's names, as they stream in, become chunks of references in key order.

use std::error::Error as StdError;
use std::io;

use bytes::Bytes;
use futures::stream::{Stream, TryStreamExt as _, try_unfold};
use thiserror::Error;

use crate::names::{NameError, NameRules};
use crate::references::{Chunk, Chunker, ReferenceDisorder, ReferenceKind};
use crate::scope::Scope;
use crate::sorting::{ReferenceSorter, SortedReferences};

/// The references could not be read; nothing may be judged by the part that was.
#[derive(Debug, Error)]
pub enum MarkError {
    /// The source of the names failed.
    #[error(transparent)]
    Source(Box<dyn StdError + Send + Sync>),
    /// A name is not text.
    #[error("a name is not UTF-8: {0:?}")]
    NotUtf8(Bytes),
    /// A name cannot be read as the form says.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The names' order broke.
    #[error(transparent)]
    Disorder(#[from] ReferenceDisorder),
    /// Names could not be sorted on disk.
    #[error("the references could not be sorted in the temporary folder")]
    Sort(#[from] io::Error),
}

/// How names become chunks.
#[derive(Debug, Clone, Copy)]
pub struct Marking<'run> {
    /// How names become keys.
    pub rules: &'run NameRules,
    /// References elsewhere are left out: they are neither counted nor dangling. (The globs
    /// leave none out: an object out of scope still satisfies its reference.)
    pub scope: &'run Scope,
    /// References in a chunk.
    pub per_chunk: usize,
}

impl Marking<'_> {
    fn counts(&self, key: &str) -> bool {
        self.scope.prefix().contains(key) && self.scope.range().contains(key)
    }
}

/// A stream of chunks that together cover every key of the scope's range. An error is its
/// last item.
///
/// Names whose form keeps their order must come in byte order; others may come in any.
pub fn chunks<'run, S, E>(
    names: S,
    marking: Marking<'run>,
) -> impl Stream<Item = Result<Chunk, MarkError>> + Send + 'run
where
    S: Stream<Item = Result<Option<Bytes>, E>> + Send + Unpin + 'run,
    E: StdError + Send + Sync + 'static,
{
    let source = if marking.rules.keep_order() {
        Source::Ordered(names)
    } else {
        Source::Unsorted(names)
    };
    let marker = Marker {
        source,
        chunker: Some(Chunker::new(
            marking.scope.range().clone(),
            marking.per_chunk,
        )),
        skipped: Skipped::default(),
    };
    try_unfold(marker, move |mut marker| async move {
        let chunk = marker.next_chunk(marking).await?;
        Ok(chunk.map(|chunk| (chunk, marker)))
    })
}

/// Names on their way into chunks.
enum Source<S> {
    /// In order already.
    Ordered(S),
    /// To be widened and sorted first.
    Unsorted(S),
    /// Widened and sorted.
    Sorted(SortedReferences),
}

struct Marker<S> {
    source: Source<S>,
    /// `None` behind the last chunk.
    chunker: Option<Chunker>,
    skipped: Skipped,
}

impl<S, E> Marker<S>
where
    S: Stream<Item = Result<Option<Bytes>, E>> + Send + Unpin,
    E: StdError + Send + Sync + 'static,
{
    async fn next_chunk(&mut self, marking: Marking<'_>) -> Result<Option<Chunk>, MarkError> {
        while let Some(chunker) = &mut self.chunker {
            let complete = match &mut self.source {
                Source::Unsorted(names) => {
                    self.source = Source::Sorted(sort(names, marking, &mut self.skipped).await?);
                    None
                }
                Source::Ordered(names) => match names
                    .try_next()
                    .await
                    .map_err(|error| MarkError::Source(error.into()))?
                {
                    None => break,
                    Some(name) => match text(name.as_ref(), &mut self.skipped)? {
                        None => None,
                        Some(name) => {
                            let key = marking.rules.key_of(name)?;
                            if marking.counts(&key) {
                                chunker.push(&key, ReferenceKind::Primary)?
                            } else {
                                None
                            }
                        }
                    },
                },
                Source::Sorted(references) => match references.next().transpose()? {
                    None => break,
                    Some(reference) => chunker.push(reference.key.as_str(), reference.kind)?,
                },
            };
            if complete.is_some() {
                return Ok(complete);
            }
        }
        self.skipped.report();
        Ok(self.chunker.take().map(Chunker::finish))
    }
}

/// Names that name nothing.
#[derive(Debug, Default)]
struct Skipped {
    null: u64,
    empty: u64,
}

impl Skipped {
    fn report(&mut self) {
        if self.null + self.empty > 0 {
            tracing::info!(
                null_names = self.null,
                empty_names = self.empty,
                "skipped names"
            );
        }
        *self = Self::default();
    }
}

/// The name as text; `None` where it names nothing.
fn text<'name>(
    name: Option<&'name Bytes>,
    skipped: &mut Skipped,
) -> Result<Option<&'name str>, MarkError> {
    let Some(name) = name else {
        skipped.null += 1;
        return Ok(None);
    };
    if name.is_empty() {
        skipped.empty += 1;
        return Ok(None);
    }
    std::str::from_utf8(name)
        .map(Some)
        .map_err(|_| MarkError::NotUtf8(name.clone()))
}

async fn sort<S, E>(
    names: &mut S,
    marking: Marking<'_>,
    skipped: &mut Skipped,
) -> Result<SortedReferences, MarkError>
where
    S: Stream<Item = Result<Option<Bytes>, E>> + Unpin,
    E: StdError + Send + Sync + 'static,
{
    let mut sorter = ReferenceSorter::default();
    while let Some(name) = names
        .try_next()
        .await
        .map_err(|error| MarkError::Source(error.into()))?
    {
        let Some(name) = text(name.as_ref(), skipped)? else {
            continue;
        };
        for reference in marking.rules.widen(name)? {
            if marking.counts(reference.key.as_str()) {
                sorter.push(reference)?;
            }
        }
    }
    Ok(sorter.finish()?)
}
