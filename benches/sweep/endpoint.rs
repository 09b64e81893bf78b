//! A synthetic S3 endpoint: a process of its own, so that what it costs is not counted as
//! anybody else's, and so cheap that no client has to wait for it.
//!
//! Pages are written by arithmetic ([`Population`]); no signature is checked. Deleted keys
//! stay in the listing, so that every round sees the same bucket; whether what was deleted
//! was an orphan and carried its entity tag is counted instead. Latency is a wait before
//! each answer, at any number of requests at once.

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use memchr::memmem;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use url::form_urlencoded;

use crate::keys::{Population, etag};
use crate::page::contents;

/// The one bucket.
pub(crate) const BUCKET: &str = "pictures";

/// Most keys of a page.
const MAX_KEYS: u64 = 1_000;

/// What the endpoint counted since it was last told how to behave.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Pages that were answered.
    pub(crate) lists: u64,
    /// Batches of deletions that were answered.
    pub(crate) deletes: u64,
    /// Orphans that were deleted on the right condition.
    pub(crate) deleted: u64,
    /// Other keys for whose deletion was asked: none, ever.
    pub(crate) wrong: u64,
    /// Single objects that were asked about.
    pub(crate) heads: u64,
    /// Everything else.
    pub(crate) others: u64,
    /// Requests that were told to slow down.
    pub(crate) throttled: u64,
    /// Bytes of the answers' bodies.
    pub(crate) bytes: u64,
    /// Seconds between the first and the last page that was answered.
    pub(crate) list_seconds: f64,
    /// Seconds between the first and the last batch that was answered.
    pub(crate) delete_seconds: f64,
    /// When the first page was asked for, in milliseconds since 1970.
    pub(crate) first_list_ms: Option<u64>,
}

/// How the endpoint shall behave.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Behaviour {
    /// The wait before each answer.
    pub(crate) latency_ms: u64,
    /// Pages a second that are answered; 0 for any number.
    pub(crate) pages_a_second: u32,
    /// Deleted keys a second; 0 for any number.
    pub(crate) deletions_a_second: u32,
}

struct Endpoint {
    population: Population,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    behaviour: Behaviour,
    counts: Counts,
    listing: Limiter,
    deleting: Limiter,
}

/// What is allowed so far at a steady rate; a big request may go into debt.
#[derive(Default)]
struct Limiter {
    tokens: f64,
    refilled: Option<Instant>,
    first: Option<Instant>,
}

impl Limiter {
    /// Takes the cost at this rate, or says no. A tenth of a second's worth may be saved up.
    fn admit(&mut self, rate: u32, cost: f64, now: Instant) -> bool {
        if rate > 0 {
            let rate = f64::from(rate);
            let since = self.refilled.map_or(1.0, |then| (now - then).as_secs_f64());
            self.tokens = (self.tokens + since * rate).min(rate / 10.0);
            self.refilled = Some(now);
            if self.tokens < 0.0 {
                return false;
            }
            self.tokens -= cost;
        }
        self.first.get_or_insert(now);
        true
    }

    fn seconds(&self, now: Instant) -> f64 {
        self.first.map_or(0.0, |first| (now - first).as_secs_f64())
    }
}

