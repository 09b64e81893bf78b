//! The database behind TLS: a real PostgreSQL with a certificate of an authority of its own,
//! and sign-in by IAM, where the password that arrives is a token.
#![cfg(all(feature = "demo", unix))]

mod support;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orphan_sweeper::local::postgres::PostgresServer;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use support::program::{Ended, Environment};
use support::{BUCKET, World};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// This machine by another name, which does not count as local: the way to it is not trusted.
const ELSEWHERE: &str = "0.0.0.0";

/// A PostgreSQL that speaks TLS, as [`ELSEWHERE`] and by no other name.
struct Secured {
    server: PostgresServer,
    folder: TempDir,
    url: url::Url,
}

impl Secured {
    /// Its role `sweeper` signs in as this line of `pg_hba.conf` says.
    async fn new(sign_in: &str) -> Self {
        let server = PostgresServer::temporary().await.expect("a server");
        assert!(
            !server.is_embedded(),
            "an embedded server knows no TLS; install PostgreSQL"
        );
        let folder = TempDir::new().expect("a folder");
        let mut authority = CertificateParams::new(Vec::new()).expect("no names");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(authority, key).expect("signed");
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(vec![ELSEWHERE.to_owned()])
            .expect("a name")
            .signed_by(&key, &authority)
            .expect("signed");
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).expect("written");

        let mut connection = PgConnection::connect(&server.url("postgres"))
            .await
            .expect("connected");
        let folder_of_server: String = sqlx::query_scalar("SHOW data_directory")
            .fetch_one(&mut connection)
            .await
            .expect("told");
        let folder_of_server = PathBuf::from(folder_of_server);
        let owner = std::fs::metadata(&folder_of_server).expect("its folder");
        let hba = format!(
            "{sign_in}\nhost all postgres 127.0.0.1/32 scram-sha-256\nhost all sweeper all scram-sha-256\n"
        );
        for (name, text) in [
            ("server.crt", certificate.pem()),
            ("server.key", key.serialize_pem()),
            ("pg_hba.conf", hba),
        ] {
            let file = folder_of_server.join(name);
            std::fs::write(&file, text).expect("written");
            let mode = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(&file, mode).expect("its own");
            std::os::unix::fs::chown(&file, Some(owner.uid()), Some(owner.gid())).expect("its own");
        }
        let url = server.create_database("pictures").await.expect("made");
        for sql in [
            "ALTER SYSTEM SET ssl = on",
            "SELECT pg_reload_conf()",
            "CREATE TABLE images (name text)",
            "INSERT INTO images VALUES ('images/named.png')",
            "CREATE ROLE sweeper LOGIN PASSWORD 'hunter2'",
            "GRANT SELECT ON images TO sweeper",
        ] {
            let mut connection = PgConnection::connect(&url).await.expect("connected");
            let sql = AssertSqlSafe(sql.to_owned());
            connection.execute(sqlx::raw_sql(sql)).await.expect("run");
        }
        let mut url = url::Url::parse(&url).expect("a URL");
        url.set_host(Some(ELSEWHERE)).expect("set");
        // The one for tests asks for no TLS.
        url.set_query(None);
        url.set_username("sweeper").expect("set");
        url.set_password(Some("hunter2")).expect("set");
        let secured = Self {
            server,
            folder,
            url,
        };
        // The reload takes a moment; nobody waits longer than this for one that failed.
        let reloaded = async {
            while !secured.speaks_tls().await {
                tokio::task::yield_now().await;
            }
        };
        let reloaded = tokio::time::timeout(Duration::from_mins(1), reloaded).await;
        reloaded.expect("the server speaks TLS");
        secured
    }

    /// Whether it says yes to the question for TLS
    /// (<https://www.postgresql.org/docs/current/protocol-flow.html>).
    async fn speaks_tls(&self) -> bool {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.server.port()))
            .await
            .expect("connected");
        stream
            .write_all(&[0, 0, 0, 8, 4, 210, 22, 47])
            .await
            .expect("asked");
        stream.read_u8().await.expect("an answer") == b'S'
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }
}

/// An orphan, an image that the database names, and the environment of a sweep of them.
async fn world(url: &url::Url) -> (World, Environment) {
    let world = World::new().await;
    for key in ["images/orphan.png", "images/named.png"] {
        world.put(key, 48);
    }
    let environment =
        Environment::of(&world).with(&[("DATABASE_URL", url.as_str()), ("SWEEPER_BUCKET", BUCKET)]);
    (world, environment)
}

/// The run failed at the database, in one line that says this, and touched nothing.
#[track_caller]
fn refused(world: &World, ended: &Ended, says: &str) {
    let summary = ended.json();
    assert_eq!(
        (ended.code, &summary["errors"][0]["code"]),
        (Some(1), &"Database".into()),
        "{ended:?}"
    );
    let message = summary["errors"][0]["message"].as_str().expect("words");
    assert!(
        message.contains(says) && !message.contains('\n'),
        "{message}"
    );
    assert!(!format!("{ended:?}").contains("hunter2"), "{ended:?}");
    assert_eq!(world.keys().len(), 2);
}

