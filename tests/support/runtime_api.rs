//! Lambda's Runtime API, served by a test
//! (<https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>).

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc, oneshot};
use uuid::Uuid;

const VERSION: &str = "/2018-06-01/runtime";

/// What a function said to an event.
#[derive(Debug)]
pub enum Answer {
    /// It answered.
    Response(Value),
    /// It failed.
    Error {
        /// `errorType`
        kind: String,
        /// `errorMessage`
        message: String,
    },
}

impl Answer {
    /// The answer, which must not be an error.
    #[track_caller]
    pub fn response(self) -> Value {
        match self {
            Self::Response(value) => value,
            Self::Error { kind, message } => panic!("an error: {kind}: {message}"),
        }
    }

    /// Kind and message of the error, which it must be.
    #[track_caller]
    pub fn error(self) -> (String, String) {
        match self {
            Self::Error { kind, message } => (kind, message),
            Self::Response(value) => panic!("not an error: {value}"),
        }
    }
}

struct Invocation {
    id: String,
    event: String,
    deadline_ms: u128,
}

/// A running Runtime API for one function.
pub struct RuntimeApi {
    address: SocketAddr,
    events: mpsc::UnboundedSender<Invocation>,
    state: Arc<State>,
    accepting: tokio::task::AbortHandle,
}

struct State {
    next: Mutex<mpsc::UnboundedReceiver<Invocation>>,
    waiting: Mutex<HashMap<String, oneshot::Sender<Answer>>>,
}

impl RuntimeApi {
    /// Starts it on a free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (events, next) = mpsc::unbounded_channel();
        let state = Arc::new(State {
            next: Mutex::new(next),
            waiting: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state))).abort_handle();
        Self {
            address,
            events,
            state,
            accepting,
        }
    }

    /// The value of `AWS_LAMBDA_RUNTIME_API`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Hands the event to the function, which has so much time, and waits for its answer.
    pub async fn invoke(&self, event: &str, time: Duration) -> Answer {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let id = Uuid::new_v4().to_string();
        let (say, answer) = oneshot::channel();
        self.state.waiting.lock().await.insert(id.clone(), say);
        let invocation = Invocation {
            id,
            event: event.to_owned(),
            deadline_ms: (now.expect("a clock") + time).as_millis(),
        };
        assert!(self.events.send(invocation).is_ok(), "nobody receives");
        answer.await.expect("an answer")
    }
}

impl Drop for RuntimeApi {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, Arc::clone(&state)));
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    let answers = service_fn(|request| answer(request, &state));
    // An error here is a function that was ended.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), answers)
        .await;
}

async fn answer(request: Request<Incoming>, state: &State) -> Result<Response<String>, Infallible> {
    let path = request.uri().path().to_owned();
    let path = path
        .strip_prefix(VERSION)
        .expect("the Runtime API's version");
    if request.method() == Method::GET && path == "/invocation/next" {
        let invocation = state.next.lock().await.recv().await;
        return Ok(next(&invocation.expect("an event")));
    }
    let body = text(request.into_body()).await;
    assert_ne!(path, "/init/error", "the function did not start: {body}");
    let (id, said) = path
        .strip_prefix("/invocation/")
        .and_then(|rest| rest.split_once('/'))
        .unwrap_or_else(|| panic!("the Runtime API has no {path}"));
    let value: Value = serde_json::from_str(&body).expect("JSON");
    let field = |name: &str| value[name].as_str().expect("a text").to_owned();
    let answer = match said {
        "response" => Answer::Response(value),
        "error" => Answer::Error {
            kind: field("errorType"),
            message: field("errorMessage"),
        },
        other => panic!("the Runtime API has no {other}"),
    };
    let say = state.waiting.lock().await.remove(id);
    // A test that no longer listens has failed already.
    let _ = say.expect("one answer to each event").send(answer);
    let mut accepted = Response::new("{\"status\":\"OK\"}".to_owned());
    *accepted.status_mut() = StatusCode::ACCEPTED;
    Ok(accepted)
}

fn next(invocation: &Invocation) -> Response<String> {
    Response::builder()
        .header("content-type", "application/json")
        .header("lambda-runtime-aws-request-id", &invocation.id)
        .header(
            "lambda-runtime-deadline-ms",
            invocation.deadline_ms.to_string(),
        )
        .header(
            "lambda-runtime-invoked-function-arn",
            "arn:aws:lambda:us-east-1:123456789012:function:sweeper",
        )
        .header(
            "lambda-runtime-trace-id",
            "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1",
        )
        .body(invocation.event.clone())
        .expect("headers")
}

async fn text(body: Incoming) -> String {
    let mut body = std::pin::pin!(body);
    let mut all = Vec::new();
    while let Some(frame) = std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await
    {
        if let Ok(data) = frame.expect("a whole body").into_data() {
            all.extend_from_slice(&data);
        }
    }
    String::from_utf8(all).expect("UTF-8")
}
