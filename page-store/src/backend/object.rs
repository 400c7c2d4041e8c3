//! Objects in an object store, by its own protocol and credentials.

use super::{Backend, ByteStream, Look, check_range, local::check_limit, short};
use crate::{
    Error, Result,
    bucket::{Bucket, Doing, Retrying},
};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use object_store::{GetOptions, GetRange, GetResult};
use std::{ops::Range, sync::Arc};

/// A place in an object store.
#[derive(Clone, Debug)]
pub struct ObjectBackend {
    bucket: Bucket,
}

impl ObjectBackend {
    /// Objects below an address such as `s3://bucket/prefix`. Nothing is asked yet.
    pub fn new(address: &str) -> Result<Self> {
        Ok(Self { bucket: Bucket::open(address, Retrying::Caller)? })
    }

    /// Objects in a store that the caller has made; `address` is for messages.
    pub fn of(store: Arc<dyn object_store::ObjectStore>, address: &str) -> Self {
        Self { bucket: Bucket::of(store, address) }
    }

    pub(crate) fn at(bucket: Bucket) -> Self {
        Self { bucket }
    }

    async fn ask(&self, object: &str, range: Option<Range<u64>>) -> Result<GetResult> {
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let got = self.bucket.store().get_opts(&self.bucket.path(object)?, options).await;
        got.map_err(|error| self.bucket.error(object, Doing::Reading, &error))
    }

    /// Exactly `range`, or an error.
    async fn open(&self, object: &str, range: &Range<u64>) -> Result<(u64, ByteStream)> {
        let got = self.ask(object, Some(range.clone())).await.map_err(|error| past_the_end(error, range))?;
        let name = self.describe(object);
        if got.range != *range {
            let problem = format!(
                "bytes {}..{} of {} came, {}..{} were asked for",
                got.range.start, got.range.end, got.meta.size, range.start, range.end
            );
            return Err(Error::Corrupt { object: name, place: "length".into(), problem });
        }
        let size = got.meta.size;
        let body = Body {
            bucket: self.bucket.clone(),
            object: object.into(),
            chunks: got.into_stream(),
            range: range.clone(),
            got: 0,
            done: false,
        };
        Ok((size, body.stream()))
    }
}

/// A range that begins behind the end of an object is the index's mistake, or the object's.
fn past_the_end(error: Error, range: &Range<u64>) -> Error {
    match error {
        Error::Unsupported { object, what } | Error::Unavailable { object, problem: what, .. }
            if what.contains("InvalidRange")
                || what.contains("416")
                || what.contains("out of bounds")
                || what.contains("range") =>
        {
            let problem = format!("it has no bytes {}..{}", range.start, range.end);
            Error::Corrupt { object, place: "length".into(), problem }
        }
        error => error,
    }
}

struct Body {
    bucket: Bucket,
    object: String,
    chunks: stream::BoxStream<'static, object_store::Result<Bytes>>,
    range: Range<u64>,
    got: u64,
    done: bool,
}

impl Body {
    fn stream(self) -> ByteStream {
        stream::unfold(self, |mut body| async move {
            let next = body.next().await?;
            body.done = next.is_err();
            Some((next, body))
        })
        .boxed()
    }

    async fn next(&mut self) -> Option<Result<Bytes>> {
        let asked = self.range.end - self.range.start;
        while !self.done {
            match self.chunks.next().await {
                None if self.got == asked => return None,
                Some(Ok(chunk)) if chunk.is_empty() => {}
                Some(Ok(chunk)) if chunk.len() as u64 <= asked - self.got => {
                    self.got += chunk.len() as u64;
                    return Some(Ok(chunk));
                }
                Some(Err(error)) => return Some(Err(self.bucket.error(&self.object, Doing::Reading, &error))),
                None => return Some(Err(short(self.bucket.describe(&self.object), &self.range, self.got))),
                Some(Ok(chunk)) => {
                    let got = self.got + chunk.len() as u64;
                    return Some(Err(short(self.bucket.describe(&self.object), &self.range, got)));
                }
            }
        }
        None
    }
}

#[async_trait]
impl Backend for ObjectBackend {
    fn describe(&self, object: &str) -> String {
        self.bucket.describe(object)
    }

    async fn get(&self, object: &str, limit: u64) -> Result<Bytes> {
        let got = self.ask(object, None).await?;
        let size = got.meta.size;
        check_limit(&self.describe(object), size, limit)?;
        let range = 0..size;
        let (bucket, object) = (self.bucket.clone(), object.to_owned());
        let mut body = Body { bucket, object, chunks: got.into_stream(), range, got: 0, done: false }.stream();
        let mut all = BytesMut::new();
        while let Some(chunk) = body.next().await.transpose()? {
            all.extend_from_slice(&chunk);
        }
        Ok(all.freeze())
    }

    async fn get_range(&self, object: &str, range: Range<u64>) -> Result<ByteStream> {
        check_range(|| self.describe(object), &range)?;
        Ok(self.open(object, &range).await?.1)
    }

    async fn look(&self, object: &str, at: u64) -> Result<Look> {
        let (size, mut body) = self.open(object, &(at..at.saturating_add(1))).await?;
        while body.next().await.transpose()?.is_some() {}
        Ok(Look { size: Some(size), http: None })
    }

    fn fresh(&self) -> Arc<dyn Backend> {
        Arc::new(Self { bucket: self.bucket.fresh() })
    }
}
