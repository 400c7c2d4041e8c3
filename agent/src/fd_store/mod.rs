//! systemd's file descriptor store (`FDSTORE=1`, sd_notify(3)): a guard that outlives agent and guard both.
//!
//! systemd keeps a copy of whatever descriptor a service sends it, and hands all of them to the service's next start. So what the guard's table
//! of descriptors holds for the death of one process, the store holds for the death of the two, and for an upgrade, which ends both:
//! ```text
//!   agent ──FDSTORE=1, FDNAME=fd<number>.<role>──► systemd ──LISTEN_FDS, LISTEN_FDNAMES──► the next start
//! ```
//! * **The number is in the name**, as header and journal name descriptors by number: the next start moves each to its own (`listed`), and goes
//!   on as after the death of an agent.
//! * **The role is in the name**, the process's id for a userfaultfd, as numbers are used again: one that is stored under another role than the
//!   journal says is not what the journal means.
//! * Messages go in order and never wait: what the socket has no room for stays in a queue, and goes with the next heartbeat.
//! * A descriptor is stored *before* header or journal name it, wherever there is a choice, and removed before its number can be another's.
//!
//! While systemd holds the copy of a userfaultfd that nobody reads any more, a fork of its process waits. So a removal is not put off.

mod listed;
mod notify;
#[cfg(test)]
mod tests;

use crate::engine::ProcessId;
use notify::{Notify, Outcome};
use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

/// How long systemd may take for what has to be known to be done. It answers within milliseconds, unless it is itself in trouble.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a stored descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The userfaultfd of a process.
    Process(ProcessId),
    Header,
    Journal,
    Listener,
    Folder,
    Connection,
    Lifeline,
    Scratch,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Process(id) => return write!(f, "p{}", id.0),
            Self::Header => "header",
            Self::Journal => "journal",
            Self::Listener => "listener",
            Self::Folder => "folder",
            Self::Connection => "connection",
            Self::Lifeline => "lifeline",
            Self::Scratch => "scratch",
        })
    }
}

fn name(number: RawFd, role: Role) -> String {
    format!("fd{number}.{role}")
}

/// The store of this service, or none. Cloning it shares it.
#[derive(Clone, Debug, Default)]
pub struct FdStore(Option<Arc<Mutex<State>>>);

#[derive(Debug)]
struct State {
    notify: Notify,
    /// What could not be sent yet.
    queue: VecDeque<(String, Option<OwnedFd>)>,
    /// Names that are stored, or will be once the queue is empty.
    kept: BTreeSet<String>,
    /// Names under which an earlier run has left something.
    listed: BTreeSet<String>,
    /// Whether this run began with those.
    resumed: bool,
    /// Whether the log has told that something could not be sent.
    complained: bool,
}

impl FdStore {
    /// The one that the environment names. Descriptors that it has for us are at their numbers from here on; the header's is the second value.
    ///
    /// To be called before this program opens anything; `is_first` unless a guard started it, which has put everything in place before.
    pub fn open(is_first: bool) -> anyhow::Result<(Self, Option<RawFd>)> {
        let notify = Notify::from_env()?;
        let listed = if is_first { listed::names()? } else { Vec::new() };
        let header = listed::put_in_place(&listed)?;
        Ok((Self::new(notify, listed.into_iter().map(|(_, name)| name).collect(), header.is_some()), header))
    }

    fn new(notify: Notify, listed: BTreeSet<String>, resumed: bool) -> Self {
        let (queue, kept) = (VecDeque::new(), BTreeSet::new());
        Self(Some(Arc::new(Mutex::new(State { notify, queue, kept, listed, resumed, complained: false }))))
    }

    #[cfg(test)]
    fn to(address: &std::ffi::OsStr, listed: BTreeSet<String>) -> anyhow::Result<Self> {
        Ok(Self::new(Notify::to(address)?, listed, true))
    }

