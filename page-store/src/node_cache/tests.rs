//! The cache against a model that forgets nothing; then what disks, other processes and their ends do to it.

use super::*;
use crate::CacheCounters;
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions, Permissions},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::PathBuf,
    process::{Command, Stdio},
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn open(folder: &Path) -> NodeCache {
    open_of(folder, MIN_CACHE_BYTES)
}

fn open_of(folder: &Path, limit: u64) -> NodeCache {
    NodeCache::open(folder, limit, Arc::default()).unwrap()
}

/// Frame number `n`: its digest and its bytes, of a length of its own, that do not compress.
fn frame(n: u64) -> (Digest, Bytes) {
    let mut bytes = vec![0; 1000 + (n * 7919 % 60_000) as usize];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut bytes);
    (Digest::of(&bytes), bytes.into())
}

fn put(cache: &NodeCache, n: u64) {
    let (digest, bytes) = frame(n);
    cache.keep_frame(&digest, PackEncoding::Plain, bytes);
}

fn put_all(cache: &NodeCache, frames: impl IntoIterator<Item = u64>) {
    for n in frames {
        put(cache, n);
        cache.flush(PATIENCE);
    }
}

/// What the cache has for frame `n`; never anything else than its bytes.
async fn get(cache: &NodeCache, n: u64) -> bool {
    let (digest, bytes) = frame(n);
    let decode = |encoding, stored: Bytes| {
        assert_eq!(encoding, PackEncoding::Plain);
        if Digest::of(&stored) == digest { Ok(stored) } else { Err("digest".to_owned()) }
    };
    match cache.frame(&digest, decode).await {
        Some(found) => {
            assert!(found == bytes, "frame {n} is another one's");
            true
        }
        None => false,
    }
}

async fn count(cache: &NodeCache, frames: impl IntoIterator<Item = u64>) -> usize {
    let mut found = 0;
    for n in frames {
        found += usize::from(get(cache, n).await);
    }
    found
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "segment")).collect();
    paths.sort();
    paths
}

fn used(folder: &Path) -> u64 {
    segments(folder).iter().filter_map(|path| fs::metadata(path).ok()).map(|metadata| metadata.blocks() * 512).sum()
}

fn writable(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn load(counter: &std::sync::atomic::AtomicU64) -> u64 {
    counter.load(Relaxed)
}

fn counters(cache: &NodeCache) -> &CacheCounters {
    &cache.shared().counters
}

#[tokio::test]
async fn what_was_put_is_there_also_for_the_next() {
    let dir = folder();
    let cache = open(&dir.path().join("cache"));
    assert!(!get(&cache, 1).await);
    put_all(&cache, 0..50);
    assert_eq!(count(&cache, 0..50).await, 50);
    assert!(!get(&cache, 50).await);
    put_all(&cache, 0..50);
    let once = load(&counters(&cache).kept_bytes);
    assert_eq!(once, (0..50).map(|n| frame(n).1.len() as u64).sum::<u64>(), "nothing twice");
    drop(cache);
    let cache = open(&dir.path().join("cache"));
    assert_eq!(count(&cache, 0..51).await, 50);
    let counters = counters(&cache);
    assert_eq!((load(&counters.hits), load(&counters.bytes), load(&counters.wrong)), (50, once, 0));
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&dir.path().join("cache")), 0o700);
    assert!(segments(&dir.path().join("cache")).iter().all(|segment| mode(segment) == 0o600));
}

