//! What really happened in the histories, so that a fault that never comes, or an actor who
//! never acts, is a failure, too.

use std::collections::BTreeMap;
use std::fmt;

use crate::faults::Kind;

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Coverage {
    /// How the runs ended that met a fault of this kind.
    pub(crate) faults: BTreeMap<Kind, BTreeMap<String, u64>>,
    /// Where runs crashed.
    pub(crate) crashes: BTreeMap<&'static str, u64>,
    pub(crate) events: BTreeMap<&'static str, u64>,
}

impl Coverage {
    pub(crate) fn count(&mut self, event: &'static str) {
        *self.events.entry(event).or_default() += 1;
    }

    pub(crate) fn ended(&mut self, kind: Kind, status: String) {
        *self
            .faults
            .entry(kind)
            .or_default()
            .entry(status)
            .or_default() += 1;
    }

    pub(crate) fn of(&self, event: &str) -> u64 {
        self.events.get(event).copied().unwrap_or_default()
    }

    pub(crate) fn add(&mut self, other: Self) {
        for (kind, statuses) in other.faults {
            for (status, count) in statuses {
                *self
                    .faults
                    .entry(kind)
                    .or_default()
                    .entry(status)
                    .or_default() += count;
            }
        }
        for (label, count) in other.crashes {
            *self.crashes.entry(label).or_default() += count;
        }
        for (event, count) in other.events {
            *self.events.entry(event).or_default() += count;
        }
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (event, count) in &self.events {
            writeln!(f, "{count:>9}  {event}")?;
        }
        for (label, count) in &self.crashes {
            writeln!(f, "{count:>9}  crashes {label}")?;
        }
        for (kind, statuses) in &self.faults {
            let all: u64 = statuses.values().sum();
            writeln!(f, "{all:>9}  {kind:?} {statuses:?}")?;
        }
        Ok(())
    }
}
