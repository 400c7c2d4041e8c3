//! Extents from a store that does not give what it should.

use super::*;
use async_trait::async_trait;
use bytes::Bytes;
use criu_images::{
    Checkpoint, ImageDir,
    testing::{Dump, LAZY, PRESENT, Pages, Task},
};
use page_store::{
    Backend, ByteStream, Error, LocalBackend,
    write::{LocalSink, Options, split},
};
use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, AtomicU64},
    time::Instant,
};

/// Frames in the store.
const FRAMES: u64 = 8;

/// A local store whose packs can be had or not, and in which bytes can be wrong.
#[derive(Debug)]
struct Broken {
    inner: LocalBackend,
    down: AtomicBool,
    /// A byte of the pack; none if it is the largest number.
    wrong: AtomicU64,
}

#[async_trait]
impl Backend for Broken {
    fn describe(&self, object: &str) -> String {
        self.inner.describe(object)
    }
    async fn get(&self, object: &str, limit: u64) -> page_store::Result<Bytes> {
        self.inner.get(object, limit).await
    }
    async fn get_range(&self, object: &str, range: Range<u64>) -> page_store::Result<ByteStream> {
        if self.down.load(Relaxed) {
            return Err(Error::unavailable(object, "it is down"));
        }
        let mut bytes = page_store::read_range(&self.inner, object, range.clone()).await?.to_vec();
        if let Some(at) = self.wrong.load(Relaxed).checked_sub(range.start)
            && let Some(byte) = bytes.get_mut(at as usize)
        {
            *byte ^= 1;
        }
        Ok(Box::pin(futures::stream::once(std::future::ready(Ok(Bytes::from(bytes))))))
    }
    fn fresh(&self) -> Arc<dyn Backend> {
        unreachable!("it is shared")
    }
}

/// Shared by all that asks for connections of its own.
#[derive(Debug)]
struct Shared(Arc<Broken>);

#[async_trait]
impl Backend for Shared {
    fn describe(&self, object: &str) -> String {
        self.0.describe(object)
    }
    async fn get(&self, object: &str, limit: u64) -> page_store::Result<Bytes> {
        self.0.get(object, limit).await
    }
    async fn get_range(&self, object: &str, range: Range<u64>) -> page_store::Result<ByteStream> {
        self.0.get_range(object, range).await
    }
    fn fresh(&self) -> Arc<dyn Backend> {
        Arc::new(Shared(self.0.clone()))
    }
}

struct Scene {
    _dir: tempfile::TempDir,
    broken: Arc<Broken>,
    store: Store,
    fetcher: Fetcher,
    status: Arc<Status>,
}

async fn scene(give_up: Option<Duration>) -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let (dump, folder) = (dir.path().join("dump"), dir.path().join("store"));
    let pages = Pages::new(0x1000_0000, FRAMES * page_store::FRAME_PAGES, PRESENT | LAZY);
    let task = Task::new(10).anonymous(0x1000_0000, FRAMES * page_store::FRAME_PAGES).pages(pages);
    Dump::new().task(task).write(&dump).unwrap();
    let checkpoint = Checkpoint::open(Arc::new(ImageDir::open(&dump).unwrap())).unwrap();
    let sink = LocalSink::create(&folder, false).unwrap();
    split(&checkpoint, &sink, &Options::default(), &()).unwrap();
    let inner = LocalBackend::new(&folder);
    let broken = Arc::new(Broken { inner, down: false.into(), wrong: u64::MAX.into() });
    let store = Store::from_backend(Arc::new(Shared(broken.clone()))).await.unwrap();
    let status = Arc::new(Status::new(Instant::now()));
    let fetcher = Fetcher::start(&store, status.clone(), 1, RateLimit::new(None), give_up).unwrap();
    Scene { _dir: dir, broken, store, fetcher, status }
}

async fn next(fetcher: &mut Fetcher) -> Arrival {
    fetcher.urgent.1.recv().await.expect("the fetcher has the other end")
}

#[tokio::test]
async fn a_frame_that_is_wrong_holds_up_no_other_and_is_given_up() {
    let mut scene = scene(Some(Duration::from_secs(3600))).await;
    let wrong = FrameNumber(3);
    let info = scene.store.frame_info(wrong).await.unwrap();
    scene.broken.wrong.store(info.offset, Relaxed);
    scene.fetcher.demand(FrameNumber(0)..FrameNumber(FRAMES));
    let mut came = HashSet::new();
    let mut given_up = 0;
    while came.len() < FRAMES as usize - 1 || given_up == 0 {
        match next(&mut scene.fetcher).await {
            Arrival::Demanded(frame) => assert!(came.insert(frame.number()), "{:?} came twice", frame.number()),
            Arrival::GaveUp(frame) => {
                assert_eq!(frame, wrong);
                given_up += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(!came.contains(&wrong));
    assert!(scene.status.digest_failures.load(Relaxed) >= 3);
    // It is still tried: whoever repairs the store is not too late.
    scene.broken.wrong.store(u64::MAX, Relaxed);
    match next(&mut scene.fetcher).await {
        Arrival::Demanded(frame) => assert_eq!(frame.number(), wrong),
        other => panic!("{other:?}"),
    }
    assert_eq!(given_up, 1);
}

#[tokio::test]
async fn frames_that_do_not_come_in_time_are_told() {
    let mut scene = scene(Some(Duration::from_millis(50))).await;
    scene.store.load_index().await.unwrap();
    scene.broken.down.store(true, Relaxed);
    scene.fetcher.demand(FrameNumber(2)..FrameNumber(4));
    for frame in [2, 3, 2, 3] {
        match next(&mut scene.fetcher).await {
            Arrival::GaveUp(told) => assert_eq!(told, FrameNumber(frame)),
            other => panic!("{other:?}"),
        }
    }
    scene.broken.down.store(false, Relaxed);
    let mut came = Vec::new();
    while came.len() < 2 {
        if let Arrival::Demanded(frame) = next(&mut scene.fetcher).await {
            came.push(frame.number().0);
        }
    }
    assert_eq!(came, [2, 3]);
}

#[tokio::test]
async fn without_a_limit_nothing_is_given_up() {
    let mut scene = scene(None).await;
    let info = scene.store.frame_info(FrameNumber(0)).await.unwrap();
    scene.broken.wrong.store(info.offset, Relaxed);
    scene.fetcher.demand(FrameNumber(0)..FrameNumber(1));
    while scene.status.digest_failures.load(Relaxed) < 5 {
        tokio::task::yield_now().await;
    }
    scene.broken.wrong.store(u64::MAX, Relaxed);
    assert!(matches!(next(&mut scene.fetcher).await, Arrival::Demanded(_)));
}
