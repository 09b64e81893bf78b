//! Holds every name once more against the orphans of a plan in the making: those that one
//! [mentions](crate::mention) whose own object is not there are held back.

use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::hands::{Current, Look, ReferenceSnapshot};
use crate::key::ObjectKey;
use crate::mark::MarkError;
use crate::mention::{KeyHash, Keys, Mentions};
use crate::names::{NameRules, shown};
use crate::plan::PlanBuilder;

/// So many orphans are held against the names at once, some 20 MB.
const ORPHANS_AT_ONCE: usize = 1_000_000;

/// So many names wait to have their objects looked at.
const LOOKS_IN_A_ROW: usize = 1_000;

/// No more objects are looked at in a run; what is mentioned beyond them is held back.
const MAX_LOOKS: usize = 10_000;

/// Reads every name and holds it against the orphans: what it mentions is held back, unless it
/// stands in what names an object that is there. (`images/thumbs/images/a.png` names a thumbnail,
/// and no original.)
///
/// # Errors
/// The names cannot be read, nor the orphans.
pub async fn find(
    plan: &mut PlanBuilder,
    snapshot: &mut impl ReferenceSnapshot,
    rules: &NameRules,
    look: &(impl Look + Sync),
    at_once: usize,
) -> Result<Mentions, MarkError> {
    find_by(ORPHANS_AT_ONCE, plan, snapshot, rules, look, at_once).await
}

/// The same, by so many orphans at once.
async fn find_by(
    portion: usize,
    plan: &mut PlanBuilder,
    snapshot: &mut impl ReferenceSnapshot,
    rules: &NameRules,
    look: &(impl Look + Sync),
    at_once: usize,
) -> Result<Mentions, MarkError> {
    let mut finding = Finding {
        rules,
        look,
        at_once,
        looked: 0,
        doubtful: Vec::new(),
        mentions: Mentions::default(),
    };
    let mut orphans = plan.orphans()?;
    loop {
        let mut keys = Keys::default();
        while keys.len() < portion
            && let Some(orphan) = orphans.next_orphan()?
        {
            keys.add(&orphan.key);
        }
        if keys.is_empty() {
            return Ok(finding.mentions);
        }
        let names = snapshot.names(false).await;
        let mut names = names.map_err(|error| MarkError::Source(error.into()))?;
        while let Some(name) = names
            .try_next()
            .await
            .map_err(|error| MarkError::Source(error.into()))?
        {
            if let Some(name) = name {
                let text = std::str::from_utf8(&name);
                let text = text.map_err(|_| MarkError::NotUtf8(name.clone()))?;
                finding.hold_against(text, &keys).await?;
            }
        }
        drop(names);
        finding.settle().await;
    }
}

/// A key that stands in what names an object, if that is there.
struct Doubtful {
    mentioned: KeyHash,
    meant: ObjectKey,
    name: String,
}

struct Finding<'run, L> {
    rules: &'run NameRules,
    look: &'run L,
    at_once: usize,
    looked: usize,
    doubtful: Vec<Doubtful>,
    mentions: Mentions,
}

