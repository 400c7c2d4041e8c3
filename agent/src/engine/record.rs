//! `--record`: which frames a restore demands, in the order of their first touch.
//!
//! A page that is there never faults, so while a recording goes on nothing is put in place but what was asked for: no working set is
//! replayed, nothing is read ahead, nothing transferred. That is also why a recording can neither lose what an earlier set brought nor
//! grow by it: every recording begins from nothing. It ends when no fault has come for a while after the restore, when the trace is full, or with
//! the restore itself; then everything goes on as usual.

use anyhow::{Context, Result};
use page_store::{
    FrameNumber,
    working_set::{MAX_SET_FRAMES, Trace},
};
use std::{
    collections::HashSet,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Frames of a trace: several times what a set takes, so that merged traces can disagree.
const MOST: usize = 4 * MAX_SET_FRAMES;

/// What the user asked for.
#[derive(Clone, Debug)]
pub(crate) struct RecordOptions {
    pub file: PathBuf,
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

    /// Writes the trace; the file appears whole or not at all.
    pub(super) fn write(self) -> Result<()> {
        let file = &self.options.file;
        let count = self.frames.len();
        write_whole(file, &Trace::new(&self.checkpoint_id, self.frames).to_json())
            .with_context(|| format!("writing the trace {}", file.display()))?;
        tracing::info!("recorded {count} frames to {}", file.display());
        Ok(())
    }
}

fn write_whole(file: &Path, bytes: &[u8]) -> Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut growing = tempfile::NamedTempFile::new_in(folder)?;
    growing.write_all(bytes)?;
    growing.as_file().sync_all()?;
    growing.persist(file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_has_each_frame_once_in_the_order_of_its_first_touch() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trace");
        let options = RecordOptions { file: file.clone(), settle: Duration::from_secs(60) };
        let mut recorder = Recorder::new(options, "id");
        [5, 3, 5, 9, 3].map(FrameNumber).into_iter().for_each(|frame| recorder.touched(frame));
        assert!(!recorder.is_over(Instant::now()));
        recorder.write().unwrap();
        let trace = Trace::parse("trace", &std::fs::read(&file).unwrap(), "id", 10).unwrap();
        assert_eq!(trace.frames, [5, 3, 9]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_recording_that_is_full_is_over() {
        let options = RecordOptions { file: "unused".into(), settle: Duration::from_secs(60) };
        let mut recorder = Recorder::new(options, "id");
        (0..MOST as u64 + 7).for_each(|frame| recorder.touched(FrameNumber(frame)));
        assert!(recorder.is_over(Instant::now()));
        assert_eq!(recorder.frames.len(), MOST);
    }
}
