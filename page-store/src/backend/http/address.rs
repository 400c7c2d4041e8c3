//! An address that is no object of a store: where a server takes a recording, where it lists what it has.

use super::{
    Deadlines, HttpOptions,
    body::chunks,
    client::{Redirects, client},
    host::{redacted, unavailable},
};
use crate::{
    Error, Result, Retry,
    backend::response::{explanation, is_html, retry_after},
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Method, header};
use reqwest::Client;
use std::time::{Duration, SystemTime};
use tokio::time::timeout;
use url::Url;

/// Bytes of an answer to a PUT that are read: a server says in fewer what it did, or why not.
const MOST_SAID: u64 = 64 << 10;

/// An HTTP(S) address that is asked for as it is. Redirects are not followed: a PUT would become a GET on the way, and its 200 mean nothing.
#[derive(Debug, Clone)]
pub struct HttpAddress {
    url: Url,
    client: Client,
    options: HttpOptions,
    deadlines: Deadlines,
}

/// What a server answered, whatever it was.
#[derive(Debug, Clone)]
pub struct HttpAnswer {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Bytes,
    /// Whether that is a page for people: no server of ours answers with one.
    pub is_html: bool,
    /// The pause that it asks for.
    pub retry_after: Option<Duration>,
    /// Where it sends us instead.
    pub location: Option<String>,
    headers: HeaderMap,
}

impl HttpAddress {
    /// The address, and what its host is shown.
    pub fn new(address: &str, options: HttpOptions) -> Result<Self> {
        let (url, deadlines) = (parse(address)?, Deadlines::default());
        let client = client(&url, &options, deadlines, Redirects::Told)?;
        Ok(Self { url, client, options, deadlines })
    }

    /// The parts of the path of an address, as they are written there: whether it is one, before anything is asked for.
    pub fn path_of(address: &str) -> Result<Vec<String>> {
        Ok(parse(address)?.path_segments().into_iter().flatten().map(str::to_owned).collect())
    }

    /// An address with more parts to its path, percent-encoded where they have to be, and without a query.
    pub fn below(address: &str, parts: &[&str]) -> Result<String> {
        let mut url = parse(address)?;
        url.set_query(None);
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        Ok(url.into())
    }

    /// The address without its query, for messages.
    pub fn describe(&self) -> String {
        redacted(&self.url)
    }

    /// Asks for what is there: at most `limit` bytes.
    pub async fn get(&self, limit: u64) -> Result<HttpAnswer> {
        self.ask(Method::GET, Bytes::new(), self.deadlines.first_byte, limit).await
    }

    /// Sends `body` to be kept there. The head of the answer may take as long as `patience`.
    pub async fn put(&self, body: Bytes, patience: Duration) -> Result<HttpAnswer> {
        self.ask(Method::PUT, body, patience, MOST_SAID).await
    }

    async fn ask(&self, method: Method, body: Bytes, patience: Duration, limit: u64) -> Result<HttpAnswer> {
        let Some(token) = &self.options.token else { return self.ask_as(method, body, patience, limit, None).await };
        let header = token.header();
        let answer = self.ask_as(method.clone(), body.clone(), patience, limit, Some(&header)).await?;
        match answer.status == 401 && token.renew(&header) {
            true => self.ask_as(method, body, patience, limit, Some(&token.header())).await,
            false => Ok(answer),
        }
    }

