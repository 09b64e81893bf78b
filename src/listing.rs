//! The bucket as an ordered sequence of pages over a key range, whoever fetches them.
//!
//! A page that is not what was asked for ends the run: too few objects listed would only
//! leave orphans, but a listing that lies about one thing may lie about another.

use std::error::Error as StdError;

use jiff::Timestamp;
use thiserror::Error;

use crate::key::{KeyRange, ObjectKey};
use crate::object::ListedObject;

/// Empty pages in a row that are borne. S3 may send some where delete markers lie thick.
const MAX_EMPTY_PAGES: u32 = 1_000;

/// Where a page of a listing begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageStart {
    /// After this key, or at the first key.
    After(Option<ObjectKey>),
    /// Where an earlier page's token says.
    Token(String),
}

/// One page of the listing: at most 1,000 objects, packed.
#[derive(Debug, Clone, Default)]
pub struct Page {
    text: String,
    entries: Vec<Entry>,
    /// The token of the next page; `None` on the last.
    pub next: Option<String>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    key_end: u32,
    etag_end: u32,
    size: u64,
    last_modified: Option<Timestamp>,
}

impl Page {
    /// Adds an object at the end.
    ///
    /// # Panics
    /// The page's text grows beyond 4 GiB, of which S3's pages stay some thousandfold short.
    pub fn push(&mut self, object: ListedObject<'_>) {
        let offset =
            |text: &str| u32::try_from(text.len()).expect("a page is far smaller than 4 GiB");
        self.text.push_str(object.key);
        let key_end = offset(&self.text);
        self.text.push_str(object.etag);
        let etag_end = offset(&self.text);
        self.entries.push(Entry {
            key_end,
            etag_end,
            size: object.size,
            last_modified: object.last_modified,
        });
    }

    /// How many objects the page holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Its objects in the order in which S3 sent them.
    pub fn objects(&self) -> impl Iterator<Item = ListedObject<'_>> {
        let mut start = 0;
        self.entries.iter().map(move |entry| {
            let key = &self.text[start..entry.key_end as usize];
            start = entry.etag_end as usize;
            let etag = &self.text[entry.key_end as usize..start];
            ListedObject {
                key,
                etag,
                size: entry.size,
                last_modified: entry.last_modified,
            }
        })
    }
}

/// Who fetches pages of a bucket below the run's prefix.
pub trait Pages {
    /// Fetches one page of keys below the prefix, in order, from `start`.
    fn page(&self, start: &PageStart) -> impl Future<Output = Result<Page, ListError>> + Send;
}

/// The bucket could not be listed.
#[derive(Debug, Error)]
pub enum ListError {
    /// The storage refused or did not answer.
    #[error("could not list the bucket: {context}")]
    Storage {
        /// What the storage said.
        context: String,
        /// Where it came from.
        source: Option<Box<dyn StdError + Send + Sync>>,
    },
    /// The storage asked to slow down; a page is no worse for being asked for again.
    #[error("could not list the bucket: {context}")]
    SlowDown {
        /// What the storage said.
        context: String,
    },
    /// The page's body is not a page.
    #[error("a page of the listing cannot be read: {0}")]
    Page(String),
    /// Keys did not rise strictly.
    #[error(
        "the listing is out of order: {key} came after {before}; a directory bucket or a server that does not list in byte order cannot be swept"
    )]
    Disorder {
        /// The key before.
        before: ObjectKey,
        /// The key that came after it.
        key: ObjectKey,
    },
    /// A key outside of what was asked for.
    #[error("the listing holds {key}, which is not below the prefix '{prefix}'")]
    Outside {
        /// The key.
        key: ObjectKey,
        /// The prefix that was asked for.
        prefix: String,
    },
    /// The same token twice: the listing would never end.
    #[error("the listing repeats its continuation token after {after}")]
    RepeatedToken {
        /// The last key before.
        after: ObjectKey,
    },
    /// So many empty pages in a row that nothing shows that the listing goes on.
    #[error("the listing sent {MAX_EMPTY_PAGES} empty pages in a row that claim to be continued")]
    EmptyPages,
}

