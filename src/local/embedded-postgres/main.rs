//! Serves an embedded PostgreSQL 17 on 127.0.0.1 until standard input closes.
//!
//! `embedded-postgres FOLDER [--remove]` keeps its files in `FOLDER`, prints
//! the URL of its database `postgres` as one line, and ends, with `--remove`
//! together with the folder, when whoever started it closes the pipe or dies.
//!
//! The engine serves one connection at a time, lets further ones wait for
//! ever, and stops serving when a client hangs up in the middle of an answer.
//! So clients talk to a [`Door`] in front of it, which lets them in one by
//! one, tells a second one after [`PATIENCE`] why it cannot come in, and
//! always says goodbye to the engine properly.

use std::{
    env,
    error::Error,
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    path::PathBuf,
    process::exit,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use pglite_oxide::{PgliteServer, PgliteServerBuilder};

#[cfg(not(unix))]
use std::net::TcpStream as EngineStream;
#[cfg(unix)]
use std::os::unix::net::UnixStream as EngineStream;

/// How long a client waits for the one before it. A pool that replaces its
/// connection needs a moment; code that needs two connections should hear
/// that it cannot have them before its own limits (often 30 s) are over.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the first packet asks for, and how long it may be; see "Message
/// Formats" in PostgreSQL's manual and `MAX_STARTUP_PACKET_LENGTH` in its
/// source.
const CANCEL: u32 = 80_877_102;
const TLS: u32 = 80_877_103;
const GSS: u32 = 80_877_104;
const LONGEST_STARTUP: u32 = 10_000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1);
    let folder: PathBuf = arguments
        .next()
        .ok_or("usage: embedded-postgres FOLDER [--remove]")?
        .into();
    let remove = arguments.next().is_some_and(|word| word == "--remove");
    fs::create_dir_all(&folder)?;

    let engine = Engine::start(PgliteServer::builder().path(folder.join("pglite")))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    let door = Arc::new(Door {
        engine,
        state: Mutex::new(State::Free),
        left: Condvar::new(),
    });
    let entrance = Arc::clone(&door);
    thread::spawn(move || {
        for client in listener.incoming() {
            let door = Arc::clone(&entrance);
            thread::spawn(move || {
                if let Err(error) = client.and_then(|client| door.serve(client)) {
                    eprintln!("a connection ended with an error: {error}");
                }
            });
        }
    });
    println!("postgres://postgres@127.0.0.1:{port}/postgres?sslmode=disable");
    io::stdout().flush()?;

    // An error is as good a sign as the end that nobody is there any more.
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
    door.close();
    door.engine.remove_socket();
    if remove {
        let _ = fs::remove_dir_all(&folder);
    }
    // Not by returning: the engine would wait for its client to hang up.
    exit(0)
}

/// The embedded PostgreSQL.
struct Engine {
    server: PgliteServer,
    /// Holds its socket: a folder of the server's own could have too long a
    /// name for one.
    #[cfg(unix)]
    socket_folder: tempfile::TempDir,
}

impl Engine {
    /// Starts it on a socket that does not hold back small packets, as its
    /// TCP sockets do: each statement would take 40 ms.
    #[cfg(unix)]
    fn start(builder: PgliteServerBuilder) -> Result<Self, Box<dyn Error>> {
        let folder = tempfile::tempdir()?;
        let server = builder.unix(folder.path().join(".s.PGSQL.5432")).start()?;
        Ok(Self {
            server,
            socket_folder: folder,
        })
    }

    #[cfg(not(unix))]
    fn start(builder: PgliteServerBuilder) -> Result<Self, Box<dyn Error>> {
        let server = builder.start()?;
        Ok(Self { server })
    }

    /// Takes away what nothing is dropped for at the end of `main`.
    fn remove_socket(&self) {
        #[cfg(unix)]
        let _ = fs::remove_dir_all(self.socket_folder.path());
    }

    fn connect(&self) -> io::Result<EngineStream> {
        #[cfg(unix)]
        let address = self.server.socket_path();
        #[cfg(not(unix))]
        let address = self.server.tcp_addr();
        EngineStream::connect(address.ok_or(io::ErrorKind::AddrNotAvailable)?)
    }
}

/// Lets clients in to the engine, one at a time.
struct Door {
    engine: Engine,
    state: Mutex<State>,
    left: Condvar,
}

