//! How fast a sweep may send deletions, learned from what S3 refuses.
//!
//! Additive increase, multiplicative decrease of a rate in keys a second: S3 counts each key
//! of a batch as a write, some 3,500 a second for a prefix
//! (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html>), and
//! splits busy prefixes while they are used, so no rate is right for ever. Until S3 first
//! asks to slow down, nothing is held back.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The rate after the first refusal, in keys a second: what S3 states for a prefix.
const STATED: f64 = 3_500.0;

/// What is left of the rate after a refusal.
const DECREASE: f64 = 0.85;

/// Refusals that come together are of one moment, and count once.
const MOMENT: Duration = Duration::from_millis(500);

/// How much faster, in keys a second, for each key that S3 took.
const INCREASE: f64 = 0.01;

/// The same until a second refusal shows where the limit is.
const SEARCH: f64 = 0.1;

/// The least time between a refusal and the next request.
const PAUSE: Duration = Duration::from_millis(100);

/// The slowest rate, in keys a second.
const SLOWEST: f64 = 50.0;

/// The rate of one sweep.
#[derive(Debug)]
pub(crate) struct Throttle(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Keys a second; `None` as long as nothing was refused.
    rate: Option<f64>,
    /// When the next request may be sent.
    next: Instant,
    /// When the rate was last lowered.
    lowered: Instant,
    /// How much faster for each key that S3 took.
    increase: f64,
}

impl Throttle {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self(Mutex::new(State {
            rate: None,
            next: now,
            lowered: now,
            increase: SEARCH,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether S3 has asked to slow down.
    pub(crate) fn holds_back(&self) -> bool {
        self.state().rate.is_some()
    }

    /// Waits for the turn of a request of so many keys, unless it comes after `until`: then
    /// it takes no turn and says so.
    pub(crate) async fn turn(&self, keys: usize, until: Instant) -> bool {
        let at = {
            let mut state = self.state();
            let Some(rate) = state.rate else { return true };
            let at = state.next.max(Instant::now());
            if at > until {
                return false;
            }
            state.next = at + Duration::from_secs_f64(count(keys) / rate);
            at
        };
        sleep_until(at).await;
        true
    }

    /// S3 asked to slow down instead of taking a request of so many keys.
    pub(crate) fn refused(&self, keys: usize) {
        let mut state = self.state();
        let now = Instant::now();
        if let Some(rate) = state.rate {
            // Its turn was not used, so the next one need not wait for it.
            let turn = Duration::from_secs_f64(count(keys) / rate);
            let next = state.next.checked_sub(turn).unwrap_or(now);
            state.next = next.max(now + PAUSE);
        }
        match state.rate {
            None => state.rate = Some(STATED),
            Some(_) if now < state.lowered + MOMENT => return,
            Some(rate) => {
                state.rate = Some((rate * DECREASE).max(SLOWEST));
                state.increase = INCREASE;
            }
        }
        state.lowered = now;
    }

    /// S3 took a request of so many keys.
    pub(crate) fn taken(&self, keys: usize) {
        let mut state = self.state();
        let faster = count(keys) * state.increase;
        if let Some(rate) = &mut state.rate {
            *rate += faster;
        }
    }
}

/// Keys of one request as a figure.
fn count(keys: usize) -> f64 {
    u32::try_from(keys).map_or(f64::from(u32::MAX), f64::from)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    /// A storage that takes so many keys a second, with half a second's worth saved up, asked
    /// by several at once: how long it takes for how many keys, and how many refusals.
    async fn drive(allowed: f64, batches: usize) -> (f64, usize) {
        let throttle = Throttle::new();
        let began = Instant::now();
        let mut storage = (1_000_f64.max(allowed / 2.0), began);
        let (mut waiting, mut refused) = (batches, 0);
        let far = began + Duration::from_hours(1);
        while waiting > 0 {
            assert!(throttle.turn(1_000, far).await, "in time");
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
        let throttle = Throttle::new();
        let began = Instant::now();
        for _ in 0..100 {
            assert!(throttle.turn(1_000, began).await);
        }
        throttle.refused(1_000);
        assert!(throttle.turn(1_000, began).await);
        assert!(
            !throttle.turn(1_000, began).await,
            "the turn before is not over"
        );
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    fn rate_is(throttle: &Throttle, expected: f64) {
        let rate = throttle.state().rate.unwrap();
        assert!((rate - expected).abs() < 1e-6, "{rate}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_falls_once_a_moment_and_rises_with_every_key_taken() {
        let throttle = Throttle::new();
        let began = Instant::now();
        let far = began + Duration::from_hours(1);
        let at = |milliseconds| sleep_until(began + Duration::from_millis(milliseconds));
        throttle.taken(1_000);
        assert!(!throttle.holds_back());
        throttle.refused(1_000);
        assert!(throttle.holds_back());
        rate_is(&throttle, STATED);
        throttle.taken(1_000);
        rate_is(&throttle, 3_600.0);
        at(499).await;
        throttle.refused(0);
        rate_is(&throttle, 3_600.0);
        at(500).await;
        throttle.refused(0);
        rate_is(&throttle, 3_060.0);
        throttle.taken(1_000);
        rate_is(&throttle, 3_070.0);
        at(999).await;
        throttle.refused(0);
        rate_is(&throttle, 3_070.0);
        // After the last refusal a pause, and after a request as long as its keys take.
        assert!(throttle.turn(3_070, far).await);
        assert_eq!(began.elapsed(), Duration::from_millis(1_099));
        assert!(throttle.turn(307, far).await);
        assert_eq!(began.elapsed(), Duration::from_millis(2_099));
        assert!(throttle.turn(3_070, far).await);
        assert_eq!(began.elapsed(), Duration::from_millis(2_199));
        // What was refused has not used its turn, which the next one takes; the turn of another
        // that still waits stays its own.
        assert_eq!(throttle.turn(3_070, far).now_or_never(), None);
        throttle.refused(3_070);
        rate_is(&throttle, 2_609.5);
        assert!(throttle.turn(0, far).await);
        assert_eq!(began.elapsed(), Duration::from_millis(3_199));
        for moment in 1..=100 {
            at(3_500 + moment * 500).await;
            throttle.refused(0);
        }
        rate_is(&throttle, SLOWEST);
    }
}
