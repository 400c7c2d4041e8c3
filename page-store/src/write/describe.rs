//! What a manifest says about a checkpoint.

use super::place::Counts;
use crate::{TaskEntry, Totals};
use criu_images::{Checkpoint, PageRun, Task, TaskState};

fn pages<'a>(runs: impl IntoIterator<Item = &'a PageRun>) -> u64 {
    runs.into_iter().map(|run| run.range.pages()).sum()
}

fn runs(task: &Task) -> impl Iterator<Item = &PageRun> {
    task.memory.iter().flat_map(|memory| &memory.runs)
}

/// The tasks, in the order of `pstree.img`.
pub(crate) fn task_entries(checkpoint: &Checkpoint) -> Vec<TaskEntry> {
    let entry = |task: &Task| TaskEntry {
        pid: task.pid.get(),
        parent: task.parent.map(|pid| pid.get()),
        comm: task.comm.clone(),
        threads: task.threads.iter().map(|tid| tid.get()).collect(),
        state: match task.state {
            TaskState::Alive => "alive",
            TaskState::Stopped => "stopped",
            TaskState::Dead => "dead",
            TaskState::Other(_) => "other",
        }
        .into(),
        lazy_pages: pages(runs(task).filter(|run| run.lazy)),
        slim_pages: pages(runs(task).filter(|run| !run.lazy)),
    };
    checkpoint.tasks.iter().map(entry).collect()
}

/// The sums. Pages of parents that a later dump replaced are not counted as dumped.
pub(super) fn totals(checkpoint: &Checkpoint, counts: Counts, base_pages: u64, pack_bytes: u64) -> Totals {
    let private = pages(checkpoint.tasks.iter().flat_map(runs));
    let shared = pages(checkpoint.shared.iter().flat_map(|segment| &segment.runs));
    Totals {
        dumped_pages: private + shared,
        lazy_pages: counts.lazy,
        zero_pages: counts.zero,
        stored_pages: base_pages + counts.stored,
        distinct_pages: counts.distinct,
        pack_bytes,
    }
}
