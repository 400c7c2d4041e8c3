//! Bodies that are made while they are sent.

use crate::{content::SegmentReader, problem::Problem, served::Served, walk::Walk};
use axum::body::{Body, Bytes};
use criu_images::{PageRange, Pid};
use futures::{Stream, stream, stream::BoxStream};
use std::sync::Arc;

/// A body from a stream of chunks. An error in it cuts the connection: no client can take the answer for whole.
pub(super) fn body(chunks: impl Stream<Item = Result<Bytes, Problem>> + Send + 'static) -> Body {
    Body::from_stream(chunks)
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
