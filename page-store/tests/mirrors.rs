//! Several places with the same store, some of which are wrong, slow, gone or hold something else.

mod common;

use common::{http::*, *};
use futures::StreamExt;
use page_store::{Backend, Error, FrameNumber, HttpBackend, HttpVersion, Mirrors, Store, read_range};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tempfile::TempDir;
use tokio::sync::Notify;

/// Nothing listens there.
const NOBODY: &str = "http://127.0.0.1:1";

/// What a mirror answers, given what would be right.
type Script = Arc<dyn Fn(&Request, Option<Vec<u8>>) -> Answer + Send + Sync>;

fn right(request: &Request, bytes: Option<Vec<u8>>) -> Answer {
    file_answer(bytes, request.range)
}

/// Right for the manifest, wrong in every pack.
fn wrong(request: &Request, bytes: Option<Vec<u8>>) -> Answer {
    let packs = request.path.starts_with("/packs");
    let bytes = bytes.map(|bytes| if packs { bytes.iter().map(|byte| !byte).collect() } else { bytes });
    file_answer(bytes, request.range)
}

struct Mirror {
    url: String,
    /// Requests for anything but the manifest.
    asked: Arc<AtomicUsize>,
}

async fn mirror(store: &Path, script: Script) -> Mirror {
    let asked = Arc::new(AtomicUsize::new(0));
    let (store, count) = (store.to_owned(), asked.clone());
    let server = serve(move |request| {
        if request.path != "/checkpoint.json" {
            count.fetch_add(1, SeqCst);
        }
        script(&request, fs::read(store.join(&request.path[1..])).ok())
    });
    Mirror { url: server.await.url, asked }
}

/// A store at two mirrors, the first of which does as it is told.
async fn two(first: Script) -> (TempDir, PathBuf, Mirror, Mirror) {
    let (dir, _, folder) = made();
    let (first, second) = (mirror(&folder, first).await, mirror(&folder, Arc::new(right)).await);
    (dir, folder, first, second)
}

