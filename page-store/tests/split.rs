//! The writer and the reader together, on random checkpoints, against the memory itself.

mod common;

use common::{folder, lazy_pages, noise, open, split_to, stored_pages};
use criu_images::{
    PAGE_SIZE, PageRange, Pid,
    testing::{Dump, Pages, Task},
};
use page_store::{FRAME_BYTES, Location, Store};
use proptest::prelude::*;
use std::{collections::BTreeSet, fs};

/// Neighbouring pages of a task: how many are skipped before them, and what each holds (0: zeros).
type Piece = (u64, Vec<u64>);

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    // Few contents, so that most windows are made of pages that came up before, somewhere.
    prop::collection::vec((0u64..30, prop::collection::vec(0u64..90, 1..50)), 1..10)
}

fn content(id: u64) -> Vec<u8> {
    if id == 0 { vec![0; PAGE_SIZE as usize] } else { noise(id) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_is_read_is_what_was_there(tasks in prop::collection::vec(pieces(), 1..4)) {
        let dir = folder();
        let checkpoint = dir.path().join("dump");
        let start = 0x7f00_0000_0000;
        let mut dump = Dump::new();
        for (pid, pieces) in (1..).zip(&tasks) {
            let mut task = Task::new(pid).anonymous(start, 1000);
            let mut at = start;
            for (gap, ids) in pieces {
                at += gap * PAGE_SIZE;
                task = task.pages(Pages::here(at, ids.len() as u64));
                at += ids.len() as u64 * PAGE_SIZE;
            }
            dump = dump.task(task);
        }
        dump.write(&checkpoint).unwrap();
        for (n, pieces) in (1..).zip(&tasks) {
            let bytes: Vec<u8> = pieces.iter().flat_map(|(_, ids)| ids).flat_map(|id| content(*id)).collect();
            fs::write(checkpoint.join(format!("pages-{n}.img")), bytes).unwrap();
        }
        let manifest = split_to(&checkpoint, &dir.path().join("store"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = Store::open(dir.path().join("store").to_str().unwrap()).await.unwrap();
            assert!(stored_pages(&store).await.unwrap() == lazy_pages(&open(&checkpoint)));
            // A fault installs its window: it must not cost more than three frames.
            for task in &manifest.tasks {
                let pid = Pid::new(task.pid).unwrap();
                for window in 0..1000 * PAGE_SIZE / FRAME_BYTES + 1 {
                    let from = start + window * FRAME_BYTES;
                    let range = PageRange::from_bytes(from, from + FRAME_BYTES).unwrap();
                    let mut frames = BTreeSet::new();
                    for run in store.runs(pid, range).await.unwrap() {
                        let pages = (0..run.range.pages()).map(|n| run.location.advance(n));
                        frames.extend(pages.filter_map(|l| match l {
                            Location::Page(page) => Some(page.frame()),
                            Location::Zero => None,
                        }));
                    }
                    assert!(frames.len() <= 3, "{range} of task {pid} needs {frames:?}");
                }
            }
        });
        let ids: BTreeSet<u64> = tasks.iter().flatten().flat_map(|(_, ids)| ids).copied().filter(|id| *id > 0).collect();
        prop_assert_eq!(manifest.totals.distinct_pages, ids.len() as u64);
    }
}
