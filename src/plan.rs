//! The plan of a run: every orphan of the scope, and the figures that the guards look at.
//!
//! Only an [`ApprovedPlan`] can be swept, and only the guards can make one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;

use jiff::Timestamp;

use crate::guards::{self, Figures, Limits};
use crate::key::ObjectKey;
use crate::manifest::{Spool, SpoolReader, SpoolWriter};
use crate::merge::Findings;
use crate::object::Orphan;
use crate::review;
use crate::summary::{Counts, Refusal};

/// How many dangling references are confirmed and named; the rest is counted.
pub const MAX_NAMED_DANGLING: usize = 1_000;

/// A plan in the making.
#[derive(Debug)]
pub struct PlanBuilder {
    spool: SpoolWriter,
    counts: Counts,
    dangling: Vec<ObjectKey>,
    newest_referenced: Option<Timestamp>,
    newest_orphans: BinaryHeap<Reverse<(Timestamp, ObjectKey)>>,
    examples: Vec<ObjectKey>,
    oldest: Oldest,
}

impl PlanBuilder {
    /// An empty plan, of which at most the `max_delete` oldest orphans will be swept.
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
            oldest: Oldest {
                max: max_delete,
                heap: BinaryHeap::new(),
            },
        })
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
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
            self.oldest.add(orphan);
        }
        let room = MAX_NAMED_DANGLING - self.dangling.len();
        self.dangling
            .extend(findings.dangling.into_iter().take(room));
        self.newest_referenced = self.newest_referenced.max(findings.newest_referenced);
        self.counts += findings.counts;
        Ok(())
    }

    /// The plan of the whole scope.
    ///
    /// # Errors
    /// The temporary folder is full.
    pub fn finish(self) -> io::Result<Plan> {
        Ok(Plan {
            spool: self.spool.finish()?,
            counts: self.counts,
            dangling: self.dangling,
            newest_referenced: self.newest_referenced,
            newest_orphans: self
                .newest_orphans
                .into_iter()
                .map(|Reverse(orphan)| orphan)
                .collect(),
            examples: self.examples,
            last_chosen: self.oldest.last_chosen(),
        })
    }
}

/// The oldest orphans, as many as may be deleted.
#[derive(Debug)]
struct Oldest {
    max: Option<u64>,
    heap: BinaryHeap<(Timestamp, ObjectKey)>,
}

impl Oldest {
    fn add(&mut self, orphan: Orphan) {
        let Some(max) = self.max else { return };
        self.heap.push((orphan.last_modified, orphan.key));
        if self.heap.len() as u64 > max {
            self.heap.pop();
        }
    }

    fn last_chosen(mut self) -> Chosen {
        match self.max {
            None => Chosen::All,
            Some(_) => self
                .heap
                .pop()
                .map_or(Chosen::None, |last| Chosen::UpTo(last.0, last.1)),
        }
    }
}

/// Which orphans of a plan are swept, by age and then by key.
#[derive(Debug)]
enum Chosen {
    All,
    None,
    UpTo(Timestamp, ObjectKey),
}

impl Chosen {
    fn includes(&self, orphan: &Orphan) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::UpTo(at, key) => (&orphan.last_modified, &orphan.key) <= (at, key),
        }
    }
}

/// Every orphan of the scope, not yet approved.
#[derive(Debug)]
pub struct Plan {
    spool: Spool,
    counts: Counts,
    /// The first references without an object, at most [`MAX_NAMED_DANGLING`].
    dangling: Vec<ObjectKey>,
    newest_referenced: Option<Timestamp>,
    newest_orphans: Vec<(Timestamp, ObjectKey)>,
    examples: Vec<ObjectKey>,
    last_chosen: Chosen,
}

impl Plan {
    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The orphans.
    #[must_use]
    pub fn spool(&self) -> &Spool {
        &self.spool
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
        guards::judge(&self.figures(), limits)
    }

    /// What the guards on a reviewed manifest say: every no.
    #[must_use]
    pub fn reviewed_refusals(&self) -> Vec<Refusal> {
        review::judge(&self.figures())
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
            chosen: &self.0.last_chosen,
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

    fn plan(ages: &[i64], max_delete: Option<u64>) -> ApprovedPlan {
        let orphans = ages.iter().enumerate().map(|(index, &age)| Orphan {
            key: ObjectKey::new(format!("{index:04}")),
            etag: ETag::new("\"e\""),
            size: 1,
            last_modified: Timestamp::from_second(age).unwrap(),
        });
        let mut builder = PlanBuilder::new(max_delete).unwrap();
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
        fn the_oldest_go_first_and_the_rest_is_passed_over(
            ages in proptest::collection::vec(0_i64..6, 0..40),
            max_delete in proptest::option::of(0_u64..45),
            size in 1_usize..9,
        ) {
            let plan = plan(&ages, max_delete);
            let mut batches = plan.batches().unwrap();
            let (mut chosen, mut passed_over) = (Vec::new(), 0);
            while let Some(batch) = batches.next_batch(size).unwrap() {
                prop_assert!(batch.orphans.len() <= size);
                passed_over += batch.passed_over;
                chosen.extend(batch.orphans);
            }
            let room = usize::try_from(max_delete.unwrap_or(u64::MAX)).unwrap_or(usize::MAX).min(ages.len());
            prop_assert_eq!(chosen.len(), room);
            prop_assert_eq!(chosen.len() as u64 + passed_over, ages.len() as u64);
            prop_assert_eq!(batches.left(), 0);
            let mut by_age: Vec<(i64, String)> = ages.iter().enumerate().map(|(index, &age)| (age, format!("{index:04}"))).collect();
            by_age.sort();
            let mut expected: Vec<String> = by_age.into_iter().take(room).map(|(_, key)| key).collect();
            expected.sort();
            prop_assert_eq!(chosen.iter().map(|orphan| orphan.key.as_str().to_owned()).collect::<Vec<_>>(), expected);
        }
    }
}
