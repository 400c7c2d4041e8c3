//! Entity tags and the requests that depend on them (RFC 9110, sections 8.8.3 and 13).

use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::fmt;

/// A strong entity tag, or a weak one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ETag {
    /// As it is sent, quotes and all: objects send theirs with every answer.
    header: HeaderValue,
    weak: bool,
}

impl ETag {
    /// Strong: the same tag, the same bytes. `opaque` is ours: hex digits, dots and dashes.
    pub(crate) fn strong(opaque: impl fmt::Display) -> Self {
        Self::new(format!("\"{opaque}\""), false)
    }
    /// Weak: the same content, but perhaps other bytes (a compressed body of another library version).
    pub(crate) fn weak(opaque: impl fmt::Display) -> Self {
        Self::new(format!("W/\"{opaque}\""), true)
    }
    fn new(text: String, weak: bool) -> Self {
        Self { header: HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("W/\"\"")), weak }
    }
    /// What is between the quotes.
    fn opaque(&self) -> &[u8] {
        let quoted = self.header.as_bytes();
        let quoted = quoted.strip_prefix(b"W/").unwrap_or(quoted);
        quoted.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or_default()
    }
    /// For the `ETag` header.
    pub(crate) fn header(&self) -> HeaderValue {
        self.header.clone()
    }

    /// `If-None-Match` holds this tag (or `*`): the client has it already.
    pub(crate) fn is_known_to(&self, headers: &HeaderMap) -> bool {
        // Weak comparison: section 13.1.2.
        any(headers, header::IF_NONE_MATCH, |tag| tag.opaque.as_bytes() == self.opaque())
    }
    /// `If-Match` is there and does not hold this tag: the client wants what is not here any more.
    pub(crate) fn is_refused_by(&self, headers: &HeaderMap) -> bool {
        let is_this = |tag: Listed<'_>| !tag.weak && !self.weak && tag.opaque.as_bytes() == self.opaque();
        headers.contains_key(header::IF_MATCH) && !any(headers, header::IF_MATCH, is_this)
    }
    /// Whether a `Range` may be honoured: no `If-Range`, or one with exactly this tag. A date never matches, as we send none.
    pub(crate) fn allows_range(&self, headers: &HeaderMap) -> bool {
        match headers.get(header::IF_RANGE) {
            None => true,
            Some(value) => !self.weak && value.as_bytes().trim_ascii() == self.header.as_bytes(),
        }
    }
}

/// A tag in a list of a client's.
#[derive(Clone, Copy)]
struct Listed<'a> {
    opaque: &'a str,
    weak: bool,
}

fn any(headers: &HeaderMap, name: HeaderName, matches: impl Fn(Listed<'_>) -> bool) -> bool {
    headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).any(|value| list_has(value, &matches))
}

/// A list of entity tags, or `*`. Commas may stand inside the quotes.
fn list_has(value: &str, matches: impl Fn(Listed<'_>) -> bool) -> bool {
    if value.trim() == "*" {
        return true;
    }
    let mut rest = value;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let weak = rest.starts_with("W/");
        let Some((opaque, after)) =
            rest.strip_prefix("W/").unwrap_or(rest).strip_prefix('"').and_then(|r| r.split_once('"'))
        else {
            return false;
        };
        if matches(Listed { opaque, weak }) {
            return true;
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: HeaderName, values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        values.iter().for_each(|v| {
            headers.append(name.clone(), HeaderValue::from_static(v));
        });
        headers
    }

    #[test]
    fn none_match_compares_weakly() {
        let tag = ETag::strong("ab");
        for known in
            [&["\"ab\""][..], &["W/\"ab\""], &["\"x\", \"ab\""], &["\"a,b\",\"ab\""], &["*"], &["\"x\"", "\"ab\""]]
        {
            assert!(tag.is_known_to(&with(header::IF_NONE_MATCH, known)), "{known:?}");
        }
        for unknown in [&[][..], &["\"x\""], &["ab"], &["\"ab"], &[""], &["W/"], &["\"AB\""]] {
            assert!(!tag.is_known_to(&with(header::IF_NONE_MATCH, unknown)), "{unknown:?}");
        }
    }

    #[test]
    fn match_and_range_compare_strongly() {
        let (strong, weak) = (ETag::strong("ab"), ETag::weak("ab"));
        assert!(!strong.is_refused_by(&HeaderMap::new()));
        assert!(!strong.is_refused_by(&with(header::IF_MATCH, &["\"x\",\"ab\""])));
        assert!(!strong.is_refused_by(&with(header::IF_MATCH, &["*"])));
        assert!(strong.is_refused_by(&with(header::IF_MATCH, &["W/\"ab\""])));
        assert!(weak.is_refused_by(&with(header::IF_MATCH, &["W/\"ab\""])));
        assert!(strong.allows_range(&HeaderMap::new()));
        assert!(strong.allows_range(&with(header::IF_RANGE, &["\"ab\""])));
        assert!(!strong.allows_range(&with(header::IF_RANGE, &["W/\"ab\""])));
        assert!(!strong.allows_range(&with(header::IF_RANGE, &["Wed, 21 Oct 2015 07:28:00 GMT"])));
        assert!(!weak.allows_range(&with(header::IF_RANGE, &["W/\"ab\""])));
    }
}
