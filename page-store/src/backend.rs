//! Where objects are: a local directory, an HTTP address, an object store. One small trait, one conformance suite (`tests/backends.rs`).

mod buffers;
mod http;
mod local;
mod mirrors;
mod object;
mod response;
mod spool;
mod spools;
mod suspects;

pub use buffers::{Buffer, Buffers};
pub use http::{Deadlines, HttpAddress, HttpAnswer, HttpBackend, HttpOptions, HttpVersion, Token, same_host};
pub use local::LocalBackend;
pub(crate) use local::{Opened, blocking, check_limit, read_at, stream_range};
pub use mirrors::Mirrors;
pub use object::ObjectBackend;

use crate::{Error, Result};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream::BoxStream};
use std::{ops::Range, sync::Arc};

/// Chunks of a body, in order.
pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// What [`Backend::look`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// How large the object is, in bytes, where the answer tells.
    pub size: Option<u64>,
    /// How the host answered, if it is one.
    pub http: Option<HttpLook>,
}

/// How a host answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpLook {
    /// `HTTP/1.1`.
    pub version: &'static str,
    /// Whether it sends only the range that was asked for.
    pub honours_range: bool,
}

/// Reads objects by name. Names are relative, '/'-separated, from a checked manifest.
///
/// Nothing is tried twice here: who waits for the bytes knows best how long and how often. [`Error::is_transient`] says whether
/// it may help.
#[async_trait]
pub trait Backend: Send + Sync + std::fmt::Debug {
    /// Path or URL of an object, for messages.
    fn describe(&self, object: &str) -> String;
    /// The whole of a small object; an error, before it is read, if it is larger than `limit` bytes.
    async fn get(&self, object: &str, limit: u64) -> Result<Bytes>;
    /// Exactly the bytes of `range` (not empty), as they arrive. A body that is shorter, longer, or of another range ends in an error.
    async fn get_range(&self, object: &str, range: Range<u64>) -> Result<ByteStream>;
    /// Whether an object is there at least up to byte `at`, and how its host answers. That byte alone is asked for,
    /// and what a host that ignores Range sends instead is not read.
    async fn look(&self, object: &str, at: u64) -> Result<Look> {
        let range = at..at.saturating_add(1);
        read_range_of(self.get_range(object, range.clone()).await?, &self.describe(object), &range).await?;
        Ok(Look { size: None, http: None })
    }
    /// Bytes of an object, which came for (a part of) `range`, were not what they should be: a copy that is kept of it is not to be used
    /// again, here or by caches on the way.
    fn forget(&self, _object: &str, _range: &Range<u64>) {}
    /// How many places have a copy of these objects.
    fn copies(&self) -> usize {
        1
    }
    /// The same objects over connections of their own, so that one kind of traffic cannot queue behind another.
    fn fresh(&self) -> Arc<dyn Backend>;
}

/// Collects a range; exactly its bytes, or an error.
pub async fn read_range(backend: &dyn Backend, object: &str, range: Range<u64>) -> Result<Bytes> {
    let body = backend.get_range(object, range.clone()).await?;
    read_range_of(body, &backend.describe(object), &range).await
}

pub(crate) async fn read_range_of(mut body: ByteStream, name: &str, range: &Range<u64>) -> Result<Bytes> {
    let len = range.end.saturating_sub(range.start);
    let Some(first) = body.next().await.transpose()? else {
        return Err(short(name.into(), range, 0));
    };
    if first.len() as u64 == len && body.next().await.transpose()?.is_none() {
        return Ok(first);
    }
    let mut all = BytesMut::with_capacity(usize::try_from(len).unwrap_or(usize::MAX).min(1 << 20));
    all.extend_from_slice(&first);
    while let Some(chunk) = body.next().await.transpose()? {
        all.extend_from_slice(&chunk);
    }
    // Backends hold to this; it is checked again because what follows slices by it.
    if all.len() as u64 != len {
        return Err(short(name.into(), range, all.len() as u64));
    }
    Ok(all.freeze())
}

/// An answer that is not as long as it should be.
fn short(object: String, range: &Range<u64>, got: u64) -> Error {
    let wanted = range.end - range.start;
    let problem = format!("bytes {}-{}: {got} bytes came, {wanted} were asked for", range.start, range.end - 1);
    Error::unavailable(object, problem)
}

/// A range that no object has: empty or reversed. A mistake of the caller's, or an index that lies.
pub(crate) fn check_range(object: impl FnOnce() -> String, range: &Range<u64>) -> Result<()> {
    if range.start < range.end {
        return Ok(());
    }
    let place = format!("bytes {}..{}", range.start, range.end);
    Err(Error::Corrupt { object: object(), place, problem: "an empty range".into() })
}
