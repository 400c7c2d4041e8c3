//! What the tests of `pageferry-strip` share: checkpoints of any size, the real program, a static web server.
#![allow(dead_code)]

pub(crate) mod disk;
pub(crate) mod http;

use criu_images::{
    PAGE_SIZE,
    testing::{Counting, Dump, LAZY, PRESENT, Pages, Task, pagemap},
};
use std::{
    collections::BTreeMap,
    fs,
    io::{BufWriter, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};
use tempfile::TempDir;

/// The real program.
pub(crate) fn strip() -> Command {
    // Whoever started the tests may ignore signals (a shell's `&`, `nohup`); what they start would do so too.
    let mut strip = Command::new("env");
    strip.arg("--default-signal=INT,TERM,HUP").arg(env!("CARGO_BIN_EXE_pageferry-strip"));
    strip.stdin(Stdio::null()).env_remove("RUST_LOG");
    strip
}

/// `split`, ready to be started.
pub(crate) fn split(checkpoint: &Path, store: &Path) -> Command {
    let mut split = strip();
    split.arg("split").arg(checkpoint).arg("--store").arg(store);
    split
}

/// `join`, ready to be started.
pub(crate) fn join(store: &str, out: &Path) -> Command {
    let mut join = strip();
    join.args(["join", store, "--out"]).arg(out);
    join
}

/// Runs it; it must end well. Returns what it printed.
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs it; it must end with exit code 1 (not by a panic, which is 101). Returns all that it printed.
pub(crate) fn fail(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{command:?}\n{}", said(&output));
    said(&output)
}

pub(crate) fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|out| String::from_utf8_lossy(out).into_owned()).concat()
}

