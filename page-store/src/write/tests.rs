//! What was written, read back, against the memory it came from.

use super::{dedup::PageMap, pipeline, pipeline::Written, place::MAX_FRAMES_PER_WINDOW, *};
use crate::{
    Digest, FRAME_BYTES, FRAME_PAGES, FrameNumber, Location, SlimObject, Totals,
    index::{IndexPart, PartBounds},
    pack::SeekTable,
};
use criu_images::{
    FileNumber, ImageSource, Memory, PAGE_SIZE, PageAddr, PageRange, PageRun, PagesFile, Pid, Stored, Task, TaskState,
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    os::unix::fs::FileExt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// A checkpoint without image files.
struct NoFiles;

impl ImageSource for NoFiles {
    fn describe(&self, name: &str) -> String {
        name.into()
    }
    fn names(&self) -> criu_images::Result<Vec<String>> {
        Ok(Vec::new())
    }
    fn read(&self, _name: &str) -> criu_images::Result<Option<Vec<u8>>> {
        Ok(None)
    }
    fn open(&self, _name: &str) -> criu_images::Result<Option<PagesFile>> {
        Ok(None)
    }
    fn parent(&self) -> criu_images::Result<Option<Box<dyn ImageSource>>> {
        Ok(None)
    }
}

/// Neighbouring pages: how many are skipped before them, what they hold (0 is the zero page), whether they are lazy.
type Piece = (u64, Vec<u32>, bool);

/// The page that `id` stands for.
fn page(id: u32) -> Vec<u8> {
    let mut page = vec![0; PAGE_SIZE as usize];
    if id > 0 {
        // Half of it noise, so that frames compress a little.
        blake3::Hasher::new().update(&id.to_le_bytes()).finalize_xof().fill(&mut page[..2048]);
    }
    page
}

/// A checkpoint of tasks whose memory is given in pieces, and the lazy pages by (task, page index).
fn checkpoint(tasks: &[Vec<Piece>]) -> (Checkpoint, BTreeMap<(u32, u64), u32>) {
    let file = tempfile::tempfile().unwrap();
    let (mut offset, mut naive) = (0, BTreeMap::new());
    let mut model = Vec::new();
    for (task, pieces) in (0u32..).zip(tasks) {
        let (mut index, mut runs) = (0x5_5000 + u64::from(task), Vec::new());
        for (gap, ids, lazy) in pieces {
            index += gap;
            let range = PageRange::new(PageAddr::new(index * PAGE_SIZE).unwrap(), ids.len() as u64).unwrap();
            let stored = Stored::Here { file: FileNumber(0), offset };
            runs.push(PageRun { range, stored, lazy: *lazy, marked_lazy: *lazy });
            for id in ids {
                file.write_all_at(&page(*id), offset).unwrap();
                if *lazy {
                    naive.insert((task, index), *id);
                }
                offset += PAGE_SIZE;
                index += 1;
            }
        }
        let memory = Memory { mappings: Vec::new(), runs, args_and_env: 0..0, pages_id: task + 1 };
        model.push(Task {
            pid: Pid::new(task + 1).unwrap(),
            parent: None,
            threads: Vec::new(),
            state: TaskState::Alive,
            comm: "model".into(),
            memory: Some(memory),
        });
    }
    let pages_files = vec![PagesFile::new("pages-1.img".into(), Arc::new(file), 0, offset)];
    let source = Arc::new(NoFiles);
    (Checkpoint { source, image_version: 2, tasks: model, shared: Vec::new(), pages_files }, naive)
}

/// Keeps objects in memory; fails once it has taken `room` bytes.
#[derive(Clone)]
struct MemorySink {
    objects: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    room: Arc<AtomicU64>,
}

impl MemorySink {
    fn with_room(room: u64) -> Self {
        Self { objects: Arc::default(), room: Arc::new(room.into()) }
    }
}

struct MemoryObject {
    sink: MemorySink,
    bytes: Vec<u8>,
}

impl Write for MemoryObject {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.sink.room.load(Ordering::Relaxed);
        let left = room.checked_sub(bytes.len() as u64).ok_or(io::ErrorKind::StorageFull)?;
        self.sink.room.store(left, Ordering::Relaxed);
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ObjectWriter for MemoryObject {
    fn finish(self: Box<Self>, name: &str) -> Result<()> {
        self.sink.objects.lock().unwrap().insert(name.into(), self.bytes);
        Ok(())
    }
}

impl ObjectSink for MemorySink {
    fn begin(&self) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(MemoryObject { sink: self.clone(), bytes: Vec::new() }))
    }
    fn commit(&self, _manifest: &[u8]) -> Result<()> {
        panic!("not of this stage")
    }
}

