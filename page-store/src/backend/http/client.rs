//! The client: how connections are made, kept and given up.

use super::{
    Deadlines, HttpOptions, HttpVersion,
    host::{causes, redacted},
};
use crate::{Error, Result};
use http::{HeaderMap, HeaderValue, header};
use reqwest::{
    Certificate, Client, ClientBuilder, Identity,
    redirect::{Action, Attempt, Policy},
};
use std::time::Duration;
use url::Url;

/// How long an idle connection is kept: less than what common hosts and balancers do (60 s and more), so that we close first. A name
/// is looked up for every new connection, so a host that has moved is found again after this time at the latest.
const IDLE: Duration = Duration::from_secs(50);
/// A connection whose other end is gone without a word (a router that forgot it, a machine without power) is found out by probes,
/// after 25 s, and, if there was something to send, after 8 s: a link that loses packets acknowledges sooner than that.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;
const UNACKNOWLEDGED: Duration = Duration::from_secs(8);
/// The same for HTTP/2, whose one connection carries everything.
const PING: Duration = Duration::from_secs(5);

const H2_STREAM_WINDOW: u32 = 4 << 20;
const H2_CONNECTION_WINDOW: u32 = 16 << 20;

/// As many as browsers and reqwest follow, or fewer.
const MAX_REDIRECTS: usize = 10;

/// What becomes of an answer that names another address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Redirects {
    Followed,
    /// It is an answer like others.
    Told,
}

/// A client with connections of its own. It goes through the proxy that `HTTP_PROXY` or `HTTPS_PROXY` names, unless `NO_PROXY` excepts
/// the host.
pub(super) fn client(base: &Url, options: &HttpOptions, deadlines: Deadlines, redirects: Redirects) -> Result<Client> {
    // The first one wins; another part of the program may have been earlier.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let spoken = || match options.version {
        HttpVersion::Http1 => Client::builder().http1_only(),
        HttpVersion::Http2 if base.scheme() == "http" => h2(Client::builder().http2_prior_knowledge()),
        HttpVersion::Http2 => h2(Client::builder()),
    };
    let builder = || {
        spoken()
            .user_agent(concat!("pageferry/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers.clone())
            // A query may hold a signature, which is nothing for a host that the first one redirects to.
            .referer(false)
            .tcp_nodelay(true)
            .tcp_keepalive(KEEPALIVE)
            .tcp_keepalive_interval(KEEPALIVE_INTERVAL)
            .tcp_keepalive_retries(KEEPALIVE_PROBES)
            .tcp_user_timeout(UNACKNOWLEDGED)
            .connect_timeout(deadlines.connect)
            .pool_idle_timeout(IDLE)
    };
    let policy = |follow: fn(Attempt<'_>) -> Action| match redirects {
        Redirects::Followed => Policy::custom(follow),
        Redirects::Told => Policy::none(),
    };
    let built = match base.scheme() {
        // Reading the machine's CA certificates takes 20 ms, as long as many a restore; and a bare container has none.
        "http" => builder().tls_certs_only([]).redirect(policy(stay_plain)).build(),
        _ => with_certificates(builder(), options, base)?.redirect(policy(stay_encrypted)).build(),
    };
    built.map_err(|e| {
        let what = format!("cannot set up TLS: {}; are CA certificates installed?", causes(&e));
        Error::Unsupported { object: redacted(base), what }
    })
}

/// The user's authorities, besides the machine's, and the user's own certificate.
fn with_certificates(mut builder: ClientBuilder, options: &HttpOptions, base: &Url) -> Result<ClientBuilder> {
    let wrong = |what: &str, error: &reqwest::Error| {
        let what = format!("{what}: {}; both have to be PEM", causes(error));
        Error::Unsupported { object: redacted(base), what }
    };
    if let Some(pem) = &options.tls_ca {
        let authorities = Certificate::from_pem_bundle(pem).map_err(|e| wrong("--tls-ca", &e))?;
        if authorities.is_empty() {
            let what = "--tls-ca: has no certificate in PEM".to_owned();
            return Err(Error::Unsupported { object: redacted(base), what });
        }
        builder = builder.tls_certs_merge(authorities);
    }
    if let Some(pem) = &options.tls_client {
        let identity = Identity::from_pem(pem).map_err(|e| wrong("--tls-client-cert and --tls-client-key", &e))?;
        builder = builder.identity(identity);
    }
    Ok(builder)
}

/// Windows that a link of 1 Gbit/s and 50 ms does not fill: the standard's 64 KiB would allow a frame per round trip.
fn h2(builder: ClientBuilder) -> ClientBuilder {
    builder
        .http2_initial_stream_window_size(H2_STREAM_WINDOW)
        .http2_initial_connection_window_size(H2_CONNECTION_WINDOW)
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PING)
}

/// Follows redirects as reqwest does, but not from TLS to plain text on the way: what is read, and a token for the same host and port,
/// would be there for everybody to see. (A token is left out by reqwest itself where host or port are others.)
fn stay_encrypted(attempt: Attempt<'_>) -> Action {
    if attempt.url().scheme() == "http" {
        let to = redacted(attempt.url());
        return attempt
            .error(format!("from https:// to {to}, which is not encrypted; give that address if it is meant"));
    }
    match attempt.previous().len() {
        0..=MAX_REDIRECTS => attempt.follow(),
        _ => attempt.error("too many"),
    }
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
