//! Frames: fetched by extents, decoded and verified one by one as their bytes arrive.

use super::Store;
use crate::{ByteStream, Digest, Error, Frame, FrameInfo, FrameNumber, PackEncoding, PackObject, Result};
use bytes::{Buf, Bytes, BytesMut};
use criu_images::PAGE_SIZE;
use futures::{
    FutureExt, StreamExt,
    stream::{self, BoxStream},
};
use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
};
use zstd::bulk::Decompressor;

/// Decoders that are kept for the next stream; more streams than this at once are rare.
const KEPT_DECODERS: usize = 16;

/// Frames in a row that have to be in the cache for a request to end before them: what 1 Gbit/s carries in a millisecond.
const BRIDGE: u64 = 4;

/// zstd decoders that are not in use: making one costs as much as decoding a frame with it.
#[derive(Default)]
pub(super) struct Decoders(Mutex<Vec<Decompressor<'static>>>);

impl Decoders {
    fn take(&self) -> std::io::Result<Decompressor<'static>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.map_or_else(Decompressor::new, Ok)
    }

    fn give_back(&self, decoder: Decompressor<'static>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_DECODERS {
            kept.push(decoder);
        }
    }
}

impl std::fmt::Debug for Decoders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoders").finish_non_exhaustive()
    }
}

/// The frames of `frames`, in order.
pub(super) fn stream(store: Store, frames: Range<FrameNumber>) -> BoxStream<'static, Result<Frame>> {
    let reader = Reader { store, next: frames.start.0, end: frames.end.0, extent: None };
    stream::try_unfold(reader, |mut reader| async move { Ok(reader.frame().await?.map(|frame| (frame, reader))) })
        .boxed()
}

struct Reader {
    store: Store,
    next: u64,
    end: u64,
    extent: Option<Extent>,
}

/// Adjacent frames of one pack, on their way.
struct Extent {
    body: ByteStream,
    /// Byte of the pack that comes next.
    at: u64,
    /// What arrived and was not used yet.
    arrived: Bytes,
    /// Just past its last frame.
    end: u64,
}

impl Reader {
    async fn frame(&mut self) -> Result<Option<Frame>> {
        if self.next >= self.end {
            return Ok(None);
        }
        let number = FrameNumber(self.next);
        let info = self.store.frame_info(number).await?;
        let mut extent = match self.extent.take().filter(|extent| extent.end > number.0) {
            Some(extent) => extent,
            None => {
                if let Some(frame) = self.store.cached(number, &info).await {
                    self.next += 1;
                    return Ok(Some(frame));
                }
                self.begin(number, &info).await?
            }
        };
        let name = || self.store.backend.describe(pack_of(&self.store, &info).map_or("", |p| &p.object.object));
        let stored = extent.take(&info, &name).await?;
        self.next += 1;
        if extent.end > self.next {
            self.extent = Some(extent);
        } else {
            // A chunked body has an end mark, and a connection is free again once it was read. It comes with the last bytes
            // or is not worth the wait.
            let _ = extent.body.next().now_or_never();
        }
        let bytes = self.store.decode(number, &info, stored.clone())?;
        self.store.keep(&info, stored);
        Ok(Some(Frame::verified(number, bytes, info.stored_len)))
    }

    /// Asks for the frames from `first` on that are in the same pack and whose places are known, up to where the cache has what follows.
    async fn begin(&mut self, first: FrameNumber, info: &FrameInfo) -> Result<Extent> {
        let store = &self.store;
        let pack = pack_of(store, info).ok_or_else(|| store.no_such_frame(first))?;
        let end = self.end.min(store.parts.extent_end(first));
        let end = store.end_before_cached(first.0 + 1, end).await?;
        let last = store.frame_info(FrameNumber(end.saturating_sub(1))).await?;
        let until = last.offset.saturating_add(last.stored_len.into());
        let body = store.backend.get_range(&pack.object.object, info.offset..until).await?;
        Ok(Extent { body, at: info.offset, arrived: Bytes::new(), end })
    }
}

fn pack_of<'a>(store: &'a Store, info: &FrameInfo) -> Option<&'a PackObject> {
    store.manifest.packs.get(info.pack as usize)
}