#[tokio::test]
async fn a_writer_goes_on_where_another_has_ended_and_two_at_once_do_not_meet() {
    let dir = folder();
    // With room for all of it in one segment.
    let open = |folder: &Path| open_of(folder, 256 << 20);
    for round in 0..4 {
        let cache = open(dir.path());
        put_all(&cache, round * 10..round * 10 + 10);
        drop(cache);
        // The thread ends soon after.
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(segments(dir.path()).len(), 1);
    let (one, two) = (open(dir.path()), open(dir.path()));
    for n in 100..120 {
        put(&one, n);
        put(&two, n + 20);
    }
    one.flush(PATIENCE);
    two.flush(PATIENCE);
    assert_eq!(segments(dir.path()).len(), 2);
    for cache in [&one, &two] {
        cache.tidy();
        assert_eq!(count(cache, (0..40).chain(100..140)).await, 80);
    }
    assert_eq!(count(&open(dir.path()), (0..40).chain(100..140)).await, 80);
}

#[tokio::test]
async fn what_another_adds_is_seen_without_being_told() {
    let dir = folder();
    let (reader, writer) = (open(dir.path()), open(dir.path()));
    put_all(&writer, 0..10);
    assert_eq!(count(&reader, 0..10).await, 0);
    tokio::time::sleep(NEWS_EVERY + Duration::from_millis(100)).await;
    // Something is missed.
    put(&reader, 1000);
    let start = Instant::now();
    while count(&reader, 0..10).await < 10 {
        assert!(start.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_limit_holds_and_what_is_used_stays() {
    let dir = folder();
    let (one, two) = (open(dir.path()), open(dir.path()));
    let old = |path: &Path| {
        let past = std::time::SystemTime::now() - Duration::from_secs(1000);
        writable(path).set_modified(past).unwrap();
    };
    put_all(&one, 0..20);
    for n in 20..2000 {
        let cache = if n % 3 == 0 { &one } else { &two };
        put(cache, n);
        if n % 50 == 0 {
            one.flush(PATIENCE);
            two.flush(PATIENCE);
            let used = used(dir.path());
            assert!(used <= MIN_CACHE_BYTES, "{used} bytes after {n} frames");
            // All are old but those that somebody reads, now.
            segments(dir.path()).iter().for_each(|path| old(path));
            let reader = open(dir.path());
            assert_eq!(count(&reader, 0..20).await, 20, "after {n}");
            let before = Instant::now();
            while segments(dir.path()).iter().all(|path| {
                fs::metadata(path).unwrap().modified().unwrap().elapsed().unwrap_or_default() > Duration::from_secs(500)
            }) {
                assert!(before.elapsed() < PATIENCE, "nobody touches what is read");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            drop(reader);
        }
    }
    one.flush(PATIENCE);
    two.flush(PATIENCE);
    let fresh = open(dir.path());
    let all = count(&fresh, 0..2000).await;
    assert!(all > 300 && all < 700, "{all}: some 500 frames of 31 KiB have room");
    assert_eq!(count(&fresh, 0..20).await, 20);
    assert_eq!(count(&fresh, 1990..2000).await, 10);
    // Those who had what was removed notice.
    one.tidy();
    assert!(count(&one, 0..2000).await <= all);
    assert_eq!(load(&counters(&one).wrong) + load(&counters(&fresh).wrong), 0);
}

#[tokio::test]
async fn where_others_have_reserved_everything_nothing_is_kept() {
    let dir = folder();
    let caches: Vec<_> = (0..20).map(|_| open(dir.path())).collect();
    for (n, cache) in caches.iter().enumerate() {
        put_all(cache, [n as u64]);
    }
    assert_eq!(segments(dir.path()).len(), 16);
    assert_eq!(caches.iter().map(|cache| load(&counters(cache).skipped)).sum::<u64>(), 4);
    assert_eq!(count(&open(dir.path()), 0..20).await, 16);
    drop(caches);
}

#[tokio::test]
async fn what_is_wrong_on_the_disk_is_not_used() {
    let dir = folder();
    let open = |folder: &Path| open_of(folder, 256 << 20);
    let cache = open(dir.path());
    put_all(&cache, 0..40);
    let path = segments(dir.path()).remove(0);
    let file = writable(&path);
    let mut slots = Vec::new();
    segment::slots(&file, 0, |number, slot| slots.push((number, slot))).unwrap();
    // A flipped bit, a slot of another record, a slot of nonsense, and an end that is not there.
    file.write_all_at(b"flip", (slots[3].1.offset + 7).into()).unwrap();
    file.write_all_at(&slots[5].1.to_bytes(), slot_offset(slots[6].0)).unwrap();
    file.write_all_at(&[0xab; 32], slot_offset(slots[9].0)).unwrap();
    file.write_all_at(&Slot { len: u32::MAX, ..slots[11].1 }.to_bytes(), slot_offset(slots[11].0)).unwrap();
    file.set_len(slots[38].1.offset.into()).unwrap();
    for cache in [&cache, &open(dir.path())] {
        let lost: Vec<_> = [3, 6, 9, 11, 38, 39].into();
        for n in 0..40 {
            assert_eq!(get(cache, n).await, !lost.contains(&n), "{n}");
            assert_eq!(get(cache, n).await, !lost.contains(&n), "{n} again");
        }
        assert!(load(&counters(cache).wrong) >= 4);
    }
    // What is fetched again is kept again.
    put_all(&cache, 0..40);
    assert_eq!(count(&cache, 0..40).await, 40);
}

#[tokio::test]
async fn objects_are_kept_whole() {
    let dir = folder();
    let cache = open(dir.path());
    let object = |bytes: &[u8]| ObjectRef {
        object: "slim/x".into(),
        size: bytes.len() as u64,
        blake3: blake3::hash(bytes).to_hex().to_string(),
    };
    let read = async |cache: &NodeCache, object: &ObjectRef| {
        let found = cache.object(object).await?;
        crate::backend::read_range_of(found.body, "x", &(0..object.size)).await.ok()
    };
    let large: Bytes = (0..200_000).flat_map(|n: u32| n.to_le_bytes()).collect();
    let small = frame(7).1;
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&large, 0).unwrap();
    cache.keep_file(&object(&large), file);
    cache.keep_object(&object(&small), small.clone());
    cache.flush(PATIENCE);
    for cache in [&cache, &open(dir.path())] {
        assert!(read(cache, &object(&large)).await.unwrap() == large);
        assert!(read(cache, &object(&small)).await.unwrap() == small);
        // The same bytes as a frame are another record; an object of another length is none.
        assert!(!get(cache, 7).await);
        let shorter = ObjectRef { size: 5, ..object(&small) };
        assert!(read(cache, &shorter).await.is_none());
    }
    // Larger than a quarter of the cache: not kept. Larger than a segment of this cache: kept.
    let (huge, big) = (vec![1; 5 << 20], vec![2; 3 << 20]);
    cache.keep_object(&object(&huge), huge.clone().into());
    cache.keep_object(&object(&big), big.clone().into());
    cache.flush(PATIENCE);
    assert!(read(&cache, &object(&huge)).await.is_none());
    assert!(read(&cache, &object(&big)).await.unwrap() == big);
    assert!(used(dir.path()) <= MIN_CACHE_BYTES);
}

#[test]
fn a_folder_that_is_something_else_is_refused_and_one_that_cannot_be_is_an_error_of_the_disk() {
    let dir = folder();
    let at = |name: &str| dir.path().join(name);
    let opened = |path: &Path| NodeCache::open(path, MIN_CACHE_BYTES, Arc::default()).map(drop);
    fs::create_dir(at("photos")).unwrap();
    fs::write(at("photos/holiday.jpg"), "x").unwrap();
    fs::create_dir(at("open")).unwrap();
    fs::set_permissions(at("open"), Permissions::from_mode(0o777)).unwrap();
    fs::create_dir(at("theirs")).unwrap();
    std::os::unix::fs::chown(at("theirs"), Some(12345), None).unwrap();
    for (name, word) in [("photos", "no node cache"), ("open", "mode 777"), ("theirs", "belongs to user 12345")] {
        let error = opened(&at(name)).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }) && error.to_string().contains(word), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    assert_eq!(fs::read_dir(at("photos")).unwrap().count(), 1, "nothing was put there");
    fs::write(at("file"), "x").unwrap();
    for path in [at("file"), at("file/below"), PathBuf::from("/proc/nothing/here")] {
        let error = opened(&path).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
    }
    // A new disk, and one that is there with wide permissions, are fine.
    fs::create_dir_all(at("disk/lost+found")).unwrap();
    opened(&at("disk")).unwrap();
    assert_eq!(fs::metadata(at("disk")).unwrap().mode() & 0o777, 0o700);
    opened(&at("a/b/c")).unwrap();
    assert!(
        fs::read_to_string(at("a/b/c/CACHEDIR.TAG"))
            .unwrap()
            .starts_with("Signature: 8a477f597d28d172789f06886806bc55")
    );
}

#[tokio::test]
async fn what_else_is_in_the_folder_is_left_alone() {
    let dir = folder();
    let cache = open(dir.path());
    put_all(&cache, 0..5);
    let name = |n: u64| segment::path(dir.path(), n);
    fs::create_dir(name(1)).unwrap();
    fs::write(name(2), "").unwrap();
    fs::write(name(3), vec![0xff; 1 << 20]).unwrap();
    std::os::unix::fs::symlink("/dev/zero", name(4)).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, name(5), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    fs::write(name(6), segment::header(u64::MAX)).unwrap();
    fs::write(dir.path().join("notes"), "mine").unwrap();
    let other = open(dir.path());
    put_all(&other, 5..1000);
    assert_eq!(fs::read(dir.path().join("notes")).unwrap(), b"mine");
    assert!(name(1).is_dir() && name(4).is_symlink());
    assert_eq!(count(&other, 990..1000).await, 10);
    assert!(used(dir.path()) <= MIN_CACHE_BYTES + (1 << 20));
}

#[tokio::test]
async fn a_disk_that_hangs_is_left_alone_for_a_while() {
    let dir = folder();
    let cache = open(dir.path());
    put_all(&cache, 0..3);
    let shared = cache.shared();
    assert!(shared.in_time(std::future::pending::<()>()).await.is_none());
    assert!(!get(&cache, 1).await);
    assert!(shared.in_time(std::future::ready(7)).await.is_none());
    *shared.hung.lock().unwrap() = Instant::now().checked_sub(REST);
    assert_eq!(shared.in_time(std::future::ready(7)).await, Some(7));
    assert!(get(&cache, 1).await);
    assert_eq!(load(&counters(&cache).wrong), 0);
}

/// As many segments as a cache of 10 GiB has, with as many records.
#[tokio::test]
async fn a_large_cache_opens_soon_and_takes_little_memory() {
    const SEGMENTS: u64 = 160;
    const RECORDS: u16 = 2600;
    let dir = folder();
    drop(open(dir.path()));
    let digest = |n: u64| Digest::of(&n.to_le_bytes());
    for id in 0..SEGMENTS {
        let mut table = segment::header(64 << 20).to_vec();
        for slot in 0..RECORDS {
            let digest = digest(id * u64::from(RECORDS) + u64::from(slot));
            let record = Slot { digest, kind: Kind::Object, offset: segment::TABLE as u32, len: 26_000 };
            table.extend(record.to_bytes());
        }
        fs::write(segment::path(dir.path(), id), table).unwrap();
    }
    let start = Instant::now();
    let cache = open(dir.path());
    let opened = start.elapsed();
    let start = Instant::now();
    cache.tidy();
    let (tidied, records) = (start.elapsed(), SEGMENTS * u64::from(RECORDS));
    let start = Instant::now();
    assert!((0..records).all(|n| cache.has_frame(&digest(n))));
    println!("{records} records: opened in {opened:?}, tidied in {tidied:?}, looked for in {:?}", start.elapsed());
    let index = cache.shared().index();
    assert_eq!(index.len() as u64, records);
}

/// Mounts a small file system; needs root.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: PathBuf, options: &str) -> Self {
        fs::create_dir_all(&path).unwrap();
        let disk = Self(path);
        disk.run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "pageferry-test"]));
        disk
    }

    fn run(&self, mount: &mut Command) {
        assert!(mount.arg(&self.0).status().unwrap().success(), "needs root: {mount:?}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).stderr(Stdio::null()).status();
    }
}

