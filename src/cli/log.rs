//! The log on standard error.

use std::io::IsTerminal as _;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::filter::{EnvFilter, Targets};
use tracing_subscriber::fmt::{MakeWriter, format};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::chain::unsigned;
use crate::key::escape;
use crate::postgres::TALKATIVE;

/// Logs what `RUST_LOG` asks for, or else this.
pub(super) fn to_stderr(otherwise: &str) {
    let chosen = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(otherwise));
    let lines = lines(std::io::stderr, std::io::stderr().is_terminal());
    tracing_subscriber::registry()
        .with(chosen)
        .with(safe())
        .with(lines)
        .init();
}

/// One line an event: what S3, a database or a key say must not break it, nor drive a terminal.
fn lines<S, W>(writer: W, colours: bool) -> impl Layer<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let fields = format::debug_fn(|writer, field, value| {
        let value = format!("{value:?}");
        if field.name() == "message" {
            // Of a library it may be what a server said.
            write!(writer, "{}", escape(&unsigned(&value)))
        } else {
            write!(writer, "{}={}", field.name(), escape(&value))
        }
    });
    tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(colours)
        .fmt_fields(fields.delimited(" "))
}

/// At the level of traces the libraries below write requests and answers down, with session
/// tokens and signatures: that deep only this program's own words go, whatever is asked for.
fn safe() -> Targets {
    Targets::new()
        .with_default(LevelFilter::DEBUG)
        .with_target("orphan_sweeper", LevelFilter::TRACE)
        .with_target(TALKATIVE, LevelFilter::OFF)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn an_event_is_one_line_that_does_nothing() {
        let written = tempfile::NamedTempFile::new().unwrap();
        let writer = Arc::new(File::create(written.path()).unwrap());
        let logging = tracing_subscriber::registry().with(lines(writer, false));
        tracing::subscriber::with_default(logging, || {
            let said = "a\n\u{1b}[2J\u{9b}\u{202e}";
            tracing::warn!(shown = %said, text = said, "heard {said}");
        });
        let text = std::fs::read_to_string(written.path()).unwrap();
        let shown = r"a\n\u{1b}[2J\u{9b}\u{202e}";
        assert!(
            text.contains(&format!("heard {shown} shown={shown} text=")),
            "{text:?}"
        );
        assert_eq!(text.lines().count(), 1, "{text:?}");
        assert_eq!(
            text.trim_end_matches('\n'),
            escape(text.trim_end_matches('\n'))
        );
    }
}
