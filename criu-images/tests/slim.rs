//! Slim dumps and the way back: `join(strip(x)) == x`.

mod common;

use common::{golden, join, open, open_error, page_bytes, snapshot, write_slim};
use criu_images::{
    Error, PAGE_SIZE, PageRun, Stored, bits,
    testing::{Counting, Dump, LAZY, PARENT, PRESENT, Pages, Task, Vma, split_into_chain},
};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

/// Slim and joined again, both ways; the joined folder must be as the dump.
fn round_trip(dump: &Path) {
    let full = open(dump).unwrap();
    for tripwire in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (slim, again, out) = (dir.path().join("slim"), dir.path().join("again"), dir.path().join("out"));
        write_slim(dump, &slim, tripwire).unwrap();
        write_slim(dump, &again, tripwire).unwrap();
        assert!(snapshot(&slim) == snapshot(&again), "not deterministic");
        join(&slim, &full, &out);
        let (was, is) = (snapshot(dump), snapshot(&out));
        assert_eq!(was.keys().collect::<Vec<_>>(), is.keys().collect::<Vec<_>>());
        for (name, file) in was {
            assert!(file == is[&name], "{name} differs");
        }
        same_checkpoint(dump, &slim);
    }
}

/// A slim dump opens as the same checkpoint, with its lazy pages elsewhere.
fn same_checkpoint(dump: &Path, slim: &Path) {
    let (full, slim) = (open(dump).unwrap(), open(slim).unwrap());
    assert_eq!(full.tasks.len(), slim.tasks.len());
    for (a, b) in full.tasks.iter().zip(&slim.tasks) {
        let (Some(a), Some(b)) = (&a.memory, &b.memory) else { continue };
        let pages = |runs: &[PageRun], lazy| {
            let runs = runs.iter().filter(move |run| run.lazy == lazy);
            let pages = runs.flat_map(|run| (0..run.range.pages()).map(|i| run.range.start().get() + i * PAGE_SIZE));
            pages.collect::<Vec<_>>()
        };
        assert_eq!(pages(&a.runs, true), pages(&b.runs, true));
        assert_eq!(pages(&a.runs, false), pages(&b.runs, false));
        for run in &b.runs {
            assert_eq!(run.lazy, run.stored == Stored::Elsewhere, "{run:?}");
            assert_eq!(run.lazy, run.marked_lazy, "{run:?}");
        }
    }
    for task in &full.tasks {
        for run in task.memory.iter().flat_map(|m| &m.runs).filter(|run| !run.lazy) {
            let addr = run.range.start().get();
            assert_eq!(page_bytes(&full, task.pid, addr), page_bytes(&slim, task.pid, addr));
        }
    }
}

