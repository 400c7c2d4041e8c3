//! What the way to the store gives, as measured on demand requests.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// A new measurement's share in the estimate: what changed shows within some ten requests, one slow answer hardly does.
const WEIGHT: f64 = 1.0 / 8.0;

/// Estimates, shared by the requests that make them and the engine that goes by them.
#[derive(Debug, Default)]
pub(crate) struct Link {
    estimates: Mutex<Estimates>,
}

/// Seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Estimates {
    /// From a request to its first frame, verified.
    first_frame: Option<f64>,
    /// From one frame of an answer to the next: transmission, decoding, verification.
    next_frame: Option<f64>,
}

impl Link {
    /// A request's first frame came after `time`.
    pub(crate) fn answered(&self, time: Duration) {
        learn(&mut self.lock().first_frame, time.as_secs_f64());
    }

    /// `frames` more of the same answer took `time`.
    pub(crate) fn followed(&self, frames: u32, time: Duration) {
        if frames > 0 {
            learn(&mut self.lock().next_frame, time.as_secs_f64() / f64::from(frames));
        }
    }

    /// From a request to its first frame; `None` until one was measured.
    pub(crate) fn answer_time(&self) -> Option<Duration> {
        self.lock().first_frame.map(Duration::from_secs_f64)
    }

    /// How many frames can follow the first in the time that a request takes: the bandwidth-delay product, in frames. `None` until both
    /// were measured.
    pub(crate) fn frames_per_request(&self) -> Option<f64> {
        let Estimates { first_frame, next_frame } = *self.lock();
        Some(first_frame? / next_frame?.max(f64::EPSILON))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Estimates> {
        self.estimates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn learn(estimate: &mut Option<f64>, measured: f64) {
    let before = estimate.unwrap_or(measured);
    *estimate = Some(before + (measured - before) * WEIGHT);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_known_before_both_were_measured() {
        let link = Link::default();
        assert_eq!(link.frames_per_request(), None);
        link.answered(Duration::from_millis(10));
        link.followed(0, Duration::ZERO);
        assert_eq!(link.frames_per_request(), None);
        link.followed(4, Duration::from_millis(2));
        assert_eq!(link.frames_per_request().map(f64::round), Some(20.0));
    }

    #[test]
    fn estimates_follow_a_link_that_changes() {
        let link = Link::default();
        link.answered(Duration::from_millis(1));
        link.followed(1, Duration::from_millis(1));
        (0..40).for_each(|_| link.answered(Duration::from_millis(50)));
        let frames = link.frames_per_request().unwrap();
        assert!((45.0..50.0).contains(&frames), "{frames}");
    }
}
