//! The engine: one thread that owns every userfaultfd and every address space of a restore.
//!
//! ```text
//!   CRIU ──socket──►┐                                   ┌──► fetcher (its own threads)
//!   userfaultfds ──►│ epoll ─► events ─► address spaces │        │ verified frames
//!   fetcher wakes ─►┘             │ faults              │◄───────┘
//!                                 └─► cache? ─► UFFDIO_COPY, or ask the fetcher
//! ```
//!
//! That one thread both reads events and copies is what makes the order right without a lock: every event that was read has been
//! applied before the next copy, and while one is unread the kernel refuses copies with EAGAIN (userfaultfd(2), `mmap_changing`).
//! A batch of events is applied as a whole before its faults are answered, so that no answer is older than the layout.

mod faults;
mod frame_set;
mod missing;
mod process;
mod read_ahead;
mod record;
mod replay;
mod transfer;

pub use missing::OnMissing;
pub(crate) use process::{Process, ProcessId};
pub(crate) use record::RecordOptions;

use crate::{
    criu_socket::{Connection, LazyPagesSocket, Message},
    fd_store::FdStore,
    fetch::{Arrival, Fetcher},
    guard::{Guarded, Journal, Known, Ledger, Record},
    images::Layout,
    status::{Moment, SAVED, Status},
    tree::Tree,
    uffd::{Batch, Event, SharedMemory, Uffd},
};
use anyhow::{Context, Result, bail, ensure};
use criu_images::{PageAddr, PageRange, Pid};
use faults::Faults;
use missing::GivenUp;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use page_store::Store;
use process::Moved;
use read_ahead::ReadAhead;
use record::Recorder;
use replay::Replay;
use std::{
    collections::{BTreeMap, HashMap},
    os::fd::{AsFd, AsRawFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use transfer::Transfer;

/// How long to sleep at most: how soon the exit of a process is noticed, of which no event tells.
const HEARTBEAT: Duration = Duration::from_millis(250);
/// How long to sleep while the kernel has a copy wait for an event that is not there to be read yet.
const STALLED: u16 = 1;
/// How long to look for the next fault without sleeping: faults come in bursts, and a processor that slept takes some 30 µs to wake in a
/// virtual machine, as long as the fault's answer.
const SPIN: Duration = Duration::from_micros(100);
/// While faults are answered within this time, what they wait for is a processor, not a network.
const NEARBY: Duration = Duration::from_millis(2);
/// A program that has not faulted for so long is no longer in a rush, and neither is one that has run for so long.
const CALM: Duration = Duration::from_millis(10);
const LONGEST_RUSH: Duration = Duration::from_millis(500);
/// `--complete idle`: how long no fault may have come before pages are transferred.
const IDLE: Duration = Duration::from_secs(1);

/// Frames that faults wait for, or that follow, which are put in place before new faults are looked at: half a millisecond.
const URGENT_PER_TURN: usize = 16;

/// A journal that is half full is not renewed more often than this; in the other half there is room for far more than can happen meanwhile.
const RENEWAL: Duration = Duration::from_millis(20);

const WAKE: u64 = 0;
const SOCKET: u64 = 1;
/// Numbers of processes begin here.
pub(crate) const FIRST_PROCESS: u64 = 2;

/// When to transfer pages that nothing has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Complete {
    /// As soon as the restore is finished. The default: from 10 ms away first replies come 1.1 to 2.8 times sooner than with faults alone, and on
    /// a near store it makes way while the program is in a rush (`bench/RESULTS.md`).
    Now,
    /// Once no fault has come for a second.
    Idle,
    /// Never: faults only.
    Never,
}

/// Whose memory is counted where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Fault,
    ReadAhead,
    WorkingSet,
    Transfer,
    Zero,
}

