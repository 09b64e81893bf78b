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
        order: Order::default(),
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
    order: Order,
    skipped: Skipped,
}

/// The order of names that come in order, those that the scope leaves out with the rest: who
/// breaks it anywhere has not sorted.
#[derive(Debug, Default)]
struct Order {
    last: String,
}

impl Order {
    fn follow(&mut self, key: &str) -> Result<(), ReferenceDisorder> {
        if key < self.last.as_str() {
            return Err(ReferenceDisorder::new(&self.last, key));
        }
        self.last.clear();
        self.last.push_str(key);
        Ok(())
    }
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
                            self.order.follow(&key)?;
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use futures::{FutureExt as _, StreamExt as _, stream};
    use proptest::prelude::*;

    use super::*;
    use crate::key::{ObjectKey, Prefix};
    use crate::names::ReferenceForm;

    #[derive(Debug, Error)]
    #[error("the connection ended")]
    struct Ended;

    fn rules(form: ReferenceForm) -> NameRules {
        NameRules {
            bucket: "pics".to_owned(),
            form,
            prefix: String::new(),
            hosts: Vec::new(),
            foreign_hosts: Vec::new(),
        }
    }

    fn marked(
        form: ReferenceForm,
        names: Vec<Result<Option<Bytes>, Ended>>,
        per_chunk: usize,
    ) -> Result<Vec<Chunk>, MarkError> {
        let rules = rules(form);
        let scope = Scope::new(Prefix::folder("a"), &[], &[]).unwrap();
        let marking = Marking {
            rules: &rules,
            scope: &scope,
            per_chunk,
        };
        // More than there can be: no test waits for a stream without end.
        chunks(stream::iter(names), marking)
            .take(1_000)
            .try_collect()
            .now_or_never()
            .expect("nothing waits")
    }

    fn sound(names: &[Option<String>]) -> Vec<Result<Option<Bytes>, Ended>> {
        let bytes = |name: &Option<String>| name.clone().map(Bytes::from);
        names.iter().map(|name| Ok(bytes(name))).collect()
    }

    /// The keys of some chunks, each with how it is named and how often.
    fn drain(chunks: Vec<Chunk>) -> BTreeMap<ObjectKey, (ReferenceKind, usize)> {
        let mut keys = BTreeMap::new();
        for mut chunk in chunks {
            while let Some((key, _)) = chunk.first() {
                let (key, before) = (ObjectKey::new(key), chunk.len());
                if let Some(kind) = chunk.advance() {
                    keys.insert(key, (kind, before - chunk.len()));
                }
            }
        }
        keys
    }

    proptest! {
        /// Whatever the form and wherever it is cut: each name's keys below the prefix, and
        /// nothing else.
        #[test]
        fn the_chunks_hold_what_the_names_protect(
            mut paths in proptest::collection::vec(proptest::option::of("|[a-b]/[a+%]{0,2}|b.?"), 0..40),
            is_url in any::<bool>(),
            per_chunk in 1_usize..9,
        ) {
            // A `%` that stands for itself.
            for path in paths.iter_mut().flatten() {
                *path = path.replace('%', "%25");
            }
            let form = if is_url { ReferenceForm::Url } else { ReferenceForm::Key };
            let names: Vec<Option<String>> = if is_url {
                let url = |path: String| if path.is_empty() { path } else { format!("s3://pics/{path}") };
                paths.into_iter().map(|path| path.map(url)).collect()
            } else {
                paths.sort();
                paths
            };
            let mut expected: BTreeMap<ObjectKey, (ReferenceKind, usize)> = BTreeMap::new();
            for name in names.iter().flatten() {
                for reference in rules(form).widen(name).unwrap() {
                    if reference.key.as_str().starts_with("a/") {
                        let (kind, times) = expected.entry(reference.key).or_insert((reference.kind, 0));
                        *kind = reference.kind.min(*kind);
                        *times += 1;
                    }
                }
            }
            let chunks = marked(form, sound(&names), per_chunk).unwrap();
            prop_assert_eq!(&chunks[0].range.after, &None);
            prop_assert_eq!(&chunks[chunks.len() - 1].range.up_to, &None);
            prop_assert_eq!(drain(chunks), expected);
        }
    }

    #[test]
    fn a_name_that_cannot_be_read_ends_the_marking_wherever_it_stands() {
        for form in [ReferenceForm::Key, ReferenceForm::Url] {
            for place in 0..4 {
                let names = ["a/1", "a/2", "a/3", "a/4"].map(|key| match form {
                    ReferenceForm::Key => Some(key.to_owned()),
                    ReferenceForm::Url => Some(format!("s3://pics/{key}")),
                });
                let with = |name: Result<Option<Bytes>, Ended>| {
                    let mut names = sound(&names);
                    names[place] = name;
                    marked(form, names, 2).unwrap_err()
                };
                assert!(matches!(with(Err(Ended)), MarkError::Source(_)));
                let foreign = Bytes::from_static(b"a/\xff");
                assert!(matches!(with(Ok(Some(foreign))), MarkError::NotUtf8(_)));
                let list = Bytes::from_static(b"[\"a/1\"]");
                assert!(matches!(with(Ok(Some(list))), MarkError::Name(_)));
            }
        }
        // Beyond the scope, too: who breaks the order there has not sorted.
        for falling in [["a/2", "a/1"], ["b2", "b1"], ["b", "a/1"], ["a/1", "a"]] {
            let falling = sound(&falling.map(|key| Some(key.to_owned())));
            let error = marked(ReferenceForm::Key, falling, 2).unwrap_err();
            assert!(matches!(error, MarkError::Disorder(_)));
        }
    }

    #[test]
    fn names_that_name_nothing_are_counted() {
        let mut skipped = Skipped::default();
        for (name, expected) in [
            (None, None),
            (Some(""), None),
            (None, None),
            (Some("a"), Some("a")),
            (Some(""), None),
            (Some(""), None),
        ] {
            let name = name.map(|name| Bytes::from_static(name.as_bytes()));
            assert_eq!(text(name.as_ref(), &mut skipped).unwrap(), expected);
        }
        assert_eq!((skipped.null, skipped.empty), (2, 3));
    }
}
