//! Uploads that run beside the writer: a few objects at once, each in parts.

use super::attributes;
use crate::{
    Error, Result,
    bucket::{Bucket, Doing},
};
use object_store::{GetOptions, MultipartUpload, PutMultipartOptions, PutOptions, PutPayload};
use std::{
    collections::VecDeque,
    fs::File,
    os::unix::fs::FileExt,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{runtime::Handle, sync::Semaphore, sync::watch, task::JoinSet};

/// Objects on their way at once. Each is a temporary file of up to 64 MiB; a writer that is faster than the link waits.
const OBJECTS: usize = 3;
/// Bytes of a part: S3 wants 5 MiB at least, and at most 10,000 parts to an object.
const PART: u64 = 8 << 20;
/// Parts on their way at once, of all objects: what memory they take, and enough to fill a link of 1 Gbit/s at 100 ms.
const PARTS: usize = 6;
/// How long the end of what was begun is waited for, when the rest is not wanted any more.
const GRACE: Duration = Duration::from_secs(5);

/// All uploads of a sink.
#[derive(Debug)]
pub(super) struct Uploads {
    bucket: Bucket,
    threads: Handle,
    parts: Arc<Semaphore>,
    state: Mutex<State>,
    changed: Condvar,
    stop: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    failures: VecDeque<Error>,
    /// From the first failure on: without what failed there is no store.
    failed: bool,
}

impl Uploads {
    pub(super) fn new(bucket: Bucket, threads: Handle) -> Self {
        let parts = Arc::new(Semaphore::new(PARTS));
        let (stop, _) = watch::channel(false);
        Self { bucket, threads, parts, state: Mutex::default(), changed: Condvar::new(), stop }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits until at most so many run; the first failure of any of them is the answer.
    fn wait(&self, at_most: usize) -> Result<MutexGuard<'_, State>> {
        let state = self.changed.wait_while(self.state(), |state| state.running > at_most && !state.failed);
        let mut state = state.unwrap_or_else(|e| e.into_inner());
        match state.failures.pop_front() {
            Some(failure) => Err(failure),
            None if state.failed => Err(Error::unavailable(self.bucket.describe(""), "an upload has failed")),
            None => Ok(state),
        }
    }

    /// Uploads a file under this name, once there is room for it.
    pub(super) fn start(self: &Arc<Self>, name: &str, file: File) -> Result<()> {
        self.wait(OBJECTS - 1)?.running += 1;
        let (uploads, name) = (self.clone(), name.to_owned());
        self.threads.spawn(async move {
            let done = uploads.upload(&name, Arc::new(file)).await;
            let mut state = uploads.state();
            state.running -= 1;
            state.failed |= done.is_err();
            state.failures.extend(done.err());
            uploads.changed.notify_all();
        });
        Ok(())
    }

    /// Waits for all of them.
    pub(super) fn finish(&self) -> Result<()> {
        self.wait(0).map(drop)
    }

    /// Ends those that run.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
        let waited = self.changed.wait_timeout_while(self.state(), GRACE, |state| state.running > 0);
        drop(waited);
    }

    async fn upload(&self, name: &str, file: Arc<File>) -> Result<()> {
        let size = file.metadata().map_err(Error::temporary_file)?.len();
        if is_there(&self.bucket, name, size).await {
            tracing::debug!(name, "is there already");
            return Ok(());
        }
        let mut stop = self.stop.subscribe();
        let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
        if size <= PART {
            tokio::select! {
                put = self.put(name, file, size) => put,
                () = stopped => Err(ended()),
            }
        } else {
            self.put_in_parts(name, file, size, stopped).await
        }
    }

    async fn put(&self, name: &str, file: Arc<File>, size: u64) -> Result<()> {
        let path = self.bucket.path(name)?;
        let _turn = self.parts.acquire().await;
        let options = PutOptions { attributes: attributes(name), ..PutOptions::default() };
        let put = self.bucket.store().put_opts(&path, read(file, 0, size).await?, options).await;
        put.map(drop).map_err(|error| self.bucket.error(name, Doing::Writing, &error))
    }

    async fn put_in_parts(
        &self,
        name: &str,
        file: Arc<File>,
        size: u64,
        stopped: impl Future<Output = ()>,
    ) -> Result<()> {
        let failed = |error: &object_store::Error| self.bucket.error(name, Doing::Writing, error);
        let options = PutMultipartOptions { attributes: attributes(name), ..PutMultipartOptions::default() };
        let begun = self.bucket.store().put_multipart_opts(&self.bucket.path(name)?, options).await;
        let mut upload = begun.map_err(|error| failed(&error))?;
        let parts = tokio::select! {
            parts = self.put_parts(upload.as_mut(), file, size) => parts,
            () = stopped => Err(None),
        };
        let done = match parts {
            Ok(()) => upload.complete().await.map(drop).map_err(|error| failed(&error)),
            Err(Some(error)) => Err(error),
            Err(None) => Err(ended()),
        };
        if done.is_err()
            && let Err(error) = upload.abort().await
        {
            tracing::warn!(name, "parts of an upload may be left in the bucket: {error}");
        }
        done
    }

    async fn put_parts(
        &self,
        upload: &mut dyn MultipartUpload,
        file: Arc<File>,
        size: u64,
    ) -> Result<(), Option<Error>> {
        let mut sent = JoinSet::new();
        let mut at = 0;
        while at < size {
            let turn = self.parts.clone().acquire_owned().await.map_err(|_| None)?;
            let length = PART.min(size - at);
            let part = upload.put_part(read(file.clone(), at, length).await?);
            sent.spawn(async move {
                let done = part.await;
                drop(turn);
                done
            });
            at += length;
        }
        while let Some(part) = sent.join_next().await {
            part.map_err(|_| None)?.map_err(|error| self.bucket.error("a part", Doing::Writing, &error))?;
        }
        Ok(())
    }
}

/// Whether an object of this name and size is there. It is whole then: object stores show objects whole or not at all.
pub(super) async fn is_there(bucket: &Bucket, name: &str, size: u64) -> bool {
    let Ok(path) = bucket.path(name) else { return false };
    let head = GetOptions { head: true, ..GetOptions::default() };
    bucket.store().get_opts(&path, head).await.is_ok_and(|there| there.meta.size == size)
}

async fn read(file: Arc<File>, at: u64, length: u64) -> Result<PutPayload> {
    let read = move || {
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, at).map(|()| PutPayload::from(bytes))
    };
    let read = tokio::task::spawn_blocking(read).await.map_err(std::io::Error::other).and_then(|read| read);
    read.map_err(Error::temporary_file)
}

fn ended() -> Error {
    Error::Io { object: "upload".into(), source: std::io::Error::other("stopped") }
}
