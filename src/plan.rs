//! The plan of a run: every orphan of the scope, and the figures that the guards look at.
//!
//! Only an [`ApprovedPlan`] can be swept, and only the guards can make one.

use std::cmp::Reverse;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, BinaryHeap, HashSet};
use std::hash::{Hash as _, Hasher as _};
use std::io;
use std::mem;

use jiff::Timestamp;

use crate::folders::{FolderWatch, Folders, HeldFolder, Holding};
use crate::guards::{self, Figures, Limits};
use crate::key::ObjectKey;
use crate::manifest::{Spool, SpoolReader, SpoolWriter};
use crate::mention::{KnownTexts, MAX_TOLD, Mention, Mentions};
use crate::merge::Findings;
use crate::object::Orphan;
use crate::review;
use crate::summary::{Counts, Refusal, SumError};

/// How many dangling references are confirmed and named; the rest is counted.
pub const MAX_NAMED_DANGLING: usize = 1_000;

/// How many orphans are looked for in the whole database.
pub const SAMPLE: usize = 50;

/// A plan in the making.
#[derive(Debug)]
pub struct PlanBuilder {
    spool: SpoolWriter,
    counts: Counts,
    dangling: Vec<ObjectKey>,
    newest_referenced: Option<Timestamp>,
    newest_orphans: BinaryHeap<Reverse<(Timestamp, ObjectKey)>>,
    examples: Vec<ObjectKey>,
    sample: Sample,
    folders: Option<FolderWatch>,
    used_excludes: BTreeSet<usize>,
    max_delete: Option<u64>,
    last: HashSet<ObjectKey>,
    mentions: Mentions,
    missing: KnownTexts,
}

impl PlanBuilder {
    /// An empty plan, of which at most the `max_delete` oldest orphans will be swept. It
    /// holds back no folder: that is [`PlanBuilder::within`]'s.
    ///
    /// # Errors
    /// The temporary folder cannot be written to.
    pub fn new(max_delete: Option<u64>) -> io::Result<Self> {
        Ok(Self {
            spool: SpoolWriter::new()?,
            counts: Counts::default(),
            dangling: Vec::new(),
            newest_referenced: None,
            newest_orphans: BinaryHeap::new(),
            examples: Vec::new(),
            sample: Sample::default(),
            folders: None,
            used_excludes: BTreeSet::new(),
            max_delete,
            last: HashSet::new(),
            mentions: Mentions::default(),
            missing: KnownTexts::default(),
        })
    }

    /// Holds back the orphans of folders below this one that have no reference, but for
    /// those that a person allowed to have none.
    #[must_use]
    pub fn within(self, root: &str, allowed: Folders) -> Self {
        Self {
            folders: Some(FolderWatch::new(root, allowed)),
            ..self
        }
    }