impl Extent {
    /// The stored bytes of a frame; without a copy if they arrived in one piece.
    async fn take(&mut self, info: &FrameInfo, name: &impl Fn() -> String) -> Result<Bytes> {
        let end = info.offset + u64::from(info.stored_len);
        let short = || Error::unavailable(name(), format!("the answer ends before byte {end}"));
        // Frames may lie apart (the index allows it); what is between them is passed over.
        while self.at < info.offset {
            if self.arrived.is_empty() {
                self.arrived = self.body.next().await.ok_or_else(short)??;
            }
            let skip = usize::try_from(info.offset - self.at).unwrap_or(usize::MAX).min(self.arrived.len());
            self.arrived.advance(skip);
            self.at += skip as u64;
        }
        let len = info.stored_len as usize;
        while self.arrived.is_empty() {
            self.arrived = self.body.next().await.ok_or_else(short)??;
        }
        self.at += len as u64;
        if self.arrived.len() >= len {
            return Ok(self.arrived.split_to(len));
        }
        // `stored_len` was bounded by the index.
        let mut gathered = BytesMut::with_capacity(len);
        loop {
            let take = (len - gathered.len()).min(self.arrived.len());
            gathered.extend_from_slice(&self.arrived.split_to(take));
            if gathered.len() == len {
                return Ok(gathered.freeze());
            }
            self.arrived = self.body.next().await.ok_or_else(short)??;
        }
    }
}

impl Store {
    /// The plain bytes of a frame, which match its digest.
    pub(super) fn decode(&self, number: FrameNumber, info: &FrameInfo, stored: Bytes) -> Result<Bytes> {
        let corrupt = |problem: String| {
            let pack = pack_of(self, info).map_or("", |p| &p.object.object);
            let end = info.offset + u64::from(info.stored_len);
            self.backend.forget(pack, &(info.offset..end));
            let place = format!("frame {} (bytes {}..{end})", number.0, info.offset);
            Error::Corrupt { object: self.backend.describe(pack), place, problem }
        };
        let encoding = pack_of(self, info).map_or(PackEncoding::Plain, |pack| pack.encoding);
        self.plain(encoding, info, stored).map_err(corrupt)
    }

    /// The plain bytes of a frame; or what is wrong with them.
    fn plain(&self, encoding: PackEncoding, info: &FrameInfo, stored: Bytes) -> Result<Bytes, String> {
        let plain_len = usize::from(info.pages) * PAGE_SIZE as usize;
        let plain = match encoding {
            PackEncoding::Plain => stored,
            PackEncoding::Zstd => {
                let mut decoder = self.decoders.take().map_err(|e| e.to_string())?;
                // Decodes into exactly so much room; more is an error.
                let plain = decoder.decompress(&stored, plain_len).map_err(|e| e.to_string());
                self.decoders.give_back(decoder);
                Bytes::from(plain?)
            }
        };
        if plain.len() != plain_len {
            return Err(format!("{} bytes, not {plain_len}", plain.len()));
        }
        let digest = Digest::of(&plain);
        if digest != info.digest {
            return Err(format!("its digest is {digest}, the index says {}", info.digest));
        }
        Ok(plain)
    }

    /// Just past the last frame before `end` that has to be asked for by the same request: a few that are in the cache are let come along, since
    /// another request would take longer than they do.
    async fn end_before_cached(&self, from: u64, end: u64) -> Result<u64> {
        let Some(cache) = &self.cache else { return Ok(end) };
        let mut wanted = from;
        for number in from..end {
            if number - wanted >= BRIDGE {
                break;
            }
            if !cache.has_frame(&self.frame_info(FrameNumber(number)).await?.digest) {
                wanted = number + 1;
            }
        }
        Ok(wanted)
    }

    /// A frame that the cache has. It cost nothing on the way here.
    async fn cached(&self, number: FrameNumber, info: &FrameInfo) -> Option<Frame> {
        let decode = |encoding, stored| self.plain(encoding, info, stored);
        let plain = self.cache.as_ref()?.frame(&info.digest, decode).await?;
        Some(Frame::verified(number, plain, 0))
    }

    /// Keeps a frame that was verified in the cache, if there is one.
    pub(super) fn keep(&self, info: &FrameInfo, stored: Bytes) {
        if let (Some(cache), Some(pack)) = (&self.cache, pack_of(self, info)) {
            cache.keep_frame(&info.digest, pack.encoding, stored);
        }
    }
}
