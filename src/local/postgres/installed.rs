//! Finding and running an installed PostgreSQL.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, OpenOptions},
    io::Write as _,
    net::{Ipv4Addr, TcpListener},
    os::unix::{
        fs::{MetadataExt as _, OpenOptionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{POLL, PostgresError, PostgresServer, Process, Result, blocking, log_tail, open_log};

/// Major versions that the sweeper is tried with.
const MAJORS: std::ops::RangeInclusive<u32> = 13..=18;

/// How long `initdb` may take: 2 to 5 s on a laptop, more on a busy CI host.
const INITDB_LIMIT: Duration = Duration::from_mins(3);

/// How often another port is tried when somebody else took the free one
/// between our look at it and the server's.
const PORT_ATTEMPTS: u32 = 5;

/// Runs the server and ends it when standard input says so or closes.
///
/// The kernel closes the pipe even when the parent is killed, so no server
/// is left behind; a parent-death signal would need unsafe code, and Linux.
/// `quit` or a closed pipe is an immediate shutdown (SIGQUIT), `stop` a fast
/// one (SIGINT), as `pg_ctl stop -m` calls them. The server is this shell's
/// child, so its process id cannot be given to another before the `wait`.
/// The first argument is a folder to remove if the pipe closed without a
/// word; who speaks removes it.
const WATCHDOG: &str = r#"
remove=$1; shift
exec 3<&0 </dev/null
"$@" 3<&- &
server=$!
(
  signal=QUIT
  if read -r word <&3; then
    remove=
    [ "$word" != stop ] || signal=INT
  fi
  trap '' TERM
  kill -s "$signal" "$server"
  looks=0
  while kill -s 0 "$server" 2>/dev/null; do
    [ "$looks" -lt 300 ] || kill -s KILL "$server"
    looks=$((looks + 1))
    sleep 0.1
  done
  [ -z "$remove" ] || rm -rf -- "$remove"
) >/dev/null 2>&1 &
watch=$!
wait "$server"
status=$?
kill "$watch" 2>/dev/null
exit "$status"
"#;

/// A user that may run the server.
#[derive(Debug, Clone, Copy)]
struct User {
    uid: u32,
    gid: u32,
}

/// The programs of one PostgreSQL.
#[derive(Debug)]
struct Installation {
    bin: PathBuf,
    major: u32,
}

/// A cluster that is ready to be served.
#[derive(Debug)]
struct Cluster {
    installation: Installation,
    user: Option<User>,
    folder: PathBuf,
    password: String,
    log: PathBuf,
    remove: bool,
}

/// Starts an installed server on `data_dir`, an absolute path.
pub(super) async fn start(data_dir: PathBuf, remove: bool) -> Result<PostgresServer> {
    let cluster = blocking(move || Cluster::prepare(&data_dir, remove)).await?;
    let mut attempt = 1;
    loop {
        let outcome = cluster.serve(free_port()?)?.ready().await;
        if attempt == PORT_ATTEMPTS || !matches!(&outcome, Err(error) if port_was_taken(error)) {
            return outcome;
        }
        attempt += 1;
    }
}

/// Whether a server ended because another program listens on its port.
fn port_was_taken(error: &PostgresError) -> bool {
    let says_so = |log: &str| log.contains("could not create any TCP/IP sockets");
    matches!(error, PostgresError::Failed { output, .. } if says_so(output))
}

impl Cluster {
    /// Makes a cluster in `data_dir`, or finds the one that is there.
    fn prepare(data_dir: &Path, remove: bool) -> Result<Self> {
        let file = |action, path: &Path| {
            let path = path.to_owned();
            move |source| PostgresError::File {
                action,
                path,
                source,
            }
        };
        fs::create_dir_all(data_dir).map_err(file("make the folder", data_dir))?;
        let log = data_dir.join("server.log");
        let (opened, _) = open_log(&log)?;
        // What this process makes belongs to it: a way to learn its user
        // without unsafe code, wherever /proc is not.
        let owner = opened.metadata().map_err(file("read", &log))?.uid();
        let user = if owner == 0 {
            let user = user_for_root()?;
            chown(data_dir, Some(user.uid), Some(user.gid)).map_err(file("hand over", data_dir))?;
            let entered = Command::new("true")
                .with_user(Some(user))
                .current_dir(data_dir)
                .output();
            if let Err(error) = entered {
                return Err(PostgresError::Root {
                    reason: format!(
                        "user {} cannot enter {}: {error}",
                        user.uid,
                        data_dir.display()
                    ),
                });
            }
            Some(user)
        } else {
            None
        };

        let folder = data_dir.join("cluster");
        let secret = data_dir.join("password");
        let major = fs::read_to_string(folder.join("PG_VERSION"))
            .ok()
            .and_then(|version| version.trim().parse().ok());
        let installation = Installation::find(user, major)?;
        let password = if major.is_some() {
            fs::read_to_string(&secret).map_err(file("read", &secret))?
        } else {
            let password = Uuid::new_v4().simple().to_string();
            let made = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&secret)
                .and_then(|mut secret| secret.write_all(password.as_bytes()));
            made.map_err(file("write", &secret))?;
            if let Some(user) = user {
                chown(&secret, Some(user.uid), Some(user.gid))
                    .map_err(file("hand over", &secret))?;
            }
            // Whoever is killed in the middle leaves no half of a cluster.
            let unfinished = data_dir.join("cluster.unfinished");
            if unfinished.exists() {
                fs::remove_dir_all(&unfinished).map_err(file("remove", &unfinished))?;
            }
            installation.initdb(&unfinished, &secret, user, &log)?;
            fs::rename(&unfinished, &folder).map_err(file("rename", &unfinished))?;
            password
        };
        Ok(Self {
            installation,
            user,
            folder,
            password,
            log,
            remove,
        })
    }

    /// Starts the server, without waiting for it.
    fn serve(&self, port: u16) -> Result<PostgresServer> {
        let (log, log_start) = open_log(&self.log)?;
        let log_too = log.try_clone().map_err(|source| PostgresError::File {
            action: "open",
            path: self.log.clone(),
            source,
        })?;
        let data_dir = self.folder.parent().unwrap_or(&self.folder);
        let remove = if self.remove {
            data_dir.as_os_str()
        } else {
            OsStr::new("")
        };
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", WATCHDOG, "postgres-watchdog"])
            .arg(remove)
            .arg(self.installation.bin.join("postgres"))
            .arg("-D")
            .arg(&self.folder);
        for setting in [
            "listen_addresses=127.0.0.1",
            &format!("port={port}"),
            // A socket's path must be shorter than many a temporary folder's.
            "unix_socket_directories=",
            "max_connections=100",
            // Nobody needs these rows after a power cut.
            "fsync=off",
            "synchronous_commit=off",
            "full_page_writes=off",
            "logging_collector=off",
            "log_destination=stderr",
            "timezone=UTC",
            "log_timezone=UTC",
        ] {
            command.args(["-c", setting]);
        }
        let mut child = command
            .with_user(self.user)
            .current_dir(data_dir)
            // Ctrl-C at a terminal goes to the whole group; this process
            // ends its server itself, when it has no more use for it.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(log_too)
            .spawn()
            .map_err(|source| PostgresError::Run {
                program: "/bin/sh".into(),
                source,
            })?;
        Ok(PostgresServer {
            process: Process {
                pipe: child.stdin.take(),
                child,
                log: self.log.clone(),
                log_start,
            },
            temporary: None,
            port,
            password: Some(self.password.clone()),
            embedded: false,
        })
    }
}

impl Installation {
    /// The first PostgreSQL that runs as `user` and has a usable version
    /// (`major`, where a cluster already has one).
    fn find(user: Option<User>, major: Option<u32>) -> Result<Self> {
        let mut tried = Vec::new();
        for bin in candidates() {
            let reason = match Self::at(&bin, user) {
                Ok(found) => match major {
                    Some(major) if major != found.major => {
                        format!("is version {}, the files need {major}", found.major)
                    }
                    _ => return Ok(found),
                },
                Err(reason) => reason,
            };
            tried.push(format!("{} {reason}", bin.display()));
        }
        if tried.is_empty() {
            tried.push("PATH, /usr/lib/postgresql, Homebrew, Postgres.app, pg_config".to_owned());
        }
        Err(PostgresError::NotInstalled {
            tried: tried.join("; "),
        })
    }

    /// The PostgreSQL in the folder `bin`, or why it does not serve.
    fn at(bin: &Path, user: Option<User>) -> Result<Self, String> {
        if !bin.join("initdb").is_file() {
            return Err("has no initdb".to_owned());
        }
        let output = Command::new(bin.join("postgres"))
            .arg("--version")
            .with_user(user)
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("cannot be run: {error}"))?;
        let version = printed(&output);
        match major_of(&version) {
            Some(major) if MAJORS.contains(&major) => Ok(Self {
                bin: bin.to_owned(),
                major,
            }),
            _ => Err(format!("says {version:?}")),
        }
    }

    /// Makes a cluster in `folder`, which must not exist.
    ///
    /// Passwords (SCRAM) and not `trust`: a superuser of PostgreSQL can run
    /// programs as the server's user, so with `trust` every user of this
    /// machine could become this one. It also tells our server from another
    /// one that got the port first.
    fn initdb(&self, folder: &Path, secret: &Path, user: Option<User>, log: &Path) -> Result<()> {
        let mut failure = None;
        for locale in ["C.UTF-8", "en_US.UTF-8", "C"] {
            let (output, log_start) = open_log(log)?;
            let (errors, _) = open_log(log)?;
            let program = self.bin.join("initdb");
            let mut child = Command::new(&program)
                .arg("-D")
                .arg(folder)
                .arg("--pwfile")
                .arg(secret)
                .args([
                    "--username=postgres",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                ])
                .arg(format!("--locale={locale}"))
                // English, for what is read from the log.
                .args(["--lc-messages=C", "--no-sync"])
                .with_user(user)
                .current_dir(folder.parent().unwrap_or(folder))
                .stdin(Stdio::null())
                .stdout(output)
                .stderr(errors)
                .spawn()
                .map_err(|source| PostgresError::Run {
                    program: program.clone(),
                    source,
                })?;
            let deadline = Instant::now() + INITDB_LIMIT;
            let how = loop {
                match child.try_wait() {
                    Ok(Some(status)) if status.success() => return Ok(()),
                    Ok(Some(status)) => break status.to_string(),
                    Ok(None) if Instant::now() < deadline => std::thread::sleep(POLL),
                    Ok(None) => {
                        let _ = child.kill();
                        let _ = child.wait();
                        break format!("not done after {} s", INITDB_LIMIT.as_secs());
                    }
                    Err(error) => break error.to_string(),
                }
            };
            // initdb takes back what it made when it fails.
            let output = log_tail(log, log_start);
            let unknown_locale = output.contains("invalid locale");
            failure = Some(PostgresError::Failed {
                program: program.display().to_string(),
                how,
                output,
            });
            if !unknown_locale {
                break;
            }
        }
        match failure {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }
}

/// Folders that may hold a PostgreSQL, best first, each once.
fn candidates() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let path = std::env::var_os("PATH").unwrap_or_default();
    for folder in std::env::split_paths(&path) {
        let program = folder.join("postgres");
        if !program.is_file() {
            continue;
        }
        // A link leads to the folder where its companions are; a script that
        // wraps the program has them beside it.
        let target = fs::canonicalize(&program)
            .ok()
            .and_then(|program| program.parent().map(Path::to_owned))
            .filter(|target| target.join("initdb").is_file());
        found.push(target.unwrap_or(folder));
    }
    for (parent, prefix, below) in [
        ("/usr/lib/postgresql", "", "bin"),         // Debian, Ubuntu
        ("/usr", "pgsql-", "bin"),                  // PostgreSQL's own RPMs
        ("/usr/libexec", "postgresql", ""),         // Alpine
        ("/usr/local", "pgsql", "bin"),             // built from source
        ("/opt/homebrew/opt", "postgresql", "bin"), // Homebrew, Apple silicon
        ("/usr/local/opt", "postgresql", "bin"),    // Homebrew, Intel
        ("/home/linuxbrew/.linuxbrew/opt", "postgresql", "bin"),
        ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
    ] {
        found.extend(versions(Path::new(parent), prefix, below));
    }
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output()
        && output.status.success()
    {
        found.push(printed(&output).into());
    }
    let mut seen = BTreeSet::new();
    found.retain(|bin| bin.join("postgres").is_file() && seen.insert(bin.clone()));
    found
}

