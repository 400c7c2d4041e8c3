//! Framing: the magics at the head of an image file, and the length-prefixed entries behind them.
//!
//! Source of fact: CRIU's `include/magic.h`, `image-desc.c`, `protobuf.c`. There is no trailer and no checksum, so a file
//! cut between two entries looks whole; readers that know how many entries there must be check it.

use crate::{Error, Result};

/// Head of every image but the inventory and the service files.
const COMMON: u32 = 0x5456_4319;
/// Head of `stats-*` and `irmap-cache`.
const SERVICE: u32 = 0x5510_5940;

/// A kind of image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// As CRIU calls it, for messages.
    pub name: &'static str,
    /// Its own magic.
    pub magic: u32,
    head: Head,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    /// Only its own magic.
    Bare,
    Common,
    Service,
}

impl Kind {
    const fn common(name: &'static str, magic: u32) -> Self {
        Self { name, magic, head: Head::Common }
    }

    /// `inventory.img`
    pub const INVENTORY: Self = Self { name: "inventory", magic: 0x5831_3116, head: Head::Bare };
    /// `pstree.img`
    pub const PSTREE: Self = Self::common("pstree", 0x5027_3030);
    /// `core-<tid>.img`
    pub const CORE: Self = Self::common("core", 0x5505_3847);
    /// `mm-<pid>.img`
    pub const MM: Self = Self::common("mm", 0x5749_2820);
    /// `pagemap-<pid>.img` and `pagemap-shmem-<shmid>.img`
    pub const PAGEMAP: Self = Self::common("pagemap", 0x5608_4025);
    /// `files.img`
    pub const FILES: Self = Self::common("files", 0x5630_3138);
    /// `reg-files.img`, of CRIU before 3.3
    pub const REG_FILES: Self = Self::common("reg-files", 0x5036_3636);
    /// `memfd.img`
    pub const MEMFD_INODE: Self = Self::common("memfd", 0x4845_3499);
    /// `stats-dump`, `stats-restore`
    pub const STATS: Self = Self { name: "stats", magic: 0x5709_3306, head: Head::Service };

    /// The bytes before the first entry.
    pub fn header(self) -> Vec<u8> {
        let first: &[u32] = match self.head {
            Head::Bare => &[],
            Head::Common => &[COMMON],
            Head::Service => &[SERVICE],
        };
        first.iter().chain([&self.magic]).flat_map(|word| word.to_le_bytes()).collect()
    }
}

/// One entry of an image file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    /// Counts from 0.
    pub(crate) number: usize,
    /// Byte in the file where its message begins.
    pub(crate) offset: u64,
    /// The protobuf message.
    pub(crate) bytes: &'a [u8],
}

/// The entries of an image file, one after another. Ends after the first error.
pub(crate) struct Entries<'a> {
    file: &'a str,
    bytes: &'a [u8],
    at: usize,
    number: usize,
}

impl<'a> Entries<'a> {
    /// Checks the head of `bytes`; `file` is for messages.
    ///
    /// Image version 1 had no common magic (CRIU before 1.6), and such files are still read, by CRIU as by us.
    pub(crate) fn new(file: &'a str, bytes: &'a [u8], kind: Kind) -> Result<Self> {
        let word = |at: usize| bytes.get(at..at + 4).and_then(|w| w.try_into().ok()).map(u32::from_le_bytes);
        let short = || Error::corrupt(file, format_args!("byte {}", bytes.len()), "ends inside its magic");
        let mut at = 0;
        let common = match kind.head {
            Head::Bare => None,
            Head::Common => Some(COMMON),
            Head::Service => Some(SERVICE),
        };
        if let Some(common) = common
            && word(0).ok_or_else(short)? == common
        {
            at = 4;
        }
        let magic = word(at).ok_or_else(short)?;
        if magic != kind.magic {
            let problem = format!("magic {magic:#010x} is not that of a {} image ({:#010x})", kind.name, kind.magic);
            return Err(Error::corrupt(file, format_args!("byte {at}"), problem));
        }
        Ok(Self { file, bytes, at: at + 4, number: 0 })
    }

    /// The next entry, which must be there; `what` names it for the message.
    pub(crate) fn expect(&mut self, what: &str) -> Result<Entry<'a>> {
        match self.next() {
            Some(entry) => entry,
            None => Err(Error::corrupt(self.file, format_args!("byte {}", self.at), format_args!("{what} is missing"))),
        }
    }

    /// An error unless all entries were read.
    pub(crate) fn finish(mut self) -> Result<()> {
        match self.next() {
            None => Ok(()),
            Some(Err(e)) => Err(e),
            Some(Ok(entry)) => Err(Error::corrupt(
                self.file,
                format_args!("entry {} at byte {}", entry.number, entry.offset),
                "one entry more than this image can have",
            )),
        }
    }

    fn step(&mut self) -> Result<Entry<'a>, String> {
        let rest = &self.bytes[self.at..];
        let Some((len, body)) = rest.split_first_chunk::<4>() else {
            return Err(format!("{} bytes where a length of 4 belongs", rest.len()));
        };
        let len = u32::from_le_bytes(*len) as usize;
        let Some(bytes) = body.get(..len) else {
            return Err(format!("an entry of {len} bytes, but only {} follow", body.len()));
        };
        let entry = Entry { number: self.number, offset: self.at as u64 + 4, bytes };
        self.at += 4 + len;
        self.number += 1;
        Ok(entry)
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.bytes.len() {
            return None;
        }
        let place = format!("entry {} at byte {}", self.number, self.at);
        Some(self.step().map_err(|problem| {
            self.at = self.bytes.len();
            Error::corrupt(self.file, place, problem)
        }))
    }
}

/// Appends one entry.
pub(crate) fn push_entry(image: &mut Vec<u8>, message: &[u8]) {
    let len = u32::try_from(message.len()).expect("messages that we write are small");
    image.extend_from_slice(&len.to_le_bytes());
    image.extend_from_slice(message);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], kind: Kind) -> Result<Vec<(u64, Vec<u8>)>> {
        Entries::new("f", bytes, kind)?.map(|e| e.map(|e| (e.offset, e.bytes.to_vec()))).collect()
    }

    #[test]
    fn heads_and_entries() {
        for (kind, len) in [(Kind::INVENTORY, 4), (Kind::PSTREE, 8), (Kind::STATS, 8)] {
            let mut image = kind.header();
            assert_eq!(image.len() as u64, len);
            push_entry(&mut image, b"one");
            push_entry(&mut image, b"");
            assert_eq!(read(&image, kind).unwrap(), [(len + 4, b"one".to_vec()), (len + 11, Vec::new())]);
        }
    }

    #[test]
    fn lengths_that_lie_are_named() {
        let mut image = Kind::PSTREE.header();
        push_entry(&mut image, b"one");
        image.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 1]);
        let error = read(&image, Kind::PSTREE).unwrap_err().to_string();
        assert_eq!(error, "f: entry 1 at byte 15: an entry of 4294967295 bytes, but only 1 follow");
        let error = read(&image[..17], Kind::PSTREE).unwrap_err().to_string();
        assert_eq!(error, "f: entry 1 at byte 15: 2 bytes where a length of 4 belongs");
    }

    #[test]
    fn other_magics_are_named() {
        let error = read(&Kind::MM.header(), Kind::PSTREE).unwrap_err().to_string();
        assert_eq!(error, "f: byte 4: magic 0x57492820 is not that of a pstree image (0x50273030)");
        assert!(read(&Kind::MM.header()[..6], Kind::MM).unwrap_err().to_string().contains("inside its magic"));
        assert!(read(&[], Kind::MM).is_err());
    }
}
