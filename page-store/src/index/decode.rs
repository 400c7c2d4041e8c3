//! Reads a part of an index: nothing in it is believed before it is checked.

use super::{
    HEADER_LEN, IndexPart, MAGIC, MAX_PAGES, MAX_PART_FRAMES, MAX_PART_PLAIN, MAX_PART_RUNS, MAX_STORED_LEN, VERSION,
    lookup::{FrameEntry, Group, RunEntry},
    varint,
};
use crate::{Digest, Error, FRAME_PAGES, Manifest, PackEncoding, Result};
use criu_images::{PAGE_SIZE, PageAddr};
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
    let groups = groups(&mut reader, &header, bounds)?;
    let mut runs = run_ranges(&mut reader, &header, &groups, bounds)?;
    run_locations(&mut reader, &mut runs, bounds)?;
    let frames = frame_table(&mut reader, bounds)?;
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
        .and_then(|decoder| decoder.take(plain_len + 1).read_to_end(&mut plain))
        .map_err(|e| broken(e.to_string()))?;
    if plain.len() as u64 != plain_len {
        return Err(broken(format!("unpacks to another length than the {plain_len} bytes of the header")));
    }
    Ok(plain)
}

fn groups(reader: &mut Reader<'_>, header: &Header, bounds: &PartBounds<'_>) -> Result<Vec<Group>> {
    let tasks = bounds.manifest.tasks.len() as u64;
    let mut groups: Vec<Group> = reader.reserve("tasks", header.groups, 2)?;
    let (mut task, mut first_run) = (0u64, 0u64);
    for i in 0..header.groups {
        let place = || format!("task list, entry {i}");
        let step = reader.varint(&place)?;
        let runs = reader.varint(&place)?;
        task = task.checked_add(step).filter(|&t| t < tasks).ok_or_else(|| reader.corrupt(place(), "no such task"))?;
        if i > 0 && step == 0 {
            return Err(reader.corrupt(place(), "the same task again"));
        }
        if runs == 0 || runs > header.runs - first_run {
            return Err(reader.corrupt(place(), "number of runs does not fit"));
        }
        groups.push(Group { task: task as u32, first_run: first_run as u32 });
        first_run += runs;
    }
    if first_run != header.runs {
        return Err(reader.corrupt("task list", format!("{first_run} runs, but {} in the header", header.runs)));
    }
    Ok(groups)
}

fn run_ranges(
    reader: &mut Reader<'_>,
    header: &Header,
    groups: &[Group],
    bounds: &PartBounds<'_>,
) -> Result<Vec<RunEntry>> {
    let mut runs: Vec<RunEntry> = reader.reserve("runs", header.runs, 3)?;
    // The two columns go together: gaps lead, lengths follow in a second reader that starts where gaps end.
    let mut gaps = Reader { object: reader.object, rest: reader.rest };
    for i in 0..header.runs {
        reader.varint(&|| format!("addresses, run {i}"))?;
    }
    let mut group = groups.iter().peekable();
    let (mut task, mut end) = (0u32, 0u64);
    for i in 0..header.runs {
        let place = || format!("run {i}");
        if let Some(next) = group.next_if(|g| u64::from(g.first_run) == i) {
            (task, end) = (next.task, 0);
        }
        let gap = gaps.varint(&place)?;
        let pages = reader.varint(&|| format!("lengths, run {i}"))?.saturating_add(1);
        let first = end.saturating_add(gap);
        end = first.saturating_add(pages);
        if end > PageAddr::LIMIT / PAGE_SIZE {
            return Err(reader.corrupt(place(), "leaves user space"));
        }
        let start = (task, first * PAGE_SIZE);
        if i == 0 && start != bounds.first {
            return Err(reader.corrupt(place(), "the part begins elsewhere than the manifest says"));
        }
        if bounds.next.is_some_and(|next| (task, end * PAGE_SIZE) > next) {
            return Err(reader.corrupt(place(), "belongs to the next part"));
        }
        runs.push(RunEntry { first, pages, location: RunEntry::ZERO });
    }
    Ok(runs)
}

fn run_locations(reader: &mut Reader<'_>, runs: &mut [RunEntry], bounds: &PartBounds<'_>) -> Result<()> {
    // What a run names came before it or comes in its own part.
    let end_frame = bounds.first_frame.saturating_add(bounds.frames);
    let all_pages = end_frame.saturating_mul(FRAME_PAGES).min(MAX_PAGES);
    let mut expected = bounds.first_frame.saturating_mul(FRAME_PAGES);
    for (i, run) in runs.iter_mut().enumerate() {
        let place = || format!("locations, run {i}");
        let Some(folded) = reader.varint(&place)?.checked_sub(1) else { continue };
        let page = expected.checked_add_signed(varint::unzigzag(folded));
        let end = page.and_then(|page| page.checked_add(run.pages)).filter(|&end| end <= all_pages);
        let (Some(page), Some(end)) = (page, end) else {
            return Err(reader.corrupt(place(), "names pages that are not in this part or before it"));
        };
        run.location = page;
        expected = end;
    }
    Ok(())
}

