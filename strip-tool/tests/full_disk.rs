//! Disks without room, and disks that are not written to: nothing is left, the message says where, and it works once there is room.
//! Needs root, to mount them.

mod common;

use common::{disk::SmallDisk, *};
use page_store::{FrameNumber, Manifest, working_set::Trace};
use std::{
    fs,
    path::{Path, PathBuf},
};

#[test]
fn a_full_disk_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dump = noisy(dir.path(), 20_000);
    let store = dir.path().join("store");
    succeed(&mut split(&dump, &store));
    // Sizes at which it fills while the first pack, the second pack, the index, the slim dump are written.
    for mebibytes in [1, 40, 70, 78] {
        let disk = SmallDisk::mount(dir.path().join("disk"), &format!("size={mebibytes}m"));
        let said = fail(&mut split(&dump, &disk.0.join("store")));
        assert!(said.contains("disk is full") && said.contains("No space left"), "{said}");
        assert_eq!(names(&disk.0), [""; 0]);
        let said = fail(&mut split(&dump, &disk.0));
        assert!(said.contains("disk is full"), "{said}");
        assert_eq!(names(&disk.0), [""; 0]);
        let said = fail(&mut join(store.to_str().unwrap(), &disk.0.join("out")));
        assert!(said.contains("disk is full"), "{said}");
        assert_eq!(names(&disk.0), [""; 0]);
    }
}

#[test]
fn a_disk_without_room_for_the_slim_dump_takes_back_the_store() {
    let dir = tempfile::tempdir().unwrap();
    // Shared memory stays in the slim dump: 8 MiB of it.
    let pages = vec![criu_images::testing::Pages::here(0, 2000)];
    let task = criu_images::testing::Task::new(1).anonymous(0x1000_0000, 8);
    let task = task.pages(criu_images::testing::Pages::here(0x1000_0000, 8));
    let dump = dir.path().join("dump");
    criu_images::testing::Dump::new().task(task).shared(3, pages).write(&dump).unwrap();
    let disk = SmallDisk::mount(dir.path().join("disk"), "size=1m");
    let store = dir.path().join("store");
    let said = fail(split(&dump, &store).arg("--slim").arg(disk.0.join("slim")));
    assert!(said.contains("disk is full"), "{said}");
    assert_eq!((store.exists(), names(&disk.0).len()), (false, 0));
}

/// Bytes of all files below a folder.
fn size(dir: &Path) -> u64 {
    snapshot(dir).values().map(|(_, _, bytes)| bytes.len() as u64).sum()
}

/// Disks that fill after so much of `bytes` is written, or after so many files and folders are made.
fn too_small(bytes: u64, files: u64) -> Vec<String> {
    let pages = bytes.div_ceil(4096);
    // tmpfs counts its root; one of 0 pages, or 0 inodes, has no limit.
    let sizes = (0..10).map(|i| format!("size={}k,nr_inodes=10k", (pages * i / 10).max(1) * 4));
    sizes.chain((1..files).map(|inodes| format!("size=100m,nr_inodes={inodes}"))).collect()
}

fn refused(disk: &SmallDisk, options: &str, said: &str) {
    let place = disk.0.to_str().unwrap();
    let clear = said.contains("disk is full") && said.contains("No space left") && said.contains(place);
    assert!(clear && !said.contains("panicked"), "{options}: {said}");
}

#[test]
fn wherever_split_finds_the_disk_full_nothing_is_left_and_room_helps() {
    let (dir, dump, store) = varied_store();
    let slim = dir.path().join("slim");
    succeed(split(&dump, &dir.path().join("again")).arg("--slim").arg(&slim));
    let place = |disk: &SmallDisk| (disk.0.join("store"), disk.0.join("slim"));
    let run = |disk: &SmallDisk| {
        let (store, slim) = place(disk);
        let mut run = split(&dump, &store);
        run.arg("--slim").arg(slim);
        run
    };
    let files = (snapshot(&store).len() + snapshot(&slim).len()) as u64;
    for options in too_small(size(&store) + size(&slim), files) {
        let disk = SmallDisk::mount(dir.path().join("disk"), &options);
        refused(&disk, &options, &fail(&mut run(&disk)));
        assert_eq!(names(&disk.0), [""; 0], "{options}");
        disk.remount("size=100m,nr_inodes=10k");
        succeed(&mut run(&disk));
        assert_same(&place(&disk).0, &store);
        assert_same(&place(&disk).1, &slim);
    }
}

