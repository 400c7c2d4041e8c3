//! The memory of restored tasks, compared with a dump byte for byte.

use std::{fs::File, os::unix::fs::FileExt, path::Path, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use criu_images::{ImageDir, PAGE_SIZE, PageRange, Stored};

use crate::Cell;

/// Pages compared at a time: 1 MiB.
const PIECE: u64 = 256;

/// `struct rseq` (include/uapi/linux/rseq.h) and its alignment. Each thread has one, into which the kernel writes the number
/// of the processor that the thread runs on: this alone differs after a restore, with CRIU's own as well.
const RSEQ_SIZE: usize = 32;

/// Compares every private page in the full dump `dir` with what the tasks in `cell` hold; gives their number. The tasks must be stopped (`criu
/// restore --leave-stopped`), and no page may be missing any more: `/proc/<pid>/mem` cannot wait for one.
pub fn compare_memory(dir: &Path, cell: &Cell) -> Result<u64> {
    let images = criu_images::Checkpoint::open(Arc::new(ImageDir::open(dir)?))?;
    let (mut compared, mut threads, mut rseqs) = (0, 0, 0);
    for task in &images.tasks {
        let Some(memory) = &task.memory else { continue };
        let pid = task.pid.get();
        threads += task.threads.len();
        let path = cell.proc(i32::try_from(pid)?).join("mem");
        let mem = File::open(&path).with_context(|| path.display().to_string())?;
        for run in &memory.runs {
            let Stored::Here { file, offset } = run.stored else { continue };
            for first in (0..run.range.pages()).step_by(PIECE as usize) {
                let pages = PIECE.min(run.range.pages() - first);
                let address = run.range.start().get() + first * PAGE_SIZE;
                let (mut dumped, mut held) = (bytes(pages), bytes(pages));
                images.read_pages(file, offset + first * PAGE_SIZE, &mut dumped)?;
                let read = mem.read_exact_at(&mut held, address);
                read.with_context(|| format!("task {pid}, {pages} pages from {address:#x} of {}", shown(run.range)))?;
                for page in 0..pages {
                    let bytes = (page * PAGE_SIZE) as usize..((page + 1) * PAGE_SIZE) as usize;
                    match difference(&dumped[bytes.clone()], &held[bytes]) {
                        Difference::None => {}
                        Difference::Rseq | Difference::TimeLeft => rseqs += 1,
                        Difference::At(byte) => {
                            bail!(
                                "task {pid} has other bytes than the dump from {:#x} on",
                                address + page * PAGE_SIZE + byte
                            )
                        }
                    }
                }
                compared += pages;
            }
        }
    }
    ensure!(rseqs <= threads, "{rseqs} pages differ a little, with {threads} threads only");
    Ok(compared)
}

enum Difference {
    None,
    /// Within what may be a thread's `struct rseq`.
    Rseq,
    /// The `struct timeval` of a select(2) that was interrupted: the kernel wrote back how much time was left.
    TimeLeft,
    /// From this byte of the page on.
    At(u64),
}

fn difference(dumped: &[u8], held: &[u8]) -> Difference {
    let differs = |n: &usize| dumped[*n] != held[*n];
    match ((0..dumped.len()).find(differs), (0..dumped.len()).rfind(differs)) {
        (None, _) | (_, None) => Difference::None,
        (Some(first), Some(last)) if first / RSEQ_SIZE == last / RSEQ_SIZE => Difference::Rseq,
        (Some(first), Some(last)) if is_time_left(dumped, held, first, last) => Difference::TimeLeft,
        (Some(first), _) => Difference::At(first as u64),
    }
}

/// A restored task goes on with the system call that it was dumped in. Where that is select(2), as in gunicorn's arbiter, the stop that
/// follows interrupts it, and what was one second in the dump is a little less in memory (fs/select.c, `poll_select_finish`).
fn is_time_left(dumped: &[u8], held: &[u8], first: usize, last: usize) -> bool {
    let at = first / 8 * 8;
    let microseconds = |bytes: &[u8]| {
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let (seconds, rest) = (number(at)?, number(at + 8)?);
        (seconds < 3600 && rest < 1_000_000).then(|| seconds * 1_000_000 + rest)
    };
    match (microseconds(dumped), microseconds(held)) {
        (Some(then), Some(now)) => last < at + 16 && now < then,
        _ => false,
    }
}

fn bytes(pages: u64) -> Vec<u8> {
    vec![0; (pages * PAGE_SIZE) as usize]
}

fn shown(range: PageRange) -> String {
    format!("{:#x}-{:#x}", range.start().get(), range.end())
}
