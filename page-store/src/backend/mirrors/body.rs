//! A body that goes on from another mirror where one breaks or is slow.

use super::Mirrors;
use crate::{ByteStream, Result};
use bytes::Bytes;
use futures::{StreamExt, stream};
use std::{
    ops::Range,
    time::{Duration, Instant},
};
use tokio::time::timeout;

const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// One mirror's answer.
pub(super) struct Source {
    mirrors: Mirrors,
    at: usize,
    id: u64,
    object: String,
    range: Range<u64>,
    body: Option<ByteStream>,
    asked: Instant,
    /// Bytes that came, and how long they were waited for.
    bytes: u64,
    waited: Duration,
}

impl Source {
    pub(super) async fn open(mirrors: Mirrors, at: usize, object: String, range: Range<u64>) -> Result<Self> {
        let backend = mirrors.backends[at].clone();
        let id = mirrors.shared.health[at].begin(&object, &range);
        // From here on dropping it ends what was begun.
        let asked = Instant::now();
        let mut source = Self { mirrors, at, id, object, range, body: None, asked, bytes: 0, waited: Duration::ZERO };
        source.body = Some(backend.get_range(&source.object, source.range.clone()).await?);
        source.health().answered(asked.elapsed());
        Ok(source)
    }

    fn health(&self) -> &super::Health {
        &self.mirrors.shared.health[self.at]
    }

    async fn next(&mut self) -> Option<Result<Bytes>> {
        let start = Instant::now();
        let next = self.body.as_mut()?.next().await;
        self.waited += start.elapsed();
        match &next {
            Some(Ok(chunk)) => {
                if self.bytes == 0 {
                    self.mirrors.serves(self.at, &self.object, self.range.clone());
                }
                self.bytes += chunk.len() as u64;
            }
            Some(Err(error)) => self.mirrors.failed(self.at, error),
            None => self.health().worked(self.bytes, self.waited),
        }
        next
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let health = self.health();
        health.end(self.id);
        // Whoever asked could not wait any longer.
        if self.body.is_none() && self.asked.elapsed() > health.patience() {
            health.answered(self.asked.elapsed());
        }
        // Readers of frames stop at the last byte, before the end is seen.
        if self.body.is_some() && self.bytes > 0 && self.bytes == self.range.end - self.range.start {
            health.worked(self.bytes, self.waited);
        }
    }
}

/// A range, from one mirror after another.
pub(super) struct Following {
    mirrors: Mirrors,
    object: String,
    /// What is still to come.
    left: Range<u64>,
    source: Source,
    /// How often it went on elsewhere: no more often than there are mirrors, twice.
    moved: usize,
    done: bool,
}

/// What came next.
enum Step {
    Chunk(Option<Result<Bytes>>),
    Elsewhere(Source),
    Nothing,
}

impl Following {
    pub(super) fn new(mirrors: Mirrors, object: String, range: Range<u64>, source: Source) -> Self {
        Self { mirrors, object, left: range, source, moved: 0, done: false }
    }

    pub(super) fn stream(self) -> ByteStream {
        stream::unfold(self, |mut body| async move {
            let next = body.next().await?;
            body.done = next.is_err();
            Some((next, body))
        })
        .boxed()
    }

    async fn next(&mut self) -> Option<Result<Bytes>> {
        while !self.done {
            match self.step().await {
                Step::Chunk(Some(Ok(chunk))) => {
                    self.left.start += chunk.len() as u64;
                    return Some(Ok(chunk));
                }
                Step::Chunk(None) => return None,
                Step::Nothing => {}
                Step::Chunk(Some(Err(error))) => match self.elsewhere().await {
                    Some(source) => self.go_on(source),
                    None => return Some(Err(error)),
                },
                Step::Elsewhere(source) => {
                    self.source.health().was_slow(self.source.bytes, self.source.waited);
                    self.go_on(source);
                }
            }
        }
        None
    }

    fn go_on(&mut self, source: Source) {
        tracing::debug!(object = self.object, at = self.left.start, "going on from another mirror");
        self.source = source;
    }

    /// The next chunk; or, if it is late and another mirror has something to send sooner, that.
    async fn step(&mut self) -> Step {
        // Without another mirror: one may be back after a while.
        let patience = self.patience().unwrap_or(LOOK_AGAIN);
        if let Ok(chunk) = timeout(patience, self.source.next()).await {
            return Step::Chunk(chunk);
        }
        self.source.waited += patience;
        let Some(other) = self.other() else { return Step::Nothing };
        self.moved += 1;
        let other = Source::open(self.mirrors.clone(), other, self.object.clone(), self.left.clone());
        tokio::pin!(other);
        tokio::select! {
            chunk = self.source.next() => Step::Chunk(chunk),
            other = &mut other => match other {
                Ok(other) => Step::Elsewhere(other),
                Err(_) => Step::Chunk(self.source.next().await),
            },
        }
    }

    /// How long to wait for the next chunk: what is left of the time that all of it would take from the best other mirror, generously.
    /// `None`: there is no other to turn to.
    fn patience(&self) -> Option<Duration> {
        let other = self.other()?;
        let bytes = self.source.range.end - self.source.range.start;
        let all = self.mirrors.shared.health[other].patience_for(bytes);
        Some(all.saturating_sub(self.source.waited).max(Duration::from_millis(10)))
    }

    /// The mirror to turn to; not one that is left out.
    fn other(&self) -> Option<usize> {
        if self.moved >= 2 * self.mirrors.backends.len() {
            return None;
        }
        let order = self.mirrors.order(&self.object, &self.left);
        let fits = |at: &usize| *at != self.source.at && self.mirrors.shared.health[*at].cost().is_some();
        order.into_iter().find(fits)
    }

    async fn elsewhere(&mut self) -> Option<Source> {
        let other = self.other()?;
        self.moved += 1;
        let source = Source::open(self.mirrors.clone(), other, self.object.clone(), self.left.clone()).await;
        source.inspect_err(|error| self.mirrors.failed(other, error)).ok()
    }
}
