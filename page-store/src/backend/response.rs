//! What an HTTP answer means: which statuses are which errors, and which bytes a body holds.

use crate::{Error, Result, Retry};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use std::{
    ops::Range,
    time::{Duration, SystemTime},
};

/// Bytes of an error's body that are read for the message.
pub(super) const MAX_EXPLANATION: usize = 2048;
/// Characters of it that are shown.
const MAX_SHOWN: usize = 200;
/// Longest pause that a host may ask for. Threads wait for their pages meanwhile, and a clock that is wrong would have them wait for hours.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// The error that an unwelcome status means; `body` is what came with it.
pub(super) fn status_error(object: String, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Error {
    let said = explanation(headers, body);
    let problem = format!("HTTP {status}{said}");
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => Error::NotFound { object },
        // The object is shorter than the index says; another mirror, or the same one later, may have the right one.
        StatusCode::RANGE_NOT_SATISFIABLE => Error::Corrupt {
            object,
            place: "length".into(),
            problem: format!("ends before the bytes asked for ({problem})"),
        },
        StatusCode::UNAUTHORIZED => {
            let advice = "the host wants a token that it knows: --token-file FILE or PAGEFERRY_TOKEN";
            Error::Unsupported { object, what: format!("{problem}; {advice}") }
        }
        StatusCode::FORBIDDEN | StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            Error::Unsupported { object, what: format!("{problem}; the host does not let us read it") }
        }
        // A part though all of it was asked for: a cache that mixes up its answers.
        StatusCode::PARTIAL_CONTENT => Error::unavailable(object, "a 206 came, though no range was asked for"),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Error::Unavailable { object, problem, retry: retry_after(headers, SystemTime::now()) }
        }
        status if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED => {
            Error::Unavailable { object, problem, retry: retry_after(headers, SystemTime::now()) }
        }
        _ => Error::Unsupported { object, what: format!("{problem}; is this a page store?") },
    }
}

/// The pause that a host asks for, in seconds or until a date (RFC 9110, section 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Retry {
    let value = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::trim);
    let pause = value.and_then(|value| match value.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        // A date that is past asks for no pause.
        Err(_) => Some(httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default()),
    });
    pause.map_or(Retry::Soon, |pause| Retry::After(pause.min(MAX_RETRY_AFTER)))
}

/// The answer's ETag if it is a strong one: the same one means the same bytes (RFC 9110, section 8.8.1).
pub(super) fn strong_etag(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(header::ETAG).filter(|tag| tag.as_bytes().starts_with(b"\"")).cloned()
}

/// The first words of an error's body, if it is text meant for people.
pub(super) fn explanation(headers: &HeaderMap, body: &[u8]) -> String {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    if !kind.starts_with("text/plain") && !kind.contains("json") {
        return String::new();
    }
    let text = String::from_utf8_lossy(body);
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    let line: String = words.join(" ").chars().take(MAX_SHOWN).collect();
    if line.is_empty() { line } else { format!(": {line}") }
}

/// An answer in a content coding that we did not ask for: its bytes are not the object's.
pub(super) fn check_coding(object: &str, headers: &HeaderMap) -> Result<()> {
    let coded = headers.get_all(header::CONTENT_ENCODING).iter().find(|v| v.as_bytes() != b"identity");
    match coded {
        None => Ok(()),
        Some(coding) => {
            let what = format!(
                "comes with content coding {coding:?}, though none was asked for; turn compression off for page stores on this host"
            );
            // Not for good: an edge of a CDN may hold a coded copy that another does not.
            Err(Error::unavailable(object, what))
        }
    }
}

/// Whether the answer is a page for people: a login, a directory listing, a single-page application.
pub(super) fn is_html(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().to_ascii_lowercase().starts_with(b"text/html"))
}

