//! Objects below an HTTP address: an object store, a CDN, nginx, our own server.

use super::{
    Backend, ByteStream, check_range,
    local::check_limit,
    response::{MAX_EXPLANATION, check_coding, is_html, skip_of, status_error},
    short,
    spool::{Chunks, Spool},
    spools::Spools,
};
use crate::{Error, MANIFEST_NAME, Result, names};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{FutureExt, StreamExt, stream};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use reqwest::{
    Client, ClientBuilder, Response,
    redirect::{Action, Attempt, Policy},
};
use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use url::Url;

/// A host that does not answer a SYN in this time is not there; three retransmissions fit in it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence within an answer. Object stores take seconds when they are cold; who cannot wait so long asks elsewhere.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an idle connection is kept: less than what common hosts and balancers do (60 s and more), so that we close first.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);

const H2_STREAM_WINDOW: u32 = 4 << 20;
const H2_CONNECTION_WINDOW: u32 = 16 << 20;

/// As many as browsers and reqwest follow, or fewer.
const MAX_REDIRECTS: usize = 10;

/// What to speak with a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HttpVersion {
    /// As many connections as there are requests at once, kept for the next ones.
    #[default]
    Http1,
    /// One connection for all requests; on a plain address without asking first ("prior knowledge", RFC 9113, section 3.3).
    Http2,
}

/// An HTTP(S) address.
#[derive(Debug, Clone)]
pub struct HttpBackend {
    base: Url,
    client: Client,
    version: HttpVersion,
    /// Objects that came whole though a range was asked for.
    spools: Arc<Spools>,
    /// Whether it was said that the host ignores Range.
    warned: Arc<AtomicBool>,
}

impl HttpBackend {
    /// Objects below `base`. It may end in a slash or not, or name the `checkpoint.json`; a query is kept for every request.
    pub fn new(base: &str) -> Result<Self> {
        Self::with_version(base, HttpVersion::default())
    }

    /// The same, over another version of HTTP.
    pub fn with_version(base: &str, version: HttpVersion) -> Result<Self> {
        let unsupported = |what: String| Error::Unsupported { object: base.into(), what };
        let mut url = Url::parse(base).map_err(|e| unsupported(format!("not an address: {e}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(unsupported(format!("{}: is not an HTTP address", url.scheme())));
        }
        url.set_fragment(None);
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty();
        }
        if url.path_segments().and_then(|mut path| path.next_back()) == Some(MANIFEST_NAME)
            && let Ok(mut path) = url.path_segments_mut()
        {
            path.pop();
        }
        Ok(Self { client: client(&url, version)?, base: url, version, spools: Arc::default(), warned: Arc::default() })
    }

    fn url(&self, object: &str) -> Result<Url> {
        let mut url = self.base.clone();
        match url.path_segments_mut() {
            Ok(mut path) if names::is_safe(object) => path.pop_if_empty().extend(object.split('/')),
            _ => {
                let what = format!("{object:?} is not a name that a store can have");
                return Err(Error::Unsupported { object: self.describe(""), what });
            }
        };
        Ok(url)
    }

    /// Sends a request; answers other than success are errors.
    async fn send(&self, object: &str, range: Option<&Range<u64>>) -> Result<Response> {
        let mut request = self.client.get(self.url(object)?);
        if let Some(range) = range {
            request = request.header(header::RANGE, format!("bytes={}-{}", range.start, range.end - 1));
        }
        let response = request.send().await.map_err(|e| unavailable(self.describe(object), e))?;
        let status = response.status();
        let expected = status == StatusCode::OK || (range.is_some() && status == StatusCode::PARTIAL_CONTENT);
        if !expected {
            let headers = response.headers().clone();
            let body = beginning(response).await;
            return Err(status_error(self.describe(object), status, &headers, &body));
        }
        check_coding(&self.describe(object), response.headers())?;
        if is_html(response.headers()) {
            let what = "answers with a web page; is this a page store?".into();
            return Err(Error::Unsupported { object: self.describe(object), what });
        }
        Ok(response)
    }

    /// Asks for a range: the answer's body, and how long it is if the host says so.
    async fn open(&self, object: &str, range: &Range<u64>) -> Result<(Body, Option<u64>)> {
        let response = self.send(object, Some(range)).await?;
        let name = self.describe(object);
        let whole = response.status() == StatusCode::OK;
        self.spools.answered(whole);
        let skip = skip_of(&name, response.status(), response.headers(), range)?;
        let total = response.content_length();
        let body = response.bytes_stream().map(|chunk| chunk.map_err(|e| causes(&e))).boxed();
        Ok((Body { body, name, skip, left: range.end - range.start, range: range.clone(), whole, done: false }, total))
    }

    /// Reads a range from a spool.
    fn follow(&self, spool: Spool, object: &str, range: Range<u64>) -> ByteStream {
        let (backend, name, object) = (self.clone(), self.describe(object), object.to_owned());
        let ask = move |rest| async move { Ok(backend.open(&object, &rest).await?.0.stream()) }.boxed();
        spool.read(name, range, ask)
    }

    fn warn_once(&self, object: &str, what: &str) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(object, "host ignores Range: whole objects are downloaded, {what}");
        }
    }
}

