//! Holds every name once more against the orphans of a plan in the making: those that it
//! [mentions](crate::mention) are held back, unless what it means is there.

use std::io;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::hands::{Current, Look, ReferenceSnapshot};
use crate::key::ObjectKey;
use crate::manifest::SpoolReader;
use crate::mark::MarkError;
use crate::mention::{Keys, KnownTexts, Mentions, Needle, Strictness};
use crate::names::{NameError, NameRules, shown};
use crate::plan::PlanBuilder;
use crate::scope::Scope;

/// So many orphans are held against the names at once, some 45 MB: three needles each, of 40 bytes.
const ORPHANS_AT_ONCE: usize = 250_000;

/// So many where the names are few and lie in memory, some 2 MB.
const DANGLING_PORTION: usize = 10_000;

/// So many names wait to have their objects looked at.
const LOOKS_IN_A_ROW: usize = 1_000;

/// No more objects are looked at in a run; what is mentioned beyond them is held back.
const MAX_LOOKS: usize = 10_000;

/// How names are held against the orphans.
#[derive(Debug)]
pub struct Comparing<'run, L> {
    /// How names become keys.
    pub rules: &'run NameRules,
    /// Where the plan tells what is there.
    pub scope: &'run Scope,
    /// Looks at what else names mean.
    pub look: &'run L,
    /// How many objects are looked at at once.
    pub at_once: usize,
}

/// Reads every name and holds it against the orphans: what it mentions is held back, unless it
/// stands in what names an object that is there. (`thumbs/images/a.png` names a thumbnail, and no
/// original.) Gives what is to be held back, and the names.
///
/// # Errors
/// The names cannot be read, nor the orphans.
pub async fn find(
    plan: &mut PlanBuilder,
    snapshot: &mut impl ReferenceSnapshot,
    comparing: Comparing<'_, impl Look + Sync>,
) -> Result<(Mentions, KnownTexts), MarkError> {
    find_by(ORPHANS_AT_ONCE, plan, snapshot, comparing).await
}

/// The same for names of form `key` that are all found but for these: no other can have been read
/// wrongly. Nothing is read again.
///
/// # Errors
/// The orphans cannot be read.
pub async fn find_in_dangling(
    plan: &mut PlanBuilder,
    dangling: &[ObjectKey],
    comparing: Comparing<'_, impl Look + Sync>,
) -> Result<Mentions, MarkError> {
    let rules = comparing.rules;
    let mut finding = Finding::of(plan, comparing);
    let mut orphans = plan.orphans()?;
    loop {
        let keys = next_keys(&mut orphans, DANGLING_PORTION, &rules.prefix)?;
        if keys.is_empty() {
            return Ok(finding.mentions);
        }
        for name in dangling.iter().filter_map(|key| rules.name_of(key)) {
            finding.hold_against(name, &keys).await?;
        }
        finding.settle().await;
    }
}