fn write_pages(checkpoint: &Checkpoint, threads: usize, remembered: usize) -> (Written, MemorySink) {
    let sink = MemorySink::with_room(u64::MAX);
    let written =
        pipeline::run(checkpoint, &sink, 1, &(), threads, Base::with_limit(PageMap::with_limit(remembered))).unwrap();
    (written, sink)
}

/// Everything that can be read back: each page's content, and where it is, by (task, page index).
fn read_back(written: &Written, sink: &MemorySink) -> BTreeMap<(u32, u64), (Vec<u8>, Location)> {
    let objects = sink.objects.lock().unwrap();
    let nothing = crate::ObjectRef { object: String::new(), size: 0, blake3: String::new() };
    let manifest = Manifest {
        format: "pageferry-store".into(),
        version: 1,
        page_size: PAGE_SIZE,
        frame_pages: FRAME_PAGES,
        checkpoint_id: String::new(),
        image_version: 2,
        tasks: (1..=8)
            .map(|pid| crate::TaskEntry {
                pid,
                parent: None,
                comm: String::new(),
                threads: Vec::new(),
                state: String::new(),
                lazy_pages: 0,
                slim_pages: 0,
            })
            .collect(),
        index: written.index.clone(),
        packs: written.packs.clone(),
        slim: SlimObject { object: nothing, unpacked: 0, tripwire: true },
        totals: Totals::default(),
        working_sets: Vec::new(),
    };
    let parts: Vec<_> = (0..written.index.len())
        .map(|n| {
            let name = &written.index[n].object.object;
            IndexPart::decode(name, &objects[name], &PartBounds::of(&manifest, n).unwrap()).unwrap()
        })
        .collect();
    let mut frames = HashMap::new();
    let mut frame_plain = |frame: FrameNumber| {
        let plain = frames.entry(frame).or_insert_with(|| {
            let info = parts.iter().find_map(|p| p.frame(frame)).unwrap();
            let pack = &objects[&written.packs[info.pack as usize].object.object];
            let stored = &pack[info.offset as usize..][..info.stored_len as usize];
            let plain = zstd::bulk::decompress(stored, FRAME_BYTES as usize).unwrap();
            assert_eq!((plain.len() as u64, Digest::of(&plain)), (u64::from(info.pages) * PAGE_SIZE, info.digest));
            plain
        });
        plain.clone()
    };
    let everything = PageRange::from_bytes(0, PageAddr::LIMIT).unwrap();
    let mut pages = BTreeMap::new();
    for (task, part) in (0..8).flat_map(|task| parts.iter().map(move |p| (task, p))) {
        for run in part.runs(task, everything) {
            for n in 0..run.range.pages() {
                let location = run.location.advance(n);
                let content = match location {
                    Location::Zero => vec![0; PAGE_SIZE as usize],
                    Location::Page(p) => {
                        frame_plain(p.frame())[p.in_frame() * PAGE_SIZE as usize..][..PAGE_SIZE as usize].to_vec()
                    }
                };
                let before = pages.insert((task, run.range.start().get() / PAGE_SIZE + n), (content, location));
                assert!(before.is_none(), "a page in two runs");
            }
        }
    }
    pages
}

fn check(tasks: &[Vec<Piece>], remembered: usize) -> Written {
    let (checkpoint, naive) = checkpoint(tasks);
    let (written, sink) = write_pages(&checkpoint, 2, remembered);
    let read = read_back(&written, &sink);
    assert_eq!(naive.keys().collect::<Vec<_>>(), read.keys().collect::<Vec<_>>());
    let mut windows: BTreeMap<(u32, u64), BTreeSet<FrameNumber>> = BTreeMap::new();
    for ((task, index), id) in &naive {
        let (content, location) = &read[&(*task, *index)];
        assert!(*content == page(*id), "task {task}, page {index:#x}");
        match location {
            Location::Zero => assert_eq!(*id, 0, "zero pages are found and not stored"),
            Location::Page(p) => {
                windows.entry((*task, index / FRAME_PAGES)).or_default().insert(p.frame());
            }
        }
    }
    for (window, frames) in windows {
        assert!(frames.len() <= MAX_FRAMES_PER_WINDOW, "{window:?} needs {frames:?}");
    }
    let counts = written.counts;
    assert_eq!(counts.lazy, naive.len() as u64);
    assert_eq!(counts.zero, naive.values().filter(|&&id| id == 0).count() as u64);
    assert_eq!(counts.stored, sink.stored_pages(&written));
    written
}

