//! The reader.

use crate::{Backend, Frame, FrameInfo, FrameNumber, Manifest, Result, Run, SlimDump};
use criu_images::{PageRange, Pid};
use futures::stream::BoxStream;
use std::{ops::Range, sync::Arc};

/// An open store: its manifest, and the parts of its index as they are needed.
#[derive(Debug, Clone)]
pub struct Store {
    manifest: Arc<Manifest>,
    backend: Arc<dyn Backend>,
}

impl Store {
    /// Opens a local path (a store, or a raw checkpoint directory) or an `http(s)://` address.
    pub async fn open(_location: &str) -> Result<Self> {
        todo!()
    }
    /// Opens what a backend holds.
    pub async fn from_backend(_backend: Arc<dyn Backend>) -> Result<Self> {
        todo!()
    }
    /// The same store, index shared, over connections of its own ([`Backend::fresh`]).
    pub fn with_own_connections(&self) -> Self {
        todo!()
    }
    /// What it holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
    /// Where it is.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }
    /// All runs of a task that touch `range`, clipped to it, sorted by address. Addresses without a run are not in the store.
    /// Loads (once) the parts of the index that it needs.
    pub async fn runs(&self, _pid: Pid, _range: PageRange) -> Result<Vec<Run>> {
        todo!()
    }
    /// The same as [`Store::runs`] without waiting: `None` if a part of the index that it needs is not loaded yet. The agent answers
    /// faults with it.
    pub fn loaded_runs(&self, _pid: Pid, _range: PageRange) -> Result<Option<Vec<Run>>> {
        todo!()
    }
    /// The same store, index shared, read through another backend (the agent wraps one that counts bytes).
    pub fn with_backend(&self, _backend: Arc<dyn Backend>) -> Self {
        todo!()
    }
    /// How many frames there are.
    pub fn frame_count(&self) -> u64 {
        self.manifest.index.iter().map(|p| p.frames).sum()
    }
    /// A row of the frame table.
    pub async fn frame_info(&self, _frame: FrameNumber) -> Result<FrameInfo> {
        todo!()
    }
    /// One frame: fetched, decoded, verified.
    pub async fn read_frame(&self, _frame: FrameNumber) -> Result<Frame> {
        todo!()
    }
    /// Neighbouring frames, by one request for each pack they lie in. Each is handed out, verified, as soon as its bytes are
    /// there. After an error the stream ends; what came before it stays good.
    pub fn stream_frames(&self, _frames: Range<FrameNumber>) -> BoxStream<'static, Result<Frame>> {
        todo!()
    }
    /// Fetches the slim dump into an unlinked temporary file and checks its digest.
    pub async fn slim(&self) -> Result<SlimDump> {
        todo!()
    }
}
