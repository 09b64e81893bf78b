//! The command-line program.

use std::process::ExitCode;

fn main() -> ExitCode {
    orphan_sweeper::cli::main()
}
