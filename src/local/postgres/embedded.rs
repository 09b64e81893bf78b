//! The fallback: PostgreSQL compiled to WebAssembly, in a program of its own.

use std::path::PathBuf;

use super::{PostgresError, PostgresServer, Result};

/// To be written.
pub(super) async fn start(
    _data_dir: PathBuf,
    _remove: bool,
    _reason: &str,
) -> Result<PostgresServer> {
    Err(PostgresError::EmbeddedSource {
        path: PathBuf::new(),
    })
}
