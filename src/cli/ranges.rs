//! `ranges`: where to cut a scope for a distributed run.

use std::io::Write as _;

use anyhow::Context as _;
use clap::Args;

use super::flags::RunArgs;
use super::{OrDefault as _, settings};
use crate::chain::chain;
use crate::key::{KeyRange, escape_json};
use crate::run::ranges_in;
use crate::s3;
use crate::world::Production;

/// For `--help`.
pub(super) const EXAMPLES: &str = "\
As JSON, each line is the event of one run over its part of the keys; together they are the
whole scope. The template's state machine reads them from the ledger:
    orphan-sweeper ranges --parts 16 --bucket pictures --prefix images > ranges.json
    aws s3 cp ranges.json s3://LEDGER/ledger/ranges.json
Cut anew when the parts have become uneven: a range that was never swept before has no earlier
run that it could be compared with.";

/// Flags of `ranges`.
#[derive(Args)]
pub(super) struct RangesArgs {
    /// How many ranges, at most
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1_000))]
    parts: u16,
    #[command(flatten)]
    run: RunArgs,
}

pub(super) async fn ranges(args: RangesArgs) -> anyhow::Result<u8> {
    let settings = settings(&args.run, true)?;
    let client = s3::connect().await;
    let world = Production::new(&settings, &client);
    let ranges = ranges_in(&world, &settings, usize::from(args.parts))
        .await
        .map_err(|error| anyhow::Error::msg(chain(&error)))?;
    let printed = if args.run.output.or_default().is_json() {
        events(&ranges)?
    } else {
        ranges.iter().map(in_words).collect::<Vec<_>>().join("\n")
    };
    writeln!(std::io::stdout(), "{printed}").context("could not write to standard output")?;
    Ok(0)
}

/// A list of events, one a line.
fn events(ranges: &[KeyRange]) -> serde_json::Result<String> {
    let lines: Vec<String> = ranges
        .iter()
        .map(|range| serde_json::to_string(range).map(|line| escape_json(&line)))
        .collect::<Result<_, _>>()?;
    Ok(format!("[\n{}\n]", lines.join(",\n")))
}

fn in_words(range: &KeyRange) -> String {
    let after = range.after.as_ref().map(|key| format!("after {key}"));
    let up_to = range.up_to.as_ref().map(|key| format!("up to {key}"));
    let bounds: Vec<String> = after.into_iter().chain(up_to).collect();
    if bounds.is_empty() {
        "all keys".to_owned()
    } else {
        bounds.join(" ")
    }
}