impl MemorySink {
    /// Pages in all packs, by their seek tables.
    fn stored_pages(&self, written: &Written) -> u64 {
        let objects = self.objects.lock().unwrap();
        let mut pages = 0;
        for pack in &written.packs {
            let bytes = &objects[&pack.object.object];
            assert_eq!(pack.object.blake3, blake3::hash(bytes).to_hex().as_str());
            let table = &bytes[bytes.len() - SeekTable::encoded_len(pack.frames) as usize..];
            let entries = table[8..table.len() - 9].chunks(8);
            pages +=
                entries.map(|e| u64::from(u32::from_le_bytes(e[4..].try_into().unwrap())) / PAGE_SIZE).sum::<u64>();
        }
        pages
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn reads_back_what_was_there(
        tasks in prop::collection::vec(
            prop::collection::vec(
                (0u64..20, prop::collection::vec(0u32..120, 1..60), prop::bool::weighted(0.9)),
                1..12,
            ),
            1..4,
        ),
        remembered in prop::sample::select(vec![0usize, 64 * 4, 1 << 20]),
    ) {
        check(&tasks, remembered);
    }
}

#[test]
fn a_page_is_stored_once() {
    let ids: Vec<u32> = (1..=320).collect();
    let same = vec![(0, ids.clone(), true)];
    let written = check(&[same.clone(), same.clone(), same], 1 << 20);
    assert_eq!((written.counts.stored, written.counts.distinct), (320, 320));
    assert_eq!(written.packs.iter().map(|p| p.frames).sum::<u64>(), 20);
}

#[test]
fn a_scattered_window_is_stored_again_and_its_copies_are_not() {
    let all: Vec<u32> = (1..=1600).collect();
    let scattered: Vec<u32> = (0..16).map(|n| 1 + n * 97).collect();
    // Aligned windows: the first page of a task has its number added to its index.
    let tasks: Vec<Vec<Piece>> = (0..4)
        .map(|task| if task == 0 { vec![(0, all.clone(), true)] } else { vec![(16 - task, scattered.clone(), true)] })
        .collect();
    let written = check(&tasks, 1 << 20);
    assert_eq!(written.counts.distinct, 1600);
    assert!((1614..=1616).contains(&written.counts.stored), "{:?}", written.counts);
}

#[test]
fn the_same_bytes_whatever_the_threads() {
    let tasks: Vec<Vec<Piece>> =
        (0..3).map(|t| vec![(3, (0..2500).map(|n| (n * 7 + t * 13) % 1100).collect(), true)]).collect();
    let (checkpoint, _) = checkpoint(&tasks);
    let (_, one) = write_pages(&checkpoint, 1, 1 << 20);
    for threads in [2, 5] {
        let (_, many) = write_pages(&checkpoint, threads, 1 << 20);
        assert!(*one.objects.lock().unwrap() == *many.objects.lock().unwrap());
    }
}

#[test]
fn nothing_lazy_needs_no_pack() {
    let written = check(&[vec![(0, vec![1, 2, 3], false)], vec![]], 1 << 20);
    assert!(written.packs.is_empty() && written.counts.lazy == 0);
    let written = check(&[vec![(0, vec![0; 100], true)]], 1 << 20);
    assert!(written.packs.is_empty() && written.counts.zero == 100);
}

#[test]
fn a_full_disk_stops_every_stage() {
    let (checkpoint, _) = checkpoint(&[vec![(0, (1..=4000).collect(), true)]]);
    for room in [0, 1000, 1 << 20, 7 << 20] {
        let sink = MemorySink::with_room(room);
        let error = pipeline::run(&checkpoint, &sink, 1, &(), 2, Base::none()).unwrap_err();
        assert!(
            matches!(&error, crate::Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull),
            "{error}"
        );
    }
}

#[test]
fn cancelling_stops_every_stage() {
    struct After(AtomicU64, AtomicBool);
    impl Progress for After {
        fn advance(&self, bytes: u64) {
            self.0.fetch_add(bytes, Ordering::Relaxed);
            self.1.store(true, Ordering::Relaxed);
        }
        fn cancelled(&self) -> bool {
            self.1.load(Ordering::Relaxed)
        }
    }
    let (checkpoint, _) = checkpoint(&[vec![(0, (1..=4000).collect(), true)]]);
    let progress = After(AtomicU64::new(0), AtomicBool::new(false));
    let sink = MemorySink::with_room(u64::MAX);
    let error = pipeline::run(&checkpoint, &sink, 1, &progress, 2, Base::none()).unwrap_err();
    assert!(error.to_string().contains("stopped"), "{error}");
    assert!(progress.0.load(Ordering::Relaxed) < 4000 * PAGE_SIZE);
}

#[test]
fn a_pages_file_cut_short_is_an_error() {
    let (mut checkpoint, _) = checkpoint(&[vec![(0, (1..=40).collect(), true)]]);
    let short = tempfile::tempfile().unwrap();
    checkpoint.pages_files[0] = PagesFile::new("pages-1.img".into(), Arc::new(short), 0, 39 * PAGE_SIZE);
    let error = pipeline::run(&checkpoint, &MemorySink::with_room(u64::MAX), 1, &(), 2, Base::none()).unwrap_err();
    assert!(error.to_string().contains("pages-1.img"), "{error}");
}
