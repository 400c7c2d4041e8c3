//! What follows a demanded frame by the same request, and how much of that is worth it.
//!
//! A fault's neighbours in memory are its frame's neighbours in the store, so the request that fetches the frame may go on. What comes after
//! it is installed without being asked for, and a page that is there never faults: whether it was used cannot be seen. So one frame of
//! each extent is held back, in the cache. A fault on it shows that what was read ahead is used, and costs 30 µs; the share of such frames
//! that are asked for estimates the share of all. While a request takes as long as transmitting `n` frames, up to `n` times that
//! share may follow: then an extent costs the link about as much time as the requests that it saves.

use super::{Engine, ProcessId};
use crate::placement::{Piece, split_at_frames};
use anyhow::Result;
use criu_images::{PAGE_SIZE, PageAddr, PageRange, Pid};
use lru::LruCache;
use page_store::{FRAME_PAGES, FrameNumber, Location};
use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroUsize,
};

/// Frames that follow at most: with the first, 4 MiB of memory.
const MOST: u64 = 63;
/// What a link is taken for before it was measured.
const UNMEASURED: f64 = 8.0;
/// Frames held back that still may be asked for; one that is pushed out was not.
const SAMPLES: NonZeroUsize = NonZeroUsize::new(32).expect("not zero");
/// Once in so many requests a frame follows though none seems worth it: else nobody would see that it has become so.
const TRIAL_EVERY: usize = 16;
/// A sample's share in the estimate.
const WEIGHT: f64 = 1.0 / 16.0;
/// Taken for the share that is used before a sample says otherwise; and never less than a little.
const FIRST_SHARE: f64 = 0.5;
const LEAST_SHARE: f64 = 0.05;

/// A frame on its way that no fault had asked for when its request was sent.
#[derive(Debug)]
pub(super) struct Ahead {
    pub process: ProcessId,
    pub pieces: Vec<Piece>,
    /// Not to be installed before it is asked for.
    pub held_back: bool,
}

/// Frames on their way, and what became of earlier ones.
pub(super) struct ReadAhead {
    coming: HashMap<FrameNumber, Ahead>,
    held_back: LruCache<FrameNumber, ()>,
    /// Estimate: of the frames that are read ahead, the share that is asked for.
    share: f64,
    extents: usize,
    /// Frames that were held back: asked for, and not.
    used: u64,
    unused: u64,
}

impl Default for ReadAhead {
    fn default() -> Self {
        Self {
            coming: HashMap::new(),
            held_back: LruCache::new(SAMPLES),
            share: FIRST_SHARE,
            extents: 0,
            used: 0,
            unused: 0,
        }
    }
}

impl ReadAhead {
    /// How many frames may follow a demanded one, where a request takes as long as transmitting `frames_per_request`.
    fn length(&self, frames_per_request: Option<f64>) -> u64 {
        // A float's cast saturates.
        let worth_it = (self.share * frames_per_request.unwrap_or(UNMEASURED)).round() as u64;
        worth_it.clamp(u64::from(self.extents.is_multiple_of(TRIAL_EVERY)), MOST)
    }

    /// Notes frames whose request is sent; one of them is held back.
    fn expect(&mut self, process: ProcessId, frames: BTreeMap<FrameNumber, Vec<Piece>>) {
        // Another place each time, so that near and far ones are tried.
        let sample = self.extents.checked_rem(frames.len()).unwrap_or(0);
        self.extents = self.extents.wrapping_add(1);
        for (at, (number, pieces)) in frames.into_iter().enumerate() {
            self.coming.insert(number, Ahead { process, pieces, held_back: at == sample });
        }
    }

    /// Whether a frame is on its way.
    pub(super) fn expects(&self, frame: FrameNumber) -> bool {
        self.coming.contains_key(&frame)
    }

    /// A frame has come; what was to be done with it.
    pub(super) fn arrived(&mut self, frame: FrameNumber) -> Option<Ahead> {
        let ahead = self.coming.remove(&frame)?;
        if ahead.held_back
            && let Some((pushed_out, ())) = self.held_back.push(frame, ())
            && pushed_out != frame
        {
            self.unused += 1;
            self.learn(0.0);
        }
        Some(ahead)
    }

    /// A fault asks for this frame, on its way or there.
    pub(super) fn asked_for(&mut self, frame: FrameNumber) {
        let on_its_way = self.coming.get_mut(&frame).is_some_and(|ahead| std::mem::take(&mut ahead.held_back));
        if on_its_way || self.held_back.pop(&frame).is_some() {
            self.used += 1;
            self.learn(1.0);
        }
    }

    /// Of the frames that were held back, how many were asked for, and how many were not so far.
    pub(super) fn samples(&self) -> (u64, u64) {
        (self.used, self.unused + self.held_back.len() as u64)
    }

    /// The transfer puts this frame in place: whether it would have been asked for will not be known.
    pub(super) fn no_sample(&mut self, frame: FrameNumber) {
        self.held_back.pop(&frame);
    }

    fn learn(&mut self, used: f64) {
        self.share = (self.share + (used - self.share) * WEIGHT).max(LEAST_SHARE);
    }
}

