//! A store read by way of a node's cache: what was read once is not asked for again, and nothing wrong comes of it.

mod common;

use common::*;
use criu_images::testing::{Dump, LAZY, PRESENT, Pages, Task};
use futures::TryStreamExt;
use page_store::{CacheCounters, FrameNumber, MIN_CACHE_BYTES, NodeCache, Store};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

struct Scene {
    _dir: tempfile::TempDir,
    checkpoint: PathBuf,
    store: PathBuf,
    cache: PathBuf,
}

fn scene() -> Scene {
    let (dir, checkpoint, store) = made();
    let cache = dir.path().join("cache");
    Scene { _dir: dir, checkpoint, store, cache }
}

struct Opened {
    store: Store,
    backend: Arc<MemoryBackend>,
    cache: NodeCache,
    counters: Arc<CacheCounters>,
}

impl Scene {
    async fn open(&self) -> Opened {
        let backend = Arc::new(MemoryBackend::load(&self.store, 1 << 20));
        let counters = Arc::<CacheCounters>::default();
        let cache = NodeCache::open(&self.cache, MIN_CACHE_BYTES, counters.clone()).unwrap();
        let store = Store::from_backend(backend.clone()).await.unwrap().with_cache(cache.clone());
        Opened { store, backend, cache, counters }
    }
}

/// All that a restore reads.
async fn read_all(opened: &Opened, checkpoint: &Path) {
    opened.store.slim().await.unwrap();
    opened.store.load_index().await.unwrap();
    assert!(stored_pages(&opened.store).await.unwrap() == lazy_pages(&open(checkpoint)));
    opened.cache.flush(Duration::from_secs(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_once_is_not_asked_for_again() {
    let scene = scene();
    let first = scene.open().await;
    read_all(&first, &scene.checkpoint).await;
    assert!(first.backend.requests() > 20);
    let kept = first.counters.kept_bytes.load(Relaxed);
    assert_eq!((first.counters.hits.load(Relaxed), first.counters.skipped.load(Relaxed)), (0, 0));

    let second = scene.open().await;
    read_all(&second, &scene.checkpoint).await;
    assert_eq!(second.backend.requests(), 1, "checkpoint.json");
    assert_eq!((second.counters.misses.load(Relaxed), second.counters.wrong.load(Relaxed)), (0, 0));
    assert_eq!((second.counters.bytes.load(Relaxed), second.counters.kept_bytes.load(Relaxed)), (kept, 0));

    // What came from here cost nothing on the way.
    let frame = second.store.read_frame(FrameNumber(0)).await.unwrap();
    assert_eq!(frame.stored_len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extent_asks_for_what_the_cache_lacks() {
    let scene = scene();
    let first = scene.open().await;
    let frames = first.store.frame_count();
    assert!(frames >= 18, "{frames}");
    let extent = async |opened: &Opened, from: u64, to: u64| {
        let stream = opened.store.stream_frames(FrameNumber(from)..FrameNumber(to));
        let numbers: Vec<_> = stream.map_ok(|frame| frame.number().0).try_collect().await.unwrap();
        assert_eq!(numbers, (from..to).collect::<Vec<_>>());
        opened.cache.flush(Duration::from_secs(20));
        opened.backend.requests()
    };
    extent(&first, 4, 5).await;
    extent(&first, 8, 13).await;
    let second = scene.open().await;
    second.store.load_index().await.unwrap();
    second.backend.requests();
    assert_eq!(extent(&second, 9, 12).await, 0);
    assert_eq!(extent(&second, 12, 14).await, 1);
    // 0 to 8 with one in the cache that comes along, five from there and one that was just read, the rest.
    assert_eq!(extent(&second, 0, frames).await, 2);
    assert_eq!(extent(&second, 0, frames).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_was_damaged_costs_requests_only() {
    let scene = scene();
    read_all(&scene.open().await, &scene.checkpoint).await;
    let entries = fs::read_dir(&scene.cache).unwrap().map(|entry| entry.unwrap().path());
    let segment = entries.into_iter().find(|path| path.extension().is_some_and(|e| e == "segment")).unwrap();
    let whole = fs::read(&segment).unwrap();
    let table = 32 * 8192;
    for (what, every, from, to) in
        [("records", 1000, table, whole.len()), ("slots", 16, 32, 3200), ("both", 7, 32, whole.len())]
    {
        let mut bytes = whole.clone();
        (from..to).step_by(every).for_each(|at| bytes[at] ^= 0x11);
        fs::write(&segment, &bytes).unwrap();
        let opened = scene.open().await;
        // The writer would put back what is missing, for the next round.
        fs::set_permissions(&segment, std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
        read_all(&opened, &scene.checkpoint).await;
        assert!(opened.backend.requests() > 1, "{what}");
        drop(opened);
        for entry in fs::read_dir(&scene.cache).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.extension().is_some_and(|e| e == "segment") && entry != segment {
                fs::remove_file(entry).unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_is_removed_meanwhile_costs_requests_only() {
    let scene = scene();
    read_all(&scene.open().await, &scene.checkpoint).await;
    let opened = scene.open().await;
    fs::remove_dir_all(&scene.cache).unwrap();
    read_all(&opened, &scene.checkpoint).await;
    read_all(&opened, &scene.checkpoint).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_with_the_same_pages_share_them_however_they_store_them() {
    let dir = folder();
    let (checkpoint, store, cache) =
        (dir.path().join("checkpoint"), dir.path().join("store"), dir.path().join("cache"));
    // No zeros, nothing twice: frames are the same runs of pages.
    let task = Task::new(7).anonymous(0x1000_0000, 64).pages(Pages::new(0x1000_0000, 64, PRESENT | LAZY));
    Dump::new().task(task).write(&checkpoint).unwrap();
    split_to(&checkpoint, &store);
    let scene = Scene { _dir: dir, checkpoint, store, cache };
    read_all(&scene.open().await, &scene.checkpoint).await;
    // The checkpoint itself, read as a store: plain frames.
    let counters = Arc::<CacheCounters>::default();
    let cache = NodeCache::open(&scene.cache, MIN_CACHE_BYTES, counters.clone()).unwrap();
    let raw = Store::open(scene.checkpoint.to_str().unwrap()).await.unwrap().with_cache(cache);
    assert!(stored_pages(&raw).await.unwrap() == lazy_pages(&open(&scene.checkpoint)));
    assert_eq!((counters.hits.load(Relaxed), counters.wrong.load(Relaxed)), (4, 0));
}
