//! The index the other way round: for a frame, which memory of which task holds its pages.

use anyhow::Result;
use criu_images::{PageAddr, PageRange, Pid};
use page_store::{FRAME_PAGES, FrameNumber, Location, PageNumber, Run, Store};

/// Memory of a task whose content is neighbouring pages of one frame. 24 bytes; a checkpoint has one for each frame and for each
/// break in the order of its pages: about 0.6 MiB for 1 GiB of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Its first page's number in the store.
    pub first: PageNumber,
    /// Where that page was when the task was dumped.
    pub addr: PageAddr,
    /// Position in the manifest's tasks.
    pub task: u32,
    /// How many pages; never past the end of the frame.
    pub pages: u32,
}

impl Piece {
    /// The stored addresses it covers.
    pub(crate) fn range(&self) -> Option<PageRange> {
        PageRange::new(self.addr, self.pages.into())
    }
}

/// Every piece, sorted by page number, and every range that is zeros.
#[derive(Debug, Default)]
pub(crate) struct Placement {
    pieces: Vec<Piece>,
    /// Ranges of a task (position in the manifest) that are all zeros.
    pub zero: Vec<(u32, PageRange)>,
    frames: u64,
}

impl Placement {
    /// Reads the whole index.
    pub(crate) async fn read(store: &Store) -> Result<Self> {
        let everywhere = PageRange::from_bytes(0, PageAddr::LIMIT).expect("user space is a range");
        let mut placement = Self { frames: store.frame_count(), ..Self::default() };
        for (position, task) in store.manifest().tasks.iter().enumerate() {
            let Some(pid) = Pid::new(task.pid) else { continue };
            for run in store.runs(pid, everywhere).await? {
                placement.add(u32::try_from(position)?, run);
            }
        }
        placement.pieces.sort_unstable_by_key(|p| (p.first, p.task, p.addr));
        Ok(placement)
    }

    fn add(&mut self, task: u32, run: Run) {
        match run.location {
            Location::Zero => self.zero.push((task, run.range)),
            Location::Page(first) => self.pieces.extend(split_at_frames(task, run.range, first)),
        }
    }

    /// The pieces whose content is in `frame`.
    pub(crate) fn of_frame(&self, frame: FrameNumber) -> &[Piece] {
        let from = self.pieces.partition_point(|p| p.first < frame.first_page());
        let to = self.pieces.partition_point(|p| p.first.0 < frame.first_page().0 + FRAME_PAGES);
        &self.pieces[from..to]
    }

    /// How many frames the store has.
    pub(crate) fn frames(&self) -> u64 {
        self.frames
    }
}

/// Cuts a run so that no piece crosses a frame's border.
pub(crate) fn split_at_frames(task: u32, range: PageRange, first: PageNumber) -> impl Iterator<Item = Piece> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let left = range.pages() - done;
        let first = PageNumber(first.0.checked_add(done)?);
        let pages = left.min(FRAME_PAGES - first.in_frame() as u64);
        if pages == 0 {
            return None;
        }
        let addr = range.start().checked_add(done)?;
        done += pages;
        Some(Piece { first, addr, task, pages: pages as u32 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_cut_where_its_frames_end() {
        let range = PageRange::from_bytes(0x1000, 0x1000 + 40 * 4096).unwrap();
        let pieces: Vec<_> = split_at_frames(3, range, PageNumber(10)).collect();
        let shape: Vec<_> = pieces.iter().map(|p| (p.first.0, p.addr.get() / 4096, p.pages)).collect();
        assert_eq!(shape, [(10, 1, 6), (16, 7, 16), (32, 23, 16), (48, 39, 2)]);
        assert!(pieces.iter().all(|p| p.task == 3));
    }

    #[test]
    fn a_frame_finds_all_memory_that_shares_it() {
        let mut placement = Placement { frames: 3, ..Placement::default() };
        let range = |page: u64, pages| PageRange::new(PageAddr::new(page * 4096).unwrap(), pages).unwrap();
        placement.add(0, Run { range: range(100, 20), location: Location::Page(PageNumber(0)) });
        placement.add(1, Run { range: range(500, 4), location: Location::Page(PageNumber(14)) });
        placement.add(1, Run { range: range(900, 4), location: Location::Zero });
        placement.pieces.sort_unstable_by_key(|p| (p.first, p.task, p.addr));
        let of = |n| {
            placement
                .of_frame(FrameNumber(n))
                .iter()
                .map(|p| (p.task, p.addr.get() / 4096, p.pages))
                .collect::<Vec<_>>()
        };
        assert_eq!(of(0), [(0, 100, 16), (1, 500, 2)]);
        assert_eq!(of(1), [(0, 116, 4), (1, 502, 2)]);
        assert_eq!(of(2), []);
        assert_eq!(placement.zero, [(1, range(900, 4))]);
    }
}
