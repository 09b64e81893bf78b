//! The requests of one batch, and what settles the questions that their answers leave open.

use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::{Course, SweepError};
use crate::guards::Versioning;
use crate::hands::{BatchFault, Current, Delete};
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
    /// When the fresh check, or the listing, is a minute old.
    pub(super) fresh_until: Instant,
    /// How long the machine may have slept since the run began: as long as when the window
    /// began, or it slept behind the fresh check.
    pub(super) awake_while: SignedDuration,
}

const PASSED_ON: &str = "what asked to come again later may have passed the request on";

/// How often a throttled batch is sent again, at most.
const MAX_ATTEMPTS: u32 = 8;

impl<D: Delete + Sync, C, R> Sender<'_, '_, D, C, R> {
    /// Sends the orphans, in one request where S3 can read it, in halves where it cannot.
    pub(super) async fn send(
        &self,
        orphans: &mut [&mut (Orphan, Outcome)],
    ) -> Result<(), SweepError> {
        self.send_after(orphans, false).await
    }

    /// Sends them where an earlier request for the same may have been carried out, or not.
    async fn send_after(
        &self,
        orphans: &mut [&mut (Orphan, Outcome)],
        mut may_have_acted: bool,
    ) -> Result<(), SweepError> {
        if orphans.is_empty() || !self.turn(orphans.len()).await || self.course.halted() {
            return Ok(());
        }
        // Halves and single keys follow each other, and each may have taken its time.
        if !self.is_fresh() {
            return Err(SweepError::Stale);
        }
        let asked: Vec<Orphan> = orphans.iter().map(|(orphan, _)| orphan.clone()).collect();
        let sent_at = self.course.judged.now();
        let words = match self.ask(&asked, &mut may_have_acted).await {
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
                let (left, right) = orphans.split_at_mut(asked.len() / 2);
                Box::pin(self.send_after(left, may_have_acted)).await?;
                if self.course.stop.requested() {
                    return Ok(());
                }
                return Box::pin(self.send_after(right, may_have_acted)).await;
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
        stream::iter(orphans.iter_mut().zip(words))
            .for_each_concurrent(
                self.course.pace.looks_at_once.max(1),
                async |(settled, word)| {
                    settled.1 = self.settle(&settled.0, word, sent_at).await;
                },
            )
            .await;
        Ok(())
    }

    /// Whether the fresh check and the listing may still be rested on.
    fn is_fresh(&self) -> bool {
        let slept = self.course.judged.slept(self.course.hands.clock);
        Instant::now() <= self.fresh_until && slept <= self.awake_while
    }

    /// Waits until so many keys may be sent; says no when that would be too late, or when the
    /// run is to stop first. What S3 takes at once waits for nothing, not even for a stop.
    async fn turn(&self, keys: usize) -> bool {
        tokio::select! {
            biased;
            turn = self.course.throttle.turn_until(keys, self.fresh_until) => turn,
            () = self.course.stop.wait() => false,
        }
    }

    /// One request, sent again only when S3 said that it did nothing, and only as long as
    /// the fresh check and the listing are fresh. What says so in its place may have passed a
    /// request on.
    async fn ask(
        &self,
        asked: &[Orphan],
        may_have_acted: &mut bool,
    ) -> Result<BatchAnswer, BatchFault> {
        let mut attempt = 0;
        loop {
            let alone = matches!(asked, [one] if !fits_in_xml(one.key.as_str()));
            let mut answer = if alone {
                self.course.hands.delete.delete_alone(&asked[0]).await
            } else {
                self.course.hands.delete.delete_batch(asked).await
            };
            if let (Err(BatchFault::Unreadable { .. }), [one], false) = (&answer, asked, alone)
                && self.is_fresh()
                && !self.course.halted()
            {
                answer = self.course.hands.delete.delete_alone(one).await;
            }
            attempt += 1;
            let pause = Duration::from_millis(100) * 2_u32.pow(attempt.min(6));
            match answer {
                Err(BatchFault::Throttled { code }) => {
                    self.course.throttle.refused(asked.len());
                    *may_have_acted |= !did_nothing(&code);
                    let again = attempt < MAX_ATTEMPTS && !self.course.stop.requested();
                    if again {
                        tokio::time::sleep(pause).await;
                    }
                    if !again
                        || !self.turn(asked.len()).await
                        || self.course.halted()
                        || !self.is_fresh()
                    {
                        return Err(BatchFault::Throttled { code });
                    }
                }
                Ok(answer) => {
                    self.course.throttle.taken(asked.len());
                    return Ok(answer);
                }
                fault => return fault,
            }
        }
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
