//! The requests of one batch, and what settles the questions that their answers leave open.

use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::checked::{Checked, ask_again, if_snapshot_wrong};
use super::{Course, SweepError};
use crate::guards::Versioning;
use crate::hands::{BatchFault, Current, Delete, FreshCheck};
use crate::object::{Orphan, Outcome, SparedBy};
use crate::reconcile::{BatchAnswer, Word, did_nothing, reconcile};

/// Whether XML 1.0 can carry the key and give it back
/// (<https://www.w3.org/TR/xml/#charsets>). White space but the space is left out, too:
/// parsers may fold it.
pub(super) fn fits_in_xml(key: &str) -> bool {
    !key.chars()
        .any(|c| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'))
}

/// Sends the requests of one batch and settles what they leave open.
pub(super) struct Sender<'window, 'run, D, C, R> {
    pub(super) course: &'window Course<'run, D, C, R>,
    /// When the listing, or the look in its place, is a minute old.
    pub(super) listing_fresh_until: Instant,
    /// How long the machine may have slept since the run began: as long as when the window
    /// began, or it slept behind the fresh check.
    pub(super) awake_while: SignedDuration,
}

/// What is known before a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before {
    pub(super) checked: Checked,
    /// S3's time before the first of the earlier requests that may have been carried out, or not.
    pub(super) may_have_acted_since: Option<Timestamp>,
}

impl From<Checked> for Before {
    fn from(checked: Checked) -> Self {
        Self {
            checked,
            may_have_acted_since: None,
        }
    }
}

/// Those whose outcome is open.
fn undecided<'window>(
    orphans: &'window mut [&mut (Orphan, Outcome)],
) -> impl Iterator<Item = &'window mut (Orphan, Outcome)> {
    let open = |settled: &&'window mut (Orphan, Outcome)| settled.1 == Outcome::Deferred;
    orphans
        .iter_mut()
        .map(|settled| &mut **settled)
        .filter(open)
}

/// What came of asking for some orphans.
struct Asked {
    /// Those that are still to be settled.
    orphans: Vec<Orphan>,
    /// S3's time before the first request that may have acted.
    sent_at: Timestamp,
    answer: Result<BatchAnswer, BatchFault>,
    /// What ended it before its time.
    ended: Result<(), SweepError>,
}

const PASSED_ON: &str = "what asked to come again later may have passed the request on";

/// How often a throttled batch is sent again, at most.
const MAX_ATTEMPTS: u32 = 8;

impl<D: Delete + Sync, C: FreshCheck, R> Sender<'_, '_, D, C, R> {
    /// Sends the orphans, in one request where S3 can read it, in halves where it cannot.
    pub(super) async fn send(
        &self,
        orphans: &mut [&mut (Orphan, Outcome)],
        checked: Checked,
    ) -> Result<(), SweepError> {
        self.send_after(orphans, checked.into()).await
    }

    /// Sends those of them that are still to be deleted.
    async fn send_after(
        &self,
        orphans: &mut [&mut (Orphan, Outcome)],
        mut before: Before,
    ) -> Result<(), SweepError> {
        if orphans.is_empty() || !self.turn(orphans.len()).await || self.course.halted() {
            return Ok(());
        }
        let Some(asked) = self.check_if_old(orphans, &mut before).await? else {
            return Ok(());
        };
        if asked.is_empty() {
            return Ok(());
        }
        // Halves and single keys follow each other, and each may have taken its time.
        if !self.is_fresh() {
            return Err(SweepError::Stale);
        }
        let Asked {
            orphans: asked,
            sent_at,
            answer,
            ended,
        } = self.ask(asked, orphans, &mut before).await;
        let may_have_acted = before.may_have_acted_since.is_some();
        let mut orphans: Vec<&mut (Orphan, Outcome)> = undecided(orphans).collect();
        let words = match answer {
            Ok(answer) => {
                let mut words = reconcile(&asked, answer);
                // What it says of the rest may be an echo of what was done before.
                for word in words.iter_mut().filter(|_| may_have_acted) {
                    if !matches!(word, Word::Settled(Outcome::Deleted { .. })) {
                        *word = Word::Silent { reason: PASSED_ON };
                    }
                }
                words
            }
            Err(BatchFault::Unreadable { .. }) if asked.len() > 1 => {
                return self.send_halves(&mut orphans, before).await;
            }
            Err(BatchFault::Throttled { code }) => {
                let failed = if may_have_acted {
                    Word::Silent { reason: PASSED_ON }
                } else {
                    Word::Settled(Outcome::Failed {
                        code,
                        message: "S3 kept asking to slow down".to_owned(),
                    })
                };
                vec![failed; asked.len()]
            }
            Err(BatchFault::Unreadable { code, message }) => {
                vec![Word::Settled(Outcome::Failed { code, message })]
            }
            Err(BatchFault::Refused { code, message }) => {
                self.course.halt();
                let failed = if may_have_acted {
                    Outcome::Unknown {
                        reason: format!("{PASSED_ON}, and then {code}"),
                    }
                } else {
                    Outcome::Failed {
                        code: code.clone(),
                        message: message.clone(),
                    }
                };
                for (_, outcome) in orphans {
                    *outcome = failed.clone();
                }
                return Err(SweepError::Refused { code, message });
            }
            Err(BatchFault::Lost { message }) => {
                tracing::warn!(
                    objects = asked.len(),
                    error = message,
                    "lost the answer to a batch"
                );
                vec![
                    Word::Silent {
                        reason: "S3's answer was lost"
                    };
                    asked.len()
                ]
            }
        };
        self.settle_all(orphans.into_iter().zip(words), sent_at)
            .await;
        ended
    }