    async fn ask_as(
        &self,
        method: Method,
        body: Bytes,
        patience: Duration,
        limit: u64,
        token: Option<&HeaderValue>,
    ) -> Result<HttpAnswer> {
        let mut request = self.client.request(method.clone(), self.url.clone());
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, token);
        }
        if method == Method::PUT {
            request = request.header(header::CONTENT_TYPE, "application/json").body(body);
        } else {
            request = request.header(header::CACHE_CONTROL, "no-cache");
        }
        let late = |_| Error::unavailable(self.describe(), format!("no answer within {} s", patience.as_secs_f32()));
        let head = timeout(patience, request.send()).await.map_err(late)?;
        let response = head.map_err(|e| unavailable(self.describe(), e))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let retry_after = match retry_after(&headers, SystemTime::now()) {
            Retry::After(pause) => Some(pause),
            _ => None,
        };
        let is_success = response.status().is_success();
        let mut all = BytesMut::new();
        let mut body = chunks(response, self.deadlines.stall);
        while let Some(chunk) = body.next().await {
            match chunk {
                Ok(chunk) if all.len() as u64 + chunk.len() as u64 > limit => {
                    // The beginning of what explains an error is enough.
                    if is_success && method == Method::GET {
                        let what = format!("the answer has more than {limit} bytes; is this the right address?");
                        return Err(Error::Unsupported { object: self.describe(), what });
                    }
                    break;
                }
                Ok(chunk) => all.extend_from_slice(&chunk),
                // Nor is it needed where the status has said all.
                Err(_) if method == Method::PUT || !is_success => break,
                Err(problem) => return Err(Error::unavailable(self.describe(), problem)),
            }
        }
        let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        let location = location.and_then(|to| self.url.join(to).ok()).map(|to| redacted(&to));
        Ok(HttpAnswer { status, body: all.freeze(), is_html: is_html(&headers), retry_after, location, headers })
    }
}

impl HttpAnswer {
    /// Status, and the server's own words if they are for people.
    pub fn said(&self) -> String {
        let reason = http::StatusCode::from_u16(self.status).ok().and_then(|status| status.canonical_reason());
        let status = format!("HTTP {} {}", self.status, reason.unwrap_or_default());
        let problem: Option<serde_json::Value> = serde_json::from_slice(&self.body).ok();
        let word = |name: &str| problem.as_ref()?.get(name)?.as_str().map(plain);
        let words = match (word("detail"), word("next")) {
            (Some(detail), Some(next)) => format!(": {detail} {next}"),
            (Some(detail), None) => format!(": {detail}"),
            _ => explanation(&self.headers, &self.body),
        };
        format!("{}{words}", status.trim_end())
    }
}

fn parse(address: &str) -> Result<Url> {
    let unsupported = |what: String| Error::Unsupported { object: unread(address), what };
    let mut url = Url::parse(address).map_err(|e| unsupported(format!("not an address: {e}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(unsupported(format!("{}: is not an HTTP address", url.scheme())));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(unsupported("has a user or a password in it; give a token in a file instead".into()));
    }
    url.set_fragment(None);
    Ok(url)
}

/// On one line, without what would change a terminal, and not too much of it.
fn plain(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ").chars().take(400).collect()
}

/// What cannot be read as an address: only what is before a query or a password.
fn unread(address: &str) -> String {
    match Url::parse(address) {
        Ok(url) => redacted(&url),
        Err(_) => address.split('?').next().unwrap_or_default().rsplit('@').next().unwrap_or_default().to_owned(),
    }
}

/// Whether both are HTTP(S) addresses with the same scheme, host and port: a token for the one may be shown to the other.
pub fn same_host(one: &str, other: &str) -> bool {
    let origin = |text: &str| {
        let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
        Some(url.origin())
    };
    origin(one).is_some_and(|one| Some(one) == origin(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_the_same_by_scheme_name_and_port() {
        for (one, other, same) in [
            ("http://a/x", "http://a/y?z", true),
            ("http://a/x", "http://A:80/", true),
            ("https://a/", "https://a:443/x", true),
            ("https://a/", "http://a/", false),
            ("https://a:8443/", "https://a/", false),
            ("http://a/", "http://b/", false),
            ("http://a@b/", "http://a/", false),
            ("http://a/", "http://a.b/", false),
            ("s3://a/x", "s3://a/x", false),
            ("/srv/store", "/srv/store", false),
        ] {
            assert_eq!(same_host(one, other), same, "{one} {other}");
        }
    }

    #[test]
    fn passwords_and_queries_are_not_told() {
        for bad in ["http://user:secret@a/x", "ftp://user:secret@a/x?secret", "http://user:secret@/?secret"] {
            let error = HttpAddress::new(bad, HttpOptions::default()).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        let address = HttpAddress::new("http://a/x/y?secret", HttpOptions::default()).unwrap();
        assert_eq!(address.describe(), "http://a/x/y");
        assert_eq!(HttpAddress::below("http://a/x/?b", &["y z", "w"]).unwrap(), "http://a/x/y%20z/w");
        assert_eq!(HttpAddress::path_of("http://a/x/y?secret").unwrap(), ["x", "y"]);
    }
}
