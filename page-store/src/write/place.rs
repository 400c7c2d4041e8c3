//! The second stage: gives every page its place in the array of distinct pages.

use super::{batch::Batch, dedup::PageMap};
use crate::{Digest, FRAME_BYTES, FRAME_PAGES, FrameNumber, Location, PageNumber, Run};
use criu_images::{PAGE_SIZE, PageRange};

/// Frames that one window (aligned 64 KiB of memory) may need. A fault fetches what its window needs: without a bound, 16
/// pages that came up before in 16 places would cost 16 frames.
pub(super) const MAX_FRAMES_PER_WINDOW: usize = 3;

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Placed {
    /// Whole frames, one after another (the very last may be short).
    pub(super) plain: Vec<u8>,
    /// Where each span's content is; the task by its position.
    pub(super) runs: Vec<(u32, Run)>,
}

/// What a checkpoint came to, in pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) lazy: u64,
    pub(super) zero: u64,
    pub(super) stored: u64,
    /// Distinct contents that are not zero: stored pages less those that are stored again, and what the base has.
    pub(super) distinct: u64,
}

/// Gives places, in order. One thread: the order is what makes the store the same every time.
pub(super) struct Placer {
    map: PageMap,
    /// Just past the pages of the base.
    base_end: PageNumber,
    /// Which pages of the base were met: a bit for each.
    met: Vec<u64>,
    /// The number of the next page that is stored.
    next: PageNumber,
    counts: Counts,
    /// Pages of the frame that is not full yet.
    open: Vec<u8>,
}

/// A page of a window: where it is in its batch, and the digest of its content unless that is zero.
struct Page {
    range: PageRange,
    at: usize,
    digest: Option<Digest>,
}

impl Placer {
    /// `map` knows pages of the base, which end before `base_end`: the beginning of a frame.
    pub(super) fn new(map: PageMap, base_end: PageNumber) -> Self {
        let met = vec![0; usize::try_from(base_end.0.div_ceil(64)).unwrap_or(0)];
        Self { map, base_end, met, next: base_end, counts: Counts::default(), open: Vec::new() }
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// `digests` has an entry for each page of `batch`: `None` for a zero page.
    pub(super) fn place(&mut self, batch: &Batch, digests: &[Option<Digest>]) -> Placed {
        let mut placed = Placed { plain: std::mem::take(&mut self.open), runs: Vec::with_capacity(digests.len()) };
        placed.plain.reserve(batch.bytes.len());
        let mut window: Vec<Page> = Vec::with_capacity(FRAME_PAGES as usize);
        let mut window_of = None;
        let mut digests = digests.iter();
        let mut at = 0;
        for span in &batch.spans {
            for n in 0..span.range.pages() {
                let range = span.range.start().checked_add(n).and_then(|start| PageRange::new(start, 1));
                let (Some(range), Some(&digest)) = (range, digests.next()) else { continue };
                let this = (span.task, range.start().get() / FRAME_BYTES);
                if let Some((task, _)) = window_of
                    && window_of != Some(this)
                {
                    self.place_window(task, &window, batch, &mut placed);
                    window.clear();
                }
                window_of = Some(this);
                window.push(Page { range, at, digest });
                at += PAGE_SIZE as usize;
            }
        }
        if let Some((task, _)) = window_of {
            self.place_window(task, &window, batch, &mut placed);
        }
        let whole = placed.plain.len() - placed.plain.len() % FRAME_BYTES as usize;
        self.open = placed.plain.split_off(whole);
        placed
    }

    /// The last frame, if it is short.
    pub(super) fn finish(&mut self) -> Placed {
        Placed { plain: std::mem::take(&mut self.open), runs: Vec::new() }
    }

    fn place_window(&mut self, task: u32, window: &[Page], batch: &Batch, placed: &mut Placed) {
        let kept = self.frames_to_keep(window);
        let first_new = self.next;
        for page in window {
            self.counts.lazy += 1;
            let location = match page.digest {
                None => {
                    self.counts.zero += 1;
                    Location::Zero
                }
                Some(digest) => {
                    let known = self.map.get(&digest);
                    let usable = known.filter(|n| *n >= first_new || kept.contains(&n.frame()));
                    self.counts.distinct += u64::from(self.is_first(known));
                    Location::Page(usable.unwrap_or_else(|| {
                        let number = self.next;
                        self.next.0 += 1;
                        self.counts.stored += 1;
                        placed.plain.extend_from_slice(&batch.bytes[page.at..page.at + PAGE_SIZE as usize]);
                        // A page that is stored again is remembered at its new place: a forked task that has the same
                        // window finds it together there.
                        self.map.set(digest, number);
                        number
                    }))
                }
            };
            placed.runs.push((task, Run { range: page.range, location }));
        }
    }

    /// Whether content comes for the first time in this checkpoint, that was stored last at `known`.
    fn is_first(&mut self, known: Option<PageNumber>) -> bool {
        let Some(page) = known else { return true };
        let Some(met) = self.met.get_mut((page.0 / 64) as usize).filter(|_| page < self.base_end) else { return false };
        let bit = 1 << (page.0 % 64);
        let first = *met & bit == 0;
        *met |= bit;
        first
    }

    /// Which frames the window may go on using: as many of those that hold most of it as leave room for the frames in which the
    /// rest will be stored.
    fn frames_to_keep(&self, window: &[Page]) -> Vec<FrameNumber> {
        let mut held: Vec<(usize, FrameNumber)> = Vec::new();
        let mut pages = 0;
        for digest in window.iter().filter_map(|p| p.digest.as_ref()) {
            pages += 1;
            let Some(frame) = self.map.get(digest).map(PageNumber::frame) else { continue };
            match held.iter_mut().find(|(_, f)| *f == frame) {
                Some((count, _)) => *count += 1,
                None => held.push((1, frame)),
            }
        }
        held.sort_by_key(|&(count, frame)| (std::cmp::Reverse(count), frame));
        held.truncate(MAX_FRAMES_PER_WINDOW);
        // One frame always fits: new pages of a window need two at most.
        while held.len() > 1 && self.frames_needed(&held, pages) > MAX_FRAMES_PER_WINDOW {
            held.pop();
        }
        held.into_iter().map(|(_, frame)| frame).collect()
    }

    /// Frames of a window of `pages` pages that keeps `held` and stores the rest anew.
    fn frames_needed(&self, held: &[(usize, FrameNumber)], pages: usize) -> usize {
        let new = pages - held.iter().map(|(count, _)| count).sum::<usize>();
        let first = self.next.frame().0;
        let end = if new == 0 { first } else { PageNumber(self.next.0 + new as u64 - 1).frame().0 + 1 };
        held.iter().filter(|(_, f)| !(first..end).contains(&f.0)).count() + (end - first) as usize
    }
}