/// What an engine begins with: nothing but what the images say, or what another agent has left.
pub(crate) struct Start {
    pub socket: LazyPagesSocket,
    pub connection: Option<Connection>,
    pub ledger: Ledger,
    /// Where it was read; it stays until it is in a new journal.
    pub journal: Option<SharedMemory>,
    /// Of the processes in the ledger; one that is not here has gone.
    pub uffds: Vec<(ProcessId, Uffd)>,
}

/// What is to be done beside answering faults.
#[derive(Debug)]
pub(crate) struct Plan {
    pub complete: Complete,
    /// Whether the fetcher brings a working set.
    pub replays: bool,
    pub record: Option<RecordOptions>,
    pub on_missing: OnMissing,
}

/// What another thread may tell the engine while it runs. Each is set once.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    /// CRIU has ended; if it has not connected, it will not.
    pub criu_is_gone: AtomicBool,
    /// Complete every process as soon as possible, whatever the plan says.
    pub hurry: AtomicBool,
    /// Leave everything to the next start, if systemd has what it needs.
    pub leave: AtomicBool,
    /// End the recording, if there is one.
    pub stop_recording: AtomicBool,
}

/// One restore.
pub(crate) struct Engine {
    epoll: Epoll,
    socket: LazyPagesSocket,
    connection: Option<Connection>,
    layouts: HashMap<Pid, Layout>,
    /// Every pid and thread id that the restore takes.
    ids: Vec<Pid>,
    /// Virtual pids by position in the manifest.
    pids: Vec<Option<Pid>>,
    processes: BTreeMap<ProcessId, Process>,
    next_process: u64,
    store: Store,
    fetcher: Fetcher,
    faults: Faults,
    read_ahead: ReadAhead,
    replay: Replay,
    recorder: Option<Recorder>,
    /// Frames that faults wait for have come and were not looked at yet.
    urgent_left: bool,
    transfer: Transfer,
    given_up: GivenUp,
    /// What `--on-missing kill` would kill.
    tree: Tree,
    complete: Complete,
    restored: bool,
    /// CRIU went away before it was finished; what it left is served until it is gone.
    abandoned: bool,
    orders: Arc<Orders>,
    last_fault: Instant,
    restored_at: Instant,
    last_heartbeat: Instant,
    status: Arc<Status>,
    guarded: Guarded,
    journal: Journal,
    /// When a new journal was last begun, or tried to be.
    journal_begun: Instant,
}

impl Engine {
    /// The engine looks at `orders` four times a second.
    pub(crate) fn new(
        start: Start,
        store: Store,
        fetcher: Fetcher,
        plan: Plan,
        orders: Arc<Orders>,
        status: Arc<Status>,
        guarded: Guarded,
    ) -> Result<Self> {
        let Plan { complete, replays, record, on_missing } = plan;
        let Start { socket, connection, mut ledger, journal: before, uffds } = start;
        let replay = Replay::new(replays);
        let recorder = record.map(|options| Recorder::new(options, &store.manifest().checkpoint_id));
        let epoll = guarded.sure(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("making an epoll"))?;
        guarded.sure(epoll.add(fetcher.wake_fd(), EpollEvent::new(EpollFlags::EPOLLIN, WAKE)))?;
        if !ledger.restored && !ledger.abandoned {
            let from_criu = connection.as_ref().map_or(socket.as_fd(), |connection| connection.as_fd());
            guarded.sure(epoll.add(from_criu, EpollEvent::new(EpollFlags::EPOLLIN, SOCKET)))?;
        }
        let pids = store.manifest().tasks.iter().map(|t| Pid::new(t.pid)).collect();
        status.tasks.name(store.manifest().tasks.iter().map(|task| (task.pid, task.comm.as_str())));
        let now = Instant::now();
        if complete != Complete::Never || replays {
            fetcher.load_placement();
        }
        let journal = guarded.sure(guarded.begin(&ledger))?;
        drop(before);
        guarded.listens(&socket);
        let (layouts, ids) = (std::mem::take(&mut ledger.layouts), std::mem::take(&mut ledger.ids));
        let mut engine = Self {
            epoll,
            socket,
            connection,
            layouts,
            ids,
            pids,
            processes: BTreeMap::new(),
            next_process: ledger.next_process,
            store,
            fetcher,
            faults: Faults::default(),
            read_ahead: ReadAhead::default(),
            replay,
            recorder,
            urgent_left: false,
            transfer: Transfer::default(),
            given_up: GivenUp::new(on_missing),
            tree: std::mem::take(&mut ledger.tree),
            complete,
            restored: ledger.restored,
            abandoned: ledger.abandoned,
            orders,
            last_fault: now,
            restored_at: now,
            last_heartbeat: now,
            status,
            guarded,
            journal,
            journal_begun: now,
        };
        for (id, uffd) in uffds {
            if let Some(known) = ledger.processes.remove(&id) {
                engine.watch(id, known, uffd)?;
            }
        }
        ledger.processes.into_keys().for_each(|id| engine.journal.note(Record::Released(id)));
        Ok(engine)
    }

