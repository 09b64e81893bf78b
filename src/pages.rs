//! A run of the past for people: what it counted, and what became of each orphan.
//!
//! All of it comes from the ledger, row by row, so that memory does not grow with the run.
//! Keys and messages are shown escaped; the ledger itself holds the bytes.

pub mod html;
pub mod sheet;

use std::io;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use thiserror::Error;
use uuid::Uuid;

use crate::archive::{Archive, ArchiveError, GivenBack, Lines, OutcomesReader, Past};
use crate::folders::HeldFolder;
use crate::key::{KeyRange, ObjectKey, Prefix};
use crate::manifest::SpoolReader;
use crate::mention::{MAX_TOLD, Mention};
use crate::object::Orphan;
use crate::summary::{Counts, Problem};

/// The word for an orphan of a run that broke off: what became of it was not written down.
const NOT_RECORDED: &str = "not recorded";

/// Pages of a run cannot be made.
#[derive(Debug, Error)]
pub enum PagesError {
    /// There is no such run.
    #[error(
        "{place} holds neither summary.json nor plan.jsonl; the run's id and --report say where its ledger lies"
    )]
    NoRun {
        /// Where it was looked for.
        place: String,
    },
    /// The run's plan was lost.
    #[error("{place} holds no plan.jsonl, which lists the run's {orphans} orphans")]
    NoPlan {
        /// Where it was looked for.
        place: String,
        /// How many the run found.
        orphans: u64,
    },
    /// The run wrote no answer.
    #[error(
        "{place} holds no summary.json: the run was killed, or goes on; the other formats show how far it came"
    )]
    NoSummary {
        /// Where it was looked for.
        place: String,
    },
    /// The ledger cannot be read.
    #[error("the run's ledger cannot be read")]
    Archive(#[from] ArchiveError),
    /// The summary says something else than this program writes.
    #[error("{place} is not a summary")]
    Summary {
        /// Where it lies.
        place: String,
        /// Why not.
        source: serde_json::Error,
    },
}

/// The answer of a run, read back; more fields may stand in it.
#[derive(Debug, Clone, Deserialize)]
pub struct Told {
    /// How it ended.
    pub status: String,
    /// The bucket.
    pub bucket: String,
    /// The prefix; empty for the whole bucket.
    pub prefix: Prefix,
    /// The key range that it was about.
    #[serde(flatten)]
    pub range: KeyRange,
    /// When it started.
    pub started_at: Timestamp,
    /// What was older could be an orphan.
    pub cutoff: Option<Timestamp>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// All counts.
    #[serde(flatten)]
    pub counts: Counts,
    /// The first guard that said no.
    pub refusal: Option<Refused>,
    /// The first problems.
    pub errors: Vec<Problem>,
    /// Of the deleted bytes, those that `restore` can bring back.
    #[serde(default)]
    pub recoverable_bytes: u64,
    /// Of the deleted bytes, those below a delete marker that `restore` leaves alone.
    #[serde(default)]
    pub kept_bytes: u64,
    /// Orphans that are held back.
    #[serde(default)]
    pub held_back: u64,
    /// The first folders in which they are.
    #[serde(default)]
    pub held_back_folders: Vec<HeldFolder>,
    /// The first that names mention.
    #[serde(default)]
    pub held_back_mentions: Vec<Mention>,
    /// The run whose manifest was applied.
    #[serde(default)]
    pub applied: Option<Uuid>,
}

/// A guard's no, read back.
#[derive(Debug, Clone, Deserialize)]
pub struct Refused {
    /// The guard's name.
    pub guard: String,
    /// The figure that it looked at.
    pub value: f64,
    /// The limit that it was held to.
    pub limit: f64,
    /// What was seen, and the way on.
    pub hint: String,
    /// Examples.
    pub examples: Vec<ObjectKey>,
}

/// A sum that holds in every run: what it is of, its value, and its parts.
pub type Sum = (&'static str, u64, Vec<(&'static str, u64)>);

/// Whether it does, as it is written between the two sides.
#[must_use]
pub fn sign(value: u64, parts: &[(&str, u64)]) -> &'static str {
    let sum: u64 = parts.iter().map(|(_, count)| count).sum();
    if sum == value { "=" } else { "≠" }
}

