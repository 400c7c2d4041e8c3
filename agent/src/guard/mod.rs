//! The guard: a second process that keeps every userfaultfd open, and starts another agent when this one dies.
//!
//! When the last reference to a userfaultfd goes, memory that is missing reads as zeros, without a word. So there are two processes:
//! ```text
//!   pageferry-agent (the guard) ──clone(CLONE_FILES)──► pageferry-agent (the agent)
//!     waits for the agent to end                          engine, fetcher, everything
//!        │                                                   │
//!        └──── one table of descriptors: userfaultfds, sockets; header and journal, in shared memory ────┘
//! ```
//! * The **guard** is the process that the user started: its pid and exit code are the ones to know. It has one thread, waits in poll(2), and passes
//!   signals on. It reads nothing but its agent's death.
//! * The **agent** does the work, and writes what it learns to the `journal`. It watches the guard in turn, and makes another when it dies.
//! * When the agent dies, the guard starts this program anew in its own place (execve(2), so that nothing of what went wrong is left), with
//!   `--take-over`. That reads the journal, closes every descriptor that the journal does not name, and splits in two again. The new agent
//!   wakes all threads that wait, which fault anew, and goes on.
//!
//! What is shared needs no sending: a userfaultfd that a fork event brings is in the table of both by the time the event is read. What an event
//! says is in the journal by then, too; the `journal` says why.
//!
//! # What it does not survive
//! * The death of both within some milliseconds: the agent's until the guard has split again, or the guard's until the agent has made another.
//!   Whoever kills a whole control group or session (`systemctl kill`, an out-of-memory kill with memory.oom.group) kills both. Then what is
//!   missing reads as zeros. (With systemd, its fd store can hold the descriptors: [`crate::fd_store`], `docs/systemd.md`.)
//! * A page of the journal that the kernel is moving to another place in the very moment in which the agent is killed inside a read.
//! * Death before the agent listens: then nothing was restored, and nothing is lost.

mod header;
mod journal;
mod ledger;
mod stand_by;
mod take_over;
#[cfg(test)]
mod tests;

pub(crate) use header::Word;
pub(crate) use journal::{Journal, Record};
pub(crate) use ledger::{Known, Ledger};
pub use take_over::{Left, split_argument};

