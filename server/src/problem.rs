//! Errors as clients see them: `application/problem+json` (RFC 9457), each with what to do next.

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

/// Everything that can be wrong with a request, or with us. Its text form is the fragment of the problem's `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Unauthorized,
    WrongScope,
    BadPid,
    BadAddress,
    BadRange,
    BadQuery,
    BadBody,
    BadPath,
    BadTrace,
    ReadOnly,
    NoSuchTask,
    NoMemory,
    Unmapped,
    PageInFile,
    KernelPage,
    NoSuchObject,
    NoSuchPath,
    NoSuchCheckpoint,
    MethodNotAllowed,
    SlowBody,
    Holes,
    PreconditionFailed,
    TooLarge,
    NotJson,
    RangeNotSatisfiable,
    StoreDamaged,
    NotReady,
    StoreUnavailable,
    Busy,
    TooSlow,
}

impl Kind {
    /// All of them, for the page that explains them.
    pub(crate) const ALL: [Self; 30] = [
        Self::Unauthorized,
        Self::WrongScope,
        Self::BadPid,
        Self::BadAddress,
        Self::BadRange,
        Self::BadQuery,
        Self::BadBody,
        Self::BadPath,
        Self::BadTrace,
        Self::ReadOnly,
        Self::NoSuchTask,
        Self::NoMemory,
        Self::Unmapped,
        Self::PageInFile,
        Self::KernelPage,
        Self::NoSuchObject,
        Self::NoSuchPath,
        Self::NoSuchCheckpoint,
        Self::MethodNotAllowed,
        Self::SlowBody,
        Self::Holes,
        Self::PreconditionFailed,
        Self::TooLarge,
        Self::NotJson,
        Self::RangeNotSatisfiable,
        Self::StoreDamaged,
        Self::NotReady,
        Self::StoreUnavailable,
        Self::Busy,
        Self::TooSlow,
    ];

    /// Fragment of the type, status, title.
    pub(crate) fn row(self) -> (&'static str, StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Self::Unauthorized => ("unauthorized", S::UNAUTHORIZED, "A token is needed"),
            Self::WrongScope => ("wrong-scope", S::FORBIDDEN, "The token is not for this"),
            Self::BadPid => ("bad-pid", S::BAD_REQUEST, "This is not a pid"),
            Self::BadAddress => ("bad-address", S::BAD_REQUEST, "This is not an address in user space"),
            Self::BadRange => ("bad-range", S::BAD_REQUEST, "This is not a range of pages"),
            Self::BadQuery => ("bad-query", S::BAD_REQUEST, "A query parameter has a value that is not known"),
            Self::BadBody => ("bad-body", S::BAD_REQUEST, "The body is not a list of ranges"),
            Self::BadPath => ("bad-path", S::BAD_REQUEST, "The path does not decode to UTF-8"),
            Self::BadTrace => ("bad-trace", S::UNPROCESSABLE_ENTITY, "The body is no recording of this checkpoint"),
            Self::ReadOnly => ("read-only", S::CONFLICT, "Nothing can be added to this checkpoint here"),
            Self::NoSuchTask => ("no-such-task", S::NOT_FOUND, "No task has this pid"),
            Self::NoMemory => ("no-memory", S::NOT_FOUND, "This task was dead when it was dumped: it has no memory"),
            Self::Unmapped => ("unmapped", S::NOT_FOUND, "Nothing is mapped at this address"),
            Self::PageInFile => ("page-in-file", S::NOT_FOUND, "This page is in a file that no dump holds"),
            Self::KernelPage => ("kernel-page", S::NOT_FOUND, "The kernel provides this page; no dump holds it"),
            Self::NoSuchObject => ("no-such-object", S::NOT_FOUND, "The store has no such object"),
            Self::NoSuchPath => ("no-such-path", S::NOT_FOUND, "Nothing is served here"),
            Self::NoSuchCheckpoint => ("no-such-checkpoint", S::NOT_FOUND, "The server has no such checkpoint"),
            Self::MethodNotAllowed => {
                ("method-not-allowed", S::METHOD_NOT_ALLOWED, "This path does not know the method")
            }
            Self::SlowBody => ("slow-body", S::REQUEST_TIMEOUT, "The body did not arrive in time"),
            Self::Holes => ("holes", S::CONFLICT, "Some pages of the range are not in the checkpoint"),
            Self::PreconditionFailed => {
                ("precondition-failed", S::PRECONDITION_FAILED, "The object is another one by now")
            }
            Self::TooLarge => ("too-large", S::PAYLOAD_TOO_LARGE, "This is more than one request may ask for"),
            Self::NotJson => ("not-json", S::UNSUPPORTED_MEDIA_TYPE, "The body has to be application/json"),
            Self::RangeNotSatisfiable => {
                ("range-not-satisfiable", S::RANGE_NOT_SATISFIABLE, "The object does not have these bytes")
            }
            Self::StoreDamaged => ("store-damaged", S::INTERNAL_SERVER_ERROR, "The store on this server is damaged"),
            Self::NotReady => ("not-ready", S::SERVICE_UNAVAILABLE, "The checkpoint is still being opened"),
            Self::StoreUnavailable => {
                ("store-unavailable", S::SERVICE_UNAVAILABLE, "The store behind this server does not answer just now")
            }
            Self::Busy => ("busy", S::SERVICE_UNAVAILABLE, "The server has more to do than it has memory for"),
            Self::TooSlow => ("too-slow", S::SERVICE_UNAVAILABLE, "The answer took too long to begin"),
        }
    }
}

