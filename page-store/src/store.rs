//! The reader.

mod frames;
mod objects;
mod open;
mod parts;

pub(crate) use open::manifest as manifest_of;

use crate::{
    Backend, Error, Frame, FrameInfo, FrameNumber, HttpOptions, HttpVersion, Manifest, Mirrors, NodeCache, Result, Run,
    index::IndexPart,
};
use bytes::Bytes;
use criu_images::{PageRange, Pid};
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use parts::Parts;
use std::{future::ready, ops::Range, sync::Arc};

/// Parts of the index that are fetched at once when many are needed.
const PARTS_AT_ONCE: usize = 4;

/// An open store: its manifest, and the parts of its index as they are needed.
///
/// Cloning is cheap, and clones share the index. Nothing is fetched before it is asked for, and nothing is tried twice: errors for
/// which [`Error::is_transient`] holds are worth another call.
#[derive(Debug, Clone)]
pub struct Store {
    manifest: Arc<Manifest>,
    backend: Arc<dyn Backend>,
    parts: Arc<Parts>,
    decoders: Arc<frames::Decoders>,
    cache: Option<NodeCache>,
}

impl Store {
    /// Opens a local path (a store, its `checkpoint.json`, or a raw checkpoint directory) or an `http(s)://` address (of the store or
    /// of its `checkpoint.json`; a trailing slash makes no difference).
    ///
    /// A raw checkpoint is read once, whole, for its digests. `links:FILE` is a store whose objects have presigned links ([`crate::Links`]).
    pub async fn open(location: &str) -> Result<Self> {
        Self::open_by(location, HttpVersion::default()).await
    }

    /// The same, with a version of HTTP, or all that a host may ask for, where the location is an address.
    pub async fn open_by(location: &str, http: impl Into<HttpOptions>) -> Result<Self> {
        Self::from_backend(open::backend(location, &http.into()).await?).await
    }

    /// Opens a store of which there are copies at several locations: each request goes to the one that does best ([`crate::Mirrors`]).
    pub async fn open_mirrors(locations: &[String], http: impl Into<HttpOptions>) -> Result<Self> {
        let http = http.into();
        if let [location] = locations {
            return Self::open_by(location, http).await;
        }
        let (manifest, backend) = open::mirrors(locations, &http).await?;
        Ok(Self::of(manifest, backend))
    }

    /// Opens again a store that was open before, with its `checkpoint.json` as it was then: whatever stands there now, what that named
    /// is what is read. Nothing is fetched; a raw checkpoint is read once, whole.
    pub async fn reopen_mirrors(locations: &[String], http: impl Into<HttpOptions>, manifest: &[u8]) -> Result<Self> {
        let http = http.into();
        let name = format!("{} of {}", crate::MANIFEST_NAME, locations.join(", "));
        let manifest = Arc::new(Manifest::parse(&name, manifest)?);
        let backend = match locations {
            [location] => open::backend(location, &http).await?,
            _ => Arc::new(Mirrors::again(open::backends(locations, &http).await?, manifest.clone())),
        };
        Ok(Self::of(manifest, backend))
    }

    /// Opens what a backend holds.
    pub async fn from_backend(backend: Arc<dyn Backend>) -> Result<Self> {
        Ok(Self::of(Arc::new(open::manifest(&*backend).await?), backend))
    }

    fn of(manifest: Arc<Manifest>, backend: Arc<dyn Backend>) -> Self {
        let parts = Arc::new(Parts::new(&manifest));
        Self { manifest, backend, parts, decoders: Arc::default(), cache: None }
    }

    /// The same store, index shared, over connections of its own ([`Backend::fresh`]).
    pub fn with_own_connections(&self) -> Self {
        Self { backend: self.backend.fresh(), ..self.clone() }
    }

    /// What it holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What its `checkpoint.json` says now; this store goes on by what it said when it was opened.
    pub async fn current_manifest(&self) -> Result<Manifest> {
        open::manifest(&*self.backend).await
    }

    /// Where it is.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// The same store, index shared, read through another backend: the agent wraps one that counts bytes.
    pub fn with_backend(&self, backend: Arc<dyn Backend>) -> Self {
        Self { backend, ..self.clone() }
    }

    /// The same store, index shared, read by way of a cache: frames and objects that are in it are not asked for.
    pub fn with_cache(&self, cache: NodeCache) -> Self {
        Self { cache: Some(cache), ..self.clone() }
    }

