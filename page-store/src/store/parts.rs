//! The parts of an index, each loaded once, when it is first needed.

use crate::{
    Backend, Error, FrameNumber, Manifest, Result,
    index::{IndexPart, PartBounds},
};
use criu_images::PageRange;
use std::ops::Range;
use tokio::sync::OnceCell;

/// Where each part begins, and those that were loaded.
#[derive(Debug)]
pub(super) struct Parts {
    parts: Vec<Part>,
    frames: u64,
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
        Self { parts: parts.collect(), frames }
    }

    pub(super) fn frame_count(&self) -> u64 {
        self.frames
    }

    /// The part with this frame. A part may have no frames; then the one after it begins at the same number.
    pub(super) fn of_frame(&self, frame: FrameNumber) -> Option<usize> {
        (frame.0 < self.frames).then(|| self.parts.partition_point(|p| p.first_frame <= frame.0) - 1)
    }

    /// Just past the last frame of a part.
    pub(super) fn end_frame(&self, part: usize) -> u64 {
        self.parts.get(part + 1).map_or(self.frames, |next| next.first_frame)
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
    pub(super) async fn load(&self, at: usize, manifest: &Manifest, backend: &dyn Backend) -> Result<&IndexPart> {
        let (Some(part), Some(entry), Some(bounds)) =
            (self.parts.get(at), manifest.index.get(at), PartBounds::of(manifest, at))
        else {
            let object = backend.describe(crate::MANIFEST_NAME);
            return Err(Error::Corrupt { object, place: format!("index[{at}]"), problem: "missing".into() });
        };
        let load = || async {
            let object = &entry.object;
            let name = backend.describe(&object.object);
            let bytes = backend.get(&object.object, object.size).await?;
            let corrupt =
                |place: &str, problem: String| Error::Corrupt { object: name.clone(), place: place.into(), problem };
            if bytes.len() as u64 != object.size {
                return Err(corrupt("length", format!("{} bytes, but the manifest says {}", bytes.len(), object.size)));
            }
            if blake3::hash(&bytes).to_hex().as_str() != object.blake3 {
                return Err(corrupt("digest", "not that of the manifest".into()));
            }
            IndexPart::decode(&name, &bytes, &bounds)
        };
        part.loaded.get_or_try_init(load).await
    }
}
