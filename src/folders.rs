//! Folders in which not one object is referenced: a kind of reference that the query forgets
//! looks just like this. Their orphans are held back while the rest goes on.
//!
//! A folder is what ends with a `/`, and it is looked at twice: with everything below it
//! (`avatars/`, where each user has a folder of their own), and by what lies directly in it
//! (`images/*`, where the originals lie beside the referenced `images/thumbs/`). Where
//! [`FOLDER_ORPHANS`] or more of the objects looked at are orphans and none is referenced,
//! these orphans are held back, by the topmost such folder. The scope's own folder is only
//! looked at by what lies directly in it: that nothing at all matched has a guard of its own.
//! One folder an album, whose deleted albums leave a handful of orphans each, stays below the
//! number.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::key::ObjectKey;

/// So many orphans in a folder without a reference hold them back.
pub const FOLDER_ORPHANS: u64 = 20;

/// How many such folders are told apart; beyond that the plan is refused.
pub const MAX_HELD_FOLDERS: usize = 10_000;

/// The folder that a key lies in: up to its last `/`, or nothing.
#[must_use]
pub fn folder_of(key: &str) -> &str {
    let end = memchr::memrchr(b'/', key.as_bytes()).map_or(0, |slash| slash + 1);
    &key[..end]
}

/// Consecutive objects of one folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FolderRun<'runs> {
    /// The folder.
    pub folder: &'runs str,
    /// Objects that are referenced.
    pub referenced: u64,
    /// Objects that are orphans.
    pub orphans: u64,
}

/// Objects as they come in key order, by folder. The folders lie packed in one text: where
/// each object has a folder of its own there are as many of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FolderRuns {
    text: String,
    runs: Vec<Packed>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packed {
    /// Where the folder begins in the text; it ends where the next one begins.
    start: usize,
    referenced: u32,
    orphans: u32,
}

impl FolderRuns {
    /// Counts a referenced object.
    pub fn referenced(&mut self, key: &str) {
        self.run_of(key).referenced += 1;
    }

    /// Counts an orphan.
    pub fn orphan(&mut self, key: &str) {
        self.run_of(key).orphans += 1;
    }

    fn run_of(&mut self, key: &str) -> &mut Packed {
        let folder = folder_of(key);
        let is_new = self.runs.last().is_none_or(|last| {
            let last = &self.text[last.start..];
            // Where nothing lies in a folder, both are empty, which is slow to compare.
            last.len() != folder.len() || !(folder.is_empty() || last == folder)
        });
        if is_new {
            self.runs.push(Packed {
                start: self.text.len(),
                referenced: 0,
                orphans: 0,
            });
            self.text.push_str(folder);
        }
        let last = self.runs.len() - 1;
        &mut self.runs[last]
    }

    /// The runs, in the order of their objects.
    pub fn iter(&self) -> impl Iterator<Item = FolderRun<'_>> {
        let ends = self.runs.iter().skip(1).map(|next| next.start);
        let ends = ends.chain([self.text.len()]);
        self.runs.iter().zip(ends).map(|(run, end)| FolderRun {
            folder: &self.text[run.start..end],
            referenced: run.referenced.into(),
            orphans: run.orphans.into(),
        })
    }
}

/// Folders, each with everything below it or only by what lies directly in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folders {
    /// With everything below.
    whole: HashSet<Box<str>>,
    /// Only what lies directly inside.
    direct: HashSet<Box<str>>,
}

impl Folders {
    /// Adds the folder that a person means: `avatars` and `avatars/` the folder with
    /// everything below it, `avatars/*` only what lies directly in it, `*` what lies in none.
    pub fn add(&mut self, text: &str) {
        match text.strip_suffix('*') {
            Some(folder) if folder.is_empty() || folder.ends_with('/') => {
                self.direct.insert(folder.into());
            }
            _ if text.ends_with('/') => {
                self.whole.insert(text.into());
            }
            _ => {
                self.whole.insert(format!("{text}/").into());
            }
        }
    }

    /// Whether what lies directly in this folder is in one of these.
    #[must_use]
    pub fn cover(&self, folder: &str) -> bool {
        if self.direct.contains(folder) {
            return true;
        }
        !self.whole.is_empty()
            && memchr::memchr_iter(b'/', folder.as_bytes())
                .any(|slash| self.whole.contains(&folder[..=slash]))
    }
}

