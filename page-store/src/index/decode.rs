//! Reads a part of an index: nothing in it is believed before it is checked.

mod frames;
mod runs;

use super::{HEADER_LEN, IndexPart, MAGIC, MAX_PART_FRAMES, MAX_PART_PLAIN, MAX_PART_RUNS, VERSION, varint};
use crate::{Digest, Error, Manifest, Result};
use std::io::Read;

/// What the manifest says about a part, which its bytes must agree with.
#[derive(Debug, Clone)]
pub struct PartBounds<'a> {
    manifest: &'a Manifest,
    /// Number of its first frame.
    pub first_frame: u64,
    /// Frames in it.
    pub frames: u64,
    /// (position of task, byte address) at which its runs begin.
    pub first: (u32, u64),
    /// The same of the next part.
    pub next: Option<(u32, u64)>,
}

impl<'a> PartBounds<'a> {
    /// Of the part at `position` in the manifest's `index`; `None` if there are not so many.
    pub fn of(manifest: &'a Manifest, position: usize) -> Option<Self> {
        let start = |p: &crate::IndexObject| (p.first_task, p.first_address);
        let part = manifest.index.get(position)?;
        Some(Self {
            manifest,
            first_frame: manifest.index.get(..position)?.iter().map(|p| p.frames).sum(),
            frames: part.frames,
            first: start(part),
            next: manifest.index.get(position + 1).map(start),
        })
    }
}

/// The counts of a header.
struct Header {
    first_frame: u64,
    frames: u64,
    runs: u64,
    groups: u64,
    plain_len: u64,
}

/// Reads on through the columns; errors say where.
struct Reader<'a> {
    object: &'a str,
    rest: &'a [u8],
}

impl Reader<'_> {
    fn corrupt(&self, place: impl Into<String>, problem: impl Into<String>) -> Error {
        Error::Corrupt { object: self.object.into(), place: place.into(), problem: problem.into() }
    }

    fn varint(&mut self, place: &dyn Fn() -> String) -> Result<u64> {
        varint::take(&mut self.rest).ok_or_else(|| self.corrupt(place(), "not a number, or cut short"))
    }

    /// Space for `count` things of which each takes at least `each` bytes of what is left.
    fn reserve<T>(&self, what: &str, count: u64, each: u64) -> Result<Vec<T>> {
        let count = usize::try_from(count).ok().filter(|_| count.saturating_mul(each) <= self.rest.len() as u64);
        count
            .map(Vec::with_capacity)
            .ok_or_else(|| self.corrupt("header", format!("more {what} than there are bytes for")))
    }
}

/// Decodes a part; `object` is for messages.
pub(super) fn decode(object: &str, bytes: &[u8], bounds: &PartBounds<'_>) -> Result<IndexPart> {
    let mut reader = Reader { object, rest: bytes };
    let header = header(&mut reader)?;
    if header.first_frame != bounds.first_frame || header.frames != bounds.frames {
        let problem = format!(
            "frames {}+{}, but the manifest says {}+{}",
            header.first_frame, header.frames, bounds.first_frame, bounds.frames
        );
        return Err(reader.corrupt("header", problem));
    }
    let plain = unpack(&reader, header.plain_len)?;
    reader.rest = &plain;
    let groups = runs::groups(&mut reader, &header, bounds)?;
    let mut runs = runs::ranges(&mut reader, &header, &groups, bounds)?;
    runs::locations(&mut reader, &mut runs, bounds)?;
    let frames = frames::table(&mut reader, bounds)?;
    if !reader.rest.is_empty() {
        return Err(reader.corrupt("end", format!("{} bytes too many", reader.rest.len())));
    }
    let part = IndexPart::new(bounds.first_frame, groups, runs, frames);
    match part.first_run_outside_its_frames() {
        Some(run) => Err(reader.corrupt(format!("run {}", run.range), "names pages behind the end of a short frame")),
        None => Ok(part),
    }
}

fn header(reader: &mut Reader<'_>) -> Result<Header> {
    let Some((header, rest)) = reader.rest.split_first_chunk::<HEADER_LEN>() else {
        return Err(reader.corrupt("header", "cut short"));
    };
    reader.rest = rest;
    if header[..8] != MAGIC {
        return Err(reader.corrupt("byte 0", "not a part of an index"));
    }
    let u32_at = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if u32_at(8) != VERSION {
        let what = format!("index version {}, made by a newer pageferry (this one reads version {VERSION})", u32_at(8));
        return Err(Error::Unsupported { object: reader.object.into(), what });
    }
    if u32_at(12) != 0 {
        let what = format!("index flags {:#x}, made by a newer pageferry", u32_at(12));
        return Err(Error::Unsupported { object: reader.object.into(), what });
    }
    let header = Header {
        first_frame: u64::from(u32_at(16)) | u64::from(u32_at(20)) << 32,
        frames: u32_at(24).into(),
        runs: u32_at(28).into(),
        groups: u32_at(32).into(),
        plain_len: u32_at(36).into(),
    };
    let limits = [
        ("frames", header.frames, MAX_PART_FRAMES),
        ("runs", header.runs, MAX_PART_RUNS),
        ("tasks", header.groups, header.runs),
        ("bytes", header.plain_len, MAX_PART_PLAIN),
    ];
    for (what, count, limit) in limits {
        if count > limit {
            return Err(reader.corrupt("header", format!("{count} {what}; at most {limit} are possible")));
        }
    }
    Ok(header)
}

/// The columns: exactly `plain_len` bytes from exactly one zstd frame, whose buffer grows with what really comes out.
fn unpack(reader: &Reader<'_>, plain_len: u64) -> Result<Vec<u8>> {
    let broken = |problem: String| reader.corrupt(format!("byte {HEADER_LEN}"), problem);
    let frame_len = zstd::zstd_safe::find_frame_compressed_size(reader.rest)
        .map_err(|code| broken(zstd::zstd_safe::get_error_name(code).into()))?;
    if frame_len != reader.rest.len() {
        return Err(broken("more than one zstd frame".into()));
    }
    let mut plain = Vec::new();
    zstd::Decoder::with_buffer(reader.rest)
        .and_then(|mut decoder| {
            decoder.window_log_max(MAX_PART_PLAIN.ilog2())?;
            decoder.take(plain_len + 1).read_to_end(&mut plain)
        })
        .map_err(|e| broken(e.to_string()))?;
    if plain.len() as u64 != plain_len {
        return Err(broken(format!("unpacks to another length than the {plain_len} bytes of the header")));
    }
    Ok(plain)
}

impl IndexPart {
    /// Decodes and checks an object; `object` is for messages.
    pub fn decode(object: &str, bytes: &[u8], bounds: &PartBounds<'_>) -> Result<Self> {
        decode(object, bytes, bounds)
    }
}

const _: () = assert!(size_of::<Digest>() == 16);