/// Starts it and waits until `ready`, or panics when it ends before that.
pub(crate) fn start(command: &mut Command, ready: impl Fn() -> bool) -> Child {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while !ready() {
        if let Some(status) = child.try_wait().unwrap() {
            panic!("{command:?} ended too early: {status}");
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child
}

/// A golden dump of CRIU's: `criu-4.1` or `criu-4.2`.
pub(crate) fn golden(name: &str, dir: &Path) -> PathBuf {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../criu-images/tests/fixtures/{name}.tar.zst"));
    let dump = dir.join(name);
    let reader = zstd::Decoder::new(fs::File::open(archive).unwrap()).unwrap();
    tar::Archive::new(reader).unpack(&dump).unwrap();
    dump
}

/// Bytes that zstd cannot shrink, different for each `seed`.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Writes a checkpoint of one task with `pages` pages of memory, `content` says of what, without holding it in memory.
pub(crate) fn large(dir: &Path, pages: u64, content: impl Fn(u64) -> Vec<u8>) -> PathBuf {
    let dump = dir.join("large");
    let start = 0x7000_0000_0000;
    Dump::new().task(Task::new(1).anonymous(start, pages)).write(&dump).unwrap();
    let entries: Vec<Pages> = (0..pages)
        .step_by(1024)
        .map(|n| Pages::new(start + n * PAGE_SIZE, 1024.min(pages - n), PRESENT | LAZY))
        .collect();
    fs::write(dump.join("pagemap-1.img"), pagemap(Counting::V42, 1, &entries)).unwrap();
    let mut file = BufWriter::new(fs::File::create(dump.join("pages-1.img")).unwrap());
    (0..pages).for_each(|n| file.write_all(&content(n)).unwrap());
    file.flush().unwrap();
    dump
}

/// A checkpoint of noise: splitting it takes long enough to be interrupted, and fills a disk.
pub(crate) fn noisy(dir: &Path, pages: u64) -> PathBuf {
    large(dir, pages, |n| noise(n, PAGE_SIZE as usize))
}

/// A small checkpoint with everything in it: tasks that share content, zero pages, a thread, a dead task, shared memory, eager
/// pages between lazy ones, argv and environment, odd permissions, files that are no images, folders and links.
pub(crate) fn varied(dir: &Path) -> PathBuf {
    let dump = dir.join("varied");
    let (stack, heap) = (0x7fff_0000_0000u64, 0x5555_0000_3000);
    let task = |pid: u32, ppid: u32| {
        let mut task = Task::new(pid).anonymous(heap, 4000).anonymous(stack, 64);
        (task.ppid, task.args, task.env) = (ppid, stack + 100..stack + 200, stack + 200..stack + 9000);
        task.pages(Pages::here(heap, 700))
            .pages(Pages::new(heap + 800 * PAGE_SIZE, 1000, PRESENT | LAZY))
            .pages(Pages::here(stack, 20))
    };
    let mut threaded = task(2, 1);
    threaded.threads = vec![5, 6];
    let mut dead = Task::new(7);
    (dead.ppid, dead.state) = (1, 2);
    let checkpoint = Dump::new().task(task(1, 0)).task(threaded).task(dead).task(task(9, 2));
    checkpoint.shared(4, vec![Pages::here(0, 30)]).write(&dump).unwrap();
    for n in 1..=3u64 {
        let name = dump.join(format!("pages-{n}.img"));
        let len = fs::metadata(&name).unwrap().len();
        // Mostly the same in all three, as after fork; every seventh page zero, every ninth noise of its own.
        let pages = (0..len / PAGE_SIZE).map(|p| match p {
            p if p % 7 == 0 => vec![0; PAGE_SIZE as usize],
            p if p % 9 == 0 => noise(n << 32 | p, PAGE_SIZE as usize),
            p => format!("page {p} of everyone. ").into_bytes().into_iter().cycle().take(PAGE_SIZE as usize).collect(),
        });
        fs::write(name, pages.collect::<Vec<_>>().concat()).unwrap();
    }
    fs::write(dump.join("dump.log"), "(00.000000) Version: 4.2\n").unwrap();
    fs::create_dir_all(dump.join("empty/inside")).unwrap();
    fs::create_dir_all(dump.join("more")).unwrap();
    fs::write(dump.join("more/notes.txt"), "kept").unwrap();
    fs::set_permissions(dump.join("more/notes.txt"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::set_permissions(dump.join("pages-2.img"), fs::Permissions::from_mode(0o400)).unwrap();
    symlink("more/notes.txt", dump.join("link")).unwrap();
    dump
}

/// A folder with a store in it, of the checkpoint [`varied`], which is there too.
pub(crate) fn varied_store() -> (TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (dump, store) = (varied(dir.path()), dir.path().join("store"));
    succeed(&mut split(&dump, &store));
    (dir, dump, store)
}

/// Everything in a folder: what it is, its permissions, its bytes or target.
pub(crate) type Snapshot = BTreeMap<String, (char, u32, Vec<u8>)>;

pub(crate) fn snapshot(dir: &Path) -> Snapshot {
    fn walk(dir: &Path, prefix: &str, all: &mut Snapshot) {
        for item in fs::read_dir(dir).unwrap() {
            let item = item.unwrap();
            let name = format!("{prefix}{}", item.file_name().to_str().unwrap());
            let meta = item.metadata().unwrap();
            let mode = meta.permissions().mode() & 0o7777;
            if meta.is_dir() {
                all.insert(name.clone(), ('d', 0, Vec::new()));
                walk(&item.path(), &format!("{name}/"), all);
            } else if meta.is_symlink() {
                let target = fs::read_link(item.path()).unwrap();
                all.insert(name, ('l', 0, target.to_str().unwrap().into()));
            } else {
                all.insert(name, ('f', mode, fs::read(item.path()).unwrap()));
            }
        }
    }
    let mut all = Snapshot::new();
    walk(dir, "", &mut all);
    all
}

/// Both folders hold the same.
pub(crate) fn assert_same(a: &Path, b: &Path) {
    let (a, b) = (snapshot(a), snapshot(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, of_a) in &a {
        assert!(*of_a == b[name], "{name} differs");
    }
}

/// Names in a folder, hidden ones too.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The objects of a store in one of its folders.
pub(crate) fn objects(store: &Path, folder: &str) -> Vec<PathBuf> {
    names(&store.join(folder)).into_iter().map(|name| store.join(folder).join(name)).collect()
}