/// Opened, and so many of them found to be what they should be.
async fn open(locations: &[&str], used: usize) -> Store {
    let http = |url: &&str| Arc::new(HttpBackend::new(url).unwrap()) as Arc<dyn Backend>;
    let (mirrors, _) = Mirrors::open(locations.iter().map(http).collect()).await.unwrap();
    while mirrors.used() != used {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Store::from_backend(Arc::new(mirrors)).await.unwrap()
}

/// Every frame, each tried until it is right: how many attempts failed.
async fn read_all(store: &Store) -> usize {
    let mut failures = 0;
    for frame in (0..store.frame_count()).map(FrameNumber) {
        while let Err(error) = store.read_frame(frame).await {
            assert!(error.is_transient(), "{error}");
            failures += 1;
            assert!(failures < 100, "{error}");
        }
    }
    failures
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_gone_costs_nothing() {
    let (_dir, folder, _first, second) = two(Arc::new(right)).await;
    for mirrors in [[NOBODY, &second.url], [&second.url, NOBODY]] {
        let store = open(&mirrors, 1).await;
        assert_eq!(read_all(&store).await, 0);
        store.slim().await.unwrap();
        assert_eq!(read_all(&store.with_own_connections()).await, 0);
    }
    // A folder that is not there, one that is.
    let locations = ["/no/such/folder".to_owned(), NOBODY.to_owned(), folder.display().to_string()];
    let store = Store::open_mirrors(&locations, HttpVersion::Http1).await.unwrap();
    assert_eq!(read_all(&store).await, 0);
    let none = Store::open_mirrors(&[NOBODY.to_owned(), NOBODY.to_owned()], HttpVersion::Http1).await;
    assert!(none.unwrap_err().is_transient());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_goes_away_later_costs_nothing() {
    let gone = Arc::new(AtomicBool::new(false));
    let is_gone = gone.clone();
    let script = move |request: &Request, bytes| match is_gone.load(SeqCst) {
        true => Answer::raw("", b""),
        false => right(request, bytes),
    };
    let (_dir, _, first, second) = two(Arc::new(script)).await;
    let store = open(&[&first.url, &second.url], 2).await;
    store.read_frame(FrameNumber(0)).await.unwrap();
    gone.store(true, SeqCst);
    assert_eq!(read_all(&store).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_sends_wrong_bytes_is_left() {
    let (_dir, _, first, second) = two(Arc::new(wrong)).await;
    let store = open(&[&first.url, &second.url], 2).await;
    let failures = read_all(&store).await;
    assert!(failures <= 2, "{failures} frames were wrong before the mirror was left");
    assert!(first.asked.load(SeqCst) <= failures + store.manifest().index.len());
    assert!(second.asked.load(SeqCst) > 0);
    // If there is no other, it is asked nevertheless.
    let store = open(&[&first.url, NOBODY], 1).await;
    for _ in 0..3 {
        assert!(matches!(store.read_frame(FrameNumber(0)).await, Err(Error::Corrupt { .. })));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_holds_another_checkpoint_is_never_read() {
    let (_dir, _, first, second) = two(Arc::new(right)).await;
    let other = folder();
    let dump = other.path().join("dump");
    common::dump(&dump);
    // Another page in it makes another checkpoint.
    let pages = fs::File::options().write(true).open(dump.join("pages-1.img")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&pages, &noise(99), 5 * 4096).unwrap();
    split_to(&dump, &other.path().join("store"));
    let stranger = mirror(&other.path().join("store"), Arc::new(right)).await;
    let store = open(&[&first.url, &stranger.url, &second.url], 2).await;
    assert_eq!(read_all(&store).await, 0);
    assert_eq!(stranger.asked.load(SeqCst), 0);
    // The first one's word counts.
    let of_stranger = open(&[&stranger.url, &first.url], 1).await;
    assert_ne!(of_stranger.manifest().checkpoint_id, store.manifest().checkpoint_id);
}

/// Bodies that break or fall silent go on from the other mirror, and the bytes are right.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_goes_on_from_the_other_mirror() {
    let never = Arc::new(Notify::new());
    let breaks: Script = Arc::new(|request, bytes| {
        let mut answer = right(request, bytes);
        if request.path.starts_with("/packs") {
            answer.bytes.truncate(answer.bytes.len() - 1000);
            answer.close = true;
        }
        answer
    });
    let falls_silent: Script = {
        let never = never.clone();
        Arc::new(move |request, bytes| match request.path.starts_with("/packs") {
            true => right(request, bytes).hold(1000, &never),
            false => right(request, bytes),
        })
    };
    let silent: Script = Arc::new(move |request, bytes| {
        let answer = right(request, bytes);
        let all = answer.bytes.len();
        if request.path == "/checkpoint.json" { answer } else { answer.hold(all, &never) }
    });
    for script in [breaks, falls_silent, silent] {
        let (_dir, folder, first, second) = two(script).await;
        let store = open(&[&first.url, &second.url], 2).await;
        for pack in &store.manifest().packs {
            let name = &pack.object.object;
            let bytes = read_range(&**store.backend(), name, 5..pack.object.size).await.unwrap();
            assert_eq!(bytes, fs::read(folder.join(name)).unwrap()[5..]);
        }
        assert_eq!(read_all(&store).await, 0);
    }
}

/// A request that is made a second time while the first is under way goes to another mirror.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_request_goes_elsewhere() {
    let (_dir, folder, first, second) = two(Arc::new(right)).await;
    let store = open(&[&first.url, &second.url], 2).await;
    let pack = &store.manifest().packs[0].object;
    let _under_way = store.backend().get_range(&pack.object, 0..pack.size).await.unwrap();
    let before = (first.asked.load(SeqCst), second.asked.load(SeqCst));
    let hedge = store.with_own_connections();
    let bytes = read_range(&**hedge.backend(), &pack.object, 100..200).await.unwrap();
    assert_eq!(bytes, fs::read(folder.join(&pack.object)).unwrap()[100..200]);
    let after = (first.asked.load(SeqCst), second.asked.load(SeqCst));
    // Whichever was first, the other is second.
    let (a, b) =
        if before.0 > 0 { (after.0 - before.0, after.1 - before.1) } else { (after.1 - before.1, after.0 - before.0) };
    assert_eq!((a, b), (0, 1), "{before:?} {after:?}");
}

/// A mirror that is well again is used again.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_comes_back_is_used_again() {
    let well = Arc::new(AtomicBool::new(false));
    let is_well = well.clone();
    let script = move |request: &Request, bytes| match is_well.load(SeqCst) {
        true => right(request, bytes),
        false => Answer::new("503 Service Unavailable", &[], b""),
    };
    let (_dir, _, first, second) = two(Arc::new(script)).await;
    let store = open(&[&first.url, &second.url], 1).await;
    assert_eq!(read_all(&store).await, 0);
    well.store(true, SeqCst);
    let before = first.asked.load(SeqCst);
    // A request that is a second one goes to the other mirror, if it is back.
    let pack = &store.manifest().packs[0].object;
    while first.asked.load(SeqCst) == before {
        let mut body = store.backend().get_range(&pack.object, 0..pack.size).await.unwrap();
        let _ = body.next().await;
        read_range(&**store.backend(), &pack.object, 0..10).await.unwrap();
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_mirrors_hold_is_right_page_by_page() {
    let (_dir, _, first, second) = two(Arc::new(right)).await;
    let store = open(&[&first.url, &second.url], 2).await;
    let single = Store::from_backend(Arc::new(HttpBackend::new(&second.url).unwrap())).await.unwrap();
    assert_eq!(stored_pages(&store).await.unwrap(), stored_pages(&single).await.unwrap());
    assert_eq!(store.backend().copies(), 2);
    let backends: Vec<Arc<dyn Backend>> = vec![Arc::new(HttpBackend::new(&first.url).unwrap())];
    let (alone, manifest) = Mirrors::open(backends).await.unwrap();
    assert!(manifest.is_same_store(store.manifest()));
    assert!(matches!(alone.get("packs/none", 10).await, Err(Error::NotFound { .. })));
}
