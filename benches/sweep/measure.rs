//! A whole process, measured: by the kernel's own account when it ends.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use wait4::Wait4 as _;

/// What a process took.
#[derive(Debug)]
pub(crate) struct Measured {
    /// From its start to its end.
    pub(crate) wall: Duration,
    /// On all cores, in user code and in the kernel for it.
    pub(crate) cpu: Duration,
    /// Most memory that it held at once, in bytes.
    pub(crate) peak: u64,
    /// What it printed.
    pub(crate) output: File,
    /// When it was started, in milliseconds since 1970.
    pub(crate) started_ms: u64,
}

/// Runs a command to its end, which must be a success.
pub(crate) fn measure(command: &mut Command) -> anyhow::Result<Measured> {
    let mut output = tempfile::tempfile()?;
    let mut errors = tempfile::tempfile()?;
    command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(errors.try_clone()?);
    let started_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let started = Instant::now();
    let ended = command
        .spawn()
        .with_context(|| format!("could not start {command:?}"))?
        .wait4()?;
    let wall = started.elapsed();
    output.seek(SeekFrom::Start(0))?;
    if !ended.status.success() {
        errors.seek(SeekFrom::Start(0))?;
        anyhow::bail!(
            "{command:?} ended with {}:\n{}{}",
            ended.status,
            std::io::read_to_string(&errors)?,
            std::io::read_to_string(&output)?
        );
    }
    Ok(Measured {
        wall,
        cpu: ended.rusage.utime + ended.rusage.stime,
        peak: ended.rusage.maxrss,
        output,
        started_ms: u64::try_from(started_ms)?,
    })
}
