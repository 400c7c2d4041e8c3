//! Where objects are: a local directory, an HTTP address. One small trait, one conformance suite.

use crate::Result;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::{ops::Range, path::PathBuf, sync::Arc};

/// Chunks of a body, in order.
pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// Reads objects by name. Names are relative, '/'-separated, from a checked manifest.
#[async_trait]
pub trait Backend: Send + Sync + std::fmt::Debug {
    /// Path or URL of an object, for messages.
    fn describe(&self, object: &str) -> String;
    /// The whole of a small object; an error, before it is read, if it is larger than `limit` bytes.
    async fn get(&self, object: &str, limit: u64) -> Result<Bytes>;
    /// Exactly the bytes of `range` (not empty), as they arrive. A body that is shorter, longer, or of another range ends in an error.
    async fn get_range(&self, object: &str, range: Range<u64>) -> Result<ByteStream>;
    /// The same objects over connections of their own, so that one kind of traffic cannot queue behind another.
    fn fresh(&self) -> Arc<dyn Backend>;
}

/// Collects a range; exactly its bytes, or an error.
pub async fn read_range(_backend: &dyn Backend, _object: &str, _range: Range<u64>) -> Result<Bytes> {
    todo!()
}

/// A directory.
#[derive(Debug, Clone)]
pub struct LocalBackend {
    #[allow(dead_code)]
    root: PathBuf,
}

impl LocalBackend {
    /// Objects below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
}

#[async_trait]
impl Backend for LocalBackend {
    fn describe(&self, _object: &str) -> String {
        todo!()
    }
    async fn get(&self, _object: &str, _limit: u64) -> Result<Bytes> {
        todo!()
    }
    async fn get_range(&self, _object: &str, _range: Range<u64>) -> Result<ByteStream> {
        todo!()
    }
    fn fresh(&self) -> Arc<dyn Backend> {
        todo!()
    }
}

/// An HTTP(S) address.
#[derive(Debug, Clone)]
pub struct HttpBackend {
    #[allow(dead_code)]
    base: url::Url,
}

impl HttpBackend {
    /// Objects below `base` (a trailing slash is added if it lacks one).
    pub fn new(base: &str) -> Result<Self> {
        Ok(Self { base: url::Url::parse(base).expect("stub") })
    }
}

#[async_trait]
impl Backend for HttpBackend {
    fn describe(&self, _object: &str) -> String {
        todo!()
    }
    async fn get(&self, _object: &str, _limit: u64) -> Result<Bytes> {
        todo!()
    }
    async fn get_range(&self, _object: &str, _range: Range<u64>) -> Result<ByteStream> {
        todo!()
    }
    fn fresh(&self) -> Arc<dyn Backend> {
        todo!()
    }
}
