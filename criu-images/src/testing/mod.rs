//! Checkpoints written by hand, for tests: no CRIU, no process, any shape.
//!
//! ```
//! use criu_images::testing::{Dump, Pages, Task};
//! let dir = tempfile::tempdir().unwrap();
//! let task = Task::new(1).anonymous(0x1000_0000, 8).pages(Pages::here(0x1000_0000, 2));
//! Dump::new().task(task).write(&dir.path().join("dump")).unwrap();
//! ```

mod chain;

pub use chain::split_into_chain;

use crate::{
    PAGE_SIZE,
    bits::*,
    frame::{Kind, push_entry},
    messages::{
        CoreEntry, FileEntry, InventoryEntry, MmEntry, PagemapEntry, PagemapHead, PstreeEntry, RegFileEntry,
        TaskCoreEntry, VmaEntry,
    },
};
use prost::Message;
use std::{collections::BTreeMap, fs, io, ops::Range, os::unix::fs::symlink, path::Path};

/// PE_PARENT
pub const PARENT: u32 = 1;
/// PE_LAZY
pub const LAZY: u32 = 2;
/// PE_PRESENT
pub const PRESENT: u32 = 4;

/// How entries count their pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counting {
    /// CRIU before 3.5: no flags, `in_parent` only.
    V3,
    /// CRIU up to 4.1: field 2.
    V41,
    /// CRIU 4.2: field 5, and 0 in field 2.
    V42,
}

/// A checkpoint to be written.
#[derive(Debug, Clone)]
pub struct Dump {
    /// `inventory.img_version`
    pub image_version: u32,
    /// Of which CRIU its pagemaps are.
    pub counting: Counting,
    /// In the order of `pstree.img`.
    pub tasks: Vec<Task>,
    /// Shared segments: shmid and pages by offset.
    pub shared: Vec<(u64, Vec<Pages>)>,
    /// Regular files: id and path.
    pub files: Vec<(u32, String)>,
    /// Where the link `parent` points.
    pub parent: Option<String>,
}

/// A task to be written.
#[derive(Debug, Clone)]
pub struct Task {
    /// Virtual pid.
    pub pid: u32,
    /// 0 for the root.
    pub ppid: u32,
    /// Thread ids, without the first, which is the pid.
    pub threads: Vec<u32>,
    /// 1 alive, 2 dead, 3 stopped.
    pub state: u32,
    /// Program name.
    pub comm: String,
    /// Mappings.
    pub vmas: Vec<Vma>,
    /// `vma_entry.madv` of mappings, by where they start.
    pub advice: BTreeMap<u64, u64>,
    /// Pages, by address.
    pub pages: Vec<Pages>,
    /// Byte addresses of argv.
    pub args: Range<u64>,
    /// Byte addresses of the environment.
    pub env: Range<u64>,
}

/// A mapping to be written.
#[derive(Debug, Clone, Copy)]
pub struct Vma {
    /// Byte address.
    pub start: u64,
    /// Pages.
    pub pages: u64,
    /// `MAP_*`
    pub flags: u32,
    /// `VMA_AREA_*`
    pub status: u32,
    /// File or segment id.
    pub shmid: u64,
    /// Bytes.
    pub pgoff: u64,
}

/// An entry of a pagemap to be written.
#[derive(Debug, Clone, Copy)]
pub struct Pages {
    /// Byte address (offset in a segment).
    pub start: u64,
    /// Pages.
    pub pages: u64,
    /// `PE_*`
    pub flags: u32,
    /// Goes into the bytes of [`page`].
    pub generation: u8,
}

impl Pages {
    /// An entry.
    pub fn new(start: u64, pages: u64, flags: u32) -> Self {
        Self { start, pages, flags, generation: 0 }
    }
    /// Pages with bytes.
    pub fn here(start: u64, pages: u64) -> Self {
        Self::new(start, pages, PRESENT)
    }
}

/// The bytes that the page at `addr` of `owner` (pid or shmid) gets.
pub fn page(owner: u64, addr: u64, generation: u8) -> [u8; PAGE_SIZE as usize] {
    let mut page = [generation; PAGE_SIZE as usize];
    for (word, value) in page.chunks_exact_mut(8).zip([owner, addr]) {
        word.copy_from_slice(&value.to_le_bytes());
    }
    page
}

impl Task {
    /// A task that runs, without memory so far.
    pub fn new(pid: u32) -> Self {
        Self {
            pid,
            ppid: 0,
            threads: Vec::new(),
            state: 1,
            comm: format!("task-{pid}"),
            vmas: Vec::new(),
            advice: BTreeMap::new(),
            pages: Vec::new(),
            args: 0..0,
            env: 0..0,
        }
    }
    /// Adds private anonymous memory.
    pub fn anonymous(self, start: u64, pages: u64) -> Self {
        let flags = MAP_PRIVATE | MAP_ANONYMOUS;
        self.vma(Vma { start, pages, flags, status: 1 | STATUS_ANON_PRIVATE, shmid: 0, pgoff: 0 })
    }
    /// Adds a mapping.
    pub fn vma(mut self, vma: Vma) -> Self {
        self.vmas.push(vma);
        self
    }
    /// Adds an entry to its pagemap.
    pub fn pages(mut self, pages: Pages) -> Self {
        self.pages.push(pages);
        self
    }
}