impl<L: Look + Sync> Finding<'_, L> {
    async fn hold_against(&mut self, name: &str, keys: &Keys) -> Result<(), MarkError> {
        let (path, tail) = self.rules.parts(name);
        for mentioned in keys.mentioned_in(tail) {
            self.mentions.add(mentioned, || shown(name));
        }
        let mut in_path = keys.mentioned_in(&path);
        in_path.retain(|mentioned| !self.mentions.contains(*mentioned));
        if in_path.is_empty() {
            return Ok(());
        }
        let meant = self.rules.primary_of(name)?;
        for mentioned in in_path {
            match &meant {
                Some(meant) if self.looked < MAX_LOOKS => {
                    self.looked += 1;
                    self.doubtful.push(Doubtful {
                        mentioned,
                        meant: meant.clone(),
                        name: shown(name),
                    });
                }
                _ => self.mentions.add(mentioned, || shown(name)),
            }
        }
        if self.doubtful.len() >= LOOKS_IN_A_ROW {
            self.settle().await;
        }
        Ok(())
    }

    /// Looks at what is meant, and holds back what is mentioned where nothing shows that it is
    /// there.
    async fn settle(&mut self) {
        let look = self.look;
        let missing: Vec<Doubtful> = stream::iter(self.doubtful.drain(..))
            .map(async |doubtful| {
                let current = look.look(&doubtful.meant).await;
                (!matches!(current, Ok(Current::Present { .. }))).then_some(doubtful)
            })
            .buffered(self.at_once.max(1))
            .filter_map(async |missing| missing)
            .collect()
            .await;
        for Doubtful {
            mentioned, name, ..
        } in missing
        {
            self.mentions.add(mentioned, || name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use jiff::Timestamp;

    use super::*;
    use crate::hands::{Identity, LookError, Names, SnapshotError};
    use crate::merge::Findings;
    use crate::names::ReferenceForm;
    use crate::object::{ETag, Orphan};

    /// Names, and how often they were read.
    struct Rows(Vec<Option<Bytes>>, usize);

    impl ReferenceSnapshot for Rows {
        fn identity(&self) -> &Identity {
            unreachable!("nobody asks")
        }

        async fn names(&mut self, _: bool) -> Result<Names<'_>, SnapshotError> {
            self.1 += 1;
            Ok(stream::iter(self.0.iter().cloned().map(Ok)).boxed())
        }

        async fn finish(self) -> Result<(), SnapshotError> {
            Ok(())
        }
    }

    /// What is there, what was looked at, and by how many at once.
    #[derive(Default)]
    struct Bucket {
        there: Vec<&'static str>,
        looked: Mutex<Vec<String>>,
        asking: AtomicUsize,
        most: AtomicUsize,
    }

    impl Look for Bucket {
        async fn look(&self, key: &ObjectKey) -> Result<Current, LookError> {
            let asking = 1 + self.asking.fetch_add(1, Ordering::Relaxed);
            self.most.fetch_max(asking, Ordering::Relaxed);
            tokio::task::yield_now().await;
            self.asking.fetch_sub(1, Ordering::Relaxed);
            let key = key.as_str();
            self.looked.lock().unwrap().push(key.to_owned());
            let is_there = self.there.iter().any(|there| key.starts_with(there));
            match key {
                "forbidden/a.png" => Err(LookError {
                    code: None,
                    message: String::new(),
                }),
                _ if is_there => Ok(Current::Present {
                    etag: None,
                    last_modified: None,
                }),
                _ => Ok(Current::Absent),
            }
        }
    }

    fn url_rules() -> NameRules {
        NameRules {
            bucket: "pics".to_owned(),
            form: ReferenceForm::Url,
            prefix: String::new(),
            hosts: Vec::new(),
            foreign_hosts: vec![crate::names::Host::new("img.example.net").unwrap()],
        }
    }

    /// Which of the orphans are mentioned, and how often the names were read for so many at once.
    async fn held(
        rules: &NameRules,
        portion: usize,
        orphans: &[String],
        names: &[String],
        bucket: &Bucket,
    ) -> (Vec<String>, usize) {
        let mut plan = PlanBuilder::new(None).unwrap();
        plan.add(Findings {
            orphans: orphans
                .iter()
                .map(|key| Orphan {
                    key: ObjectKey::new(key.as_str()),
                    etag: ETag::new("e"),
                    size: 1,
                    last_modified: Timestamp::UNIX_EPOCH,
                })
                .collect(),
            ..Findings::default()
        })
        .unwrap();
        let texts = names.iter().map(|name| Some(Bytes::from(name.clone())));
        let mut rows = Rows(texts.chain([None]).collect(), 0);
        let mentions = find_by(portion, &mut plan, &mut rows, rules, bucket, 3).await;
        let mentions = mentions.unwrap();
        let held = orphans.iter().filter(|key| {
            let key = ObjectKey::new(key.as_str());
            mentions.contains(KeyHash::of(&key))
        });
        (held.cloned().collect(), rows.1)
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[tokio::test]
    async fn what_stands_in_a_name_is_held_unless_that_names_what_is_there() {
        let bucket = Bucket {
            there: vec!["thumbs/"],
            ..Bucket::default()
        };
        let orphans = texts(&["a.png", "b.png", "c.png", "d.png", "e.png", "f.png"]);
        let names = texts(&[
            "https://pics.s3.amazonaws.com/thumbs/a.png",
            "https://pics.s3.amazonaws.com/gone/b.png",
            "https://pics.s3.amazonaws.com/thumbs/x.png?by=c.png",
            "https://img.example.net/d.png",
            "https://pics.s3.amazonaws.com/forbidden/a.png#e",
            "s3://pics/thumbs/f.png",
            "s3://pics/#f",
        ]);
        let (held, read) = held(&url_rules(), 10, &orphans, &names, &bucket).await;
        assert_eq!(held, ["a.png", "b.png", "c.png", "d.png"]);
        assert_eq!(read, 1);
        assert!(bucket.most.into_inner() <= 3);
        let mut looked = bucket.looked.into_inner().unwrap();
        looked.sort();
        assert_eq!(
            looked,
            [
                "forbidden/a.png",
                "gone/b.png",
                "thumbs/a.png",
                "thumbs/f.png"
            ]
        );
    }

    #[tokio::test]
    async fn a_name_of_form_key_is_held_against_them_behind_its_prefix() {
        let rules = NameRules {
            form: ReferenceForm::Key,
            prefix: "images/".to_owned(),
            ..url_rules()
        };
        let orphans = texts(&["images/a.png", "images/b?c.png", "images/old/d.png"]);
        let names = texts(&["/a.png", "b%3Fc.png", "D.png"]);
        let (held, _) = held(&rules, 10, &orphans, &names, &Bucket::default()).await;
        assert_eq!(held, ["images/a.png", "images/b?c.png"]);
    }

    #[tokio::test]
    async fn all_orphans_are_held_against_all_names_by_portions() {
        let orphans: Vec<String> = (0..7).map(|index| format!("{index}.png")).collect();
        let names: Vec<String> = (0..7)
            .map(|index| format!("https://img.example.net/{index}.png"))
            .collect();
        let (held, read) = held(&url_rules(), 2, &orphans, &names, &Bucket::default()).await;
        assert_eq!((held, read), (orphans, 4));
    }

    #[tokio::test]
    async fn what_is_beyond_the_most_that_is_looked_at_is_held() {
        let bucket = Bucket {
            there: vec!["thumbs/"],
            ..Bucket::default()
        };
        let count = MAX_LOOKS + 2;
        let orphans: Vec<String> = (0..count).map(|index| format!("{index:05}.png")).collect();
        let names: Vec<String> = orphans
            .iter()
            .map(|key| format!("s3://pics/thumbs/{key}"))
            .collect();
        let (held, _) = held(&url_rules(), count, &orphans, &names, &bucket).await;
        assert_eq!(held, orphans[MAX_LOOKS..]);
        assert_eq!(bucket.looked.into_inner().unwrap().len(), MAX_LOOKS);
    }

    #[tokio::test]
    async fn names_that_cannot_be_read_end_it() {
        for (name, words) in [(&b"\xff"[..], "not UTF-8"), (b"a.png", "not an http")] {
            let mut plan = PlanBuilder::new(None).unwrap();
            let orphan = Orphan {
                key: ObjectKey::new("a.png"),
                etag: ETag::new("e"),
                size: 1,
                last_modified: Timestamp::UNIX_EPOCH,
            };
            plan.add(Findings {
                orphans: vec![orphan],
                ..Findings::default()
            })
            .unwrap();
            let mut rows = Rows(vec![Some(Bytes::from_static(name))], 0);
            let found = find(&mut plan, &mut rows, &url_rules(), &Bucket::default(), 3).await;
            let error = found.unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