/// The folders `parent/prefix*/below`, newest version first.
fn versions(parent: &Path, prefix: &str, below: &str) -> Vec<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let digits = name.strip_prefix(prefix)?.trim_start_matches(['@', '-']);
            let major = digits.split('.').next()?.parse().unwrap_or(0);
            Some((major, entry.path().join(below)))
        })
        .collect();
    versions.sort_by(|a, b| b.cmp(a));
    versions.into_iter().map(|(_, bin)| bin).collect()
}

/// The major version in `postgres (PostgreSQL) 15.14 (Debian 15.14-0)`, also
/// of a beta (`18beta1`).
fn major_of(version: &str) -> Option<u32> {
    let number = version.strip_prefix("postgres (PostgreSQL) ")?;
    let end = number.find(|c: char| !c.is_ascii_digit());
    number[..end.unwrap_or(number.len())].parse().ok()
}

/// What a program printed, without the line end.
fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The user that runs the server where this process is root.
fn user_for_root() -> Result<User> {
    let users = fs::read_to_string("/etc/passwd").map_err(|source| PostgresError::File {
        action: "read",
        path: "/etc/passwd".into(),
        source,
    })?;
    ["postgres", "nobody"]
        .iter()
        .find_map(|name| user_in(&users, name))
        .ok_or_else(|| PostgresError::Root {
            reason: "/etc/passwd has neither a user `postgres` nor `nobody`".to_owned(),
        })
}

