//! Results for people.

use std::io::{self, Write};

use indicatif::{HumanBytes, HumanCount};

use crate::doctor::Finding;
use crate::key::escape;
use crate::mention::Mention;
use crate::pages::figure;
use crate::run::Report;
use crate::summary::{Counts, More, Refusal, Status, Summary, UploadCounts};

/// Writes the answer of a run.
pub(crate) fn summary(to: &mut impl Write, report: &Report) -> io::Result<()> {
    let Report {
        summary, refusals, ..
    } = report;
    writeln!(to, "{}", escape(&headline(summary)))?;
    writeln!(to)?;
    counts(to, &summary.counts)?;
    more(to, summary)?;
    write_held_back(to, summary)?;
    for refusal in refusals {
        writeln!(to)?;
        write_refusal(to, refusal)?;
    }
    if !summary.errors.is_empty() {
        writeln!(to)?;
    }
    for problem in &summary.errors {
        let about = problem
            .key
            .as_ref()
            .map_or_else(String::new, |key| format!("{key}: "));
        writeln!(
            to,
            "{about}{}: {}",
            escape(&problem.code),
            escape(&problem.message)
        )?;
    }
    writeln!(to)?;
    if let Some(cutoff) = summary.cutoff {
        writeln!(to, "cutoff  {cutoff}")?;
    }
    writeln!(to, "run     {}", summary.run_id)?;
    writeln!(to, "report  {}", escape(&summary.report))
}

/// Writes what a run counted.
pub(super) fn counts(to: &mut impl Write, counts: &Counts) -> io::Result<()> {
    for (word, count, note) in [
        ("listed", counts.listed, Some(counts.listed_bytes)),
        ("  referenced", counts.referenced, None),
        ("  young", counts.young, None),
        ("  out of scope", counts.out_of_scope, None),
        ("  orphans", counts.orphans, Some(counts.orphan_bytes)),
        ("    deleted", counts.deleted, Some(counts.deleted_bytes)),
        ("    gone", counts.gone, None),
        ("    spared", counts.spared, None),
        ("    failed", counts.failed, None),
        ("    unknown", counts.unknown, None),
        ("    deferred", counts.deferred, None),
        ("references", counts.references, None),
        ("  dangling", counts.dangling, None),
    ] {
        let bytes = note.map_or_else(String::new, |bytes| format!("  {}", HumanBytes(bytes)));
        writeln!(to, "{word:<16}{:>14}{bytes}", HumanCount(count).to_string())?;
    }
    Ok(())
}

/// Which command follows.
pub(super) fn way_on(to: &mut impl Write, summary: &Summary) -> io::Result<()> {
    let run_id = summary.run_id;
    if summary.status == Status::DryRun && summary.counts.orphans > 0 {
        writeln!(
            to,
            "apply   read plan.jsonl there, then `orphan-sweeper apply {run_id}` with the same --report"
        )?;
    }
    if summary.more.recoverable_bytes > 0 {
        writeln!(
            to,
            "undo    `orphan-sweeper restore {run_id}` with the same --report"
        )?;
    }
    Ok(())
}

/// What became of the bytes, and what else lies there.
fn more(to: &mut impl Write, summary: &Summary) -> io::Result<()> {
    let More {
        // Told in the first line.
        range: _,
        freed_bytes,
        recoverable_bytes,
        kept_bytes,
        recoverable_days,
        uploads,
        rechecked: _,
        applied,
        // Told by themselves, below.
        held_back: _,
        held_back_folders: _,
        held_back_mentions: _,
    } = &summary.more;
    if summary.counts.deleted > 0 {
        writeln!(
            to,
            "{:<16}{:>14}",
            "freed now",
            HumanBytes(*freed_bytes).to_string()
        )?;
        let until = match recoverable_days {
            _ if *recoverable_bytes == 0 => String::new(),
            Some(days) => format!("  by `restore`, for {days} days at least"),
            None => "  by `restore`; no rule that frees them later is known".to_owned(),
        };
        writeln!(
            to,
            "{:<16}{:>14}{until}",
            "recoverable",
            HumanBytes(*recoverable_bytes).to_string()
        )?;
        let told = freed_bytes + recoverable_bytes + kept_bytes;
        for (word, bytes, note) in [
            (
                "kept",
                *kept_bytes,
                "below delete markers that nothing shows to be the run's; to be copied back by hand, as `restore` tells",
            ),
            (
                "the rest",
                summary.counts.deleted_bytes.saturating_sub(told),
                "current again, or nobody could tell; `restore` with --dry-run looks again",
            ),
        ] {
            if bytes > 0 {
                let bytes = HumanBytes(bytes).to_string();
                writeln!(to, "{word:<16}{bytes:>14}  {note}")?;
            }
        }
    }
    if let Some(uploads) = uploads.filter(|uploads| uploads.found > 0) {
        incomplete(to, &uploads)?;
    }
    if let Some(applied) = applied {
        writeln!(to, "{:<16}{applied}", "applied")?;
    }
    Ok(())
}

