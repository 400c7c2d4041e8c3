//! What a thread knows about its own memory.

use super::content::{PAGE, Region, WORDS, describe};

/// What a page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Page of the region that it was dumped as; `None`: it was made empty since.
    pub stored: Option<u32>,
    /// What was written into it since; 0: nothing.
    pub tag: u32,
}

/// The word of a page that gets written.
pub const TAG_WORD: usize = 300;

impl Page {
    pub const ZERO: Self = Self { stored: None, tag: 0 };

    fn word(self, region: Region, word: usize) -> u64 {
        match self.stored {
            _ if word == TAG_WORD && self.tag != 0 => u64::from(self.tag),
            Some(page) => region.word(page, word),
            None => 0,
        }
    }

    /// Compares with what is there; an error tells both.
    pub fn check(self, region: Region, found: &[u64; WORDS]) -> Result<(), String> {
        let Some(word) = (0..WORDS).find(|word| found[*word] != self.word(region, *word)) else { return Ok(()) };
        let expected = describe(self.word(region, 0));
        Err(format!(
            "expected {self:?} of region {} ({expected}), found {}; first difference in word {word}: {:#x} instead of {:#x}",
            region.number,
            describe(found[0]),
            found[word],
            self.word(region, word)
        ))
    }
}

/// Memory that lies in one piece: mapped, readable and writable.
#[derive(Clone, Debug)]
pub struct Piece {
    pub addr: usize,
    pub pages: Vec<Page>,
}

impl Piece {
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    pub fn at(&self, page: usize) -> usize {
        self.addr + page * PAGE
    }

    /// Cuts `from..to` out of it: the pages before, those in the range, those after. The first and last may be empty.
    pub fn cut(self, from: usize, to: usize) -> [Self; 3] {
        let (addr, mut first) = (self.addr, self.pages);
        let mut middle = first.split_off(from);
        let last = middle.split_off(to - from);
        [(addr, first), (addr + from * PAGE, middle), (addr + to * PAGE, last)]
            .map(|(addr, pages)| Self { addr, pages })
    }
}
