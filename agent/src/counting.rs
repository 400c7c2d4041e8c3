//! A backend that counts what goes through it.

use crate::status::Status;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use page_store::{Backend, ByteStream, Result};
use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering::Relaxed},
};

/// Adds requests and body bytes to a [`Status`].
#[derive(Debug)]
pub(crate) struct CountingBackend {
    inner: Arc<dyn Backend>,
    status: Arc<Status>,
}

impl CountingBackend {
    pub(crate) fn new(inner: Arc<dyn Backend>, status: Arc<Status>) -> Self {
        Self { inner, status }
    }
}

#[async_trait]
impl Backend for CountingBackend {
    fn describe(&self, object: &str) -> String {
        self.inner.describe(object)
    }

    async fn get(&self, object: &str, limit: u64) -> Result<Bytes> {
        self.status.requests.fetch_add(1, Relaxed);
        let body = self.inner.get(object, limit).await?;
        self.status.wire_bytes.fetch_add(body.len() as u64, Relaxed);
        Ok(body)
    }

    async fn get_range(&self, object: &str, range: Range<u64>) -> Result<ByteStream> {
        self.status.requests.fetch_add(1, Relaxed);
        let status = self.status.clone();
        let body = self.inner.get_range(object, range).await?;
        Ok(body
            .inspect(move |chunk| {
                if let Ok(bytes) = chunk {
                    status.wire_bytes.fetch_add(bytes.len() as u64, Relaxed);
                }
            })
            .boxed())
    }

    fn forget(&self, object: &str, range: &Range<u64>) {
        self.inner.forget(object, range);
    }

    fn copies(&self) -> usize {
        self.inner.copies()
    }

    fn fresh(&self) -> Arc<dyn Backend> {
        Arc::new(Self::new(self.inner.fresh(), self.status.clone()))
    }
}
