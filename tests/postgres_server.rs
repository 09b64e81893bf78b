//! The local PostgreSQL: it starts, keeps databases apart, and never outlives
//! the one who started it.
#![cfg(feature = "demo")]

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use orphan_sweeper::local::postgres::{PostgresError, PostgresServer, SharedPostgres};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// Ends with the process of a server, which may take a moment.
const SOON: Duration = Duration::from_secs(30);

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.expect("a connection")
}

async fn run(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(connection)
        .await
        .expect(sql);
}

async fn text(connection: &mut PgConnection, sql: &str) -> String {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_one(connection)
        .await
        .expect(sql)
}

/// Whether something accepts connections on the port.
fn listens(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// Whether it comes true before [`SOON`] is over.
fn soon(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + SOON;
    while Instant::now() < deadline {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

#[tokio::test]
async fn files_stay_and_are_served_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().join("new/postgres");
    let server = PostgresServer::start(&data_dir).await.expect("a server");
    if server.single_connection() {
        return;
    }
    let url = server.create_database("im\"ages äö").await.expect("made");
    let mut connection = connect(&url).await;
    assert_eq!(text(&mut connection, "SHOW server_encoding").await, "UTF8");
    assert_eq!(text(&mut connection, "SHOW max_connections").await, "100");
    assert_eq!(
        text(&mut connection, "SELECT current_database()::text").await,
        "im\"ages äö"
    );
    run(
        &mut connection,
        "CREATE TABLE images (name text); INSERT INTO images VALUES ('a.jpg')",
    )
    .await;
    let port = server.port();
    // The connection is still open: a fast shutdown cuts it off.
    server.stop().await.expect("stopped");
    assert!(!listens(port));

    // Once more after an end in good order, once more after one without.
    for _ in 0..2 {
        let server = PostgresServer::start(&data_dir).await.expect("a server");
        let mut connection = connect(&server.url("im\"ages äö")).await;
        assert_eq!(
            text(&mut connection, "SELECT name FROM images").await,
            "a.jpg"
        );
    }
}

#[tokio::test]
async fn two_servers_and_two_databases_do_not_mix() {
    let (first, second) = tokio::join!(PostgresServer::temporary(), PostgresServer::temporary());
    let (first, second) = (first.expect("a server"), second.expect("a server"));
    assert_ne!(first.port(), second.port());
    if first.single_connection() {
        return;
    }
    let (one, two) = tokio::join!(first.create_database("one"), first.create_database("two"));
    let mut one = connect(&one.expect("made")).await;
    let mut two = connect(&two.expect("made")).await;
    run(&mut one, "CREATE TABLE images (name text)").await;
    run(&mut two, "CREATE TABLE images (name text)").await;
    let error = first.create_database("one").await.expect_err("taken");
    assert!(error.to_string().contains("already exists"), "{error}");
    assert!(PgConnection::connect(&second.url("one")).await.is_err());
    let foreign = first
        .url("one")
        .replace(&first.port().to_string(), &second.port().to_string());
    let error = PgConnection::connect(&foreign)
        .await
        .expect_err("another password");
    assert!(error.to_string().contains("password"), "{error}");
}

#[tokio::test]
async fn a_name_that_would_be_cut_is_refused() {
    let server = PostgresServer::temporary().await.expect("a server");
    for name in ["", "a\0b", &"x".repeat(64)] {
        let error = server.create_database(name).await.expect_err("no name");
        assert!(
            matches!(error, PostgresError::DatabaseName { .. }),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_dropped_server_is_gone_with_its_temporary_folder() {
    let server = PostgresServer::temporary().await.expect("a server");
    let port = server.port();
    let folder = server.data_dir().to_owned();
    let _open = connect(&server.url("postgres")).await;
    assert!(listens(port) && folder.is_dir());
    drop(server);
    assert!(!listens(port));
    assert!(!folder.exists());
}

#[tokio::test]
async fn tests_share_a_server_and_no_rows() {
    let (one, two) = tokio::join!(SharedPostgres::database(), SharedPostgres::database());
    let (one, two) = (one.expect("a database"), two.expect("a database"));
    assert_ne!(one.url(), two.url());
    for database in [&one, &two] {
        let mut connection = connect(database.url()).await;
        run(&mut connection, "CREATE TABLE images (name text)").await;
    }
}

#[tokio::test]
async fn what_keeps_a_server_from_starting_is_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = PostgresServer::start(folder.path())
        .await
        .expect("a server");
    if server.is_embedded() {
        return;
    }
    let error = PostgresServer::start(folder.path())
        .await
        .expect_err("in use");
    assert!(error.to_string().contains("postmaster.pid"), "{error}");

    let file = folder.path().join("file");
    std::fs::write(&file, "").expect("a file");
    let error = PostgresServer::start(file.join("below"))
        .await
        .expect_err("no folder");
    assert!(matches!(error, PostgresError::File { .. }), "{error}");
}

/// Not a test: what [`a_killed_process_leaves_no_server`] runs and kills.
#[tokio::test]
#[ignore = "run by another test, which kills it"]
async fn helper_serves_until_killed() {
    let server = PostgresServer::temporary().await.expect("a server");
    let shared = SharedPostgres::database().await.expect("a database");
    println!(
        "\nSERVING {} {}",
        server.port(),
        server.data_dir().display()
    );
    println!("\nSERVING {} {}", port_of(shared.url()), "/nonexistent");
    std::future::pending::<()>().await;
}

fn port_of(url: &str) -> u16 {
    let after = url.split_once("127.0.0.1:").expect("an address").1;
    after
        .split_once('/')
        .expect("a database")
        .0
        .parse()
        .expect("a port")
}

#[test]
fn a_killed_process_leaves_no_server() {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args([
            "--ignored",
            "--exact",
            "helper_serves_until_killed",
            "--nocapture",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the helper");
    let output = BufReader::new(child.stdout.take().expect("its output"));
    let serving: Vec<(u16, String)> = output
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| {
            let (port, folder) = line.strip_prefix("SERVING ")?.split_once(' ')?;
            Some((port.parse().ok()?, folder.to_owned()))
        })
        .take(2)
        .collect();
    assert_eq!(serving.len(), 2, "the helper ended early");
    assert!(serving.iter().all(|(port, _)| listens(*port)));
    // SIGKILL: nothing of the helper runs after this.
    child.kill().expect("killed");
    child.wait().expect("its end");
    for (port, folder) in serving {
        assert!(soon(|| !listens(port)), "a server on port {port} is left");
        assert!(soon(|| !Path::new(&folder).exists()), "{folder} is left");
    }
}
