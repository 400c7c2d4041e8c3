//! Where the memory of a task is, and the checkpoint that says so.

use super::content::{GIANT, Kind, PAGE, Region, SHARED};
use criu_images::testing::{Dump, LAZY, PRESENT, Pages, Task};
use std::{fs::File, io, io::BufWriter, io::Write, path::Path};

/// Tasks with memory. A dead one is in the checkpoint besides.
pub const TASKS: u32 = 2;
/// Threads of a task that change memory.
pub const THREADS: u32 = 4;
/// Pages of memory of each thread.
pub const REGION_PAGES: u32 = 2048;
const SHARED_PAGES: u32 = 1024;
const GIB: u64 = 1 << 30;
/// The giant region: longer than a 32-bit number of bytes, in any sign.
pub const GIANT_BYTES: u64 = 9 * GIB;
/// Its stored pages are this far from each other.
pub const GIANT_STEP: u64 = GIB / 2;

/// The pid in the images. One is 1, as in a container: then the agent does not look for a clash with real pids, which these
/// are not.
pub fn pid(task: u32) -> u32 {
    task + 1
}

/// Of the task that was dead when it was dumped.
pub const DEAD_PID: u32 = TASKS + 1;

/// A mapping that CRIU would register.
#[derive(Clone, Copy, Debug)]
pub struct Mapping {
    pub region: Region,
    pub start: u64,
    pub bytes: u64,
}

/// The lazy mappings of a task, by address.
pub fn mappings(task: u32) -> Vec<Mapping> {
    let mapping = |number, start, pages: u32| Mapping {
        region: Region { task, number },
        start,
        bytes: u64::from(pages) * PAGE as u64,
    };
    let mut all: Vec<_> =
        (0..THREADS).map(|thread| mapping(thread, 0x10_0000_0000 + u64::from(thread) * GIB, REGION_PAGES)).collect();
    all.push(mapping(SHARED, 0x20_0000_0000, SHARED_PAGES));
    let region = Region { task, number: GIANT };
    all.push(Mapping { region, start: 0x30_0000_0000, bytes: GIANT_BYTES });
    all
}

impl Mapping {
    pub fn pages(&self) -> u64 {
        self.bytes / PAGE as u64
    }

    /// The dumped pages as (address, number in the region).
    fn dumped(&self) -> Vec<(u64, u32)> {
        let step = if self.region.number == GIANT { GIANT_STEP } else { PAGE as u64 };
        (0..(self.bytes / step) as u32)
            .filter(|page| self.region.kind(*page) != Kind::Absent)
            .map(|page| (self.start + u64::from(page) * step, page))
            .collect()
    }
}

/// Writes the checkpoint into the folder `dir`.
pub fn write_checkpoint(dir: &Path) -> io::Result<()> {
    let mut dump = Dump::new();
    for task in 0..TASKS {
        let mut image = Task::new(pid(task));
        image.ppid = u32::from(task > 0);
        image.threads = (0..THREADS).map(|thread| 1000 + task * THREADS + thread).collect();
        for mapping in mappings(task) {
            image = image.anonymous(mapping.start, mapping.pages());
            let mut run: Option<Pages> = None;
            for (addr, _) in mapping.dumped() {
                // CRIU's entries have 1024 pages at most.
                match &mut run {
                    Some(run) if run.start + run.pages * PAGE as u64 == addr && run.pages < 1024 => run.pages += 1,
                    run => {
                        image.pages.extend(run.take());
                        *run = Some(Pages::new(addr, 1, PRESENT | LAZY));
                    }
                }
            }
            image.pages.extend(run);
        }
        dump = dump.task(image);
    }
    let mut dead = Task::new(DEAD_PID);
    (dead.ppid, dead.state) = (1, 2);
    dump.task(dead).write(dir)?;
    // The bytes that matter here, in place of those that were written.
    for task in 0..TASKS {
        let mut file = BufWriter::new(File::create(dir.join(format!("pages-{}.img", task + 1)))?);
        for mapping in mappings(task) {
            for (_, page) in mapping.dumped() {
                file.write_all(&mapping.region.bytes(page))?;
            }
        }
        file.flush()?;
    }
    Ok(())
}
