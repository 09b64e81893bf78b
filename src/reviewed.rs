//! A manifest that people reviewed, with the keys that they struck out, as pages of a
//! listing: so its keys are judged by the same merge that judges a bucket's.

use std::collections::HashSet;
use std::io::{self, BufRead};

use serde::Deserialize;
use thiserror::Error;

use crate::key::ObjectKey;
use crate::listing::{ListError, Page, PageStart, Pages};
use crate::manifest::{Header, Manifest, SpoolPlace};
use crate::object::ListedObject;
use crate::summary::Counts;

/// Keys in a page.
const PAGE: usize = 1_000;

/// The exceptions cannot be used. Nothing was touched.
#[derive(Debug, Error)]
pub enum ExceptError {
    /// The file, or the temporary folder.
    #[error("could not be read")]
    Read(#[from] io::Error),
    /// A line is neither a key nor a line of a manifest.
    #[error("line {line} begins like a line of a manifest and is none: {problem}")]
    Line {
        /// Which one.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A key that the manifest does not list: probably a typing mistake.
    #[error("{0} is not in the manifest; each line is a key, or a line copied from the manifest")]
    Unknown(ObjectKey),
}

/// Reads exceptions: a line is a key, or a whole line copied from a manifest (which can hold
/// every key, also one with a line break). Empty lines are skipped.
///
/// # Errors
/// The file cannot be read, or a line is neither.
pub fn read_exceptions(from: impl BufRead) -> Result<HashSet<ObjectKey>, ExceptError> {
    #[derive(Deserialize)]
    struct Line {
        key: ObjectKey,
    }
    let mut keys = HashSet::new();
    for (index, line) in from.lines().enumerate() {
        let line = line?;
        let text = if index == 0 {
            line.strip_prefix('\u{feff}').unwrap_or(&line)
        } else {
            &line
        };
        if text.is_empty() {
            continue;
        }
        keys.insert(if text.starts_with('{') {
            let Line { key } = serde_json::from_str(text).map_err(|error| ExceptError::Line {
                line: index + 1,
                problem: error.to_string(),
            })?;
            key
        } else {
            ObjectKey::new(text)
        });
    }
    Ok(keys)
}

/// A manifest and what is left out of it.
#[derive(Debug)]
pub struct Reviewed {
    manifest: Manifest,
    except: HashSet<ObjectKey>,
    left_out: Counts,
    /// Where every thousandth key lies.
    index: Vec<(ObjectKey, SpoolPlace)>,
}

impl Reviewed {
    /// The manifest without these keys.
    ///
    /// # Errors
    /// One of them is not in the manifest, or the temporary file cannot be read.
    pub fn new(manifest: Manifest, except: HashSet<ObjectKey>) -> Result<Self, ExceptError> {
        let mut index = Vec::new();
        let mut left_out = Counts::default();
        let mut missing: HashSet<&ObjectKey> = except.iter().collect();
        let mut orphans = manifest.spool().orphans()?;
        for number in 0.. {
            let place = orphans.place();
            let Some(orphan) = orphans.next_orphan()? else {
                break;
            };
            if number % PAGE == 0 {
                index.push((orphan.key.clone(), place));
            }
            if missing.remove(&orphan.key) {
                left_out.listed += 1;
                left_out.listed_bytes += orphan.size;
                left_out.out_of_scope += 1;
            }
        }
        if let Some(&unknown) = missing.iter().min() {
            return Err(ExceptError::Unknown(unknown.clone()));
        }
        Ok(Self {
            manifest,
            except,
            left_out,
            index,
        })
    }

    /// What the manifest is about.
    #[must_use]
    pub fn header(&self) -> &Header {
        self.manifest.header()
    }

    /// The keys that are left out: listed, and out of scope.
    #[must_use]
    pub fn left_out(&self) -> Counts {
        self.left_out
    }

    fn read(&self, start: &PageStart) -> io::Result<Page> {
        let spool = self.manifest.spool();
        let (mut orphans, after) = match start {
            PageStart::Token(token) => {
                let place = token.parse().map_err(io::Error::other)?;
                (spool.orphans_at(place)?, None)
            }
            PageStart::After(None) => (spool.orphans()?, None),
            PageStart::After(Some(after)) => {
                let before = self.index.partition_point(|(key, _)| key <= after);
                let orphans = match before.checked_sub(1) {
                    Some(block) => spool.orphans_at(self.index[block].1)?,
                    None => spool.orphans()?,
                };
                (orphans, Some(after))
            }
        };
        let mut page = Page::default();
        while let Some(orphan) = orphans.next_orphan()? {
            if after.is_some_and(|after| orphan.key <= *after) || self.except.contains(&orphan.key)
            {
                continue;
            }
            page.push(ListedObject {
                key: orphan.key.as_str(),
                etag: orphan.etag.as_str(),
                size: orphan.size,
                last_modified: Some(orphan.last_modified),
            });
            if page.len() == PAGE && orphans.left() > 0 {
                page.next = Some(orphans.place().to_string());
                break;
            }
        }
        Ok(page)
    }
}

impl Pages for Reviewed {
    async fn page(&self, start: &PageStart) -> Result<Page, ListError> {
        self.read(start).map_err(|error| ListError::Storage {
            context: "the manifest's copy in the temporary folder could not be read".to_owned(),
            source: Some(error.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::read::tests::written;

    fn reviewed(keys: &[String], except: &[&String]) -> Result<Reviewed, ExceptError> {
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let manifest = Manifest::read(written(&keys, |_| {}).as_bytes()).unwrap();
        let except = except
            .iter()
            .map(|key| ObjectKey::new(key.as_str()))
            .collect();
        Reviewed::new(manifest, except)
    }

    /// Every key from there on, page by page.
    fn listed(reviewed: &Reviewed, mut start: PageStart) -> Vec<String> {
        let mut keys = Vec::new();
        loop {
            let page = reviewed.read(&start).unwrap();
            assert!(page.len() <= PAGE);
            keys.extend(page.objects().map(|object| object.key.to_owned()));
            match page.next {
                Some(token) => start = PageStart::Token(token),
                None => return keys,
            }
        }
    }

    #[test]
    fn a_listing_goes_on_after_any_key() {
        let keys: Vec<String> = (0..2_500)
            .map(|number| format!("images/{number:05}\n.png"))
            .collect();
        let except = [&keys[0], &keys[1_000], &keys[2_499]];
        let reviewed = reviewed(&keys, &except).unwrap();
        assert_eq!(reviewed.left_out().out_of_scope, 3);
        let left: Vec<String> = keys
            .iter()
            .filter(|key| !except.contains(key))
            .cloned()
            .collect();
        assert_eq!(listed(&reviewed, PageStart::After(None)), left);
        for after in [
            0, 1, 998, 999, 1_000, 1_001, 1_999, 2_000, 2_001, 2_498, 2_499,
        ] {
            let expected: Vec<String> = left
                .iter()
                .filter(|key| **key > keys[after])
                .cloned()
                .collect();
            let start = PageStart::After(Some(ObjectKey::new(keys[after].as_str())));
            assert_eq!(listed(&reviewed, start), expected, "{after}");
        }
        for (after, expected) in [("a", left.len()), ("images/00000", left.len()), ("z", 0)] {
            let start = PageStart::After(Some(ObjectKey::new(after)));
            assert_eq!(listed(&reviewed, start).len(), expected, "{after}");
        }
    }

    #[test]
    fn an_exception_that_the_manifest_does_not_list_is_named() {
        let keys = ["images/a.png".to_owned()];
        let error = reviewed(&keys, &[&"images/b.png".to_owned()]).unwrap_err();
        assert!(
            error.to_string().starts_with("images/b.png is not in"),
            "{error}"
        );
    }

    #[test]
    fn an_exception_is_a_key_or_a_line_of_a_manifest() {
        let text = "\u{feff}images/a.png\r\n\n images/b.png\n{\"key\":\"images/c\\n.png\",\"etag\":\"e\",\"size\":1}\n";
        let keys = read_exceptions(text.as_bytes()).unwrap();
        let expected = ["images/a.png", " images/b.png", "images/c\n.png"];
        assert_eq!(keys, expected.map(ObjectKey::new).into_iter().collect());
    }

    #[test]
    fn a_line_that_is_neither_is_named() {
        for text in ["a\n{\"key\": 1}", "a\n{images}", "a\n{"] {
            let error = read_exceptions(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("line 2 "), "{error}");
        }
        assert!(read_exceptions(&b"\xff\n"[..]).is_err());
    }
}
