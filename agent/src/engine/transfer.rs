//! The background transfer: walks the store frame by frame and puts each frame wherever it is missing.
//!
//! By frames rather than by processes, so that a frame that many tasks share comes over the wire once. It goes on behind the latest fault: what
//! a program touches next is likely near what it touched last.

use super::{Class, Engine, ProcessId, frame_set::FrameSet, process::Progress};
use crate::{
    fetch::Arrival,
    placement::{Piece, Placement},
};
use anyhow::Result;
use page_store::{Frame, FrameNumber};
use std::{collections::VecDeque, sync::Arc, sync::atomic::Ordering::Relaxed};

/// Frames asked for by one request: 4 MiB of memory, 0.3 to 2 MiB of body. With those that are under way it fills a link of 1 Gbit/s and 10 ms
/// with anything but highly compressible memory.
const EXTENT: u64 = 64;
/// Requests under way at once.
const IN_FLIGHT: usize = 4;
/// Frames from faults that wait to be spread: 16 MiB. Those that fall out are fetched again.
const MOST_SPREAD: usize = 256;
/// Frames put in place before faults are looked at again: half a millisecond of copying.
const FRAMES_PER_TURN: usize = 8;
/// The same two in a rush: one thread decodes, and a fault waits for one frame's copy.
const IN_A_RUSH: (usize, usize) = (1, 1);
/// Frames that are looked at whether anything lacks them, before faults are: they take a microsecond each.
const LOOKS_PER_TURN: usize = 256;

/// A frame that is missing in a process, and an event that was in the way.
struct Retry {
    process: ProcessId,
    frame: Frame,
    pieces: Vec<Piece>,
    class: Class,
}

/// Where the transfer stands.
#[derive(Default)]
pub(super) struct Transfer {
    placement: Option<Arc<Placement>>,
    /// Frames to look at in this round.
    round: FrameSet,
    /// Where to go on.
    cursor: u64,
    in_flight: usize,
    /// Frames that faults brought: the other places that need them get them too, so that they are not fetched twice.
    spread: VecDeque<Frame>,
    again: Vec<Retry>,
    more: bool,
}

impl Transfer {
    /// Whether there is something to install without waiting for anything.
    pub(super) fn has_work_at_hand(&self) -> bool {
        self.more
    }

    pub(super) fn stalled(&self) -> bool {
        !self.again.is_empty()
    }

    /// What lies behind a fault comes next.
    pub(super) fn go_on_from(&mut self, frame: FrameNumber) {
        self.cursor = frame.0;
    }

    /// Remembers a frame that a fault brought.
    pub(super) fn spread(&mut self, frame: Frame) {
        if self.placement.is_some() {
            self.spread.push_back(frame);
            if self.spread.len() > MOST_SPREAD {
                self.spread.pop_front();
            }
        }
    }
}

impl Engine {
    /// Installs some of what has come and asks for more.
    pub(super) fn transfer_some(&mut self) -> Result<()> {
        for retry in std::mem::take(&mut self.transfer.again) {
            self.install_in(retry.process, retry.frame, retry.pieces, retry.class)?;
        }
        self.transfer.more = false;
        let (frames_per_turn, in_flight) = if self.is_rush() { IN_A_RUSH } else { (FRAMES_PER_TURN, IN_FLIGHT) };
        for turn in 0.. {
            if turn == frames_per_turn {
                self.transfer.more = true;
                break;
            }
            if self.may_transfer()
                && let Some(frame) = self.transfer.spread.pop_front()
            {
                self.install_everywhere(frame, Class::Transfer)?;
                continue;
            }
            match self.fetcher.transferred() {
                None => break,
                Some(Arrival::Transferred(frame)) => {
                    if self.faults.wants(frame.number()) {
                        self.faults.arrived(frame.clone());
                        self.answer_faults()?;
                    }
                    self.install_everywhere(frame, Class::Transfer)?;
                }
                Some(Arrival::ExtentDone) => self.transfer.in_flight -= 1,
                Some(Arrival::Placed(placement)) => {
                    self.transfer.round = FrameSet::all(placement.frames());
                    self.transfer.placement = Some(Arc::new(placement));
                }
                Some(other) => unreachable!("{other:?} does not come by the background way"),
            }
        }
        if self.may_transfer() {
            self.leave_zeros_to_the_kernel();
            self.ask_for_more(in_flight);
        }
        Ok(())
    }

    /// Whether the placement has come.
    pub(super) fn knows_places(&self) -> bool {
        self.transfer.placement.is_some()
    }

