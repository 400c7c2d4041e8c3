//! What the server's tests share: a checkpoint that has everything, a server, a client that hides nothing.
#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod client;
pub mod openapi;
pub mod program;

pub use client::{Reply, request};

use criu_images::{
    Checkpoint, ImageDir, PAGE_SIZE,
    bits::*,
    testing::{Dump, Pages, Task, Vma, page},
};
use page_store::write::{LocalSink, Options, split};
use pageferry_server::{Doors, Server, limits::Limits};
use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{JoinHandle, sleep},
    time::{Duration, Instant},
};

/// Private memory of task 1: 40 pages with bytes (8 to 11 of them zeros), 24 never written.
pub const HEAP: u64 = 0x1000_0000;
/// A private mapping of `/usr/bin/prog` from its byte 0x2000 on: 16 pages, 4 and 5 were written to.
pub const FILE: u64 = 0x5500_0000_0000;
/// Shared memory: 8 pages, 2 and 3 have bytes.
pub const SHARED: u64 = 0x7f00_0000_0000;
/// The kernel's.
pub const VVAR: u64 = 0x7ffc_0000_0000;
/// A stack, whose first two pages have argv in them, so that they are never lazy.
pub const STACK: u64 = 0x7ffd_0000_0000;
/// 4 TiB of address space without a page.
pub const RESERVED: u64 = 0x2000_0000_0000;
/// Private memory of task 20: [`BIG_PAGES`] pages.
pub const BIG: u64 = 0x4000_0000_0000;
pub const BIG_PAGES: u64 = 8192;
/// So many of them hold bytes that do not compress.
pub const NOISE_PAGES: u64 = 256;
pub const P: u64 = PAGE_SIZE;

/// A folder with the checkpoint in `dump` and its store in `store`.
pub struct Fixture {
    pub dir: tempfile::TempDir,
}

impl Fixture {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let dump = dir.path().join("dump");
        checkpoint().write(&dump).unwrap();
        // Pages of zeros are dumped as such.
        let pages = fs::OpenOptions::new().write(true).open(dump.join("pages-1.img")).unwrap();
        pages.write_all_at(&[0; 4 * PAGE_SIZE as usize], 8 * P).unwrap();
        let pages = fs::OpenOptions::new().write(true).open(dump.join("pages-2.img")).unwrap();
        (0..NOISE_PAGES).for_each(|page| pages.write_all_at(&noise(BIG + page * P), page * P).unwrap());
        let images = Checkpoint::open(Arc::new(ImageDir::open(&dump).unwrap())).unwrap();
        let sink = LocalSink::create(dir.path().join("store"), false).unwrap();
        split(&images, &sink, &Options::default(), &()).unwrap();
        Self { dir }
    }
    pub fn dump(&self) -> PathBuf {
        self.dir.path().join("dump")
    }
    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }
}

/// Runs a test against a server of the store and against one of the checkpoint as it lies there.
pub fn each(test: impl Fn(&Running)) {
    let fixture = Fixture::new();
    test(&Running::start(&fixture.store()));
    test(&Running::start(&fixture.dump()));
}

fn checkpoint() -> Dump {
    let file = |start, pages, status, shmid, pgoff| Vma { start, pages, flags: MAP_PRIVATE, status, shmid, pgoff };
    let shared = Vma { flags: MAP_SHARED | MAP_ANONYMOUS, ..file(SHARED, 8, 1 | STATUS_ANON_SHARED, 99, 0) };
    let mut first = Task::new(10)
        .anonymous(HEAP, 64)
        .vma(Vma { flags: MAP_PRIVATE | MAP_ANONYMOUS, ..file(RESERVED, 1 << 30, 1 | STATUS_ANON_PRIVATE, 0, 0) })
        .vma(file(FILE, 16, 1 | STATUS_FILE_PRIVATE, 7, 0x2000))
        .vma(shared)
        .vma(file(VVAR, 4, 1 | STATUS_VVAR, 0, 0))
        .anonymous(STACK, 8)
        .pages(Pages::here(HEAP, 40))
        .pages(Pages::here(FILE + 4 * P, 2))
        .pages(Pages::here(STACK, 8));
    first.args = STACK + 100..STACK + 200;
    first.env = STACK + 200..STACK + P + 100;
    first.comm = "first".into();
    let mut second = Task::new(20).anonymous(BIG, BIG_PAGES);
    for start in (0..BIG_PAGES).step_by(1024) {
        second = second.pages(Pages::here(BIG + start * P, 1024));
    }
    second.ppid = 10;
    second.threads = vec![21];
    let mut dead = Task::new(30);
    (dead.ppid, dead.state) = (10, 2);
    let mut dump = Dump::new().task(first).task(second).task(dead).shared(99, vec![Pages::here(2 * P, 2)]);
    dump.files = vec![(7, "/usr/bin/prog".into())];
    dump
}

