//! `struct uffd_msg` as the kernel writes it: 32 bytes, the kind in the first, its fields from byte 8 on
//! (include/uapi/linux/userfaultfd.h).

use super::Error;
use std::os::fd::RawFd;

/// A message, in 64-bit words.
pub const MESSAGE_WORDS: usize = 4;
/// The same in bytes.
pub(super) const MESSAGE_BYTES: usize = MESSAGE_WORDS * 8;

/// Kinds of messages begin here; smaller ones are free for others' use.
pub const FIRST_KIND: u8 = 0x12;

const PAGEFAULT: u8 = 0x12;
const FORK: u8 = 0x13;
const REMAP: u8 = 0x14;
const REMOVE: u8 = 0x15;
const UNMAP: u8 = 0x16;

/// What a process with registered memory did. Addresses are as the kernel gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A thread waits for a page.
    Fault {
        /// Any byte of the page.
        addr: u64,
    },
    /// It forked. The child starts to run once this was read.
    Fork {
        /// The number of the child's userfaultfd in the file table of whoever read the event.
        fd: RawFd,
    },
    /// mremap moved memory.
    Remap {
        /// Old address.
        from: u64,
        /// New address.
        to: u64,
        /// Bytes.
        len: u64,
    },
    /// madvise(MADV_DONTNEED) or its like is about to make a range empty.
    Remove {
        /// First byte.
        start: u64,
        /// Just past the last byte.
        end: u64,
    },
    /// A range was unmapped.
    Unmap {
        /// First byte.
        start: u64,
        /// Just past the last byte.
        end: u64,
    },
}

impl Event {
    /// Reads a message.
    pub fn parse([head, a, b, c]: [u64; MESSAGE_WORDS]) -> Result<Self, Error> {
        Ok(match head.to_ne_bytes()[0] {
            // The first field is the kind of access.
            PAGEFAULT => Self::Fault { addr: b },
            FORK => Self::Fork { fd: low_half(a) },
            REMAP => Self::Remap { from: a, to: b, len: c },
            REMOVE => Self::Remove { start: a, end: b },
            UNMAP => Self::Unmap { start: a, end: b },
            unknown => return Err(Error::UnknownEvent(unknown)),
        })
    }
}

/// The 32-bit field that a word begins with.
pub(super) fn low_half(word: u64) -> i32 {
    let [a, b, c, d, ..] = word.to_ne_bytes();
    i32::from_ne_bytes([a, b, c, d])
}