/// A folder whose orphans are held back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HeldFolder {
    /// The folder: with everything below it (`avatars/`), or only what lies directly in it
    /// (`avatars/*`).
    pub folder: ObjectKey,
    /// How many orphans are held back there.
    pub orphans: u64,
}

/// What is to be held back.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// The folders, in order; all that could be told apart.
    pub folders: Vec<HeldFolder>,
    /// Folders beyond [`MAX_HELD_FOLDERS`].
    pub more: u64,
    held: Folders,
    allowed: Folders,
}

impl Holding {
    /// Whether nothing is held back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.folders.is_empty() && self.more == 0
    }

    /// Whether an orphan of this key is held back.
    #[must_use]
    pub fn holds(&self, key: &str) -> bool {
        let folder = folder_of(key);
        // Where folders could not be told apart, none is let go.
        (self.more > 0 || self.held.cover(folder)) && !self.allowed.cover(folder)
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    referenced: u64,
    orphans: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.referenced += other.referenced;
        self.orphans += other.orphans;
    }

    fn is_suspicious(self) -> bool {
        self.referenced == 0 && self.orphans >= FOLDER_ORPHANS
    }
}

/// A folder that further keys may lie in.
#[derive(Debug)]
struct Open {
    /// How much of the path is its name.
    length: usize,
    direct: Tally,
    below: Tally,
    /// How many folders were held when it was opened: the later ones lie inside.
    held_before: usize,
    /// Folders inside that found no room among the held ones.
    more: u64,
}

/// Finds the folders, from all objects of the scope in key order. Memory grows with the depth
/// of the keys and with [`MAX_HELD_FOLDERS`], not with the bucket.
#[derive(Debug)]
pub struct FolderWatch {
    allowed: Folders,
    /// The folder of the last run.
    path: String,
    /// The folders around it, the scope's own first.
    open: Vec<Open>,
    held: Vec<HeldFolder>,
    room: usize,
}

impl FolderWatch {
    /// A watch over the scope of this folder (or of everything), in which some folders may be
    /// without a reference.
    #[must_use]
    pub fn new(root: &str, allowed: Folders) -> Self {
        Self::with_room(root, allowed, MAX_HELD_FOLDERS)
    }

    fn with_room(root: &str, allowed: Folders, room: usize) -> Self {
        let mut watch = Self {
            allowed,
            path: root.to_owned(),
            open: Vec::new(),
            held: Vec::new(),
            room,
        };
        watch.enter(root.len());
        watch
    }

    fn enter(&mut self, length: usize) {
        self.open.push(Open {
            length,
            direct: Tally::default(),
            below: Tally::default(),
            held_before: self.held.len(),
            more: 0,
        });
    }

    /// Takes the next objects.
    pub fn add(&mut self, run: FolderRun<'_>) {
        let folder = run.folder;
        while self.open.len() > 1 && !folder.starts_with(&self.path) {
            self.leave();
        }
        let known = self.path.len().min(folder.len());
        let deeper: Vec<usize> = memchr::memchr_iter(b'/', &folder.as_bytes()[known..])
            .map(|slash| known + slash + 1)
            .collect();
        folder.clone_into(&mut self.path);
        for length in deeper {
            self.enter(length);
        }
        let allowed = self.allowed.cover(folder);
        if let Some(innermost) = self.open.last_mut() {
            innermost.direct.add(Tally {
                referenced: run.referenced,
                orphans: if allowed { 0 } else { run.orphans },
            });
        }
    }