/// The same as [`find`], by so many orphans at once.
async fn find_by(
    portion: usize,
    plan: &mut PlanBuilder,
    snapshot: &mut impl ReferenceSnapshot,
    comparing: Comparing<'_, impl Look + Sync>,
) -> Result<(Mentions, KnownTexts), MarkError> {
    let prefix = &comparing.rules.prefix;
    let mut finding = Finding::of(plan, comparing);
    let mut orphans = plan.orphans()?;
    loop {
        let keys = next_keys(&mut orphans, portion, prefix)?;
        if keys.is_empty() {
            return Ok((finding.mentions, finding.known));
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

/// The next orphans, at most so many, as names behind this prefix may mention them.
fn next_keys(orphans: &mut SpoolReader, portion: usize, prefix: &str) -> io::Result<Keys> {
    let mut keys = Keys::default();
    while keys.len() < portion
        && let Some(orphan) = orphans.next_orphan()?
    {
        keys.add(&orphan.key, prefix);
    }
    Ok(keys)
}

/// A key that stands in what names an object, if that is there.
struct Doubtful {
    mentioned: Needle,
    meant: ObjectKey,
    name: String,
}

struct Finding<'run, L> {
    comparing: Comparing<'run, L>,
    /// What is referenced within the scope and not there.
    missing: KnownTexts,
    looked: usize,
    doubtful: Vec<Doubtful>,
    mentions: Mentions,
    known: KnownTexts,
}

impl<'run, L: Look + Sync> Finding<'run, L> {
    fn of(plan: &mut PlanBuilder, comparing: Comparing<'run, L>) -> Self {
        let prefix = &comparing.rules.prefix;
        Self {
            missing: plan.take_missing(),
            looked: 0,
            doubtful: Vec::new(),
            mentions: Mentions::behind(prefix),
            known: KnownTexts::default(),
            comparing,
        }
    }

    async fn hold_against(&mut self, name: &str, keys: &Keys) -> Result<(), MarkError> {
        self.known.add(name);
        let rules = self.comparing.rules;
        let (path, tail) = rules.parts(name);
        let meant = rules.primary_of(name)?;
        let too_long = |_| NameError::TooManyReadings(shown(name));
        let in_tail = keys.mentioned_in(&tail, Strictness::Strict);
        for key in in_tail.map_err(too_long)? {
            self.mentions.add(key, || shown(name));
        }
        match meant {
            Some(meant) if self.is_there(&meant) => {}
            meant => {
                let strictness = meant
                    .as_ref()
                    .map_or(Strictness::Strict, |_| Strictness::Loose);
                let mentioned = keys.mentioned_in(&format!("{path}{tail}"), strictness);
                let mut mentioned = mentioned.map_err(too_long)?;
                mentioned.retain(|key| !self.mentions.contains(*key));
                for key in mentioned {
                    self.doubt(key, meant.as_ref(), name);
                }
            }
        }
        if self.doubtful.len() >= LOOKS_IN_A_ROW {
            self.settle().await;
        }
        Ok(())
    }

    /// Whether the plan tells that this object is there.
    fn is_there(&self, key: &ObjectKey) -> bool {
        let scope = self.comparing.scope;
        !self.missing.contain(key.as_str())
            && scope.prefix().contains(key.as_str())
            && scope.range().contains(key.as_str())
    }

    /// Whether the key counts hangs on whether what is meant is there.
    fn doubt(&mut self, mentioned: Needle, meant: Option<&ObjectKey>, name: &str) {
        match meant {
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

    /// Looks at what is meant, and holds back what is mentioned where nothing shows that it is
    /// there.
    async fn settle(&mut self) {
        let look = self.comparing.look;
        let looks = stream::iter(self.doubtful.drain(..)).map(async |doubtful| {
            let current = look.look(&doubtful.meant).await;
            (!matches!(current, Ok(Current::Present { .. }))).then_some(doubtful)
        });
        let looks = looks.buffered(self.comparing.at_once.max(1));
        let missing: Vec<Doubtful> = looks.filter_map(async |missing| missing).collect().await;
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
    use crate::key::{KeyRange, Prefix};
    use crate::merge::Findings;
    use crate::names::ReferenceForm;
    use crate::object::{ETag, Orphan};
    use crate::summary::Counts;

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

    /// What is held against each other, and what is known to be missing.
    struct Case {
        rules: NameRules,
        prefix: &'static str,
        after: &'static str,
        missing: &'static [&'static str],
        bucket: Bucket,
        portion: usize,
    }

    impl Case {
        fn of(rules: NameRules) -> Self {
            Self {
                rules,
                prefix: "",
                after: "",
                missing: &[],
                bucket: Bucket::default(),
                portion: 10,
            }
        }

        /// Which of the orphans are mentioned, which names are known, and how often they were read.
        async fn held(
            &self,
            orphans: &[String],
            names: &[String],
        ) -> (Vec<String>, KnownTexts, usize) {
            let mut plan = self.plan(orphans);
            let texts = names.iter().map(|name| Some(Bytes::from(name.clone())));
            let mut rows = Rows(texts.chain([None]).collect(), 0);
            let scope = self.scope();
            let comparing = self.comparing(&scope);
            let found = find_by(self.portion, &mut plan, &mut rows, comparing).await;
            let (mentions, known) = found.unwrap();
            (held_of(&mentions, orphans), known, rows.1)
        }

        /// Which of the orphans the missing keys mention, as all that may.
        async fn held_by_missing(&self, orphans: &[String]) -> Vec<String> {
            let mut plan = self.plan(orphans);
            let dangling = plan.all_dangling().unwrap().to_vec();
            let scope = self.scope();
            let found = find_in_dangling(&mut plan, &dangling, self.comparing(&scope)).await;
            held_of(&found.unwrap(), orphans)
        }

        fn scope(&self) -> Scope {
            let scope = Scope::new(Prefix::folder(self.prefix), &[], &[]).unwrap();
            let after = (!self.after.is_empty()).then(|| ObjectKey::new(self.after));
            scope.within(KeyRange { after, up_to: None })
        }

        fn comparing<'case>(&'case self, scope: &'case Scope) -> Comparing<'case, Bucket> {
            Comparing {
                rules: &self.rules,
                scope,
                look: &self.bucket,
                at_once: 3,
            }
        }

        fn plan(&self, orphans: &[String]) -> PlanBuilder {
            let mut plan = PlanBuilder::new(None).unwrap();
            plan.add(Findings {
                counts: Counts {
                    dangling: self.missing.len() as u64,
                    ..Counts::default()
                },
                dangling: self
                    .missing
                    .iter()
                    .map(|&key| ObjectKey::new(key))
                    .collect(),
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
            plan
        }

        fn looked(self) -> Vec<String> {
            let mut looked = self.bucket.looked.into_inner().unwrap();
            looked.sort();
            looked
        }
    }

    fn held_of(mentions: &Mentions, orphans: &[String]) -> Vec<String> {
        let is_held = |key: &&String| mentions.mention(&ObjectKey::new(key.as_str()));
        orphans.iter().filter(is_held).cloned().collect()
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[tokio::test]
    async fn what_stands_in_a_name_is_held_unless_that_names_what_is_there() {
        let mut case = Case::of(url_rules());
        case.missing = &["gone/b.png", "forbidden/a.png", "thumbs/f.png"];
        case.bucket.there = vec!["thumbs/"];
        let orphans = texts(&["a.png", "b.png", "c.png", "d.png", "e.png", "f.png"]);
        let names = texts(&[
            "https://pics.s3.amazonaws.com/thumbs/f.png",
            "https://pics.s3.amazonaws.com/gone/b.png",
            "https://pics.s3.amazonaws.com/thumbs/x.png?by=c.png",
            "https://img.example.net/d.png",
            "https://pics.s3.amazonaws.com/forbidden/a.png#e",
            "s3://pics/#f",
        ]);
        let (held, known, read) = case.held(&orphans, &names).await;
        assert_eq!(held, ["a.png", "b.png", "c.png", "d.png"]);
        assert_eq!(read, 1);
        assert!(names.iter().all(|name| known.contain(name)) && !known.contain("s3://pics/g"));
        assert!(case.bucket.most.load(Ordering::Relaxed) <= 3);
        assert_eq!(
            case.looked(),
            ["forbidden/a.png", "gone/b.png", "thumbs/f.png"]
        );
    }

    #[tokio::test]
    async fn only_what_the_plan_does_not_tell_of_is_looked_at() {
        let orphans = texts(&["x/a.png", "x/b.png", "x/c.png"]);
        let names = texts(&[
            "s3://pics/x/of/x/a.png",
            "s3://pics/x/of/x/b.png",
            "s3://pics/y/x/c.png",
        ]);
        for (missing, prefix, there, held_back, looked) in [
            (
                &["x/of/x/b.png"][..],
                "",
                "y/",
                &["x/b.png"][..],
                &["x/of/x/b.png"][..],
            ),
            (&[], "x", "y/", &[], &["y/x/c.png"]),
            (&[], "x", "nowhere", &["x/c.png"], &["y/x/c.png"]),
            (&["x/of/x/a.png"], "", "x/of/", &[], &["x/of/x/a.png"]),
        ] {
            let mut case = Case::of(url_rules());
            (case.missing, case.prefix) = (missing, prefix);
            case.bucket.there = vec![there];
            let (held, ..) = case.held(&orphans, &names).await;
            assert_eq!(held, held_back);
            assert_eq!(case.looked(), looked);
        }
    }

    #[tokio::test]
    async fn what_lies_outside_of_the_range_is_looked_at() {
        let mut case = Case::of(url_rules());
        case.after = "x/b";
        case.bucket.there = vec!["x/of"];
        let names = texts(&["s3://pics/x/c/x/c.png", "s3://pics/x/a/x/c.png"]);
        let (held, ..) = case.held(&texts(&["x/c.png"]), &names).await;
        assert_eq!(held, ["x/c.png"]);
        assert_eq!(case.looked(), ["x/a/x/c.png"]);
    }

    #[tokio::test]
    async fn less_tells_where_the_object_that_is_meant_is_missing() {
        let mut case = Case::of(url_rules());
        case.missing = &["gone/thumb_abc.png", "gone/y.png"];
        let orphans = texts(&["x/abc.png", "x/def.png", "x/ghi.png"]);
        let names = texts(&[
            "s3://pics/gone/thumb_abc.png",
            "https://img.example.net/thumb_def.png",
            "s3://pics/gone/y.png?of=thumb_ghi.png",
        ]);
        let (held, ..) = case.held(&orphans, &names).await;
        assert_eq!(held, ["x/abc.png", "x/ghi.png"]);
    }

    #[tokio::test]
    async fn a_name_of_form_key_is_held_against_them_behind_its_prefix() {
        let mut case = Case::of(NameRules {
            form: ReferenceForm::Key,
            prefix: "images/".to_owned(),
            ..url_rules()
        });
        let orphans = texts(&[
            "images/a.png",
            "images/b?c.png",
            "images/old/d.png",
            "images/e.png",
        ]);
        let names = texts(&["/a.png", "b%3Fc.png", "D.png", "thumb=e.png"]);
        case.missing = &[
            "images//a.png",
            "images/b%3Fc.png",
            "images/D.png",
            "images/thumb=e.png",
        ];
        let (held, ..) = case.held(&orphans, &names).await;
        assert_eq!(held, ["images/a.png", "images/b?c.png", "images/e.png"]);
        assert_eq!(case.held_by_missing(&orphans).await, held);
        // And those of every portion.
        let many = (0..DANGLING_PORTION).map(|index| format!("images/{index}-of-many.png"));
        let many: Vec<String> = many.chain(["images/e.png".to_owned()]).collect();
        assert_eq!(case.held_by_missing(&many).await, ["images/e.png"]);
        case.bucket.there = vec!["images/thumb=e"];
        assert_eq!(case.held_by_missing(&many).await, Vec::<String>::new());
    }

    #[tokio::test]
    async fn all_orphans_are_held_against_all_names_by_portions() {
        let mut case = Case::of(url_rules());
        case.portion = 2;
        let orphans: Vec<String> = (0..7).map(|index| format!("{index}.png")).collect();
        let of = |key: &String| format!("https://img.example.net/{key}");
        let names: Vec<String> = orphans.iter().map(of).collect();
        let (held, _, read) = case.held(&orphans, &names).await;
        assert_eq!((held, read), (orphans, 4));
    }

    #[tokio::test]
    async fn what_is_beyond_the_most_that_is_looked_at_is_held() {
        let mut case = Case::of(url_rules());
        case.bucket.there = vec!["thumbs/"];
        let count = MAX_LOOKS + 2;
        (case.portion, case.prefix) = (count, "elsewhere");
        let orphans: Vec<String> = (0..count).map(|index| format!("{index:05}.png")).collect();
        let of = |key: &String| format!("s3://pics/thumbs/{key}");
        let names: Vec<String> = orphans.iter().map(of).collect();
        let (held, ..) = case.held(&orphans, &names).await;
        assert_eq!(held, orphans[MAX_LOOKS..]);
        assert_eq!(case.looked().len(), MAX_LOOKS);
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
            let comparing = Comparing {
                rules: &url_rules(),
                scope: &Scope::new(Prefix::default(), &[], &[]).unwrap(),
                look: &Bucket::default(),
                at_once: 3,
            };
            let found = find(&mut plan, &mut rows, comparing).await;
            let error = found.map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
