//! What a store gives back is what the checkpoint held, wherever it lies, and nothing else ever.

mod common;

use common::{http::*, *};
use criu_images::{
    PAGE_SIZE, PageAddr, PageRange, Pid,
    testing::{Dump, PARENT, Pages, Task},
};
use futures::{StreamExt, TryStreamExt};
use page_store::{
    Digest, Error, FrameInfo, FrameNumber, Location, MANIFEST_NAME, Manifest, PageNumber, Run, Store,
    index::IndexBuilder,
};
use std::{
    fs,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

fn location(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_from_everywhere() {
    let (_dir, checkpoint, store) = made();
    let wanted = lazy_pages(&open(&checkpoint));
    assert_eq!(wanted.len(), 200 + 50 + 17 + 100);
    let server = serve_dir(&store).await;
    let json = store.join(MANIFEST_NAME);
    for place in [
        location(&store),
        location(&json),
        &format!("file://{}", location(&store)),
        location(&checkpoint),
        &format!("{}/some/prefix", server.url),
        &format!("{}/some/prefix/", server.url),
        &format!("{}/some/prefix/checkpoint.json", server.url),
    ] {
        let store = Store::open(place).await.unwrap_or_else(|e| panic!("{place}: {e}"));
        assert!(stored_pages(&store).await.unwrap() == wanted, "{place}");
        assert!(stored_pages(&store.with_own_connections()).await.unwrap() == wanted, "{place}");
        let manifest = store.manifest();
        let states: Vec<_> = manifest.tasks.iter().map(|t| (t.pid, t.parent, t.state.as_str(), t.lazy_pages)).collect();
        assert_eq!(states, [(10, None, "alive", 267), (11, Some(10), "alive", 100), (12, Some(10), "dead", 0)]);
        let totals = manifest.totals;
        assert_eq!((totals.dumped_pages, totals.lazy_pages, totals.zero_pages), (371, 367, 8), "{place}");
        assert!(matches!(store.runs(Pid::new(99).unwrap(), everything()).await, Err(Error::NoSuchTask(_))));
        assert_eq!(store.runs(Pid::new(12).unwrap(), everything()).await.unwrap(), []);
    }
}

#[tokio::test]
async fn an_incremental_checkpoint_opens_raw() {
    let dir = folder();
    let at = |n| dir.path().join(n);
    let task = || Task::new(7).anonymous(0x1000_0000, 64);
    Dump::new().task(task().pages(Pages::here(0x1000_0000, 40))).write(&at("1")).unwrap();
    let mut second = Dump::new().task(
        task()
            .pages(Pages::new(0x1000_0000, 10, PARENT))
            .pages(Pages { generation: 2, ..Pages::here(0x1000_a000, 5) })
            .pages(Pages::new(0x1000_f000, 20, PARENT)),
    );
    second.parent = Some("../1".into());
    second.write(&at("2")).unwrap();
    let raw = Store::open(location(&at("2"))).await.unwrap();
    let wanted = lazy_pages(&open(&at("2")));
    assert_eq!(wanted.len(), 35);
    assert!(stored_pages(&raw).await.unwrap() == wanted);
    assert_eq!(raw.manifest().packs.len(), 2);

    split_to(&at("2"), &at("store"));
    assert!(stored_pages(&Store::open(location(&at("store"))).await.unwrap()).await.unwrap() == wanted);
}

/// A pages file that is written to while it is served.
#[tokio::test]
async fn a_raw_checkpoint_that_changes_is_noticed() {
    let (_dir, checkpoint, _) = made();
    let store = Store::open(location(&checkpoint)).await.unwrap();
    store.read_frame(FrameNumber(3)).await.unwrap();
    let path = checkpoint.join("pages-1.img");
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[3 * 65536 + 5] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = store.read_frame(FrameNumber(3)).await.unwrap_err();
    assert!(error.to_string().contains("changed since it was opened"), "{error}");
    // With its old time, by its digest.
    fs::File::options().write(true).open(&path).unwrap().set_modified(before).unwrap();
    let error = store.read_frame(FrameNumber(3)).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }) && error.to_string().contains("frame 3"), "{error}");
    store.read_frame(FrameNumber(4)).await.unwrap();
}

#[tokio::test]
async fn what_is_no_store_says_so() {
    let dir = folder();
    let message = async |place: &str| Store::open(place).await.unwrap_err().to_string();
    let empty = location(dir.path());
    assert_eq!(
        message(empty).await,
        format!(
            "{empty}: neither a page store (no checkpoint.json in it) nor a CRIU checkpoint (no inventory.img in it)"
        )
    );
    assert_eq!(message("/no/such/place").await, "/no/such/place: not found");
    assert!(message("s3://bucket/x").await.contains("s3://"));
    for (json, says) in [
        ("", "line 1"),
        ("hello", "not a page store's manifest"),
        ("<html>", "not a page store's manifest"),
        ("[]", "not a page store's manifest"),
        ("{}", "not a page store's manifest"),
        ("{\"format\": \"other\", \"version\": 1}", "\"other\""),
        ("{\"format\": \"pageferry-store\", \"version\": 3, \"x\": []}", "made by a newer pageferry"),
        ("{\"format\": \"pageferry-store\", \"version\": 1}", "missing field"),
    ] {
        fs::write(dir.path().join(MANIFEST_NAME), json).unwrap();
        let message = message(empty).await;
        assert!(
            message.starts_with(&format!("{empty}/checkpoint.json: ")) && message.contains(says),
            "{json}: {message}"
        );
    }
}