#[tokio::test]
async fn a_full_disk_stops_the_writer_and_nothing_else() {
    let dir = folder();
    for options in ["mode=700,size=2m", "mode=700,size=64k", "mode=700,nr_inodes=4"] {
        let disk = Disk::mount(dir.path().join("disk"), options);
        let cache = open(&disk.0);
        put_all(&cache, 0..200);
        let kept = count(&cache, 0..200).await;
        let skipped = load(&counters(&cache).skipped);
        assert!(kept < 200 && skipped > 0, "{options}: {kept} kept, {skipped} not");
        assert_eq!(load(&counters(&cache).wrong), 0);
        assert_eq!(count(&open(&disk.0), 0..200).await, kept, "{options}");
    }
}

#[tokio::test]
async fn a_disk_that_is_not_written_to_is_read() {
    let dir = folder();
    let disk = Disk::mount(dir.path().join("disk"), "mode=700,size=32m");
    put_all(&open(&disk.0), 0..20);
    std::thread::sleep(Duration::from_millis(50));
    disk.run(Command::new("mount").args(["-o", "remount,ro"]));
    let cache = open(&disk.0);
    put_all(&cache, 20..40);
    assert_eq!(count(&cache, 0..40).await, 20);
    assert_eq!(load(&counters(&cache).skipped), 20);
    // An empty one can be no cache.
    let empty = Disk::mount(dir.path().join("empty"), "mode=700,size=1m,ro");
    assert!(matches!(NodeCache::open(&empty.0, MIN_CACHE_BYTES, Arc::default()), Err(Error::Io { .. })));
}

