//! Puts the slim dump in its place just before the store becomes visible, so that both are there in the end or neither is. (A run
//! that is killed between these two renames leaves the slim dump alone.)

use crate::{
    Stop,
    output::{OutputDir, sync_tree},
};
use anyhow::{Context, Result};
use async_trait::async_trait;
use bytes::Bytes;
use page_store::{
    Backend, ByteStream, Error, MANIFEST_NAME, Store,
    write::{ObjectSink, ObjectWriter, StoreSink},
};
use std::{cell::Cell, io, ops::Range, path::Path, sync::Arc};

/// A sink that unpacks the slim dump when it is told to commit.
pub(super) struct WithSlimDir<'a> {
    inner: &'a dyn StoreSink,
    dir: OutputDir,
    stop: &'a Stop,
}

impl<'a> WithSlimDir<'a> {
    pub(super) fn create(inner: &'a dyn StoreSink, dir: &Path, stop: &'a Stop) -> Result<Self> {
        Ok(Self { inner, dir: OutputDir::create(dir).context("the slim dump")?, stop })
    }
}

impl ObjectSink for WithSlimDir<'_> {
    fn begin(&self) -> page_store::Result<Box<dyn ObjectWriter>> {
        self.inner.begin()
    }

    fn commit(&self, manifest: &[u8]) -> page_store::Result<()> {
        let objects = self.inner.written()?;
        let to_be: Arc<dyn Backend> = Arc::new(ToBe { manifest: Bytes::copy_from_slice(manifest), objects });
        let target = self.dir.path();
        let unpack = async { Store::from_backend(to_be).await?.slim().await?.unpack(&target) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|source| Error::Io { object: "runtime".into(), source })?.block_on(unpack)?;
        sync_tree(&target).map_err(|source| Error::Io { object: target.display().to_string(), source })?;
        let in_place = Cell::new(false);
        let mut place = || {
            // All of it had to be brought to disk first, which takes a while.
            if let Some(stopped) = self.stop.requested() {
                return Err(Error::Io { object: "split".into(), source: io::Error::other(stopped) });
            }
            self.dir.finish().map_err(|source| Error::Io { object: "the slim dump".into(), source })?;
            in_place.set(true);
            Ok(())
        };
        let committed = self.inner.commit_after(manifest, &mut place);
        if in_place.get() && !self.inner.is_committed() {
            self.dir.take_back();
        }
        committed
    }
}

/// The store as it will be: objects in their place, the manifest still in memory.
#[derive(Debug)]
struct ToBe {
    manifest: Bytes,
    objects: Arc<dyn Backend>,
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
