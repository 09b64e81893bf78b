//! How far a run is, for whoever watches.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::summary::Counts;

/// Figures that only grow; a watcher reads them whenever it likes.
#[derive(Debug, Default)]
pub struct Progress {
    listed: AtomicU64,
    orphans: AtomicU64,
    deleted: AtomicU64,
}

impl Progress {
    pub(crate) fn judged(&self, counts: &Counts) {
        self.listed.store(counts.listed, Ordering::Relaxed);
        self.orphans.store(counts.orphans, Ordering::Relaxed);
    }

    pub(crate) fn swept(&self, counts: &Counts) {
        self.deleted.store(counts.deleted, Ordering::Relaxed);
    }

    /// Objects listed.
    #[must_use]
    pub fn listed(&self) -> u64 {
        self.listed.load(Ordering::Relaxed)
    }

    /// Orphans found.
    #[must_use]
    pub fn orphans(&self) -> u64 {
        self.orphans.load(Ordering::Relaxed)
    }

    /// Deletions confirmed.
    #[must_use]
    pub fn deleted(&self) -> u64 {
        self.deleted.load(Ordering::Relaxed)
    }
}