/// The user `name` in the text of `/etc/passwd` (its format: passwd(5)).
fn user_in(users: &str, name: &str) -> Option<User> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(User { uid, gid })
    })
}

/// A port on 127.0.0.1 that is free now.
fn free_port() -> Result<u16> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|source| PostgresError::Run {
            program: "a server on 127.0.0.1".into(),
            source,
        })
}

/// Settings that every program of PostgreSQL gets.
trait WithUser {
    /// Lets it run as `user`, in plain English, unmoved by `PGDATA` and the
    /// like.
    fn with_user(&mut self, user: Option<User>) -> &mut Self;
}

impl WithUser for Command {
    fn with_user(&mut self, user: Option<User>) -> &mut Self {
        if let Some(user) = user {
            self.uid(user.uid).gid(user.gid);
        }
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                self.env_remove(name);
            }
        }
        // Without a locale PostgreSQL on macOS refuses to start.
        self.env("LC_ALL", "C")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_what_postgres_says() {
        for (said, major) in [
            (
                "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)",
                Some(15),
            ),
            ("postgres (PostgreSQL) 18beta1", Some(18)),
            ("postgres (PostgreSQL) 13", Some(13)),
            ("postgres (EnterpriseDB) 15.1", None),
            ("", None),
        ] {
            assert_eq!(major_of(said), major, "{said:?}");
        }
    }

    #[test]
    fn newer_versions_come_first_and_ten_is_more_than_nine() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in [
            "postgresql@9.6",
            "postgresql@17",
            "postgresql@13",
            "redis",
            "postgresql",
        ] {
            fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        let names: Vec<_> = versions(folder.path(), "postgresql", "bin")
            .into_iter()
            .map(|bin| bin.strip_prefix(folder.path()).expect("below").to_owned())
            .collect();
        let expected = [
            "postgresql@17",
            "postgresql@13",
            "postgresql@9.6",
            "postgresql",
        ];
        assert_eq!(names, expected.map(|name| Path::new(name).join("bin")));
    }

    #[tokio::test]
    async fn a_taken_port_is_told_from_other_failures() {
        let folder = tempfile::tempdir().expect("a folder");
        let prepared = Cluster::prepare(folder.path(), false);
        if let Err(PostgresError::NotInstalled { tried }) = &prepared {
            // The embedded server takes its port from the system.
            eprintln!("not tried, since no PostgreSQL is installed: {tried}");
            return;
        }
        let cluster = prepared.expect("a cluster");
        // It takes connections and never answers.
        let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = other.local_addr().expect("an address").port();
        let server = cluster.serve(port).expect("a process");
        let error = server.ready().await.expect_err("taken");
        assert!(port_was_taken(&error), "{error}");

        fs::remove_file(cluster.folder.join("PG_VERSION")).expect("removed");
        let server = cluster
            .serve(free_port().expect("a port"))
            .expect("a process");
        let error = server.ready().await.expect_err("damaged");
        assert!(!port_was_taken(&error), "{error}");
        assert!(error.to_string().contains("PG_VERSION"), "{error}");
    }

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let users = "root:x:0:0::/root:/bin/sh\nnobody2:x:7:8::/:\nnobody:x:65534:65533:n:/:\n";
        let user = user_in(users, "nobody").expect("a user");
        assert_eq!((user.uid, user.gid), (65534, 65533));
        assert!(user_in(users, "postgres").is_none());
    }
}
