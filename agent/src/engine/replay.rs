//! A working set's frames, put in place as soon as the restore is finished.
//!
//! They are downloaded while CRIU works and wait, decoded, for the mappings to be registered. A fault on one of them waits for its turn,
//! a few milliseconds, instead of asking the store.

use super::{Class, Engine};
use crate::fetch::Arrival;
use anyhow::Result;
use page_store::FrameNumber;
use std::collections::HashSet;

/// Frames put in place before faults are looked at again: half a millisecond of copying.
const FRAMES_PER_TURN: usize = 8;

/// Where the replay stands.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// Frames that have been downloaded, and are not in place.
    expected: HashSet<FrameNumber>,
    /// Until the last frame of the set is in place, or the set is given up: the transfer waits.
    pub under_way: bool,
    /// Whether there is something to do without waiting for anything.
    pub more: bool,
}

impl Replay {
    /// `under_way`: whether the fetcher brings a set.
    pub(super) fn new(under_way: bool) -> Self {
        Self { under_way, ..Self::default() }
    }

    pub(super) fn expects(&self, frame: FrameNumber) -> bool {
        self.expected.contains(&frame)
    }
}

impl Engine {
    /// Puts some of the set in place.
    pub(super) fn replay_some(&mut self) -> Result<()> {
        self.replay.more = false;
        // Before, mappings are not registered; and without the placement nobody knows where a frame belongs.
        if !self.replay.under_way || !self.restored || !self.knows_places() {
            return Ok(());
        }
        for _ in 0..FRAMES_PER_TURN {
            match self.fetcher.replayed() {
                None => return Ok(()),
                Some(Arrival::Expect(frames)) => self.replay.expected.extend(frames),
                Some(Arrival::Replayed(frame)) => {
                    self.replay.expected.remove(&frame.number());
                    if self.faults.wants(frame.number()) {
                        self.faults.arrived(frame.clone());
                        self.answer_faults()?;
                    }
                    self.install_everywhere(frame, Class::WorkingSet)?;
                }
                Some(Arrival::ReplayDone) => {
                    self.replay.under_way = false;
                    // The transfer waited for this, and nothing else would wake it.
                    self.replay.more = true;
                    for frame in std::mem::take(&mut self.replay.expected) {
                        self.faults.look_again(frame);
                    }
                    return self.answer_faults();
                }
                Some(other) => unreachable!("{other:?} does not come with a working set"),
            }
        }
        self.replay.more = true;
        Ok(())
    }
}