/// A slim dump has no pages to serve.
#[tokio::test]
async fn a_slim_dump_is_not_a_raw_checkpoint() {
    let (dir, _, store) = made();
    let slim = dir.path().join("slim");
    Store::open(location(&store)).await.unwrap().slim().await.unwrap().unpack(&slim).unwrap();
    let message = Store::open(location(&slim)).await.unwrap_err().to_string();
    assert!(message.contains("slim dump"), "{message}");
}

fn memory_store(dir: &Path, chunk: usize) -> Arc<MemoryBackend> {
    Arc::new(MemoryBackend::load(dir, chunk))
}

#[tokio::test]
async fn an_extent_is_one_request() {
    let (_dir, _, dir) = made();
    // Chunks that hold many frames, a part of one, or end anywhere.
    for chunk in [1 << 20, 1000, 4096, 77, 1] {
        let backend = memory_store(&dir, chunk);
        let store = Store::from_backend(backend.clone()).await.unwrap();
        assert_eq!(backend.requests(), 1, "the manifest only");
        store.frame_info(FrameNumber(0)).await.unwrap();
        store.runs(Pid::new(10).unwrap(), everything()).await.unwrap();
        assert_eq!(backend.requests(), 1, "the index once");
        let count = store.frame_count();
        let frames: Vec<_> = store.stream_frames(FrameNumber(0)..FrameNumber(count)).try_collect().await.unwrap();
        assert_eq!(backend.requests(), 1, "the pack once");
        assert_eq!(frames.iter().map(|f| f.number().0).collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
        for frame in &frames {
            let again = store.read_frame(frame.number()).await.unwrap();
            let info = store.frame_info(frame.number()).await.unwrap();
            assert_eq!((again.bytes(), again.stored_len()), (frame.bytes(), info.stored_len));
        }
        let middle: Vec<_> = store.stream_frames(FrameNumber(2)..FrameNumber(5)).try_collect().await.unwrap();
        assert_eq!(
            middle.iter().map(|f| f.bytes()).collect::<Vec<_>>(),
            frames[2..5].iter().map(|f| f.bytes()).collect::<Vec<_>>()
        );
        #[allow(clippy::reversed_empty_ranges)]
        let nothing = store.stream_frames(FrameNumber(5)..FrameNumber(2)).count().await;
        assert_eq!(nothing, 0);
        let past: Vec<_> = store.stream_frames(FrameNumber(count - 1)..FrameNumber(count + 1)).collect().await;
        assert!(past.len() == 2 && past[0].is_ok() && past[1].is_err());
        assert!(store.read_frame(FrameNumber(count)).await.is_err());
        assert!(store.read_frame(FrameNumber(u64::MAX)).await.is_err());
        assert!(store.frame_info(FrameNumber(u64::MAX)).await.is_err());
    }
}

#[tokio::test]
async fn own_connections_share_the_index() {
    let (_dir, _, dir) = made();
    let backend = memory_store(&dir, 4096);
    let store = Store::from_backend(backend.clone()).await.unwrap();
    let other = store.with_own_connections();
    other.frame_info(FrameNumber(0)).await.unwrap();
    assert_eq!((backend.requests(), backend.fresh.load(Ordering::Relaxed)), (1, 1));
    store.frame_info(FrameNumber(1)).await.unwrap();
    assert_eq!(backend.requests(), 0, "the other one fetched it");
}

/// One byte changed, anywhere in any object: an error that names it, or the bytes that were there. Never others.
#[tokio::test]
async fn a_flipped_byte_is_found() {
    let (_dir, checkpoint, dir) = made();
    let wanted = lazy_pages(&open(&checkpoint));
    let whole = memory_store(&dir, 1 << 20);
    for (name, bytes) in &whole.objects {
        let step = (bytes.len() / 60).max(1);
        for at in (0..bytes.len()).step_by(step) {
            let mut backend = MemoryBackend::load(&dir, 1 << 20);
            backend.objects.get_mut(name).unwrap()[at] ^= 0x10;
            check_damaged(backend, name, &wanted).await;
        }
        for len in (0..bytes.len()).step_by(step) {
            let mut backend = MemoryBackend::load(&dir, 1 << 20);
            backend.objects.get_mut(name).unwrap().truncate(len);
            check_damaged(backend, name, &wanted).await;
        }
    }
}

async fn check_damaged(backend: MemoryBackend, name: &str, wanted: &std::collections::BTreeMap<(Pid, u64), Vec<u8>>) {
    let all = async {
        let store = Store::from_backend(Arc::new(backend)).await?;
        let pages = stored_pages(&store).await?;
        // A manifest may lie about names of programs and the like; it must not lie about memory.
        assert!(pages == *wanted || name == MANIFEST_NAME, "{name}");
        store.slim().await?;
        Ok::<_, Error>(())
    };
    match all.await {
        Ok(()) => assert!(name == MANIFEST_NAME || name.starts_with("packs/"), "{name}"),
        // An object of another name is one that the manifest does not know.
        Err(e) => assert!(e.to_string().contains(name) || name == MANIFEST_NAME, "{name}: {e}"),
    }
}

#[tokio::test]
async fn objects_that_are_exchanged_are_found() {
    let (_dir, _, dir) = made();
    let other = folder();
    let (checkpoint, other_store) = (other.path().join("c"), other.path().join("s"));
    Dump::new()
        .task(Task::new(5).anonymous(0x1000_0000, 64).pages(Pages::here(0x1000_0000, 64)))
        .write(&checkpoint)
        .unwrap();
    let strange = split_to(&checkpoint, &other_store);
    let strange_slim = fs::read(other_store.join(&strange.slim.object.object)).unwrap();
    // The slim dump of another checkpoint, though manifest and digest agree with it.
    let mut backend = MemoryBackend::load(&dir, 4096);
    let mut manifest = Manifest::parse("x", &backend.objects[MANIFEST_NAME]).unwrap();
    manifest.slim = strange.slim;
    backend.objects.insert(manifest.slim.object.object.clone(), strange_slim);
    backend.objects.insert(MANIFEST_NAME.into(), manifest.to_json().unwrap());
    let error = Store::from_backend(Arc::new(backend)).await.unwrap().slim().await.unwrap_err().to_string();
    assert!(error.contains("it is of checkpoint"), "{error}");
}

/// 10 GiB of memory in three parts: what is needed is loaded, runs that go on are whole again.
#[tokio::test]
async fn parts_are_loaded_when_needed() {
    let frames = 3 * 65536 - 100u64;
    let range = |first: u64, pages| PageRange::new(PageAddr::new(first * PAGE_SIZE).unwrap(), pages).unwrap();
    let page = |n| Location::Page(PageNumber(n));
    let mut index = IndexBuilder::new(2);
    for number in 0..frames {
        let digest = Digest::of(&number.to_le_bytes());
        index.push_frame(FrameInfo { pack: 0, offset: number * 10, stored_len: 10, pages: 16, digest }).unwrap();
    }
    index.push_run(0, Run { range: range(1000, frames * 16), location: page(0) }).unwrap();
    index.push_run(1, Run { range: range(1000, 10), location: page(5) }).unwrap();
    index.push_run(1, Run { range: range(2000, 10), location: Location::Zero }).unwrap();
    let parts = index.finish().unwrap();

    let (_dir, _, dir) = made();
    let mut backend = MemoryBackend::load(&dir, 4096);
    let mut manifest = Manifest::parse("x", &backend.objects[MANIFEST_NAME]).unwrap();
    manifest.tasks.truncate(2);
    manifest.packs[0].object.size = frames * 10;
    manifest.packs[0].frames = frames;
    (manifest.totals.pack_bytes, manifest.totals.stored_pages) = (frames * 10, frames * 16);
    manifest.index.clear();
    for part in parts {
        let blake3 = blake3::hash(&part.bytes).to_hex().to_string();
        let object =
            page_store::ObjectRef { object: format!("index/{blake3}.idx"), size: part.bytes.len() as u64, blake3 };
        backend.objects.insert(object.object.clone(), part.bytes);
        let (frames, first_task, first_address) = (part.frames, part.first_task, part.first_address);
        manifest.index.push(page_store::IndexObject { object, frames, first_task, first_address });
    }
    backend.objects.insert(MANIFEST_NAME.into(), manifest.to_json().unwrap());
    let backend = Arc::new(backend);

    let (one, two) = (Pid::new(10).unwrap(), Pid::new(11).unwrap());
    let store = Store::from_backend(backend.clone()).await.unwrap();
    assert_eq!((store.frame_count(), backend.requests()), (frames, 1));
    let in_second = range(1000 + (1 << 20) + 5, 3);
    assert_eq!(store.runs(one, in_second).await.unwrap(), [Run { range: in_second, location: page((1 << 20) + 5) }]);
    assert_eq!(backend.requests(), 1, "one part");
    store.frame_info(FrameNumber(65536 * 2 - 1)).await.unwrap();
    assert_eq!(backend.requests(), 0, "the same");
    let whole = Run { range: range(1000, frames * 16), location: page(0) };
    assert_eq!(store.runs(one, everything()).await.unwrap(), [whole]);
    assert_eq!(backend.requests(), 2, "the others");

    let store = Store::from_backend(backend.clone()).await.unwrap();
    backend.requests();
    let runs = store.runs(two, everything()).await.unwrap();
    assert_eq!(runs.len(), 2);
    assert_eq!(backend.requests(), 1, "the second task is in the last part");
    assert_eq!(store.runs(two, range(3000, 1)).await.unwrap(), []);
    assert_eq!(store.runs(one, range(1, 5)).await.unwrap(), []);
}
