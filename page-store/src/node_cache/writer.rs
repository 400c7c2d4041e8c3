//! The thread that writes, and what waits for it. Nobody waits for the thread: what finds no room in the queue is not kept. When it has nothing to
//! write it looks what others have done to the cache.

use super::{
    Shared,
    index::{Entry, Place},
    room::{self, Live},
    segment::{Kind, Slot, slot_offset},
};
use crate::Digest;
use bytes::Bytes;
use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Bytes that may wait: what 1 Gbit/s bring while a disk does nothing for 60 ms.
const QUEUE_BYTES: usize = 8 << 20;
/// A writer that had nothing to do for so long leaves its segment, and what is reserved for it, to others. As often it looks what they have done: the
/// room of a segment that another has removed is free once nobody has it open.
const IDLE: Duration = Duration::from_secs(5);
/// When there was no room, this passes before it is looked for again.
const NO_ROOM: Duration = Duration::from_secs(1);
/// The thread makes way for the restored processes.
const NICE: i32 = 10;
/// Bytes of a file that are copied at once.
const COPY: usize = 256 << 10;

/// What is to be kept.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) digest: Digest,
    pub(super) kind: Kind,
    pub(super) len: u32,
    pub(super) payload: Payload,
}

/// Its bytes.
#[derive(Debug)]
pub(super) enum Payload {
    Bytes(Bytes),
    /// The whole of a file, from its first byte.
    File(File),
}

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    bytes: usize,
    is_busy: bool,
    /// Nothing more is written.
    is_closed: bool,
    /// Nobody uses the cache any more.
    is_over: bool,
}

impl Job {
    fn bytes(&self) -> usize {
        match &self.payload {
            Payload::Bytes(bytes) => bytes.len(),
            Payload::File(_) => 0,
        }
    }
}

impl Queue {
    /// Whether the job was taken.
    pub(super) fn push(&self, job: Job) -> bool {
        let mut state = self.lock();
        if state.is_closed || state.bytes + job.bytes() > QUEUE_BYTES {
            return false;
        }
        state.bytes += job.bytes();
        state.jobs.push_back(job);
        self.changed.notify_all();
        true
    }

    /// Waits until everything is written, but not longer than `patience`.
    pub(super) fn flush(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut state = self.lock();
        while !state.is_closed && (state.is_busy || !state.jobs.is_empty()) {
            let Some(left) = until.checked_duration_since(Instant::now()) else { return };
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Nothing more is written.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        (state.is_closed, state.bytes) = (true, 0);
        state.jobs.clear();
        self.changed.notify_all();
    }

    /// The thread ends.
    pub(super) fn end(&self) {
        self.close();
        self.lock().is_over = true;
        self.changed.notify_all();
    }

    /// The next job, or that there was none for so long.
    fn next(&self, patience: Duration) -> Next {
        let mut state = self.lock();
        state.is_busy = false;
        self.changed.notify_all();
        loop {
            if state.is_over {
                return Next::Over;
            }
            if let Some(job) = state.jobs.pop_front() {
                state.bytes -= job.bytes();
                state.is_busy = true;
                return Next::Job(job);
            }
            let waited = self.changed.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner);
            state = waited.0;
            if waited.1.timed_out() && state.jobs.is_empty() && !state.is_over {
                return Next::Idle;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Next {
    Job(Job),
    Idle,
    Over,
}

/// Starts the thread. It ends with [`Queue::end`].
pub(super) fn start(shared: Arc<Shared>) -> io::Result<()> {
    std::thread::Builder::new().name("cache".into()).spawn(move || run(&shared)).map(drop)
}

fn run(shared: &Shared) {
    // Linux gives each thread a priority of its own; one that cannot be set does no harm.
    let _ = rustix::process::setpriority_process(None, NICE);
    let mut writer = Writer { shared, live: None, no_room: None };
    loop {
        match shared.queue.next(IDLE) {
            Next::Over => return,
            Next::Idle => {
                writer.live = None;
                if let Err(error) = shared.look_for_news() {
                    tracing::debug!(%error, "node cache: looking for news");
                }
            }
            Next::Job(job) => match writer.write(&job) {
                Ok(true) => {
                    shared.counters.kept_bytes.fetch_add(job.len.into(), Relaxed);
                }
                Ok(false) => {
                    shared.counters.skipped.fetch_add(1, Relaxed);
                }
                Err(error) => {
                    shared.counters.skipped.fetch_add(1, Relaxed);
                    shared.queue.close();
                    tracing::warn!("{}", unwritable(shared, &error));
                }
            },
        }
    }
}

fn unwritable(shared: &Shared, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room there, or give a smaller --cache-size",
        _ => "give another --cache-dir, or see to the disk",
    };
    format!("node cache {}: {error}: going on without adding to it; {advice}", shared.folder.path().display())
}

struct Writer<'a> {
    shared: &'a Shared,
    live: Option<Live>,
    no_room: Option<Instant>,
}

impl Writer<'_> {
    /// Whether the record is in the cache now.
    fn write(&mut self, job: &Job) -> io::Result<bool> {
        if self.shared.index().has(&job.digest) {
            return Ok(true);
        }
        let len = u64::from(job.len);
        if !room::fits(self.shared.limit, len) {
            return Ok(false);
        }
        if self.live.as_ref().is_some_and(|live| !live.has_room(len) || !live.is_there()) {
            self.live = None;
        }
        if self.live.is_none() {
            if self.no_room.is_some_and(|since| since.elapsed() < NO_ROOM) {
                return Ok(false);
            }
            self.live = room::find(&self.shared.folder, self.shared.limit, len)?;
            self.no_room = self.live.is_none().then(Instant::now);
        }
        let Some(live) = &mut self.live else { return Ok(false) };
        let Ok(offset) = u32::try_from(live.end) else { return Ok(false) };
        match &job.payload {
            Payload::Bytes(bytes) => live.file.write_all_at(bytes, live.end)?,
            Payload::File(file) => copy(file, &live.file, live.end, len)?,
        }
        // Last, so that who finds it finds all of it.
        let slot = Slot { digest: job.digest, kind: job.kind, offset, len: job.len };
        live.file.write_all_at(&slot.to_bytes(), slot_offset(live.next_slot))?;
        let segment = self.shared.segments.number(live.id);
        let place = Place { segment, slot: live.next_slot };
        live.end += len;
        live.next_slot += 1;
        self.shared.segments.advance(segment, live.next_slot);
        self.shared.index_mut().extend(vec![Entry::new(&job.digest, place)]);
        Ok(true)
    }
}

fn copy(from: &File, to: &File, mut at: u64, len: u64) -> io::Result<()> {
    let mut buffer = vec![0; COPY];
    let mut done = 0;
    while done < len {
        let room = usize::try_from(len - done).unwrap_or(COPY).min(COPY);
        from.read_exact_at(&mut buffer[..room], done)?;
        to.write_all_at(&buffer[..room], at)?;
        (done, at) = (done + room as u64, at + room as u64);
    }
    Ok(())
}
