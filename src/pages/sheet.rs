//! Each orphan of a run as a line of comma-separated values
//! (<https://www.rfc-editor.org/rfc/rfc4180>).
//!
//! Somebody opens it in a spreadsheet, where text that begins like a formula is one, and a key
//! may begin so: such text gets an apostrophe before it
//! (<https://owasp.org/www-community/attacks/CSV_Injection>). Every field stands in quotes, so
//! that a program that parts fields elsewhere sees no beginning within one. For programs of
//! your own `plan.jsonl` and `outcomes/` hold the keys byte for byte.

use std::borrow::Cow;
use std::io::{self, Write};

use csv::{QuoteStyle, Terminator, WriterBuilder};

use super::Pages;
use crate::key::escape;

/// The columns.
pub const COLUMNS: [&str; 7] = [
    "key",
    "size",
    "last_modified",
    "age_seconds",
    "etag",
    "outcome",
    "reason",
];

/// Writes every orphan of the run.
///
/// # Errors
/// Reading or writing.
pub fn write(to: &mut impl Write, pages: &mut Pages) -> io::Result<()> {
    let mut sheet = WriterBuilder::new()
        .quote_style(QuoteStyle::Always)
        .terminator(Terminator::CRLF)
        .from_writer(to);
    sheet.write_record(COLUMNS)?;
    let mut rows = pages.rows()?;
    while let Some(row) = rows.next_row()? {
        let orphan = &row.orphan;
        sheet.write_record([
            text(orphan.key.as_str()).as_ref(),
            &orphan.size.to_string(),
            &orphan.last_modified.to_string(),
            &row.age.as_secs().to_string(),
            &text(orphan.etag.as_str()),
            &text(&row.outcome),
            &text(&row.reason),
        ])?;
    }
    sheet.flush()
}

/// Text that is text in a spreadsheet, too.
fn text(text: &str) -> Cow<'_, str> {
    let shown = escape(text);
    let formula = |c: char| matches!(c, '=' | '+' | '-' | '@' | '＝' | '＋' | '－' | '＠');
    // Some programs take blanks away before they look.
    if shown.trim_start().starts_with(formula) {
        Cow::Owned(format!("'{shown}"))
    } else {
        Cow::Owned(shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_begins_like_a_formula() {
        for (given, shown) in [
            ("a=b.png", "a=b.png"),
            ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@SUM(1)", "'@SUM(1)"),
            ("\t=1", "\\t=1"),
            ("\r=1", "\\r=1"),
            ("\u{a0} =1", "'\u{a0} =1"),
            ("＝1", "'＝1"),
            ("\u{202e}=1", "\\u{202e}=1"),
            ("'=1", "'=1"),
            ("", ""),
        ] {
            assert_eq!(text(given), shown, "{given:?}");
        }
    }
}
