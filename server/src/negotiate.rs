//! What a client would rather have: `Accept` and `Accept-Encoding` (RFC 9110, section 12.5).

use http::{HeaderMap, HeaderName, header};

/// The best of `offers` (`type/subtype`) by the request's `Accept`. Between equals, and where nothing is acceptable, it is the
/// first: a client that cannot use the answer learns more from seeing it than from a 406.
pub(crate) fn accept<'a>(headers: &HeaderMap, offers: &[&'a str]) -> &'a str {
    let asked = weighted(headers, header::ACCEPT);
    let quality = |offer: &str| {
        let family = offer.split('/').next().unwrap_or_default();
        // The most specific range decides, not the one with the highest weight.
        asked
            .iter()
            .filter_map(|(range, q)| match range.as_str() {
                r if r == offer => Some((2, *q)),
                r if r.strip_suffix("/*") == Some(family) => Some((1, *q)),
                "*/*" => Some((0, *q)),
                _ => None,
            })
            .max_by_key(|(specific, _)| *specific)
            .map_or(0, |(_, q)| q)
    };
    let mut best = offers.first().copied().unwrap_or_default();
    for &offer in offers {
        if quality(offer) > quality(best) {
            best = offer;
        }
    }
    best
}

/// Whether the client takes `zstd` content coding. A bare `*` does not count: who wants it says so.
pub(crate) fn accepts_zstd(headers: &HeaderMap) -> bool {
    weighted(headers, header::ACCEPT_ENCODING).iter().any(|(coding, q)| coding == "zstd" && *q > 0)
}

/// The members of a list header in lower case, without parameters, each with its weight in thousandths.
fn weighted(headers: &HeaderMap, name: HeaderName) -> Vec<(String, u16)> {
    let members = headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    members
        .map(|member| {
            let mut parts = member.split(';').map(|p| p.trim().to_ascii_lowercase());
            let what = parts.next().unwrap_or_default();
            let q = parts.find_map(|p| p.strip_prefix("q=").map(thousandths)).unwrap_or(1000);
            (what, q)
        })
        .collect()
}

fn thousandths(q: &str) -> u16 {
    // Out of range or not a number: the client meant it, so it is wanted.
    q.parse::<f32>().ok().filter(|q| (0.0..=1.0).contains(q)).map_or(1000, |q| (q * 1000.0).round() as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn the_most_specific_range_decides() {
        let offers = ["application/octet-stream", "text/plain", "application/json"];
        for (value, best) in [
            ("*/*", "application/octet-stream"),
            ("text/plain", "text/plain"),
            ("TEXT/Plain; charset=utf-8", "text/plain"),
            ("text/*", "text/plain"),
            ("application/json, text/plain;q=0.5", "application/json"),
            ("*/*, application/octet-stream;q=0.1", "text/plain"),
            ("text/html,application/xhtml+xml,*/*;q=0.8", "application/octet-stream"),
            ("image/png", "application/octet-stream"),
            ("text/plain;q=0", "application/octet-stream"),
            (";;q=,,/", "application/octet-stream"),
        ] {
            assert_eq!(accept(&headers(header::ACCEPT, value), &offers), best, "{value}");
        }
        assert_eq!(accept(&HeaderMap::new(), &offers), "application/octet-stream");
    }

    #[test]
    fn zstd_has_to_be_named() {
        for (value, wanted) in [
            ("zstd", true),
            ("gzip, ZSTD;q=0.2", true),
            ("zstd;q=0", false),
            ("zstd;q=0.000", false),
            ("*", false),
            ("gzip", false),
        ] {
            assert_eq!(accepts_zstd(&headers(header::ACCEPT_ENCODING, value)), wanted, "{value}");
        }
    }
}