/// An error answer.
#[derive(Clone, Debug)]
pub(crate) struct Problem(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    kind: Kind,
    detail: String,
    next: String,
    members: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// `detail` says what is wrong with this request; `next` what to do about it.
    pub(crate) fn new(kind: Kind, detail: impl Into<String>, next: impl Into<String>) -> Self {
        let (members, headers) = Default::default();
        Self(Box::new(Inner { kind, detail: detail.into(), next: next.into(), members, headers }))
    }
    /// From the grammar.
    pub(crate) fn malformed(kind: Kind, error: crate::address::Malformed) -> Self {
        Self::new(kind, error.detail, error.next)
    }
    /// One more member for programs to read.
    pub(crate) fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.0.members.insert(member.to_owned(), value.into());
        self
    }
    /// One more header.
    pub(crate) fn header(mut self, name: HeaderName, value: impl TryInto<HeaderValue>) -> Self {
        self.0.headers.extend(value.try_into().ok().map(|value| (name, value)));
        self
    }
    /// As the body of the answer.
    pub(crate) fn json(&self) -> Value {
        let (fragment, status, title) = self.0.kind.row();
        let mut body = json!({
            "type": format!("/problems#{fragment}"),
            "title": title,
            "status": status.as_u16(),
            "detail": self.0.detail,
            "next": self.0.next,
        });
        if let Value::Object(members) = &mut body {
            members.extend(self.0.members.clone());
        }
        body
    }
}

impl Problem {
    /// The text of the answer.
    pub(crate) fn body(&self) -> String {
        let mut body = self.json().to_string();
        body.push('\n');
        body
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.0.detail, self.0.kind.row().2)
    }
}

impl std::error::Error for Problem {}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.0.kind.row().1, self.body()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        for (name, value) in &self.0.headers {
            headers.insert(name, value.clone());
        }
        // For whoever has more to say about this request.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<page_store::Error> for Problem {
    /// The whole error, which may name paths of this machine, is for our log; the client learns what it can do.
    fn from(error: page_store::Error) -> Self {
        tracing::error!("{error}");
        match error {
            page_store::Error::Unavailable { .. } => Self::new(
                Kind::StoreUnavailable,
                "The store that this server reads from did not answer.",
                "Try again in a second.",
            )
            .header(header::RETRY_AFTER, "1"),
            _ => damaged(),
        }
    }
}

impl From<criu_images::Error> for Problem {
    fn from(error: criu_images::Error) -> Self {
        tracing::error!("{error}");
        damaged()
    }
}

/// Our fault or the disk's, and what went wrong is in the log.
pub(crate) fn damaged() -> Problem {
    Problem::new(
        Kind::StoreDamaged,
        "The page could not be read, or did not match its digest; the server's log says which object.",
        "Run `pageferry-strip verify` on the store; a page that does not match its digest is never handed out.",
    )
}

/// The text behind the `type` of a problem.
pub(crate) fn explain_all() -> String {
    let mut text =
        String::from("The problems that this server answers with, as application/problem+json (RFC 9457).\n\n");
    for kind in Kind::ALL {
        let (fragment, status, title) = kind.row();
        text += &format!("#{fragment}  {}\n    {title}.\n", status.as_u16());
    }
    text += "\nEvery one has `detail` (what is wrong with this request) and `next` (what to do about it).\n";
    text
}
