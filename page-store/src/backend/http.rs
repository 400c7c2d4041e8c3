//! Objects below an HTTP address: an object store, a CDN, nginx, our own server.

mod address;
mod body;
mod client;
mod host;
mod options;

use super::{
    Backend, ByteStream, HttpLook, Look, check_range,
    local::check_limit,
    response::{skip_of, total_of},
    spool::Spool,
    spools::Spools,
    suspects::Suspects,
};
use crate::{Error, MANIFEST_NAME, Result, links::LinksFile};
pub use address::{HttpAddress, HttpAnswer, same_host};
use async_trait::async_trait;
use body::Body;
use bytes::{Bytes, BytesMut};
use client::{Redirects, client};
use futures::FutureExt;
use host::{Ask, Host, Place};
use http::StatusCode;
pub use options::{HttpOptions, Token};
use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use url::Url;

/// How long one attempt may take, by its steps. There is no limit for a whole body: a large one over a slow link takes what it takes.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// Until a connection is there. The default has room for three retransmissions of a SYN.
    pub connect: Duration,
    /// Until the head of the answer is there, the connection included. Object stores take seconds when they are cold; who cannot wait so
    /// long asks elsewhere.
    pub first_byte: Duration,
    /// Longest silence within a body.
    pub stall: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(10), first_byte: seconds(25), stall: seconds(15) }
    }
}

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
    host: Host,
    options: HttpOptions,
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
        Self::with_options(base, version.into())
    }

    /// The same, for a host that wants to know who asks, or has an authority of its own.
    pub fn with_options(base: &str, options: HttpOptions) -> Result<Self> {
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
        Self::at(Place::Below(url), options)
    }

    /// Objects by the links of a file. The token is for hosts that want one, and is not sent.
    pub(crate) fn of_links(file: LinksFile, options: HttpOptions) -> Result<Self> {
        Self::at(Place::Linked(Arc::new(file)), HttpOptions { token: None, ..options })
    }

    fn at(place: Place, options: HttpOptions) -> Result<Self> {
        let deadlines = Deadlines::default();
        let client = client(&place.url(), &options, deadlines, Redirects::Followed)?;
        let token = options.token.clone();
        let host = Host { place, client, token, deadlines, suspects: Arc::<Suspects>::default() };
        Ok(Self { host, options, spools: Arc::default(), warned: Arc::default() })
    }

    /// The same with other deadlines.
    pub fn with_deadlines(self, deadlines: Deadlines) -> Result<Self> {
        let client = client(&self.host.place.url(), &self.options, deadlines, Redirects::Followed)?;
        Ok(Self { host: Host { client, deadlines, ..self.host }, ..self })
    }

    /// Asks for a range: the answer's body, and how long it is if the host says so.
    async fn open(&self, object: &str, range: &Range<u64>) -> Result<(Body, Option<u64>)> {
        let response = self.host.send(object, Ask::range(range)).await?;
        let name = self.describe(object);
        let whole = response.status() == StatusCode::OK;
        self.spools.answered(whole);
        let skip = skip_of(&name, response.status(), response.headers(), range)
            .map_err(|error| self.host.suspecting(object, error))?;
        let total = response.content_length();
        let bytes = if whole { 0..total.unwrap_or(u64::MAX) } else { range.clone() };
        let body = self.host.resuming(object, response, bytes).stream();
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

fn spoken(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_09 => "HTTP/0.9",
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_11 => "HTTP/1.1",
        http::Version::HTTP_2 => "HTTP/2",
        _ => "another HTTP",
    }
}

#[async_trait]
impl Backend for HttpBackend {
    fn describe(&self, object: &str) -> String {
        self.host.describe(object)
    }

    async fn get(&self, object: &str, limit: u64) -> Result<Bytes> {
        let response = self.host.send(object, Ask::default()).await?;
        let len = response.content_length();
        if let Some(len) = len {
            check_limit(&self.describe(object), len, limit)?;
        }
        let mut all = BytesMut::new();
        let mut body = self.host.resuming(object, response, 0..len.unwrap_or(u64::MAX));
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|problem| Error::unavailable(self.describe(object), problem))?;
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

    async fn look(&self, object: &str, at: u64) -> Result<Look> {
        let range = at..at.saturating_add(1);
        let response = self.host.send(object, Ask::range(&range)).await?;
        // Whatever follows is left unread: a host that ignores Range would send all of it.
        skip_of(&self.describe(object), response.status(), response.headers(), &range)?;
        let honours_range = response.status() == StatusCode::PARTIAL_CONTENT;
        let size = match honours_range {
            true => total_of(response.headers()),
            false => response.content_length(),
        };
        Ok(Look { size, http: Some(HttpLook { version: spoken(response.version()), honours_range }) })
    }

    fn forget(&self, object: &str, _range: &Range<u64>) {
        self.spools.forget(object);
        self.host.suspects.add(object);
    }

    fn fresh(&self) -> Arc<dyn Backend> {
        // The same options worked before; if not, shared connections are slower, not wrong.
        let client = client(&self.host.place.url(), &self.options, self.host.deadlines, Redirects::Followed);
        let client = client.unwrap_or_else(|_| self.host.client.clone());
        Arc::new(Self { host: Host { client, ..self.host.clone() }, ..self.clone() })
    }
}
