//! A pooler that resets nothing, as many do in transaction pooling: what one client set in a session,
//! the next one finds there.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What a message of PostgreSQL's protocol begins with
/// (<https://www.postgresql.org/docs/current/protocol-message-formats.html>).
const AUTHENTICATION: u8 = b'R';
const READY_FOR_QUERY: u8 = b'Z';
const TERMINATE: u8 = b'X';

/// What `ReadyForQuery` says outside of any transaction.
const IDLE: u8 = b'I';

/// What our clients set when a session begins, and what the first client of this one had set.
const OTHERS: [(&[u8], &[u8]); 4] = [
    (b"client_encoding\0UTF8\0", b"client_encoding\0KOI8\0"),
    (b"TimeZone\0UTC\0", b"TimeZone\0HST\0"),
    (b"DateStyle\0ISO, MDY\0", b"DateStyle\0ISO, DMY\0"),
    (b"extra_float_digits\x002\0", b"extra_float_digits\x001\0"),
];

/// What a pooler does besides.
#[derive(Debug, Clone, Copy)]
pub enum Habit {
    None,
    /// What holds this text goes nowhere, but for the first of a client.
    Swallows(&'static str),
    /// Statements are prepared under names of its own, as by PgBouncer's `max_prepared_statements`.
    Renames,
}

/// A session, and what the server said when it began.
struct Session {
    server: TcpStream,
    greeting: Vec<u8>,
}

/// Answers in the place of this server, without TLS, one client behind the other, and gives its port.
/// It has this habit.
pub async fn start(server: (String, u16), habit: Habit) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        let mut idle: Option<Session> = None;
        loop {
            let (mut client, _) = listener.accept().await.expect("accepted");
            client.set_nodelay(true).expect("set");
            let mut session = match idle.take() {
                Some(session) => {
                    startup(&mut client).await;
                    client.write_all(&session.greeting).await.expect("sent");
                    session
                }
                None => sign_in(&mut client, server.clone()).await,
            };
            // A session whose transaction was left open is given to nobody.
            if relay(&mut client, &mut session.server, habit).await {
                idle = Some(session);
            }
        }
    });
    port
}

/// The first message of a client, which alone has no type.
async fn startup(client: &mut TcpStream) -> Vec<u8> {
    let length = client.read_u32().await.expect("a length");
    let mut message = length.to_be_bytes().to_vec();
    message.resize(length as usize, 0);
    client.read_exact(&mut message[4..]).await.expect("sent");
    message
}

/// The same bytes, with others in the place of these.
fn replaced(mut message: Vec<u8>, these: &[u8], others: &[u8]) -> Vec<u8> {
    let mut places = message.windows(these.len());
    let place = places.position(|bytes| bytes == these).expect("a setting");
    message[place..place + these.len()].copy_from_slice(others);
    message
}

/// The same message with the pooler's names of statements.
fn renamed(mut message: Vec<u8>) -> Vec<u8> {
    const OURS: &[u8] = b"sqlx_s_";
    let mut places = message.windows(OURS.len());
    if let Some(place) = places.position(|bytes| bytes == OURS) {
        message[place..place + OURS.len()].copy_from_slice(b"pool_s_");
    }
    message
}

/// One message with its type; `None` where the connection has ended.
async fn message(from: &mut TcpStream) -> Option<Vec<u8>> {
    let kind = from.read_u8().await.ok()?;
    let length = from.read_u32().await.ok()?;
    let mut message = vec![kind];
    message.extend(length.to_be_bytes());
    message.resize(1 + length as usize, 0);
    from.read_exact(&mut message[5..]).await.ok()?;
    Some(message)
}

/// A new session, in which this client proves itself who it is.
async fn sign_in(client: &mut TcpStream, address: (String, u16)) -> Session {
    let mut server = TcpStream::connect(address).await.expect("connected");
    server.set_nodelay(true).expect("set");
    let mut first = startup(client).await;
    for (ours, others) in OTHERS {
        first = replaced(first, ours, others);
    }
    server.write_all(&first).await.expect("sent");
    let mut greeting = Vec::new();
    loop {
        let said = message(&mut server).await.expect("an answer");
        client.write_all(&said).await.expect("sent");
        match said[0] {
            // Only the last of these, which asks for nothing, is said to others.
            AUTHENTICATION if said[5..9] != [0; 4] => {
                if said[8] != 12 {
                    let proof = message(client).await.expect("a proof");
                    server.write_all(&proof).await.expect("sent");
                }
            }
            kind => {
                greeting.extend(&said);
                if kind == READY_FOR_QUERY {
                    return Session { server, greeting };
                }
            }
        }
    }
}

/// Passes on what both say until the client goes, and says whether no transaction is open then.
async fn relay(client: &mut TcpStream, server: &mut TcpStream, habit: Habit) -> bool {
    let mut is_idle = true;
    let mut times = 0;
    let mut is_swallowed = |said: &[u8]| {
        let Habit::Swallows(text) = habit else {
            return false;
        };
        let holds = said.windows(text.len()).any(|part| part == text.as_bytes());
        times += usize::from(holds);
        holds && times > 1
    };
    loop {
        let (mut one, mut other) = ([0], [0]);
        tokio::select! {
            _ = client.peek(&mut one) => {
                match message(client).await {
                    Some(said) if is_swallowed(&said) => {}
                    Some(said) if said[0] != TERMINATE => {
                        let said = if matches!(habit, Habit::Renames) { renamed(said) } else { said };
                        server.write_all(&said).await.expect("sent");
                    }
                    _ => return is_idle,
                }
            }
            _ = server.peek(&mut other) => {
                let said = message(server).await.expect("an answer");
                if said[0] == READY_FOR_QUERY {
                    is_idle = said[5] == IDLE;
                }
                // It may have gone.
                let _ = client.write_all(&said).await;
            }
        }
    }
}
