//! Bounds the memory that answers take on their way to clients.
//!
//! An answer has a place from before its first byte is read until the kernel has taken its last: what its body holds, and what the
//! connection has not sent yet. Small answers have room of their own, so that a page never waits for a gigabyte. Who
//! finds no room waits for a while and is then told to come again; and while somebody waits, a client that takes nothing for
//! a second loses its place, and with it its connection.

mod admission;
mod pool;

pub(crate) use admission::{Admission, Size};

use crate::{
    limits::Limits,
    net::Activity,
    pace::{Pace, now},
};
use bytes::Bytes;
use pool::{Asked, Pool};
use std::{sync::Arc, time::Duration};

/// Answers up to this length count as small: a frame, or a few of them.
const SMALL: u64 = 256 << 10;
/// Encoders at once. Each holds half a megabyte for as long as its answer lasts; whoever gets none is sent the bytes as they are.
const ENCODERS: usize = 8;

/// All room for answers.
#[derive(Debug)]
pub(crate) struct Places {
    small: Arc<Pool>,
    large: Arc<Pool>,
    encoders: Arc<tokio::sync::Semaphore>,
    patience: Duration,
}

/// What one answer holds. Clones are the same place: it is given back with the last of them.
#[derive(Clone, Debug)]
pub(crate) struct Place(Arc<Given>);

#[derive(Debug)]
struct Given {
    pool: Arc<Pool>,
    holder: Arc<Holder>,
    number: u64,
    bytes: u64,
}

/// Who holds a place, and how fast it takes what is there for it.
#[derive(Debug)]
pub(crate) struct Holder {
    connection: Arc<Activity>,
    pace: Pace,
}

/// A connection that does not take its answer.
#[derive(Debug)]
pub(crate) struct Late {
    pub(crate) connection: Arc<Activity>,
    /// It would have more time if nobody waited.
    pub(crate) for_others: bool,
}

impl Places {
    /// Shares what `limits` allow: a third is for the frames that are kept, the rest for answers.
    pub(crate) fn new(limits: &Limits) -> Self {
        let memory = limits.memory.max(Limits::LEAST_MEMORY);
        Self {
            small: Arc::new(Pool::new(memory / 4)),
            large: Arc::new(Pool::new(memory * 5 / 12)),
            encoders: Arc::new(tokio::sync::Semaphore::new(ENCODERS)),
            patience: limits.queue,
        }
    }

    /// How many frames may be kept beside.
    pub(crate) fn kept_frames(limits: &Limits) -> usize {
        let frames = limits.memory.max(Limits::LEAST_MEMORY) / 3 / page_store::FRAME_BYTES;
        usize::try_from(frames).unwrap_or(usize::MAX)
    }

    /// Requests that wait for a place.
    pub(crate) fn waiting(&self) -> usize {
        self.small.waiting() + self.large.waiting()
    }

    /// Bytes that are handed out.
    pub(crate) fn used(&self) -> u64 {
        self.small.used() + self.large.used()
    }

    /// Connections whose clients are later than `stall`; and as many of those later than `hurry` as requests wait, the latest first.
    pub(crate) fn late(&self, now: u64, stall: u64, hurry: u64) -> Vec<Late> {
        let mut late = Vec::new();
        for pool in [&self.small, &self.large] {
            let waiting = pool.waiting();
            let mut holders: Vec<_> =
                pool.holders().into_iter().map(|holder| (holder.pace.late(now), holder)).collect();
            holders.retain(|(time, _)| *time > stall || (waiting > 0 && *time > hurry));
            holders.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
            late.extend(
                holders.into_iter().enumerate().filter(|(n, (time, _))| *time > stall || *n < waiting).map(
                    |(_, (time, holder))| Late { connection: holder.connection.clone(), for_others: time <= stall },
                ),
            );
        }
        late
    }
}

impl Place {
    fn new(pool: &Arc<Pool>, holder: Arc<Holder>, number: u64, bytes: u64) -> Self {
        Self(Arc::new(Given { pool: pool.clone(), holder, number, bytes }))
    }

    /// The client has room for more: it took `bytes` since it was last handed something.
    pub(crate) fn asked(&self, bytes: u64) {
        self.0.holder.pace.took(now(), bytes);
    }

    /// The client has something to take. The place is held until it did.
    pub(crate) fn hand(&self, bytes: Bytes) -> Bytes {
        self.0.holder.pace.waits(now());
        Bytes::from_owner(Handed { bytes, _place: self.clone() })
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        self.pool.give_back(self.number, self.bytes);
    }
}

struct Handed {
    bytes: Bytes,
    _place: Place,
}

impl AsRef<[u8]> for Handed {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests;