/// Serves until standard input ends; its address is the first line of standard output.
pub(crate) fn serve(population: Population) -> anyhow::Result<()> {
    // Whoever started it holds the other end: it never outlives them.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    // One thread: it must leave the cores to those who are measured.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("no free port")?;
        println!("http://{}", listener.local_addr()?);
        std::io::stdout().flush()?;
        let endpoint: &Endpoint = Box::leak(Box::new(Endpoint {
            population,
            state: Mutex::default(),
        }));
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(async move {
                let service =
                    service_fn(async |request| Ok::<_, Infallible>(endpoint.answer(request).await));
                // A client may go away at any time.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    })
}

type Answer = Response<Full<Bytes>>;

impl Endpoint {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path().trim_start_matches('/').to_owned();
        let query = Query::new(request.uri().query().unwrap_or_default());
        if path == "__counts" {
            let counts = self.state().counts.clone();
            return answer(
                StatusCode::OK,
                serde_json::to_vec(&counts).unwrap_or_default(),
            );
        }
        let method = request.method().clone();
        let Ok(body) = request.into_body().collect().await else {
            return error(StatusCode::BAD_REQUEST, "IncompleteBody");
        };
        let body = body.to_bytes();
        if path == "__behave" {
            let Ok(behaviour) = serde_json::from_slice(&body) else {
                return error(StatusCode::BAD_REQUEST, "InvalidRequest");
            };
            *self.state() = State {
                behaviour,
                ..State::default()
            };
            return answer(StatusCode::OK, Vec::new());
        }
        let latency = Duration::from_millis(self.state().behaviour.latency_ms);
        let answered = self.s3(&method, &path, &query, &body);
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        answered
    }

    fn s3(&self, method: &Method, path: &str, query: &Query, body: &[u8]) -> Answer {
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        if !bucket.is_empty() && bucket != BUCKET {
            return error(StatusCode::NOT_FOUND, "NoSuchBucket");
        }
        match (method.as_str(), key.is_empty()) {
            ("GET", true) if bucket.is_empty() => {
                self.other("<ListAllMyBucketsResult><Buckets><Bucket><Name>pictures</Name><CreationDate>2025-01-01T00:00:00.000Z</CreationDate></Bucket></Buckets></ListAllMyBucketsResult>")
            }
            ("GET", true) if query.has("versioning") => self.other(
                "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>",
            ),
            ("GET", true) if query.has("uploads") => self.other(
                "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>",
            ),
            ("GET", true) if query.has("lifecycle") => {
                self.state().counts.others += 1;
                error(StatusCode::NOT_FOUND, "NoSuchLifecycleConfiguration")
            }
            ("GET", true) if query.has("location") => self.other("<LocationConstraint/>"),
            ("GET", true) => self.list(query),
            ("POST", true) if query.has("delete") => self.delete(body),
            // Asked only whether it honours conditions, too: without this answer each object would be
            // looked at before its batch.
            ("DELETE", false) if is_probe(key.as_bytes()) => {
                self.state().counts.others += 1;
                error(StatusCode::PRECONDITION_FAILED, "PreconditionFailed")
            }
            ("HEAD", true) => self.other(""),
            ("HEAD", false) => self.head(key),
            _ => error(StatusCode::NOT_IMPLEMENTED, "NotImplemented"),
        }
    }

    fn other(&self, body: &str) -> Answer {
        self.state().counts.others += 1;
        answer(StatusCode::OK, body.as_bytes().to_vec())
    }

    fn head(&self, key: &str) -> Answer {
        self.state().counts.heads += 1;
        let Some(index) = self.population.place(key.as_bytes()) else {
            return answer(StatusCode::NOT_FOUND, Vec::new());
        };
        Response::builder()
            .header("etag", format!("\"{}\"", text(&etag(index))))
            .header("last-modified", "Wed, 01 Jan 2025 00:00:00 GMT")
            .body(Full::default())
            .unwrap_or_default()
    }

    fn list(&self, query: &Query) -> Answer {
        {
            let mut state = self.state();
            let state = &mut *state;
            let now = Instant::now();
            state.counts.first_list_ms.get_or_insert_with(|| {
                let since = SystemTime::now().duration_since(UNIX_EPOCH);
                since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
            });
            if !state
                .listing
                .admit(state.behaviour.pages_a_second, 1.0, now)
            {
                state.counts.throttled += 1;
                return error(StatusCode::SERVICE_UNAVAILABLE, "SlowDown");
            }
            state.counts.lists += 1;
            state.counts.list_seconds = state.listing.seconds(now);
        }
        let page = self.page(query);
        self.state().counts.bytes += page.len() as u64;
        answer(StatusCode::OK, page)
    }

    /// A page as S3 writes it, in either version of the request. Keys hold no delimiter and
    /// nothing to encode.
    fn page(&self, query: &Query) -> Vec<u8> {
        let keys = self.population;
        let second = query.get("list-type") == Some("2");
        let prefix = query.get("prefix").unwrap_or_default();
        let after = if second {
            query
                .get("continuation-token")
                .and_then(|token| token.strip_prefix("after-"))
                .or(query.get("start-after"))
        } else {
            query.get("marker")
        };
        let from = keys
            .rank(prefix.as_bytes(), false)
            .max(after.map_or(0, |after| keys.rank(after.as_bytes(), true)));
        // No key holds a byte as high as this one.
        let beyond = [prefix.as_bytes(), b"\xff"].concat();
        let end = keys.rank(&beyond, false).max(from);
        let asked = query.get("max-keys").and_then(|count| count.parse().ok());
        let up_to = end.min(from + asked.unwrap_or(MAX_KEYS).min(MAX_KEYS));
        let mut page = Vec::with_capacity(400 * 1_024);
        let mut put = |text: &str| page.extend_from_slice(text.as_bytes());
        put(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>",
        );
        put(BUCKET);
        put("</Name><Prefix>");
        put(prefix);
        put("</Prefix><MaxKeys>1000</MaxKeys>");
        if query.get("encoding-type") == Some("url") {
            put("<EncodingType>url</EncodingType>");
        }
        if second {
            put(&format!("<KeyCount>{}</KeyCount>", up_to - from));
        }
        if up_to < end && up_to > from {
            let last = keys.key(up_to - 1);
            put("<IsTruncated>true</IsTruncated>");
            put(&if second {
                let token = text(&last);
                format!("<NextContinuationToken>after-{token}</NextContinuationToken>")
            } else {
                format!("<NextMarker>{}</NextMarker>", text(&last))
            });
        } else {
            put("<IsTruncated>false</IsTruncated>");
        }
        for index in from..up_to {
            contents(&mut page, index, &keys.key(index));
        }
        page.extend_from_slice(b"</ListBucketResult>");
        page
    }

    fn delete(&self, body: &[u8]) -> Answer {
        let asked: Vec<(&[u8], &[u8])> = memmem::find_iter(body, b"<Object>")
            .map(|at| {
                let rest = &body[at..];
                let object = &rest[..memmem::find(rest, b"</Object>").unwrap_or(rest.len())];
                (element(object, b"Key"), element(object, b"ETag"))
            })
            .collect();
        let mut state = self.state();
        let state = &mut *state;
        let now = Instant::now();
        let cost = u32::try_from(asked.len()).map_or(0.0, f64::from);
        let rate = state.behaviour.deletions_a_second;
        let probe = matches!(asked[..], [(key, _)] if is_probe(key));
        if !probe && !state.deleting.admit(rate, cost, now) {
            state.counts.throttled += 1;
            return error(StatusCode::SERVICE_UNAVAILABLE, "SlowDown");
        }
        let mut out = Vec::with_capacity(64 + asked.len() * 200);
        out.extend_from_slice(b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<DeleteResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
        for (key, tag) in asked {
            let right = self.population.place(key).filter(|&index| {
                let tag = memmem::find(tag, &etag(index));
                Population::is_orphan(index) && tag.is_some()
            });
            if right.is_some() {
                state.counts.deleted += 1;
                out.extend_from_slice(b"<Deleted><Key>");
                out.extend_from_slice(key);
                out.extend_from_slice(
                    b"</Key><DeleteMarker>true</DeleteMarker><DeleteMarkerVersionId>",
                );
                out.extend_from_slice(&key[..32.min(key.len())]);
                out.extend_from_slice(b"</DeleteMarkerVersionId></Deleted>");
            } else {
                state.counts.wrong += u64::from(!is_probe(key));
                out.extend_from_slice(b"<Error><Key>");
                out.extend_from_slice(key);
                out.extend_from_slice(b"</Key><Code>PreconditionFailed</Code><Message>At least one of the pre-conditions you specified did not hold</Message></Error>");
            }
        }
        out.extend_from_slice(b"</DeleteResult>");
        if !probe {
            state.counts.deletes += 1;
            state.counts.delete_seconds = state.deleting.seconds(now);
        }
        state.counts.bytes += out.len() as u64;
        answer(StatusCode::OK, out)
    }
}

fn is_probe(key: &[u8]) -> bool {
    memmem::find(key, b"orphan-sweeper-probe-").is_some()
}

/// The text of the first element of this name.
fn element<'xml>(xml: &'xml [u8], name: &[u8]) -> &'xml [u8] {
    let open = [b"<", name, b">"].concat();
    memmem::find(xml, &open).map_or(b"", |at| {
        let rest = &xml[at + open.len()..];
        &rest[..memchr::memchr(b'<', rest).unwrap_or(rest.len())]
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn answer(status: StatusCode, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(
        CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("application/xml"),
    );
    answer
}

fn error(status: StatusCode, code: &str) -> Answer {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{code}</Message></Error>"
    );
    answer(status, body.into_bytes())
}

/// The parameters of a request, few enough to look through.
struct Query(Vec<(String, String)>);

impl Query {
    fn new(text: &str) -> Self {
        Self(
            form_urlencoded::parse(text.as_bytes())
                .into_owned()
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(its_name, _)| its_name == name);
        found.map(|(_, value)| value.as_str())
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }
}
