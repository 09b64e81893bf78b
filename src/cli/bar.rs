//! Progress on a terminal; nothing elsewhere.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressStyle};

use crate::progress::Progress;

/// A line that tells how far the run is.
pub(super) struct Bar(Option<(ProgressBar, tokio::task::JoinHandle<()>)>);

/// Shows the line while the run goes on, if a person can see it.
pub(super) fn show(progress: &Arc<Progress>) -> Bar {
    if !std::io::stderr().is_terminal() {
        return Bar(None);
    }
    let bar = ProgressBar::new_spinner().with_style(
        ProgressStyle::with_template("{spinner} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    let (shown, progress, began) = (bar.clone(), Arc::clone(progress), Instant::now());
    let refresh = tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        loop {
            tick.tick().await;
            shown.set_message(line(&progress, began.elapsed()));
            shown.tick();
        }
    });
    Bar(Some((bar, refresh)))
}

fn line(progress: &Progress, elapsed: Duration) -> String {
    let (listed, orphans, deleted) = (progress.listed(), progress.orphans(), progress.deleted());
    let rate = u128::from(listed) * 1_000 / elapsed.as_millis().max(1);
    let rate = HumanCount(u64::try_from(rate).unwrap_or(u64::MAX));
    format!(
        "{} listed ({rate}/s), {} orphans, {} deleted",
        HumanCount(listed),
        HumanCount(orphans),
        HumanCount(deleted)
    )
}

impl Bar {
    /// Takes the line away.
    pub(super) fn finish(self) {
        if let Some((bar, refresh)) = self.0 {
            refresh.abort();
            bar.finish_and_clear();
        }
    }
}
