//! What a connection does, for whoever decides how long it may go on.

use crate::pace::{Pace, now};
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use tokio::sync::Notify;

/// How a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// After the requests that it has.
    Politely = 1,
    /// At once.
    Now = 2,
}

/// One connection. Its own tasks write, the warden reads.
#[derive(Debug)]
pub(crate) struct Activity {
    /// Requests whose answer is not finished.
    requests: AtomicU32,
    /// When the last request ended, or the connection began.
    since: AtomicU64,
    /// When the first byte of a request came whose header is not complete; 0 if there is none.
    head: AtomicU64,
    /// Its frames are not only requests: an HTTP/2 client that says something need not be sending a header.
    is_http2: AtomicBool,
    /// The socket takes no more.
    pub(crate) socket: Pace,
    end: AtomicU8,
    ended: Notify,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self {
            requests: AtomicU32::new(0),
            since: AtomicU64::new(now()),
            head: AtomicU64::new(0),
            is_http2: AtomicBool::new(false),
            socket: Pace::default(),
            end: AtomicU8::new(0),
            ended: Notify::new(),
        }
    }

    /// Bytes came.
    pub(crate) fn heard(&self) {
        if self.requests.load(Relaxed) == 0 && self.head.load(Relaxed) == 0 && !self.is_http2.load(Relaxed) {
            self.head.store(now(), Relaxed);
        }
    }

    /// A request's header is complete.
    pub(crate) fn begin(&self, is_http2: bool) {
        self.is_http2.store(is_http2, Relaxed);
        self.requests.fetch_add(1, Relaxed);
        self.head.store(0, Relaxed);
    }

    /// The last byte of an answer was handed to the connection, or nobody wants it any more.
    pub(crate) fn finish(&self) {
        self.since.store(now(), Relaxed);
        self.requests.fetch_sub(1, Relaxed);
    }

    /// Since when no request has been here, if none is, and whether the header of one has begun to arrive since when.
    pub(crate) fn idle(&self) -> Option<Idle> {
        if self.requests.load(Relaxed) > 0 {
            return None;
        }
        let head = self.head.load(Relaxed);
        Some(Idle { since: self.since.load(Relaxed), head: (head > 0).then_some(head) })
    }

    /// Asks it to end. `false` if it was asked this much already.
    pub(crate) fn end(&self, how: End) -> bool {
        let first = self.end.fetch_max(how as u8, SeqCst) < how as u8;
        if first {
            self.ended.notify_one();
        }
        first
    }

    /// Waits until it is asked to end, or to end faster than `before`.
    pub(crate) async fn told(&self, before: Option<End>) -> End {
        loop {
            match self.end.load(SeqCst) {
                2 => return End::Now,
                1 if before.is_none() => return End::Politely,
                _ => self.ended.notified().await,
            }
        }
    }
}

/// A connection without a request. Milliseconds of [`now`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Idle {
    pub(crate) since: u64,
    pub(crate) head: Option<u64>,
}

/// One request, until nothing is left of it.
#[derive(Debug)]
pub(crate) struct Engaged(std::sync::Arc<Activity>);

impl Engaged {
    pub(crate) fn new(activity: std::sync::Arc<Activity>, is_http2: bool) -> Self {
        activity.begin(is_http2);
        Self(activity)
    }
}

impl Drop for Engaged {
    fn drop(&mut self) {
        self.0.finish();
    }
}
