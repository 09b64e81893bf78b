//! How fast a run may ask, learned from what S3 refuses.
//!
//! Additive increase, multiplicative decrease of a rate. For deletions it counts keys: S3 takes
//! each key of a batch for a write, some 3,500 a second for a prefix
//! (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html>), and
//! splits busy prefixes while they are used, so no rate is right for ever. For the listing it
//! counts pages, of which nothing is stated. Until S3 first asks to slow down, nothing is held
//! back.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

/// How the rate of one kind of request is learned. It is counted in what the requests cost: keys
/// or pages.
#[derive(Debug)]
pub(crate) struct Manner {
    /// The rate after the first refusal, a second.
    stated: f64,
    /// Refusals that come together are of one moment, and count once.
    moment: Duration,
    /// How much faster, a second, for each that S3 took.
    increase: f64,
    /// The same until a second refusal shows where the limit is.
    search: f64,
    /// Of what was asked since the rate was lowered, this part may be refused before it is lowered
    /// again: S3 refuses a little also while it makes room, however slowly it is asked.
    tolerated: f64,
    /// Each time that so long no refusal lowered the rate, it rises twice as fast, up to `search`.
    calm: Duration,
    /// The least time between a refusal and the next request.
    pause: Duration,
    /// The slowest rate, a second.
    slowest: f64,
}

/// Deletions, in keys: at first as fast as S3 states for a prefix.
pub(crate) const DELETIONS: Manner = Manner {
    stated: 3_500.0,
    moment: Duration::from_millis(500),
    increase: 0.01,
    search: 0.1,
    tolerated: 0.0,
    calm: Duration::MAX,
    pause: Duration::from_millis(100),
    slowest: 50.0,
};

/// Pages. A bucket of a million keys has a thousand of them: what allows 200 a second must be
/// found out within one.
pub(crate) const PAGES: Manner = Manner {
    stated: 500.0,
    moment: Duration::from_millis(100),
    increase: 0.05,
    search: 1.0,
    tolerated: 0.1,
    calm: Duration::from_secs(1),
    pause: Duration::from_millis(50),
    slowest: 10.0,
};

/// What is left of the rate after a refusal.
const DECREASE: f64 = 0.85;

/// So much of the time that nobody used may be made up for: timers are no finer.
const CATCH_UP: Duration = Duration::from_millis(2);

/// The rate of one kind of request in one run.
#[derive(Debug)]
pub(crate) struct Throttle {
    manner: Manner,
    state: Mutex<State>,
    /// Held by the request whose turn is next. Who waits behind it has no turn yet, so that what
    /// is learned meanwhile holds for all of them.
    head: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    /// How much a second; `None` as long as nothing was refused.
    rate: Option<f64>,
    /// When the next request may be sent.
    next: Instant,
    /// When the rate was last lowered.
    lowered: Instant,
    /// What was refused since, and what was taken.
    refused: f64,
    taken: f64,
    /// How much faster for each that S3 took.
    increase: f64,
}