impl Engine {
    /// Asks for the frame of `origin`, a stored address of the process, and for as much of what follows as is worth it.
    pub(super) fn demand(&mut self, id: ProcessId, pid: Pid, origin: PageAddr, frame: FrameNumber) -> Result<()> {
        let most = match self.recorder {
            Some(_) => 0,
            None => self.read_ahead.length(self.fetcher.link().frames_per_request()),
        };
        let ahead = self.missing_after(id, pid, origin, frame, most)?;
        let end = FrameNumber(frame.0 + 1 + ahead.len() as u64);
        self.read_ahead.expect(id, ahead);
        self.transfer.go_on_from(end);
        self.fetcher.demand(frame..end);
        Ok(())
    }

    /// Frames that adjoin `frame`, lie behind `origin` in memory too, and are neither there nor on their way; at most `most`.
    fn missing_after(
        &self,
        id: ProcessId,
        pid: Pid,
        origin: PageAddr,
        frame: FrameNumber,
        most: u64,
    ) -> Result<BTreeMap<FrameNumber, Vec<Piece>>> {
        let mut frames = BTreeMap::new();
        let Some(process) = self.processes.get(&id) else { return Ok(frames) };
        let end = origin.get().saturating_add((most + 1) * FRAME_PAGES * PAGE_SIZE).min(PageAddr::LIMIT);
        let window = PageRange::from_bytes(origin.get(), end);
        let runs = window.filter(|_| most > 0).map(|window| self.store.loaded_runs(pid, window)).transpose()?;
        for run in runs.flatten().unwrap_or_default() {
            if let Location::Page(first) = run.location {
                for piece in split_at_frames(process.space.task(), run.range, first) {
                    frames.entry(piece.first.frame()).or_insert_with(Vec::new).push(piece);
                }
            }
        }
        let lacks = |pieces: &[Piece]| {
            let mut places = Vec::new();
            pieces.iter().filter_map(Piece::range).for_each(|stored| process.space.places(stored, &mut places));
            !places.is_empty()
        };
        let mut ahead = BTreeMap::new();
        // Frames that are asked for one by one would come twice.
        for next in (frame.0 + 1..=frame.0.saturating_add(most)).map(FrameNumber) {
            match frames.remove(&next) {
                Some(pieces) if lacks(&pieces) && !self.is_coming_or_there(next) => {
                    ahead.insert(next, pieces);
                }
                _ => break,
            }
        }
        Ok(ahead)
    }
}

impl Engine {
    fn is_coming_or_there(&self, frame: FrameNumber) -> bool {
        self.read_ahead.expects(frame) || self.replay.expects(frame) || self.faults.has(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROCESS: ProcessId = ProcessId(2);

    fn frames(range: std::ops::Range<u64>) -> BTreeMap<FrameNumber, Vec<Piece>> {
        range.map(|n| (FrameNumber(n), Vec::new())).collect()
    }

    #[test]
    fn one_frame_of_each_extent_is_held_back() {
        let mut ahead = ReadAhead::default();
        ahead.expect(PROCESS, frames(0..0));
        ahead.expect(PROCESS, frames(1..6));
        ahead.expect(PROCESS, frames(11..12));
        assert_eq!((1..6).filter(|n| ahead.arrived(FrameNumber(*n)).unwrap().held_back).count(), 1);
        assert!(ahead.arrived(FrameNumber(11)).unwrap().held_back);
        assert!(ahead.arrived(FrameNumber(11)).is_none());
    }

    #[test]
    fn extents_grow_while_what_they_bring_is_used_and_shrink_while_it_is_not() {
        let mut ahead = ReadAhead::default();
        let mut number = 0;
        let mut extents = |ahead: &mut ReadAhead, used: bool| {
            for _ in 0..200 {
                ahead.expect(PROCESS, frames(number..number + 4));
                for frame in (number..number + 4).map(FrameNumber) {
                    ahead.arrived(frame);
                    if used {
                        ahead.asked_for(frame);
                    }
                }
                number += 4;
            }
        };
        let before = ahead.length(Some(20.0));
        extents(&mut ahead, true);
        assert!(ahead.length(Some(20.0)) > before);
        assert_eq!(ahead.length(Some(20.0)), 20);
        assert_eq!(ahead.length(Some(1e9)), MOST);
        extents(&mut ahead, false);
        assert_eq!(ahead.length(Some(20.0)), 1, "a sample is still taken");
        ahead.extents = 1;
        assert_eq!(ahead.length(Some(1.0)), 0);
        ahead.extents = 2 * TRIAL_EVERY;
        assert_eq!(ahead.length(Some(1.0)), 1, "a trial");
    }

    #[test]
    fn what_the_transfer_installs_says_nothing() {
        let mut ahead = ReadAhead::default();
        for number in 0..1000 {
            ahead.expect(PROCESS, frames(number..number + 1));
            ahead.arrived(FrameNumber(number));
            ahead.no_sample(FrameNumber(number));
        }
        assert_eq!(ahead.share, FIRST_SHARE);
    }

    #[test]
    fn a_fault_that_joins_a_frame_on_its_way_counts_once() {
        let mut ahead = ReadAhead::default();
        ahead.expect(PROCESS, frames(0..1));
        ahead.asked_for(FrameNumber(0));
        ahead.asked_for(FrameNumber(0));
        let share = FIRST_SHARE + (1.0 - FIRST_SHARE) * WEIGHT;
        assert_eq!(ahead.share, share);
        assert!(!ahead.arrived(FrameNumber(0)).unwrap().held_back);
    }
}
