//! Text within a statement.

/// A text as an SQL literal; the transaction's `standard_conforming_strings` does not
/// matter to this form.
pub(super) fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