    /// Chooses these keys after all others when not all may be deleted.
    #[must_use]
    pub fn choosing_last(self, keys: impl IntoIterator<Item = ObjectKey>) -> Self {
        Self {
            last: keys.into_iter().collect(),
            ..self
        }
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The orphans so far.
    ///
    /// # Errors
    /// The temporary file cannot be written or read.
    pub fn orphans(&mut self) -> io::Result<SpoolReader> {
        self.spool.orphans()
    }

    /// The dangling references so far, where they are no more than are named.
    #[must_use]
    pub fn all_dangling(&self) -> Option<&[ObjectKey]> {
        let is_all = self.dangling.len() as u64 == self.counts.dangling;
        is_all.then_some(&self.dangling)
    }

    /// What is referenced within the scope so far and not there.
    pub fn take_missing(&mut self) -> KnownTexts {
        mem::take(&mut self.missing)
    }

    /// Holds back the orphans that names mention.
    pub fn hold_back(&mut self, mentions: Mentions) {
        self.mentions = mentions;
    }

    /// Adds the findings of the next range.
    ///
    /// # Errors
    /// The temporary folder is full.
    pub fn add(&mut self, findings: Findings) -> io::Result<()> {
        for orphan in findings.orphans {
            self.spool.push(&orphan)?;
            if self.examples.len() < guards::EXAMPLES {
                self.examples.push(orphan.key.clone());
            }
            self.newest_orphans
                .push(Reverse((orphan.last_modified, orphan.key.clone())));
            if self.newest_orphans.len() > guards::NEWER_ORPHANS {
                self.newest_orphans.pop();
            }
            self.sample.add(orphan.key);
        }
        if let Some(folders) = &mut self.folders {
            for run in findings.folders.iter() {
                folders.add(run);
            }
        }
        for key in &findings.dangling {
            self.missing.add(key.as_str());
        }
        let room = MAX_NAMED_DANGLING - self.dangling.len();
        self.dangling
            .extend(findings.dangling.into_iter().take(room));
        self.newest_referenced = self.newest_referenced.max(findings.newest_referenced);
        self.used_excludes.extend(findings.used_excludes);
        self.counts += findings.counts;
        Ok(())
    }

    /// The plan of the whole scope.
    ///
    /// # Errors
    /// The temporary folder is full.
    pub fn finish(self) -> io::Result<Plan> {
        let holding = self.folders.map(FolderWatch::finish).unwrap_or_default();
        let Divided {
            rest: spool,
            held,
            told,
        } = divide(self.spool.finish()?, &holding, &self.mentions)?;
        let chosen = match self.max_delete {
            None => Chosen::All,
            Some(max) => choose(&spool, max, self.last)?,
        };
        Ok(Plan {
            spool,
            held,
            counts: self.counts,
            dangling: self.dangling,
            newest_referenced: self.newest_referenced,
            newest_orphans: self
                .newest_orphans
                .into_iter()
                .map(|Reverse(orphan)| orphan)
                .collect(),
            examples: self.examples,
            sample: self.sample.keys(),
            used_excludes: self.used_excludes,
            refusals: guards::too_many_folders(&holding).into_iter().collect(),
            held_folders: holding.folders,
            mentions: told,
            chosen,
        })
    }
}

/// All orphans of a plan.
struct Divided {
    rest: Spool,
    held: Spool,
    /// The first of those that names mention.
    told: Vec<Mention>,
}

/// Puts what is held back into a spool of its own: which orphans that are is only known at the
/// end.
fn divide(all: Spool, holding: &Holding, mentions: &Mentions) -> io::Result<Divided> {
    let mut held = SpoolWriter::new()?;
    let mut told = Vec::new();
    if holding.is_empty() && mentions.is_empty() {
        return Ok(Divided {
            rest: all,
            held: held.finish()?,
            told,
        });
    }
    let mut rest = SpoolWriter::new()?;
    let mut orphans = all.orphans()?;
    while let Some(orphan) = orphans.next_orphan()? {
        if mentions.mention(&orphan.key) {
            told.extend(mentions.told(&orphan.key));
            held.push(&orphan)?;
        } else if holding.holds(orphan.key.as_str()) {
            held.push(&orphan)?;
        } else {
            rest.push(&orphan)?;
        }
    }
    told.truncate(MAX_TOLD);
    Ok(Divided {
        rest: rest.finish()?,
        held: held.finish()?,
        told,
    })
}

/// Keys from all over the plan, the same ones for the same keys: those that a fixed hash puts
/// first.
#[derive(Debug, Default)]
struct Sample(BinaryHeap<(u64, ObjectKey)>);

impl Sample {
    fn add(&mut self, key: ObjectKey) {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let place = hasher.finish();
        match self.0.len() {
            ..SAMPLE => self.0.push((place, key)),
            _ => {
                if let Some(mut greatest) = self.0.peek_mut()
                    && place < greatest.0
                {
                    *greatest = (place, key);
                }
            }
        }
    }

    fn keys(self) -> Vec<ObjectKey> {
        let mut keys: Vec<ObjectKey> = self.0.into_iter().map(|(_, key)| key).collect();
        keys.sort();
        keys
    }
}

/// What decides which orphans are swept when not all may be: those that failed the last time
/// go last, or a few that cannot be deleted would starve the rest; then by age, then by key.
type Rank = (bool, Timestamp, ObjectKey);

/// Chooses at most `max` orphans.
fn choose(spool: &Spool, max: u64, last: HashSet<ObjectKey>) -> io::Result<Chosen> {
    let mut heap: BinaryHeap<Rank> = BinaryHeap::new();
    let mut orphans = spool.orphans()?;
    while let Some(orphan) = orphans.next_orphan()? {
        let is_last = last.contains(&orphan.key);
        heap.push((is_last, orphan.last_modified, orphan.key));
        if heap.len() as u64 > max {
            heap.pop();
        }
    }
    Ok(heap
        .pop()
        .map_or(Chosen::None, |rank| Chosen::UpTo(rank, last)))
}

/// Which orphans of a plan are swept.
#[derive(Debug)]
enum Chosen {
    All,
    None,
    UpTo(Rank, HashSet<ObjectKey>),
}

impl Chosen {
    fn includes(&self, orphan: &Orphan) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::UpTo((is_last, at, key), last) => {
                (
                    &last.contains(&orphan.key),
                    &orphan.last_modified,
                    &orphan.key,
                ) <= (is_last, at, key)
            }
        }
    }
}

