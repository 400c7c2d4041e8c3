//! Neighbouring frames by one request, handed over one by one, however long it takes.

use super::{
    Arrival, deliver, deliver_in_turn,
    left::Left,
    retry::{Pauses, Policy},
};
use crate::{link::Link, rate::RateLimit, status::Status};
use futures::{StreamExt, stream::BoxStream};
use nix::sys::eventfd::EventFd;
use page_store::{Error, Frame, FrameNumber, Store};
use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, time::timeout};

/// One attempt at a frame may take this long; then the request is made anew. A frame is at most 64 KiB.
const ATTEMPT: Duration = Duration::from_secs(30);
/// A frame that has not come after so many times the usual is asked for a second time, by another connection.
const PATIENCE: u32 = 4;
/// But not sooner than this: stalls of a busy host or of a lost packet's retransmission (200 ms, tcp(7)) are waited for.
const LEAST_PATIENCE: Duration = Duration::from_millis(250);
/// The same for frames that nobody waits for.
const LEAST_PATIENCE_IN_TURN: Duration = Duration::from_secs(2);
/// Of requests to the store, at most one in so many is a second one: a host that is slow everywhere is not asked twice as much.
const REQUESTS_PER_HEDGE: u64 = 10;

/// Frames to be fetched.
pub(super) struct Extent {
    pub(super) store: Store,
    pub(super) frames: Range<FrameNumber>,
    pub(super) link: Arc<Link>,
    pub(super) status: Arc<Status>,
    pub(super) policy: Policy,
    pub(super) give_up: Option<Duration>,
    pub(super) wake: Arc<EventFd>,
}

/// Where an extent's frames go.
pub(super) enum Outlet {
    /// To the engine at once; the link learns from it.
    Urgent(mpsc::UnboundedSender<Arrival>),
    /// To the engine when it has room, no faster than the limit.
    InTurn(mpsc::Sender<Arrival>, Arc<RateLimit>),
}

type Frames = BoxStream<'static, page_store::Result<Frame>>;

impl Extent {
    pub(super) async fn run(self, outlet: Outlet) {
        let left = Left::new(self.frames.clone(), self.give_up, self.store.backend().copies());
        tokio::select! {
            () = self.fetch(&outlet, &left) => {}
            () = self.tell(&outlet, &left) => {}
        }
        if let Outlet::InTurn(out, _) = &outlet {
            deliver_in_turn(out, &self.wake, Arrival::ExtentDone).await;
        }
    }

    /// Says of each frame that has not come in time that it has not; and once more when the time has passed again.
    async fn tell(&self, outlet: &Outlet, left: &Left) {
        let (Outlet::Urgent(out), Some(give_up)) = (outlet, self.give_up) else { return std::future::pending().await };
        loop {
            tokio::time::sleep(give_up).await;
            left.frames().into_iter().for_each(|frame| deliver(out, &self.wake, Arrival::GaveUp(frame)));
        }
    }

    async fn fetch(&self, outlet: &Outlet, left: &Left) {
        let mut pauses = self.policy.pauses();
        let mut pieces = VecDeque::from([self.frames.clone()]);
        while let Some(Range { start: mut next, end }) = pieces.pop_front() {
            while next < end {
                let Err(error) = self.attempt(&mut next, end, outlet, left, &mut pauses).await else { continue };
                let wrong = matches!(error, Error::Corrupt { .. });
                pauses.failed(&error.into()).await;
                if !wrong {
                    continue;
                }
                let (times, given_up) = left.was_wrong(next);
                if let (true, Outlet::Urgent(out)) = (given_up, outlet) {
                    deliver(out, &self.wake, Arrival::GaveUp(next));
                }
                // One frame that is wrong everywhere does not hold up those behind it.
                if times > 1 && next.0 + 1 < end.0 {
                    let behind = FrameNumber(next.0 + 1);
                    pieces.push_back(next..behind);
                    next = behind;
                }
            }
        }
    }