#[test]
fn golden_dumps_come_back_byte_for_byte() {
    for name in ["criu-4.1", "criu-4.2"] {
        let (_dir, dump) = golden(name);
        // What else may lie in such a folder.
        fs::write(dump.join("empty"), "").unwrap();
        fs::write(dump.join("dump.log"), "log").unwrap();
        fs::set_permissions(dump.join("dump.log"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::create_dir_all(dump.join("more/nothing")).unwrap();
        fs::write(dump.join("more/file"), "x").unwrap();
        symlink("../elsewhere", dump.join("more/link")).unwrap();
        round_trip(&dump);
    }
}

#[test]
fn every_way_of_counting_pages_comes_back() {
    for counting in [Counting::V3, Counting::V41, Counting::V42] {
        let dir = tempfile::tempdir().unwrap();
        let dump = dir.path().join("dump");
        let big = Task::new(7).anonymous(0x10_0000, 5000).pages(Pages::here(0x10_0000, 4000));
        let dead = Task { state: 2, ..Task::new(8) };
        let none = Task::new(9).anonymous(0x10_0000, 4);
        Dump { counting, ..Dump::new() }.task(big).task(dead).task(none).write(&dump).unwrap();
        round_trip(&dump);
    }
}

#[test]
fn entries_are_cut_where_laziness_changes_and_at_1024_pages() {
    let dir = tempfile::tempdir().unwrap();
    let (dump, slim) = (dir.path().join("dump"), dir.path().join("slim"));
    let file = Vma {
        start: 0x90_0000,
        pages: 4,
        flags: bits::MAP_PRIVATE,
        status: 1 | bits::STATUS_FILE_PRIVATE,
        shmid: 3,
        pgoff: 0,
    };
    // One entry over both mappings; argv in the middle of the first.
    let mut task = Task::new(7).anonymous(0x10_0000, 0x800).vma(file).pages(Pages::here(0x10_0000, 0x804));
    (task.args, task.env) = (0x20_0010..0x20_1010, 0x20_1010..0x20_1020);
    Dump::new().task(task).write(&dump).unwrap();
    write_slim(&dump, &slim, false).unwrap();
    let checkpoint = open(&slim).unwrap();
    let runs = &checkpoint.tasks[0].memory.as_ref().unwrap().runs;
    let seen: Vec<_> = runs.iter().map(|run| (run.range.start().get(), run.range.pages(), run.lazy)).collect();
    let expected = [(0x10_0000, 0x100, true), (0x20_0000, 2, false), (0x20_2000, 0x6fe, true), (0x90_0000, 4, false)];
    assert_eq!(seen, expected);
    assert_eq!(fs::metadata(slim.join("pages-1.img")).unwrap().len(), 6 * PAGE_SIZE);
    // Two magics, the head, and the entries: 256, 2, 1024 + 766, 4 pages.
    let entries = entries(&fs::read(slim.join("pagemap-7.img")).unwrap());
    assert_eq!(entries, 1 + 5);
    round_trip(&dump);
}

/// Counts length-prefixed entries.
fn entries(image: &[u8]) -> usize {
    let (mut at, mut count) = (8, 0);
    while at < image.len() {
        at += 4 + u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) as usize;
        count += 1;
    }
    count
}

#[test]
fn what_the_restorer_does_not_register_stays() {
    use bits::*;
    const ANON: u32 = MAP_PRIVATE | MAP_ANONYMOUS;
    let cases = [
        (ANON, STATUS_ANON_PRIVATE, true),
        (ANON | 0x100, STATUS_ANON_PRIVATE | STATUS_STACK, true),
        (ANON | MAP_LOCKED, STATUS_ANON_PRIVATE, false),
        (ANON | MAP_HUGETLB, STATUS_ANON_PRIVATE, false),
        (MAP_PRIVATE, STATUS_FILE_PRIVATE, false),
        (ANON, STATUS_VDSO, false),
        (ANON, STATUS_ANON_PRIVATE | STATUS_SHADOW_STACK, false),
        (ANON, STATUS_AIORING, false),
    ];
    for (flags, status, lazy) in cases {
        let dir = tempfile::tempdir().unwrap();
        let vma = Vma { start: 0x10_0000, pages: 2, flags, status: status | 1, shmid: 0, pgoff: 0 };
        // CRIU's own mark says the opposite: it does not count.
        let mark = if lazy { PRESENT } else { PRESENT | LAZY };
        let guard = Vma { start: 0x10_1000, pages: 1, status: STATUS_GUARD, ..vma };
        let task = Task::new(1).vma(vma).vma(guard).pages(Pages::new(0x10_0000, 2, mark));
        Dump::new().task(task).write(&dir.path().join("dump")).unwrap();
        let checkpoint = open(&dir.path().join("dump")).unwrap();
        let memory = checkpoint.tasks[0].memory.as_ref().unwrap();
        assert_eq!(memory.mappings.len(), 1, "guards are no mappings");
        assert_eq!(memory.runs.len(), 1);
        assert_eq!(memory.runs[0].lazy, lazy, "flags {flags:#x}, status {status:#x}");
        assert_eq!(memory.runs[0].marked_lazy, !lazy);
        round_trip(&dir.path().join("dump"));
    }
}

/// A child that forks while a wiped page is missing would fault for it and be given its parent's bytes.
#[test]
fn memory_that_fork_wipes_stays() {
    let wiped = bits::ADVICE_WIPE_ON_FORK;
    for (advice, expected) in [(None, false), (Some(wiped), true), (Some(wiped | 1 << 16), true), (Some(!wiped), false)]
    {
        let dir = tempfile::tempdir().unwrap();
        let dump = dir.path().join("dump");
        let mut task = Task::new(1).anonymous(0x10_0000, 4).anonymous(0x10_4000, 4);
        task.advice.extend(advice.map(|advice| (0x10_0000, advice)));
        // CRIU marks all of it.
        Dump::new().task(task.pages(Pages::new(0x10_0000, 8, PRESENT | LAZY))).write(&dump).unwrap();
        let checkpoint = open(&dump).unwrap();
        let memory = checkpoint.tasks[0].memory.as_ref().unwrap();
        let wiped: Vec<_> = memory.mappings.iter().map(|m| (m.wiped_on_fork, m.can_be_lazy)).collect();
        assert_eq!(wiped, [(expected, true), (false, true)], "{advice:?}");
        let lazy: Vec<_> = memory.runs.iter().map(|run| (run.range.start().get(), run.lazy)).collect();
        assert_eq!(lazy, [(0x10_0000, !expected), (0x10_4000, true)], "{advice:?}");
        round_trip(&dump);
    }
}

#[test]
fn pages_outside_of_every_mapping_stay() {
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("dump");
    let task = Task::new(1).anonymous(0x10_2000, 2).pages(Pages::new(0x10_0000, 6, PRESENT | LAZY));
    Dump::new().task(task).write(&dump).unwrap();
    let checkpoint = open(&dump).unwrap();
    let runs = &checkpoint.tasks[0].memory.as_ref().unwrap().runs;
    let seen: Vec<_> = runs.iter().map(|run| (run.range.start().get(), run.range.pages(), run.lazy)).collect();
    assert_eq!(seen, [(0x10_0000, 2, false), (0x10_2000, 2, true), (0x10_4000, 2, false)]);
    round_trip(&dump);
}

#[test]
fn a_chain_comes_back_as_the_full_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let task = |pages: &[Pages]| Task { pages: pages.to_vec(), ..Task::new(5).anonymous(0x10_0000, 64) };
    let old = |start, pages| Pages { generation: 1, ..Pages::here(start, pages) };
    let new = |start, pages| Pages { generation: 2, ..Pages::here(start, pages) };
    let latest = |start, pages| Pages { generation: 3, ..Pages::here(start, pages) };
    let parent = |start, pages| Pages::new(start, pages, PARENT);
    let shared = |pages: &[Pages]| (77, pages.to_vec());
    Dump { shared: vec![shared(&[old(0, 4)])], ..Dump::new() }
        .task(task(&[old(0x10_0000, 16)]))
        .write(&path("1"))
        .unwrap();
    Dump { parent: Some("../1".into()), shared: vec![shared(&[parent(0, 2), new(0x2000, 2)])], ..Dump::new() }
        .task(task(&[parent(0x10_0000, 8), new(0x10_8000, 4), parent(0x10_c000, 4)]))
        .write(&path("2"))
        .unwrap();
    Dump { parent: Some("../2".into()), shared: vec![shared(&[parent(0, 3), latest(0x3000, 1)])], ..Dump::new() }
        .task(task(&[parent(0x10_0000, 4), latest(0x10_4000, 1), parent(0x10_6000, 10), latest(0x11_0000, 2)]))
        .write(&path("3"))
        .unwrap();
    let chain = open(&path("3")).unwrap();
    let pid = chain.tasks[0].pid;
    let generations = |checkpoint: &criu_images::Checkpoint| {
        let byte = |i| page_bytes(checkpoint, pid, 0x10_0000 + i * PAGE_SIZE).map_or(b'-', |page| b'0' + page[99]);
        (0..20).map(|i| byte(i) as char).collect::<String>()
    };
    assert_eq!(generations(&chain), "11113-112222111133--");
    let segment = |checkpoint: &criu_images::Checkpoint| {
        let mut bytes = Vec::new();
        for run in &checkpoint.segment(77).unwrap().runs {
            let Stored::Here { file, offset } = run.stored else { panic!() };
            let mut pages = vec![0; run.range.bytes() as usize];
            checkpoint.read_pages(file, offset, &mut pages).unwrap();
            bytes.extend(pages.chunks(PAGE_SIZE as usize).map(|page| page[99]));
        }
        bytes
    };
    assert_eq!(segment(&chain), [1, 1, 2, 3]);
    for tripwire in [true, false] {
        let (slim, joined) = (path(&format!("slim-{tripwire}")), path(&format!("joined-{tripwire}")));
        write_slim(&path("3"), &slim, tripwire).unwrap();
        assert_eq!(fs::symlink_metadata(slim.join("parent")).is_ok(), tripwire);
        same_checkpoint(&path("3"), &slim);
        assert_eq!(segment(&open(&slim).unwrap()), [1, 1, 2, 3]);
        join(&slim, &chain, &joined);
        assert!(!joined.join("parent").exists());
        let joined = open(&joined).unwrap();
        assert_eq!(generations(&joined), generations(&chain));
        assert_eq!(segment(&joined), [1, 1, 2, 3]);
    }
}