impl Told {
    /// Both sums.
    #[must_use]
    pub fn sums(&self) -> [Sum; 2] {
        let counts = &self.counts;
        [
            (
                "listed",
                counts.listed,
                vec![
                    ("referenced", counts.referenced),
                    ("young", counts.young),
                    ("out of scope", counts.out_of_scope),
                    ("orphans", counts.orphans),
                ],
            ),
            (
                "orphans",
                counts.orphans,
                vec![
                    ("deleted", counts.deleted),
                    ("gone", counts.gone),
                    ("spared", counts.spared),
                    ("failed", counts.failed),
                    ("unknown", counts.unknown),
                    ("deferred", counts.deferred),
                ],
            ),
        ]
    }
}

/// A run of the past, ready to be shown.
#[derive(Debug)]
pub struct Pages {
    /// The run.
    pub run_id: Uuid,
    /// Its answer; `None` of a run that was killed, or goes on.
    pub told: Option<Told>,
    /// Its answer as it was written.
    pub summary: Option<String>,
    /// Where its ledger lies.
    pub place: String,
    /// What was given back since.
    pub restored: Vec<GivenBack>,
    past: Option<Past>,
    held_back: Option<Lines>,
    dangling: Option<Lines>,
}

impl Pages {
    /// Reads what the run wrote down.
    ///
    /// # Errors
    /// There is no such run, or its ledger cannot be read.
    pub async fn open(archive: &Archive, run_id: Uuid) -> Result<Self, PagesError> {
        let place = archive.place_of(run_id);
        let summary = archive.summary(run_id).await?;
        let told = match &summary {
            None => None,
            Some(text) => {
                Some(
                    serde_json::from_str(text).map_err(|source| PagesError::Summary {
                        place: format!("{place}summary.json"),
                        source,
                    })?,
                )
            }
        };
        let has_plan = archive.lines(run_id, "plan.jsonl").await?.is_some();
        if !has_plan && told.is_none() {
            return Err(PagesError::NoRun { place });
        }
        if let Some(told) = told.as_ref().filter(|_| !has_plan) {
            let told: &Told = told;
            let is_judged = matches!(told.status.as_str(), "completed" | "dry_run");
            if is_judged || told.counts.asked() > 0 {
                let orphans = told.counts.orphans;
                return Err(PagesError::NoPlan { place, orphans });
            }
        }
        Ok(Self {
            run_id,
            told,
            summary,
            place,
            restored: archive.restored(run_id).await?,
            // A run that failed early has no plan.
            past: if has_plan {
                Some(archive.past(run_id).await?)
            } else {
                None
            },
            held_back: archive.lines(run_id, "held_back.jsonl").await?,
            dangling: archive.lines(run_id, "dangling.jsonl").await?,
        })
    }

    /// When the run started.
    #[must_use]
    pub fn started_at(&self) -> Option<Timestamp> {
        let planned = self.past.as_ref().map(|past| past.manifest.header());
        planned
            .map(|header| header.started_at)
            .or(self.told.as_ref().map(|told| told.started_at))
    }

    /// The guards that refused the plan.
    #[must_use]
    pub fn refused_by(&self) -> &[String] {
        self.past
            .as_ref()
            .map_or(&[], |past| &past.manifest.header().refused_by)
    }

    /// The bucket, the folder and the key range that it was about.
    #[must_use]
    pub fn scope(&self) -> String {
        let of = |bucket: &str, prefix: &Prefix, range: &KeyRange| match prefix.as_str() {
            "" => format!("{bucket}{range}"),
            prefix => format!("{bucket}/{prefix}{range}"),
        };
        match (&self.told, &self.past) {
            (Some(told), _) => of(&told.bucket, &told.prefix, &told.range),
            (None, Some(past)) => {
                let header = past.manifest.header();
                of(&header.bucket, &header.prefix, &header.range())
            }
            (None, None) => String::new(),
        }
    }

