//! Reads a checkpoint: all images that say what it is, none that says what is in its pages.

use crate::{
    Checkpoint, Error, ImageSource, Machine, Memory, Pid, Result, SharedMemory, Task, TaskState,
    chain::{Chain, Piece},
    frame::{Entries, Kind},
    lazy::KeepEager,
    mapping,
    messages::{
        self, CORE_ENTRY, CoreEntry, INVENTORY_ENTRY, InventoryEntry, MM_ENTRY, MmEntry, PSTREE_ENTRY, PstreeEntry,
    },
    names::FileNames,
    runs,
};
use std::{collections::BTreeSet, sync::Arc};

impl Checkpoint {
    /// Reads and checks everything but page bytes.
    ///
    /// A slim dump (lazy entries without bytes, with or without tripwire) opens too: its lazy runs are
    /// [`Stored::Elsewhere`](crate::Stored::Elsewhere). Every pages file is held open: one descriptor per task and shared
    /// segment, and as many again per parent.
    pub fn open(source: Arc<dyn ImageSource>) -> Result<Self> {
        if source.open("cipher.img")?.is_some() {
            return Err(Error::unsupported(source.describe("cipher.img"), "encrypted images (criu dump --encrypt)"));
        }
        let image_version = inventory(&*source)?;
        let mut chain = Chain::open(source.clone())?;
        for parent in &chain.sources()[1..] {
            inventory(&**parent)?;
        }
        let names = FileNames::read(&*source)?;
        let mut tasks = Vec::new();
        for (pid, entry) in pstree(&*source)? {
            tasks.push(task(&*source, &mut chain, &names, pid, &entry)?);
        }
        let shared = shared(&*source, &mut chain)?;
        Ok(Self { source, image_version, tasks, shared, pages_files: chain.files })
    }

    /// The processor that it is of, as the first task's core image says.
    pub fn machine(&self) -> Result<Machine> {
        let Some(task) = self.tasks.first() else {
            return Err(Error::corrupt(self.source.describe("pstree.img"), "tasks", "no task in it"));
        };
        let (file, core) = core(&*self.source, task.pid.get())?;
        match core.mtype {
            1 => Ok(Machine::X86_64),
            3 => Ok(Machine::Aarch64),
            other => Err(Error::unsupported(file, format_args!("a checkpoint of an unknown machine (mtype {other})"))),
        }
    }
}

/// The bytes of an image that must be there, and its path for messages.
fn required(source: &dyn ImageSource, name: &str) -> Result<(String, Vec<u8>)> {
    let file = source.describe(name);
    match source.read(name)? {
        Some(bytes) => Ok((file, bytes)),
        None => Err(Error::io(file, std::io::ErrorKind::NotFound)),
    }
}

/// Checks the inventory and gives its image version.
fn inventory(source: &dyn ImageSource) -> Result<u32> {
    let (file, bytes) = required(source, "inventory.img")?;
    let mut entries = Entries::new(&file, &bytes, Kind::INVENTORY)?;
    let entry: InventoryEntry = messages::decode(&file, &entries.expect("inventory_entry")?, &INVENTORY_ENTRY)?;
    entries.finish()?;
    match entry.img_version {
        version @ 1..=2 => Ok(version),
        3 => Err(Error::unsupported(file, "image version 3: LZ4-compressed pages")),
        version => Err(Error::unsupported(file, format_args!("image version {version}"))),
    }
}

fn pstree(source: &dyn ImageSource) -> Result<Vec<(Pid, PstreeEntry)>> {
    let file = source.describe("pstree.img");
    let Some(bytes) = source.read("pstree.img")? else {
        let what = "missing: not a whole checkpoint (a `criu pre-dump` is only good as a parent)";
        return Err(Error::unsupported(file, what));
    };
    let mut pids = BTreeSet::new();
    let mut tasks = Vec::new();
    for entry in Entries::new(&file, &bytes, Kind::PSTREE)? {
        let entry = entry?;
        let task: PstreeEntry = messages::decode(&file, &entry, &PSTREE_ENTRY)?;
        let place = || format!("entry {} at byte {}", entry.number, entry.offset);
        let pid =
            Pid::new(task.pid).ok_or_else(|| Error::corrupt(&file, place(), format_args!("no pid: {}", task.pid)))?;
        if !pids.insert(pid) {
            return Err(Error::corrupt(&file, place(), format_args!("pid {pid} for a second time")));
        }
        tasks.push((pid, task));
    }
    if tasks.is_empty() {
        return Err(Error::corrupt(file, format_args!("byte {}", bytes.len()), "no task in it"));
    }
    Ok(tasks)
}

