//! The log on standard error.

use std::io::IsTerminal as _;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::filter::{EnvFilter, Targets};
use tracing_subscriber::fmt::format;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::key::escape;
use crate::postgres::TALKATIVE;

/// Logs what `RUST_LOG` asks for, or else this.
pub(super) fn to_stderr(otherwise: &str) {
    let chosen = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(otherwise));
    // What S3, a database or a key say must not break a line, nor drive a terminal.
    let fields = format::debug_fn(|writer, field, value| {
        let value = escape(&format!("{value:?}"));
        if field.name() == "message" {
            write!(writer, "{value}")
        } else {
            write!(writer, "{}={value}", field.name())
        }
    });
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .fmt_fields(fields.delimited(" "));
    tracing_subscriber::registry()
        .with(chosen)
        .with(safe())
        .with(lines)
        .init();
}

/// At the level of traces the libraries below write requests and answers down, with session
/// tokens and signatures: that deep only this program's own words go, whatever is asked for.
fn safe() -> Targets {
    Targets::new()
        .with_default(LevelFilter::DEBUG)
        .with_target("orphan_sweeper", LevelFilter::TRACE)
        .with_target(TALKATIVE, LevelFilter::OFF)
}
