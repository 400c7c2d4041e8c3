//! Packs: how frames are encoded, and the seek table that ends a pack.
//!
//! ```text
//! pack  := frame* seek_table
//! frame := one independent zstd frame with its content size in the header, no checksum, no dictionary
//! ```
//!
//! A frame that zstd shrinks by less than 5 % is written as a zstd frame of raw blocks, so that reading it costs a copy and
//! `zstd -d` still reads the pack. Digests of frames are in the index, not here.
//!
//! The trailer is the seek table of zstd's seekable format
//! (`contrib/seekable_format/zstd_seekable_compression_format.md`), without the optional checksums. All numbers are little-endian:
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | `0x184D2A5E`: a skippable frame |
//! | 4 | 4 | bytes that follow: `8 n + 9` |
//! | 8 | 8 n | per frame: stored bytes (4), plain bytes (4) |
//! | 8 n + 8 | 4 | n, the number of frames |
//! | 8 n + 12 | 1 | descriptor: 0, no checksums |
//! | 8 n + 13 | 4 | `0x8F92EAB1` |

use std::{io, sync::Mutex};
use zstd::bulk::Compressor;

/// A pack is not longer than this, trailer included. Large enough that a checkpoint is a few dozen objects, small enough for
/// every object store's single PUT and for a CDN's cache.
pub const MAX_PACK_BYTES: u64 = 64 << 20;

/// Frames in a pack at most. Well above what 64 MiB of real memory holds; it bounds the seek table when memory is nearly empty.
pub const MAX_PACK_FRAMES: u64 = 1 << 16;

/// Bytes of the seek table that do not depend on the number of frames.
const SEEK_TABLE_FIXED: u64 = 8 + 9;
/// Bytes of the seek table for each frame.
const SEEK_TABLE_ENTRY: u64 = 8;
const SKIPPABLE_MAGIC: u32 = 0x184D_2A5E;
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
/// A seek table without checksums.
const SEEKABLE_DESCRIPTOR: u8 = 0;

const ZSTD_MAGIC: u32 = 0xFD2F_B528;
/// Frame header descriptor: content size in 4 bytes, single segment (the window is the content), no checksum, no dictionary.
const RAW_DESCRIPTOR: u8 = 0b1010_0000;
/// The longest raw block (RFC 8878, 3.1.1.2.4).
const MAX_BLOCK: usize = 128 << 10;

/// Encodes frames at one level, from any number of threads; a compressor (some 100 KiB of tables) is kept per thread at work.
pub struct FrameEncoder {
    level: i32,
    idle: Mutex<Vec<Compressor<'static>>>,
}

impl FrameEncoder {
    /// `level` is zstd's, negative ones included.
    pub fn new(level: i32) -> Self {
        Self { level, idle: Mutex::default() }
    }

    /// One frame of a pack. The result never exceeds the plain length by more than [`raw_frame`]'s headers.
    pub fn encode(&self, plain: &[u8]) -> io::Result<Vec<u8>> {
        let idle = self.idle.lock().unwrap_or_else(|e| e.into_inner()).pop();
        let mut compressor = match idle {
            Some(compressor) => compressor,
            None => Compressor::new(self.level)?,
        };
        let encoded = compressor.compress(plain)?;
        self.idle.lock().unwrap_or_else(|e| e.into_inner()).push(compressor);
        if encoded.len() >= plain.len() - plain.len() / 20 { raw_frame(plain) } else { Ok(encoded) }
    }
}

/// A zstd frame that holds `plain` as it is, in raw blocks.
pub fn raw_frame(plain: &[u8]) -> io::Result<Vec<u8>> {
    let content_size = u32::try_from(plain.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut frame = Vec::with_capacity(plain.len() + plain.len() / MAX_BLOCK * 3 + 12);
    frame.extend(ZSTD_MAGIC.to_le_bytes());
    frame.push(RAW_DESCRIPTOR);
    frame.extend(content_size.to_le_bytes());
    let mut rest = plain;
    loop {
        let (block, after) = rest.split_at(rest.len().min(MAX_BLOCK));
        // Three bytes: last block (1 bit), type 0 = raw (2 bits), length (21 bits).
        let header = u32::from(after.is_empty()) | (block.len() as u32) << 3;
        frame.extend(&header.to_le_bytes()[..3]);
        frame.extend(block);
        if after.is_empty() {
            return Ok(frame);
        }
        rest = after;
    }
}

/// The seek table of a pack: stored and plain length of each frame, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeekTable {
    frames: Vec<(u32, u32)>,
}

