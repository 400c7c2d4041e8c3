//! The model of a checkpoint, whatever CRIU wrote it.

use crate::{ImageSource, PageRange, PagesFile, Pid, Result};
use std::sync::Arc;

/// A whole checkpoint ([`Checkpoint::open`]), read from its small images; page bytes stay where they are.
pub struct Checkpoint {
    /// Where its files are.
    pub source: Arc<dyn ImageSource>,
    /// `inventory.img_version`.
    pub image_version: u32,
    /// In the order of `pstree.img`.
    pub tasks: Vec<Task>,
    /// Shared memory segments (`pagemap-shmem-*.img`), by shmid.
    pub shared: Vec<SharedMemory>,
    /// Every pages file that a run names, parents' ones included; [`FileNumber`] is a position in it.
    pub pages_files: Vec<PagesFile>,
}

impl Checkpoint {
    /// The task of that pid.
    pub fn task(&self, pid: Pid) -> Option<&Task> {
        self.tasks.iter().find(|t| t.pid == pid)
    }
    /// Fills `buf` from byte `offset` of `file`; both came from a run of this checkpoint.
    pub fn read_pages(&self, file: FileNumber, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.pages_files[file.0 as usize].read_exact_at(buf, offset)
    }
}

/// The processor that a checkpoint is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// As Rust calls it: `x86_64`.
    X86_64,
    /// `aarch64`.
    Aarch64,
}

impl Machine {
    /// The name that `std::env::consts::ARCH` has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }
}

/// Position in [`Checkpoint::pages_files`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileNumber(pub u32);

/// What a task did when it was dumped (`core-*.img`, `tc.task_state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// Has memory and runs on.
    Alive,
    /// Stopped by a signal; has memory.
    Stopped,
    /// A zombie: no memory, no userfaultfd.
    Dead,
    /// A helper or undefined state: no memory.
    Other(u32),
}

/// One process.
#[derive(Debug, Clone)]
pub struct Task {
    /// Virtual pid.
    pub pid: Pid,
    /// Virtual pid of the parent; `None` for the root.
    pub parent: Option<Pid>,
    /// Thread ids, the leader's among them; empty for a dead task.
    pub threads: Vec<Pid>,
    /// What it did when it was dumped.
    pub state: TaskState,
    /// Name of the program, at most 15 bytes.
    pub comm: String,
    /// `None` for a dead task.
    pub memory: Option<Memory>,
}

/// The private memory of a task.
#[derive(Debug, Clone)]
pub struct Memory {
    /// Sorted by address, not overlapping.
    pub mappings: Vec<Mapping>,
    /// Every page that the dump knows of, sorted by address, not overlapping; a run lies in one mapping and is lazy as a
    /// whole or not at all.
    pub runs: Vec<PageRun>,
    /// `mm_arg_start .. mm_env_end`, in bytes: what the kernel reads for `/proc/<pid>/cmdline` and `environ`.
    pub args_and_env: std::ops::Range<u64>,
    /// `pages_id` of its pagemap.
    pub pages_id: u32,
}

/// One mapping (`mm-*.img`, `vmas`). Guard pseudo-mappings are left out.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// Addresses.
    pub range: PageRange,
    /// `PROT_*` bits.
    pub prot: u32,
    /// `MAP_*` bits.
    pub flags: u32,
    /// CRIU's status bits (`VMA_AREA_*`).
    pub status: u32,
    /// Offset in the mapped file or segment, in bytes.
    pub file_offset: u64,
    /// Segment id for shared anonymous memory, file id (in `files.img`/`reg-files.img`) for files, else 0.
    pub shmid: u64,
    /// The [`SharedMemory`] behind it, by its `shmid`, where it is shared memory or a memfd.
    pub segment: Option<u64>,
    /// Path of the mapped file where `files.img` (or `reg-files.img`) names it, `[heap]`-like names for special ones.
    pub name: Option<String>,
    /// Whether CRIU's restorer registers it with userfaultfd (`vma_entry_can_be_lazy`).
    pub can_be_lazy: bool,
    /// Whether a forked child finds zeros in it, whatever its parent has there (`MADV_WIPEONFORK`).
    pub wiped_on_fork: bool,
}

/// Neighbouring pages of one mapping, together in one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRun {
    /// Addresses.
    pub range: PageRange,
    /// Where the bytes are.
    pub stored: Stored,
    /// Whether a slim dump leaves it out: recomputed from the mapping, less argv and environment.
    pub lazy: bool,
    /// Whether the image has PE_LAZY on it: what `criu restore --lazy-pages` of *these* images will not load itself.
    pub marked_lazy: bool,
}

/// Where the bytes of a run are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// In a pages file of the checkpoint (or of a parent) from byte `offset`.
    Here {
        /// Which.
        file: FileNumber,
        /// Bytes from its beginning.
        offset: u64,
    },
    /// Not in these images: a slim dump's lazy page.
    Elsewhere,
}

/// A shared anonymous (or SysV, memfd, tmpfs) segment.
#[derive(Debug, Clone)]
pub struct SharedMemory {
    /// CRIU's id for it.
    pub shmid: u64,
    /// `pages_id` of its pagemap.
    pub pages_id: u32,
    /// Runs by *offset in the segment* (the `range` counts from 0).
    pub runs: Vec<PageRun>,
}
