//! The local PostgreSQL: it starts, keeps databases apart, and never outlives
//! the one who started it.
#![cfg(feature = "demo")]

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use futures::TryStreamExt as _;
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
    let url = server.create_database("im\"ages äö").await.expect("made");
    let mut connection = connect(&url).await;
    let encoding = text(&mut connection, "SHOW server_encoding").await;
    assert_eq!(encoding, "UTF8");
    let name = text(&mut connection, "SELECT current_database()::text").await;
    assert_eq!(name, "im\"ages äö");
    run(
        &mut connection,
        "CREATE TABLE images (name text); INSERT INTO images VALUES ('a.jpg')",
    )
    .await;
    let port = server.port();
    // The connection is still open; the end cuts it off.
    server.stop().await.expect("stopped");
    assert!(!listens(port));

    // Once more after an end in good order, once more after one without.
    for _ in 0..2 {
        let server = PostgresServer::start(&data_dir).await.expect("a server");
        let mut connection = connect(&server.url("im\"ages äö")).await;
        let name = text(&mut connection, "SELECT name FROM images").await;
        assert_eq!(name, "a.jpg");
    }
}

#[tokio::test]
async fn two_servers_and_two_databases_do_not_mix() {
    let (first, second) = tokio::join!(PostgresServer::temporary(), PostgresServer::temporary());
    let (first, second) = (first.expect("a server"), second.expect("a server"));
    assert_ne!(first.port(), second.port());
    assert_ne!(first.data_dir(), second.data_dir());
    let (one, two) = tokio::join!(first.create_database("one"), first.create_database("two"));
    for url in [one.expect("made"), two.expect("made")] {
        let mut connection = connect(&url).await;
        run(&mut connection, "CREATE TABLE images (name text)").await;
        connection.close().await.expect("closed");
    }
    let error = first.create_database("one").await.expect_err("taken");
    assert!(error.to_string().contains("already exists"), "{error}");
    let error = PgConnection::connect(&second.url("one")).await;
    assert!(error.is_err(), "the other server has no such database");
}

#[tokio::test]
async fn an_installed_server_wants_its_own_password() {
    let (first, second) = tokio::join!(PostgresServer::temporary(), PostgresServer::temporary());
    let (first, second) = (first.expect("a server"), second.expect("a server"));
    let (mine, other) = (first.port().to_string(), second.port().to_string());
    let foreign = first.url("postgres").replace(&mine, &other);
    let answer = PgConnection::connect(&foreign).await;
    if second.is_embedded() {
        // It knows no passwords.
        answer.expect("a connection");
    } else {
        let error = answer.expect_err("another password").to_string();
        assert!(error.contains("password"), "{error}");
    }
}

#[tokio::test]
async fn only_an_embedded_server_is_limited_to_one_connection() {
    let server = PostgresServer::temporary().await.expect("a server");
    assert_eq!(server.single_connection(), server.is_embedded());
    let url = server.url("postgres");
    let mut first = connect(&url).await;
    let second = PgConnection::connect(&url).await;
    if server.single_connection() {
        let error = second.expect_err("refused").to_string();
        assert!(error.contains("one connection at a time"), "{error}");
        first.close().await.expect("closed");
        first = connect(&url).await;
    } else {
        second.expect("a connection");
        assert_eq!(text(&mut first, "SHOW max_connections").await, "100");
    }
    assert_eq!(text(&mut first, "SELECT 'served'").await, "served");
}

#[tokio::test]
async fn a_client_that_hangs_up_in_an_answer_does_no_harm() {
    let server = PostgresServer::temporary().await.expect("a server");
    let url = server.url("postgres");
    for _ in 0..3 {
        let mut connection = connect(&url).await;
        let copy = "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 50000)) TO STDOUT";
        let mut rows = connection.copy_out_raw(copy).await.expect("rows");
        rows.try_next().await.expect("a row").expect("a row");
        drop(rows);
        drop(connection);
    }
    let mut connection = connect(&url).await;
    assert_eq!(text(&mut connection, "SELECT 'alive'").await, "alive");
}

/// Building the embedded server takes ten minutes the first time; this is how
/// to try it: `LOCAL_POSTGRES=embedded cargo test --test postgres_server --
/// --include-ignored embedded`.
#[tokio::test]
#[ignore = "builds an embedded PostgreSQL for ten minutes; wants LOCAL_POSTGRES=embedded"]
async fn the_embedded_server_copies_in_order_from_one_snapshot() {
    let server = PostgresServer::temporary().await.expect("a server");
    assert!(server.is_embedded());
    let mut connection = connect(&server.url("postgres")).await;
    let table =
        "CREATE TABLE images (name text); INSERT INTO images VALUES ('é'), ('z'), ('B'), ('a')";
    run(&mut connection, table).await;
    run(
        &mut connection,
        "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    )
    .await;
    run(&mut connection, "SET LOCAL row_security = off").await;
    let copy = "COPY (SELECT name FROM images ORDER BY name COLLATE \"C\") TO STDOUT";
    let rows: Vec<_> = connection
        .copy_out_raw(copy)
        .await
        .expect("rows")
        .try_collect()
        .await
        .expect("all rows");
    assert_eq!(rows.concat(), "B\na\nz\né\n".as_bytes());
    let lost = "SELECT count(*)::text FROM pg_locks l JOIN pg_class c ON c.oid = l.relation \
        WHERE l.pid = pg_backend_pid() AND c.relname = 'images' \
        AND c.relfilenode <> pg_relation_filenode(c.oid)";
    assert_eq!(text(&mut connection, lost).await, "0");
    run(&mut connection, "ROLLBACK").await;
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
    let error = PostgresServer::start(folder.path())
        .await
        .expect_err("in use");
    let why = if server.is_embedded() {
        "already in use"
    } else {
        "postmaster.pid"
    };
    assert!(error.to_string().contains(why), "{error}");

    let file = folder.path().join("file");
    std::fs::write(&file, "").expect("a file");
    let error = PostgresServer::start(file.join("below"))
        .await
        .expect_err("no folder");
    assert!(matches!(error, PostgresError::File { .. }), "{error}");
}

/// Says to the helper that it is one.
const HELPER: &str = "LOCAL_POSTGRES_TEST_HELPER";

/// Not a test: what [`a_killed_process_leaves_no_server`] runs and kills.
#[tokio::test]
async fn helper_serves_until_killed() {
    if std::env::var_os(HELPER).is_none() {
        return;
    }
    let server = PostgresServer::temporary().await.expect("a server");
    let shared = SharedPostgres::database().await.expect("a database");
    println!(
        "\nSERVING {} {}",
        server.port(),
        server.data_dir().display()
    );
    // Its folder has no name that a test could know.
    println!("\nSERVING {} /nonexistent", port_of(shared.url()));
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
        .args(["--exact", "helper_serves_until_killed", "--nocapture"])
        .env(HELPER, "1")
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
