//! A run's end before its work is done: a deadline, or a person's wish.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;
use tokio::time::Instant;

/// Tells a run to stop. It stops cleanly: before the plan is complete with nothing
/// deleted, and during the sweep with the requests that are under way: no other window is
/// begun, and no batch goes on in halves or single keys.
#[derive(Debug, Default)]
pub struct Stop {
    deadline: Option<Instant>,
    interrupted: AtomicBool,
    notify: Notify,
}

impl Stop {
    /// Never, unless interrupted.
    #[must_use]
    pub fn never() -> Self {
        Self::default()
    }

    /// At this time, or when interrupted.
    #[must_use]
    pub fn at(deadline: Instant) -> Self {
        Self {
            deadline: Some(deadline),
            ..Self::default()
        }
    }

    /// Asks the run to stop now.
    pub fn interrupt(&self) {
        self.interrupted.store(true, Ordering::SeqCst);
        self.notify.notify_waiters();
    }

    /// Whether a person asked the run to stop.
    #[must_use]
    pub fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }

    /// Whether the run is to stop.
    #[must_use]
    pub fn requested(&self) -> bool {
        self.interrupted()
            || self
                .deadline
                .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Ends when the run is to stop.
    pub async fn wait(&self) {
        let interrupted = self.notify.notified();
        if self.requested() {
            return;
        }
        match self.deadline {
            Some(deadline) => tokio::select! {
                () = interrupted => {}
                () = tokio::time::sleep_until(deadline) => {}
            },
            None => interrupted.await,
        }
    }
}
