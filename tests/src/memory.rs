//! The memory of restored tasks, compared with a dump byte for byte.

use std::{
    fs::{self, File},
    ops::Range,
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use criu_images::{ImageDir, PAGE_SIZE, PageRange, Pid, Stored};
use prost::Message;

use crate::Cell;

/// Pages compared at a time: 1 MiB.
const PIECE: u64 = 256;

/// `struct rseq` (include/uapi/linux/rseq.h) and its alignment. Each thread has one, into which the kernel writes the number
/// of the processor that the thread runs on: this alone differs after a restore, with CRIU's own as well.
const RSEQ_SIZE: usize = 32;
/// Below the stack pointer this much still belongs to a function (System V ABI, AMD64: "red zone"); what is lower is nobody's.
const RED_ZONE: u64 = 128;
/// How far below the stack pointer a signal may write: the registers of AVX-512 and AMX take 11 KiB.
const SIGNAL_FRAME: u64 = 16 << 10;

/// Compares every private page in the full dump `dir` with what the tasks in `cell` hold; gives their number. The tasks must be stopped (`criu
/// restore --leave-stopped`), and no page may be missing any more: `/proc/<pid>/mem` cannot wait for one.
pub fn compare_memory(dir: &Path, cell: &Cell) -> Result<u64> {
    let images = criu_images::Checkpoint::open(Arc::new(ImageDir::open(dir)?))?;
    let (mut compared, mut threads, mut rseqs) = (0, 0, 0);
    for task in &images.tasks {
        let Some(memory) = &task.memory else { continue };
        let pid = task.pid.get();
        let nobodys = below_stack(dir, task.pid)?;
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
                    let at = address + page * PAGE_SIZE;
                    let (dumped, held) = (&mut dumped[bytes.clone()], &mut held[bytes]);
                    part_within(dumped, at, &nobodys).fill(0);
                    part_within(held, at, &nobodys).fill(0);
                    match difference(dumped, held) {
                        Difference::None => {}
                        Difference::Rseq | Difference::TimeLeft => rseqs += 1,
                        Difference::At(byte) => {
                            bail!("task {pid} has other bytes than the dump from {:#x} on", at + byte)
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

/// Where a signal leaves its frame in the task's main thread. A task whose children are stopped gets SIGCHLD, perhaps before it is stopped
/// itself; if it handles that, as gunicorn's arbiter does, its registers are saved there (arch/x86/kernel/signal.c). CRIU's eager
/// restore shows the same, about once in fifteen.
fn below_stack(dir: &Path, pid: Pid) -> Result<Range<u64>> {
    let path = dir.join(format!("core-{}.img", pid.get()));
    let image = fs::read(&path).with_context(|| path.display().to_string())?;
    // Two magics, the length of the message, the message.
    let core = image.get(12..).and_then(|message| Core::decode(message).ok());
    let sp = core.and_then(|core| Some(core.thread_info?.registers?.sp)).filter(|sp| *sp > SIGNAL_FRAME);
    let end = sp.with_context(|| format!("{}: no stack pointer", path.display()))? - RED_ZONE;
    Ok(end - SIGNAL_FRAME..end)
}

/// The part of a page at `address` that lies in `range`.
fn part_within<'a>(page: &'a mut [u8], address: u64, range: &Range<u64>) -> &'a mut [u8] {
    let within = |at: u64| at.saturating_sub(address).min(PAGE_SIZE) as usize;
    &mut page[within(range.start)..within(range.end)]
}

/// Of `core_entry` (images/core.proto) what is needed here.
#[derive(Message)]
struct Core {
    #[prost(message, tag = "2")]
    thread_info: Option<ThreadInfo>,
}

/// Of `thread_info_x86` (images/core-x86.proto).
#[derive(Message)]
struct ThreadInfo {
    #[prost(message, tag = "2")]
    registers: Option<Registers>,
}

/// Of `user_x86_regs_entry`.
#[derive(Message)]
struct Registers {
    #[prost(uint64, tag = "20")]
    sp: u64,
}

enum Difference {
    None,
    /// Within what may be a thread's `struct rseq`.
    Rseq,
    /// The `struct timespec` of a select(2) that was interrupted: the kernel wrote back how much time was left.
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
/// follows interrupts it, and what was one second in the dump is a little less in memory (fs/select.c, `poll_select_finish`; glibc's select is the system call pselect6,
/// which counts in nanoseconds).
fn is_time_left(dumped: &[u8], held: &[u8], first: usize, last: usize) -> bool {
    let at = first / 8 * 8;
    let nanoseconds = |bytes: &[u8]| {
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let (seconds, rest) = (number(at)?, number(at + 8)?);
        (seconds < 3600 && rest < 1_000_000_000).then(|| seconds * 1_000_000_000 + rest)
    };
    match (nanoseconds(dumped), nanoseconds(held)) {
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