/// How many bytes of a body come before the range that was asked for.
pub(super) fn skip_of(object: &str, status: StatusCode, headers: &HeaderMap, range: &Range<u64>) -> Result<u64> {
    let wrong = |problem: String| Error::unavailable(object, problem);
    let content_length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if status == StatusCode::OK {
        // The whole object.
        return match content_length {
            Some(len) if len < range.end => {
                let problem = format!("has {len} bytes, but {} were to be read", range.end);
                Err(Error::Corrupt { object: object.into(), place: "length".into(), problem })
            }
            _ => Ok(range.start),
        };
    }
    let asked = format!("bytes {}-{}", range.start, range.end - 1);
    let Some(value) = headers.get(header::CONTENT_RANGE) else {
        return Err(wrong(format!("a 206 without Content-Range came for {asked}")));
    };
    let answered = value.to_str().ok().and_then(content_range);
    let fits = answered.is_some_and(|(start, end, total)| {
        start == range.start && end == range.end && total.is_none_or(|total| total >= end)
    });
    if !fits {
        return Err(wrong(format!("{value:?} came for {asked}")));
    }
    match content_length {
        Some(len) if len != range.end - range.start => Err(wrong(format!("{len} bytes came for {asked}"))),
        _ => Ok(0),
    }
}

/// Of an answer with a part of an object, how large the object is.
pub(super) fn total_of(headers: &HeaderMap) -> Option<u64> {
    content_range(headers.get(header::CONTENT_RANGE)?.to_str().ok()?)?.2
}

/// `bytes 5-9/100` as (5, 10, 100); the total may be `*`.
pub(super) fn content_range(value: &str) -> Option<(u64, u64, Option<u64>)> {
    let (unit, rest) = value.trim().split_once(' ')?;
    let (span, total) = rest.trim().split_once('/')?;
    let (start, last) = span.split_once('-')?;
    let total = match total {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    let (start, end) = (start.parse().ok()?, last.parse::<u64>().ok()?.checked_add(1)?);
    (unit.eq_ignore_ascii_case("bytes") && start < end).then_some((start, end, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_content_range() {
        assert_eq!(content_range("bytes 5-9/100"), Some((5, 10, Some(100))));
        assert_eq!(content_range("Bytes 0-0/*"), Some((0, 1, None)));
        for bad in [
            "",
            "bytes */100",
            "bytes 9-5/100",
            "items 0-1/2",
            "bytes 0-18446744073709551615/*",
            "bytes 0-1",
            "bytes a-b/c",
        ] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_may_be_tried_again() {
        for (status, transient) in
            [(408, true), (425, true), (429, true), (500, true), (502, true), (503, true), (504, true), (416, true)]
                .into_iter()
                .chain([
                    (400, false),
                    (401, false),
                    (403, false),
                    (404, false),
                    (405, false),
                    (410, false),
                    (501, false),
                ])
        {
            let status = StatusCode::from_u16(status).unwrap();
            let error = status_error("x".into(), status, &HeaderMap::new(), b"");
            assert_eq!(error.is_transient(), transient, "{error}");
        }
    }

    #[test]
    fn a_pause_is_given_in_seconds_or_as_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let after = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, value.parse().unwrap());
            retry_after(&headers, now)
        };
        let seconds = |n| Retry::After(Duration::from_secs(n));
        assert_eq!(after("0"), seconds(0));
        assert_eq!(after(" 7 "), seconds(7));
        assert_eq!(after("86400"), Retry::After(MAX_RETRY_AFTER));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:47 GMT"), seconds(10));
        assert_eq!(after("Sunday, 06-Nov-94 08:49:40 GMT"), seconds(3));
        assert_eq!(after("Sun, 06 Nov 1994 07:00:00 GMT"), seconds(0));
        assert_eq!(after("Sun, 13 Nov 1994 08:49:37 GMT"), Retry::After(MAX_RETRY_AFTER));
        for bad in ["", "soon", "-1", "1.5", "99999999999999999999"] {
            assert_eq!(after(bad), Retry::Soon, "{bad}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), Retry::Soon);
    }

    #[test]
    fn only_strong_etags_count() {
        let tag = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ETAG, value.parse().unwrap());
            strong_etag(&headers).is_some()
        };
        assert!(tag("\"x\"") && !tag("W/\"x\"") && !tag("x"));
    }

    #[test]
    fn explains_in_one_line() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "application/problem+json".parse().unwrap());
        let error = status_error(
            "x".into(),
            StatusCode::SERVICE_UNAVAILABLE,
            &headers,
            b"{\"detail\":\n \"slow\x1b[2J down\"}",
        );
        assert_eq!(error.to_string(), "x: HTTP 503 Service Unavailable: {\"detail\": \"slow [2J down\"}");
    }
}