const CHILD: &str = "PAGEFERRY_TEST_CACHE";

/// Run in another process, by the tests below.
#[test]
fn child_that_writes() {
    let Some(place) = std::env::var_os(CHILD) else { return };
    let cache = open(Path::new(&place));
    let first = u64::from(std::process::id()) * 1_000_000;
    for n in 0..100_000 {
        // The same in all children, then their own.
        put(&cache, if n % 2 == 0 { n } else { first + n });
        if n % 10 == 0 {
            cache.flush(PATIENCE);
        }
    }
}

fn child(folder: &Path) -> std::process::Child {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "node_cache::tests::child_that_writes"]).env(CHILD, folder);
    child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[tokio::test]
async fn killed_writers_leave_nothing_wrong_and_their_segments_to_others() {
    let dir = folder();
    let cache = open(dir.path());
    for round in 0..12_u64 {
        let mut children = [child(dir.path()), child(dir.path())];
        std::thread::sleep(Duration::from_millis(40 + round * 13));
        children.iter_mut().for_each(|child| child.kill().unwrap());
        assert!(children.iter_mut().all(|child| !child.wait().unwrap().success()), "killed before it was done");
        cache.tidy();
        let fresh = open(dir.path());
        let (old, new) = (count(&cache, 0..200).await, count(&fresh, 0..200).await);
        assert_eq!(old, new, "round {round}");
        // Nobody writes any more, but the kernel writes back: ext4 adds what it has reserved for a file to what it has allocated, and for a
        // moment a block can be both.
        let looks = (0..50).map(|look| {
            std::thread::sleep(Duration::from_millis(look));
            used(dir.path())
        });
        let used = looks.take_while(|used| *used > MIN_CACHE_BYTES).collect::<Vec<_>>();
        assert!(used.len() < 50, "{used:?} bytes in round {round}");
        let counters = [counters(&cache), counters(&fresh)];
        assert_eq!(counters.map(|counters| load(&counters.wrong)), [0, 0], "round {round}");
    }
    assert!(count(&cache, 0..100_000).await > 0);
    // A full one has 0.75 MiB: the table takes no room where nothing is in it.
    let segments = segments(dir.path()).len();
    assert!(segments <= 24, "{segments}: each goes on with what another has left");
    put_all(&cache, 500_000..500_010);
    assert_eq!(count(&cache, 500_000..500_010).await, 10);
}

