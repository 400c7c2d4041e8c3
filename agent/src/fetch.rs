//! Gets frames from the store, on threads of its own.
//!
//! Demand and background transfer share nothing: each has its own runtime, its own connections and its own queue, so that a fault
//! never waits behind a transfer. Nothing here gives up: what cannot be had now is tried again until it can, and the
//! log and the progress line say so. Only verified frames come out ([`page_store::Frame`]).

mod budget;
mod changed;
mod extent;
mod left;
mod retry;

use crate::{link::Link, placement::Placement, rate::RateLimit, status::Status};
use anyhow::{Context, Result};
use budget::{Budget, Who};
use changed::Watch;
use criu_images::{PageRange, Pid};
use extent::{Extent, Outlet};
use nix::sys::eventfd::{EfdFlags, EventFd};
use page_store::{Frame, FrameNumber, Store, working_set::WorkingSet};
use retry::Policy;
pub(crate) use retry::at_first;
use std::{
    ops::Range,
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::mpsc,
    task::JoinHandle,
};

/// Frames of the background transfer that may wait for the engine: 4 MiB.
const BACKGROUND_QUEUE: usize = 64;
/// Threads that decode the background transfer leave processors to the restored processes and to their faults.
const BACKGROUND_NICE: i32 = 10;

/// What the engine asked for and now has.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// A frame that a fault waits for, or that follows one.
    Demanded(Frame),
    /// A frame was asked for so long ago ([`Fetcher::start`]'s `give_up`), or was wrong so often, that it may never come; it is still tried. Told
    /// once for each such time. Who waits for it may have come later than the request.
    GaveUp(FrameNumber),
    /// A frame of a background extent.
    Transferred(Frame),
    /// A background extent has ended; every frame of it was handed over.
    ExtentDone,
    /// The part of the index around an address that was asked for is loaded.
    Indexed,
    /// The whole index, by frame.
    Placed(Placement),
    /// A working set is here; these frames come out of it.
    Expect(Vec<FrameNumber>),
    /// A frame of it.
    Replayed(Frame),
    /// Nothing more comes out of it.
    ReplayDone,
}

/// The asking side, and the arrivals.
pub(crate) struct Fetcher {
    demand: Lane,
    background: Lane,
    link: Arc<Link>,
    limit: Arc<RateLimit>,
    status: Arc<Status>,
    budget: Arc<Budget>,
    watch: Arc<Watch>,
    give_up: Option<Duration>,
    wake: Arc<EventFd>,
    urgent: (mpsc::UnboundedSender<Arrival>, mpsc::UnboundedReceiver<Arrival>),
    transfer: (mpsc::Sender<Arrival>, mpsc::Receiver<Arrival>),
    replay: (mpsc::Sender<Arrival>, mpsc::Receiver<Arrival>),
}

/// A runtime and connections that only one kind of traffic uses.
struct Lane {
    store: Store,
    runtime: Option<Runtime>,
}

