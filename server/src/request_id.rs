//! A name for each request: the client's own if it is one, else one of ours. It is in the answer, in problems and in the access log.

use http::{HeaderMap, HeaderName, HeaderValue};
use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longer than a UUID, or the trace context of any system.
const LONGEST: usize = 128;

/// Tells the servers of one log apart, and one run from the next.
static RUN: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one("run"));
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The request's name.
pub(crate) fn of(headers: &HeaderMap) -> HeaderValue {
    headers.get(REQUEST_ID).filter(|value| is_sane(value.as_bytes())).cloned().unwrap_or_else(make)
}

fn is_sane(value: &[u8]) -> bool {
    (1..=LONGEST).contains(&value.len()) && value.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:+/=".contains(b))
}

fn make() -> HeaderValue {
    let text = format!("{:08x}-{:x}", *RUN as u32, NEXT.fetch_add(1, Relaxed));
    // Hexadecimal digits are a header's value.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_be_anything_else_is_replaced() {
        let of = |value: &'static str| of(&HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_static(value))]));
        assert_eq!(of("7f3e-a.b:c"), "7f3e-a.b:c");
        for bad in ["", "a b", "a\tb", "<script>", "\"", "a,b"] {
            assert_ne!(of(bad), bad);
        }
        assert_ne!(super::of(&HeaderMap::new()), super::of(&HeaderMap::new()));
    }
}
