//! `join(split(x)) == x`, byte for byte.

mod common;

use common::*;
use criu_images::{Checkpoint, ImageDir, PAGE_SIZE, Stored, testing::split_into_chain};
use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

fn there_and_back(dump: &Path, dir: &Path, options: &[&str]) {
    let (store, out) = (dir.join("store"), dir.join("joined"));
    succeed(split(dump, &store).args(options));
    succeed(strip().arg("verify").arg(&store));
    succeed(&mut join(store.to_str().unwrap(), &out));
    assert_same(dump, &out);
    let folders: Vec<String> = names(&store).into_iter().filter(|name| name != "packs").collect();
    assert_eq!(folders, ["checkpoint.json", "index", "slim"]);
}

#[test]
fn of_what_criu_wrote() {
    for name in ["criu-4.1", "criu-4.2"] {
        let dir = tempfile::tempdir().unwrap();
        there_and_back(&golden(name, dir.path()), dir.path(), &[]);
    }
}

#[test]
fn of_everything_at_once() {
    for options in [&[][..], &["--no-tripwire"], &["--level", "-5"], &["--level=12", "--no-tripwire"]] {
        let dir = tempfile::tempdir().unwrap();
        there_and_back(&varied(dir.path()), dir.path(), options);
    }
}

#[test]
fn of_several_packs() {
    let dir = tempfile::tempdir().unwrap();
    // 100 MiB that do not compress: two packs.
    let dump = noisy(dir.path(), 25_600);
    there_and_back(&dump, dir.path(), &[]);
    assert_eq!(objects(&dir.path().join("store"), "packs").len(), 4);
}

#[test]
fn of_nothing_lazy() {
    let dir = tempfile::tempdir().unwrap();
    let dump = large(dir.path(), 3, |_| vec![0; PAGE_SIZE as usize]);
    there_and_back(&dump, dir.path(), &[]);
    assert!(!dir.path().join("store/packs").exists());
}

#[test]
fn the_same_store_every_time() {
    let dir = tempfile::tempdir().unwrap();
    let dump = varied(dir.path());
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    succeed(&mut split(&dump, &a));
    succeed(&mut split(&dump, &b));
    assert_same(&a, &b);
    // Once more in its place: nothing changes.
    succeed(split(&dump, &a).arg("--replace"));
    assert_same(&a, &b);
}

#[test]
fn a_slim_dump_as_a_folder_is_the_one_in_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let (dump, store, slim) = (varied(dir.path()), dir.path().join("store"), dir.path().join("slim"));
    fs::create_dir(&slim).unwrap();
    succeed(split(&dump, &store).arg("--slim").arg(&slim));
    let archive = fs::File::open(&objects(&store, "slim")[0]).unwrap();
    let unpacked = dir.path().join("unpacked");
    let mut archive = tar::Archive::new(zstd::Decoder::new(archive).unwrap());
    archive.set_preserve_permissions(true);
    archive.unpack(&unpacked).unwrap();
    assert_same(&unpacked, &slim);
    let slim = Checkpoint::open(Arc::new(ImageDir::open(&slim).unwrap())).unwrap();
    let runs = slim.tasks.iter().filter_map(|t| t.memory.as_ref()).flat_map(|m| &m.runs);
    assert!(
        runs.clone().any(|run| run.stored == Stored::Elsewhere)
            && runs.clone().any(|run| run.stored != Stored::Elsewhere)
    );
}

#[test]
fn a_chain_comes_back_in_one_piece() {
    let dir = tempfile::tempdir().unwrap();
    let full = golden("criu-4.2", dir.path());
    let (parent, child) = (dir.path().join("parent"), dir.path().join("child"));
    split_into_chain(&full, &parent, &child).unwrap();
    let (store, out) = (dir.path().join("store"), dir.path().join("joined"));
    succeed(&mut split(&child, &store));
    succeed(strip().arg("verify").arg(&store));
    succeed(&mut join(store.to_str().unwrap(), &out));
    assert!(fs::symlink_metadata(out.join("parent")).is_err());
    assert!(memory(&full) == memory(&out));
}

/// Every page of every task.
fn memory(dump: &Path) -> BTreeMap<(u32, u64), Vec<u8>> {
    let checkpoint = Checkpoint::open(Arc::new(ImageDir::open(dump).unwrap())).unwrap();
    let mut pages = BTreeMap::new();
    for task in &checkpoint.tasks {
        for run in task.memory.iter().flat_map(|m| &m.runs) {
            let Stored::Here { file, offset } = run.stored else { panic!("{run:?}") };
            for n in 0..run.range.pages() {
                let mut page = vec![0; PAGE_SIZE as usize];
                checkpoint.read_pages(file, offset + n * PAGE_SIZE, &mut page).unwrap();
                pages.insert((task.pid.get(), run.range.start().get() + n * PAGE_SIZE), page);
            }
        }
    }
    pages
}

#[test]
fn a_raw_checkpoint_is_a_store_too() {
    for name in ["criu-4.1", "criu-4.2"] {
        let dir = tempfile::tempdir().unwrap();
        let (dump, out) = (golden(name, dir.path()), dir.path().join("joined"));
        succeed(strip().arg("verify").arg(&dump));
        succeed(&mut join(dump.to_str().unwrap(), &out));
        assert_same(&dump, &out);
    }
}

#[test]
fn over_http() {
    let (dir, dump, store) = varied_store();
    let host = http::Host::start(&store, 0);
    let out = dir.path().join("joined");
    succeed(&mut join(&host.url, &out));
    assert_same(&dump, &out);
    assert!(host.requests() < 30, "{} requests for a store of 5 objects", host.requests());
    succeed(strip().args(["verify", &host.url]));
    assert!(succeed(strip().args(["inspect", &host.url])).contains("task-9"));
}

#[test]
fn over_http_that_fails_now_and_then() {
    let (dir, dump, store) = varied_store();
    let host = http::Host::start(&store, 3);
    let out = dir.path().join("joined");
    succeed(&mut join(&host.url, &out));
    assert_same(&dump, &out);
    succeed(strip().args(["verify", &host.url]));
}