    /// The next reference without an object.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn next_dangling(&mut self) -> io::Result<Option<ObjectKey>> {
        #[derive(Deserialize)]
        struct Line {
            key: ObjectKey,
        }
        let Some(lines) = &mut self.dangling else {
            return Ok(None);
        };
        Ok(lines.next_line::<Line>()?.map(|line| line.key))
    }

    /// Every orphan: those of the plan in the order of their keys, then those held back.
    ///
    /// # Errors
    /// A temporary file cannot be read.
    pub fn rows(&mut self) -> io::Result<Rows<'_>> {
        let (planned, otherwise) = match &self.past {
            None => (None, NOT_RECORDED),
            Some(past) => {
                // Whoever has no outcome was not asked about, if as many have one as the
                // run said in the end.
                let all = self.told.as_ref().map(|told| told.counts.asked());
                (
                    Some((past.manifest.spool().orphans()?, past.outcomes.reader()?)),
                    if all == Some(past.outcomes.asked()) {
                        "deferred"
                    } else {
                        NOT_RECORDED
                    },
                )
            }
        };
        Ok(Rows {
            now: self.started_at().unwrap_or(Timestamp::UNIX_EPOCH),
            planned,
            otherwise,
            held_back: self.held_back.as_mut(),
            mentions: self
                .told
                .as_ref()
                .map_or(&[], |told| told.held_back_mentions.as_slice()),
        })
    }
}

/// One orphan, and what became of it.
#[derive(Debug)]
pub struct Row {
    /// The orphan.
    pub orphan: Orphan,
    /// How old it was when the run started.
    pub age: SignedDuration,
    /// What became of it.
    pub outcome: String,
    /// Why, where that is known.
    pub reason: String,
}

/// The orphans of a run.
#[derive(Debug)]
pub struct Rows<'pages> {
    now: Timestamp,
    planned: Option<(SpoolReader, OutcomesReader)>,
    otherwise: &'static str,
    held_back: Option<&'pages mut Lines>,
    mentions: &'pages [Mention],
}

impl Rows<'_> {
    /// The next orphan.
    ///
    /// # Errors
    /// A temporary file cannot be read.
    pub fn next_row(&mut self) -> io::Result<Option<Row>> {
        if let Some((orphans, outcomes)) = &mut self.planned {
            if let Some(orphan) = orphans.next_orphan()? {
                let recorded = outcomes.of(&orphan.key)?;
                let (outcome, reason) = match recorded {
                    None => (self.otherwise.to_owned(), String::new()),
                    Some(recorded) => {
                        let reason: Vec<String> =
                            recorded.code.into_iter().chain(recorded.reason).collect();
                        (recorded.outcome, reason.join(": "))
                    }
                };
                return Ok(Some(self.row(orphan, outcome, reason)));
            }
            self.planned = None;
        }
        let Some(held_back) = &mut self.held_back else {
            return Ok(None);
        };
        let orphan: Option<Orphan> = held_back.next_line()?;
        Ok(orphan.map(|orphan| {
            let reason = held_because(self.mentions, &orphan.key);
            self.row(orphan, "deferred".to_owned(), reason)
        }))
    }

    fn row(&self, orphan: Orphan, outcome: String, reason: String) -> Row {
        Row {
            age: self.now.duration_since(orphan.last_modified),
            orphan,
            outcome,
            reason,
        }
    }
}

/// Why an orphan is held back; only of the first that names mention that is known.
fn held_because(mentions: &[Mention], key: &ObjectKey) -> String {
    const FOLDER: &str = "held back: nothing in its folder is referenced";
    match mentions.iter().find(|mention| mention.key == *key) {
        Some(Mention { name, .. }) => {
            format!("held back: {name} mentions it, and means something else")
        }
        None if mentions.len() < MAX_TOLD => FOLDER.to_owned(),
        None => format!("{FOLDER}, or a name mentions it"),
    }
}

/// An age as people say it.
#[must_use]
pub fn age(age: SignedDuration) -> String {
    let hours = age.as_hours();
    match (hours / 24, hours % 24) {
        (0, 0) => format!("{} min", age.as_mins()),
        (0, hours) => format!("{hours} h"),
        (days, 0) => format!("{days} d"),
        (days, hours) => format!("{days} d {hours} h"),
    }
}

/// A figure of a guard, with two decimals where it has any.
#[must_use]
pub fn figure(value: f64) -> String {
    if value.fract() == 0.0 {
        format!("{value}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_said_in_two_units_at_most() {
        for (minutes, said) in [
            (0, "0 min"),
            (59, "59 min"),
            (60, "1 h"),
            (24 * 60, "1 d"),
            (49 * 60 + 5, "2 d 1 h"),
        ] {
            assert_eq!(age(SignedDuration::from_mins(minutes)), said);
        }
    }
}
