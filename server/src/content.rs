//! The bytes of a segment, a frame at a time.

use crate::{
    problem::{Problem, damaged},
    segment::{Content, Segment},
    served::Served,
    walk::skip,
};
use bytes::Bytes;
use criu_images::{FileNumber, PAGE_SIZE};
use futures::{StreamExt, stream::BoxStream};
use page_store::{FRAME_BYTES, FRAME_PAGES, Frame, FrameNumber, PageNumber};
use std::sync::{Arc, atomic::Ordering::Relaxed};

/// A frame of zeros.
static ZEROS: [u8; FRAME_BYTES as usize] = [0; FRAME_BYTES as usize];

/// From so many frames on, a segment is streamed past the cache: by one request to the store, and without pushing out what
/// single pages need.
const STREAMED_FROM: u64 = 4;

/// Reads one segment from its beginning to its end.
pub(crate) struct SegmentReader {
    served: Arc<Served>,
    rest: Option<Segment>,
    stream: Option<BoxStream<'static, page_store::Result<Frame>>>,
    /// What absent pages read as.
    absent_as_zero: bool,
}

impl SegmentReader {
    /// With `absent_as_zero`, pages that are not to be had read as zeros; else they are an error.
    pub(crate) fn new(served: Arc<Served>, segment: Segment, absent_as_zero: bool) -> Self {
        Self { served, rest: Some(segment), stream: None, absent_as_zero }
    }

    /// Whole pages, at most a frame of them; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let Some(segment) = self.rest else { return Ok(None) };
        let pages = segment.range.pages();
        let served = self.served.clone();
        let counts = &served.metrics.pages;
        let (bytes, count) = match segment.content {
            Content::Store(first) => (self.stored(first, pages).await?, &counts.store),
            Content::Slim { file, offset } => (read_slim(&served, file, offset, pages).await?, &counts.slim),
            Content::Zero => (zeros(pages), &counts.zero),
            Content::Absent(_) if self.absent_as_zero => (zeros(pages), &counts.zero),
            Content::Absent(_) => return Err(damaged()),
        };
        let done = bytes.len() as u64 / PAGE_SIZE;
        if done == 0 {
            return Err(damaged());
        }
        count.fetch_add(done, Relaxed);
        self.rest = skip(segment, done);
        Ok(Some(bytes))
    }

    async fn stored(&mut self, first: PageNumber, pages: u64) -> Result<Bytes, Problem> {
        let number = first.frame();
        let last = PageNumber(first.0.saturating_add(pages - 1)).frame();
        if self.stream.is_none() && last.0 - number.0 >= STREAMED_FROM {
            let end = FrameNumber(last.0.saturating_add(1));
            self.stream = Some(self.served.store.stream_frames(number..end));
        }
        let frame = match &mut self.stream {
            Some(stream) => {
                let frame = stream.next().await.ok_or_else(damaged)??;
                if frame.number() != number {
                    return Err(damaged());
                }
                self.served.metrics.frames_decoded.fetch_add(1, Relaxed);
                frame.bytes().clone()
            }
            None => self.served.frames.get(&self.served.store, number, &self.served.metrics).await?,
        };
        // The last frame of a pack may be short; then the index names no page beyond it.
        let here = pages.min(FRAME_PAGES - first.in_frame() as u64) * PAGE_SIZE;
        let from = first.in_frame() * PAGE_SIZE as usize;
        let to = from + here as usize;
        if to > frame.len() {
            return Err(damaged());
        }
        Ok(frame.slice(from..to))
    }
}

async fn read_slim(served: &Served, file: FileNumber, offset: u64, pages: u64) -> Result<Bytes, Problem> {
    let len = pages.min(FRAME_PAGES) * PAGE_SIZE;
    let images = served.images.0.clone();
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; len as usize];
        images.read_pages(file, offset, &mut bytes).map(|()| Bytes::from(bytes))
    });
    // The task is neither cancelled nor does it panic; if it did, the page cannot be had.
    Ok(read.await.map_err(|_| damaged())??)
}

fn zeros(pages: u64) -> Bytes {
    let len = pages.min(FRAME_PAGES) * PAGE_SIZE;
    Bytes::from_static(ZEROS.get(..len as usize).unwrap_or_default())
}
