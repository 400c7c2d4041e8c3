//! What the agent and its guard tell each other: a page of words in memory that both have.

use crate::uffd::{self, SharedMemory};
use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, clock_gettime};
use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

/// Changes when a word, the journal or the ledger does: one version of the program does not take over from another.
const MAGIC: u64 = u64::from_be_bytes(*b"pferry01");
const WORDS: usize = 512;

/// The words, by what they are for. A word that names a descriptor is its number plus one, 0 for none.
#[derive(Clone, Copy, Debug)]
#[repr(usize)]
pub(crate) enum Word {
    Magic,
    /// [`Stage`].
    Stage,
    /// 256 plus the exit code, once the agent ends as it means to.
    Outcome,
    /// How often an agent took over from one that died.
    TakeOvers,
    /// How often a guard was made anew.
    Guards,
    /// Pids.
    Agent,
    Guard,
    /// CLOCK_MONOTONIC in nanoseconds: when the first agent started, when the last death was seen.
    Started,
    Died,
    /// And when an agent last took over; how many of them have died soon after that in a row.
    TookOver,
    Quick,
    /// Descriptors: the journal, the lazy-pages socket and the folder that it is in, CRIU's connection.
    Journal,
    Listener,
    Folder,
    Connection,
    /// Its read end hangs up when CRIU, which has the other, is gone; and a scratch folder.
    Lifeline,
    Scratch,
    /// A recording in a file, which a server is to have.
    Recording,
    /// Whether a signal has asked to complete all processes at once.
    Hurry,
    /// From here on: what was read of CRIU's message (a word, then a control message), and what is counted.
    Mail = 32,
    Counters = 64,
}

/// What the death of an agent means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Stage {
    /// It has no process's memory yet: there is nothing to take over.
    Starting = 0,
    /// Another has to take over.
    Serving = 1,
    /// What it knew cannot be kept any more, so nobody can take over; the userfaultfds have to stay open.
    Holding = 2,
    /// Every process has what it needs, or has ended: whatever is left to do, another only tidies up.
    Whole = 3,
}

/// The page. Cloning it shares it.
#[derive(Clone, Debug)]
pub(crate) struct Header(Arc<SharedMemory>);

impl Header {
    pub(crate) fn create() -> Result<Self> {
        let header = Self(Arc::new(SharedMemory::create(c"pageferry-guard", WORDS)?));
        header.set(Word::Magic, MAGIC);
        header.set(Word::Started, now());
        Ok(header)
    }

    /// The one that an agent before has left.
    pub(crate) fn inherit(fd: RawFd) -> Result<Self> {
        let memory = SharedMemory::open(uffd::inherited_fd(fd)?)?;
        ensure!(
            memory.words().len() >= WORDS && memory.words()[Word::Magic as usize].load(SeqCst) == MAGIC,
            "descriptor {fd} is not what another agent of this version has left"
        );
        Ok(Self(Arc::new(memory)))
    }

    /// Keeps it in memory: a process does not inherit that.
    pub(crate) fn lock(&self) {
        self.0.lock();
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }

    pub(crate) fn get(&self, word: Word) -> u64 {
        self.0.words()[word as usize].load(SeqCst)
    }

    pub(crate) fn set(&self, word: Word, value: u64) {
        self.0.words()[word as usize].store(value, SeqCst);
    }

    pub(crate) fn count(&self, word: Word) -> u64 {
        self.0.words()[word as usize].fetch_add(1, SeqCst) + 1
    }

    /// `count` words from `word` on.
    pub(crate) fn words(&self, word: Word, count: usize) -> &[AtomicU64] {
        &self.0.words()[word as usize..][..count]
    }

    pub(crate) fn set_fd(&self, word: Word, fd: Option<RawFd>) {
        self.set(word, fd.and_then(|fd| u64::try_from(fd + 1).ok()).unwrap_or(0));
    }

    pub(crate) fn fd_of(&self, word: Word) -> Option<RawFd> {
        RawFd::try_from(self.get(word)).ok()?.checked_sub(1).filter(|fd| *fd >= 0)
    }

    /// Takes over the descriptor that a word names, left by an agent before.
    pub(crate) fn inherit_fd(&self, word: Word) -> Result<Option<OwnedFd>> {
        let fd = self.fd_of(word).map(uffd::inherited_fd).transpose();
        fd.with_context(|| format!("taking over a descriptor ({word:?})"))
    }

    pub(crate) fn stage(&self) -> Stage {
        match self.get(Word::Stage) {
            0 => Stage::Starting,
            1 => Stage::Serving,
            3 => Stage::Whole,
            _ => Stage::Holding,
        }
    }

    pub(crate) fn enter(&self, stage: Stage) {
        self.set(Word::Stage, stage as u64);
    }

    /// The agent ends as it means to.
    pub(crate) fn ends(&self, code: u8) {
        self.set(Word::Outcome, 256 + u64::from(code));
    }

    /// It goes on after all: another start has what one that ended left.
    pub(crate) fn goes_on(&self) {
        self.set(Word::Outcome, 0);
        self.set(Word::Died, now());
    }

    pub(crate) fn outcome(&self) -> Option<i32> {
        self.get(Word::Outcome).checked_sub(256).map(|code| (code & 255) as i32)
    }
}

impl AsFd for Header {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// CLOCK_MONOTONIC in nanoseconds: the same for every process.
pub(crate) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}