    /// Puts a frame wherever it is missing.
    pub(super) fn install_everywhere(&mut self, frame: Frame, class: Class) -> Result<()> {
        let Some(placement) = self.transfer.placement.clone() else { return Ok(()) };
        self.read_ahead.no_sample(frame.number());
        let pieces = placement.of_frame(frame.number());
        let ids: Vec<_> = self.processes.iter().map(|(id, p)| (*id, p.space.task())).collect();
        for (id, task) in ids {
            let mine: Vec<_> = pieces.iter().copied().filter(|p| p.task == task).collect();
            if !mine.is_empty() {
                self.install_in(id, frame.clone(), mine, class)?;
            }
        }
        Ok(())
    }

    /// Puts pieces of a frame in place, at once or as soon as no event is in the way any more.
    pub(super) fn install_in(
        &mut self,
        process: ProcessId,
        frame: Frame,
        pieces: Vec<Piece>,
        class: Class,
    ) -> Result<()> {
        match self.install(process, &frame, pieces.iter().copied(), class)? {
            Progress::Done => {}
            Progress::Gone => self.forget(process),
            Progress::Again => {
                self.read_events(process)?;
                self.transfer.again.push(Retry { process, frame, pieces, class });
            }
        }
        Ok(())
    }

    /// Zero pages need not be put anywhere: once a process is whole, the kernel gives zeros for what is not there. Until then a fault on
    /// one is answered with zeros.
    fn leave_zeros_to_the_kernel(&mut self) {
        let Some(placement) = self.transfer.placement.clone() else { return };
        if placement.zero.is_empty() {
            return;
        }
        let mut places = Vec::new();
        for process in self.processes.values_mut() {
            if !process.leave_zeros || !process.settled() {
                continue;
            }
            process.leave_zeros = false;
            let task = process.space.task();
            for (_, range) in placement.zero.iter().filter(|(of, _)| *of == task) {
                places.clear();
                process.space.places(*range, &mut places);
                for place in &places {
                    process.space.installed(place.runtime);
                    self.status.pages_zero.fetch_add(place.runtime.pages(), Relaxed);
                }
            }
        }
    }

    fn ask_for_more(&mut self, in_flight: usize) {
        let Some(placement) = self.transfer.placement.clone() else { return };
        let mut looks = LOOKS_PER_TURN;
        while self.transfer.in_flight < in_flight {
            let Some(start) = self.transfer.round.next(FrameNumber(self.transfer.cursor)) else { break };
            if looks == 0 {
                self.transfer.more = true;
                return;
            }
            looks -= 1;
            self.transfer.round.remove(start);
            self.transfer.cursor = start.0 + 1;
            if !self.is_missing(&placement, start) {
                continue;
            }
            if let Some(frame) = self.faults.cached(start) {
                self.transfer.spread.push_back(frame);
                self.transfer.more = true;
                continue;
            }
            let end = self.extent_end(&placement, start);
            for frame in start.0..end.0 {
                self.transfer.round.remove(FrameNumber(frame));
            }
            looks = looks.saturating_sub((end.0 - start.0) as usize);
            self.fetcher.extent(start..end);
            self.transfer.in_flight += 1;
            self.transfer.cursor = end.0;
        }
        // What was in the way of an event, or came with a fork meanwhile, is found by going round once more.
        let round_is_over = self.transfer.round.next(FrameNumber(0)).is_none();
        if round_is_over && self.transfer.in_flight == 0 && self.transfer.again.is_empty() {
            self.transfer.round = FrameSet::all(placement.frames());
        }
    }

    /// Just past the last frame of the extent that begins with `start`. Frames that are there already end it, unless there are so few of them
    /// that another request would take longer than they do: a working set leaves many such holes.
    fn extent_end(&self, placement: &Placement, start: FrameNumber) -> FrameNumber {
        let per_request = self.fetcher.link().frames_per_request().unwrap_or(0.0);
        let bridge = (per_request / IN_FLIGHT as f64) as u64;
        let mut end = start.0 + 1;
        for frame in start.0 + 1..(start.0 + EXTENT).min(placement.frames()) {
            if frame - end > bridge {
                break;
            }
            let number = FrameNumber(frame);
            if self.transfer.round.contains(number) && self.is_missing(placement, number) {
                end = frame + 1;
            }
        }
        FrameNumber(end)
    }

    fn is_missing(&self, placement: &Placement, frame: FrameNumber) -> bool {
        let mut places = Vec::new();
        placement.of_frame(frame).iter().any(|piece| {
            if let Some(stored) = piece.range() {
                let holders = self.processes.values().filter(|p| p.space.task() == piece.task);
                holders.for_each(|process| process.space.places(stored, &mut places));
            }
            !places.is_empty()
        })
    }
}