    fn state(&self) -> Option<MutexGuard<'_, State>> {
        Some(self.0.as_ref()?.lock().unwrap_or_else(|e| e.into_inner()))
    }

    /// Whether there is one.
    pub(crate) fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// Whether this run began with what the store had.
    pub(crate) fn is_resumed(&self) -> bool {
        self.state().is_some_and(|state| state.resumed)
    }

    /// Whether this run began with what the store had, and this was not in it.
    pub(crate) fn lacks(&self, number: RawFd, role: Role) -> bool {
        self.state().is_some_and(|state| state.resumed && !state.listed.contains(&name(number, role)))
    }

    /// Stores a descriptor under its number. `false` if that has to wait.
    pub(crate) fn put(&self, fd: BorrowedFd<'_>, role: Role) -> bool {
        let Some(mut state) = self.state() else { return true };
        let name = name(fd.as_raw_fd(), role);
        if state.kept.insert(name.clone()) {
            state.send(format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"), Some(fd));
        }
        state.queue.is_empty()
    }

    /// Removes a descriptor, which may be closed already.
    pub(crate) fn remove(&self, number: RawFd, role: Role) {
        if let Some(mut state) = self.state() {
            state.remove(&name(number, role));
        }
    }

    /// Sends what is left to send, without waiting. Whether nothing is left.
    pub(crate) fn flush(&self) -> bool {
        self.state().is_none_or(|mut state| state.flush())
    }

    /// Waits until all was sent, but not for ever.
    pub(crate) fn settle(&self) -> bool {
        let start = Instant::now();
        while !self.flush() {
            if start.elapsed() > PATIENCE {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// Waits until systemd has dealt with all that was sent: messages of a process that is gone by then may be lost (sd_notify(3)).
    pub(crate) fn is_dealt_with(&self) -> bool {
        self.settle() && self.state().is_none_or(|state| state.notify.barrier(PATIENCE))
    }

    /// All that this run needs is stored: what else an earlier one has left may go. And whoever waits for the service to be up may go on.
    pub(crate) fn ready(&self) {
        let Some(mut state) = self.state() else { return };
        let old: Vec<_> =
            std::mem::take(&mut state.listed).into_iter().filter(|name| !state.kept.contains(name)).collect();
        old.iter().for_each(|name| state.remove(name));
        state.send("READY=1".into(), None);
    }

    /// The service is up, but this is all that can be said for it.
    pub(crate) fn ready_but(&self, status: &str) {
        let line = status.replace('\n', " ");
        if let Some(mut state) = self.state() {
            state.send(format!("READY=1\nSTATUS={line}"), None);
        }
    }

    /// All was done before this run began. One that ends before it was ready has failed, says systemd, and starts another.
    pub(crate) fn is_over(&self) {
        self.ready_but("everything was done already");
        self.clear();
    }

    /// Nothing in the store is of use any more.
    pub(crate) fn clear(&self) {
        let Some(mut state) = self.state() else { return };
        let names: BTreeSet<_> = state.kept.iter().chain(&state.listed).cloned().collect();
        state.listed.clear();
        // The header last: without it, the next start begins anew.
        let is_header = |name: &&String| name.ends_with(&format!(".{}", Role::Header));
        names.iter().filter(|name| !is_header(name)).for_each(|name| state.remove(name));
        names.iter().filter(is_header).for_each(|name| state.remove(name));
        state.send("STOPPING=1".into(), None);
        drop(state);
        if !self.is_dealt_with() {
            tracing::warn!("systemd may still hold descriptors of this service: it did not answer");
        }
    }
}

impl State {
    fn remove(&mut self, name: &str) {
        self.kept.remove(name);
        self.send(format!("FDSTOREREMOVE=1\nFDNAME={name}"), None);
    }

    /// Sends a message, after those that wait.
    fn send(&mut self, text: String, fd: Option<BorrowedFd<'_>>) {
        if self.flush() && self.try_send(&text, fd) {
            return;
        }
        match fd.map(|fd| fd.try_clone_to_owned()).transpose() {
            Ok(fd) => self.queue.push_back((text, fd)),
            Err(error) => tracing::error!("not in the fd store: {text:?}: {error}"),
        }
    }

    fn flush(&mut self) -> bool {
        while let Some((text, fd)) = self.queue.pop_front() {
            if !self.try_send(&text, fd.as_ref().map(|fd| fd.as_fd())) {
                self.queue.push_front((text, fd));
                return false;
            }
        }
        true
    }

    fn try_send(&mut self, text: &str, fd: Option<BorrowedFd<'_>>) -> bool {
        match self.notify.send(text, fd) {
            Outcome::Sent => {
                self.complained = false;
                return true;
            }
            Outcome::Full => {}
            Outcome::Failed(_) if self.complained => {}
            Outcome::Failed(errno) => {
                tracing::warn!("systemd does not take descriptors for its fd store ({errno}); trying again");
                self.complained = true;
            }
        }
        false
    }
}