#[test]
fn a_slim_dump_is_not_made_slim_again() {
    let (dir, dump) = golden("criu-4.2");
    let slim = dir.path().join("slim");
    write_slim(&dump, &slim, true).unwrap();
    let twice = write_slim(&slim, &dir.path().join("twice"), true).unwrap_err();
    assert!(matches!(twice, Error::Unsupported { .. }), "{twice}");
    assert!(twice.to_string().contains("a slim dump already"), "{twice}");
}

#[test]
fn only_our_slim_dumps_come_back() {
    let (_dir, dump) = golden("criu-4.2");
    let source = std::sync::Arc::new(criu_images::ImageDir::open(&dump).unwrap());
    let error = criu_images::slim::original_files(source).unwrap_err().to_string();
    assert!(error.contains("not a slim dump that pageferry-strip wrote"), "{error}");
}

#[test]
fn a_slim_dump_that_lost_a_page_is_refused() {
    let (dir, dump) = golden("criu-4.2");
    let slim = dir.path().join("slim");
    write_slim(&dump, &slim, false).unwrap();
    let pid = open(&dump).unwrap().tasks[0].pid;
    let pagemap = slim.join(format!("pagemap-{pid}.img"));
    let head = fs::read(&pagemap).unwrap()[..14].to_vec();
    fs::write(&pagemap, head).unwrap();
    assert!(open_error(&slim).contains("bytes longer than pagemap-"));
    fs::write(slim.join("pages-3.img"), "").unwrap();
    let source = std::sync::Arc::new(criu_images::ImageDir::open(&slim).unwrap());
    let error = criu_images::slim::original_files(source).unwrap_err().to_string();
    assert!(error.contains("is not all in the slim dump's pagemap"), "{error}");
}

