//! A run as one page that needs nothing beside itself: no script, no picture, no other file.
//!
//! It is well-formed XML, too, so that programs can read it.

use std::fmt::{self, Display};
use std::io::{self, Write};

use indicatif::{HumanBytes, HumanCount};

use super::{Pages, Told, age, figure, sign};
use crate::key::escape;

const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8884;--bad:#b3261e}\
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}\
table{border-collapse:collapse}th,td{padding:.2rem 1rem .2rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}\
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}.k{font-family:ui-monospace,monospace;overflow-wrap:anywhere}\
.bad{color:var(--bad)}.sum{font-variant-numeric:tabular-nums}thead th{position:sticky;top:0;background:Canvas}";

/// Text as a page may hold it: what a terminal must not see is escaped, and what a browser
/// would take for markup.
struct Shown<'text>(&'text str);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = escape(self.0)
            // No XML may hold these, not even escaped.
            .replace('\u{fffe}', "\\u{fffe}")
            .replace('\u{ffff}', "\\u{ffff}");
        f.write_str(&quick_xml::escape::escape(text))
    }
}

/// Writes the page.
///
/// # Errors
/// Reading or writing.
pub fn write(to: &mut impl Write, pages: &mut Pages) -> io::Result<()> {
    begin(to, pages)?;
    match &pages.told {
        Some(told) => summary(to, told)?,
        None => writeln!(
            to,
            "<p class=\"bad\">This run wrote no summary: it was killed, or goes on.</p>"
        )?,
    }
    dangling(to, pages)?;
    orphans(to, pages)?;
    writeln!(to, "</body>\n</html>")
}

fn begin(to: &mut impl Write, pages: &Pages) -> io::Result<()> {
    let run_id = pages.run_id;
    let status = pages
        .told
        .as_ref()
        .map_or("no summary", |told| &told.status);
    writeln!(
        to,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width\"/>\n<meta name=\"referrer\" content=\"no-referrer\"/>\n\
         <title>{} of {}: {}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
        run_id,
        Shown(&pages.scope()),
        Shown(status),
    )?;
    writeln!(
        to,
        "<h1>{}: {}</h1>",
        Shown(&pages.scope()),
        Shown(&status.replace('_', " "))
    )?;
    writeln!(to, "<table>")?;
    fact(to, "run", &run_id.to_string())?;
    if let Some(started_at) = pages.started_at() {
        fact(to, "started", &started_at.to_string())?;
    }
    if let Some(told) = &pages.told {
        if let Some(cutoff) = told.cutoff {
            fact(to, "cutoff", &cutoff.to_string())?;
        }
        let (seconds, ms) = (told.duration_ms / 1_000, told.duration_ms % 1_000);
        fact(to, "took", &format!("{seconds}.{ms:03} s"))?;
        if let Some(applied) = told.applied {
            fact(to, "applied the plan of", &applied.to_string())?;
        }
    }
    for restored in &pages.restored {
        fact(to, "restored", &restored.to_string())?;
    }
    fact(to, "ledger", &pages.place)?;
    writeln!(to, "</table>")
}

fn fact(to: &mut impl Write, name: &str, value: &str) -> io::Result<()> {
    writeln!(
        to,
        "<tr><th>{name}</th><td class=\"k\">{}</td></tr>",
        Shown(value)
    )
}

fn summary(to: &mut impl Write, told: &Told) -> io::Result<()> {
    let counts = &told.counts;
    writeln!(to, "<h2>Figures</h2>\n<table id=\"figures\">")?;
    for (name, count, bytes) in [
        ("listed", counts.listed, Some(counts.listed_bytes)),
        ("referenced", counts.referenced, None),
        ("young", counts.young, None),
        ("out of scope", counts.out_of_scope, None),
        ("orphans", counts.orphans, Some(counts.orphan_bytes)),
        ("deleted", counts.deleted, Some(counts.deleted_bytes)),
        ("gone", counts.gone, None),
        ("spared", counts.spared, None),
        ("failed", counts.failed, None),
        ("unknown", counts.unknown, None),
        ("deferred", counts.deferred, None),
        ("references", counts.references, None),
        ("dangling", counts.dangling, None),
    ] {
        let bytes = bytes.map_or_else(String::new, |bytes| HumanBytes(bytes).to_string());
        writeln!(
            to,
            "<tr><th>{name}</th><td class=\"n\">{}</td><td class=\"n\">{bytes}</td></tr>",
            HumanCount(count)
        )?;
    }
    writeln!(to, "</table>")?;
    for (name, value, parts) in told.sums() {
        let said: Vec<String> = parts
            .iter()
            .map(|(name, count)| format!("{} {name}", HumanCount(*count)))
            .collect();
        let sign = sign(value, &parts);
        let class = if sign == "=" { "sum" } else { "sum bad" };
        writeln!(
            to,
            "<p class=\"{class}\">{} {name} {sign} {}</p>",
            HumanCount(value),
            said.join(" + ")
        )?;
    }
    bytes(to, told)?;
    if let Some(refusal) = &told.refusal {
        writeln!(
            to,
            "<h2 class=\"bad\">Refused by {}</h2>\n<p>{} (limit {}): {}</p>\n<ul id=\"examples\">",
            Shown(&refusal.guard),
            figure(refusal.value),
            figure(refusal.limit),
            Shown(&refusal.hint)
        )?;
        for example in &refusal.examples {
            writeln!(to, "<li class=\"k\">{}</li>", Shown(example.as_str()))?;
        }
        writeln!(to, "</ul>")?;
    }
    held_back(to, told)?;
    if !told.errors.is_empty() {
        writeln!(
            to,
            "<h2 class=\"bad\">Problems</h2>\n<table id=\"problems\">"
        )?;
        for problem in &told.errors {
            let key = problem.key.as_ref().map_or("", |key| key.as_str());
            writeln!(
                to,
                "<tr><td class=\"k\">{}</td><td>{}</td><td>{}</td></tr>",
                Shown(key),
                Shown(&problem.code),
                Shown(&problem.message)
            )?;
        }
        writeln!(to, "</table>")?;
    }
    Ok(())
}

