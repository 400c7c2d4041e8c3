//! Unpacks the slim dump just before the store becomes visible, so that both are there in the end or neither is.

use crate::output::OutputDir;
use anyhow::{Context, Result};
use async_trait::async_trait;
use bytes::Bytes;
use page_store::{
    Backend, ByteStream, Error, LocalBackend, MANIFEST_NAME, Store,
    write::{LocalSink, ObjectSink, ObjectWriter},
};
use std::{ops::Range, path::Path, sync::Arc};

/// A sink that unpacks the slim dump when it is told to commit.
pub(super) struct WithSlimDir<'a> {
    inner: &'a LocalSink,
    dir: OutputDir,
}

impl<'a> WithSlimDir<'a> {
    pub(super) fn create(inner: &'a LocalSink, dir: &Path) -> Result<Self> {
        Ok(Self { inner, dir: OutputDir::create(dir).context("the slim dump")? })
    }

    /// After the commit: puts the slim dump in its place.
    pub(super) fn finish(self) -> Result<()> {
        self.dir.finish()
    }
}

impl ObjectSink for WithSlimDir<'_> {
    fn begin(&self) -> page_store::Result<Box<dyn ObjectWriter>> {
        self.inner.begin()
    }

    fn commit(&self, manifest: &[u8]) -> page_store::Result<()> {
        let objects = LocalBackend::new(self.inner.root());
        let to_be: Arc<dyn Backend> = Arc::new(ToBe { manifest: Bytes::copy_from_slice(manifest), objects });
        let target = self.dir.path();
        let unpack = async { Store::from_backend(to_be).await?.slim().await?.unpack(&target) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|source| Error::Io { object: "runtime".into(), source })?.block_on(unpack)?;
        self.inner.commit(manifest)
    }
}

/// The store as it will be: objects on disk, the manifest still in memory.
#[derive(Debug)]
struct ToBe {
    manifest: Bytes,
    objects: LocalBackend,
}

#[async_trait]
impl Backend for ToBe {
    fn describe(&self, object: &str) -> String {
        self.objects.describe(object)
    }
    async fn get(&self, object: &str, limit: u64) -> page_store::Result<Bytes> {
        match object {
            MANIFEST_NAME => Ok(self.manifest.clone()),
            _ => self.objects.get(object, limit).await,
        }
    }
    async fn get_range(&self, object: &str, range: Range<u64>) -> page_store::Result<ByteStream> {
        self.objects.get_range(object, range).await
    }
    fn fresh(&self) -> Arc<dyn Backend> {
        self.objects.fresh()
    }
}
