//! What the images that CRIU restores from say: which tasks will come, and which of their pages CRIU leaves to us.

use crate::address_space::pages_touched;
use anyhow::{Context, Result, bail, ensure};
use criu_images::{Checkpoint, ImageDir, ImageSource, PageRange, Pid, slim::PAGEFERRY_DIR};
use page_store::{Run, Store};
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, path::Path, sync::Arc};

/// The memory of a task as CRIU will register it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Layout {
    /// `4711 (redis-server)`, for the log.
    pub name: String,
    /// Position in the manifest's tasks.
    pub task: u32,
    /// Mappings that CRIU registers with userfaultfd.
    pub registered: Vec<PageRange>,
    /// Pages that CRIU does not load, sorted.
    pub missing: Vec<PageRange>,
    /// Of these, argv and environment: the kernel reads them for `/proc/<pid>/cmdline` without waiting, so no fault would ever ask for
    /// them. A slim dump of ours has them; a full dump, given to CRIU as it is, marks them lazy.
    pub first: Vec<PageRange>,
    /// Of these, what is empty in a child that the task forks (MADV_WIPEONFORK), as random number generators have it. A slim dump of ours has
    /// those, too; a full dump marks them lazy.
    pub wiped: Vec<PageRange>,
}

/// Of argv and environment, the pages that are fetched first: they begin where argv does, and seldom fill more than one.
const MOST_FIRST_PAGES: u64 = 64;

/// All tasks of a restore.
#[derive(Debug)]
pub(crate) struct Images {
    /// By virtual pid.
    pub layouts: HashMap<Pid, Layout>,
    /// Every pid and thread id that the restore will take.
    pub ids: Vec<Pid>,
}

impl Images {
    /// Reads the images in `dir` and refuses them, before CRIU starts, if `store` does not hold what they lack.
    pub(crate) async fn open(dir: &Path, store: &Store) -> Result<Self> {
        let source = Arc::new(ImageDir::open(dir)?);
        let id = source.read(&format!("{PAGEFERRY_DIR}/checkpoint-id"))?;
        let checkpoint = Checkpoint::open(source)?;
        let known = match id {
            Some(id) => {
                let id = String::from_utf8_lossy(&id).trim().to_string();
                ensure!(
                    id == store.manifest().checkpoint_id,
                    "{} is the slim dump of another checkpoint than the store: it was made with {id}, the store is {}. \
                     Use the store that it was split to, or let `pageferry-agent restore` fetch the right slim dump",
                    dir.display(),
                    store.manifest().checkpoint_id
                );
                true
            }
            None => false,
        };

        let mut layouts = HashMap::new();
        let mut ids = Vec::new();
        for task in &checkpoint.tasks {
            ids.push(task.pid);
            ids.extend(&task.threads);
            let Some(memory) = &task.memory else { continue };
            let registered: Vec<_> = memory.mappings.iter().filter(|m| m.can_be_lazy).map(|m| m.range).collect();
            let missing = lazy_parts(memory.runs.iter().filter(|r| r.marked_lazy).map(|r| r.range), &registered);
            let Some(position) = store.manifest().task_position(task.pid) else {
                ensure!(
                    missing.is_empty(),
                    "the store holds no task {} ({}), {} does",
                    task.pid,
                    task.comm,
                    dir.display()
                );
                continue;
            };
            if !known {
                check_covered(store, task.pid, &missing)
                    .await
                    .with_context(|| format!("{} and the store are not of the same checkpoint", dir.display()))?;
            }
            let args = pages_touched(memory.args_and_env.start, memory.args_and_env.end)
                .and_then(|args| PageRange::new(args.start(), args.pages().min(MOST_FIRST_PAGES)));
            let first = missing.iter().filter_map(|range| range.intersection(args?)).collect();
            let wiped = memory.mappings.iter().filter(|m| m.wiped_on_fork).map(|m| m.range);
            let wiped =
                wiped.filter(|wiped| missing.iter().any(|range| range.intersection(*wiped).is_some())).collect();
            let name = format!("{} ({})", task.pid, task.comm);
            layouts
                .insert(task.pid, Layout { name, task: u32::try_from(position)?, registered, missing, first, wiped });
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(Self { layouts, ids })
    }
}

/// The parts of `pages` that lie in `registered` mappings; both sorted. The kernel does not let a page outside them be installed,
/// and CRIU loads such a page itself.
fn lazy_parts(pages: impl Iterator<Item = PageRange>, registered: &[PageRange]) -> Vec<PageRange> {
    let mut parts = Vec::new();
    for range in pages {
        let from = registered.partition_point(|m| m.end() <= range.start().get());
        parts.extend(
            registered[from..]
                .iter()
                .take_while(|m| m.start().get() < range.end())
                .filter_map(|m| m.intersection(range)),
        );
    }
    parts
}

async fn check_covered(store: &Store, pid: Pid, missing: &[PageRange]) -> Result<()> {
    for range in missing {
        let runs = store.runs(pid, *range).await?;
        if let Some(hole) = first_hole(*range, &runs) {
            bail!("page {hole:#x} of task {pid} is in neither of them");
        }
    }
    Ok(())
}

/// The first address in `range` that no run covers; `runs` are sorted.
fn first_hole(range: PageRange, runs: &[Run]) -> Option<u64> {
    let mut at = range.start().get();
    for run in runs {
        if run.range.start().get() > at {
            break;
        }
        at = at.max(run.range.end());
    }
    (at < range.end()).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use page_store::Location;

    fn pages(from: u64, to: u64) -> PageRange {
        PageRange::from_bytes(from * 4096, to * 4096).unwrap()
    }

    #[test]
    fn only_pages_in_registered_mappings_are_ours() {
        let registered = [pages(10, 20), pages(20, 30), pages(40, 50)];
        let parts = lazy_parts([pages(5, 22), pages(28, 45), pages(60, 70)].into_iter(), &registered);
        assert_eq!(parts, [pages(10, 20), pages(20, 22), pages(28, 30), pages(40, 45)]);
    }

    #[test]
    fn a_page_that_no_run_covers_is_found() {
        let run = |from, to| Run { range: pages(from, to), location: Location::Zero };
        assert_eq!(first_hole(pages(1, 9), &[run(1, 4), run(4, 9)]), None);
        assert_eq!(first_hole(pages(1, 9), &[run(1, 4), run(5, 9)]), Some(4 * 4096));
        assert_eq!(first_hole(pages(1, 9), &[run(2, 9)]), Some(4096));
        assert_eq!(first_hole(pages(1, 9), &[]), Some(4096));
        assert_eq!(first_hole(pages(1, 9), &[run(1, 8)]), Some(8 * 4096));
    }
}
