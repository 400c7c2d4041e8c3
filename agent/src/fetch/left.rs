//! The frames of an extent that have not come, and when to tell that one of them cannot be had.

use page_store::FrameNumber;
use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How often in a row a frame has to be wrong, from each place that has a copy, before it is given up.
const WRONG_FROM_EACH: u32 = 3;

/// Frames that have not come, and how often each was wrong.
pub(super) struct Left {
    wrong: Mutex<BTreeMap<FrameNumber, u32>>,
    /// After how long whoever waits is told; `None`: never.
    pub(super) give_up: Option<Duration>,
    /// Places that have a copy of the store.
    copies: u32,
}

impl Left {
    pub(super) fn new(frames: Range<FrameNumber>, give_up: Option<Duration>, copies: usize) -> Self {
        let wrong = (frames.start.0..frames.end.0).map(|number| (FrameNumber(number), 0)).collect();
        Self { wrong: Mutex::new(wrong), give_up, copies: u32::try_from(copies).unwrap_or(u32::MAX).max(1) }
    }

    pub(super) fn came(&self, frame: FrameNumber) {
        self.lock().remove(&frame);
    }

    /// A frame did not match its digest. How often that was so, and whether it is to be given up now.
    pub(super) fn was_wrong(&self, frame: FrameNumber) -> (u32, bool) {
        let mut wrong = self.lock();
        let count = wrong.entry(frame).or_default();
        *count += 1;
        (*count, self.give_up.is_some() && *count == WRONG_FROM_EACH.saturating_mul(self.copies))
    }

    pub(super) fn frames(&self) -> Vec<FrameNumber> {
        self.lock().keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<FrameNumber, u32>> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_given_up_when_it_was_wrong_everywhere_three_times() {
        let left = Left::new(FrameNumber(3)..FrameNumber(6), Some(Duration::from_secs(9)), 2);
        let told: Vec<_> = (0..8).map(|_| left.was_wrong(FrameNumber(4)).1).collect();
        assert_eq!(told, [false, false, false, false, false, true, false, false]);
        left.came(FrameNumber(3));
        assert_eq!(left.frames(), [4, 5].map(FrameNumber));
        let patient = Left::new(FrameNumber(3)..FrameNumber(6), None, 1);
        assert!((0..99).all(|_| !patient.was_wrong(FrameNumber(4)).1));
    }
}
