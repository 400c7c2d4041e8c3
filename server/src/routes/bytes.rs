//! Bodies that are made while they are sent.

use crate::{content::SegmentReader, places::Place, problem::Problem, served::Served, walk::Walk};
use axum::body::{Body, Bytes};
use criu_images::{PageRange, Pid};
use futures::{Stream, StreamExt, stream, stream::BoxStream};
use std::sync::Arc;

/// A body from a stream of chunks, which holds its place until the last of them is sent. An error in it cuts the connection: no
/// client can take the answer for whole.
pub(super) fn body(place: Place, chunks: impl Stream<Item = Result<Bytes, Problem>> + Send + 'static) -> Body {
    let handed = 0u64;
    Body::from_stream(stream::try_unfold((place, Box::pin(chunks), handed), |(place, mut chunks, handed)| async move {
        place.asked(handed);
        let Some(bytes) = chunks.next().await.transpose()? else { return Ok::<_, Problem>(None) };
        let handed = bytes.len() as u64;
        Ok(Some((place.hand(bytes), (place, chunks, handed))))
    }))
}

/// The bytes of a range; absent pages read as zeros.
pub(super) fn of_range(served: Arc<Served>, pid: Pid, range: PageRange) -> BoxStream<'static, Result<Bytes, Problem>> {
    let walk = Walk::new(served.clone(), pid, range);
    Box::pin(stream::try_unfold((served, walk, None::<SegmentReader>), |(served, mut walk, mut reader)| async move {
        loop {
            if let Some(segment) = &mut reader
                && let Some(bytes) = segment.next().await?
            {
                return Ok(Some((bytes, (served, walk, reader))));
            }
            match walk.next().await? {
                Some(segment) => reader = Some(SegmentReader::new(served.clone(), segment, true)),
                None => return Ok(None),
            }
        }
    }))
}
