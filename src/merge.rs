//! The merge of a key range: listed objects and references, both in key order, in; one
//! verdict an object, and the dangling references, out.
//!
//! | in scope | named | older than the cutoff | verdict |
//! |---|---|---|---|
//! | no | any | any | `out_of_scope` (still satisfies its reference) |
//! | yes | yes | any | `referenced` |
//! | yes | no | no, or age unknown | `young` |
//! | yes | no | yes | orphan |

use std::cmp::Ordering;
use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::folders::FolderRuns;
use crate::key::ObjectKey;
use crate::object::{ETag, ListedObject, Orphan};
use crate::references::{Chunk, ReferenceKind};
use crate::scope::Scope;
use crate::summary::Counts;

/// By what a run judges: fixed when it starts.
#[derive(Debug, Clone)]
pub struct Criteria {
    /// Which keys may be judged.
    pub scope: Scope,
    /// What is older may be an orphan.
    pub cutoff: Timestamp,
}

/// What a merge found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// How many of each verdict.
    pub counts: Counts,
    /// The orphans, in key order.
    pub orphans: Vec<Orphan>,
    /// The references without an object, in key order; not yet confirmed.
    pub dangling: Vec<ObjectKey>,
    /// When the newest referenced object was written.
    pub newest_referenced: Option<Timestamp>,
    /// How many referenced objects and orphans lie in which folder, in key order.
    pub folders: FolderRuns,
    /// The globs that exclude and match an object, by their places in the scope.
    pub used_excludes: BTreeSet<usize>,
}

/// A merge under way. Its input's order is the caller's to assert: the listing's in
/// [`crate::listing`], the references' in [`crate::references::Chunker`]. It leaves
/// `listed` to the listing, so that the sum over the verdicts checks one against the other.
#[derive(Debug)]
pub struct Merge<'run> {
    criteria: &'run Criteria,
    references: Chunk,
    findings: Findings,
}

impl<'run> Merge<'run> {
    /// A merge of a range against its references.
    #[must_use]
    pub fn new(criteria: &'run Criteria, references: Chunk) -> Self {
        Self {
            criteria,
            references,
            findings: Findings::default(),
        }
    }

    /// Judges the next object of the range.
    pub fn object(&mut self, object: ListedObject<'_>) {
        let named = self.pass_to(object.key);
        let counts = &mut self.findings.counts;
        counts.listed_bytes += object.size;
        if !self.criteria.scope.contains(object.key) {
            counts.out_of_scope += 1;
            self.note_excludes(object.key);
        } else if named {
            counts.referenced += 1;
            self.findings.folders.referenced(object.key);
            self.findings.newest_referenced =
                self.findings.newest_referenced.max(object.last_modified);
        } else if let Some(last_modified) =
            object.last_modified.filter(|&at| at < self.criteria.cutoff)
        {
            counts.orphans += 1;
            counts.orphan_bytes += object.size;
            self.findings.folders.orphan(object.key);
            self.findings.orphans.push(Orphan {
                key: ObjectKey::new(object.key),
                etag: ETag::new(object.etag),
                size: object.size,
                last_modified,
            });
        } else {
            counts.young += 1;
        }
    }

    /// Notes which globs exclude the key, as long as one of them has matched nothing.
    fn note_excludes(&mut self, key: &str) {
        let scope = &self.criteria.scope;
        let used = &mut self.findings.used_excludes;
        if used.len() < scope.exclude().len() {
            used.extend(scope.excluded_by(key));
        }
    }

    /// What was found, when the range holds no further object: the references that are
    /// left have none.
    #[must_use]
    pub fn finish(mut self) -> Findings {
        while !self.references.is_empty() {
            self.miss();
        }
        self.findings
    }

    /// What was found so far, and the references that are left for the rest of the range.
    #[must_use]
    pub fn pause(self) -> (Findings, Chunk) {
        (self.findings, self.references)
    }

