//! Runs that a signal ends at a certain stage: nothing is left that looks like a result.

mod common;

use common::*;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{fs, os::unix::process::ExitStatusExt, path::Path, process::Child};

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
    let begun = || names(dir.path()).iter().any(|name| name.starts_with(".pageferry-out-"));
    let child = start(&mut join(store.to_str().unwrap(), &out), begun);
    signal(&child, Signal::SIGINT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    assert_eq!(names(dir.path()), before);
}

/// What stands in the way of the very last step is seen only there.
#[test]
fn the_slim_dump_and_the_store_appear_both_or_neither() {
    let dir = tempfile::tempdir().unwrap();
    let (dump, store, slim) = (noisy(dir.path(), PAGES / 4), dir.path().join("store"), dir.path().join("slim"));
    let before = names(dir.path());
    for obstacle in [slim.join("file"), store.join("checkpoint.json/file")] {
        let child = start(split(&dump, &store).arg("--slim").arg(&slim), || growing(&store));
        fs::create_dir_all(obstacle.parent().unwrap()).unwrap();
        fs::write(&obstacle, "").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        let place = obstacle.parent().unwrap();
        assert!(said(&output).contains(place.to_str().unwrap()), "{}", said(&output));
        assert_eq!(names(place), ["file"], "it is not ours");
        fs::remove_dir_all(place).unwrap();
        let _ = fs::remove_dir(&store);
        assert_eq!(names(dir.path()), before);
    }
    succeed(split(&dump, &store).arg("--slim").arg(&slim));
}

#[test]
fn what_a_killed_join_left_is_gone_after_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let (dump, store, out) = (noisy(dir.path(), PAGES / 4), dir.path().join("store"), dir.path().join("out"));
    succeed(&mut split(&dump, &store));
    let begun = || names(dir.path()).iter().any(|name| name.starts_with(".pageferry-out-"));
    let mut child = start(&mut join(store.to_str().unwrap(), &out), begun);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert!(begun() && !out.exists());
    succeed(&mut join(store.to_str().unwrap(), &out));
    assert_eq!(names(dir.path()), ["large", "out", "store"]);
    assert_same(&dump, &out);
}
