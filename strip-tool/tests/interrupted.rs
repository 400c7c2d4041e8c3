//! Runs that do not come to their end: nothing is left that looks like a result. Some of it needs root.

mod common;

use common::*;
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command},
};

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

fn growing(store: &Path) -> bool {
    store.is_dir() && names(store).iter().any(|name| name.starts_with(".incoming-"))
}

/// 400 MiB take seconds.
const PAGES: u64 = 100_000;

#[test]
fn split_stopped_by_a_signal_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dump = noisy(dir.path(), PAGES);
    let before = names(dir.path());
    let store = dir.path().join("new/store");
    for (sig, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        // At the beginning, and with a pack already finished.
        for packs in [0, 1] {
            let ready = || growing(&store) && (packs == 0 || store.join("packs").is_dir());
            let child = start(split(&dump, &store).arg("--slim").arg(dir.path().join("slim")), ready);
            signal(&child, sig);
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(code), "{}", said(&output));
            assert!(said(&output).contains("nothing was left behind"), "{}", said(&output));
            assert_eq!(names(dir.path()), before);
        }
    }
}

#[test]
fn a_store_that_was_there_survives_a_run_that_was_stopped() {
    let (dir, _dump, store) = varied_store();
    let before = snapshot(&store);
    let noisy = noisy(dir.path(), PAGES);
    let mut replacing = split(&noisy, &store);
    let child = start(replacing.arg("--replace"), || objects(&store, "packs").len() > 1);
    signal(&child, Signal::SIGINT);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    assert!(snapshot(&store) == before, "{:?}", names(&store));
    succeed(strip().arg("verify").arg(&store));
}

#[test]
fn a_killed_split_leaves_no_store_and_the_next_one_works() {
    let dir = tempfile::tempdir().unwrap();
    let (dump, store) = (noisy(dir.path(), PAGES), dir.path().join("store"));
    let mut child = start(&mut split(&dump, &store), || store.join("packs").is_dir());
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert!(growing(&store) && !store.join("checkpoint.json").exists());
    fail(strip().arg("verify").arg(&store));
    let small = varied(dir.path());
    succeed(&mut split(&small, &store));
    assert_eq!(names(&store), ["checkpoint.json", "index", "packs", "slim"]);
    assert_eq!(objects(&store, "packs").len(), 1, "the other run's packs are gone");
    succeed(strip().arg("verify").arg(&store));
}

#[test]
fn two_runs_on_one_store_do_not_mix() {
    let dir = tempfile::tempdir().unwrap();
    let (dump, store) = (noisy(dir.path(), PAGES), dir.path().join("store"));
    let child = start(&mut split(&dump, &store), || growing(&store));
    let said = fail(&mut split(&dump, &store));
    assert!(said.contains("another run"), "{said}");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", common::said(&output));
    succeed(strip().arg("verify").arg(&store));
}

#[test]
fn join_stopped_by_a_signal_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (dump, store, out) = (noisy(dir.path(), PAGES), dir.path().join("store"), dir.path().join("out"));
    succeed(&mut split(&dump, &store));
    let before = names(dir.path());
    let begun = || names(dir.path()).iter().any(|name| name.starts_with(".out."));
    let child = start(&mut join(store.to_str().unwrap(), &out), begun);
    signal(&child, Signal::SIGINT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    assert_eq!(names(dir.path()), before);
}

/// A file system of its own, so small that it fills.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf, mebibytes: u32) -> Self {
        assert!(geteuid().is_root(), "this test mounts a small file system, which needs root");
        fs::create_dir(&path).unwrap();
        let size = format!("size={mebibytes}m");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "pageferry-test"]).arg(&path).status();
        assert!(mount.unwrap().success());
        Self(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status();
        assert!(std::thread::panicking() || unmounted.unwrap().success());
    }
}

#[test]
fn a_full_disk_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dump = noisy(dir.path(), 20_000);
    let store = dir.path().join("store");
    succeed(&mut split(&dump, &store));
    // Sizes at which it fills while the first pack, the second pack, the index, the slim dump are written.
    for mebibytes in [1, 40, 70, 78] {
        let disk = SmallDisk::mount(dir.path().join("disk"), mebibytes);
        let said = fail(&mut split(&dump, &disk.0.join("store")));
        assert!(said.contains("disk is full") && said.contains("No space left"), "{said}");
        assert_eq!(names(&disk.0), [""; 0]);
        let said = fail(&mut split(&dump, &disk.0));
        assert!(said.contains("disk is full"), "{said}");
        assert_eq!(names(&disk.0), [""; 0]);
        let said = fail(&mut join(store.to_str().unwrap(), &disk.0.join("out")));
        assert!(said.contains("disk is full"), "{said}");
        assert_eq!(names(&disk.0), [""; 0]);
        drop(disk);
        fs::remove_dir(dir.path().join("disk")).unwrap();
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
    let disk = SmallDisk::mount(dir.path().join("disk"), 1);
    let store = dir.path().join("store");
    let said = fail(split(&dump, &store).arg("--slim").arg(disk.0.join("slim")));
    assert!(said.contains("disk is full"), "{said}");
    assert_eq!((store.exists(), names(&disk.0).len()), (false, 0));
}