fn frame_table(reader: &mut Reader<'_>, bounds: &PartBounds<'_>) -> Result<Vec<FrameEntry>> {
    let packs = &bounds.manifest.packs;
    let mut frames: Vec<FrameEntry> = reader.reserve("frames", bounds.frames, 4 + 16)?;
    // Which pack holds a frame follows from the manifest's counts; the column must agree.
    let mut pack = 0usize;
    let mut pack_end = packs.first().map_or(0, |p| p.frames);
    let mut previous = 0u64;
    for i in 0..bounds.frames {
        let place = || format!("packs, frame {}", bounds.first_frame + i);
        previous = previous.saturating_add(reader.varint(&place)?);
        while bounds.first_frame + i >= pack_end && pack < packs.len() {
            pack += 1;
            pack_end = pack_end.saturating_add(packs.get(pack).map_or(0, |p| p.frames));
        }
        if previous != pack as u64 || pack >= packs.len() {
            return Err(reader.corrupt(place(), format!("pack {previous} does not hold it")));
        }
        frames.push(FrameEntry { pack: pack as u32, ..FrameEntry::default() });
    }
    offsets(reader, &mut frames, bounds)?;
    pages_and_digests(reader, &mut frames, bounds)?;
    Ok(frames)
}

/// The columns of offsets and stored lengths.
fn offsets(reader: &mut Reader<'_>, frames: &mut [FrameEntry], bounds: &PartBounds<'_>) -> Result<()> {
    let mut gaps = Reader { object: reader.object, rest: reader.rest };
    for i in 0..bounds.frames {
        reader.varint(&|| format!("offsets, frame {}", bounds.first_frame + i))?;
    }
    let (mut in_pack, mut end) = (0u32, 0u64);
    for (i, frame) in frames.iter_mut().enumerate() {
        let place = || format!("frame {}", bounds.first_frame + i as u64);
        if frame.pack != in_pack {
            (in_pack, end) = (frame.pack, 0);
        }
        let gap = gaps.varint(&place)?;
        let stored = reader.varint(&|| format!("lengths, {}", place()))?;
        if !(1..=MAX_STORED_LEN).contains(&stored) {
            return Err(reader.corrupt(place(), format!("stored length {stored}; 1 to {MAX_STORED_LEN} are possible")));
        }
        let size = bounds.manifest.packs.get(frame.pack as usize).map_or(0, |p| p.object.size);
        let offset = end.saturating_add(gap);
        end = offset.saturating_add(stored);
        if end > size {
            return Err(reader.corrupt(place(), format!("ends at byte {end} of a pack of {size} bytes")));
        }
        (frame.offset, frame.stored_len) = (offset, stored as u32);
    }
    Ok(())
}

/// The last two columns, and what needs all of them.
fn pages_and_digests(reader: &mut Reader<'_>, frames: &mut [FrameEntry], bounds: &PartBounds<'_>) -> Result<()> {
    let count = frames.len();
    let cut = |reader: &Reader<'_>| reader.corrupt("frame table", "cut short");
    let (pages, rest) = reader.rest.split_at_checked(count).ok_or_else(|| cut(reader))?;
    let (digests, rest) = rest.split_at_checked(count * 16).ok_or_else(|| cut(reader))?;
    reader.rest = rest;
    let mut pack_ends = bounds.manifest.packs.iter().scan(0u64, |end, pack| {
        *end = end.saturating_add(pack.frames);
        Some(*end)
    });
    let mut pack_end = 0;
    for (i, ((frame, &pages), digest)) in frames.iter_mut().zip(pages).zip(digests.chunks_exact(16)).enumerate() {
        let number = bounds.first_frame + i as u64;
        while pack_end <= number {
            match pack_ends.next() {
                Some(end) => pack_end = end,
                None => break,
            }
        }
        let place = || format!("frame {number}");
        let possible = if number + 1 == pack_end { 1..=FRAME_PAGES } else { FRAME_PAGES..=FRAME_PAGES };
        if !possible.contains(&pages.into()) {
            return Err(reader.corrupt(place(), format!("{pages} pages; only the last frame of a pack may be short")));
        }
        let encoding = bounds.manifest.packs.get(frame.pack as usize).map(|p| p.encoding);
        if encoding == Some(PackEncoding::Plain) && u64::from(frame.stored_len) != u64::from(pages) * PAGE_SIZE {
            return Err(reader.corrupt(place(), "stored length is not that of its pages"));
        }
        frame.pages = pages;
        frame.digest.copy_from_slice(digest);
    }
    Ok(())
}

impl IndexPart {
    /// Decodes and checks an object; `object` is for messages.
    pub fn decode(object: &str, bytes: &[u8], bounds: &PartBounds<'_>) -> Result<Self> {
        decode(object, bytes, bounds)
    }
}

const _: () = assert!(size_of::<Digest>() == 16);
