//! `--record`: which frames a restore demands, in the order of their first touch.
//!
//! A page that is there never faults, so while a recording goes on nothing is put in place but what was asked for: no working set is
//! replayed, nothing is read ahead, nothing transferred. That is also why a recording can neither lose what an earlier set brought nor
//! grow by it: every recording begins from nothing. It ends when no fault has come for a while after the restore, when the trace is full, or with
//! the restore itself; then everything goes on as usual.

use crate::recording::Recording;
use anyhow::Result;
use page_store::{
    FrameNumber,
    working_set::{MAX_SET_FRAMES, Trace},
};
use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

/// Frames of a trace: several times what a set takes, so that merged traces can disagree.
const MOST: usize = 4 * MAX_SET_FRAMES;

/// What the user asked for.
#[derive(Clone, Debug)]
pub(crate) struct RecordOptions {
    /// Who takes it.
    pub recording: Recording,
    /// So long without a fault, and the recording is over.
    pub settle: Duration,
}

/// A recording.
#[derive(Debug)]
pub(super) struct Recorder {
    options: RecordOptions,
    checkpoint_id: String,
    frames: Vec<FrameNumber>,
    seen: HashSet<FrameNumber>,
}

impl Recorder {
    pub(super) fn new(options: RecordOptions, checkpoint_id: &str) -> Self {
        Self { options, checkpoint_id: checkpoint_id.into(), frames: Vec::new(), seen: HashSet::new() }
    }

    /// A fault asked for a page of `frame`.
    pub(super) fn touched(&mut self, frame: FrameNumber) {
        if self.frames.len() < MOST && self.seen.insert(frame) {
            self.frames.push(frame);
        }
    }

    /// Whether it is over, with `quiet` since the last fault or the end of the restore.
    pub(super) fn is_over(&self, quiet: Instant) -> bool {
        self.frames.len() == MOST || quiet.elapsed() >= self.options.settle
    }

    /// It is over: the trace goes where it was wanted.
    pub(super) fn write(self) -> Result<()> {
        tracing::info!("recorded {} frames", self.frames.len());
        let trace = Trace::new(&self.checkpoint_id, self.frames).to_json();
        self.options.recording.write(&self.checkpoint_id, trace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{guard::Guarded, recording::RecordTo};

    fn options(file: &std::path::Path) -> RecordOptions {
        let recording = Recording::new(RecordTo::File(file.into()), Guarded::by_nobody());
        RecordOptions { recording, settle: Duration::from_secs(60) }
    }

    #[test]
    fn the_trace_has_each_frame_once_in_the_order_of_its_first_touch() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trace");
        let mut recorder = Recorder::new(options(&file), "id");
        [5, 3, 5, 9, 3].map(FrameNumber).into_iter().for_each(|frame| recorder.touched(frame));
        assert!(!recorder.is_over(Instant::now()));
        recorder.write().unwrap();
        let trace = Trace::parse("trace", &std::fs::read(&file).unwrap(), "id", 10).unwrap();
        assert_eq!(trace.frames, [5, 3, 9]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_recording_that_is_full_is_over() {
        let mut recorder = Recorder::new(options("unused".as_ref()), "id");
        (0..MOST as u64 + 7).for_each(|frame| recorder.touched(FrameNumber(frame)));
        assert!(recorder.is_over(Instant::now()));
        assert_eq!(recorder.frames.len(), MOST);
    }
}