/// What happens to a cache.
#[derive(Clone, Debug)]
enum Step {
    /// By one of two instances.
    Put(usize, u64),
    Get(usize, u64),
    Tidy(usize),
    Reopen(usize),
    /// Of a segment, at a place in thousandths of its length.
    Corrupt(usize, u64),
    Truncate(usize, u64),
    Remove(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (who, what, place) = (0..2_usize, 0..400_u64, 0..1000_u64);
    prop_oneof![
        60 => (who.clone(), what.clone()).prop_map(|(who, n)| Step::Put(who, n)),
        60 => (who.clone(), what).prop_map(|(who, n)| Step::Get(who, n)),
        4 => who.clone().prop_map(Step::Tidy),
        4 => who.prop_map(Step::Reopen),
        2 => (0..20_usize, place.clone()).prop_map(|(segment, at)| Step::Corrupt(segment, at)),
        1 => (0..20_usize, place).prop_map(|(segment, at)| Step::Truncate(segment, at)),
        1 => (0..20_usize).prop_map(Step::Remove),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// What is found was put and is what was put; as long as nothing was damaged or removed, what was put is found by who put it.
    #[test]
    fn like_a_map_that_may_forget(steps in proptest::collection::vec(step(), 1..300)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = folder();
            let mut caches = [open(dir.path()), open(dir.path())];
            let mut model: BTreeMap<u64, [bool; 2]> = BTreeMap::new();
            let mut intact = true;
            let pick = |at: usize| segments(dir.path()).get(at).cloned();
            for step in steps {
                match step {
                    Step::Put(who, n) => {
                        put(&caches[who], n);
                        caches[who].flush(PATIENCE);
                        model.entry(n).or_default()[who] = true;
                    }
                    Step::Get(who, n) => {
                        let found = get(&caches[who], n).await;
                        let put = model.get(&n).copied().unwrap_or_default();
                        assert!(!found || put != [false; 2], "{n} was never put");
                        // 400 frames take 12 of 16 MiB, with copies of both; nothing has to go before that.
                        assert!(found || !put[who] || !intact || used(dir.path()) > (8 << 20), "{n} is lost");
                    }
                    Step::Tidy(who) => caches[who].tidy(),
                    Step::Reopen(who) => {
                        caches[who] = open(dir.path());
                        if intact && used(dir.path()) <= (8 << 20) {
                            model.values_mut().for_each(|put| put[who] |= put[1 - who]);
                        }
                    }
                    Step::Corrupt(at, place) => if let Some(path) = pick(at) {
                        let file = writable(&path);
                        let len = file.metadata().unwrap().len();
                        file.write_all_at(&[0x5a; 64], len * place / 1000).unwrap();
                        intact = false;
                    },
                    Step::Truncate(at, place) => if let Some(path) = pick(at) {
                        let file = writable(&path);
                        file.set_len(file.metadata().unwrap().len() * place / 1000).unwrap();
                        intact = false;
                    },
                    Step::Remove(at) => if let Some(path) = pick(at) {
                        fs::remove_file(path).unwrap();
                        intact = false;
                    },
                }
                assert!(used(dir.path()) <= MIN_CACHE_BYTES);
            }
        });
    }
}