/// Every orphan of the scope, not yet approved.
#[derive(Debug)]
pub struct Plan {
    /// What may be swept.
    spool: Spool,
    /// What is held back.
    held: Spool,
    held_folders: Vec<HeldFolder>,
    mentions: Vec<Mention>,
    counts: Counts,
    /// The first references without an object, at most [`MAX_NAMED_DANGLING`].
    dangling: Vec<ObjectKey>,
    newest_referenced: Option<Timestamp>,
    newest_orphans: Vec<(Timestamp, ObjectKey)>,
    examples: Vec<ObjectKey>,
    sample: Vec<ObjectKey>,
    used_excludes: BTreeSet<usize>,
    /// What others than [`guards::judge`] say against it.
    refusals: Vec<Refusal>,
    chosen: Chosen,
}

impl Plan {
    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Makes sure that every orphan that was counted is in the plan.
    ///
    /// # Errors
    /// It is not.
    pub fn check_sum(&self) -> Result<(), SumError> {
        let settled = self.spool.len() + self.held.len();
        if settled == self.counts.orphans {
            return Ok(());
        }
        Err(SumError::Settled {
            orphans: self.counts.orphans,
            settled,
        })
    }

    /// The orphans that may be swept.
    #[must_use]
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// The orphans that are held back.
    #[must_use]
    pub fn held_back(&self) -> &Spool {
        &self.held
    }

    /// Whether the scope's glob of this place, which excludes, matched any object.
    #[must_use]
    pub fn is_exclude_used(&self, place: usize) -> bool {
        self.used_excludes.contains(&place)
    }

    /// The folders that hold their orphans back.
    #[must_use]
    pub fn held_folders(&self) -> &[HeldFolder] {
        &self.held_folders
    }

    /// Those that are held back because names mention them, the first [`MAX_TOLD`].
    #[must_use]
    pub fn mentions(&self) -> &[Mention] {
        &self.mentions
    }

    /// Some orphans from all over the plan, those that are held back among them.
    #[must_use]
    pub fn sample(&self) -> &[ObjectKey] {
        &self.sample
    }

    /// Some orphans, to be named.
    #[must_use]
    pub fn examples(&self) -> &[ObjectKey] {
        &self.examples
    }

    /// Adds a guard's no: the plan will not be approved.
    pub fn refuse(&mut self, refusal: Refusal) {
        self.refusals.push(refusal);
    }

    /// The references that have no object, as far as they are named.
    #[must_use]
    pub fn dangling(&self) -> &[ObjectKey] {
        &self.dangling
    }

    /// Takes out the named dangling references that turned out not to be dangling.
    pub fn keep_dangling(&mut self, mut keep: impl FnMut(&ObjectKey) -> bool) {
        let before = self.dangling.len();
        self.dangling.retain(|key| keep(key));
        self.counts.dangling -= (before - self.dangling.len()) as u64;
    }

    /// Forgets which references have no object: where only some objects were looked at,
    /// nothing can be said of them.
    pub fn forget_dangling(&mut self) {
        self.dangling.clear();
        self.counts.dangling = 0;
    }

    /// What the guards say: every no.
    #[must_use]
    pub fn refusals(&self, limits: &Limits) -> Vec<Refusal> {
        let mut refusals = guards::judge(&self.figures(), limits);
        refusals.extend(self.refusals.iter().cloned());
        refusals
    }

    /// What the guards on a reviewed manifest say: every no.
    #[must_use]
    pub fn reviewed_refusals(&self) -> Vec<Refusal> {
        let mut refusals = review::judge(&self.figures());
        refusals.extend(self.refusals.iter().cloned());
        refusals
    }

