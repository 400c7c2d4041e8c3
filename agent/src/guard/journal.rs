//! What an agent knows of a restore, kept where the next agent finds it.
//!
//! ```text
//!   words      0..4: magic, bytes of the ledger, word where records begin, 0
//!              the ledger, as it was when this journal was begun
//!   records    4 words each: ours (kinds below 0x12) and the kernel's, struct uffd_msg (0x12 to 0x16); all zeros: the end
//! ```
//! **No event is lost between being read and being recorded, since it is read into its record.** A system call that is under way when its
//! process is killed finishes its copy to memory before the process dies, and nothing sleeps in userfaultfd_read between taking an event
//! off its queue and that copy (fs/userfaultfd.c), as the memory is present and locked. So every event that the kernel has handed
//! out is in the journal, in the order of reading, whenever the agent dies; and the descriptor that a fork event brings is in the
//! file table, which the guard shares, before the event is in the record.
//!
//! Everything else is written after it was done, and harmless to lose: a page that was put in place but is not recorded is put in place
//! again, which the kernel refuses (EEXIST).
//!
//! Records that say nothing (faults: who waits is woken by a take-over, and faults anew) are erased, backwards, so that at every moment
//! what stands before the first zero is whole. When a journal is half full, a new one begins, with a ledger of all that the old one said; one
//! store to the header's word makes it the current one.

use super::{
    header::{Header, Stage, Word},
    ledger::Ledger,
};
use crate::{
    engine::ProcessId,
    fd_store::{FdStore, Role},
    uffd::{Batch, FIRST_KIND, MESSAGE_WORDS, SharedMemory, Uffd},
};
use anyhow::{Context, Result, bail, ensure};
use criu_images::{PageAddr, PageRange, Pid};
use std::{
    os::fd::{AsFd, AsRawFd, RawFd},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

const MAGIC: u64 = u64::from_be_bytes(*b"journal1");
const HEAD_WORDS: usize = 4;
/// Room for records: 1 MiB, half of which is 16,384 of them. A garbage collector that gives memory back all the time fills it in minutes.
const RECORDS: usize = 32_768;
/// Events read by one system call.
const EVENTS_PER_READ: usize = 64;

/// What this agent did or learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// The messages that follow, up to the next record of ours, are events of this process.
    Reading(ProcessId),
    /// A task came from CRIU, with a userfaultfd of this number.
    /// It was the message of this number.
    Adopted { pid: Pid, fd: RawFd, mail: u64 },
    /// CRIU has finished: all mappings are registered.
    Restored,
    /// CRIU went away before.
    Abandoned,
    /// These pages are present, or can never be.
    Installed(ProcessId, PageRange),
    /// No event of this process was outstanding.
    Settled(ProcessId),
    /// This process needs nothing any more, or is gone.
    Released(ProcessId),
    /// An event, as the kernel wrote it.
    Event([u64; MESSAGE_WORDS]),
}

impl Record {
    fn encode(self) -> [u64; MESSAGE_WORDS] {
        match self {
            Self::Reading(id) => [1, id.0, 0, 0],
            Self::Adopted { pid, fd, mail } => [2, pid.get().into(), fd as u64, mail],
            Self::Restored => [3, 0, 0, 0],
            Self::Abandoned => [4, 0, 0, 0],
            Self::Installed(id, range) => [5, id.0, range.start().get(), range.pages()],
            Self::Settled(id) => [6, id.0, 0, 0],
            Self::Released(id) => [7, id.0, 0, 0],
            Self::Event(words) => words,
        }
    }

    /// `None` at the end of the journal.
    fn decode(words: [u64; MESSAGE_WORDS]) -> Result<Option<Self>> {
        let [head, a, b, c] = words;
        let id = ProcessId(a);
        let range = || PageAddr::new(b).and_then(|start| PageRange::new(start, c)).context("a range that is none");
        Ok(Some(match head.to_ne_bytes()[0] {
            0 => return Ok(None),
            1 => Self::Reading(id),
            2 => Self::Adopted {
                pid: u32::try_from(a).ok().and_then(Pid::new).context("a pid that is none")?,
                fd: RawFd::try_from(b)?,
                mail: c,
            },
            3 => Self::Restored,
            4 => Self::Abandoned,
            5 => Self::Installed(id, range()?),
            6 => Self::Settled(id),
            7 => Self::Released(id),
            FIRST_KIND.. => Self::Event(words),
            kind => bail!("a record of kind {kind}"),
        }))
    }
}