/// What is held back, and why.
fn held_back(to: &mut impl Write, told: &Told) -> io::Result<()> {
    if told.held_back == 0 {
        return Ok(());
    }
    writeln!(
        to,
        "<h2>Held back</h2>\n<p>{} of the deferred.</p>",
        HumanCount(told.held_back)
    )?;
    if !told.held_back_folders.is_empty() {
        writeln!(
            to,
            "<p>Because nothing in their folder is referenced. If that is meant, let them go with <code>--allow-unreferenced-folder</code>.</p>\n<table id=\"held_back\">"
        )?;
        for held in &told.held_back_folders {
            writeln!(
                to,
                "<tr><td class=\"k\">{}</td><td class=\"n\">{}</td></tr>",
                Shown(held.folder.as_str()),
                HumanCount(held.orphans)
            )?;
        }
        writeln!(to, "</table>")?;
    }
    if !told.held_back_mentions.is_empty() {
        writeln!(
            to,
            "<p>Because a name mentions them that means something else. Let the references query yield the key (or the object's URL), or leave that row out.</p>\n<table id=\"mentions\">"
        )?;
        for mention in &told.held_back_mentions {
            writeln!(
                to,
                "<tr><td class=\"k\">{}</td><td class=\"k\">{}</td></tr>",
                Shown(mention.key.as_str()),
                Shown(&mention.name)
            )?;
        }
        writeln!(to, "</table>")?;
    }
    Ok(())
}

/// What became of the bytes, where they are not simply free.
fn bytes(to: &mut impl Write, told: &Told) -> io::Result<()> {
    if told.recoverable_bytes > 0 {
        writeln!(
            to,
            "<p>{} could be brought back when the run ended: <code>orphan-sweeper restore</code> with this run's id.</p>",
            HumanBytes(told.recoverable_bytes)
        )?;
    }
    if told.kept_bytes > 0 {
        writeln!(
            to,
            "<p>{} lay below delete markers that nothing shows to be the run's: <code>orphan-sweeper restore</code> tells how a person copies them back.</p>",
            HumanBytes(told.kept_bytes)
        )?;
    }
    Ok(())
}

fn dangling(to: &mut impl Write, pages: &mut Pages) -> io::Result<()> {
    let mut next = pages.next_dangling()?;
    if next.is_none() {
        return Ok(());
    }
    writeln!(
        to,
        "<h2>References without an object</h2>\n<ul id=\"dangling\">"
    )?;
    while let Some(key) = next {
        writeln!(to, "<li class=\"k\">{}</li>", Shown(key.as_str()))?;
        next = pages.next_dangling()?;
    }
    writeln!(to, "</ul>")
}

fn orphans(to: &mut impl Write, pages: &mut Pages) -> io::Result<()> {
    writeln!(
        to,
        "<h2>Orphans</h2>\n<table id=\"orphans\">\n<thead><tr><th>key</th><th class=\"n\">size</th><th>written</th><th class=\"n\">age</th><th>outcome</th></tr></thead>\n<tbody>"
    )?;
    let mut rows = pages.rows()?;
    while let Some(row) = rows.next_row()? {
        let orphan = &row.orphan;
        let why = if row.reason.is_empty() {
            String::new()
        } else {
            format!(" ({})", row.reason)
        };
        writeln!(
            to,
            "<tr><td class=\"k\">{}</td><td class=\"n\">{}</td><td>{}</td><td class=\"n\">{}</td><td>{}{}</td></tr>",
            Shown(orphan.key.as_str()),
            HumanBytes(orphan.size),
            orphan.last_modified,
            age(row.age),
            Shown(&row.outcome),
            Shown(&why)
        )?;
    }
    writeln!(to, "</tbody>\n</table>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_xml_may_hold_is_shown_escaped() {
        let shown = Shown("a\u{fffe}\u{ffff}<\u{1b}").to_string();
        assert_eq!(shown, "a\\u{fffe}\\u{ffff}&lt;\\u{1b}");
    }

    #[test]
    fn a_sum_that_does_not_hold_is_not_written_as_one() {
        let parts = [("deleted", 1), ("deferred", 2)];
        assert_eq!((sign(3, &parts), sign(4, &parts)), ("=", "≠"));
    }
}