    fn figures(&self) -> Figures<'_> {
        Figures {
            counts: self.counts,
            orphans: &self.examples,
            dangling: &self.dangling,
            newest_referenced: self.newest_referenced,
            newest_orphans: &self.newest_orphans,
        }
    }

    /// Asks the guards.
    ///
    /// # Errors
    /// Every guard that says no, and the plan.
    pub fn approve(self, limits: &Limits) -> Result<ApprovedPlan, Box<(Vec<Refusal>, Self)>> {
        let refusals = self.refusals(limits);
        self.unless_refused(refusals)
    }

    /// Asks the guards of a plan whose orphans are those that a reviewed manifest lists: what
    /// they ask of a whole scope was asked when it was made.
    ///
    /// # Errors
    /// Every guard that says no, and the plan.
    pub fn approve_reviewed(self) -> Result<ApprovedPlan, Box<(Vec<Refusal>, Self)>> {
        let refusals = self.reviewed_refusals();
        self.unless_refused(refusals)
    }

    fn unless_refused(
        self,
        refusals: Vec<Refusal>,
    ) -> Result<ApprovedPlan, Box<(Vec<Refusal>, Self)>> {
        if refusals.is_empty() {
            Ok(ApprovedPlan(self))
        } else {
            Err(Box::new((refusals, self)))
        }
    }
}

/// A plan that every guard has approved: the only thing that can be swept.
#[derive(Debug)]
pub struct ApprovedPlan(Plan);

impl ApprovedPlan {
    /// The plan that was approved.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.0
    }

    /// The orphans in batches.
    ///
    /// # Errors
    /// The temporary file cannot be read.
    pub fn batches(&self) -> io::Result<Batches<'_>> {
        Ok(Batches {
            orphans: self.0.spool.orphans()?,
            chosen: &self.0.chosen,
        })
    }
}

/// Some orphans to sweep together.
#[derive(Debug, Default)]
pub struct Batch {
    /// The orphans, in key order.
    pub orphans: Vec<Orphan>,
    /// How many orphans on the way here `--max-delete` left for another run.
    pub passed_over: u64,
}

/// The batches of an approved plan, one after the other.
#[derive(Debug)]
pub struct Batches<'plan> {
    orphans: SpoolReader,
    chosen: &'plan Chosen,
}

