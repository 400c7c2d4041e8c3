//! Userfaultfd events, as changes of an address space; their addresses, as page ranges.

use super::AddressSpace;
use crate::uffd::Event;
use criu_images::{PAGE_SIZE, PageAddr, PageRange};

/// Changes `space` as the event tells. A fault or a fork changes nothing.
pub fn apply(space: &mut AddressSpace, event: &Event) {
    match *event {
        Event::Fault { .. } | Event::Fork { .. } => {}
        Event::Remap { from, to, len } => {
            if let Some((from, to)) = pages_moved(from, to, len) {
                space.remap(from, to);
            }
        }
        Event::Remove { start, end } => {
            if let Some(range) = pages_touched(start, end) {
                space.remove(range);
            }
        }
        Event::Unmap { start, end } => {
            if let Some(range) = pages_touched(start, end) {
                space.unmap(range);
            }
        }
    }
}

/// The pages of the bytes `start..end`, whatever these numbers are: rounded outwards to whole pages (as munmap and madvise do),
/// clipped to user space; `None` if nothing is left.
pub fn pages_touched(start: u64, end: u64) -> Option<PageRange> {
    if start >= end {
        return None;
    }
    let start = start & !(PAGE_SIZE - 1);
    let end = end.min(PageAddr::LIMIT).next_multiple_of(PAGE_SIZE);
    PageRange::from_bytes(start, end)
}

/// A move by mremap of `len` bytes, likewise clipped: to the shorter of both sides. `None` if nothing is left.
pub fn pages_moved(from: u64, to: u64, len: u64) -> Option<(PageRange, PageAddr)> {
    let from = pages_touched(from, from.saturating_add(len))?;
    let to = pages_touched(to, to.saturating_add(len))?;
    Some((PageRange::new(from.start(), from.pages().min(to.pages()))?, to.start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_numbers_give_a_range_in_user_space_or_none() {
        let odd = [0, 1, 4095, 4096, 4097, 1 << 47, (1 << 56) - 1, 1 << 56, (1 << 56) + 1, u64::MAX - 4096, u64::MAX];
        for start in odd {
            for end in odd {
                if let Some(range) = pages_touched(start, end) {
                    assert!(range.end() <= PageAddr::LIMIT && start < end);
                }
                for len in odd {
                    if let Some((from, to)) = pages_moved(start, end, len) {
                        assert!(PageRange::new(to, from.pages()).is_some());
                    }
                }
            }
        }
    }

    #[test]
    fn rounds_outwards() {
        assert_eq!(pages_touched(4097, 8193), PageRange::from_bytes(4096, 12288));
        assert_eq!(pages_touched(8192, 8192), None);
        assert_eq!(
            pages_moved(4096, 1 << 40, 10),
            Some((PageRange::from_bytes(4096, 8192).unwrap(), PageAddr::new(1 << 40).unwrap()))
        );
    }
}
