//! One request to one host, and what its head means.

use super::{
    Deadlines, Token,
    body::{Resuming, chunks},
};
use crate::{
    Error, Links, MANIFEST_NAME, Result, Retry,
    backend::response::{MAX_EXPLANATION, check_coding, is_html, status_error, strong_etag},
    backend::suspects::Suspects,
    links::LinksFile,
    names,
};
use futures::StreamExt;
use http::{HeaderValue, StatusCode, header};
use reqwest::{Client, Response};
use std::{fmt, ops::Range, sync::Arc, time::Duration};
use tokio::time::timeout;
use url::Url;

/// For the body of an error: it is only explanation.
const EXPLANATION: Duration = Duration::from_secs(2);

/// How the message of a 401 begins.
const REFUSED: &str = "HTTP 401";

/// What is asked for: all of an object, or its bytes from some place on.
#[derive(Clone, Copy, Default)]
pub(super) struct Ask<'a> {
    pub(super) from: Option<u64>,
    pub(super) end: Option<u64>,
    /// Only if the object still has this ETag; else all of it.
    pub(super) unchanged: Option<&'a HeaderValue>,
}

impl Ask<'_> {
    pub(super) fn range(range: &Range<u64>) -> Self {
        Self { from: Some(range.start), end: Some(range.end), unchanged: None }
    }
}

/// Where objects are.
#[derive(Clone)]
pub(super) enum Place {
    /// Below an address.
    Below(Url),
    /// Each at an address of its own, which holds a signature: it is shown to that host and to nobody else.
    Linked(Arc<LinksFile>),
}

impl Place {
    /// An address that says which scheme they have.
    pub(super) fn url(&self) -> Url {
        match self {
            Self::Below(base) => base.clone(),
            Self::Linked(file) => file.any(),
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Below(base) => f.write_str(&redacted(base)),
            Self::Linked(file) => file.fmt(f),
        }
    }
}

/// Where objects are, and the connections there.
#[derive(Debug, Clone)]
pub(super) struct Host {
    pub(super) place: Place,
    pub(super) client: Client,
    pub(super) token: Option<Arc<Token>>,
    pub(super) deadlines: Deadlines,
    pub(super) suspects: Arc<Suspects>,
}

impl Host {
    pub(super) fn describe(&self, object: &str) -> String {
        let mut text = match &self.place {
            Place::Below(base) => redacted(base),
            Place::Linked(file) => return file.describe(object),
        };
        if !text.ends_with('/') {
            text.push('/');
        }
        text + object
    }

    fn url(&self, base: &Url, object: &str) -> Result<Url> {
        let mut url = base.clone();
        match url.path_segments_mut() {
            Ok(mut path) if names::is_object(object) => {
                path.pop_if_empty();
                match names::shared(object) {
                    Some((sibling, pack)) => path.pop().push(sibling).extend(pack.split('/')),
                    None => path.extend(object.split('/')),
                }
            }
            _ => {
                return Err(self.no_name(object));
            }
        };
        Ok(url)
    }

    fn no_name(&self, object: &str) -> Error {
        let what = format!("{object:?} is not a name that a store can have");
        Error::Unsupported { object: self.describe(""), what }
    }

    /// Sends a request; answers other than success are errors.
    pub(super) async fn send(&self, object: &str, ask: Ask<'_>) -> Result<Response> {
        let base = match &self.place {
            Place::Below(base) => base,
            Place::Linked(file) => return self.send_by_link(file, object, ask).await,
        };
        let Some(token) = &self.token else { return self.send_as(base, object, ask, None).await };
        let header = token.header();
        match self.send_as(base, object, ask, Some(&header)).await {
            Err(Error::Unsupported { what, .. }) if what.contains(REFUSED) && token.renew(&header) => {
                self.send_as(base, object, ask, Some(&token.header())).await
            }
            done => done,
        }
    }

    async fn send_as(&self, base: &Url, object: &str, ask: Ask<'_>, token: Option<&HeaderValue>) -> Result<Response> {
        let response = self.request(self.url(base, object)?, object, ask, token).await?;
        self.judged(object, ask, response).await
    }

    /// By the object's link; where that is refused, by the one that the file has for it now.
    async fn send_by_link(&self, file: &LinksFile, object: &str, ask: Ask<'_>) -> Result<Response> {
        if !names::is_object(object) {
            return Err(self.no_name(object));
        }
        let links = file.current();
        let refusal = match self.try_link(file, &links, object, ask).await? {
            Ok(response) => return Ok(response),
            Err(refusal) => refusal,
        };
        let Some(links) = file.renewed(&links).await else { return Err(refusal) };
        self.try_link(file, &links, object, ask).await?
    }

