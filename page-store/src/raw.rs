//! A checkpoint directory that was never stripped, read as a store.

use crate::{Backend, ByteStream, Result};
use async_trait::async_trait;
use bytes::Bytes;
use std::{ops::Range, path::Path, sync::Arc};

/// A backend whose packs are the checkpoint's pages files (frames are raw 64 KiB slices) and whose other objects are made when it
/// is opened.
#[derive(Debug, Clone)]
pub struct RawCheckpoint {}

impl RawCheckpoint {
    /// Reads the images and computes every digest: one pass over the pages files.
    pub fn open(_dir: &Path) -> Result<Self> {
        todo!()
    }
}

#[async_trait]
impl Backend for RawCheckpoint {
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