fn task(source: &dyn ImageSource, chain: &mut Chain, names: &FileNames, pid: Pid, entry: &PstreeEntry) -> Result<Task> {
    let (core_file, core) = core(source, pid.get())?;
    let Some(tc) = core.tc else {
        return Err(Error::corrupt(
            core_file,
            "core_entry",
            "tc is missing, so this is not the first thread of a task",
        ));
    };
    // compel/include/uapi/task-state.h; a zombie is written as dead.
    let state = match tc.task_state {
        1 => TaskState::Alive,
        2 | 6 => TaskState::Dead,
        3 => TaskState::Stopped,
        other => TaskState::Other(other),
    };
    let lives = matches!(state, TaskState::Alive | TaskState::Stopped);
    let mut threads = Vec::new();
    let mut seen = BTreeSet::new();
    // CRIU leaves a thread id of chance in the entry of a zombie.
    for &tid in entry.threads.iter().filter(|_| lives) {
        let bad =
            || Error::corrupt(source.describe("pstree.img"), format_args!("pid {pid}"), format_args!("thread {tid}"));
        let tid = Pid::new(tid).filter(|tid| seen.insert(*tid)).ok_or_else(bad)?;
        if tid != pid {
            self::core(source, tid.get())?;
        }
        threads.push(tid);
    }
    if lives && !seen.contains(&pid) {
        threads.insert(0, pid);
    }
    Ok(Task {
        pid,
        parent: Pid::new(entry.ppid),
        threads,
        state,
        comm: String::from_utf8_lossy(&tc.comm).into_owned(),
        memory: if lives { Some(memory(source, chain, names, pid)?) } else { None },
    })
}

fn core(source: &dyn ImageSource, tid: u32) -> Result<(String, CoreEntry)> {
    let (file, bytes) = required(source, &format!("core-{tid}.img"))?;
    let mut entries = Entries::new(&file, &bytes, Kind::CORE)?;
    let core: CoreEntry = messages::decode(&file, &entries.expect("core_entry")?, &CORE_ENTRY)?;
    entries.finish()?;
    let others = ["", "", "32-bit ARM", "", "ppc64", "s390", "MIPS", "LoongArch", "RISC-V"];
    match core.mtype {
        1 | 3 => Ok((file, core)),
        other => {
            let name = others.get(other as usize).filter(|n| !n.is_empty()).map_or("an unknown machine", |n| n);
            Err(Error::unsupported(file, format_args!("a checkpoint of {name} (mtype {other})")))
        }
    }
}

fn memory(source: &dyn ImageSource, chain: &mut Chain, names: &FileNames, pid: Pid) -> Result<Memory> {
    let (file, bytes) = required(source, &format!("mm-{pid}.img"))?;
    let mut entries = Entries::new(&file, &bytes, Kind::MM)?;
    let mm: MmEntry = messages::decode(&file, &entries.expect("mm_entry")?, &MM_ENTRY)?;
    entries.finish()?;
    let old = format!("vmas-{pid}.img");
    if mm.vmas.is_empty() && source.open(&old)?.is_some() {
        return Err(Error::unsupported(source.describe(&old), "mappings in an image of their own (CRIU 1.x)"));
    }
    let mappings = mapping::mappings(&file, &mm, names)?;
    let keep = KeepEager::new([mm.mm_arg_start..mm.mm_arg_end, mm.mm_env_start..mm.mm_env_end]);
    let name = format!("pagemap-{pid}.img");
    let flat = chain.flatten(&name)?.ok_or_else(|| Error::io(source.describe(&name), std::io::ErrorKind::NotFound))?;
    let args_and_env = match mm.mm_arg_start <= mm.mm_env_end {
        true => mm.mm_arg_start..mm.mm_env_end,
        false => 0..0,
    };
    Ok(Memory { runs: runs::runs(&flat.pieces, &mappings, &keep), mappings, args_and_env, pages_id: flat.pages_id })
}

fn shared(source: &dyn ImageSource, chain: &mut Chain) -> Result<Vec<SharedMemory>> {
    let mut shared = Vec::new();
    for name in source.names()? {
        let id = name.strip_prefix("pagemap-shmem-").and_then(|rest| rest.strip_suffix(".img"));
        let Some(id) = id else { continue };
        // Written as an unsigned long; anything else is not CRIU's.
        let Some(shmid) = id.parse().ok().filter(|shmid: &u64| shmid.to_string() == id) else {
            return Err(Error::corrupt(source.describe(&name), "name", format_args!("no segment is called {id}")));
        };
        let Some(flat) = chain.flatten(&name)? else { continue };
        // CRIU never restores shared memory lazily, whatever its entries are marked with.
        let elsewhere = |p: &&Piece| p.stored == crate::Stored::Elsewhere;
        if let Some(piece) = flat.pieces.iter().find(elsewhere) {
            let problem = format!("{} of a shared segment has no bytes", piece.range);
            return Err(Error::corrupt(source.describe(&name), "pagemap", problem));
        }
        let runs = runs::runs(&flat.pieces, &[], &KeepEager::default());
        shared.push(SharedMemory { shmid, pages_id: flat.pages_id, runs });
    }
    shared.sort_unstable_by_key(|segment| segment.shmid);
    Ok(shared)
}
