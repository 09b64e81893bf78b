//! A hunt for the lost image.
#![cfg(feature = "demo")]

mod actors;
mod bucket;
mod coverage;
mod database;
mod faults;
mod history;
mod rng;
mod sim;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use coverage::Coverage;
use faults::TABLE;
use history::live;
use sim::{Violation, Weakness};

/// Histories of `cargo test`.
const HISTORIES: u64 = 20_000;

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}, not a number")),
    )
}

/// Lives through `count` histories on all cores, and stops at the first that breaks the
/// promise.
fn hunt(count: u64, weakness: Weakness) -> (Coverage, Option<(u64, Vec<Violation>)>) {
    let next = AtomicU64::new(0);
    let found = Mutex::new((Coverage::default(), None::<(u64, Vec<Violation>)>));
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                let mut coverage = Coverage::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count {
                        break;
                    }
                    let ended = live(seed, weakness, false);
                    coverage.add(ended.coverage);
                    if !ended.violations.is_empty() {
                        next.store(count, Ordering::Relaxed);
                        let mut found = found.lock().expect("no thread panicked");
                        if found.1.as_ref().is_none_or(|(first, _)| seed < *first) {
                            found.1 = Some((seed, ended.violations));
                        }
                        break;
                    }
                }
                found.lock().expect("no thread panicked").0.add(coverage);
            });
        }
    });
    found.into_inner().expect("no thread panicked")
}

#[test]
fn no_history_loses_a_live_image() {
    if let Some(seed) = variable("SWEEPER_SIM_SEED") {
        let ended = live(seed, Weakness::None, true);
        for line in &ended.trace {
            println!("{line}");
        }
        assert!(
            ended.violations.is_empty(),
            "seed {seed}: {:#?}",
            ended.violations
        );
        return;
    }
    let count = variable("SWEEPER_SIM_SEEDS").unwrap_or(HISTORIES);
    let (coverage, broken) = hunt(count, Weakness::None);
    println!("{count} histories\n{coverage}");
    if let Some((seed, violations)) = broken {
        panic!(
            "the history of seed {seed} breaks the promise; replay it with\n\
             SWEEPER_SIM_SEED={seed} cargo test --test simulation no_history -- --nocapture\n{violations:#?}"
        );
    }
}