/// Where an agent writes what it does. Clones write to the same.
#[derive(Clone, Debug)]
pub(crate) struct Journal(Arc<Mutex<Writer>>);

#[derive(Debug)]
struct Writer {
    memory: Memory,
    /// Where the next record goes, in words.
    at: usize,
    /// Has what is in `memory`, too.
    store: FdStore,
    /// Where the last one stands that may still grow, and what it says.
    growing: Option<(usize, ProcessId, PageRange)>,
}

#[derive(Debug)]
enum Memory {
    /// Nobody is to take over: room for one reading, used again and again.
    Own(Vec<AtomicU64>),
    Shared(SharedMemory, Header),
}

impl Memory {
    fn words(&self) -> &[AtomicU64] {
        match self {
            Self::Own(words) => words,
            Self::Shared(memory, _) => memory.words(),
        }
    }
}

impl Journal {
    /// One that keeps nothing.
    pub(crate) fn none() -> Self {
        let words = (0..EVENTS_PER_READ * MESSAGE_WORDS).map(|_| AtomicU64::new(0)).collect();
        Self::writing(Memory::Own(words), 0, FdStore::default())
    }

    /// Begins one in shared memory, and names it in the header.
    pub(crate) fn begin(header: &Header, ledger: &Ledger, store: &FdStore) -> Result<Self> {
        let (memory, at) = shared(ledger)?;
        store.put(memory.as_fd(), Role::Journal);
        // Nobody waits for anything yet: systemd may have the time it takes.
        if !store.settle() {
            tracing::error!(
                "systemd does not take the journal: until it does, the death of agent and guard loses memory"
            );
        }
        name_in(header, &memory, store);
        Ok(Self::writing(Memory::Shared(memory, header.clone()), at, store.clone()))
    }

    fn writing(memory: Memory, at: usize, store: FdStore) -> Self {
        Self(Arc::new(Mutex::new(Writer { memory, at, store, growing: None })))
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Notes what was done.
    pub(crate) fn note(&self, record: Record) {
        self.writer().note(record);
    }

    /// Reads events of a process, straight into the journal.
    pub(crate) fn read_events(&self, id: ProcessId, uffd: &Uffd) -> Result<Batch, crate::uffd::Error> {
        self.writer().read_events(id, uffd)
    }

    /// Whether it is time for [`Journal::begin_anew`].
    pub(crate) fn is_half_full(&self) -> bool {
        let writer = self.writer();
        matches!(writer.memory, Memory::Shared(..)) && writer.room() < RECORDS / 2
    }

    /// Goes on in a new journal that begins with `ledger`. If there is no memory for one, the old one goes on.
    pub(crate) fn begin_anew(&self, ledger: &Ledger) -> Result<()> {
        let mut writer = self.writer();
        let Memory::Shared(_, header) = &writer.memory else { return Ok(()) };
        let (header, store) = (header.clone(), writer.store.clone());
        ensure!(store.flush(), "systemd is slow to take descriptors");
        let (memory, at) = shared(ledger)?;
        if !store.put(memory.as_fd(), Role::Journal) {
            store.remove(memory.as_fd().as_raw_fd(), Role::Journal);
            bail!("systemd is slow to take the journal");
        }
        name_in(&header, &memory, &store);
        // Dropping the old one comes after: a number that the header names is never closed.
        *writer = Writer { memory: Memory::Shared(memory, header), at, store, growing: None };
        Ok(())
    }
}

impl Writer {
    /// Records that still have room.
    fn room(&self) -> usize {
        (self.memory.words().len() - self.at) / MESSAGE_WORDS
    }

    fn note(&mut self, record: Record) {
        if matches!(self.memory, Memory::Own(_)) {
            return;
        }
        if let Record::Installed(id, range) = record
            && let Some((at, of, before)) = self.growing
            && of == id
            && before.end() == range.start().get()
            && let Some(both) = PageRange::new(before.start(), before.pages() + range.pages())
        {
            self.memory.words()[at + 3].store(both.pages(), SeqCst);
            self.growing = Some((at, id, both));
            return;
        }
        let at = self.at;
        if !self.put(record.encode()) {
            return;
        }
        self.growing = match record {
            Record::Installed(id, range) => Some((at, id, range)),
            _ => None,
        };
    }

