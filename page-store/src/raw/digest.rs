//! One pass over a pages file: digests of its frames and of all of it, and which pages are zero.

use crate::{Digest, FRAME_BYTES, Result};
use criu_images::{PAGE_SIZE, PagesFile};
use rayon::prelude::*;

/// Bytes that are read and digested at once: enough for every core to have several frames.
const CHUNK: u64 = 8 << 20;

/// What one pass over a pages file finds out: 18 bytes for each 64 KiB.
#[derive(Debug)]
pub(super) struct FileDigests {
    /// Of all of it.
    pub(super) whole: blake3::Hash,
    /// Of each frame.
    pub(super) frames: Vec<Digest>,
    /// Pages of all zeros in each frame: bit `i` for page `i`.
    zero: Vec<u16>,
}

impl FileDigests {
    /// Whether a page (counted from the beginning of the file) is all zeros.
    pub(super) fn is_zero(&self, page: u64) -> bool {
        let frame = usize::try_from(page / crate::FRAME_PAGES).unwrap_or(usize::MAX);
        self.zero.get(frame).is_some_and(|bits| bits >> (page % crate::FRAME_PAGES) & 1 == 1)
    }
}

/// Reads and digests all of `file`, on all cores.
pub(super) fn digest_file(file: &PagesFile) -> Result<FileDigests> {
    let mut buffer = vec![0; file.len().min(CHUNK) as usize];
    let mut hasher = blake3::Hasher::new();
    let mut frames: Vec<(Digest, u16)> = Vec::new();
    let mut at = 0;
    while at < file.len() {
        let chunk = &mut buffer[..(file.len() - at).min(CHUNK) as usize];
        file.read_exact_at(chunk, at)?;
        hasher.update_rayon(chunk);
        frames.par_extend(chunk.par_chunks(FRAME_BYTES as usize).map(|frame| (Digest::of(frame), zero_pages(frame))));
        at += chunk.len() as u64;
    }
    let (frames, zero) = frames.into_iter().unzip();
    Ok(FileDigests { whole: hasher.finalize(), frames, zero })
}

fn zero_pages(frame: &[u8]) -> u16 {
    let zero = |page: &[u8]| page.chunks(64).all(|line| line.iter().fold(0, |any, byte| any | byte) == 0);
    let pages = frame.chunks(PAGE_SIZE as usize).enumerate();
    pages.fold(0, |bits, (i, page)| bits | u16::from(zero(page)) << i)
}
