//! What the integration tests share: checkpoints, stores made of them, and a web server that can be told to misbehave.
#![allow(dead_code, unreachable_pub)]

pub mod http;

use criu_images::{
    Checkpoint, ImageDir, PAGE_SIZE, PageAddr, PageRange, Pid, Stored,
    testing::{Dump, LAZY, PRESENT, Pages, Task},
};
use page_store::{
    Backend, ByteStream, Error, Location, Manifest, Result, Store,
    write::{LocalSink, Options, split},
};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tempfile::TempDir;

/// A folder that is gone at the end.
pub fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

pub fn open(dir: &Path) -> Checkpoint {
    Checkpoint::open(Arc::new(ImageDir::open(dir).unwrap())).unwrap()
}

/// Two tasks that share pages, with pages of zeros, an unlazy mapping, a dead child; some 1.5 MiB.
pub fn dump(dir: &Path) {
    let both = PRESENT | LAZY;
    let first = Task::new(10)
        .anonymous(0x1000_0000, 300)
        .anonymous(0x7f00_0000_0000, 40)
        .pages(Pages::new(0x1000_0000, 200, both))
        .pages(Pages::here(0x1000_0000 + 210 * PAGE_SIZE, 50))
        .pages(Pages::new(0x7f00_0000_0000, 17, both));
    let mut second = Task::new(11).anonymous(0x1000_0000, 300).pages(Pages::new(0x1000_0000, 100, both));
    second.ppid = 10;
    let mut dead = Task::new(12);
    (dead.ppid, dead.state) = (10, 2);
    Dump::new().task(first).task(second).task(dead).shared(5, vec![Pages::here(0, 4)]).write(dir).unwrap();
    // Zeros in the first, noise in some, and pages of the first again in the second.
    let of_first = fs::read(dir.join("pages-1.img")).unwrap();
    let edit = |name: &str, page: u64, bytes: &[u8]| {
        let file = fs::File::options().write(true).open(dir.join(name)).unwrap();
        file.write_all_at(bytes, page * PAGE_SIZE).unwrap();
    };
    for page in [0, 1, 2, 40, 55, 56, 199, 266] {
        edit("pages-1.img", page, &[0; 4096]);
    }
    for page in 100..140 {
        edit("pages-1.img", page, &noise(page));
    }
    edit("pages-2.img", 0, &of_first[10 * 4096..50 * 4096]);
}

/// A page that does not compress.
pub fn noise(seed: u64) -> Vec<u8> {
    let mut page = vec![0; PAGE_SIZE as usize];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut page);
    page
}

/// The store that the real writer makes of a checkpoint.
pub fn split_to(checkpoint: &Path, store: &Path) -> Manifest {
    let sink = LocalSink::create(store, false).unwrap();
    split(&open(checkpoint), &sink, &Options::default(), &()).unwrap()
}

/// A checkpoint and its store in one folder.
pub fn made() -> (TempDir, PathBuf, PathBuf) {
    let dir = folder();
    let (checkpoint, store) = (dir.path().join("checkpoint"), dir.path().join("store"));
    dump(&checkpoint);
    split_to(&checkpoint, &store);
    (dir, checkpoint, store)
}

pub fn everything() -> PageRange {
    PageRange::from_bytes(0, PageAddr::LIMIT).unwrap()
}

/// Lazy pages of each task by address, from the checkpoint itself.
pub fn lazy_pages(checkpoint: &Checkpoint) -> BTreeMap<(Pid, u64), Vec<u8>> {
    let mut pages = BTreeMap::new();
    for task in &checkpoint.tasks {
        for run in task.memory.iter().flat_map(|m| &m.runs).filter(|run| run.lazy) {
            let Stored::Here { file, offset } = run.stored else { panic!("a slim dump") };
            for i in 0..run.range.pages() {
                let mut page = vec![0; PAGE_SIZE as usize];
                checkpoint.read_pages(file, offset + i * PAGE_SIZE, &mut page).unwrap();
                pages.insert((task.pid, run.range.start().get() + i * PAGE_SIZE), page);
            }
        }
    }
    pages
}

/// The same from a store: runs, then the frames that they name.
pub async fn stored_pages(store: &Store) -> Result<BTreeMap<(Pid, u64), Vec<u8>>> {
    let mut frames = HashMap::new();
    let mut pages = BTreeMap::new();
    for task in &store.manifest().tasks {
        let pid = Pid::new(task.pid).unwrap();
        for run in store.runs(pid, everything()).await? {
            for i in 0..run.range.pages() {
                let page = match run.location.advance(i) {
                    Location::Zero => vec![0; PAGE_SIZE as usize],
                    Location::Page(page) => {
                        if let std::collections::hash_map::Entry::Vacant(e) = frames.entry(page.frame()) {
                            e.insert(store.read_frame(page.frame()).await?);
                        }
                        frames[&page.frame()].pages(page, 1).expect("in its frame").to_vec()
                    }
                };
                pages.insert((pid, run.range.start().get() + i * PAGE_SIZE), page);
            }
        }
    }
    Ok(pages)
}

/// Objects in memory; counts requests.
#[derive(Debug, Default)]
pub struct MemoryBackend {
    pub objects: HashMap<String, Vec<u8>>,
    pub requests: AtomicUsize,
    pub fresh: AtomicUsize,
    /// Bytes in a chunk of a body.
    pub chunk: usize,
}

impl MemoryBackend {
    /// What lies in a directory.
    pub fn load(dir: &Path, chunk: usize) -> Self {
        let mut objects = HashMap::new();
        for folder in ["", "index", "packs", "slim"] {
            for item in fs::read_dir(dir.join(folder)).into_iter().flatten().map(|item| item.unwrap()) {
                if item.file_type().unwrap().is_file() {
                    let name = Path::new(folder).join(item.file_name()).to_str().unwrap().to_owned();
                    objects.insert(name, fs::read(item.path()).unwrap());
                }
            }
        }
        Self { objects, chunk, ..Self::default() }
    }

    fn object(&self, name: &str) -> Result<&Vec<u8>> {
        self.objects.get(name).ok_or_else(|| Error::NotFound { object: self.describe(name) })
    }

    pub fn requests(&self) -> usize {
        self.requests.swap(0, Ordering::Relaxed)
    }
}

#[async_trait::async_trait]
impl Backend for MemoryBackend {
    fn describe(&self, object: &str) -> String {
        format!("memory/{object}")
    }
    async fn get(&self, object: &str, limit: u64) -> Result<bytes::Bytes> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let bytes = self.object(object)?;
        if bytes.len() as u64 > limit {
            let (object, place) = (self.describe(object), "length".into());
            return Err(Error::Corrupt { object, place, problem: format!("more than {limit} bytes") });
        }
        Ok(bytes.clone().into())
    }
    async fn get_range(&self, object: &str, range: Range<u64>) -> Result<ByteStream> {
        use futures::StreamExt;
        self.requests.fetch_add(1, Ordering::Relaxed);
        let short = |problem: &str| Error::unavailable(self.describe(object), problem);
        let bytes =
            self.object(object)?.get(range.start as usize..range.end as usize).ok_or_else(|| short("too short"))?;
        if bytes.is_empty() {
            return Err(short("an empty range"));
        }
        let chunks: Vec<_> = bytes.chunks(self.chunk.max(1)).map(|c| Ok(bytes::Bytes::copy_from_slice(c))).collect();
        Ok(futures::stream::iter(chunks).boxed())
    }
    fn fresh(&self) -> Arc<dyn Backend> {
        self.fresh.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { objects: self.objects.clone(), chunk: self.chunk, ..Self::default() })
    }
}