#[tokio::test]
async fn a_host_that_is_not_local_must_prove_itself() {
    let secured = Secured::new("").await;
    let (world, environment) = world(&secured.url).await;
    // By nobody's word.
    let ended = environment.cli(&["sweep"]).await;
    refused(&world, &ended, "UnknownIssuer");

    // By another name than it proves, of an authority that is known.
    let ca = secured.ca();
    let ca = ca.to_str().expect("UTF-8");
    let mut other = secured.url.clone();
    other.set_host(Some("127.0.0.1")).expect("set");
    other.set_query(Some("sslmode=verify-full"));
    let by_other = [
        "sweep",
        "--database-ca",
        ca,
        "--database-url",
        other.as_str(),
    ];
    let ended = environment.cli(&by_other).await;
    refused(&world, &ended, "certificate not valid for name");

    let ended = environment.cli(&["sweep", "--database-ca", ca]).await;
    assert_eq!(
        (ended.code, &ended.json()["deleted"]),
        (Some(0), &1.into()),
        "{ended:?}"
    );
    assert_eq!(world.keys(), ["images/named.png"]);
}

/// Answers LDAP's simple bind, which is how a PostgreSQL hands on a password as it came, and
/// keeps the passwords.
async fn keeper() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keeps = Arc::clone(&kept);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut bytes = Vec::new();
            while !is_whole(&bytes) {
                let read = stream.read_buf(&mut bytes).await.expect("read");
                assert!(read > 0, "the bind broke off");
            }
            // The password is the last thing in it.
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let token = text.find(ELSEWHERE).map_or("", |at| &text[at..]);
            let good = token.contains("X-Amz-Signature=");
            keeps.lock().expect("locked").push(token.to_owned());
            // BindResponse to message 1: success, or invalid credentials
            // (https://datatracker.ietf.org/doc/html/rfc4511#section-4.2.2).
            let code = if good { 0 } else { 49 };
            let answer = [0x30, 12, 2, 1, 1, 0x61, 7, 10, 1, code, 4, 0, 4, 0];
            stream.write_all(&answer).await.expect("answered");
        }
    });
    (port, kept)
}

/// Whether the bytes hold the whole of a message, by its own length.
fn is_whole(bytes: &[u8]) -> bool {
    let (head, length) = match bytes {
        [_, short, ..] if *short < 0x80 => (2, usize::from(*short)),
        [_, long, rest @ ..] if rest.len() >= usize::from(long & 0x7f) => {
            let count = usize::from(long & 0x7f);
            let length = rest[..count]
                .iter()
                .fold(0, |length, byte| length * 256 + usize::from(*byte));
            (2 + count, length)
        }
        _ => return false,
    };
    bytes.len() >= head + length
}

#[tokio::test]
async fn a_token_takes_the_passwords_place_and_goes_over_tls_only() {
    let (port, kept) = keeper().await;
    // The password is asked for as it is, as RDS does for a role of rds_iam.
    let ldap = format!(
        "hostssl all sweeper all ldap ldapserver=127.0.0.1 ldapport={port} ldapprefix=\"cn=\" ldapsuffix=\"\""
    );
    let secured = Secured::new(&ldap).await;
    let mut url = secured.url.clone();
    url.set_password(None).expect("set");
    let (world, environment) = world(&url).await;
    let environment = environment.with(&[("SWEEPER_DATABASE_IAM", "true")]);

    // To one who does not prove himself no token goes, nor to one who knows no TLS.
    let ended = environment.cli(&["sweep"]).await;
    refused(&world, &ended, "UnknownIssuer");
    let ca = secured.ca();
    let ca = ca.to_str().expect("UTF-8");
    let plain = TcpListener::bind("0.0.0.0:0").await.expect("a free port");
    let mut other = url.clone();
    let plain_port = plain.local_addr().expect("an address").port();
    other.set_port(Some(plain_port)).expect("set");
    let heard = tokio::spawn(async move {
        let (mut stream, _) = plain.accept().await.expect("a connection");
        let mut asked = [0; 8];
        stream.read_exact(&mut asked).await.expect("asked");
        stream.write_all(b"N").await.expect("refused");
        let mut more = Vec::new();
        stream.read_to_end(&mut more).await.expect("the end");
        more
    });
    let by_other = [
        "sweep",
        "--database-ca",
        ca,
        "--database-url",
        other.as_str(),
    ];
    let ended = environment.cli(&by_other).await;
    refused(&world, &ended, "TLS");
    assert!(heard.await.expect("heard").is_empty());
    assert!(kept.lock().expect("locked").is_empty());

    let ended = environment.cli(&["sweep", "--database-ca", ca]).await;
    assert_eq!(
        (ended.code, &ended.json()["deleted"]),
        (Some(0), &1.into()),
        "{ended:?}"
    );
    let kept = kept.lock().expect("locked").clone();
    assert!(!kept.is_empty());
    for token in &kept {
        let expected = format!(
            "{ELSEWHERE}:{}/?Action=connect&DBUser=sweeper&",
            secured.server.port()
        );
        assert!(token.starts_with(&expected), "{token}");
        assert!(token.contains("X-Amz-Expires=900"), "{token}");
        assert!(!ended.stderr.contains(token) && !ended.stdout.contains(token));
    }
}