/// The listing of one key range under way.
#[derive(Debug)]
pub struct RangeListing<'run, P> {
    pages: &'run P,
    range: KeyRange,
    start: PageStart,
    listed: u64,
    empty_pages: u32,
    finished: bool,
}

/// Where a range's listing was left, to go on later; by default the beginning of the
/// bucket.
#[derive(Debug)]
pub struct Bookmark {
    range: KeyRange,
    start: PageStart,
    empty_pages: u32,
}

impl Default for Bookmark {
    fn default() -> Self {
        Self::at_start(KeyRange::default())
    }
}

impl Bookmark {
    /// The beginning of the range.
    #[must_use]
    pub fn at_start(range: KeyRange) -> Self {
        Self {
            start: PageStart::After(range.after.clone()),
            range,
            empty_pages: 0,
        }
    }
}

impl<'run, P: Pages> RangeListing<'run, P> {
    /// The listing from the bookmark on.
    #[must_use]
    pub fn resume(pages: &'run P, bookmark: Bookmark) -> Self {
        let Bookmark {
            range,
            start,
            empty_pages,
        } = bookmark;
        Self {
            pages,
            range,
            start,
            listed: 0,
            empty_pages,
            finished: false,
        }
    }

    /// Hands each object of the next page that lies in the range to `each`, and says
    /// whether the range goes on.
    ///
    /// # Errors
    /// Every kind of broken page, and a storage that does not answer.
    pub async fn next_page(
        &mut self,
        mut each: impl FnMut(ListedObject<'_>),
    ) -> Result<bool, ListError> {
        if self.finished {
            return Ok(false);
        }
        let page = self.pages.page(&self.start).await?;
        let mut last: Option<&str> = None;
        for object in page.objects() {
            let before = last.or(self.range.after.as_ref().map(ObjectKey::as_str));
            if let Some(before) = before.filter(|before| object.key <= *before) {
                return Err(ListError::Disorder {
                    before: ObjectKey::new(before),
                    key: ObjectKey::new(object.key),
                });
            }
            last = Some(object.key);
            // The rest of the page is still read, so that disorder there is seen, too.
            if !self.range.is_before(object.key) {
                self.listed += 1;
                each(object);
            }
        }
        let beyond = last.is_some_and(|last| self.range.is_before(last));
        self.empty_pages = if page.is_empty() {
            self.empty_pages + 1
        } else {
            0
        };
        match &page.next {
            Some(token) if !beyond => {
                if self.empty_pages > MAX_EMPTY_PAGES {
                    return Err(ListError::EmptyPages);
                }
                let next = PageStart::Token(token.clone());
                if self.start == next {
                    let after = last.or(self.range.after.as_ref().map(ObjectKey::as_str));
                    return Err(ListError::RepeatedToken {
                        after: ObjectKey::new(after.unwrap_or_default()),
                    });
                }
                // What is left of the range begins after the last key seen, which is what
                // the next page's order is held against.
                if let Some(last) = last {
                    self.range.after = Some(ObjectKey::new(last));
                }
                self.start = next;
                Ok(true)
            }
            _ => {
                self.finished = true;
                Ok(false)
            }
        }
    }

    /// How many objects were handed out since it was begun or resumed.
    #[must_use]
    pub fn listed(&self) -> u64 {
        self.listed
    }

    /// Where to go on.
    #[must_use]
    pub fn pause(self) -> Bookmark {
        Bookmark {
            range: self.range,
            start: self.start,
            empty_pages: self.empty_pages,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::future::ready;

    use futures::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    /// Answers with these pages, one after the other, whatever is asked.
    #[derive(Default)]
    struct Script {
        pages: RefCell<VecDeque<Page>>,
        asked: RefCell<Vec<PageStart>>,
    }

    impl Pages for Script {
        fn page(&self, start: &PageStart) -> impl Future<Output = Result<Page, ListError>> + Send {
            self.asked.borrow_mut().push(start.clone());
            ready(Ok(self.pages.borrow_mut().pop_front().unwrap_or_default()))
        }
    }

    fn page<'a>(keys: impl IntoIterator<Item = &'a str>, next: Option<&str>) -> Page {
        let mut page = Page::default();
        for key in keys {
            page.push(ListedObject {
                key,
                etag: "\"e\"",
                size: 1,
                last_modified: None,
            });
        }
        page.next = next.map(str::to_owned);
        page
    }

    fn script(pages: impl IntoIterator<Item = Page>) -> Script {
        Script {
            pages: RefCell::new(pages.into_iter().collect()),
            ..Script::default()
        }
    }

    fn range(after: Option<&str>, up_to: Option<&str>) -> KeyRange {
        KeyRange {
            after: after.map(ObjectKey::new),
            up_to: up_to.map(ObjectKey::new),
        }
    }

    fn next(
        listing: &mut RangeListing<'_, Script>,
        keys: &mut Vec<String>,
    ) -> Result<bool, ListError> {
        listing
            .next_page(|object| {
                assert_eq!((object.etag, object.size), ("\"e\"", 1));
                keys.push(object.key.to_owned());
            })
            .now_or_never()
            .expect("the pages are there")
    }

    /// Lists to the end, and says where each page was asked for.
    fn list(
        range: KeyRange,
        pages: impl IntoIterator<Item = Page>,
    ) -> Result<(Vec<String>, Vec<PageStart>), ListError> {
        let script = script(pages);
        let mut listing = RangeListing::resume(&script, Bookmark::at_start(range));
        let mut keys = Vec::new();
        while next(&mut listing, &mut keys)? {}
        assert_eq!(listing.listed(), keys.len() as u64);
        Ok((keys, script.asked.into_inner()))
    }

    proptest! {
        /// Nothing within the range is lost, and nothing beyond it is handed out, wherever the
        /// pages end and whenever the listing is left and taken up again.
        #[test]
        fn a_range_is_listed_page_by_page(
            keys in proptest::collection::btree_set("[a-c고]{1,3}", 0..40),
            size in 1_usize..7,
            after in proptest::option::of("[a-c고]{1,2}"),
            up_to in proptest::option::of("[a-c고]{1,2}"),
            left_after in 1_usize..5,
        ) {
            // As S3 does: after the key that was asked for, whatever comes, to the end.
            let listed: Vec<&str> = keys.iter().map(String::as_str).filter(|&key| after.as_deref().is_none_or(|after| key > after)).collect();
            let parts: Vec<&[&str]> = listed.chunks(size).collect();
            let pages = parts.iter().enumerate().map(|(index, part)| {
                page(part.iter().copied(), (index + 1 < parts.len()).then(|| index.to_string()).as_deref())
            });
            let script = script(pages);
            let range = range(after.as_deref(), up_to.as_deref());
            let mut bookmark = Bookmark::at_start(range.clone());
            let mut found = Vec::new();
            let mut total = 0;
            'ranges: loop {
                let mut listing = RangeListing::resume(&script, bookmark);
                for _ in 0..left_after {
                    if !next(&mut listing, &mut found).unwrap() {
                        total += listing.listed();
                        prop_assert!(!next(&mut listing, &mut found).unwrap(), "the end stays the end");
                        break 'ranges;
                    }
                }
                total += listing.listed();
                bookmark = listing.pause();
            }
            let expected: Vec<String> = listed.iter().filter(|&key| !range.is_before(key)).map(|&key| key.to_owned()).collect();
            prop_assert_eq!(&found, &expected);
            prop_assert_eq!(total, expected.len() as u64);
            let asked = script.asked.borrow();
            prop_assert_eq!(&asked[0], &PageStart::After(range.after.clone()));
            for (index, start) in asked[1..].iter().enumerate() {
                prop_assert_eq!(start, &PageStart::Token(index.to_string()));
            }
            // No page is asked for beyond the one that passes the range's end.
            let passes = parts.iter().position(|part| part.iter().any(|key| range.is_before(key)));
            prop_assert_eq!(asked.len(), passes.map_or(parts.len(), |passes| passes + 1).max(1));
        }
    }

    #[test]
    fn keys_that_do_not_rise_strictly_end_the_listing_wherever_they_stand() {
        let ends = [
            // Within a page, also twice the same.
            (None, vec![page(["b", "a"], None)]),
            (None, vec![page(["a", "a"], None)]),
            // From one page to the next, also over an empty one.
            (None, vec![page(["b"], Some("1")), page(["a"], None)]),
            (None, vec![page(["b"], Some("1")), page(["b"], None)]),
            (
                None,
                vec![
                    page(["b"], Some("1")),
                    page([], Some("2")),
                    page(["a"], None),
                ],
            ),
            // At or before the bound that was asked for.
            (Some("b"), vec![page(["b"], None)]),
            (Some("b"), vec![page(["a", "c"], None)]),
            // Beyond the end of the range.
            (None, vec![page(["a", "z", "y"], None)]),
        ];
        for (after, pages) in ends {
            let error = list(range(after, Some("x")), pages).unwrap_err();
            assert!(matches!(error, ListError::Disorder { .. }), "{error}");
        }
        let (keys, _) = list(range(Some("b"), Some("x")), [page(["c"], None)]).unwrap();
        assert_eq!(keys, ["c"]);
    }

    #[test]
    fn a_token_that_comes_twice_ends_the_listing() {
        let pages = || [page(["a"], Some("1")), page(["b"], Some("1"))];
        let error = list(KeyRange::default(), pages()).unwrap_err();
        assert!(
            matches!(&error, ListError::RepeatedToken { after } if after.as_str() == "b"),
            "{error}"
        );
        // Unless the range has ended by then.
        let (keys, _) = list(range(None, Some("a")), pages()).unwrap();
        assert_eq!(keys, ["a"]);
    }

    #[test]
    fn a_thousand_empty_pages_are_borne() {
        let empty = |count: u32| (0..count).map(|index| page([], Some(&format!("e{index}"))));
        let last = || [page(["z"], None)];
        let (keys, asked) = list(KeyRange::default(), empty(1_000).chain(last())).unwrap();
        assert_eq!((keys, asked.len()), (vec!["z".to_owned()], 1_001));
        let error = list(KeyRange::default(), empty(1_001).chain(last())).unwrap_err();
        assert!(matches!(error, ListError::EmptyPages), "{error}");
        // In a row: one object between them begins the count anew.
        let between = empty(1_000).chain([page(["a"], Some("1"))]);
        let (keys, _) = list(
            KeyRange::default(),
            between.chain(empty(1_000)).chain(last()),
        )
        .unwrap();
        assert_eq!(keys, ["a", "z"]);
    }

    #[test]
    fn a_page_gives_back_what_it_was_given() {
        let mut page = Page::default();
        assert!(page.is_empty());
        let objects = [
            ("a", "\"1\"", 1, None),
            ("b/고", "", u64::MAX, Some(Timestamp::MAX)),
        ];
        for (key, etag, size, last_modified) in objects {
            page.push(ListedObject {
                key,
                etag,
                size,
                last_modified,
            });
        }
        assert_eq!((page.len(), page.is_empty()), (2, false));
        let seen = page
            .objects()
            .map(|object| (object.key, object.etag, object.size, object.last_modified));
        assert_eq!(seen.collect::<Vec<_>>(), objects);
    }
}
