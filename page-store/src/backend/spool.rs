//! An object of a host that ignores Range: downloaded once, into a temporary file, and read from there.
//!
//! Such a host sends the whole pack for every few frames of it. The download is a task of its own; readers of any range follow it
//! as the file grows, and it goes on when they leave, because others will come.

use super::{
    ByteStream,
    buffers::Buffers,
    local::{CHUNK, Opened, blocking, read_at},
    short,
};
use crate::{Error, Result, pack::MAX_PACK_BYTES};
use bytes::Bytes;
use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use tokio::sync::watch;

/// Bytes of an object that are kept. Packs are what is read by range, and this is twice the largest; it bounds what a host that
/// never stops sending takes of the disk.
pub(super) const MAX_SPOOL: u64 = 2 * MAX_PACK_BYTES;

/// A body as it comes, or what went wrong with it.
pub(super) type Chunks = BoxStream<'static, Result<Bytes, String>>;

/// An object that is being downloaded, or was. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Spool {
    file: Opened,
    /// Bytes of the object, if the host said so.
    total: Option<u64>,
    progress: watch::Receiver<Progress>,
    /// A reader found that it ends too early. Without a length that cannot be told from a connection that broke.
    short: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Progress {
    /// Bytes that can be read.
    len: u64,
    /// Why there will be no more.
    end: Option<End>,
}

#[derive(Debug, Clone)]
enum End {
    /// All of the object is there, or [`MAX_SPOOL`] bytes of it.
    Complete,
    /// What was wrong with the answer.
    Broken(Arc<str>),
    /// The file cannot be written.
    Unwritable,
}

impl Spool {
    /// Downloads `body` into `file`. It sets `unwritable` when that fails.
    pub(super) fn begin(
        file: File,
        buffers: Arc<Buffers>,
        total: Option<u64>,
        body: Chunks,
        unwritable: Arc<AtomicBool>,
    ) -> Self {
        let (sender, progress) = watch::channel(Progress::default());
        let file = Opened::new(tempfile::env::temp_dir().into(), file, buffers);
        tokio::spawn(Download { file: Arc::clone(&file.file), total, progress: sender }.run(body, unwritable));
        Self { file, total, progress, short: Arc::default() }
    }

    /// Whether it is worth reading from: complete, or on its way to be.
    pub(super) fn is_live(&self) -> bool {
        !self.short.load(Relaxed) && matches!(self.progress.borrow().end, None | Some(End::Complete))
    }

    /// Whether a range is in the object, as far as is known, and in the part of it that is kept.
    pub(super) fn may_have(&self, range: &Range<u64>) -> bool {
        range.end <= self.total.unwrap_or(MAX_SPOOL)
    }

    /// Streams a range, each byte as soon as it is there. If the file fails, what is left of the range comes from `otherwise`.
    pub(super) fn read<F>(self, name: String, range: Range<u64>, otherwise: F) -> ByteStream
    where
        F: FnOnce(Range<u64>) -> BoxFuture<'static, Result<ByteStream>> + Send + 'static,
    {
        let reader = Reader { spool: self, name, at: range.start, range, otherwise: Some(otherwise), rest: None };
        let next = |mut reader: Reader<F>| async move { Ok(reader.next().await?.map(|chunk| (chunk, reader))) };
        stream::try_unfold(reader, next).boxed()
    }
}

struct Reader<F> {
    spool: Spool,
    name: String,
    range: Range<u64>,
    /// The byte that comes next.
    at: u64,
    /// Asks the host for what the file does not have.
    otherwise: Option<F>,
    /// What it answered.
    rest: Option<ByteStream>,
}

