//! The grammar of the address space in URLs and bodies: pids, addresses, ranges.
//!
//! ```text
//! pid     = 1*DIGIT                      ; 1 to 4194304
//! address = [ "0x" ] 1*HEXDIG            ; any byte in user space
//! range   = address "-" address          ; both page-aligned, the end is the first byte that is not asked for
//! ```
//!
//! Every function takes any string and never panics (`fuzz/fuzz_targets/address.rs` holds it to that).

use criu_images::{PAGE_SIZE, PageAddr, PageRange, Pid};

/// A text that is not what the grammar asks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}; {next}")]
pub struct Malformed {
    /// What is wrong with it.
    pub detail: String,
    /// What to ask for instead.
    pub next: String,
}

fn malformed<T>(detail: String, next: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed { detail, next: next.into() })
}

/// Reads a pid.
pub fn pid(text: &str) -> Result<Pid, Malformed> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = if digits { text.parse().ok() } else { None };
    match number.and_then(Pid::new) {
        Some(pid) => Ok(pid),
        None => malformed(
            format!("{} is not a pid", quoted(text)),
            format!(
                "A pid is a decimal number from 1 to {}, as the process itself saw it; GET /pid lists them.",
                Pid::MAX
            ),
        ),
    }
}

/// Reads the address of any byte and gives the page that holds it.
pub fn page(text: &str) -> Result<PageAddr, Malformed> {
    let addr = number(text)?;
    PageAddr::containing(addr).map_or_else(|| kernel_side(text), Ok)
}

/// Reads a range of whole pages, `start-end`.
pub fn range(text: &str) -> Result<PageRange, Malformed> {
    let Some((start_text, end_text)) = text.split_once('-') else {
        return malformed(
            format!("{} is not a range", quoted(text)),
            "Write two page-aligned hexadecimal addresses with a '-' between them, such as 7f0000000000-7f0000004000.",
        );
    };
    let (start, end) = (number(start_text)?, number(end_text)?);
    if start >= PageAddr::LIMIT {
        return kernel_side(start_text);
    }
    if end > PageAddr::LIMIT {
        return kernel_side(end_text);
    }
    if start == end {
        let page = start & !(PAGE_SIZE - 1);
        return malformed(
            format!("{start:#x}-{end:#x} is empty: the end is the first byte that is not part of the range"),
            format!("The page there is {page:#x}-{:#x}.", page + PAGE_SIZE),
        );
    }
    if start > end {
        return malformed(
            format!("{start:#x}-{end:#x} is reversed: it ends before it begins"),
            "Write the lower address first.",
        );
    }
    match PageRange::from_bytes(start, end) {
        Some(range) => Ok(range),
        // Both are below the limit, so rounding up cannot overflow.
        None => malformed(
            format!("{start:#x}-{end:#x} does not begin and end on a page boundary ({PAGE_SIZE} bytes)"),
            format!(
                "The pages that it touches are {:#x}-{:#x}.",
                start & !(PAGE_SIZE - 1),
                end.next_multiple_of(PAGE_SIZE)
            ),
        ),
    }
}

/// A hexadecimal number, with or without `0x`.
fn number(text: &str) -> Result<u64, Malformed> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return malformed(
            format!("{} is not an address", quoted(text)),
            "Write it in hexadecimal, with or without 0x, as /proc/<pid>/maps does: 7f0000001000.",
        );
    }
    // Only the length can be wrong now.
    u64::from_str_radix(digits, 16).or_else(|_| kernel_side(text))
}

fn kernel_side<T>(text: &str) -> Result<T, Malformed> {
    malformed(
        format!("{} is not an address in user space", quoted(text)),
        format!(
            "User space ends at {:#x} at the latest; GET /pid/<pid>/maps lists what is mapped below.",
            PageAddr::LIMIT
        ),
    )
}

/// What a client wrote, fit for a message: escaped, and not longer than a line.
pub(crate) fn quoted(text: &str) -> String {
    const SHOWN: usize = 48;
    match text.char_indices().nth(SHOWN) {
        None => format!("{text:?}"),
        Some((cut, _)) => format!("{:?} and {} bytes more", &text[..cut], text.len() - cut),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn any_byte_names_its_page() {
        for text in ["7f0000001000", "0x7f0000001000", "0X7F0000001FFF", "00000000007f0000001abc"] {
            assert_eq!(page(text).unwrap().get(), 0x7f00_0000_1000, "{text}");
        }
        assert_eq!(page("0").unwrap().get(), 0);
    }

    #[test]
    fn what_is_not_in_user_space_is_refused() {
        for text in ["ffffffffffffffff", "0xffff888000000000", "100000000000000", "123456789012345678901234567890"] {
            let error = page(text).unwrap_err();
            assert!(error.detail.contains("user space"), "{text}: {error}");
        }
        for text in ["", "0x", "xyz", "-1", "+1", "0x0x1", "12 ", " 12", "１２", "1_000"] {
            assert!(page(text).unwrap_err().detail.contains("not an address"), "{text}");
        }
    }

    #[test]
    fn a_wrong_range_is_answered_with_a_right_one() {
        assert!(range("1001-3fff").unwrap_err().next.contains("0x1000-0x4000"));
        assert!(range("3000-1000").unwrap_err().detail.contains("reversed"));
        assert!(range("3000-3000").unwrap_err().next.contains("0x3000-0x4000"));
        assert!(range("ffffff00000000-100000000000000").is_ok());
        assert!(range("0-ffffffffffffffff").unwrap_err().detail.contains("user space"));
        for text in ["", "-", "1000", "1000-", "-1000", "1000-2000-3000", "a--b"] {
            assert!(range(text).is_err(), "{text}");
        }
    }

    #[test]
    fn pids_are_plain_decimals() {
        assert_eq!(pid("1").unwrap().get(), 1);
        for text in ["", "0", "-1", "+1", "0x10", "4194305", "99999999999999999999", "1.0", "١"] {
            assert!(pid(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_answered(text in "\\PC*") {
            let _ = (pid(&text), page(&text), range(&text));
        }

        #[test]
        fn what_is_written_is_read(start in 0..PageAddr::LIMIT / PAGE_SIZE - 1, pages in 1..1u64 << 20, prefix: bool) {
            let range_of = |start: u64, pages: u64| PageRange::new(PageAddr::new(start * PAGE_SIZE)?, pages);
            prop_assume!(range_of(start, pages).is_some());
            let asked = range_of(start, pages).unwrap();
            let text = if prefix { asked.to_string() } else { asked.to_string().replace("0x", "") };
            prop_assert_eq!(range(&text), Ok(asked));
        }

        #[test]
        fn advice_for_an_unaligned_range_is_good(start in 0..1u64 << 47, len in 1..1u64 << 30) {
            if let Err(error) = range(&format!("{:x}-{:x}", start, start + len)) {
                let better = error.next.split(' ').next_back().unwrap().trim_end_matches('.');
                let better = range(better).unwrap();
                prop_assert!(better.start().get() <= start && start + len <= better.end());
            }
        }
    }
}