#[test]
fn a_golden_dump_split_into_a_chain_is_the_same_checkpoint() {
    for name in ["criu-4.1", "criu-4.2"] {
        let (dir, dump) = golden(name);
        let (parent, child) = (dir.path().join("1"), dir.path().join("2"));
        split_into_chain(&dump, &parent, &child).unwrap();
        let (slim, joined) = (dir.path().join("slim"), dir.path().join("joined"));
        let chain = open(&child).unwrap();
        write_slim(&child, &slim, true).unwrap();
        join(&slim, &chain, &joined);
        let (was, is) = (snapshot(&dump), snapshot(&joined));
        assert_eq!(was.keys().collect::<Vec<_>>(), is.keys().collect::<Vec<_>>());
        for (name, file) in was.iter().filter(|(name, _)| !name.starts_with("pagemap-")) {
            assert!(*file == is[name], "{name} differs");
        }
        // The same slim dump, too, but for where its pagemaps are cut.
        let of_full = dir.path().join("slim-of-full");
        write_slim(&dump, &of_full, true).unwrap();
        let (of_chain, of_full) = (snapshot(&slim), snapshot(&of_full));
        assert_eq!(of_chain.keys().collect::<Vec<_>>(), of_full.keys().collect::<Vec<_>>());
        for (name, file) in of_full.iter().filter(|(name, _)| !name.contains("pagemap-")) {
            assert!(*file == of_chain[name], "{name} differs");
        }
        same_checkpoint(&dump, &slim);
    }
}
