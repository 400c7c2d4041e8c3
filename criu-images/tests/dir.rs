//! Checkpoint directories: what is read, what is refused.

mod common;

use common::{golden, open, open_error};
use criu_images::{
    ImageDir, ImageSource, PAGE_SIZE,
    testing::{Dump, PARENT, PRESENT, Pages, Task},
};
use nix::fcntl::{FallocateFlags, fallocate};
use std::{
    fs::{self, OpenOptions},
    os::unix::{fs::symlink, net::UnixListener},
    path::Path,
};

fn one_task(pages: Pages) -> Dump {
    Dump::new().task(Task::new(1).anonymous(0x10_0000, 64).pages(pages))
}

fn child(parent: &str) -> Dump {
    Dump { parent: Some(parent.into()), ..one_task(Pages::new(0x10_0000, 4, PARENT)) }
}

#[test]
fn names_are_regular_files_only() {
    let (_dir, dump) = golden("criu-4.2");
    let before = ImageDir::open(&dump).unwrap().names().unwrap();
    let _socket = UnixListener::bind(dump.join("lazy-pages.socket")).unwrap();
    nix::unistd::mkfifo(&dump.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink("inventory.img", dump.join("link")).unwrap();
    symlink(".", dump.join("loop")).unwrap();
    fs::create_dir_all(dump.join("a/b")).unwrap();
    fs::write(dump.join("a/file"), "").unwrap();
    let dir = ImageDir::open(&dump).unwrap();
    let mut after = dir.names().unwrap();
    assert_eq!(after.remove(0), "a/file");
    assert_eq!(after, before);
    assert_eq!(dir.symlinks().unwrap(), [("link".into(), "inventory.img".into()), ("loop".into(), ".".into())]);
    assert_eq!(dir.empty_dirs().unwrap(), ["a/b"]);
    assert!(dir.read("nope").unwrap().is_none() && dir.open("a/nope").unwrap().is_none());
    assert!(dir.open("a").is_err() && dir.open("pipe").is_err());
    assert!(dir.open("../dump/inventory.img").is_err() && dir.open("/etc/passwd").is_err());
    open(&dump).unwrap();
}

#[test]
fn links_in_place_of_images_are_refused() {
    let (dir, dump) = golden("criu-4.2");
    fs::rename(dump.join("pstree.img"), dir.path().join("pstree.img")).unwrap();
    symlink("../pstree.img", dump.join("pstree.img")).unwrap();
    let error = open_error(&dump);
    assert!(error.contains("pstree.img: a symbolic link in place of an image"), "{error}");
}

#[test]
fn what_is_no_folder_is_refused() {
    let (_dir, dump) = golden("criu-4.2");
    assert!(ImageDir::open(dump.join("nope")).unwrap_err().to_string().contains("nope"));
    assert!(ImageDir::open(dump.join("pstree.img")).unwrap_err().to_string().contains("pstree.img"));
}

#[test]
fn the_parent_may_be_a_link_or_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    one_task(Pages::here(0x10_0000, 8)).write(&dir.path().join("deep/down/1")).unwrap();
    for (name, parent) in
        [("2", "../deep/down/1".to_string()), ("3", dir.path().join("deep/down/1").display().to_string())]
    {
        child(&parent).write(&dir.path().join(name)).unwrap();
        assert_eq!(open(&dir.path().join(name)).unwrap().tasks[0].memory.as_ref().unwrap().runs.len(), 1);
    }
    let inside = dir.path().join("4");
    Dump { parent: None, ..child("") }.write(&inside).unwrap();
    one_task(Pages::here(0x10_0000, 8)).write(&inside.join("parent")).unwrap();
    open(&inside).unwrap();
    assert!(ImageDir::open(&inside).unwrap().names().unwrap().iter().all(|name| !name.starts_with("parent")));
}

