//! Which web pages of other origins may read what is served here (the Fetch standard, "CORS protocol"). Off unless somebody says which.

use anyhow::{Context, Result, bail, ensure};
use http::{HeaderName, HeaderValue, Method, header};
use std::{fmt, time::Duration};
use tower_http::cors::{AllowOrigin, CorsLayer};
use url::Url;

/// How long a browser may remember what it was allowed; a day is what most of them cut it to.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

/// What scripts of another origin may read of an answer, beside what they always may.
const EXPOSED: [HeaderName; 10] = [
    header::ACCEPT_RANGES,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::ETAG,
    header::RETRY_AFTER,
    header::WWW_AUTHENTICATE,
    HeaderName::from_static("x-page-address"),
    HeaderName::from_static("x-page-source"),
    HeaderName::from_static("x-request-id"),
];

/// What they may send.
const SENT: [HeaderName; 9] = [
    header::ACCEPT,
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_TYPE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::RANGE,
    HeaderName::from_static("x-request-id"),
];

/// An origin, as a browser sends it: `https://example.com`, or with a port.
#[derive(Clone, PartialEq, Eq)]
pub struct Origin(HeaderValue);

impl Origin {
    /// What a user typed. An error for what is none, and for "everybody".
    pub fn parse(text: &str) -> Result<Self> {
        ensure!(
            text != "*",
            "`*` would let every page that anybody has open read the memory that is served here; name the origins that may"
        );
        let url =
            Url::parse(text).with_context(|| format!("{text:?} is no origin; it looks like https://example.com"))?;
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        let origin = url.origin();
        ensure!(!text.contains('*'), "{text:?} has a `*`, which no browser sends; name each origin in full");
        if !bare || !origin.is_tuple() || !url.username().is_empty() || url.password().is_some() {
            bail!("{text:?} is no origin: only scheme, host and port are part of one, as in https://example.com:8443");
        }
        Ok(Self(HeaderValue::try_from(origin.ascii_serialization())?))
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The middleware; `None` if nobody is named.
pub(crate) fn layer(origins: &[Origin]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let layer = CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins.iter().map(|origin| origin.0.clone())))
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT])
        .allow_headers(SENT)
        .expose_headers(EXPOSED)
        .max_age(REMEMBERED);
    Some(layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        let origin = |text: &str| Origin::parse(text).map(|origin| origin.0);
        assert_eq!(origin("https://Example.com/").unwrap(), "https://example.com");
        assert_eq!(origin("https://example.com:443").unwrap(), "https://example.com");
        assert_eq!(origin("http://127.0.0.1:3000").unwrap(), "http://127.0.0.1:3000");
        for bad in [
            "*",
            "https://*.example.com",
            "",
            "null",
            "example.com",
            "https://example.com/app",
            "https://u:p@example.com",
            "file:///x",
            "https://a?b",
        ] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }
}
