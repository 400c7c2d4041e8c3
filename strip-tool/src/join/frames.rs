//! Frames in the order in which a checkpoint needs them: mostly one after another, now and then one from before.

use crate::retry::Retries;
use anyhow::Result;
use futures::StreamExt;
use page_store::{Error, Frame, FrameNumber, Store};
use std::collections::{HashMap, VecDeque};
use tokio::{sync::mpsc, task::JoinHandle};

/// Frames that are kept, decoded, for pages that occur more than once: 32 MiB.
const KEPT: usize = 512;
/// Frames that wait to be used: 2 MiB on each of two streams. Decoding goes on while files are written.
const WAITING: usize = 32;
/// Most frames that are fetched ahead of a page that came up before: 4 MiB.
const MAX_AHEAD: u64 = 64;
/// How far a stream is followed to reach a frame, rather than begun anew.
const MAX_SKIP: u64 = 16;
/// Hands out frames, reading ahead on two streams: one goes through the store once; the other follows pages that came before.
pub(super) struct FrameReader {
    store: Store,
    frontier: Option<Ahead>,
    /// First frame that the frontier has not come to.
    seen: u64,
    back: Option<Ahead>,
    /// How many frames the other stream fetches when it begins anew; grows while it turns out to be right.
    window: u64,
    kept: HashMap<u64, Frame>,
    oldest: VecDeque<u64>,
}

impl FrameReader {
    pub(super) fn new(store: Store) -> Self {
        let (kept, oldest) = (HashMap::new(), VecDeque::new());
        Self { store, frontier: None, seen: 0, back: None, window: 1, kept, oldest }
    }

    /// A frame; `more` of those behind it will be asked for next.
    pub(super) async fn get(&mut self, frame: FrameNumber, more: u64) -> Result<Frame> {
        if let Some(frame) = self.kept.get(&frame.0) {
            return Ok(frame.clone());
        }
        let ahead = if frame.0 >= self.seen { self.frontier_at(frame.0) } else { self.back_at(frame.0, more) };
        let mut ahead = ahead;
        let found = loop {
            let next = ahead.next().await?;
            self.keep(&next);
            if next.number() == frame {
                break next;
            }
        };
        if frame.0 >= self.seen {
            self.seen = frame.0 + 1;
            self.frontier = Some(ahead);
        } else {
            self.back = Some(ahead);
        }
        Ok(found)
    }

    fn frontier_at(&mut self, frame: u64) -> Ahead {
        match self.frontier.take().filter(|ahead| ahead.reaches(frame)) {
            Some(ahead) => ahead,
            None => Ahead::begin(&self.store, frame, self.store.frame_count()),
        }
    }

    fn back_at(&mut self, frame: u64, more: u64) -> Ahead {
        let before = self.back.take();
        if let Some(ahead) = before {
            if ahead.reaches(frame) {
                return ahead;
            }
            let follows = (ahead.end..ahead.end + MAX_SKIP).contains(&frame);
            self.window = if follows { (self.window * 2).min(MAX_AHEAD) } else { 1 };
        }
        let end = frame.saturating_add(self.window.max(more.min(MAX_AHEAD) + 1)).min(self.seen.max(frame + 1));
        Ahead::begin(&self.store, frame, end)
    }

    fn keep(&mut self, frame: &Frame) {
        let number = frame.number().0;
        if self.kept.insert(number, frame.clone()).is_none() {
            self.oldest.push_back(number);
        }
        while self.oldest.len() > KEPT {
            if let Some(oldest) = self.oldest.pop_front() {
                self.kept.remove(&oldest);
            }
        }
    }
}

/// A stream of neighbouring frames that runs ahead of whoever takes them.
struct Ahead {
    frames: mpsc::Receiver<Result<Frame, Error>>,
    task: JoinHandle<()>,
    /// The frame that comes next, and the one behind the last.
    next: u64,
    end: u64,
}

impl Ahead {
    fn begin(store: &Store, first: u64, end: u64) -> Self {
        let (sender, frames) = mpsc::channel(WAITING);
        let task = tokio::spawn(fetch(store.clone(), first, end, sender));
        Self { frames, task, next: first, end }
    }

    /// Whether `frame` is not far ahead on it.
    fn reaches(&self, frame: u64) -> bool {
        (self.next..self.end.min(self.next + MAX_SKIP)).contains(&frame)
    }

    async fn next(&mut self) -> Result<Frame> {
        let frame = self.frames.recv().await;
        self.next += 1;
        Ok(frame.unwrap_or_else(|| {
            let problem = "the store has no such frame".into();
            Err(Error::Corrupt { object: "index".into(), place: format!("frame {}", self.next - 1), problem })
        })?)
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Streams frames into `sender`; takes up again where it was after errors that may pass.
async fn fetch(store: Store, first: u64, end: u64, sender: mpsc::Sender<Result<Frame, Error>>) {
    let (mut next, mut retries) = (first, Retries::new(&store));
    while next < end {
        let mut stream = store.stream_frames(FrameNumber(next)..FrameNumber(end));
        let error = loop {
            match stream.next().await {
                Some(Ok(frame)) => {
                    next = frame.number().0 + 1;
                    retries.succeeded();
                    if sender.send(Ok(frame)).await.is_err() {
                        return;
                    }
                }
                Some(Err(e)) => break e,
                // Whoever waits for more is told that there is none.
                None => return,
            }
        };
        if !retries.another(&error).await {
            let _ = sender.send(Err(error)).await;
            return;
        }
    }
}