impl Lane {
    fn new(name: &str, threads: usize, nice: i32, store: &Store) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name(name)
            .on_thread_start(move || {
                // Linux gives each thread a priority of its own (setpriority(2), "C library/kernel differences"). One that cannot be set does no harm.
                let _ = rustix::process::setpriority_process(None, nice);
            })
            .enable_all()
            .build()
            .context("starting threads for the transfer")?;
        Ok(Self { store: store.with_own_connections(), runtime: Some(runtime) })
    }

    fn handle(&self) -> &Handle {
        self.runtime.as_ref().expect("taken only on drop").handle()
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Fetcher {
    /// Starts the threads; `cores` of them decode the background transfer, which `limit` holds to a rate. With `give_up` the engine is told of
    /// demanded frames that have not come after so long, or did not match their digest, past caches and from every mirror, three times.
    pub(crate) fn start(
        store: &Store,
        status: Arc<Status>,
        cores: usize,
        limit: RateLimit,
        give_up: Option<Duration>,
    ) -> Result<Self> {
        Ok(Self {
            // A second thread: a frame that is being decoded does not keep another fault's answer waiting.
            demand: Lane::new("demand", 2, 0, store)?,
            background: Lane::new("transfer", cores, BACKGROUND_NICE, store)?,
            link: Arc::default(),
            limit: Arc::new(limit),
            status,
            budget: Arc::default(),
            watch: Watch::new(store.with_own_connections()),
            give_up,
            wake: Arc::new(
                EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).context("making an eventfd")?,
            ),
            urgent: mpsc::unbounded_channel(),
            transfer: mpsc::channel(BACKGROUND_QUEUE),
            replay: mpsc::channel(BACKGROUND_QUEUE),
        })
    }

    /// Fetches a frame before anything else, and neighbours that follow it. Each is handed over as soon as it is verified.
    pub(crate) fn demand(&self, frames: Range<FrameNumber>) {
        let extent = self.extent_of(&self.demand, Who::Demand, frames);
        self.demand.handle().spawn(extent.run(Outlet::Urgent(self.urgent.0.clone())));
    }

    /// What was measured on demand requests.
    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// Decodes a working set that is being downloaded. Frames wait for the engine, decoded, as many as the queue holds.
    pub(crate) fn replay(&self, set: JoinHandle<Option<WorkingSet>>) {
        let (store, status, out, wake) =
            (self.demand.store.clone(), self.status.clone(), self.replay.0.clone(), self.wake.clone());
        self.demand.handle().spawn(async move {
            let frames = set.await.ok().flatten().unwrap_or_default().frames;
            deliver_in_turn(&out, &wake, Arrival::Expect(frames.iter().map(|(number, _)| *number).collect())).await;
            for (number, stored) in frames {
                match store.decode_frame(number, stored).await {
                    Ok(frame) => deliver_in_turn(&out, &wake, Arrival::Replayed(frame)).await,
                    Err(error) => {
                        status.digest_failures.fetch_add(1, Relaxed);
                        tracing::warn!(frame = number.0, %error, "a frame of the working set is not what it should be; it will come from its pack");
                    }
                }
            }
            deliver_in_turn(&out, &wake, Arrival::ReplayDone).await;
        });
    }

    /// Loads the part of the index that says where `range` of task `pid` is.
    pub(crate) fn load_index(&self, pid: Pid, range: PageRange) {
        let (store, out, wake) = (self.demand.store.clone(), self.urgent.0.clone(), self.wake.clone());
        let policy = self.policy(Who::Demand);
        self.demand.handle().spawn(async move {
            policy.until_it_works(|| store.runs(pid, range)).await;
            deliver(&out, &wake, Arrival::Indexed);
        });
    }

    /// Loads the whole index and turns it round.
    pub(crate) fn load_placement(&self) {
        let (store, out, wake) = (self.background.store.clone(), self.transfer.0.clone(), self.wake.clone());
        let policy = self.policy(Who::Background);
        self.background.handle().spawn(async move {
            let placement = policy.until_it_works(|| Placement::read(&store)).await;
            deliver_in_turn(&out, &wake, Arrival::Placed(placement)).await;
        });
    }

    /// Streams neighbouring frames, each handed over as soon as it is verified.
    pub(crate) fn extent(&self, frames: Range<FrameNumber>) {
        let extent = self.extent_of(&self.background, Who::Background, frames);
        let outlet = Outlet::InTurn(self.transfer.0.clone(), self.limit.clone());
        self.background.handle().spawn(extent.run(outlet));
    }

    fn policy(&self, who: Who) -> Policy {
        Policy { status: self.status.clone(), budget: self.budget.clone(), watch: self.watch.clone(), who }
    }

    fn extent_of(&self, lane: &Lane, who: Who, frames: Range<FrameNumber>) -> Extent {
        Extent {
            store: lane.store.clone(),
            frames,
            link: self.link.clone(),
            status: self.status.clone(),
            policy: self.policy(who),
            give_up: self.give_up,
            wake: self.wake.clone(),
        }
    }

    /// What faults wait for.
    pub(crate) fn urgent(&mut self) -> Option<Arrival> {
        self.urgent.1.try_recv().ok()
    }

    /// What the background transfer brought.
    pub(crate) fn transferred(&mut self) -> Option<Arrival> {
        self.transfer.1.try_recv().ok()
    }

    /// What the working set brought.
    pub(crate) fn replayed(&mut self) -> Option<Arrival> {
        self.replay.1.try_recv().ok()
    }

    /// Readable once something has arrived; [`Fetcher::acknowledge`] makes it quiet again.
    pub(crate) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// To be called before looking for arrivals.
    pub(crate) fn acknowledge(&self) {
        // EAGAIN: nothing was written since; that is as good.
        let _ = self.wake.read();
    }

    /// Lets another thread end the engine's sleep.
    pub(crate) fn waker(&self) -> Arc<EventFd> {
        self.wake.clone()
    }
}

fn deliver(out: &mpsc::UnboundedSender<Arrival>, wake: &EventFd, arrival: Arrival) {
    // The receiver is gone only when the restore has ended.
    let _ = out.send(arrival);
    let _ = wake.write(1);
}

async fn deliver_in_turn(out: &mpsc::Sender<Arrival>, wake: &EventFd, arrival: Arrival) {
    let _ = out.send(arrival).await;
    let _ = wake.write(1);
}

#[cfg(test)]
mod tests;