#[test]
fn bad_parents_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let tree = path("tree");
    child("../gone").write(&tree.join("a")).unwrap();
    let error = open_error(&tree.join("a"));
    assert!(error.contains("a/parent") && error.contains("../gone, is missing"), "{error}");

    one_task(Pages::here(0x10_0000, 8)).write(&path("outside")).unwrap();
    child("../../outside").write(&tree.join("b")).unwrap();
    let error = open_error(&tree.join("b"));
    assert!(error.contains("b/parent") && error.contains("leads out of"), "{error}");

    child("../d").write(&tree.join("c")).unwrap();
    child("../c").write(&tree.join("d")).unwrap();
    let error = open_error(&tree.join("c"));
    assert!(error.contains("c/parent/parent") && error.contains("leads back"), "{error}");
    child(".").write(&tree.join("e")).unwrap();
    assert!(open_error(&tree.join("e")).contains("leads back"));

    child("../a/inventory.img").write(&tree.join("f")).unwrap();
    assert!(open_error(&tree.join("f")).contains("not a folder"));
}

#[test]
fn pages_that_no_parent_has_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    one_task(Pages::here(0x10_0000, 3)).write(&path("1")).unwrap();
    child("../1").write(&path("2")).unwrap();
    let error = open_error(&path("2"));
    assert!(error.contains("pagemap-1.img") && error.contains("lacks 0x103000-0x104000"), "{error}");
    child("../2").write(&path("3")).unwrap();
    assert!(open_error(&path("3")).contains("lacks 0x103000-0x104000"));
    Dump { parent: None, ..child("") }.write(&path("4")).unwrap();
    assert!(open_error(&path("4")).contains("no link `parent`"));
    // A parent that was itself dumped with --lazy-pages.
    one_task(Pages::new(0x10_0000, 8, 2)).write(&path("5")).unwrap();
    child("../5").write(&path("6")).unwrap();
    assert!(open_error(&path("6")).contains("lacks 0x100000-0x104000"));
}

#[test]
fn pages_files_must_be_as_long_as_their_pagemap_says() {
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("dump");
    one_task(Pages::here(0x10_0000, 8)).write(&dump).unwrap();
    let pages = OpenOptions::new().write(true).open(dump.join("pages-1.img")).unwrap();
    pages.set_len(8 * PAGE_SIZE - 1).unwrap();
    assert!(open_error(&dump).contains("pages-1.img: byte 32767: 1 bytes shorter than pagemap-1.img says"));
    pages.set_len(9 * PAGE_SIZE).unwrap();
    assert!(open_error(&dump).contains("pages-1.img: byte 32768: 4096 bytes longer than pagemap-1.img says"));
    fs::remove_file(dump.join("pages-1.img")).unwrap();
    let error = open_error(&dump);
    assert!(error.contains("pagemap-1.img") && error.contains("pages-1.img is missing"), "{error}");
    fs::write(dump.join("pages-1.comp.img"), "x").unwrap();
    assert!(open_error(&dump).contains("LZ4-compressed pages"));
}

#[test]
fn two_pagemaps_cannot_share_a_pages_file() {
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("dump");
    let task = |pid| Task::new(pid).anonymous(0x10_0000, 8).pages(Pages::here(0x10_0000, 1));
    Dump::new().task(task(1)).task(task(2)).write(&dump).unwrap();
    fs::copy(dump.join("pagemap-1.img"), dump.join("pagemap-2.img")).unwrap();
    assert!(open_error(&dump).contains("pages-1.img: owner: is named by both pagemap-1.img and pagemap-2.img"));
}

fn punch(file: &Path, offset: i64) -> bool {
    let file = OpenOptions::new().write(true).open(file).unwrap();
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&file, flags, offset, PAGE_SIZE as i64).is_ok()
}

#[test]
fn punched_pages_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    one_task(Pages::here(0x10_0000, 8)).write(&path("1")).unwrap();
    let both = Dump { parent: Some("../1".into()), ..one_task(Pages::new(0x10_0000, 4, PARENT)) };
    let mut both = both;
    both.tasks[0].pages.push(Pages::new(0x10_4000, 4, PRESENT));
    both.write(&path("2")).unwrap();
    open(&path("2")).unwrap();
    assert!(punch(&path("1/pages-1.img"), 4 * 4096), "the file system of {} punches no holes", dir.path().display());
    let error = open_error(&path("2"));
    assert!(error.contains("2/parent/pages-1.img") && error.contains("punched out of it at byte 16384"), "{error}");
    assert!(error.contains("--auto-dedup"), "{error}");
    assert!(open_error(&path("1")).contains("1/pages-1.img: pages were punched out"));
}