impl Batches<'_> {
    /// The next batch of at most `size` orphans. `None` at the end; the last batch may
    /// hold no orphan and only say how many were passed over.
    ///
    /// # Errors
    /// The temporary file cannot be read.
    pub fn next_batch(&mut self, size: usize) -> io::Result<Option<Batch>> {
        let mut batch = Batch::default();
        while batch.orphans.len() < size {
            match self.orphans.next_orphan()? {
                Some(orphan) if self.chosen.includes(&orphan) => batch.orphans.push(orphan),
                Some(_) => batch.passed_over += 1,
                None if batch.orphans.is_empty() && batch.passed_over == 0 => return Ok(None),
                None => break,
            }
        }
        Ok(Some(batch))
    }

    /// How many orphans no batch was made of yet.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.orphans.left()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::object::ETag;

    fn plan(ages: &[i64], max_delete: Option<u64>, last: &[ObjectKey]) -> ApprovedPlan {
        let orphans = ages.iter().enumerate().map(|(index, &age)| Orphan {
            key: ObjectKey::new(format!("{index:04}")),
            etag: ETag::new("\"e\""),
            size: 1,
            last_modified: Timestamp::from_second(age).unwrap(),
        });
        let mut builder = PlanBuilder::new(max_delete)
            .unwrap()
            .choosing_last(last.iter().cloned());
        builder
            .add(Findings {
                orphans: orphans.collect(),
                ..Findings::default()
            })
            .unwrap();
        ApprovedPlan(builder.finish().unwrap())
    }

    proptest! {
        #[test]
        fn the_oldest_go_first_those_that_failed_last_and_the_rest_is_passed_over(
            ages in proptest::collection::vec(0_i64..6, 0..40),
            max_delete in proptest::option::of(0_u64..45),
            size in 1_usize..9,
            failed in proptest::collection::btree_set(0_usize..40, 0..10),
        ) {
            let last: Vec<ObjectKey> = failed.iter().map(|index| ObjectKey::new(format!("{index:04}"))).collect();
            let plan = plan(&ages, max_delete, &last);
            let mut batches = plan.batches().unwrap();
            let (mut chosen, mut passed_over) = (Vec::new(), 0);
            while let Some(batch) = batches.next_batch(size).unwrap() {
                prop_assert!(batch.orphans.len() <= size);
                let seen = chosen.len() as u64 + passed_over + batch.orphans.len() as u64 + batch.passed_over;
                prop_assert!(seen > chosen.len() as u64 + passed_over, "each batch says something");
                prop_assert_eq!(batches.left(), ages.len() as u64 - seen);
                passed_over += batch.passed_over;
                chosen.extend(batch.orphans);
            }
            let room = usize::try_from(max_delete.unwrap_or(u64::MAX)).unwrap_or(usize::MAX).min(ages.len());
            prop_assert_eq!(chosen.len(), room);
            prop_assert_eq!(chosen.len() as u64 + passed_over, ages.len() as u64);
            prop_assert_eq!(batches.left(), 0);
            let mut by_age: Vec<(bool, i64, String)> = ages.iter().enumerate().map(|(index, &age)| (failed.contains(&index), age, format!("{index:04}"))).collect();
            by_age.sort();
            let mut expected: Vec<String> = by_age.into_iter().take(room).map(|(_, _, key)| key).collect();
            expected.sort();
            prop_assert_eq!(chosen.iter().map(|orphan| orphan.key.as_str().to_owned()).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn what_is_held_back_is_in_no_batch_and_takes_no_place_of_what_may_be_deleted() {
        let orphan = |folder: &str, index: u64, age: i64| Orphan {
            key: ObjectKey::new(format!("{folder}{index:02}")),
            etag: ETag::new("\"e\""),
            size: 1,
            last_modified: Timestamp::from_second(age).unwrap(),
        };
        let mut findings = Findings::default();
        for index in 0..25 {
            findings.orphans.push(orphan("avatars/", index, 1));
        }
        for index in 0..30 {
            findings.orphans.push(orphan("images/", index, 2));
        }
        for orphan in &findings.orphans {
            findings.folders.orphan(orphan.key.as_str());
        }
        findings.folders.referenced("images/kept");
        let mut builder = PlanBuilder::new(Some(10))
            .unwrap()
            .within("", Folders::default());
        builder.add(findings).unwrap();
        let plan = builder.finish().unwrap();
        assert_eq!((plan.spool().len(), plan.held_back().len()), (30, 25));
        assert_eq!(plan.held_folders().len(), 1);
        assert_eq!(plan.held_folders()[0].folder.as_str(), "avatars/");
        assert_eq!(plan.held_folders()[0].orphans, 25);
        assert_eq!(plan.sample().len(), SAMPLE);
        let in_avatars = |key: &&ObjectKey| key.as_str().starts_with("avatars/");
        assert!(plan.sample().iter().any(|key| in_avatars(&key)));
        let approved = ApprovedPlan(plan);
        let batch = approved
            .batches()
            .unwrap()
            .next_batch(100)
            .unwrap()
            .unwrap();
        assert_eq!((batch.orphans.len(), batch.passed_over), (10, 20));
        assert!(!batch.orphans.iter().any(|orphan| in_avatars(&&orphan.key)));
    }

    fn orphan(key: &str, age: i64) -> Orphan {
        Orphan {
            key: ObjectKey::new(key),
            etag: ETag::new("\"e\""),
            size: 1,
            last_modified: Timestamp::from_second(age).unwrap(),
        }
    }

    fn key(index: usize) -> ObjectKey {
        ObjectKey::new(format!("{index:04}"))
    }

    fn built(parts: impl IntoIterator<Item = Findings>) -> Plan {
        let mut builder = PlanBuilder::new(None).unwrap();
        for part in parts {
            builder.add(part).unwrap();
        }
        builder.finish().unwrap()
    }

    fn missing(keys: std::ops::Range<usize>) -> Findings {
        Findings {
            counts: Counts {
                references: keys.len() as u64,
                dangling: keys.len() as u64,
                ..Counts::default()
            },
            dangling: keys.map(key).collect(),
            ..Findings::default()
        }
    }

    #[test]
    fn a_glob_is_used_where_it_matched_in_any_range() {
        let using = |places: &[usize]| Findings {
            used_excludes: places.iter().copied().collect(),
            ..Findings::default()
        };
        let plan = built([using(&[0]), using(&[]), using(&[2]), using(&[])]);
        let used = [0, 1, 2, 3].map(|place| plan.is_exclude_used(place));
        assert_eq!(used, [true, false, true, false]);
    }

    proptest! {
        /// What the guards see does not hang on how the scope was cut into ranges.
        #[test]
        fn the_figures_are_of_all_ranges(
            ages in proptest::collection::vec(0_i64..60, 0..90),
            part in 1_usize..40,
        ) {
            let orphans: Vec<Orphan> = ages.iter().enumerate().map(|(index, &age)| orphan(key(index).as_str(), age)).collect();
            let findings = |orphans: &[Orphan]| Findings {
                counts: Counts { listed: orphans.len() as u64, orphans: orphans.len() as u64, ..Counts::default() },
                orphans: orphans.to_vec(),
                newest_referenced: orphans.first().map(|orphan| orphan.last_modified),
                ..Findings::default()
            };
            let mut builder = PlanBuilder::new(None).unwrap();
            for some in orphans.chunks(part) {
                builder.add(findings(some)).unwrap();
            }
            prop_assert_eq!(builder.counts().orphans, ages.len() as u64);
            let plan = builder.finish().unwrap();
            prop_assert_eq!(plan.counts(), findings(&orphans).counts);
            let figures = plan.figures();
            let mut newest: Vec<_> = orphans.iter().map(|orphan| (orphan.last_modified, orphan.key.clone())).collect();
            newest.sort();
            newest.reverse();
            newest.truncate(guards::NEWER_ORPHANS);
            let mut seen = figures.newest_orphans.to_vec();
            seen.sort();
            seen.reverse();
            prop_assert_eq!(seen, newest);
            prop_assert_eq!(figures.newest_referenced, orphans.chunks(part).map(|some| some[0].last_modified).max());
            prop_assert_eq!(plan.examples(), (0..ages.len().min(guards::EXAMPLES)).map(key).collect::<Vec<_>>());

            // And the sample is the same in whatever order its keys came.
            let mut backwards = Sample::default();
            for orphan in orphans.iter().rev() {
                backwards.add(orphan.key.clone());
            }
            let sample = backwards.keys();
            prop_assert_eq!(sample.len(), ages.len().min(SAMPLE));
            prop_assert_eq!(plan.sample(), sample);
        }
    }

    #[test]
    fn a_thousand_dangling_references_are_named_and_all_are_counted() {
        let mut plan = built([missing(0..600), missing(600..1_300), missing(1_300..1_301)]);
        assert_eq!(plan.counts().dangling, 1_301);
        for (count, is_all) in [(0, true), (MAX_NAMED_DANGLING, true), (1_001, false)] {
            let mut builder = PlanBuilder::new(None).unwrap();
            builder.add(missing(0..count)).unwrap();
            let all = (0..count).map(key).collect::<Vec<_>>();
            assert_eq!(builder.all_dangling(), is_all.then_some(&all[..]));
        }
        assert_eq!(
            plan.dangling(),
            (0..MAX_NAMED_DANGLING).map(key).collect::<Vec<_>>()
        );
        plan.keep_dangling(|key| key.as_str() >= "0100");
        assert_eq!(plan.counts().dangling, 1_201);
        assert_eq!(
            plan.dangling(),
            (100..MAX_NAMED_DANGLING).map(key).collect::<Vec<_>>()
        );
        plan.forget_dangling();
        assert_eq!((plan.counts().dangling, plan.dangling().len()), (0, 0));
    }

    #[test]
    fn a_plan_that_any_guard_refuses_is_not_approved() {
        let limits = Limits {
            max_orphan_percent: 50.0,
            max_dangling_percent: 50.0,
            allow_newer_orphans: false,
        };
        let good = || {
            built([Findings {
                counts: Counts {
                    listed: 2,
                    referenced: 1,
                    references: 1,
                    orphans: 1,
                    ..Counts::default()
                },
                orphans: vec![orphan("a", 1)],
                ..Findings::default()
            }])
        };
        let names = |refused: Box<(Vec<Refusal>, Plan)>| {
            let refusals = refused.0.iter();
            refusals.map(|refusal| refusal.guard).collect::<Vec<_>>()
        };
        assert_eq!(good().approve(&limits).unwrap().plan().spool().len(), 1);
        assert!(good().approve_reviewed().is_ok());

        let strict = Limits {
            max_orphan_percent: 49.0,
            ..limits
        };
        let refused = good().approve(&strict).unwrap_err();
        assert_eq!(refused.0[0].examples, [ObjectKey::new("a")]);
        assert_eq!(names(refused), ["orphan_percent"]);

        // A no from outside stands beside theirs, whoever approves.
        let doubted = || {
            let mut plan = good();
            plan.refuse(guards::conditions_ignored());
            plan
        };
        let refused = doubted().approve(&strict).unwrap_err();
        assert_eq!(names(refused), ["orphan_percent", "conditions_ignored"]);
        let refused = doubted().approve_reviewed().unwrap_err();
        assert_eq!(names(refused), ["conditions_ignored"]);

        let nothing_named = built([Findings {
            counts: Counts {
                listed: 1,
                orphans: 1,
                ..Counts::default()
            },
            orphans: vec![orphan("a", 1)],
            ..Findings::default()
        }]);
        let refused = nothing_named.approve_reviewed().unwrap_err();
        assert_eq!(names(refused), ["no_references"]);
    }
}