    /// Closes the innermost folder, to which no key can come any more.
    fn leave(&mut self) {
        let Some(folder) = self.open.pop() else {
            return;
        };
        let mut all = folder.below;
        all.add(folder.direct);
        let mut more = folder.more;
        let is_root = self.open.is_empty();
        let name = &self.path[..folder.length];
        let found = if !is_root && all.is_suspicious() {
            // It stands for all that were found inside.
            self.held.truncate(folder.held_before);
            more = 0;
            Some((name.to_owned(), all.orphans))
        } else if folder.direct.is_suspicious() {
            Some((format!("{name}*"), folder.direct.orphans))
        } else {
            None
        };
        if let Some((folder, orphans)) = found {
            if self.held.len() < self.room {
                self.held.push(HeldFolder {
                    folder: ObjectKey::new(folder),
                    orphans,
                });
            } else {
                more += 1;
            }
        }
        if let Some(outer) = self.open.last_mut() {
            outer.below.add(all);
            outer.more += more;
            self.path.truncate(outer.length);
        } else {
            // Kept for whoever asks at the end.
            self.open.push(Open { more, ..folder });
        }
    }

    /// What is to be held back, after the last object.
    #[must_use]
    pub fn finish(mut self) -> Holding {
        while self.open.len() > 1 {
            self.leave();
        }
        self.leave();
        let more = self.open.pop().map_or(0, |root| root.more);
        self.held.sort();
        let mut held = Folders::default();
        for found in &self.held {
            held.add(found.folder.as_str());
        }
        Holding {
            folders: self.held,
            more,
            held,
            allowed: self.allowed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// A key of one to four segments of few names, and whether it is referenced. The last
    /// segment holds a number, so that folders fill.
    fn objects() -> impl Strategy<Value = BTreeMap<String, bool>> {
        let key = (
            proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just("a.")], 0..4),
            0_u32..60,
        )
            .prop_map(|(folders, number)| {
                let mut key: String = folders.iter().flat_map(|name| [*name, "/"]).collect();
                key.push_str(&number.to_string());
                key
            });
        // References are rare, or no folder would be without one.
        proptest::collection::btree_map(key, proptest::bool::weighted(0.02), 0..500)
    }

    fn hold(objects: &BTreeMap<String, bool>, allowed: &[&str], room: usize) -> Holding {
        let mut folders = Folders::default();
        for text in allowed {
            folders.add(text);
        }
        let mut watch = FolderWatch::with_room("", folders, room);
        // In parts, as pages give them.
        for part in objects.iter().collect::<Vec<_>>().chunks(7) {
            let mut runs = FolderRuns::default();
            for (key, referenced) in part {
                if **referenced {
                    runs.referenced(key);
                } else {
                    runs.orphan(key);
                }
            }
            for run in runs.iter() {
                watch.add(run);
            }
        }
        watch.finish()
    }

    /// The module's definition, said again over all keys for each orphan.
    fn held_by_the_model(
        objects: &BTreeMap<String, bool>,
        allowed: impl Fn(&str) -> bool,
        key: &str,
    ) -> bool {
        let suspicious = |inside: &dyn Fn(&str) -> bool| {
            let objects: Vec<_> = objects.iter().filter(|(key, _)| inside(key)).collect();
            let orphans = objects
                .iter()
                .filter(|(key, referenced)| !**referenced && !allowed(key));
            orphans.count() >= 20 && objects.iter().all(|(_, referenced)| !**referenced)
        };
        let directly = suspicious(&|other| folder_of(other) == folder_of(key));
        let mut around = key
            .match_indices('/')
            .map(|(slash, _)| suspicious(&|other| other.starts_with(&key[..=slash])));
        !objects[key] && !allowed(key) && (directly || around.any(|is| is))
    }