impl<F: FnOnce(Range<u64>) -> BoxFuture<'static, Result<ByteStream>>> Reader<F> {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.at == self.range.end {
            return Ok(None);
        }
        if self.rest.is_none() {
            if let Some(chunk) = self.kept().await? {
                self.at += chunk.len() as u64;
                return Ok(Some(chunk));
            }
            if let Some(ask) = self.otherwise.take() {
                self.rest = Some(ask(self.at..self.range.end).await?);
            }
        }
        match &mut self.rest {
            Some(rest) => rest.next().await.transpose(),
            None => Ok(None),
        }
    }

    /// Bytes from the file, once it has some; `None` if it cannot be used.
    async fn kept(&mut self) -> Result<Option<Bytes>> {
        let news = self.spool.progress.wait_for(|progress| progress.len > self.at || progress.end.is_some()).await;
        // A download says how it ended, so the error does not happen; if it did, asking anew would be right.
        let (len, end) = news.map_or((0, None), |progress| (progress.len, progress.end.clone()));
        if len > self.at {
            let until = len.min(self.range.end).min(self.at.saturating_add(CHUNK));
            let read = read_at(&self.spool.file, self.at..until).await;
            return Ok(read.inspect_err(|error| tracing::debug!("temporary file: {error}; asking the host")).ok());
        }
        match end {
            Some(End::Unwritable) => Ok(None),
            Some(End::Complete) => {
                self.spool.short.store(true, Relaxed);
                Err(short(self.name.clone(), &self.range, self.at.min(len).saturating_sub(self.range.start)))
            }
            end => {
                let stopped = "the download was stopped".into();
                let problem: String =
                    if let Some(End::Broken(problem)) = end { problem.as_ref().into() } else { stopped };
                Err(Error::unavailable(self.name.clone(), problem))
            }
        }
    }
}

/// The writing side.
struct Download {
    file: Arc<File>,
    total: Option<u64>,
    progress: watch::Sender<Progress>,
}

impl Download {
    async fn run(self, mut body: Chunks, unwritable: Arc<AtomicBool>) {
        let mut len = 0;
        while len < MAX_SPOOL {
            let mut chunk = match body.next().await {
                Some(Ok(chunk)) => chunk,
                Some(Err(problem)) => return self.end(End::Broken(problem.into())),
                None if self.total.is_some_and(|total| total != len) => {
                    return self.end(End::Broken(format!("ends after {len} bytes").into()));
                }
                None => break,
            };
            // Neither backend nor reader is left, and no other will come.
            if self.progress.is_closed() {
                return;
            }
            chunk.truncate(usize::try_from(MAX_SPOOL - len).unwrap_or(usize::MAX));
            let (file, at) = (Arc::clone(&self.file), len);
            len += chunk.len() as u64;
            if let Err(error) = blocking(move || file.write_all_at(&chunk, at).map_err(temporary)).await {
                warn_unwritable(&unwritable, &error);
                return self.end(End::Unwritable);
            }
            self.progress.send_modify(|progress| progress.len = len);
        }
        self.end(End::Complete);
    }

    fn end(&self, end: End) {
        self.progress.send_modify(|progress| {
            progress.end.get_or_insert(end);
        });
    }
}

impl Drop for Download {
    /// A runtime that goes away takes its tasks along; readers in another one begin anew.
    fn drop(&mut self) {
        self.end(End::Broken("the download was stopped".into()));
    }
}

/// An error of a file in the temporary folder, which has no name of its own.
pub(super) fn temporary(source: io::Error) -> Error {
    Error::Io { object: tempfile::env::temp_dir().display().to_string(), source }
}

/// Says once that objects cannot be kept, and what to do.
pub(super) fn warn_unwritable(unwritable: &AtomicBool, error: &Error) {
    // Others come from a runtime that goes away.
    if matches!(error, Error::Io { .. }) && !unwritable.swap(true, Relaxed) {
        tracing::warn!(
            "{error}: cannot keep objects in a temporary file, so every read starts at the beginning of the object; \
             free space there, or set TMPDIR to a folder that has room"
        );
    }
}

#[cfg(test)]
mod tests;
