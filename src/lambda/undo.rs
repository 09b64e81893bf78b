//! The second function of the same program: it undoes a run, with a role of its own.

use aws_sdk_s3::Client;
use lambda_runtime::{Diagnostic, LambdaEvent};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::{config, last_moment, named};
use crate::chain::chain;
use crate::key::{ObjectKey, Prefix};
use crate::restore::{Restoration, Wish};
use crate::settings::{ConfigError, RestoreSettings};
use crate::stop::Stop;
use crate::undo::{UndoError, undo};

/// How the function is configured to be this one: its handler.
pub(super) const HANDLER: &str = "restore";

/// What an event asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    run_id: Uuid,
    #[serde(default)]
    keys: Vec<Box<str>>,
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    dry_run: bool,
}

pub(super) async fn answer(
    settings: Result<&RestoreSettings, &ConfigError>,
    client: &Client,
    event: &LambdaEvent<Value>,
) -> Result<Restoration, Diagnostic> {
    let settings = settings.map_err(config)?;
    let request = Request::deserialize(&event.payload).map_err(|error| {
        config(&ConfigError::new(
            "event",
            format!(
                "{error}; it is like {{\"run_id\": \"0199c0de-…\", \"prefix\": \"images\", \"keys\": [], \"dry_run\": true}}"
            ),
        ))
    })?;
    let wish = Wish {
        keys: request.keys.into_iter().map(ObjectKey::new).collect(),
        prefix: Prefix::folder(&request.prefix),
        dry_run: settings.dry_run || request.dry_run,
    };
    let stop = Stop::at(last_moment(event.context.deadline));
    undo(settings, client, request.run_id, &wish, &stop)
        .await
        .map_err(|error| {
            let kind = match &error {
                UndoError::Config(error) => return config(error),
                UndoError::Bucket(_) | UndoError::Unversioned(_) => "Storage",
                UndoError::Archive(_) | UndoError::Spool(_) | UndoError::Record(_) => "Ledger",
            };
            named(kind, chain(&error))
        })
}