    /// The cache that it is read by way of.
    pub fn cache(&self) -> Option<&NodeCache> {
        self.cache.as_ref()
    }

    /// All runs of a task that touch `range`, clipped to it, sorted by address, neighbours merged. Addresses without a run are not
    /// in the store. Loads (once) the parts of the index that it needs.
    pub async fn runs(&self, pid: Pid, range: PageRange) -> Result<Vec<Run>> {
        // As nearly always: to prepare for waiting took a few percent of the time that a page costs a server.
        if let Some(runs) = self.loaded_runs(pid, range)? {
            return Ok(runs);
        }
        let task = self.task(pid)?;
        let parts = stream::iter(self.parts.of_range(task, range)).map(|at| self.part(at)).buffered(PARTS_AT_ONCE);
        parts.try_fold(Vec::new(), |runs, part| ready(Ok(merge_runs(runs, part.runs(task, range))))).await
    }

    /// The same as [`Store::runs`] without waiting: `None` if a part of the index that it needs is not loaded yet. The agent answers
    /// faults with it.
    pub fn loaded_runs(&self, pid: Pid, range: PageRange) -> Result<Option<Vec<Run>>> {
        let task = self.task(pid)?;
        let parts = self.parts.of_range(task, range).map(|at| self.parts.loaded(at));
        Ok(parts.into_iter().try_fold(Vec::new(), |runs, part| Some(merge_runs(runs, part?.runs(task, range)))))
    }

    fn task(&self, pid: Pid) -> Result<u32> {
        self.manifest.task_position(pid).and_then(|task| u32::try_from(task).ok()).ok_or(Error::NoSuchTask(pid))
    }

    /// How many frames there are.
    pub fn frame_count(&self) -> u64 {
        self.parts.frame_count()
    }

    /// A row of the frame table.
    pub async fn frame_info(&self, frame: FrameNumber) -> Result<FrameInfo> {
        let at = self.parts.of_frame(frame).ok_or_else(|| self.no_such_frame(frame))?;
        self.part(at).await?.frame(frame).ok_or_else(|| self.no_such_frame(frame))
    }

    /// One frame: fetched, decoded, verified.
    pub async fn read_frame(&self, frame: FrameNumber) -> Result<Frame> {
        let next = FrameNumber(frame.0.saturating_add(1));
        self.stream_frames(frame..next).next().await.unwrap_or_else(|| Err(self.no_such_frame(frame)))
    }

    /// Neighbouring frames, by one request for each pack they lie in (and one more where a part of the index ends). Each is handed
    /// out, verified, as soon as its bytes are there. After an error the stream ends; what came before it stays good.
    pub fn stream_frames(&self, frames: Range<FrameNumber>) -> BoxStream<'static, Result<Frame>> {
        frames::stream(self.clone(), frames)
    }

    /// The frame whose stored bytes these are, decoded and verified.
    pub async fn decode_frame(&self, frame: FrameNumber, stored: Bytes) -> Result<Frame> {
        let info = self.frame_info(frame).await?;
        let plain = self.decode(frame, &info, stored.clone())?;
        self.keep(&info, stored);
        Ok(Frame::verified(frame, plain, info.stored_len))
    }

    /// Loads the first parts of the index ahead of the questions: for a checkpoint of up to 16 GiB all of it.
    pub async fn load_index(&self) -> Result<()> {
        let parts = self.manifest.index.len().min(PARTS_AT_ONCE);
        let loads = stream::iter(0..parts).map(|at| async move { self.part(at).await.map(drop) });
        loads.buffer_unordered(PARTS_AT_ONCE).try_collect().await
    }

    async fn part(&self, at: usize) -> Result<&IndexPart> {
        self.parts.load(at, self).await
    }

    pub(crate) fn no_such_frame(&self, frame: FrameNumber) -> Error {
        let problem = format!("there are only {} frames", self.frame_count());
        let object = self.backend.describe(crate::MANIFEST_NAME);
        Error::Corrupt { object, place: format!("frame {}", frame.0), problem }
    }
}

/// Appends the runs of a part. Parts cut runs; the caller need not see where.
fn merge_runs(mut runs: Vec<Run>, more: impl IntoIterator<Item = Run>) -> Vec<Run> {
    for run in more {
        let merged = runs.pop_if(|last| last.merge(run).is_some()).and_then(|last| last.merge(run));
        runs.push(merged.unwrap_or(run));
    }
    runs
}
