//! An S3 server inside this process, for the tests and the demo.
//!
//! It speaks real HTTP on a socket of 127.0.0.1, checks signatures, and keeps
//! the rules that a sweeper's safety rests on: byte order, the caps of 1,000,
//! `ETag` conditions, versions and delete markers. Servers that ignore such a
//! condition are common, and a test against one of them proves nothing. What
//! this server does not honour it refuses with `NotImplemented`.
//!
//! A test reaches behind it through [`Buckets`]: it sets ages by hand, reads
//! what is left, injects a [`Fault`], or changes the world between two
//! requests.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use orphan_sweeper::local::s3::{Effect, Fault, Operation, S3Server};
//!
//! let server = S3Server::start().await?;
//! server.create_bucket("pictures");
//! server.put_at("pictures", "images/a.png", "png", "2026-01-01T00:00:00Z".parse().unwrap());
//! server.inject(Fault::new(Operation::DeleteObjects, Effect::slow_down()).first(2));
//! // … point an S3 client at server.endpoint() …
//! assert_eq!(server.keys("pictures"), ["images/a.png"]);
//! # Ok(())
//! # }
//! ```

mod answer;
mod bucket;
mod buckets;
mod fault;
mod operations;
mod page;

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use s3s::auth::SimpleAuth;
use s3s::dto::StreamingBlob;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, StdError};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use uuid::Uuid;

pub use bucket::{Content, MAX_KEY_BYTES, Object, Upload, Version, VersionId, Versioning};
pub use buckets::{Buckets, RequestRecord};
use fault::Wire;
pub use fault::{Effect, Fault, Operation};

/// The access key that the server accepts.
pub const ACCESS_KEY: &str = "local-access-key";

/// The secret that belongs to [`ACCESS_KEY`]. It guards nothing.
pub const SECRET_KEY: &str = "local-secret-key";

/// The region in which all buckets are.
pub const REGION: &str = "us-east-1";

/// A running server. Dropping it closes its socket and all connections.
///
/// It dereferences to its [`Buckets`], whose clones outlive it.
#[derive(Debug)]
pub struct S3Server {
    buckets: Buckets,
    address: SocketAddr,
    accepting: AbortHandle,
}

impl S3Server {
    /// Starts an empty server on a free port of 127.0.0.1.
    ///
    /// # Errors
    ///
    /// When no socket can be had.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let buckets = Buckets::default();
        let accepting = tokio::spawn(accept(listener, buckets.clone())).abort_handle();
        Ok(Self {
            buckets,
            address,
            accepting,
        })
    }

    /// The URL for clients, which must address buckets by path.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Deref for S3Server {
    type Target = Buckets;

    fn deref(&self) -> &Buckets {
        &self.buckets
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Accepts connections for ever. The connections end with this task.
async fn accept(listener: TcpListener, buckets: Buckets) -> Infallible {
    let mut builder = S3ServiceBuilder::new(buckets.clone());
    builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
    let service = builder.build();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, service.clone(), buckets.clone()));
                }
                // The peer is gone already, or this process has too many files
                // open, which takes others a moment to mend.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, service: S3Service, buckets: Buckets) {
    // Answers are small; waiting to fill a packet would only slow the client.
    let _ = stream.set_nodelay(true);
    let answers = service_fn(|request| answer(request, &service, &buckets));
    // An error here is a client that left, or a fault that closed the connection.
    let _ = http1::Builder::new()
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), answers)
        .await;
}

/// Answers one request, or closes its connection by failing.
async fn answer(
    request: Request<Incoming>,
    service: &S3Service,
    buckets: &Buckets,
) -> Result<Response<Body>, StdError> {
    let wire = Wire::default();
    let mut request = request.map(Body::from);
    request.extensions_mut().insert(wire.clone());
    let mut response = service.call(request).await?;
    escape_carriage_returns(&mut response);
    let headers = response.headers_mut();
    headers.insert(DATE, date(buckets.now())?);
    headers.insert(
        HeaderName::from_static("x-amz-request-id"),
        HeaderValue::from_str(&Uuid::now_v7().simple().to_string())?,
    );
    for effect in wire.take() {
        response = distort(response, effect).await?;
    }
    Ok(response)
}

/// Does to an answer what a fault wants.
async fn distort(mut response: Response<Body>, effect: Effect) -> Result<Response<Body>, StdError> {
    match effect {
        Effect::CloseBefore | Effect::CloseAfter => {
            return Err("a fault closes the connection".into());
        }
        Effect::CutBody => {
            let body = whole(response.body_mut()).await?;
            response
                .headers_mut()
                .insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
            let half = body.slice(..body.len() / 2);
            // hyper sends what it has only when it must wait for more.
            let start = stream::once(async { Ok(half) });
            let end = stream::once(async {
                tokio::task::yield_now().await;
                Err(io::Error::other("a fault cuts the body"))
            });
            let pieces = Box::pin(start.chain(end));
            *response.body_mut() = Body::from(StreamingBlob::wrap(pieces));
        }
        Effect::EditBody(edit) => {
            let body = whole(response.body_mut()).await?;
            let body = edit(String::from_utf8_lossy(&body).into_owned());
            response.headers_mut().remove(CONTENT_LENGTH);
            *response.body_mut() = Body::from(body);
        }
        Effect::Answer { status, body } => {
            *response.status_mut() = StatusCode::from_u16(status)?;
            let headers = response.headers_mut();
            headers.remove(CONTENT_LENGTH);
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
            *response.body_mut() = Body::from(body);
        }
        Effect::DropHeader(name) => {
            response.headers_mut().remove(name);
        }
        // These are the operations' own.
        Effect::Error { .. } | Effect::KeyError(_) | Effect::OmitKey { .. } => {}
    }
    Ok(response)
}

async fn whole(body: &mut Body) -> Result<Bytes, StdError> {
    let mut all = Vec::new();
    while let Some(chunk) = body.next().await {
        all.extend_from_slice(&chunk?);
    }
    Ok(all.into())
}

/// An XML parser reads a bare carriage return as a line feed
/// (<https://www.w3.org/TR/xml/#sec-line-ends>), so S3 writes it as a
/// reference; s3s does not.
fn escape_carriage_returns(response: &mut Response<Body>) {
    let is_xml = response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/xml"));
    let Some(body) = response
        .body()
        .bytes()
        .filter(|body| is_xml && body.contains(&b'\r'))
    else {
        return;
    };
    let body = String::from_utf8_lossy(&body).replace('\r', "&#13;");
    response.headers_mut().remove(CONTENT_LENGTH);
    *response.body_mut() = Body::from(body);
}

/// The time as HTTP headers have it.
fn date(now: Timestamp) -> Result<HeaderValue, StdError> {
    let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&now)?;
    Ok(HeaderValue::from_str(&date)?)
}
