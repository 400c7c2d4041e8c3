//! The parts of an index, each loaded once, when it is first needed.

use super::Store;
use crate::{
    Error, FrameNumber, Manifest, Result,
    backend::blocking,
    index::{IndexPart, PartBounds},
};
use criu_images::PageRange;
use std::{ops::Range, sync::Arc};
use tokio::sync::OnceCell;

/// Where each part begins, and those that were loaded.
#[derive(Debug)]
pub(super) struct Parts {
    parts: Vec<Part>,
    frames: u64,
    /// Just past the last frame of each pack.
    pack_ends: Vec<u64>,
}

#[derive(Debug)]
struct Part {
    first_frame: u64,
    /// (position of task, byte address) of its first run.
    first: (u32, u64),
    loaded: OnceCell<IndexPart>,
}

impl Parts {
    pub(super) fn new(manifest: &Manifest) -> Self {
        let mut frames = 0;
        let parts = manifest.index.iter().map(|part| {
            let first_frame = frames;
            frames += part.frames;
            Part { first_frame, first: (part.first_task, part.first_address), loaded: OnceCell::new() }
        });
        let parts = parts.collect();
        let pack_ends = manifest.packs.iter().scan(0, |end, pack| {
            *end += pack.frames;
            Some(*end)
        });
        Self { parts, frames, pack_ends: pack_ends.collect() }
    }

    pub(super) fn frame_count(&self) -> u64 {
        self.frames
    }

    /// The part with this frame. A part may have no frames; then the one after it begins at the same number.
    pub(super) fn of_frame(&self, frame: FrameNumber) -> Option<usize> {
        (frame.0 < self.frames).then(|| self.parts.partition_point(|p| p.first_frame <= frame.0) - 1)
    }

    /// Just past the last frame that is in the same pack and in the same part as this one.
    pub(super) fn extent_end(&self, frame: FrameNumber) -> u64 {
        let part = self.parts.partition_point(|p| p.first_frame <= frame.0);
        let pack = self.pack_ends.partition_point(|&end| end <= frame.0);
        let part_end = self.parts.get(part).map_or(self.frames, |next| next.first_frame);
        part_end.min(self.pack_ends.get(pack).copied().unwrap_or(self.frames))
    }

    /// The parts that may hold runs of `task` in `range`. Of parts that begin at the same place only the last has runs there.
    pub(super) fn of_range(&self, task: u32, range: PageRange) -> Range<usize> {
        let from = self.parts.partition_point(|p| p.first <= (task, range.start().get())).saturating_sub(1);
        let to = self.parts.partition_point(|p| p.first < (task, range.end()));
        from..to.max(from)
    }

    /// A part, if it was loaded already.
    pub(super) fn loaded(&self, at: usize) -> Option<&IndexPart> {
        self.parts.get(at)?.loaded.get()
    }

    /// A part, fetched and checked if this is the first time.
    pub(super) async fn load(&self, at: usize, store: &Store) -> Result<&IndexPart> {
        let missing =
            move |object: String| Error::Corrupt { object, place: format!("index[{at}]"), problem: "missing".into() };
        let (Some(part), Some(entry)) = (self.parts.get(at), store.manifest.index.get(at)) else {
            return Err(missing(store.backend.describe(crate::MANIFEST_NAME)));
        };
        let load = || async {
            let name = store.backend.describe(&entry.object.object);
            let bytes = store.object(&entry.object).await?;
            let manifest = Arc::clone(&store.manifest);
            // A full part takes some 50 ms.
            let decode = move || {
                let bounds = PartBounds::of(&manifest, at).ok_or_else(|| missing(name.clone()))?;
                IndexPart::decode(&name, &bytes, &bounds)
            };
            blocking(decode).await.inspect_err(|_| store.backend.forget(&entry.object.object, &(0..entry.object.size)))
        };
        part.loaded.get_or_try_init(load).await
    }
}