/// Uploads that were never completed.
fn incomplete(to: &mut impl Write, uploads: &UploadCounts) -> io::Result<()> {
    write!(
        to,
        "{:<16}{:>14}  never completed, {} of them older than the cutoff",
        "uploads",
        HumanCount(uploads.found).to_string(),
        HumanCount(uploads.old)
    )?;
    if uploads.measured > 0 {
        let some = if uploads.measured < uploads.old {
            " at least"
        } else {
            ""
        };
        write!(to, " with{some} {}", HumanBytes(uploads.bytes))?;
    }
    if uploads.named > 0 {
        write!(
            to,
            "; {} left alone, a row names their key",
            HumanCount(uploads.named)
        )?;
    }
    let &UploadCounts {
        named,
        aborted,
        gone,
        failed,
        ..
    } = uploads;
    for (count, became) in [
        (aborted, "aborted"),
        (gone, "gone meanwhile"),
        (failed, "not confirmed"),
    ] {
        if count > 0 {
            write!(to, "; {} {became}", HumanCount(count))?;
        }
    }
    let left = uploads.old.saturating_sub(named + aborted + gone + failed);
    if left > 0 {
        write!(
            to,
            "; {} left (--abort-uploads, at most --max-delete)",
            HumanCount(left)
        )?;
    }
    writeln!(to)
}

fn headline(summary: &Summary) -> String {
    let place = if summary.prefix.as_str().is_empty() {
        summary.bucket.clone()
    } else {
        format!("{}/{}", summary.bucket, summary.prefix)
    };
    let seconds = summary.duration_ms / 1_000;
    let tenths = summary.duration_ms % 1_000 / 100;
    let what = match summary.status {
        Status::Completed => "swept",
        Status::DryRun => "planned, nothing deleted:",
        Status::Refused => "refused, nothing deleted:",
        Status::Incomplete => "incomplete:",
        Status::Failed => "failed:",
    };
    format!(
        "{what} {place}{} in {seconds}.{tenths} s",
        summary.more.range
    )
}

fn write_held_back(to: &mut impl Write, summary: &Summary) -> io::Result<()> {
    if summary.more.held_back == 0 {
        return Ok(());
    }
    let More {
        held_back,
        held_back_folders: folders,
        held_back_mentions: mentions,
        ..
    } = &summary.more;
    writeln!(to)?;
    writeln!(to, "held back: {} of the deferred", HumanCount(*held_back))?;
    if !folders.is_empty() {
        writeln!(
            to,
            "  because nothing in their folder is referenced; if that is meant, let them go with"
        )?;
        writeln!(to, "  --allow-unreferenced-folder:")?;
    }
    for held in folders {
        let orphans = HumanCount(held.orphans).to_string();
        writeln!(to, "  {orphans:>12} in {}", held.folder)?;
    }
    if !mentions.is_empty() {
        writeln!(
            to,
            "  because a name mentions them that means something else: let the references query"
        )?;
        writeln!(
            to,
            "  yield the key (or the object's URL), or leave that row out:"
        )?;
    }
    for Mention { key, name } in mentions {
        writeln!(to, "  {key} in {name}")?;
    }
    Ok(())
}

fn write_refusal(to: &mut impl Write, refusal: &Refusal) -> io::Result<()> {
    writeln!(
        to,
        "guard {}: {} (limit {})",
        refusal.guard,
        figure(refusal.value),
        figure(refusal.limit)
    )?;
    writeln!(to, "  {}", escape(&refusal.hint))?;
    for example in &refusal.examples {
        writeln!(to, "  for example {example}")?;
    }
    Ok(())
}

/// Writes what the doctor found.
pub(super) fn findings(to: &mut impl Write, findings: &[Finding]) -> io::Result<()> {
    for finding in findings {
        writeln!(
            to,
            "{:<8} {:<12} {}",
            finding.verdict.word(),
            finding.about,
            escape(&finding.message)
        )?;
    }
    Ok(())
}