/// A client with connections of its own.
fn client(base: &Url, version: HttpVersion) -> Result<Client> {
    // The first one wins; another part of the program may have been earlier.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let spoken = || match version {
        HttpVersion::Http1 => Client::builder().http1_only(),
        HttpVersion::Http2 if base.scheme() == "http" => h2_windows(Client::builder().http2_prior_knowledge()),
        HttpVersion::Http2 => h2_windows(Client::builder()),
    };
    let builder = || {
        spoken()
            .user_agent(concat!("pageferry/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers.clone())
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
    };
    let built = match base.scheme() {
        // Reading the machine's CA certificates takes 20 ms, as long as many a restore; and a bare container has none.
        "http" => builder().tls_certs_only([]).redirect(Policy::custom(stay_plain)).build(),
        _ => builder().build(),
    };
    built.map_err(|e| {
        let what = format!("cannot set up TLS: {}; are CA certificates installed?", causes(&e));
        Error::Unsupported { object: redacted(base), what }
    })
}

/// Windows that a link of 1 Gbit/s and 50 ms does not fill: the standard's 64 KiB would allow a frame per round trip.
fn h2_windows(builder: ClientBuilder) -> ClientBuilder {
    builder
        .http2_initial_stream_window_size(H2_STREAM_WINDOW)
        .http2_initial_connection_window_size(H2_CONNECTION_WINDOW)
}

/// Follows redirects as reqwest does, but not to TLS, for which a client of a plain address has no certificates.
fn stay_plain(attempt: Attempt<'_>) -> Action {
    if attempt.url().scheme() == "https" {
        let to = redacted(attempt.url());
        return attempt.error(format!("to {to}; give the https:// address instead"));
    }
    match attempt.previous().len() {
        0..=MAX_REDIRECTS => attempt.follow(),
        _ => attempt.error("too many"),
    }
}

#[async_trait]
impl Backend for HttpBackend {
    fn describe(&self, object: &str) -> String {
        let mut text = redacted(&self.base);
        if !text.ends_with('/') {
            text.push('/');
        }
        text + object
    }

    async fn get(&self, object: &str, limit: u64) -> Result<Bytes> {
        let response = self.send(object, None).await?;
        if let Some(len) = response.content_length() {
            check_limit(&self.describe(object), len, limit)?;
        }
        let mut all = BytesMut::new();
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|e| unavailable(self.describe(object), e))?;
            check_limit(&self.describe(object), all.len() as u64 + chunk.len() as u64, limit)?;
            all.extend_from_slice(&chunk);
        }
        Ok(all.freeze())
    }

    async fn get_range(&self, object: &str, range: Range<u64>) -> Result<ByteStream> {
        check_range(|| self.describe(object), &range)?;
        // Held until the answer's head is here, and with it a spool if there is to be one.
        let _turn = match self.spools.find(object, &range).await {
            Ok(spool) => return Ok(self.follow(spool, object, range)),
            Err(turn) => turn,
        };
        let (mut body, total) = self.open(object, &range).await?;
        if body.whole && self.spools.wants(&range, total) {
            match self.spools.begin(object, &range, total, body.body).await {
                Ok(spool) => {
                    self.warn_once(&body.name, "each once, and kept in temporary files");
                    return Ok(self.follow(spool, object, range));
                }
                // The spools have said why.
                Err(unused) => {
                    self.warned.store(true, Ordering::Relaxed);
                    body.body = unused;
                }
            }
        } else if body.skip > 0 {
            self.warn_once(&body.name, "from the beginning for every read, because they are too large to be kept");
        }
        Ok(body.stream())
    }

    fn forget(&self, object: &str) {
        self.spools.forget(object);
    }

    fn fresh(&self) -> Arc<dyn Backend> {
        // The same options worked before; if not, shared connections are slower, not wrong.
        let client = client(&self.base, self.version).unwrap_or_else(|_| self.client.clone());
        Arc::new(Self { client, ..self.clone() })
    }
}

