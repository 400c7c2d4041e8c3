//! Bodies: chunk by chunk, across connections that break, cut to what was asked for.

use super::host::{Ask, Host, causes};
use crate::{
    ByteStream, Error, Result,
    backend::{
        response::{content_range, strong_etag},
        short,
        spool::Chunks,
    },
};
use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use http::{HeaderValue, StatusCode, header};
use reqwest::Response;
use std::{ops::Range, time::Duration};
use tokio::time::timeout;

/// What a connection has to bring before the next one may go on where it broke: a host that cuts every body short is asked again by whoever
/// waits for the bytes, after a pause, rather than here at once. A frame is not longer than that.
const WORTH_RESUMING: u64 = 64 << 10;

/// A body as it comes. It breaks if nothing comes for as long as `stall`.
pub(super) fn chunks(response: Response, stall: Duration) -> Chunks {
    let next = move |body: Option<BoxStream<'static, reqwest::Result<Bytes>>>| async move {
        let mut body = body?;
        match timeout(stall, body.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(chunk))) => Some((Ok(chunk), Some(body))),
            Ok(Some(Err(e))) => Some((Err(causes(&e)), None)),
            Err(_) => Some((Err(format!("nothing more came within {} s", stall.as_secs_f32())), None)),
        }
    };
    stream::unfold(Some(response.bytes_stream().boxed()), next).boxed()
}

/// Bytes of one object, whose rest is asked for anew where a connection breaks, as long as the object is the same by its strong ETag.
pub(super) struct Resuming {
    host: Host,
    object: String,
    etag: Option<HeaderValue>,
    body: Chunks,
    /// The byte that comes next.
    at: u64,
    /// Just past the last one; the largest number if nobody knows.
    end: u64,
    /// Bytes that the present connection brought.
    brought: u64,
}

impl Resuming {
    pub(super) fn new(host: Host, object: String, etag: Option<HeaderValue>, range: Range<u64>, body: Chunks) -> Self {
        Self { host, object, etag, body, at: range.start, end: range.end, brought: 0 }
    }

    pub(super) fn stream(self) -> Chunks {
        stream::unfold(Some(self), |body| async move {
            let mut body = body?;
            let next = body.next().await?;
            let body = next.is_ok().then_some(body);
            Some((next, body))
        })
        .boxed()
    }

    pub(super) async fn next(&mut self) -> Option<Result<Bytes, String>> {
        loop {
            let problem = match self.body.next().await {
                Some(Ok(chunk)) => {
                    self.at += chunk.len() as u64;
                    self.brought += chunk.len() as u64;
                    return Some(Ok(chunk));
                }
                None => return None,
                Some(Err(problem)) => problem,
            };
            match self.rest().await {
                Some(body) => {
                    tracing::debug!(object = self.object, at = self.at, "{problem}; going on from there");
                    self.body = body;
                    self.brought = 0;
                }
                None => return Some(Err(problem)),
            }
        }
    }

    /// What is still to come, over another connection; `None` if it is not to be had, or not of the same object.
    async fn rest(&mut self) -> Option<Chunks> {
        let etag = self.etag.as_ref().filter(|_| self.brought >= WORTH_RESUMING && self.at < self.end)?;
        let end = Some(self.end).filter(|end| *end != u64::MAX);
        let ask = Ask { from: Some(self.at), end, unchanged: Some(etag) };
        let response = self.host.send(&self.object, ask).await.ok()?;
        let headers = response.headers();
        let (start, answered_end, _) = content_range(headers.get(header::CONTENT_RANGE)?.to_str().ok()?)?;
        let fits = response.status() == StatusCode::PARTIAL_CONTENT
            && strong_etag(headers).as_ref() == Some(etag)
            && start == self.at
            && end.is_none_or(|end| end == answered_end);
        fits.then(|| chunks(response, self.host.deadlines.stall))
    }
}

/// A body on its way.
pub(super) struct Body {
    pub(super) body: Chunks,
    pub(super) name: String,
    /// Bytes still to be dropped.
    pub(super) skip: u64,
    /// Bytes still to be handed out.
    pub(super) left: u64,
    pub(super) range: Range<u64>,
    /// The whole object comes; what follows the range is not waited for.
    pub(super) whole: bool,
    pub(super) done: bool,
}

impl Body {
    pub(super) fn stream(self) -> ByteStream {
        stream::unfold(self, |mut body| async move {
            let next = body.next().await?;
            body.done = next.is_err();
            Some((next, body))
        })
        .boxed()
    }

    async fn next(&mut self) -> Option<Result<Bytes>> {
        if self.done || (self.whole && self.left == 0) {
            return None;
        }
        loop {
            let mut chunk = match self.body.next().await {
                Some(Ok(chunk)) => chunk,
                Some(Err(problem)) => {
                    return Some(Err(Error::unavailable(self.name.clone(), problem)));
                }
                None if self.left == 0 => return None,
                None => {
                    return Some(Err(short(
                        self.name.clone(),
                        &self.range,
                        self.range.end - self.range.start - self.left,
                    )));
                }
            };
            let skipped = self.skip.min(chunk.len() as u64);
            let _ = chunk.split_to(skipped as usize);
            self.skip -= skipped;
            if chunk.is_empty() {
                continue;
            }
            if chunk.len() as u64 > self.left {
                if !self.whole {
                    let got = self.range.end - self.range.start - self.left + chunk.len() as u64;
                    return Some(Err(short(self.name.clone(), &self.range, got)));
                }
                chunk.truncate(self.left as usize);
            }
            self.left -= chunk.len() as u64;
            return Some(Ok(chunk));
        }
    }
}
