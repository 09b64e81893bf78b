//! The events that start a run: `EventBridge`'s envelopes and plain options.

use serde_json::{Map, Value};

use crate::settings::{ConfigError, EventOptions};

/// The fields of an envelope
/// (<https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-events-structure.html>).
const ENVELOPE: [&str; 10] = [
    "version",
    "id",
    "detail-type",
    "source",
    "account",
    "time",
    "region",
    "resources",
    "detail",
    "replay-name",
];

/// What an event may say.
pub const OPTIONS: [&str; 7] = [
    "dry_run",
    "prefix",
    "after",
    "up_to",
    "min_age",
    "max_delete",
    "max_orphan_percent",
];

/// The options that an event asks for: those in an envelope's `detail` (a rule's event, or
/// the one that Scheduler sends without an input, whose `detail` is the text `"{}"`), or the
/// event itself.
///
/// # Errors
/// Anything that is not an object of known options with values of their types.
pub fn options(event: &Value) -> Result<EventOptions, ConfigError> {
    let Value::Object(fields) = event else {
        return Err(ConfigError::new(
            "event",
            format!(
                "{} is not an object of options, like {{}} or {{\"dry_run\": true}}",
                kind(event)
            ),
        ));
    };
    if fields.contains_key("detail-type") && fields.contains_key("detail") {
        return in_envelope(fields);
    }
    parse(fields)
}

fn in_envelope(fields: &Map<String, Value>) -> Result<EventOptions, ConfigError> {
    if let Some(unknown) = fields
        .keys()
        .find(|name| !ENVELOPE.contains(&name.as_str()))
    {
        return Err(ConfigError::new(
            "event",
            format!(
                "{unknown:?} is not a field of an EventBridge event; options belong into `detail`"
            ),
        ));
    }
    match &fields["detail"] {
        Value::String(text) => match serde_json::from_str(text) {
            Ok(Value::Object(detail)) => parse(&detail),
            _ => Err(ConfigError::new(
                "detail",
                "its text is not an object of options, like {} or {\"dry_run\": true}",
            )),
        },
        Value::Object(detail) => parse(detail),
        other => Err(ConfigError::new(
            "detail",
            format!(
                "{} is not an object of options, like {{}} or {{\"dry_run\": true}}",
                kind(other)
            ),
        )),
    }
}

fn parse(fields: &Map<String, Value>) -> Result<EventOptions, ConfigError> {
    let mut options = EventOptions::default();
    for (name, value) in fields {
        // An explicit null is no value of any option: whoever sent it meant something.
        let wrong =
            |expected: &str| ConfigError::new(name.as_str(), format!("{value} is not {expected}"));
        let text = || value.as_str().map(str::to_owned);
        match name.as_str() {
            "dry_run" => {
                options.dry_run = Some(value.as_bool().ok_or_else(|| wrong("the boolean true"))?);
            }
            "prefix" => {
                options.prefix = Some(text().ok_or_else(|| wrong("a text like \"images\""))?);
            }
            "after" => {
                options.after = Some(text().ok_or_else(|| wrong("a key"))?);
            }
            "up_to" => {
                options.up_to = Some(text().ok_or_else(|| wrong("a key"))?);
            }
            "min_age" => {
                options.min_age = Some(text().ok_or_else(|| wrong("a text like \"24h\""))?);
            }
            "max_delete" => {
                options.max_delete = Some(
                    value
                        .as_u64()
                        .ok_or_else(|| wrong("a whole number, at least 0"))?,
                );
            }
            "max_orphan_percent" => {
                options.max_orphan_percent = Some(
                    value
                        .as_f64()
                        .ok_or_else(|| wrong("a number from 0 to 100"))?,
                );
            }
            _ => {
                return Err(ConfigError::new(
                    "event",
                    format!(
                        "{name:?} is not an option; an event may say {}",
                        OPTIONS.join(", ")
                    ),
                ));
            }
        }
    }
    Ok(options)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_known_event_is_understood() {
        let dry = EventOptions {
            dry_run: Some(true),
            ..EventOptions::default()
        };
        let envelope = |detail: Value| {
            json!({
                "version": "0", "id": "53dc4d37-cffa-4f76-80c9-8b7d4a4d2eaa", "detail-type": "Scheduled Event", "source": "aws.events",
                "account": "123456789012", "time": "2026-11-23T00:00:00Z", "region": "us-east-1",
                "resources": ["arn:aws:events:us-east-1:123456789012:rule/nightly"], "detail": detail,
            })
        };
        for (event, expected) in [
            (json!({}), EventOptions::default()),
            (json!({"dry_run": true}), dry.clone()),
            (envelope(json!({})), EventOptions::default()),
            (envelope(json!({"dry_run": true})), dry.clone()),
            (envelope(json!("{}")), EventOptions::default()),
            (envelope(json!("{\"dry_run\": true}")), dry.clone()),
        ] {
            assert_eq!(options(&event).unwrap(), expected, "{event}");
        }
        let all = json!({"dry_run": true, "prefix": "a", "after": "a/b", "up_to": "a/c", "min_age": "2d", "max_delete": 5, "max_orphan_percent": 2.5});
        assert_eq!(
            options(&all).unwrap(),
            EventOptions {
                prefix: Some("a".into()),
                after: Some("a/b".into()),
                up_to: Some("a/c".into()),
                min_age: Some("2d".into()),
                max_delete: Some(5),
                max_orphan_percent: Some(2.5),
                ..dry
            }
        );
    }

    #[test]
    fn anything_else_is_refused() {
        for event in [
            json!(null),
            json!([]),
            json!("{}"),
            json!(1),
            json!(true),
            json!({"dryrun": true}),
            json!({"dry-run": true}),
            json!({"dry_run": "true"}),
            json!({"dry_run": 1}),
            json!({"dry_run": null}),
            json!({"bucket": "other"}),
            json!({"max_delete": -1}),
            json!({"max_delete": 1.5}),
            json!({"max_delete": "1"}),
            json!({"min_age": 24}),
            json!({"detail": {"dry_run": true}}),
            json!({"detail-type": "x", "detail": null}),
            json!({"detail-type": "x", "detail": "nonsense"}),
            json!({"detail-type": "x", "detail": "[]"}),
            json!({"detail-type": "x", "detail": {"dryrun": true}}),
            json!({"detail-type": "x", "detail": {}, "dry_run": true}),
            json!({"Records": [{"eventSource": "aws:s3"}]}),
        ] {
            assert!(options(&event).is_err(), "{event}");
        }
    }
}