use crate::{
    criu_socket::{Connection, LazyPagesSocket, MAIL_WORDS, Mail, MailMemory},
    engine::ProcessId,
    fd_store::{FdStore, Role},
    uffd::{Twin, Uffd, split, split_off},
};
use anyhow::{Context, Result};
use header::{Header, Stage};
use nix::unistd::Pid;
use std::{
    ffi::{CString, OsString},
    os::{
        fd::{AsFd, AsRawFd, RawFd},
        unix::ffi::OsStringExt,
    },
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

/// This program.
const PROGRAM: &str = "/proc/self/exe";
/// The exit code of one that leaves everything to the next start. Not 0, after which systemd would start nothing and close what it holds, if somebody
/// else than itself has sent the signal; the unit in `contrib/systemd` has it started again. (EX_TEMPFAIL, sysexits.h)
const LEFT: u8 = 75;

/// How an agent is guarded, or that it is not. Cloning it shares it.
#[derive(Clone, Debug, Default)]
pub struct Guarded(Option<Guard>);

#[derive(Clone, Debug)]
struct Guard {
    header: Header,
    /// The command line, without what a take-over adds to it.
    args: Vec<OsString>,
    /// Holds the same descriptors, where there is one.
    store: FdStore,
}

/// Splits this process in two: returns in the agent, with what an agent before has left, if there was one. The guard never returns.
///
/// To be called before any thread is started. `args` is the command line, its first word the program. With `store`, what it holds is left, too:
/// `take_over` is the number of the header's descriptor either way.
pub fn guard(args: &[OsString], take_over: Option<RawFd>, store: &FdStore) -> Result<(Guarded, Option<Left>)> {
    match take_over {
        Some(fd) => {
            let read = || {
                let header = Header::inherit(fd)?;
                if header.stage() == Stage::Whole {
                    take_over::tidy_up(&header, store);
                }
                let left = Left::read(&header, store)?;
                Ok((header, left))
            };
            let (header, left) = read().unwrap_or_else(|error| take_over::hold(&error, store));
            // What was left must not be let go of.
            let divided = loop {
                match divide(header.clone(), args, store) {
                    Ok(divided) => break divided,
                    Err(error) => {
                        eprintln!("pageferry-agent: another agent cannot be started: {error:#}; trying again")
                    }
                }
                std::thread::sleep(Duration::from_secs(1));
            };
            Ok((divided, Some(left)))
        }
        None => Ok((divide(Header::create()?, args, store)?, None)),
    }
}

fn divide(header: Header, args: &[OsString], store: &FdStore) -> Result<Guarded> {
    let exec = stand_by::program(&header, args)?;
    let before = stand_by::block_signals()?;
    header.set(Word::Guard, std::process::id().into());
    match split().context("starting the guard's agent")? {
        Twin::First(agent) => stand_by::stand_by(&header, agent, stand_by::Agent::Child, &exec),
        Twin::Second => {
            stand_by::restore_signals(&before)?;
            header.lock();
            header.set(Word::Agent, std::process::id().into());
            Ok(Guarded(Some(Guard { header, args: args.to_vec(), store: store.clone() })))
        }
    }
}

impl Guarded {
    /// By nobody.
    pub fn by_nobody() -> Self {
        Self(None)
    }

    fn header(&self) -> Option<&Header> {
        self.0.as_ref().map(|guard| &guard.header)
    }

    /// The agent ends as it means to, and the guard with it.
    pub fn ends(&self, code: u8) {
        self.header().inspect(|header| header.ends(code));
    }

    /// Begins to write down what another agent would have to know.
    pub(crate) fn begin(&self, ledger: &Ledger) -> Result<Journal> {
        let Some(guard) = &self.0 else { return Ok(Journal::none()) };
        Journal::begin(&guard.header, ledger, &guard.store)
    }

    /// From here on another agent takes over when this one dies.
    pub(crate) fn listens(&self, socket: &LazyPagesSocket) {
        if let Some(Guard { header, store, .. }) = &self.0 {
            self.keep(Word::Listener, socket);
            self.keep(Word::Folder, &socket.dir());
            header.enter(Stage::Serving);
            // Once it is there, so is all that it names.
            store.put(header.as_fd(), Role::Header);
        }
    }

    /// From here on nobody's memory depends on this agent.
    pub(crate) fn is_done(&self) {
        self.header().inspect(|header| header.enter(Stage::Whole));
    }

    /// CRIU's connection.
    pub(crate) fn connected(&self, connection: &Connection) {
        self.keep(Word::Connection, connection);
    }

    /// A descriptor that another agent needs.
    pub(crate) fn keep(&self, word: Word, fd: &impl AsFd) {
        let Some(Guard { header, store, .. }) = &self.0 else { return };
        if let Some(role) = role(word) {
            store.put(fd.as_fd(), role);
        }
        header.set_fd(word, Some(fd.as_fd().as_raw_fd()));
    }

    /// A descriptor that was kept is of no use any more.
    pub(crate) fn let_go(&self, word: Word) {
        self.header().inspect(|header| header.set_fd(word, None));
    }

    /// A process's userfaultfd.
    pub(crate) fn keep_uffd(&self, id: ProcessId, uffd: &Uffd) {
        self.store().map(|store| store.put(uffd.as_fd(), Role::Process(id)));
    }

    /// It will be closed.
    pub(crate) fn let_go_of(&self, id: ProcessId, uffd: &Uffd) {
        self.store().inspect(|store| store.remove(uffd.as_fd().as_raw_fd(), Role::Process(id)));
    }

    /// systemd's, if it holds the descriptors, too.
    pub(crate) fn store(&self) -> Option<&FdStore> {
        self.0.as_ref().map(|guard| &guard.store).filter(|store| store.is_there())
    }

    /// Ends agent and guard at once, as systemd has all that the next start needs. Returns only if it has not.
    pub(crate) fn leave(&self) {
        if self.store().is_some_and(FdStore::is_dealt_with) {
            self.ends(LEFT);
            crate::uffd::leave(LEFT.into())
        }
    }

    /// Where CRIU's messages are read to.
    pub(crate) fn mail(&self) -> Mail {
        self.header().map_or_else(Mail::default, mail)
    }

    /// A flag that outlives this agent.
    pub(crate) fn raise(&self, word: Word) {
        self.header().inspect(|header| header.set(word, 1));
    }

    pub(crate) fn is_raised(&self, word: Word) -> bool {
        self.header().is_some_and(|header| header.get(word) != 0)
    }

    /// Words for what is counted, which go on with the next agent.
    pub(crate) fn counters(&self, count: usize) -> &[AtomicU64] {
        self.header().map_or(&[], |header| header.words(Word::Counters, count))
    }

    /// When the first agent of this restore started, if that was not this one.
    pub(crate) fn age(&self) -> Option<Duration> {
        let started = self.header()?.get(Word::Started);
        Some(Duration::from_nanos(header::now().saturating_sub(started)))
    }

    /// How often an agent has taken over, and how often a guard was made anew.
    pub(crate) fn take_overs(&self) -> (u64, u64) {
        self.header().map_or((0, 0), |header| (header.get(Word::TakeOvers), header.get(Word::Guards)))
    }

    /// The guard's pid.
    pub(crate) fn pid(&self) -> Option<u64> {
        Some(self.header()?.get(Word::Guard))
    }

    /// While memory of others is held, an error is no way out: whatever is dropped on it closes userfaultfds. Then this process ends here,
    /// and another agent tries again.
    pub(crate) fn sure<T, E: Into<anyhow::Error>>(&self, result: Result<T, E>) -> Result<T> {
        result.map_err(|error| {
            let error = error.into();
            self.die_of(&error);
            error
        })
    }

    /// Ends this process if another agent would take over: nothing is known to be right in one that has panicked.
    pub(crate) fn die_of(&self, error: &anyhow::Error) {
        if self.header().is_some_and(|header| header.stage() == Stage::Serving) {
            tracing::error!("{error:#}; another agent takes over");
            std::process::abort();
        }
    }

    /// Watches the guard, from a thread of its own, and makes another when it dies.
    pub(crate) fn watch(&self) -> Result<()> {
        let Some(guard) = self.0.clone() else { return Ok(()) };
        let watch = move || guard.watch();
        std::thread::Builder::new().name("guard".into()).spawn(watch).context("starting the guard's thread")?;
        Ok(())
    }
}

impl Guard {
    fn watch(&self) {
        let first = i32::try_from(self.header.get(Word::Guard)).unwrap_or(0);
        stand_by::wait_for(Pid::from_raw(first));
        loop {
            match self.replace() {
                Ok(child) => {
                    tracing::warn!("the guard process was gone; made another, process {child}");
                    let _ = nix::sys::wait::waitpid(child, None);
                }
                Err(error) => {
                    tracing::error!("the guard process is gone, and no other could be made: {error:#}; trying again");
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
        }
    }

    /// Makes another guard. It is a child of this process, and shares its descriptors as the first one did.
    fn replace(&self) -> Result<Pid> {
        let exec = stand_by::program(&self.header, &self.args)?;
        let agent = Pid::this();
        // The child begins with this thread's signals, and no handler of this process may run in it.
        let before = stand_by::block_signals()?;
        let child = split_off(|| stand_by::stand_by(&self.header, agent, stand_by::Agent::Parent, &exec));
        stand_by::restore_signals(&before)?;
        let child = child?;
        self.header.set(Word::Guard, child.as_raw().unsigned_abs().into());
        self.header.count(Word::Guards);
        Ok(child)
    }
}

impl MailMemory for Header {
    fn words(&self) -> &[AtomicU64; MAIL_WORDS] {
        self.words(Word::Mail, MAIL_WORDS).first_chunk().expect("of that length")
    }
}

fn mail(header: &Header) -> Mail {
    Mail::new(Arc::new(header.clone()))
}

/// What a word that names a descriptor is called in the fd store.
fn role(word: Word) -> Option<Role> {
    Some(match word {
        Word::Listener => Role::Listener,
        Word::Folder => Role::Folder,
        Word::Connection => Role::Connection,
        Word::Lifeline => Role::Lifeline,
        Word::Scratch => Role::Scratch,
        _ => return None,
    })
}

fn c_string(text: OsString) -> Result<CString> {
    CString::new(text.into_vec()).context("an argument with a zero byte")
}