#[test]
fn wherever_join_finds_the_disk_full_nothing_is_left_and_room_helps() {
    let (dir, dump, store) = varied_store();
    for options in too_small(size(&dump), snapshot(&dump).len() as u64 + 2) {
        let disk = SmallDisk::mount(dir.path().join("disk"), &options);
        let run = || join(store.to_str().unwrap(), &disk.0.join("out"));
        refused(&disk, &options, &fail(&mut run()));
        assert_eq!(names(&disk.0), [""; 0], "{options}");
        disk.remount("size=100m,nr_inodes=10k");
        succeed(&mut run());
        assert_same(&dump, &disk.0.join("out"));
    }
}

/// The slim dump is unpacked to a temporary file by everything that reads it.
#[test]
fn a_temporary_folder_without_room_is_named() {
    let (dir, dump, store) = varied_store();
    for options in ["size=4k", "size=40k", "size=100m,nr_inodes=1"] {
        let disk = SmallDisk::mount(dir.path().join("disk"), options);
        let said = fail(join(store.to_str().unwrap(), &dir.path().join("out")).env("TMPDIR", &disk.0));
        refused(&disk, options, &said);
        assert!(said.contains("TMPDIR"), "{said}");
        let (new, slim) = (dir.path().join("new"), dir.path().join("slim"));
        let said = fail(split(&dump, &new).arg("--slim").arg(&slim).env("TMPDIR", &disk.0));
        refused(&disk, options, &said);
        assert!(!new.exists() && !slim.exists() && !dir.path().join("out").exists());
        let said = fail(strip().arg("verify").arg(&store).env("TMPDIR", &disk.0));
        assert!(said.contains("No space left") && said.contains("TMPDIR"), "a store is not bad for that: {said}");
        assert_eq!(names(&disk.0), [""; 0]);
    }
}

/// A trace of everything, for `store`.
fn trace(store: &Path, to: PathBuf) -> PathBuf {
    let manifest = Manifest::parse("m", &fs::read(store.join("checkpoint.json")).unwrap()).unwrap();
    let frames = manifest.packs.iter().map(|pack| pack.frames).sum();
    let trace = Trace::new(&manifest.checkpoint_id, (0..frames).map(FrameNumber).collect());
    fs::write(&to, trace.to_json()).unwrap();
    to
}

#[test]
fn a_working_set_without_room_leaves_the_store_as_it_was() {
    let (dir, dump, store) = varied_store();
    let trace = trace(&store, dir.path().join("trace"));
    let add = |store: &Path| {
        let mut add = strip();
        add.arg("working-set").arg(store).arg("--trace").arg(&trace);
        add
    };
    let (kib, files) = (size(&store).div_ceil(4096) * 4 + 16, snapshot(&store).len());
    succeed(&mut add(&store));
    for options in [format!("size={kib}k,nr_inodes=10k"), format!("size=100m,nr_inodes={}", files + 3)] {
        let disk = SmallDisk::mount(dir.path().join("disk"), "size=100m,nr_inodes=10k");
        let here = disk.0.join("store");
        succeed(&mut split(&dump, &here));
        let before = snapshot(&here);
        disk.remount(&options);
        refused(&disk, &options, &fail(&mut add(&here)));
        assert!(snapshot(&here) == before, "{options}: {:?}", names(&here));
        disk.remount("size=100m,nr_inodes=10k");
        succeed(&mut add(&here));
        assert_same(&here, &store);
    }
}

#[test]
fn a_read_only_place_is_named_and_what_lies_there_can_be_read() {
    let (dir, dump, store) = varied_store();
    let trace = trace(&store, dir.path().join("trace"));
    let disk = SmallDisk::mount(dir.path().join("disk"), "size=100m");
    let here = disk.0.join("store");
    succeed(&mut split(&dump, &here));
    let dump_here = disk.0.join("dump");
    succeed(&mut join(here.to_str().unwrap(), &dump_here));
    disk.remount("ro");
    let before = snapshot(&disk.0);
    let (new, place) = (disk.0.join("new"), disk.0.to_str().unwrap());
    let outside = dir.path().join("outside");
    for mut run in [
        split(&dump, &new),
        split(&dump, &disk.0.join("a/b/c")),
        join(store.to_str().unwrap(), &new),
        {
            let mut replace = split(&dump, &here);
            replace.arg("--replace");
            replace
        },
        {
            let mut with_slim = split(&dump, &outside);
            with_slim.arg("--slim").arg(&new);
            with_slim
        },
        {
            let mut add = strip();
            add.arg("working-set").arg(&here).arg("--trace").arg(&trace);
            add
        },
    ] {
        let said = fail(&mut run);
        assert!(said.contains("Read-only file system") && said.contains(place), "{run:?}: {said}");
        assert!(!said.contains("panicked") && !outside.exists(), "{run:?}: {said}");
    }
    succeed(strip().arg("verify").arg(&here));
    succeed(strip().arg("inspect").arg(&here));
    succeed(&mut split(&dump_here, &outside));
    assert_same(&outside, &store);
    assert!(snapshot(&disk.0) == before);
}
