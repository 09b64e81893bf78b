//! The Lambda door: events in, the summary or a named error out.

mod log;
mod undo;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_s3::Client;
use jiff::Timestamp;
use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::chain::chain;
use crate::event;
use crate::metrics;
use crate::progress::Progress;
use crate::run::run;
use crate::s3;
use crate::settings::{ConfigError, RawSettings, RestoreSettings, Settings};
use crate::stop::Stop;
use crate::summary::Summary;

/// The most time that is kept back before the function's deadline, to end a window of
/// batches and write the summary.
const MARGIN: Duration = Duration::from_secs(30);

/// Serves invocations until the sandbox ends.
///
/// # Errors
/// The Runtime API cannot be reached.
pub async fn serve() -> Result<(), lambda_runtime::Error> {
    log_to_stdout();
    // Made once: a warm start reuses connections and credentials.
    let client = s3::connect().await;
    let raw = RawSettings::from_environment(std::env::vars_os());
    let (client, cold) = (&client, &AtomicBool::new(true));
    if std::env::var("_HANDLER").is_ok_and(|handler| handler == undo::HANDLER) {
        let settings = &raw.and_then(|raw| RestoreSettings::new(raw, None));
        let handler = async move |event: LambdaEvent<Value>| {
            begin(&event, cold);
            Box::pin(undo::answer(settings.as_ref(), client, &event)).await
        };
        return Box::pin(serve_by(handler)).await;
    }
    let settings = &raw.and_then(|raw| Settings::new(&raw, None));
    let handler = async move |event: LambdaEvent<Value>| {
        let cold_start = begin(&event, cold);
        Box::pin(answer(settings.as_ref(), client, &event, cold_start)).await
    };
    Box::pin(serve_by(handler)).await
}

/// Lines are of this event from now on. Whether it is the first of the sandbox.
fn begin(event: &LambdaEvent<Value>, cold: &AtomicBool) -> bool {
    let cold_start = cold.swap(false, Ordering::Relaxed);
    log::begin(log::Invocation {
        request_id: event.context.request_id.clone(),
        trace_id: event.context.xray_trace_id.clone(),
        cold_start,
    });
    cold_start
}

/// Logs to standard output, a JSON object a line.
///
/// # Panics
/// When something logs already.
pub fn log_to_stdout() {
    log::to_stdout();
}

/// Serves invocations by this handler, whose panics are answers, too.
///
/// # Errors
/// The Runtime API cannot be reached.
pub async fn serve_by<Answer: Serialize>(
    handler: impl AsyncFn(LambdaEvent<Value>) -> Result<Answer, Diagnostic>,
) -> Result<(), lambda_runtime::Error> {
    let handler = &handler;
    lambda_runtime::run(service_fn(async move |event| {
        Box::pin(handler(event)).await
    }))
    .await
}

async fn answer(
    settings: Result<&Settings, &ConfigError>,
    client: &Client,
    event: &LambdaEvent<Value>,
    cold_start: bool,
) -> Result<Summary, Diagnostic> {
    let settings = settings.map_err(config)?;
    let options = event::options(&event.payload).map_err(|error| config(&error))?;
    let settings = settings.tighten(&options).map_err(|error| config(&error))?;

    let stop = Stop::at(last_moment(event.context.deadline));
    let report = run(&settings, client, &stop, &Progress::default()).await;
    log::write(
        "metrics",
        metrics::embedded(&report.summary, cold_start, Timestamp::now()),
    );
    match report.error {
        None => Ok(report.summary),
        Some(error) => Err(named(
            error.kind(),
            format!(
                "{} (run {}, see {})",
                chain(&error),
                report.summary.run_id,
                report.summary.report
            ),
        )),
    }
}

fn config(error: &ConfigError) -> Diagnostic {
    tracing::error!(error = %error, "refused the configuration");
    named("Config", error.to_string())
}

fn named(error_type: &str, error_message: String) -> Diagnostic {
    Diagnostic {
        error_type: error_type.to_owned(),
        error_message,
    }
}

/// When to stop, for a deadline in milliseconds since 1970
/// (<https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>).
fn last_moment(deadline_ms: u64) -> Instant {
    let deadline = UNIX_EPOCH + Duration::from_millis(deadline_ms);
    let left = deadline
        .duration_since(SystemTime::now())
        .unwrap_or_default();
    Instant::now() + left.saturating_sub(MARGIN.min(left / 4))
}
