//! The frame table: packs, offsets, stored lengths, pages, digests.

use super::{PartBounds, Reader};
use crate::{
    FRAME_PAGES, PackEncoding, Result,
    index::{MAX_STORED_LEN, lookup::FrameEntry},
};
use criu_images::PAGE_SIZE;

pub(super) fn table(reader: &mut Reader<'_>, bounds: &PartBounds<'_>) -> Result<Vec<FrameEntry>> {
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