    /// Settles many, several at once.
    async fn settle_all(
        &self,
        words: impl Iterator<Item = (&mut (Orphan, Outcome), Word)>,
        sent_at: Timestamp,
    ) {
        let at_once = self.course.pace.looks_at_once.max(1);
        stream::iter(words)
            .for_each_concurrent(at_once, async |(settled, word)| {
                settled.1 = self.settle(&settled.0, word, sent_at).await;
            })
            .await;
    }

    /// Sends what no request can carry as a whole.
    async fn send_halves(
        &self,
        orphans: &mut [&mut (Orphan, Outcome)],
        before: Before,
    ) -> Result<(), SweepError> {
        let (left, right) = orphans.split_at_mut(orphans.len() / 2);
        let mut ended = Box::pin(self.send_after(left, before)).await;
        if ended.is_ok() && !self.course.stop.requested() {
            ended = Box::pin(self.send_after(right, before)).await;
        }
        // What was not sent again an earlier request may have deleted.
        if let Some(since) = before.may_have_acted_since {
            let word = || Word::Silent { reason: PASSED_ON };
            let open = undecided(orphans).map(|settled| (settled, word()));
            self.settle_all(open, since).await;
        }
        ended
    }

    /// The orphans that may be asked for now: where the last fresh check is no longer recent, those
    /// that no row names by now. `None` where the run is to stop first.
    pub(super) async fn check_if_old(
        &self,
        orphans: &mut [&mut (Orphan, Outcome)],
        before: &mut Before,
    ) -> Result<Option<Vec<Orphan>>, SweepError> {
        let mut snapshot = Ok(());
        if before.checked.is_old() {
            let check = self.course.hands.check;
            // Others wait for the same: where each reads every name there is, one after the
            // other.
            let mut open: Vec<&mut (Orphan, Outcome)> = undecided(orphans).collect();
            let asking = async {
                let _turn = if check.asks_many_at_once() {
                    None
                } else {
                    Some(self.course.asking.lock().await)
                };
                ask_again(check, &mut open).await
            };
            before.checked = tokio::select! {
                biased;
                checked = asking => checked?,
                () = self.course.stop.wait() => return Ok(None),
            };
            snapshot = if_snapshot_wrong(open.iter().map(|settled| &**settled));
        }
        // Nobody knows whether what is named by now was deleted before it was.
        if let Some(since) = before.may_have_acted_since {
            let word = || Word::Silent { reason: PASSED_ON };
            let spared = orphans
                .iter_mut()
                .filter(|settled| settled.1 == Outcome::Spared(SparedBy::Check));
            let spared = spared.map(|settled| (&mut **settled, word()));
            self.settle_all(spared, since).await;
        }
        snapshot?;
        let left = undecided(orphans).map(|(orphan, _)| orphan.clone());
        Ok(Some(left.collect()))
    }

    /// Whether the listing, or the look in its place, may still be rested on, and no check lies
    /// behind a sleep.
    fn is_fresh(&self) -> bool {
        let slept = self.course.judged.slept(self.course.hands.clock);
        Instant::now() <= self.listing_fresh_until && slept <= self.awake_while
    }

    /// Waits until so many keys may be sent; says no when that would be too late, or when the
    /// run is to stop first. What S3 takes at once waits for nothing, not even for a stop.
    async fn turn(&self, keys: usize) -> bool {
        let until = self.listing_fresh_until;
        tokio::select! {
            biased;
            turn = self.course.throttle.turn_until(keys, until) => turn,
            () = self.course.stop.wait() => false,
        }
    }