impl SeekTable {
    /// Adds the next frame of the pack.
    pub fn push(&mut self, stored_len: u32, plain_len: u32) {
        self.frames.push((stored_len, plain_len));
    }

    /// (stored length, plain length) of each frame.
    pub fn frames(&self) -> &[(u32, u32)] {
        &self.frames
    }

    /// How long the trailer of `frames` frames is.
    pub fn encoded_len(frames: u64) -> u64 {
        SEEK_TABLE_FIXED + SEEK_TABLE_ENTRY * frames
    }

    /// The trailer. The number of frames is at most [`MAX_PACK_FRAMES`], so every length fits its field.
    pub fn encode(&self) -> Vec<u8> {
        let len = Self::encoded_len(self.frames.len() as u64);
        let mut out = Vec::with_capacity(len as usize);
        out.extend(SKIPPABLE_MAGIC.to_le_bytes());
        out.extend((len as u32 - 8).to_le_bytes());
        for (stored, plain) in &self.frames {
            out.extend(stored.to_le_bytes());
            out.extend(plain.to_le_bytes());
        }
        out.extend((self.frames.len() as u32).to_le_bytes());
        out.push(SEEKABLE_DESCRIPTOR);
        out.extend(SEEKABLE_MAGIC.to_le_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that zstd cannot shrink.
    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
        bytes
    }

    fn text(len: usize) -> Vec<u8> {
        (0..).flat_map(|n: u32| format!("line {n}\n").into_bytes()).take(len).collect()
    }

    #[test]
    fn incompressible_frames_are_raw_and_decode() {
        for len in [1, 4096, 65536, MAX_BLOCK, MAX_BLOCK + 1, 3 * MAX_BLOCK] {
            let plain = noise(len);
            let frame = FrameEncoder::new(3).encode(&plain).unwrap();
            assert_eq!(frame, raw_frame(&plain).unwrap());
            assert_eq!(frame.len(), len + 9 + 3 * len.div_ceil(MAX_BLOCK));
            assert_eq!(zstd::bulk::decompress(&frame, len).unwrap(), plain);
            assert_eq!(zstd::zstd_safe::get_frame_content_size(&frame).unwrap(), Some(len as u64));
        }
    }

    #[test]
    fn compressible_frames_shrink_and_name_their_size() {
        let plain = text(65536);
        let encoder = FrameEncoder::new(3);
        let frame = encoder.encode(&plain).unwrap();
        assert!(frame.len() < plain.len() / 3, "{}", frame.len());
        assert_eq!(zstd::zstd_safe::get_frame_content_size(&frame).unwrap(), Some(65536));
        assert_eq!(frame, encoder.encode(&plain).unwrap(), "a used compressor gives the same bytes");
    }

    #[test]
    fn zstd_reads_a_whole_pack() {
        let (a, b) = (text(65536), noise(65536));
        let encoder = FrameEncoder::new(3);
        let mut pack = Vec::new();
        let mut table = SeekTable::default();
        for plain in [&a, &b, &a] {
            let frame = encoder.encode(plain).unwrap();
            table.push(frame.len() as u32, plain.len() as u32);
            pack.extend(frame);
        }
        pack.extend(table.encode());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pack");
        std::fs::write(&path, &pack).unwrap();
        let mut zstd = std::process::Command::new("/usr/bin/zstd");
        let out = zstd.args(["-d", "-c"]).stdin(std::fs::File::open(&path).unwrap()).output();
        let out = out.expect("/usr/bin/zstd is part of the test machine");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(out.stdout, [a.clone(), b, a].concat());
    }

    /// The bytes of `zstd_seekable_compression_format.md`, written out by hand.
    #[test]
    fn seek_table_is_the_reference_format() {
        let mut table = SeekTable::default();
        table.push(0x0102, 0x1_0000);
        table.push(7, 0x2000);
        #[rustfmt::skip]
        let expected = [
            0x5E, 0x2A, 0x4D, 0x18, 25, 0, 0, 0,
            0x02, 0x01, 0, 0, 0, 0, 1, 0,
            7, 0, 0, 0, 0, 0x20, 0, 0,
            2, 0, 0, 0, 0, 0xB1, 0xEA, 0x92, 0x8F,
        ];
        assert_eq!(table.encode(), expected);
        assert_eq!(SeekTable::encoded_len(2), expected.len() as u64);
    }
}
