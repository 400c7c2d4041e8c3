//! What every page must hold.

/// Bytes in a page.
pub const PAGE: usize = 4096;
/// 64-bit words in a page.
pub const WORDS: usize = PAGE / 8;

/// Whose memory: a thread of a task, or all threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    pub task: u32,
    /// `SHARED` and `GIANT` are regions too.
    pub number: u32,
}

/// The region that all threads of a task read and none changes.
pub const SHARED: u32 = 100;
/// The region of many GiB with a page here and there.
pub const GIANT: u32 = 101;

/// How a page of a region is dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// With bytes of its own.
    Own,
    /// With bytes that every task has there: found once in a store.
    Common,
    /// With zeros.
    Zeros,
    /// Not at all: never written before the dump. Reads as zeros.
    Absent,
}

impl Region {
    pub fn kind(self, page: u32) -> Kind {
        // Runs of 3 absent and of 2 zero pages, so that runs of missing pages have many lengths.
        match (page % 97, page % 61) {
            (90.., _) if self.number != GIANT => Kind::Absent,
            (_, 40..42) => Kind::Zeros,
            (_, 42..50) => Kind::Common,
            _ => Kind::Own,
        }
    }

    /// Word `word` of page `page` as it was when dumped.
    pub fn word(self, page: u32, word: usize) -> u64 {
        let owner = match self.kind(page) {
            Kind::Own => u64::from(self.task + 1) << 48 | u64::from(self.number + 1) << 32,
            Kind::Common => 0xffff_u64 << 48,
            Kind::Zeros | Kind::Absent => return 0,
        };
        let name = owner | u64::from(page);
        if word == 0 { name } else { mix(name.wrapping_mul(0x2545_f491_4f6c_dd1d).wrapping_add(word as u64)) }
    }

    /// The whole page.
    pub fn bytes(self, page: u32) -> [u8; PAGE] {
        let mut bytes = [0; PAGE];
        for (word, bytes) in bytes.chunks_exact_mut(8).enumerate() {
            bytes.copy_from_slice(&self.word(page, word).to_le_bytes());
        }
        bytes
    }
}

/// What a page that has `first` as its first word seems to be: for messages.
pub fn describe(first: u64) -> String {
    match (first >> 48, (first >> 32) & 0xffff, first & 0xffff_ffff) {
        (0, 0, 0) => "zeros".into(),
        (0xffff, 0, page) => format!("common page {page}"),
        (task @ 1..9, region @ 1..200, page) => format!("page {page} of region {} of task {}", region - 1, task - 1),
        _ => format!("unknown bytes {first:#x}"),
    }
}

/// splitmix64: every input bit changes every output bit.
pub fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Random numbers from a seed.
#[derive(Clone, Copy, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    /// Less than `limit`; 0 if that is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}