    /// One request, sent again only when S3 said that it did nothing, behind a recent check, and only
    /// as long as the listing is fresh. What says so in its place may have passed a
    /// request on.
    async fn ask(
        &self,
        mut asked: Vec<Orphan>,
        orphans: &mut [&mut (Orphan, Outcome)],
        before: &mut Before,
    ) -> Asked {
        let mut attempt = 0;
        let mut alone = matches!(&asked[..], [one] if !fits_in_xml(one.key.as_str()));
        loop {
            let sent_at = self.course.judged.now();
            let delete = self.course.hands.delete;
            let answer = match &asked[..] {
                [one] if alone => delete.delete_alone(one).await,
                asked => delete.delete_batch(asked).await,
            };
            let mut ended = Ok(());
            let again = match &answer {
                Err(BatchFault::Throttled { code }) => {
                    attempt += 1;
                    self.course.throttle.refused(asked.len());
                    if !did_nothing(code) {
                        before.may_have_acted_since.get_or_insert(sent_at);
                    }
                    self.come_again(attempt, &asked, orphans, before).await
                }
                Err(BatchFault::Unreadable { .. }) if asked.len() == 1 && !alone => {
                    alone = true;
                    self.if_recent(orphans, before).await
                }
                Ok(_) => {
                    self.course.throttle.taken(asked.len());
                    Ok(None)
                }
                Err(_) => Ok(None),
            };
            match again {
                Ok(Some(left)) if !left.is_empty() => {
                    asked = left;
                    continue;
                }
                Ok(_) => {}
                Err(error) => ended = Err(error),
            }
            // (The check may have settled some since.)
            asked = undecided(orphans)
                .map(|(orphan, _)| orphan.clone())
                .collect();
            return Asked {
                orphans: asked,
                sent_at: before.may_have_acted_since.unwrap_or(sent_at),
                answer,
                ended,
            };
        }
    }

    /// What of a throttled batch is to be sent again, when it may be; `None` where it is not to be.
    async fn come_again(
        &self,
        attempt: u32,
        asked: &[Orphan],
        orphans: &mut [&mut (Orphan, Outcome)],
        before: &mut Before,
    ) -> Result<Option<Vec<Orphan>>, SweepError> {
        if attempt >= MAX_ATTEMPTS || self.course.stop.requested() {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(100) * 2_u32.pow(attempt.min(6))).await;
        if !self.turn(asked.len()).await || self.course.halted() {
            return Ok(None);
        }
        self.if_recent(orphans, before).await
    }

    /// What is still to be asked for, where that rests on what is recent; `None` where it is not to be.
    async fn if_recent(
        &self,
        orphans: &mut [&mut (Orphan, Outcome)],
        before: &mut Before,
    ) -> Result<Option<Vec<Orphan>>, SweepError> {
        let left = self.check_if_old(orphans, before).await?;
        // (The check takes its time, too.)
        Ok(left.filter(|_| self.is_fresh() && !self.course.halted()))
    }

    /// What became of the orphan, after a look at it where the answer left that open.
    async fn settle(&self, orphan: &Orphan, word: Word, sent_at: Timestamp) -> Outcome {
        let (reason, failed) = match word {
            Word::Settled(outcome) => return outcome,
            Word::ConditionFailed => (None, None),
            Word::Silent { reason } => (Some(reason), None),
            Word::Doubtful { code, message } => (
                Some("S3 failed at it, and may have deleted it all the same"),
                Some(Outcome::Failed { code, message }),
            ),
        };
        match self.course.hands.delete.look(&orphan.key).await {
            // Absent after a request of ours whose answer is missing: only the versions can tell.
            // They do not say who made a marker: one from before the request is not ours, one
            // from since then is taken for ours.
            Ok(Current::Absent) if reason.is_some() => {
                match self.course.hands.delete.marker_over(orphan, sent_at).await {
                    Ok(Some(marker)) => Outcome::Deleted {
                        marker: Some(marker),
                    },
                    Ok(None) if self.course.judged.versioning == Versioning::Enabled => {
                        Outcome::Gone
                    }
                    Ok(None) => Outcome::Unknown {
                        reason: format!(
                            "{}; the object is absent now, and without versions nothing tells whose deletion that was",
                            reason.unwrap_or_default()
                        ),
                    },
                    Err(error) => Outcome::Unknown {
                        reason: error.to_string(),
                    },
                }
            }
            Ok(Current::Absent) => Outcome::Gone,
            Ok(Current::Present { etag, .. }) if etag.as_ref() != Some(&orphan.etag) => {
                Outcome::Spared(SparedBy::ETag)
            }
            // Still there with its own tag: it was not deleted, or the condition failed for another
            // reason, or the request may yet take effect.
            Ok(Current::Present { .. }) => match (failed, reason) {
                (Some(failed), _) => failed,
                (None, None) => Outcome::Spared(SparedBy::ETag),
                (None, Some(reason)) => Outcome::Unknown {
                    reason: format!("{reason}, and the object is still there"),
                },
            },
            Err(error) => Outcome::Unknown {
                reason: format!("{}, and {error}", reason.unwrap_or("the condition failed")),
            },
        }
    }
}