/// A body on its way.
struct Body {
    body: Chunks,
    name: String,
    /// Bytes still to be dropped.
    skip: u64,
    /// Bytes still to be handed out.
    left: u64,
    range: Range<u64>,
    /// The whole object comes; what follows the range is not waited for.
    whole: bool,
    done: bool,
}

impl Body {
    fn stream(self) -> ByteStream {
        stream::unfold(self, |mut body| async move {
            let next = body.next().await?;
            body.done = next.is_err();
            Some((next, body))
        })
        .boxed()
    }

    async fn next(&mut self) -> Option<Result<Bytes>> {
        if self.done || (self.whole && self.left == 0) {
            return None;
        }
        loop {
            let mut chunk = match self.body.next().await {
                Some(Ok(chunk)) => chunk,
                Some(Err(problem)) => {
                    return Some(Err(Error::Unavailable { object: self.name.clone(), problem }));
                }
                None if self.left == 0 => return None,
                None => {
                    return Some(Err(short(
                        self.name.clone(),
                        &self.range,
                        self.range.end - self.range.start - self.left,
                    )));
                }
            };
            let skipped = self.skip.min(chunk.len() as u64);
            let _ = chunk.split_to(skipped as usize);
            self.skip -= skipped;
            if chunk.is_empty() {
                continue;
            }
            if chunk.len() as u64 > self.left {
                if !self.whole {
                    let got = self.range.end - self.range.start - self.left + chunk.len() as u64;
                    return Some(Err(short(self.name.clone(), &self.range, got)));
                }
                chunk.truncate(self.left as usize);
            }
            self.left -= chunk.len() as u64;
            return Some(Ok(chunk));
        }
    }
}

/// The beginning of an error's body; what goes wrong while it is read does not matter.
async fn beginning(response: Response) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut body = response.bytes_stream();
    while let Some(Ok(chunk)) = body.next().await {
        bytes.extend_from_slice(&chunk);
        if bytes.len() >= MAX_EXPLANATION {
            break;
        }
    }
    bytes
}

fn unavailable(object: String, error: reqwest::Error) -> Error {
    let problem = causes(&error);
    if error.is_builder() || error.is_redirect() {
        return Error::Unsupported { object, what: problem };
    }
    Error::Unavailable { object, problem }
}

/// The error and what caused it, without the URL (the message has it already, and a query may hold a signature).
fn causes(error: &reqwest::Error) -> String {
    if error.is_timeout() && error.is_connect() {
        return format!("no connection within {} s", CONNECT_TIMEOUT.as_secs());
    }
    if error.is_timeout() {
        return format!("no answer within {} s", READ_TIMEOUT.as_secs());
    }
    let mut innermost: &dyn std::error::Error = error;
    let mut text = Vec::new();
    while let Some(cause) = innermost.source() {
        innermost = cause;
        text.push(cause.to_string());
    }
    // Each layer repeats the one below; the last says it best.
    let kind = match error {
        e if e.is_redirect() => "redirects",
        e if e.is_connect() => "cannot connect",
        _ => "the connection broke",
    };
    text.pop().map_or_else(|| kind.to_owned(), |last| format!("{kind}: {last}"))
}

/// An address without password, user and query.
fn redacted(url: &Url) -> String {
    let mut url = url.clone();
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.set_query(None);
    url.into()
}
