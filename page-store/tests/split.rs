//! The writer and the reader together, on random checkpoints, against the memory itself.

mod common;

use common::{folder, lazy_pages, noise, open, split_to, stored_pages};
use criu_images::{
    PAGE_SIZE, PageRange, Pid,
    testing::{Dump, Pages, Task},
};
use page_store::{
    FRAME_BYTES, Location, Manifest, Store,
    write::{self, Base, LocalSink, Options},
};
use proptest::prelude::*;
use std::{collections::BTreeSet, fs, path::Path};

/// Neighbouring pages of a task: how many are skipped before them, and what each holds (0: zeros).
type Piece = (u64, Vec<u64>);

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    // Few contents, so that most windows are made of pages that came up before, somewhere.
    prop::collection::vec((0u64..30, prop::collection::vec(0u64..90, 1..50)), 1..10)
}

fn content(id: u64) -> Vec<u8> {
    if id == 0 { vec![0; PAGE_SIZE as usize] } else { noise(id) }
}

/// Where the memory of every task begins.
const START: u64 = 0x7f00_0000_0000;

/// Writes a checkpoint whose tasks hold these pieces.
fn dump_of(tasks: &[Vec<Piece>], checkpoint: &Path) {
    let mut dump = Dump::new();
    for (pid, pieces) in (1..).zip(tasks) {
        let mut task = Task::new(pid).anonymous(START, 1000);
        let mut at = START;
        for (gap, ids) in pieces {
            at += gap * PAGE_SIZE;
            task = task.pages(Pages::here(at, ids.len() as u64));
            at += ids.len() as u64 * PAGE_SIZE;
        }
        dump = dump.task(task);
    }
    dump.write(checkpoint).unwrap();
    for (n, pieces) in (1..).zip(tasks) {
        let bytes: Vec<u8> = pieces.iter().flat_map(|(_, ids)| ids).flat_map(|id| content(*id)).collect();
        fs::write(checkpoint.join(format!("pages-{n}.img")), bytes).unwrap();
    }
}

/// The store at `path` holds the memory of `checkpoint`, and what lies together in it lies together in the store.
async fn check(path: &Path, checkpoint: &Path) {
    let store = Store::open(path.to_str().unwrap()).await.unwrap();
    assert!(stored_pages(&store).await.unwrap() == lazy_pages(&open(checkpoint)));
    // A fault installs its window: it must not cost more than three frames.
    for task in &store.manifest().tasks {
        let pid = Pid::new(task.pid).unwrap();
        for window in 0..1000 * PAGE_SIZE / FRAME_BYTES + 1 {
            let from = START + window * FRAME_BYTES;
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
}

fn contents(tasks: &[Vec<Piece>]) -> BTreeSet<u64> {
    tasks.iter().flatten().flat_map(|(_, ids)| ids).copied().filter(|id| *id > 0).collect()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Splits a checkpoint to `own`, sharing packs of `name` beside it.
fn split_beside(checkpoint: &Path, folder: &Path, name: &str, own: &str) -> Manifest {
    let base = runtime().block_on(async {
        let store = Store::open(folder.join(name).to_str().unwrap()).await.unwrap();
        let mut base = Base::new(&store, name, own).unwrap();
        for range in Base::ranges(&store) {
            base.push(Base::read(&store, range).await.unwrap());
        }
        base
    });
    let sink = LocalSink::create(folder.join(own), false).unwrap();
    write::split_with(&open(checkpoint), base, &sink, &Options::default(), &()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_is_read_is_what_was_there(tasks in prop::collection::vec(pieces(), 1..4)) {
        let dir = folder();
        let (checkpoint, store) = (dir.path().join("dump"), dir.path().join("store"));
        dump_of(&tasks, &checkpoint);
        let manifest = split_to(&checkpoint, &store);
        runtime().block_on(check(&store, &checkpoint));
        prop_assert_eq!(manifest.totals.distinct_pages, contents(&tasks).len() as u64);
    }

    #[test]
    fn with_a_base_too(generations in prop::collection::vec(prop::collection::vec(pieces(), 1..4), 2..4)) {
        let dir = folder();
        let mut before: Option<String> = None;
        for (n, tasks) in generations.iter().enumerate() {
            let (checkpoint, own) = (dir.path().join(format!("dump-{n}")), format!("app-{n}"));
            dump_of(tasks, &checkpoint);
            let manifest = match &before {
                None => split_to(&checkpoint, &dir.path().join(&own)),
                Some(base) => split_beside(&checkpoint, dir.path(), base, &own),
            };
            let shares = manifest.packs.iter().any(|pack| pack.object.sibling().is_some());
            prop_assert_eq!(manifest.version, 1 + u32::from(shares));
            prop_assert_eq!(manifest.totals.distinct_pages, contents(tasks).len() as u64);
            before = Some(own);
        }
        // Each of them is still what it was once the later ones are there.
        for (n, _) in generations.iter().enumerate() {
            let (store, checkpoint) = (dir.path().join(format!("app-{n}")), dir.path().join(format!("dump-{n}")));
            runtime().block_on(check(&store, &checkpoint));
        }
    }
}

#[test]
fn the_same_memory_again_costs_no_pack() {
    let dir = folder();
    let tasks: Vec<Vec<Piece>> = vec![vec![(0, (1..500).collect())], vec![(3, (200..700).collect())]];
    let checkpoint = dir.path().join("dump");
    dump_of(&tasks, &checkpoint);
    let first = split_to(&checkpoint, &dir.path().join("app"));
    let second = split_beside(&checkpoint, dir.path(), "app", "app-2");
    assert_eq!(second.packs.len(), first.packs.len());
    assert!(second.packs.iter().all(|pack| pack.object.sibling().is_some()));
    assert_eq!(second.totals.distinct_pages, 699);
    runtime().block_on(check(&dir.path().join("app-2"), &checkpoint));
}

#[test]
fn a_base_that_cannot_be_one_is_refused() {
    let dir = folder();
    let checkpoint = dir.path().join("dump");
    dump_of(&[vec![(0, vec![1, 2])]], &checkpoint);
    split_to(&checkpoint, &dir.path().join("app"));
    runtime().block_on(async {
        let store = Store::open(dir.path().join("app").to_str().unwrap()).await.unwrap();
        for (name, own) in [("a b", "x"), ("x", ".hidden"), ("packs", "x"), ("..", "x")] {
            let error = Base::new(&store, name, own).err().unwrap().to_string();
            assert!(error.contains("cannot share packs"), "{error}");
        }
        let raw = Store::open(checkpoint.to_str().unwrap()).await.unwrap();
        assert!(Base::new(&raw, "raw", "x").err().unwrap().to_string().contains("split it first"));
    });
}