    /// Takes every reference up to this object's key, and says whether one names it.
    fn pass_to(&mut self, key: &str) -> bool {
        while let Some((reference, _)) = self.references.first() {
            match reference.cmp(key) {
                Ordering::Less => self.miss(),
                Ordering::Equal => {
                    if self.references.advance() == Some(ReferenceKind::Primary) {
                        self.findings.counts.references += 1;
                    }
                    return true;
                }
                Ordering::Greater => break,
            }
        }
        false
    }

    /// Takes the first reference, whose object does not exist.
    fn miss(&mut self) {
        let Some((key, _)) = self.references.first() else {
            return;
        };
        let key = ObjectKey::new(key);
        if self.references.advance() == Some(ReferenceKind::Primary) {
            self.findings.counts.references += 1;
            self.findings.counts.dangling += 1;
            self.findings.dangling.push(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::key::{KeyRange, Prefix};

    const CUTOFF: i64 = 1_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn criteria() -> Criteria {
        let scope = Scope::new(Prefix::default(), &["*".to_owned()], &["x*".to_owned()]).unwrap();
        Criteria {
            scope,
            cutoff: at(CUTOFF),
        }
    }

    fn kinds() -> impl Strategy<Value = ReferenceKind> {
        prop_oneof![Just(ReferenceKind::Primary), Just(ReferenceKind::Alternate)]
    }

    #[test]
    fn a_glob_is_used_where_it_leaves_something_out() {
        let globs = ["x*", "*y", "z*"].map(str::to_owned);
        let scope = Scope::new(Prefix::default(), &["*".to_owned()], &globs).unwrap();
        let criteria = Criteria {
            scope,
            cutoff: at(CUTOFF),
        };
        let used = |keys: &[&str]| {
            let references = std::iter::empty::<(&str, ReferenceKind)>();
            let mut merge = Merge::new(&criteria, Chunk::new(KeyRange::default(), references));
            for key in keys {
                merge.object(ListedObject {
                    key,
                    etag: "\"e\"",
                    size: 3,
                    last_modified: Some(at(0)),
                });
            }
            merge.finish().used_excludes.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(used(&["a", "b"]), [0; 0]);
        assert_eq!(used(&["a", "xb"]), [0]);
        assert_eq!(used(&["xy"]), [0, 1]);
        assert_eq!(used(&["a", "xb", "xy", "z"]), [0, 1, 2]);
    }

    proptest! {
        /// The truth table of this module, said again over sets.
        #[test]
        fn every_object_gets_the_verdict_of_the_table(
            objects in proptest::collection::btree_map("[a-bx]{1,3}", proptest::option::of(CUTOFF - 2..CUTOFF + 2), 0..30),
            mut names in proptest::collection::vec(("[a-bx]{1,3}", kinds()), 0..30),
        ) {
            names.sort();
            let criteria = criteria();
            let mut merge = Merge::new(&criteria, Chunk::new(KeyRange::default(), names.iter().map(|(key, kind)| (key.as_str(), *kind))));
            for (key, age) in &objects {
                merge.object(ListedObject { key, etag: "\"e\"", size: 3, last_modified: age.map(at) });
            }
            let findings = merge.finish();

            let named: BTreeSet<&str> = names.iter().map(|(key, _)| key.as_str()).collect();
            let primary: BTreeSet<&str> = names.iter().filter(|(_, kind)| *kind == ReferenceKind::Primary).map(|(key, _)| key.as_str()).collect();
            let in_scope: BTreeMap<&str, Option<i64>> = objects.iter().filter(|(key, _)| !key.starts_with('x')).map(|(key, age)| (key.as_str(), *age)).collect();
            let orphans: Vec<&str> = in_scope.iter().filter(|(key, age)| !named.contains(*key) && age.is_some_and(|age| age < CUTOFF)).map(|(key, _)| *key).collect();
            let dangling: Vec<&str> = primary.iter().copied().filter(|key| !objects.contains_key(*key)).collect();
            let referenced: Vec<Option<i64>> = in_scope.iter().filter(|(key, _)| named.contains(*key)).map(|(_, age)| *age).collect();

            let counts = findings.counts;
            prop_assert_eq!(findings.orphans.iter().map(|orphan| orphan.key.as_str()).collect::<Vec<_>>(), orphans);
            prop_assert_eq!(findings.dangling.iter().map(ObjectKey::as_str).collect::<Vec<_>>(), dangling);
            prop_assert_eq!(findings.newest_referenced, referenced.iter().copied().max().flatten().map(at));
            prop_assert_eq!(counts.listed_bytes, 3 * objects.len() as u64);
            prop_assert_eq!(counts.out_of_scope, (objects.len() - in_scope.len()) as u64);
            prop_assert_eq!(counts.referenced, referenced.len() as u64);
            prop_assert_eq!(counts.references, primary.len() as u64);
            prop_assert_eq!(counts.dangling, findings.dangling.len() as u64);
            prop_assert_eq!(counts.orphans, findings.orphans.len() as u64);
            prop_assert_eq!(counts.orphan_bytes, 3 * counts.orphans);
            prop_assert_eq!(objects.len() as u64, counts.referenced + counts.young + counts.out_of_scope + counts.orphans);
        }

        /// A long range hands over what it found part by part.
        #[test]
        fn a_pause_changes_nothing(
            keys in proptest::collection::btree_set("[a-bx]{1,3}", 0..30),
            mut names in proptest::collection::vec(("[a-bx]{1,3}", kinds()), 0..30),
            part in 1_usize..9,
        ) {
            names.sort();
            let chunk = || Chunk::new(KeyRange::default(), names.iter().map(|(key, kind)| (key.as_str(), *kind)));
            let criteria = criteria();
            let objects: Vec<ListedObject<'_>> = keys.iter().map(|key| ListedObject { key, etag: "\"e\"", size: 3, last_modified: Some(at(0)) }).collect();
            let mut whole = Merge::new(&criteria, chunk());
            for object in &objects {
                whole.object(*object);
            }
            let whole = whole.finish();

            let (mut counts, mut orphans, mut dangling, mut rest) = (Counts::default(), Vec::new(), Vec::new(), chunk());
            for some in objects.chunks(part) {
                let mut merge = Merge::new(&criteria, rest);
                for object in some {
                    merge.object(*object);
                }
                let (findings, left) = merge.pause();
                counts += findings.counts;
                orphans.extend(findings.orphans);
                dangling.extend(findings.dangling);
                rest = left;
            }
            let last = Merge::new(&criteria, rest).finish();
            counts += last.counts;
            dangling.extend(last.dangling);
            prop_assert_eq!(counts, whole.counts);
            prop_assert_eq!(orphans, whole.orphans);
            prop_assert_eq!(dangling, whole.dangling);
        }

        /// Promise 10.
        #[test]
        fn another_reference_never_adds_an_orphan(
            objects in proptest::collection::btree_set("[a-b]{1,2}", 0..12),
            names in proptest::collection::btree_set("[a-b]{1,2}", 0..12),
            more in "[a-b]{1,2}",
        ) {
            let orphans = |names: &BTreeSet<String>| {
                let criteria = criteria();
                let references = names.iter().map(|key| (key.as_str(), ReferenceKind::Primary));
                let mut merge = Merge::new(&criteria, Chunk::new(KeyRange::default(), references));
                for key in &objects {
                    merge.object(ListedObject { key, etag: "\"e\"", size: 1, last_modified: Some(at(0)) });
                }
                merge.finish().orphans.into_iter().map(|orphan| orphan.key).collect::<BTreeSet<_>>()
            };
            let before = orphans(&names);
            let after = orphans(&names.iter().cloned().chain([more]).collect());
            prop_assert!(after.is_subset(&before));
        }
    }
}