impl Throttle {
    pub(crate) fn new(manner: Manner) -> Self {
        let now = Instant::now();
        Self {
            state: Mutex::new(State {
                rate: None,
                next: now,
                lowered: now,
                refused: 0.0,
                taken: 0.0,
                increase: manner.search,
            }),
            manner,
            head: tokio::sync::Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether S3 has asked to slow down.
    pub(crate) fn holds_back(&self) -> bool {
        self.state().rate.is_some()
    }

    /// Waits for the turn of a request of this cost. Who stops waiting has used no turn.
    pub(crate) async fn turn(&self, cost: usize) {
        if !self.holds_back() {
            return;
        }
        let _head = self.head.lock().await;
        while let Err(next) = self.take_turn(cost) {
            sleep_until(next).await;
        }
    }

    /// The same, unless the turn has not come until then: says whether it has.
    pub(crate) async fn turn_until(&self, cost: usize, until: Instant) -> bool {
        timeout_at(until, self.turn(cost)).await.is_ok()
    }

    /// Takes the turn if it has come, or says when to try again.
    fn take_turn(&self, cost: usize) -> Result<(), Instant> {
        let mut state = self.state();
        let Some(rate) = state.rate else {
            return Ok(());
        };
        let now = Instant::now();
        if now < state.next {
            return Err(state.next);
        }
        let at = now.checked_sub(CATCH_UP).unwrap_or(now).max(state.next);
        state.next = at + Duration::from_secs_f64(count(cost) / rate);
        Ok(())
    }

    /// S3 asked to slow down instead of taking a request of this cost.
    pub(crate) fn refused(&self, cost: usize) {
        let mut state = self.state();
        let now = Instant::now();
        state.next = state.next.max(now + self.manner.pause);
        state.refused += count(cost);
        let tolerated = self.manner.tolerated * (state.refused + state.taken);
        state.rate = Some(match state.rate {
            None => self.manner.stated,
            Some(_) if now < state.lowered + self.manner.moment => return,
            Some(_) if state.refused <= tolerated => return,
            Some(rate) => {
                state.increase = self.manner.increase;
                (rate * DECREASE).max(self.manner.slowest)
            }
        });
        state.lowered = now;
        (state.refused, state.taken) = (0.0, 0.0);
        tracing::debug!(a_second = state.rate, "S3 asked to slow down");
    }

    /// S3 took a request of this cost.
    pub(crate) fn taken(&self, cost: usize) {
        let mut state = self.state();
        state.taken += count(cost);
        // Twice as much for each such time.
        let calm = state.lowered.elapsed().div_duration_f64(self.manner.calm);
        let increase = (state.increase * calm.floor().exp2()).min(self.manner.search);
        let faster = count(cost) * increase;
        if let Some(rate) = &mut state.rate {
            *rate += faster;
        }
    }
}

/// A cost as a figure.
fn count(cost: usize) -> f64 {
    u32::try_from(cost).map_or(f64::from(u32::MAX), f64::from)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    /// A storage that takes so many keys a second, with half a second's worth saved up, asked
    /// by several at once: how long it takes for how many keys, and how many refusals.
    async fn drive(allowed: f64, batches: usize) -> (f64, usize) {
        let throttle = Throttle::new(DELETIONS);
        let began = Instant::now();
        let mut storage = (1_000_f64.max(allowed / 2.0), began);
        let (mut waiting, mut refused) = (batches, 0);
        while waiting > 0 {
            throttle.turn(1_000).await;
            let now = Instant::now();
            let (saved, since) = storage;
            let saved =
                (saved + allowed * (now - since).as_secs_f64()).min(1_000_f64.max(allowed / 2.0));
            storage = (saved, now);
            if saved >= 1_000.0 {
                storage.0 -= 1_000.0;
                throttle.taken(1_000);
                waiting -= 1;
            } else {
                throttle.refused(1_000);
                refused += 1;
            }
        }
        (began.elapsed().as_secs_f64(), refused)
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_the_storage_allows_is_nearly_used_and_refusals_are_few() {
        for allowed in [1_000.0, 3_500.0, 20_000.0] {
            let batches = 2_000;
            let (seconds, refused) = drive(allowed, batches).await;
            let ideal = count(batches * 1_000) / allowed;
            assert!(
                seconds < ideal / 0.85,
                "{allowed}: {seconds} s, ideal {ideal} s"
            );
            assert!(refused < batches / 4, "{allowed}: {refused} refusals");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_refusal_nothing_waits_and_a_turn_too_late_is_not_taken() {
        let throttle = Throttle::new(DELETIONS);
        let began = Instant::now();
        for _ in 0..100 {
            assert!(throttle.turn_until(1_000, began).await);
        }
        throttle.refused(1_000);
        assert!(
            !throttle.turn_until(1_000, began).await,
            "the pause is not over"
        );
        let pause = began + DELETIONS.pause;
        assert!(throttle.turn_until(3_500, pause).await);
        let second = pause + Duration::from_millis(999);
        assert!(
            !throttle.turn_until(1, second).await,
            "the turn before is not over"
        );
        assert_eq!(Instant::now(), second);
        assert!(
            throttle
                .turn_until(1, second + Duration::from_millis(1))
                .await
        );
    }

    fn rate_is(throttle: &Throttle, expected: f64) {
        let rate = throttle.state().rate.unwrap();
        assert!((rate - expected).abs() < 1e-6, "{rate}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_falls_once_a_moment_and_rises_with_every_key_taken() {
        let throttle = Throttle::new(DELETIONS);
        let began = Instant::now();
        let at = |milliseconds| sleep_until(began + Duration::from_millis(milliseconds));
        throttle.taken(1_000);
        assert!(!throttle.holds_back());
        throttle.refused(1_000);
        assert!(throttle.holds_back());
        rate_is(&throttle, 3_500.0);
        throttle.taken(1_000);
        rate_is(&throttle, 3_600.0);
        at(499).await;
        throttle.refused(1_000);
        rate_is(&throttle, 3_600.0);
        at(500).await;
        throttle.refused(1_000);
        rate_is(&throttle, 3_060.0);
        throttle.taken(1_000);
        rate_is(&throttle, 3_070.0);
        at(999).await;
        throttle.refused(1_000);
        rate_is(&throttle, 3_070.0);
        for moment in 1..=100 {
            at(1_000 + moment * 500).await;
            throttle.refused(1_000);
        }
        rate_is(&throttle, DELETIONS.slowest);
    }

    #[tokio::test(start_paused = true)]
    async fn of_what_was_asked_since_the_rate_fell_a_part_may_be_refused() {
        let throttle = Throttle::new(PAGES);
        let began = Instant::now();
        let at = |milliseconds| sleep_until(began + Duration::from_millis(milliseconds));
        throttle.refused(1);
        throttle.taken(100);
        rate_is(&throttle, 600.0);
        at(200).await;
        throttle.refused(11);
        rate_is(&throttle, 600.0);
        throttle.refused(1);
        rate_is(&throttle, 510.0);
        at(400).await;
        throttle.taken(100);
        throttle.refused(11);
        rate_is(&throttle, 515.0);
    }

    #[tokio::test(start_paused = true)]
    async fn turns_come_one_after_the_other_at_the_rate_that_is_known_by_then() {
        let throttle = Throttle::new(DELETIONS);
        let began = Instant::now();
        let turn = async |keys| {
            throttle.turn(keys).await;
            began.elapsed().as_millis()
        };
        throttle.refused(1_000);
        // After the refusal a pause, and after a request as long as its keys take.
        assert_eq!(turn(3_500).await, 100);
        assert_eq!(turn(350).await, 1_100);
        // One that stops waiting leaves its turn to the next.
        assert_eq!(turn(350).now_or_never(), None);
        let learned = async {
            sleep_until(began + Duration::from_millis(1_150)).await;
            throttle.refused(1_000);
            rate_is(&throttle, 2_975.0);
        };
        let ((), first, second, third) = tokio::join!(learned, turn(2_975), turn(2_975), turn(0));
        assert_eq!((first, second, third), (1_250, 2_250, 3_250));
        // Nobody asks for a while: no more than a moment of it can be made up for.
        sleep_until(began + Duration::from_mins(1)).await;
        assert_eq!(turn(2_975).await, 60_000);
        assert_eq!(turn(0).await, 60_998);
    }
}
