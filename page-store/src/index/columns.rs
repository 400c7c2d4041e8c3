//! A part while it is written: its columns, each value coded against the one before.

use super::{HEADER_LEN, MAGIC, MAX_PART_PLAIN, VERSION, varint};
use crate::{FrameInfo, Location, Run};
use criu_images::PAGE_SIZE;

/// zstd level of a part. Digests do not compress and the rest is small: higher levels win under 1 %.
const LEVEL: i32 = 9;

/// The columns of one part, in the order in which they are written.
#[derive(Debug, Default)]
pub(super) struct Columns {
    groups: Vec<u8>,
    gaps: Vec<u8>,
    lengths: Vec<u8>,
    locations: Vec<u8>,
    packs: Vec<u8>,
    offsets: Vec<u8>,
    stored: Vec<u8>,
    pages: Vec<u8>,
    digests: Vec<u8>,

    group_count: u32,
    run_count: u32,
    frame_count: u32,

    /// Task of the open group and runs in it so far.
    group: Option<(u32, u64)>,
    previous_task: u32,
    /// Page index (address / 4096) just past the last run of the group.
    next_page_index: u64,
    /// Page number just past the last run that has pages.
    expected_page: u64,
    /// Pack of the last frame and the byte just past it.
    pack: u32,
    expected_offset: u64,
}

impl Columns {
    pub(super) fn new(first_frame: u64) -> Self {
        Self { expected_page: first_frame * crate::FRAME_PAGES, ..Self::default() }
    }

    pub(super) fn runs(&self) -> u64 {
        self.run_count.into()
    }

    pub(super) fn frames(&self) -> u64 {
        self.frame_count.into()
    }

    pub(super) fn push_run(&mut self, task: u32, run: Run) {
        if self.group.is_none_or(|(open, _)| open != task) {
            self.close_group();
            self.group = Some((task, 0));
            self.next_page_index = 0;
        }
        if let Some((_, runs)) = &mut self.group {
            *runs += 1;
        }
        let index = run.range.start().get() / PAGE_SIZE;
        varint::put(&mut self.gaps, index - self.next_page_index);
        varint::put(&mut self.lengths, run.range.pages() - 1);
        self.next_page_index = index + run.range.pages();
        let location = match run.location {
            Location::Zero => 0,
            Location::Page(page) => {
                // Both are below 2^48 (`MAX_PAGES`): the difference and its fold fit.
                let folded = varint::zigzag(page.0 as i64 - self.expected_page as i64);
                self.expected_page = page.0 + run.range.pages();
                folded + 1
            }
        };
        varint::put(&mut self.locations, location);
        self.run_count += 1;
    }

    /// `frame` lies behind the one before it: in the same pack, or in a later one.
    pub(super) fn push_frame(&mut self, frame: FrameInfo) {
        if frame.pack != self.pack {
            self.expected_offset = 0;
        }
        varint::put(&mut self.packs, (frame.pack - self.pack).into());
        varint::put(&mut self.offsets, frame.offset - self.expected_offset);
        varint::put(&mut self.stored, frame.stored_len.into());
        self.pages.push(frame.pages);
        self.digests.extend_from_slice(&frame.digest.0);
        self.pack = frame.pack;
        self.expected_offset = frame.offset + u64::from(frame.stored_len);
        self.frame_count += 1;
    }

    fn close_group(&mut self) {
        if let Some((task, runs)) = self.group.take() {
            varint::put(&mut self.groups, (task - self.previous_task).into());
            varint::put(&mut self.groups, runs);
            self.previous_task = task;
            self.group_count += 1;
        }
    }

    /// The finished part.
    pub(super) fn encode(mut self, first_frame: u64) -> std::io::Result<Vec<u8>> {
        self.close_group();
        let columns = [
            &self.groups,
            &self.gaps,
            &self.lengths,
            &self.locations,
            &self.packs,
            &self.offsets,
            &self.stored,
            &self.pages,
            &self.digests,
        ];
        let plain = columns.map(|c| c.as_slice()).concat();
        assert!(plain.len() as u64 <= MAX_PART_PLAIN, "the caps on frames and runs keep a part small");
        let mut out = Vec::with_capacity(HEADER_LEN + plain.len() / 2);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        out.extend_from_slice(&first_frame.to_le_bytes());
        for count in [self.frame_count, self.run_count, self.group_count, plain.len() as u32] {
            out.extend_from_slice(&count.to_le_bytes());
        }
        debug_assert_eq!(out.len(), HEADER_LEN);
        out.extend_from_slice(&zstd::bulk::compress(&plain, LEVEL)?);
        Ok(out)
    }
}