/// Who is with the engine.
enum State {
    /// Nobody.
    Free,
    /// This client.
    Taken(TcpStream),
    /// Nobody, and nobody will be any more.
    Closed,
}

impl Door {
    /// Serves one client from its first packet to its last.
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let startup = loop {
            let packet = first_packet(&mut client)?;
            let code = packet.get(4..8).and_then(|code| code.try_into().ok());
            match code.map(u32::from_be_bytes) {
                Some(TLS | GSS) => client.write_all(b"N")?,
                // The engine does one thing at a time and cannot be told.
                Some(CANCEL) | None => return Ok(()),
                Some(_) => break packet,
            }
        };
        let Some(_turn) = self.turn(client.try_clone()?) else {
            // feature_not_supported, in "PostgreSQL Error Codes". Pools retry
            // after too_many_connections until they report a mere timeout.
            let refusal = fatal(
                "0A000",
                "the embedded PostgreSQL serves one connection at a time, and another one is open",
            );
            return client.write_all(&refusal);
        };
        match self.engine.connect() {
            Ok(engine) => talk(&client, &engine, &startup),
            Err(error) => {
                // cannot_connect_now
                let refusal = fatal(
                    "57P03",
                    &format!("the embedded PostgreSQL is gone: {error}"),
                );
                client.write_all(&refusal)?;
                eprintln!("the engine is gone: {error}");
                exit(1);
            }
        }
    }

    /// Waits for the client before to leave, up to [`PATIENCE`].
    fn turn(&self, client: TcpStream) -> Option<Turn<'_>> {
        let mut state = self.wait();
        if !matches!(*state, State::Free) {
            return None;
        }
        *state = State::Taken(client);
        Some(Turn { door: self })
    }

    /// Sends the client away, and waits until the engine has put everything
    /// in order after it: it still writes files then.
    fn close(&self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Taken(client) = &*state {
            // Fails only if it went by itself.
            let _ = client.shutdown(Shutdown::Both);
        }
        drop(state);
        *self.wait() = State::Closed;
    }

    /// Waits until nobody is with the engine, up to [`PATIENCE`].
    fn wait(&self) -> MutexGuard<'_, State> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, _) = self
            .left
            .wait_timeout_while(state, PATIENCE, |state| matches!(state, State::Taken(_)))
            .unwrap_or_else(PoisonError::into_inner);
        state
    }
}

/// The right to talk to the engine, until dropped.
struct Turn<'a> {
    door: &'a Door,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let state = self.door.state.lock();
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Taken(_)) {
            *state = State::Free;
        }
        self.door.left.notify_all();
    }
}

/// Carries everything both ways until the engine has hung up.
fn talk(client: &TcpStream, engine: &EngineStream, startup: &[u8]) -> io::Result<()> {
    let (mut from_client, mut to_client) = (client, client);
    let (mut from_engine, mut to_engine) = (engine, engine);
    to_engine.write_all(startup)?;
    thread::scope(|scope| {
        scope.spawn(|| {
            // However the client went, the engine sees an end in good order:
            // an error on its socket would stop it.
            let _ = io::copy(&mut from_client, &mut to_engine);
            let _ = engine.shutdown(Shutdown::Write);
        });
        let mut buffer = vec![0; 64 * 1024];
        let mut listening = true;
        loop {
            let length = match from_engine.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(length) => length,
            };
            // Read on when the client is gone: the engine must not find its
            // socket closed in the middle of an answer.
            listening = listening && to_client.write_all(&buffer[..length]).is_ok();
        }
        // Ends the copying from the client, too.
        let _ = client.shutdown(Shutdown::Both);
    });
    Ok(())
}

/// Reads a packet of the time before the start: its length, then the rest.
fn first_packet(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    client.read_exact(&mut length)?;
    let rest = u32::from_be_bytes(length);
    if !(8..=LONGEST_STARTUP).contains(&rest) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "no PostgreSQL client",
        ));
    }
    let mut packet = length.to_vec();
    client.take(u64::from(rest) - 4).read_to_end(&mut packet)?;
    Ok(packet)
}

/// An error that ends the connection, as the protocol writes it.
fn fatal(code: &str, message: &str) -> Vec<u8> {
    let fields = format!("SFATAL\0VFATAL\0C{code}\0M{message}\0\0");
    let length = u32::try_from(fields.len() + 4).unwrap_or(u32::MAX);
    let mut packet = vec![b'E'];
    packet.extend(length.to_be_bytes());
    packet.extend(fields.into_bytes());
    packet
}
