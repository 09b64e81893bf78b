//! The fallback: PostgreSQL compiled to WebAssembly, in a program of its own.
//!
//! The program is a separate package, `src/local/embedded-postgres`, built on
//! first use: as a dependency its 400 crates would burden every build of the
//! sweeper. What it cannot do, tried on pglite-oxide 0.5.1: serve two
//! connections at once, heed `statement_timeout`, sort by ICU collations, or
//! load extensions. Each of its clusters is a copy of the same one, so all
//! have the same `system_identifier`.

use std::{
    fs,
    io::{self, BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Mutex, PoisonError, mpsc},
};

use serde::Deserialize;
use url::Url;

use super::{PostgresError, PostgresServer, Process, READY_LIMIT, Result, blocking, open_log};

/// Where the package was when this program was built.
const PACKAGE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/src/local/embedded-postgres/Cargo.toml"
);

/// The program, once this process has built it. Locked while it builds.
static PROGRAM: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Starts an embedded server on `data_dir`, an absolute path. `reason` tells
/// the user why it is not an installed one.
pub(super) async fn start(data_dir: PathBuf, remove: bool, reason: &str) -> Result<PostgresServer> {
    let reason = reason.to_owned();
    let server = blocking(move || {
        let program = program(&reason)?;
        serve(&program, &data_dir, remove)
    });
    server.await?.ready().await
}

/// Builds the program unless it is there already.
fn program(reason: &str) -> Result<PathBuf> {
    // A poisoned lock means that another build panicked; this one may not.
    let mut program = PROGRAM.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(program) = &*program {
        return Ok(program.clone());
    }
    let package = Path::new(PACKAGE);
    if !package.is_file() {
        return Err(PostgresError::EmbeddedSource {
            path: package.to_owned(),
        });
    }
    let target = target_folder().join("embedded-postgres");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--release", "--locked"])
        .arg("--message-format=json-render-diagnostics")
        .arg("--manifest-path")
        .arg(package)
        .arg("--target-dir")
        .arg(&target);
    if target.join("release").join("embedded-postgres").exists() {
        cargo.arg("--quiet");
    } else {
        eprintln!(
            "{reason}. Building an embedded PostgreSQL in {}, which takes 10 to 17 minutes the \
             first time. To avoid that, stop this and install PostgreSQL 13 to 18, for example \
             with `apt-get install postgresql`.",
            target.display()
        );
    }
    // Its progress goes to our standard error; Ctrl-C ends it, too.
    let output = cargo
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|source| PostgresError::Run {
            program: cargo.get_program().into(),
            source,
        })?;
    let built = executable(&output.stdout).filter(|_| output.status.success());
    let built = built.ok_or_else(|| PostgresError::Failed {
        program: "cargo build of the embedded PostgreSQL".to_owned(),
        how: output.status.to_string(),
        output: format!(
            "(see above; to go on without it, install PostgreSQL 13 to 18. It was built in {})",
            target.display()
        ),
    })?;
    *program = Some(built.clone());
    Ok(built)
}

/// One line of cargo's JSON; see "External tools" in the Cargo book.
#[derive(Deserialize)]
struct CargoMessage {
    executable: Option<PathBuf>,
}

/// The program that cargo says it built; its folder depends on settings.
fn executable(messages: &[u8]) -> Option<PathBuf> {
    messages
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            serde_json::from_slice::<CargoMessage>(line)
                .ok()?
                .executable
        })
        .next_back()
}

/// The target folder this program was built in, so that the embedded server
/// is built once and goes with `cargo clean`.
fn target_folder() -> PathBuf {
    let this = std::env::current_exe().unwrap_or_default();
    // Cargo marks the target folders that it made, for backup programs, and
    // keeps what it knows of the compiler in all of them.
    let marks = ["CACHEDIR.TAG", ".rustc_info.json"];
    let marked = this
        .ancestors()
        .find(|folder| marks.iter().any(|mark| folder.join(mark).is_file()));
    match (marked, std::env::var_os("CARGO_TARGET_DIR")) {
        (Some(folder), _) => folder.to_owned(),
        (None, Some(folder)) if !folder.is_empty() => folder.into(),
        _ => Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
    }
}

/// Starts the program, and waits until it has told its URL.
fn serve(program: &Path, data_dir: &Path, remove: bool) -> Result<PostgresServer> {
    fs::create_dir_all(data_dir).map_err(|source| PostgresError::File {
        action: "make the folder",
        path: data_dir.to_owned(),
        source,
    })?;
    let log = data_dir.join("server.log");
    let (errors, log_start) = open_log(&log)?;
    let mut command = Command::new(program);
    command.arg(data_dir).args(remove.then_some("--remove"));
    // Ctrl-C at a terminal goes to the whole group; see `installed`.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child: Child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .map_err(|source| PostgresError::Run {
            program: program.to_owned(),
            source,
        })?;
    let stdout = child.stdout.take();
    let mut process = Process {
        pipe: child.stdin.take(),
        child,
        log,
        log_start,
    };
    let line = stdout.map_or_else(String::new, first_line);
    match Url::parse(line.trim()).ok().and_then(|url| url.port()) {
        Some(port) => Ok(PostgresServer {
            process,
            temporary: None,
            port,
            password: None,
            embedded: true,
        }),
        None => Err(PostgresError::Failed {
            program: program.display().to_string(),
            how: match process.ended() {
                Some(status) => status.to_string(),
                None => format!("no URL but {line:?} within {} s", READY_LIMIT.as_secs()),
            },
            output: process.log_tail(),
        }),
    }
}

/// The first line that a program prints; empty if it prints none in
/// [`READY_LIMIT`].
fn first_line(stdout: ChildStdout) -> String {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        if stdout.read_line(&mut line).is_ok() {
            // Fails only if nobody waits any more.
            let _ = sender.send(line);
        }
        // So that whatever else it may print does not stop it.
        let _ = io::copy(&mut stdout, &mut io::sink());
    });
    receiver.recv_timeout(READY_LIMIT).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_the_last_executable_that_cargo_names() {
        let messages = br#"{"reason":"compiler-artifact","executable":null}
{"reason":"compiler-artifact","executable":"/target/release/embedded-postgres"}
not JSON
{"reason":"build-finished","success":true}
"#;
        let expected = Path::new("/target/release/embedded-postgres");
        assert_eq!(executable(messages).as_deref(), Some(expected));
        assert_eq!(executable(b""), None);
    }

    #[test]
    fn the_package_is_where_it_is_looked_for() {
        assert!(Path::new(PACKAGE).is_file());
    }
}