    proptest! {
        #[test]
        fn a_run_is_the_consecutive_objects_of_one_folder(
            objects in proptest::collection::vec((prop_oneof![Just(""), Just("a/"), Just("b/"), Just("ab/")], any::<bool>()), 0..30),
        ) {
            let mut runs = FolderRuns::default();
            let mut expected: Vec<(&str, u64, u64)> = Vec::new();
            for (folder, referenced) in objects {
                if expected.last().is_none_or(|(last, _, _)| *last != folder) {
                    expected.push((folder, 0, 0));
                }
                let last = expected.len() - 1;
                let key = format!("{folder}1.png");
                if referenced {
                    runs.referenced(&key);
                    expected[last].1 += 1;
                } else {
                    runs.orphan(&key);
                    expected[last].2 += 1;
                }
            }
            let runs: Vec<_> = runs.iter().map(|run| (run.folder, run.referenced, run.orphans)).collect();
            prop_assert_eq!(runs, expected);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn an_orphan_is_held_back_where_a_folder_around_it_has_many_and_no_reference(objects in objects()) {
            for (texts, allowed) in [
                (&[][..], (|_| false) as fn(&str) -> bool),
                (&["a"][..], |key| key.starts_with("a/")),
                (&["b/", "a/b/*", "*"][..], |key| key.starts_with("b/") || folder_of(key) == "a/b/" || folder_of(key).is_empty()),
            ] {
                let holding = hold(&objects, texts, MAX_HELD_FOLDERS);
                let mut held = 0;
                for (key, referenced) in &objects {
                    let expected = held_by_the_model(&objects, allowed, key);
                    if !referenced {
                        prop_assert_eq!(holding.holds(key), expected, "{} {:?}", key, holding);
                        held += u64::from(expected);
                    }
                }
                prop_assert_eq!(holding.folders.iter().map(|folder| folder.orphans).sum::<u64>(), held);
                prop_assert_eq!(holding.more, 0);
                // What is named is what a person would allow; then nothing is held.
                let named: Vec<&str> = holding.folders.iter().map(|folder| folder.folder.as_str()).chain(texts.iter().copied()).collect();
                let after = hold(&objects, &named, MAX_HELD_FOLDERS);
                for folder in &holding.folders {
                    prop_assert!(!after.folders.contains(folder));
                }
            }
        }

        #[test]
        fn folders_without_room_are_counted_and_everything_is_held(objects in objects(), room in 0_usize..3) {
            let (all, some) = (hold(&objects, &["a/a"], MAX_HELD_FOLDERS), hold(&objects, &["a/a"], room));
            if all.folders.len() <= room && some.more == 0 {
                prop_assert_eq!(&some, &all);
            } else {
                prop_assert!(some.more > 0 && some.folders.len() <= room);
                for key in objects.keys() {
                    prop_assert_eq!(some.holds(key), !key.starts_with("a/a/"));
                }
            }
        }
    }

    #[test]
    fn the_topmost_folder_is_named() {
        let mut objects = BTreeMap::new();
        for user in 0..10 {
            for image in 0..2 {
                objects.insert(format!("images/avatars/{user}/{image}.png"), false);
            }
        }
        objects.insert("images/kept.png".to_owned(), true);
        let names = |objects: &BTreeMap<String, bool>| {
            let holding = hold(objects, &[], MAX_HELD_FOLDERS);
            let names = holding.folders.into_iter();
            names
                .map(|held| (held.folder.as_str().to_owned(), held.orphans))
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&objects), [("images/avatars/".to_owned(), 20)]);
        objects.remove("images/avatars/0/0.png");
        assert_eq!(names(&objects), [], "19 are too few");
        // Originals beside their referenced thumbnails.
        for image in 0..20 {
            objects.insert(format!("images/{image}.png"), false);
            objects.insert(format!("images/thumbs/{image}.png"), true);
        }
        assert_eq!(names(&objects), [], "one of them is referenced");
        objects.remove("images/kept.png");
        assert_eq!(names(&objects), [("images/*".to_owned(), 20)]);
    }

    #[test]
    fn a_star_says_directly_only_after_a_slash_or_alone() {
        let covers = |text: &str, folder: &str| {
            let mut folders = Folders::default();
            folders.add(text);
            folders.cover(folder)
        };
        assert!(covers("avatars/*", "avatars/") && !covers("avatars/*", "avatars/7/"));
        assert!(covers("*", "") && !covers("*", "avatars/"));
        // A folder whose name ends with a star.
        assert!(covers("avatars*", "avatars*/7/") && !covers("avatars*", "avatars"));
    }

    #[test]
    fn what_could_not_be_told_apart_is_held_back_too() {
        assert!(Holding::default().is_empty());
        let more = Holding {
            more: 1,
            ..Holding::default()
        };
        assert!(!more.is_empty() && more.holds("any/a.png"));
        let one = hold(
            &(0..20).map(|index| (format!("a/{index}"), false)).collect(),
            &[],
            MAX_HELD_FOLDERS,
        );
        assert!(!one.is_empty() && one.holds("a/0") && !one.holds("b/0"));
    }
}
