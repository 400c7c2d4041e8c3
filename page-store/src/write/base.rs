//! A store beside the new one, whose packs the new one uses too.
//!
//! The array of pages of the new store begins with all frames of the base, in their order; what the base lacks follows in packs of
//! its own. So the new store names the base's packs where they are ([`crate::format`]), and a reader needs no third thing.

use super::{dedup::PageMap, pipeline::page_digest};
use crate::{
    Digest, Error, FRAME_PAGES, FrameInfo, FrameNumber, MANIFEST_NAME, ObjectRef, PackEncoding, PackObject, PageNumber,
    Result, Store, names,
};
use criu_images::PAGE_SIZE;
use futures::TryStreamExt;
use std::{iter, ops::Range};

/// Frames that are read by one request: 4 MiB of pages.
const FRAMES_AT_ONCE: u64 = 64;

/// What is known of the base: 48 bytes for each frame, and its pages by content as far as they are remembered (14 GiB of them).
pub struct Base {
    pub(super) packs: Vec<PackObject>,
    pub(super) frames: Vec<FrameInfo>,
    pub(super) stored_pages: u64,
    pub(super) map: PageMap,
}

/// A frame of the base, read.
pub struct BaseFrame {
    number: FrameNumber,
    info: FrameInfo,
    /// Of each page; `None` for one of zeros.
    pages: Vec<Option<Digest>>,
}

impl BaseFrame {
    /// Bytes of its pages.
    pub fn bytes(&self) -> u64 {
        self.pages.len() as u64 * PAGE_SIZE
    }
}

impl Base {
    /// Nothing.
    pub(super) fn none() -> Self {
        Self::with_limit(PageMap::new())
    }

    pub(super) fn with_limit(map: PageMap) -> Self {
        Self { packs: Vec::new(), frames: Vec::new(), stored_pages: 0, map }
    }

    /// A base, nothing of which is read yet: `store` is called `name`, and the new one, which lies beside it, will be called `own`.
    ///
    /// What the base itself shares with a third store is shared with that.
    pub fn new(store: &Store, name: &str, own: &str) -> Result<Self> {
        let unsupported = |what: String| Error::Unsupported { object: store.backend().describe(MANIFEST_NAME), what };
        if let Some(bad) = [name, own].into_iter().find(|name| !names::is_sibling(name)) {
            let what = format!(
                "a store called {bad:?} cannot share packs: 1 to 128 letters, digits, '.', '_', '-' are needed, without a dot in front, \
                 and not a word of the layout's"
            );
            return Err(unsupported(what));
        }
        let manifest = store.manifest();
        if manifest.packs.iter().any(|pack| pack.encoding == PackEncoding::Plain) {
            return Err(unsupported("a raw checkpoint cannot be a base; split it first".into()));
        }
        let packs = manifest.packs.iter().map(|pack| {
            let (sibling, object) = pack.object.sibling().unwrap_or((name, &pack.object.object));
            // A store that is replaced goes on using what another one shares with it.
            let object = if sibling == own { object.to_owned() } else { names::in_sibling(sibling, object) };
            PackObject { object: ObjectRef { object, ..pack.object.clone() }, ..pack.clone() }
        });
        let stored_pages = manifest.totals.stored_pages;
        Ok(Self { packs: packs.collect(), frames: Vec::new(), stored_pages, map: PageMap::new() })
    }

    /// What is to be read ([`Base::read`]) and then added ([`Base::push`]), in this order.
    pub fn ranges(store: &Store) -> impl Iterator<Item = Range<FrameNumber>> + use<> {
        let count = store.frame_count();
        let mut next = 0;
        iter::from_fn(move || {
            let from = next;
            next = count.min(from + FRAMES_AT_ONCE);
            (from < next).then_some(FrameNumber(from)..FrameNumber(next))
        })
    }

    /// Fetches frames, verified, and digests their pages.
    pub async fn read(store: &Store, range: Range<FrameNumber>) -> Result<Vec<BaseFrame>> {
        let mut frames = Vec::new();
        let mut stream = store.stream_frames(range);
        while let Some(frame) = stream.try_next().await? {
            let info = store.frame_info(frame.number()).await?;
            let pages = frame.bytes().chunks_exact(PAGE_SIZE as usize).map(page_digest).collect();
            frames.push(BaseFrame { number: frame.number(), info, pages });
        }
        Ok(frames)
    }

    /// Adds the next frames.
    pub fn push(&mut self, frames: Vec<BaseFrame>) {
        for frame in frames {
            debug_assert_eq!(frame.number.0, self.frames.len() as u64);
            for (number, digest) in (frame.number.first_page().0..).zip(&frame.pages) {
                if let Some(digest) = digest {
                    self.map.set(*digest, PageNumber(number));
                }
            }
            self.frames.push(frame.info);
        }
    }

    /// Just past its pages, in the array of the new store.
    pub(super) fn end(&self) -> PageNumber {
        PageNumber(self.frames.len() as u64 * FRAME_PAGES)
    }
}
