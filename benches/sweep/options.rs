//! What the bench can be told.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Measures whole runs of orphan-sweeper, and of what merely lists, on the same endpoint.
#[derive(Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "they are flags")]
pub(crate) struct Options {
    /// Objects in the bucket, a tenth of them orphans; 5000000 and 10000000 want minutes
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) keys: u64,
    /// How often each subject is measured, in turn with the others
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// The latency of a request, measured besides none at all
    #[arg(long, value_name = "MS", default_value_t = 50)]
    pub(crate) latency: u64,
    /// Measure this program and not the one that was built with the bench
    #[arg(long, value_name = "PATH")]
    pub(crate) binary: Option<PathBuf>,
    /// Leave out s5cmd, rclone and aws, each of which is otherwise measured once
    #[arg(long)]
    pub(crate) without_tools: bool,
    /// Leave out the throttled endpoint, which takes a minute
    #[arg(long)]
    pub(crate) without_throttle: bool,
    /// Measure memory with ten times the keys, too
    #[arg(long)]
    pub(crate) growth: bool,
    /// Keep endpoint and database up until Enter, and say how to reach them (for profilers)
    #[arg(long)]
    pub(crate) serve: bool,
    /// Fail when a goal is missed by more than a third, of those that need no other tool
    #[arg(long)]
    pub(crate) check: bool,
    /// What `cargo bench` passes
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
    /// Parts that run as processes of their own
    #[command(subcommand)]
    pub(crate) part: Option<Part>,
}

/// A hidden mode of the bench's program.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Part {
    /// The synthetic endpoint.
    #[command(hide = true)]
    Endpoint {
        /// Objects in the bucket.
        keys: u64,
    },
    /// A bare listing with the AWS SDK.
    #[command(hide = true)]
    SdkListing {
        /// Objects in the bucket.
        keys: u64,
        /// Whether each shard is a task, to be read on any core.
        #[arg(long)]
        spawn: bool,
    },
}