    /// The inner error is one for which other links may help.
    async fn try_link(&self, file: &LinksFile, links: &Links, object: &str, ask: Ask<'_>) -> Result<Result<Response>> {
        let Some(link) = links.link(object) else { return Ok(Err(file.unlinked(object, links))) };
        // No token: S3 refuses a request that is signed twice, and it is none of the bucket's business.
        let response = self.request(link.clone(), object, ask, None).await?;
        let status = response.status();
        // 400: Google's word for a link that has expired, and S3's for temporary credentials that have.
        if !matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return self.judged(object, ask, response).await.map(Ok);
        }
        let code = error_code(&beginning(response).await).map(|code| format!(" ({code})")).unwrap_or_default();
        Ok(Err(file.refused(object, links, &format!("HTTP {status}{code}"))))
    }

    /// Sends it to an address, and waits for the head of the answer.
    async fn request(&self, url: Url, object: &str, ask: Ask<'_>, token: Option<&HeaderValue>) -> Result<Response> {
        let mut request = self.client.get(url);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, token);
        }
        if let Some(from) = ask.from {
            let last = ask.end.map_or(String::new(), |end| (end - 1).to_string());
            request = request.header(header::RANGE, format!("bytes={from}-{last}"));
        }
        if object == MANIFEST_NAME || self.suspects.has(object) {
            // The second is for caches that know HTTP/1.0 only.
            request = request.header(header::CACHE_CONTROL, "no-cache").header(header::PRAGMA, "no-cache");
        }
        if let Some(etag) = ask.unchanged {
            request = request.header(header::IF_RANGE, etag);
        }
        let head = timeout(self.deadlines.first_byte, request.send()).await;
        let late = |_| {
            let problem = format!("no answer within {} s", self.deadlines.first_byte.as_secs_f32());
            Error::unavailable(self.describe(object), problem)
        };
        head.map_err(late)?.map_err(|e| unavailable(self.describe(object), e))
    }

    /// An answer, or the error that its head means.
    async fn judged(&self, object: &str, ask: Ask<'_>, response: Response) -> Result<Response> {
        let status = response.status();
        let expected = status == StatusCode::OK || (ask.from.is_some() && status == StatusCode::PARTIAL_CONTENT);
        if !expected {
            let headers = response.headers().clone();
            // A part of what was not asked for explains nothing.
            let body = if status.is_success() { Vec::new() } else { beginning(response).await };
            let error = status_error(self.describe(object), status, &headers, &body);
            return Err(self.suspecting(object, error));
        }
        check_coding(&self.describe(object), response.headers()).inspect_err(|_| self.suspects.add(object))?;
        if is_html(response.headers()) {
            let what = "answers with a web page; is this a page store?".into();
            return Err(Error::Unsupported { object: self.describe(object), what });
        }
        Ok(response)
    }

    /// Notes an object whose length is not what it should be: a cache may hold another one under its name.
    pub(super) fn suspecting(&self, object: &str, error: Error) -> Error {
        if matches!(error, Error::Corrupt { .. }) {
            self.suspects.add(object);
        }
        error
    }

    /// The body of an answer with the bytes `range` of an object; the end may not be known.
    pub(super) fn resuming(&self, object: &str, response: Response, range: Range<u64>) -> Resuming {
        let etag = strong_etag(response.headers());
        let body = chunks(response, self.deadlines.stall);
        Resuming::new(self.clone(), object.to_owned(), etag, range, body)
    }
}

/// The beginning of an error's body; what goes wrong while it is read does not matter.
async fn beginning(response: Response) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut body = chunks(response, EXPLANATION);
    while let Some(Ok(chunk)) = body.next().await {
        bytes.extend_from_slice(&chunk);
        if bytes.len() >= MAX_EXPLANATION {
            break;
        }
    }
    bytes
}

/// The code in an error of an object store's, which is XML. What else is in there may show what was signed.
fn error_code(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let code = text.split_once("<Code>")?.1.split_once("</Code>")?.0;
    let is_word = (1..=64).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_alphanumeric());
    is_word.then(|| code.to_owned())
}

pub(super) fn unavailable(object: String, error: reqwest::Error) -> Error {
    let problem = causes(&error);
    if let Some(advice) = tls_advice(&problem) {
        let problem = format!("{problem}; {advice}");
        // A certificate can be renewed, and a clock be put right, while a restore waits.
        return Error::Unavailable { object, problem, retry: Retry::Unreachable };
    }
    if error.is_builder() || error.is_redirect() {
        return Error::Unsupported { object, what: problem };
    }
    let retry = if error.is_connect() { Retry::Unreachable } else { Retry::Soon };
    Error::Unavailable { object, problem, retry }
}

/// What to do about a handshake that failed.
fn tls_advice(problem: &str) -> Option<&'static str> {
    let advice = [
        ("CertificateRequired", "the host wants a certificate of ours: --tls-client-cert and --tls-client-key"),
        ("UnknownIssuer", "give the host's authority with --tls-ca, if you trust it"),
        ("CaUsedAsEndEntity", "the host's certificate is an authority's own; it needs one that an authority issued"),
        ("UnknownCA", "the host does not know the authority of our certificate (--tls-client-cert)"),
        ("xpired", "renew the certificate; or is a clock wrong?"),
        ("NotValidYet", "is a clock wrong?"),
        ("not valid yet", "is a clock wrong?"),
        ("NotValidForName", "use a name that the certificate has, or one that has this name"),
        ("not valid for name", "use a name that the certificate has, or one that has this name"),
        ("InvalidContentType", "the host does not speak TLS on this port: http:// instead of https://?"),
    ];
    advice.into_iter().find(|(sign, _)| problem.contains(sign)).map(|(_, advice)| advice)
}

/// The error and what caused it, without the URL (the message has it already, and a query may hold a signature).
pub(super) fn causes(error: &reqwest::Error) -> String {
    if error.is_timeout() && error.is_connect() {
        return "no connection in time".into();
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
pub(super) fn redacted(url: &Url) -> String {
    let mut url = url.clone();
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.set_query(None);
    url.into()
}
