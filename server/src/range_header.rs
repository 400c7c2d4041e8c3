//! The `Range` header of RFC 9110, section 14, for objects of a known length.

use std::ops::Range;

/// Parts that one request may ask for. More than that is not a client that reads extents, and each part costs a header.
pub const MAX_PARTS: usize = 256;

/// What a request asks of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// All of it: no `Range`, or one in a unit that we do not know (which has to be ignored).
    Whole,
    /// These parts, in the order asked, none empty, none overlapping or touching another; at least one.
    Parts(Vec<Range<u64>>),
    /// Nothing that can be had, and why.
    Unsatisfiable(&'static str),
}

/// Reads the value of a `Range` header for an object of `len` bytes.
///
/// Parts that overlap or touch are joined, as RFC 9110 allows: an answer is never longer than the object but for the part
/// headers. Positions past the end are clipped, and a number too large for 64 bits is simply past the end.
pub fn parse(value: &str, len: u64) -> Asked {
    let Some((unit, set)) = value.split_once('=') else {
        return Asked::Unsatisfiable("the Range header has no '='");
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Asked::Whole;
    }
    let mut parts: Vec<Range<u64>> = Vec::new();
    let mut count = 0;
    for spec in set.split(',').map(|s| s.trim_matches([' ', '\t'])).filter(|s| !s.is_empty()) {
        count += 1;
        if count > MAX_PARTS {
            return Asked::Unsatisfiable("the Range header asks for more than 256 parts");
        }
        match part(spec, len) {
            Some(Some(range)) => insert(&mut parts, range),
            Some(None) => {}
            None => {
                return Asked::Unsatisfiable("the Range header is not of the form bytes=first-last or bytes=-length");
            }
        }
    }
    match (parts.is_empty(), count) {
        (false, _) => Asked::Parts(parts),
        (true, 0) => Asked::Unsatisfiable("the Range header names no range"),
        (true, _) => Asked::Unsatisfiable("the range lies outside the object"),
    }
}

/// `None` if it is malformed, `Some(None)` if it is well formed but selects nothing.
fn part(spec: &str, len: u64) -> Option<Option<Range<u64>>> {
    let (first, last) = spec.split_once('-')?;
    if first.is_empty() {
        let suffix = position(last)?.min(len);
        return Some((suffix > 0).then(|| len - suffix..len));
    }
    let first = position(first)?;
    let end = match last {
        "" => len,
        last => {
            let last = position(last)?;
            if last < first {
                return None;
            }
            last.saturating_add(1).min(len)
        }
    };
    Some((first < end).then_some(first..end))
}

fn position(digits: &str) -> Option<u64> {
    let number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    // Only its size can be wrong, and then it lies past the end of any object.
    number.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// Keeps the order of first mention; whatever `range` overlaps or touches becomes one part at the earliest place.
fn insert(parts: &mut Vec<Range<u64>>, range: Range<u64>) {
    let mut joined = range;
    let mut place = parts.len();
    let mut at = 0;
    while at < parts.len() {
        if parts[at].start <= joined.end && joined.start <= parts[at].end {
            let other = parts.remove(at);
            joined = joined.start.min(other.start)..joined.end.max(other.end);
            place = place.min(at);
            // It may reach parts now that it did not reach before.
            at = 0;
        } else {
            at += 1;
        }
    }
    parts.insert(place.min(parts.len()), joined);
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(value: &str, len: u64) -> Vec<Range<u64>> {
        match parse(value, len) {
            Asked::Parts(parts) => parts,
            other => panic!("{value}: {other:?}"),
        }
    }

    #[test]
    fn the_forms_of_rfc_9110() {
        assert_eq!(parts("bytes=0-499", 10_000), [0..500]);
        assert_eq!(parts("bytes=500-999", 10_000), [500..1000]);
        assert_eq!(parts("bytes=-500", 10_000), [9500..10_000]);
        assert_eq!(parts("bytes=9500-", 10_000), [9500..10_000]);
        assert_eq!(parts("bytes=0-0,-1", 10_000), [0..1, 9999..10_000]);
        assert_eq!(parts("bytes= 0-999, 4500-5499, -1000", 10_000), [0..1000, 4500..5500, 9000..10_000]);
        assert_eq!(parts("Bytes=,1-2,,5-6,", 10), [1..3, 5..7]);
    }

    #[test]
    fn parts_are_clipped_to_the_object() {
        assert_eq!(parts("bytes=5-99999999999999999999999999", 10), [5..10]);
        assert_eq!(parts("bytes=-11", 10), [0..10]);
        assert_eq!(parts("bytes=20-30,4-5", 10), [4..6]);
    }

    #[test]
    fn parts_that_touch_are_one() {
        assert_eq!(parts("bytes=0-,0-,0-", 10), [0..10]);
        assert_eq!(parts("bytes=6-7,0-1,2-3", 10), [6..8, 0..4]);
        assert_eq!(parts("bytes=6-7,0-1,1-6", 10), [0..8]);
    }

    #[test]
    fn what_cannot_be_had() {
        for value in [
            "bytes=10-",
            "bytes=-0",
            "bytes=10-20,30-40",
            "bytes=",
            "bytes=,",
            "bytes=3-2",
            "bytes=a-b",
            "bytes=1",
            "bytes",
            "bytes=--1",
            "bytes=+1-2",
            "bytes=1-2;3-4",
        ] {
            assert!(matches!(parse(value, 10), Asked::Unsatisfiable(_)), "{value}");
        }
        assert!(matches!(parse("bytes=0-", 0), Asked::Unsatisfiable(_)));
        assert!(matches!(parse("bytes=-1", 0), Asked::Unsatisfiable(_)));
        let many = format!("bytes={}", vec!["0-0"; MAX_PARTS + 1].join(","));
        assert!(matches!(parse(&many, 10), Asked::Unsatisfiable(_)));
    }

    #[test]
    fn another_unit_is_ignored() {
        assert_eq!(parse("pages=0-1", 10), Asked::Whole);
    }

    proptest! {
        #[test]
        fn anything_is_answered(value in "(bytes=)?\\PC*", len: u64) {
            let _ = parse(&value, len);
        }

        #[test]
        fn every_byte_asked_for_is_answered_once(
            asked in proptest::collection::vec((0u64..40, 0u64..40), 1..20), len in 1u64..32
        ) {
            let specs: Vec<_> = asked.iter().map(|&(a, b)| format!("{}-{}", a.min(b), a.max(b))).collect();
            let wanted = |byte: u64| asked.iter().any(|&(a, b)| a.min(b) <= byte && byte <= a.max(b));
            let answer = match parse(&format!("bytes={}", specs.join(", ")), len) {
                Asked::Parts(parts) => parts,
                Asked::Unsatisfiable(_) => Vec::new(),
                Asked::Whole => panic!("whole"),
            };
            for byte in 0..64 {
                let times = answer.iter().filter(|part| part.contains(&byte)).count();
                prop_assert_eq!(times, usize::from(byte < len && wanted(byte)), "byte {}", byte);
            }
        }
    }
}