    /// Goes on where another agent has died: whoever waited for it faults anew, and whatever it had asked for is asked for again.
    fn take_over(&mut self) -> Result<()> {
        for process in self.processes.values() {
            process.uffd.wake_all().with_context(|| format!("waking the threads of {}", process.name))?;
            tracing::info!("took over {}: {} pages to come", process.name, process.space.missing_pages());
        }
        if self.restored {
            self.want_first_pages();
        }
        Ok(())
    }

    /// What another agent has to know.
    fn ledger(&self) -> Result<Ledger> {
        Ok(Ledger {
            manifest: self.store.manifest().to_json()?,
            layouts: self.layouts.clone(),
            ids: self.ids.clone(),
            processes: self.processes.iter().map(|(id, process)| (*id, process.known())).collect(),
            next_process: self.next_process,
            last_mail: self.connection.as_ref().and_then(|connection| connection.last_mail()),
            tree: self.tree.clone(),
            restored: self.restored,
            abandoned: self.abandoned,
        })
    }

    /// Begins a new journal in time. Where there is no memory for one, this is tried again as long as the old one has room.
    fn renew_journal(&mut self) -> Result<()> {
        if !self.journal.is_half_full() || self.journal_begun.elapsed() < RENEWAL {
            return Ok(());
        }
        self.journal_begun = Instant::now();
        if let Err(error) = self.ledger().and_then(|ledger| self.journal.begin_anew(&ledger)) {
            tracing::warn!("{error:#}; trying again");
        }
        Ok(())
    }