fn noise(addr: u64) -> Vec<u8> {
    let mut bytes = vec![0; PAGE_SIZE as usize];
    blake3::Hasher::new().update(&addr.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// What a page of the checkpoint holds; `None` if it is in no dump.
pub fn expected(pid: u32, addr: u64) -> Option<Vec<u8>> {
    let zeros = || vec![0; PAGE_SIZE as usize];
    let bytes = |owner: u64, addr: u64| page(owner, addr, 0).to_vec();
    let inside = |start: u64, pages: u64| (start..start + pages * P).contains(&addr);
    match pid {
        10 if inside(HEAP + 8 * P, 4) => Some(zeros()),
        10 if inside(HEAP, 40) => Some(bytes(10, addr)),
        10 if inside(HEAP, 64) || inside(RESERVED, 1 << 30) => Some(zeros()),
        10 if inside(FILE + 4 * P, 2) || inside(STACK, 8) => Some(bytes(10, addr)),
        10 if inside(SHARED + 2 * P, 2) => Some(bytes(99, addr - SHARED)),
        10 if inside(SHARED, 8) => Some(zeros()),
        20 if inside(BIG, NOISE_PAGES) => Some(noise(addr)),
        20 if inside(BIG, BIG_PAGES) => Some(bytes(20, addr)),
        _ => None,
    }
}

pub fn expected_range(pid: u32, start: u64, pages: u64) -> Vec<u8> {
    (0..pages).flat_map(|page| expected(pid, start + page * P).unwrap()).collect()
}

pub fn eventually(holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "it never happens");
        sleep(Duration::from_millis(20));
    }
}

/// The address of all of [`BIG`].
pub fn big() -> String {
    format!("/pid/20/pages/{BIG:x}-{:x}", BIG + BIG_PAGES * P)
}

/// A server on a port of its own, in this process. Dropped, it stops at once.
pub struct Running {
    pub address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<u64>>,
}

impl Running {
    pub fn start(location: &Path) -> Self {
        Self::with(location, Limits { grace: Duration::ZERO, ..Limits::default() })
    }

    pub fn with(location: &Path, limits: Limits) -> Self {
        Self::behind(location, limits, Doors::default())
    }

    pub fn behind(location: &Path, limits: Limits, doors: Doors) -> Self {
        Self::hosting(location, None, limits, doors)
    }

    /// With the checkpoint of a folder that the short paths have.
    pub fn hosting(location: &Path, default: Option<&str>, limits: Limits, doors: Doors) -> Self {
        let (location, default) = (location.display().to_string(), default.map(str::to_owned));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (told, address) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build().unwrap();
            runtime.block_on(async {
                let server = Server::bind_all(&["127.0.0.1:0".to_owned()], doors, limits).await.unwrap();
                let address = server.address().unwrap();
                let open = server.open(&location, default.as_deref());
                let running = tokio::spawn(server.run(async {
                    let _ = stopped.await;
                }));
                let _opened = open.await.unwrap();
                told.send(address).unwrap();
                running.await.unwrap()
            })
        });
        let address = address.recv().expect("the server opens its checkpoint");
        Self { address, stop: Some(stop), thread: Some(thread) }
    }

    /// Asks it to stop, without waiting.
    pub fn stop(&mut self) {
        self.stop.take();
    }

    /// The number of connections that it had to cut.
    pub fn wait(mut self) -> u64 {
        self.stop();
        self.thread.take().unwrap().join().unwrap()
    }

    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[])
    }

    pub fn send(&self, method: &str, path: &str, headers: &[&str]) -> Reply {
        request(self.address, method, path, headers, b"")
    }

    pub fn post(&self, path: &str, body: &str) -> Reply {
        request(self.address, "POST", path, &["Content-Type: application/json"], body.as_bytes())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
