//! The whole story on servers of its own.

/// Runs the demo.
///
/// # Errors
/// Anything that is not as the story says.
pub async fn run(keep: bool, serve: bool) -> anyhow::Result<()> {
    let _ = (keep, serve);
    anyhow::bail!("not here yet")
}
