//! The function's log: a JSON object a line, by the names that tools look for.

use std::fmt;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::chain::unsigned;
use crate::key::escape_json;
use crate::postgres::TALKATIVE;

/// What every line says of the invocation under way. A sandbox serves one at a time.
#[derive(Debug, Clone, Default)]
pub(super) struct Invocation {
    pub(super) request_id: String,
    pub(super) trace_id: Option<String>,
    pub(super) cold_start: bool,
}

static UNDER_WAY: Mutex<Option<Invocation>> = Mutex::new(None);

/// From now on lines are of this invocation.
pub(super) fn begin(invocation: Invocation) {
    *UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner) = Some(invocation);
}

/// Logs to standard output.
///
/// # Panics
/// When something logs already.
pub(super) fn to_stdout() {
    tracing_subscriber::registry().with(Lines).init();
}

/// Writes a line that is no event, like the metrics.
pub(super) fn write(message: &str, fields: Map<String, Value>) {
    let mut line = begun(tracing::Level::INFO, "orphan_sweeper::metrics");
    line.insert("message".to_owned(), json!(message));
    line.extend(fields);
    print(&line);
}

fn begun(level: tracing::Level, target: &str) -> Map<String, Value> {
    let mut line = Map::new();
    line.insert("timestamp".to_owned(), json!(Timestamp::now().to_string()));
    line.insert("level".to_owned(), json!(level.as_str()));
    line.insert("target".to_owned(), json!(target));
    if let Some(invocation) = &*UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner) {
        line.insert("cold_start".to_owned(), json!(invocation.cold_start));
        line.insert(
            "function_request_id".to_owned(),
            json!(invocation.request_id),
        );
        if let Some(trace_id) = &invocation.trace_id {
            line.insert("xray_trace_id".to_owned(), json!(trace_id));
        }
    }
    line
}

fn print(line: &Map<String, Value>) {
    if let Ok(text) = serde_json::to_string(line) {
        let text = escape_json(&text) + "\n";
        // Nobody is left to tell that nobody listens.
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
    }
}

struct Lines;

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= tracing::Level::INFO && !metadata.target().starts_with(TALKATIVE)
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::INFO)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut line = begun(*metadata.level(), metadata.target());
        event.record(&mut Fields(&mut line));
        print(&line);
    }
}

/// An event's fields, beside the line's own.
struct Fields<'line>(&'line mut Map<String, Value>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            // Of a library it may be what a server said.
            self.put(field, json!(unsigned(value)));
        } else {
            self.put(field, json!(value));
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, json!(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, json!(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, json!(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, json!(value));
    }
}

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: Value) {
        // Not ours to overwrite: what a library calls `level` is not the line's.
        self.0.entry(field.name()).or_insert(value);
    }
}