    /// Serves until every process is whole or gone. An error means that the restore failed.
    pub(crate) fn run(mut self) -> Result<()> {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.take_over().and_then(|()| self.serve())));
        let error = match outcome {
            Ok(Ok(())) => {
                // Before what the journal names is closed.
                self.guarded.is_done();
                return Ok(());
            }
            Ok(Err(error)) => error,
            Err(_) => {
                let error = anyhow::anyhow!("the engine panicked; this is a bug, please report it");
                self.guarded.die_of(&error);
                error
            }
        };
        self.hold(&error);
        Err(error)
    }

    /// After an error of our own: keeps the userfaultfds open until nobody needs them. Threads that wait for a page go on waiting; if
    /// the userfaultfds were closed, they would read zeros.
    fn hold(&mut self, error: &anyhow::Error) {
        let ids: Vec<_> = self.processes.keys().copied().collect();
        for id in ids {
            if self.processes[&id].space.is_whole() {
                self.release(id);
            }
        }
        if !self.processes.is_empty() {
            let names: Vec<_> = self.processes.values().map(|p| p.name.as_str()).collect();
            tracing::error!("{error:#}; holding {} until they end, kill them and restore again", names.join(", "));
        }
        while !self.processes.is_empty() {
            std::thread::sleep(HEARTBEAT);
            self.forget_gone();
        }
    }

    fn forget_gone(&mut self) {
        let gone: Vec<_> = self.processes.iter().filter(|(_, p)| !p.uffd.is_alive()).map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|id| self.forget(id));
    }

    fn serve(&mut self) -> Result<()> {
        let mut ready = [EpollEvent::empty(); 64];
        while !self.finished()? {
            let count = match self.epoll.wait(&mut ready, self.sleep()) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(errno) => return Err(errno).context("waiting for userfaultfd events"),
            };
            for event in &ready[..count] {
                match event.data() {
                    WAKE => self.fetcher.acknowledge(),
                    SOCKET => self.hear_criu()?,
                    id => drop(self.read_events(ProcessId(id))?),
                }
            }
            self.answer_faults()?;
            self.take_urgent()?;
            self.transfer_some()?;
            self.replay_some()?;
            self.heartbeat()?;
            self.renew_journal()?;
            self.count();
            self.leave_if_told();
        }
        self.status.reached(Moment::Whole);
        self.end_recording();
        self.check_complete()
    }

    /// Between two turns, so that nothing is known that is neither in the journal nor in the fd store.
    fn leave_if_told(&mut self) {
        if self.orders.leave.swap(false, Relaxed) {
            tracing::info!("leaving; the next start goes on");
            self.guarded.leave();
            tracing::error!("systemd did not take all descriptors: staying");
        }
    }

    fn finished(&mut self) -> Result<bool> {
        if self.abandoned {
            if self.processes.is_empty() {
                bail!("CRIU closed the lazy-pages socket before the restore was finished; its log says why");
            }
            return Ok(false);
        }
        if !self.restored {
            let nobody = self.connection.is_none() && self.processes.is_empty();
            ensure!(
                !(nobody && (self.orders.hurry.load(Relaxed) || self.orders.criu_is_gone.load(Relaxed))),
                "interrupted before CRIU connected; nothing was restored"
            );
            return Ok(false);
        }
        self.release_whole()?;
        Ok(self.processes.is_empty())
    }

    /// Lets go of processes that lack nothing: closing the last reference gives their memory back to the kernel's care. Events are
    /// read once more before, so that a child that was forked while pages were missing is not lost.
    fn release_whole(&mut self) -> Result<()> {
        let whole: Vec<_> = self.processes.iter().filter(|(_, p)| p.space.is_whole()).map(|(id, _)| *id).collect();
        for id in whole {
            self.read_events(id)?;
            if self.processes.get(&id).is_some_and(|p| p.space.is_whole()) {
                tracing::debug!("{} is whole", self.processes[&id].name);
                self.release(id);
            }
        }
        Ok(())
    }

    fn sleep(&self) -> nix::sys::epoll::EpollTimeout {
        if self.urgent_left || self.replay.more || self.transfer.has_work_at_hand() || self.last_fault.elapsed() < SPIN
        {
            0u16.into()
        } else if self.faults.stalled() || self.transfer.stalled() {
            STALLED.into()
        } else {
            u16::try_from(HEARTBEAT.as_millis()).expect("a quarter of a second").into()
        }
    }

    fn hear_criu(&mut self) -> Result<()> {
        let Some(connection) = &mut self.connection else {
            let connection = self.socket.accept(self.guarded.mail())?;
            self.guarded.connected(&connection);
            self.epoll.delete(self.socket.as_fd())?;
            self.epoll.add(connection.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, SOCKET))?;
            self.connection = Some(connection);
            return Ok(());
        };
        while let Some(message) = connection.try_read()? {
            match message {
                Message::DeadTask(pid) => tracing::debug!("task {pid} is dead; it has no memory"),
                Message::Task { pid, uffd, mail } => {
                    let layout = self.layouts.remove(&pid).with_context(|| {
                        format!(
                            "CRIU restores a task {pid} that the images (-D) do not have: is it given the same images?"
                        )
                    })?;
                    let fd = uffd.as_fd().as_raw_fd();
                    self.guarded.keep_uffd(ProcessId(self.next_process), &uffd);
                    self.journal.note(Record::Adopted { pid, fd, mail });
                    let known = Known::task(layout, fd);
                    tracing::debug!("{}: {} pages to come", known.name, known.space.missing_pages());
                    self.adopt(known, uffd)?;
                    self.see_tree();
                    return Ok(());
                }
                Message::RestoreFinished => {
                    self.journal.note(Record::Restored);
                    self.restored = true;
                    self.restored_at = Instant::now();
                    self.last_fault = self.restored_at;
                    self.processes.values_mut().for_each(|process| process.registered = true);
                    self.want_first_pages();
                    self.find_tree()?;
                    self.status.reached(Moment::Restored);
                    self.hang_up()?;
                    return Ok(());
                }
                Message::Closed => {
                    self.journal.note(Record::Abandoned);
                    self.abandoned = true;
                    self.hang_up()?;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Asks for what should be there though nothing faults on it.
    fn want_first_pages(&mut self) {
        for (id, process) in &self.processes {
            let pages = process.first.iter().flat_map(|range| range_pages(*range));
            pages.for_each(|page| self.faults.push(*id, page, None));
        }
    }

    fn hang_up(&mut self) -> Result<()> {
        if let Some(connection) = &self.connection {
            self.epoll.delete(connection.as_fd())?;
        }
        Ok(())
    }

    /// A process that was not there before.
    fn adopt(&mut self, known: Known, uffd: Uffd) -> Result<()> {
        let id = ProcessId(self.next_process);
        self.next_process += 1;
        self.status.expected.fetch_add(known.space.missing_pages(), Relaxed);
        self.status.processes.fetch_add(1, Relaxed);
        self.watch(id, known, uffd)
    }

    fn watch(&mut self, id: ProcessId, known: Known, uffd: Uffd) -> Result<()> {
        let watched = self.epoll.add(uffd.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, id.0));
        self.guarded.sure(watched.with_context(|| format!("watching the userfaultfd of {}", known.name)))?;
        self.guarded.keep_uffd(id, &uffd);
        self.processes.insert(id, Process::new(id, known, uffd, self.journal.clone()));
        Ok(())
    }

    /// Closes a userfaultfd. The journal says so before: a number that it names is never another's.
    fn release(&mut self, id: ProcessId) -> Option<Process> {
        if let Some(process) = self.processes.get(&id) {
            self.guarded.let_go_of(id, &process.uffd);
        }
        self.journal.note(Record::Released(id));
        self.processes.remove(&id)
    }

    /// Reads every event that a process has for us and applies those that change its layout; its faults are queued. Returns how
    /// many were read.
    fn read_events(&mut self, id: ProcessId) -> Result<usize> {
        let mut total = 0;
        loop {
            let Some(process) = self.processes.get_mut(&id) else { return Ok(total) };
            let Batch { events, children } = process.read_events()?;
            if events.is_empty() {
                return Ok(total);
            }
            total += events.len();
            let mut moved = Moved::default();
            let mut forked = Vec::new();
            for event in events {
                process.apply(&event, &mut moved);
                match event {
                    Event::Fault { addr } => {
                        self.status.reached(Moment::FirstFault);
                        self.status.faults.fetch_add(1, Relaxed);
                        self.last_fault = Instant::now();
                        if let Some(page) = PageAddr::containing(addr) {
                            self.faults.push(id, page, Some(self.last_fault));
                        }
                    }
                    Event::Fork { fd } => forked.push(process.known().child(fd)),
                    _ => {}
                }
            }
            self.status.pages_dropped.fetch_add(moved.dropped, Relaxed);
            for (child, uffd) in forked.into_iter().zip(children) {
                tracing::debug!("{}: {} pages to come", child.name, child.space.missing_pages());
                self.adopt(child, uffd)?;
            }
        }
    }

    /// A process has exited, was killed, or executes another program: nobody waits for its pages any more.
    fn forget(&mut self, id: ProcessId) {
        if let Some(process) = self.release(id) {
            tracing::debug!("{} is gone", process.name);
            self.status.pages_dropped.fetch_add(process.space.missing_pages(), Relaxed);
        }
    }

    fn add(&self, class: Class, moved: Moved) {
        let counter = match class {
            Class::Fault => &self.status.pages_by_fault,
            Class::ReadAhead => &self.status.pages_read_ahead,
            Class::WorkingSet => &self.status.pages_by_working_set,
            Class::Transfer => &self.status.pages_by_transfer,
            Class::Zero => &self.status.pages_zero,
        };
        counter.fetch_add(moved.installed, Relaxed);
        self.status.pages_dropped.fetch_add(moved.dropped, Relaxed);
    }

    fn take_urgent(&mut self) -> Result<()> {
        self.urgent_left = true;
        for _ in 0..URGENT_PER_TURN {
            let Some(arrival) = self.fetcher.urgent() else {
                self.urgent_left = false;
                break;
            };
            match arrival {
                Arrival::Demanded(frame) => self.frame_demanded(frame)?,
                Arrival::Indexed => self.faults.indexed(),
                // Who waits goes on waiting.
                Arrival::GaveUp(frame) => self.give_up(frame)?,
                other => unreachable!("{other:?} does not come by the urgent way"),
            }
            self.answer_faults()?;
        }
        Ok(())
    }

    fn heartbeat(&mut self) -> Result<()> {
        if self.last_heartbeat.elapsed() < HEARTBEAT {
            return Ok(());
        }
        self.last_heartbeat = Instant::now();
        self.forget_gone();
        self.guarded.store().map(FdStore::flush);
        let (take_overs, guards) = self.guarded.take_overs();
        self.status.take_overs.store(take_overs, Relaxed);
        self.status.guards.store(guards, Relaxed);
        self.status.save(self.guarded.counters(SAVED));
        self.status.tasks.publish(self.processes.values().map(|p| (p.space.task(), p.space.missing_pages())));
        let hurry = self.orders.hurry.load(Relaxed);
        let enough = hurry || self.orders.stop_recording.load(Relaxed);
        if self.restored && self.recorder.as_ref().is_some_and(|r| enough || r.is_over(self.last_fault)) {
            self.end_recording();
        }
        if hurry && self.complete != Complete::Now {
            if self.complete == Complete::Never && !self.knows_places() {
                self.fetcher.load_placement();
            }
            self.complete = Complete::Now;
        }
        Ok(())
    }

    /// A trace that cannot be written is a pity, and no reason to let a process down.
    fn end_recording(&mut self) {
        if let Some(Err(error)) = self.recorder.take().map(Recorder::write) {
            tracing::error!("{error:#}");
        }
    }

    fn count(&self) {
        self.status.missing.store(self.processes.values().map(|p| p.space.missing_pages()).sum(), Relaxed);
        let (used, unused) = self.read_ahead.samples();
        self.status.read_ahead_used.store(used, Relaxed);
        self.status.read_ahead_unused.store(unused, Relaxed);
    }

    /// Whether a program that was just restored faults its way to its first reply, and the store is so near that what it waits for is a
    /// processor: then the transfer leaves it most of them. From a distance the transfer is what shortens the way: there faults wait for the network.
    fn is_rush(&self) -> bool {
        let nearby = self.fetcher.link().answer_time().is_none_or(|time| time < NEARBY);
        let since = self.restored_at.elapsed();
        nearby && since < LONGEST_RUSH && self.last_fault.elapsed() < CALM
    }

    /// Whether pages may be transferred that nothing has asked for.
    fn may_transfer(&self) -> bool {
        self.restored
            && !self.replay.under_way
            && self.recorder.is_none()
            && match self.complete {
                Complete::Now => true,
                Complete::Idle => self.last_fault.elapsed() >= IDLE,
                Complete::Never => false,
            }
    }
}

fn range_pages(range: PageRange) -> impl Iterator<Item = PageAddr> {
    (0..range.pages()).filter_map(move |page| range.start().checked_add(page))
}