    /// One request: hands over frames from `next` on, and moves it behind the last that came.
    async fn attempt(
        &self,
        next: &mut FrameNumber,
        end: FrameNumber,
        outlet: &Outlet,
        left: &Left,
        pauses: &mut Pauses,
    ) -> page_store::Result<()> {
        let mut timer = Timer::default();
        let mut stream = self.store.stream_frames(*next..end);
        let outcome = loop {
            let frame = match self.frame(&mut stream, *next..end, outlet).await {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => break Err(error),
                None => break Ok(()),
            };
            pauses.worked();
            left.came(*next);
            *next = FrameNumber(frame.number().0 + 1);
            timer.frame();
            match outlet {
                Outlet::Urgent(out) => deliver(out, &self.wake, Arrival::Demanded(frame)),
                Outlet::InTurn(out, limit) => {
                    limit.pass(frame.stored_len().into()).await;
                    deliver_in_turn(out, &self.wake, Arrival::Transferred(frame)).await;
                }
            }
            // Bytes that are there already must not keep another extent's first frame waiting.
            tokio::task::yield_now().await;
        };
        if let Outlet::Urgent(_) = outlet {
            timer.report(&self.link);
        }
        outcome
    }

    /// The next frame of `stream`. When it is late, the rest is asked for once more over another connection, and the answer that brings the frame
    /// first is the one to go on with: a single connection that is slow or dead holds up nobody for long.
    async fn frame(
        &self,
        stream: &mut Frames,
        frames: Range<FrameNumber>,
        outlet: &Outlet,
    ) -> Option<page_store::Result<Frame>> {
        let next = frames.start;
        if let Ok(answer) = timeout(self.patience(outlet), stream.next()).await {
            return answer;
        }
        let (requests, hedges) = (self.status.requests.load(Relaxed), self.status.hedges.load(Relaxed));
        let mut second = futures::stream::pending().boxed();
        if hedges * REQUESTS_PER_HEDGE <= requests {
            self.status.hedges.fetch_add(1, Relaxed);
            tracing::debug!(frame = next.0, "late, asking again");
            // Connections that were made at the same time may have died together.
            second = self.store.with_own_connections().stream_frames(frames);
        }
        let race = async {
            tokio::select! {
                answer = stream.next() => match answer {
                    Some(Err(_)) => None,
                    answer => Some(answer),
                },
                answer = second.next() => match answer {
                    Some(Ok(frame)) => {
                        std::mem::swap(stream, &mut second);
                        Some(Some(Ok(frame)))
                    }
                    _ => Some(stream.next().await),
                },
            }
        };
        match timeout(ATTEMPT, race).await {
            Ok(Some(answer)) => answer,
            // The first failed: what the second brings is as good.
            Ok(None) => {
                std::mem::swap(stream, &mut second);
                timeout(ATTEMPT, stream.next()).await.unwrap_or_else(|_| Some(Err(too_slow(next))))
            }
            Err(_) => Some(Err(too_slow(next))),
        }
    }

    fn patience(&self, outlet: &Outlet) -> Duration {
        let least = match outlet {
            Outlet::Urgent(_) => LEAST_PATIENCE,
            Outlet::InTurn(..) => LEAST_PATIENCE_IN_TURN,
        };
        let usual = self.link.answer_time().unwrap_or_default();
        usual.saturating_mul(PATIENCE).clamp(least, ATTEMPT)
    }
}

/// When the frames of one answer came.
struct Timer {
    asked: Instant,
    first: Option<Instant>,
    last: Instant,
    more: u32,
}

impl Default for Timer {
    fn default() -> Self {
        let now = Instant::now();
        Self { asked: now, first: None, last: now, more: 0 }
    }
}

impl Timer {
    fn frame(&mut self) {
        self.last = Instant::now();
        match self.first {
            None => self.first = Some(self.last),
            Some(_) => self.more += 1,
        }
    }

    fn report(&self, link: &Link) {
        if let Some(first) = self.first {
            link.answered(first - self.asked);
            link.followed(self.more, self.last - first);
        }
    }
}

fn too_slow(frame: FrameNumber) -> Error {
    Error::unavailable(format!("frame {}", frame.0), format!("no answer within {} s", ATTEMPT.as_secs()))
}