    /// Appends a record. Its first word comes last: until then, the journal ends before it.
    fn put(&mut self, record: [u64; MESSAGE_WORDS]) -> bool {
        if self.room() < 2 {
            self.overflow();
            return false;
        }
        let words = &self.memory.words()[self.at..];
        for (word, value) in words.iter().zip(record).skip(1) {
            word.store(value, SeqCst);
        }
        words[0].store(record[0], SeqCst);
        self.at += MESSAGE_WORDS;
        true
    }

    /// There was no memory for a new journal for so long that the old one is full. From here on nothing is kept.
    fn overflow(&mut self) {
        if let Memory::Shared(_, header) = &self.memory {
            tracing::error!(
                "no memory for the guard's journal: if this agent dies, the processes wait for ever for what they lack"
            );
            header.enter(Stage::Holding);
        }
        let words = (0..EVENTS_PER_READ * MESSAGE_WORDS).map(|_| AtomicU64::new(0)).collect();
        (self.memory, self.at, self.growing) = (Memory::Own(words), 0, None);
    }

    fn read_events(&mut self, id: ProcessId, uffd: &Uffd) -> Result<Batch, crate::uffd::Error> {
        if matches!(self.memory, Memory::Shared(..)) && self.room() < EVENTS_PER_READ + 2 {
            self.overflow();
        }
        let (begin, growing) = (self.at, self.growing);
        self.note(Record::Reading(id));
        let room = &self.memory.words()[self.at..][..EVENTS_PER_READ * MESSAGE_WORDS];
        let batch = uffd.read_events(room)?;
        let end = self.at + batch.events.len() * MESSAGE_WORDS;
        let is_fault = |event: &crate::uffd::Event| matches!(event, crate::uffd::Event::Fault { .. });
        if matches!(self.memory, Memory::Own(_)) {
            return Ok(batch);
        }
        if batch.events.iter().all(is_fault) {
            self.erase(begin, end);
            self.growing = growing;
        } else {
            self.at = end;
        }
        Ok(batch)
    }

    /// Removes the last records, the very last first.
    fn erase(&mut self, begin: usize, end: usize) {
        let words = self.memory.words();
        for record in (begin..end).step_by(MESSAGE_WORDS).rev() {
            for word in &words[record..record + MESSAGE_WORDS] {
                word.store(0, SeqCst);
            }
        }
        self.at = begin;
    }
}

/// Makes it the current one.
fn name_in(header: &Header, memory: &SharedMemory, store: &FdStore) {
    let before = header.fd_of(Word::Journal);
    header.set_fd(Word::Journal, Some(memory.as_fd().as_raw_fd()));
    before.inspect(|before| store.remove(*before, Role::Journal));
}

/// New memory with a ledger in it, and where records begin.
fn shared(ledger: &Ledger) -> Result<(SharedMemory, usize)> {
    let bytes = ledger.encode()?;
    let records = HEAD_WORDS + bytes.len().div_ceil(8);
    let memory = SharedMemory::create(c"pageferry-journal", records + RECORDS * MESSAGE_WORDS)
        .context("making memory for the guard's journal")?;
    let words = memory.words();
    for (word, bytes) in words[HEAD_WORDS..].iter().zip(bytes.chunks(8)) {
        let mut padded = [0; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        word.store(u64::from_ne_bytes(padded), SeqCst);
    }
    words[1].store(bytes.len() as u64, SeqCst);
    words[2].store(records as u64, SeqCst);
    words[0].store(MAGIC, SeqCst);
    Ok((memory, records))
}

/// Reads a journal that an agent has left: the ledger that it began with, and the records after.
pub(super) fn read(memory: &SharedMemory) -> Result<(Ledger, Vec<Record>)> {
    let words = memory.words();
    let word = |at: usize| words.get(at).map_or(0, |word| word.load(SeqCst));
    let (length, records) = (usize::try_from(word(1))?, usize::try_from(word(2))?);
    ensure!(
        word(0) == MAGIC && (HEAD_WORDS + length.div_ceil(8) == records) && records <= words.len(),
        "not a journal of this version"
    );
    let bytes: Vec<u8> = (HEAD_WORDS..records).flat_map(|at| word(at).to_ne_bytes()).take(length).collect();
    let ledger = Ledger::decode(&bytes)?;
    let mut list = Vec::new();
    for chunk in words[records..].chunks_exact(MESSAGE_WORDS) {
        match Record::decode(std::array::from_fn(|at| chunk[at].load(SeqCst)))? {
            Some(record) => list.push(record),
            None => break,
        }
    }
    Ok((ledger, list))
}