impl Default for Dump {
    fn default() -> Self {
        Self::new()
    }
}

impl Dump {
    /// Without tasks.
    pub fn new() -> Self {
        let (tasks, shared, files) = Default::default();
        Self { image_version: 2, counting: Counting::V42, tasks, shared, files, parent: None }
    }
    /// Adds a task.
    pub fn task(mut self, task: Task) -> Self {
        self.tasks.push(task);
        self
    }
    /// Adds a shared segment.
    pub fn shared(mut self, shmid: u64, pages: Vec<Pages>) -> Self {
        self.shared.push((shmid, pages));
        self
    }

    /// Writes all images into the folder `dir`, which is made.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let put = |name: String, bytes: &[u8]| fs::write(dir.join(name), bytes);
        if let Some(parent) = &self.parent {
            symlink(parent, dir.join("parent"))?;
        }
        let inventory = InventoryEntry { img_version: self.image_version, fdinfo_per_id: Some(true) };
        put("inventory.img".into(), &image(Kind::INVENTORY, [inventory]))?;
        put("pstree.img".into(), &image(Kind::PSTREE, self.tasks.iter().map(Task::pstree)))?;
        if !self.files.is_empty() {
            put("files.img".into(), &image(Kind::FILES, self.files.iter().map(file)))?;
        }
        let mut pages_id = 0;
        for task in &self.tasks {
            put(format!("core-{}.img", task.pid), &image(Kind::CORE, [task.core(true)]))?;
            for tid in &task.threads {
                put(format!("core-{tid}.img"), &image(Kind::CORE, [task.core(false)]))?;
            }
            if task.state == 2 {
                continue;
            }
            pages_id += 1;
            put(format!("mm-{}.img", task.pid), &image(Kind::MM, [task.mm()]))?;
            put(format!("pagemap-{}.img", task.pid), &pagemap(self.counting, pages_id, &task.pages))?;
            put(format!("pages-{pages_id}.img"), &bytes(task.pid.into(), &task.pages))?;
        }
        for (shmid, pages) in &self.shared {
            pages_id += 1;
            put(format!("pagemap-shmem-{shmid}.img"), &pagemap(self.counting, pages_id, pages))?;
            put(format!("pages-{pages_id}.img"), &bytes(*shmid, pages))?;
        }
        Ok(())
    }
}

/// The image of a pagemap.
pub fn pagemap(counting: Counting, pages_id: u32, pages: &[Pages]) -> Vec<u8> {
    let mut image = image(Kind::PAGEMAP, [PagemapHead { pages_id }]);
    for p in pages {
        let old = counting != Counting::V42;
        let entry = PagemapEntry {
            vaddr: p.start,
            compat_nr_pages: if old { p.pages as u32 } else { 0 },
            in_parent: (counting == Counting::V3 && p.flags & PARENT != 0).then_some(true),
            flags: (counting != Counting::V3).then_some(p.flags),
            nr_pages: (!old).then_some(p.pages),
        };
        push_entry(&mut image, &entry.encode_to_vec());
    }
    image
}

impl Task {
    fn pstree(&self) -> PstreeEntry {
        let threads = [self.pid].iter().chain(&self.threads).copied().collect();
        PstreeEntry { pid: self.pid, ppid: self.ppid, pgid: self.pid, sid: self.pid, threads }
    }

    fn core(&self, first: bool) -> CoreEntry {
        let tc = TaskCoreEntry { task_state: self.state, comm: self.comm.clone().into_bytes(), ..Default::default() };
        CoreEntry { mtype: 1, tc: first.then_some(tc) }
    }

    fn mm(&self) -> MmEntry {
        let vma = |v: &Vma| VmaEntry {
            start: v.start,
            end: v.start + v.pages * PAGE_SIZE,
            pgoff: v.pgoff,
            shmid: v.shmid,
            prot: 3,
            flags: v.flags,
            status: v.status,
            fd: -1,
            madv: self.advice.get(&v.start).copied(),
            fdflags: None,
        };
        MmEntry {
            mm_arg_start: self.args.start,
            mm_arg_end: self.args.end,
            mm_env_start: self.env.start,
            mm_env_end: self.env.end,
            vmas: self.vmas.iter().map(vma).collect(),
            dumpable: Some(1),
            ..Default::default()
        }
    }
}

fn image<M: Message>(kind: Kind, messages: impl IntoIterator<Item = M>) -> Vec<u8> {
    let mut image = kind.header();
    for message in messages {
        push_entry(&mut image, &message.encode_to_vec());
    }
    image
}

fn file((id, path): &(u32, String)) -> FileEntry {
    let reg = RegFileEntry { id: *id, name: path.clone().into_bytes() };
    FileEntry { id: *id, reg: Some(reg), memfd: None }
}

/// The pages file of an owner.
fn bytes(owner: u64, pages: &[Pages]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for p in pages.iter().filter(|p| p.flags & PRESENT != 0) {
        for addr in (0..p.pages).map(|i| p.start + i * PAGE_SIZE) {
            bytes.extend_from_slice(&page(owner, addr, p.generation));
        }
    }
    bytes
}
