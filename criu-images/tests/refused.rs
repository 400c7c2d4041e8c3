//! Images that are well formed but not known, and images of older CRIU, which are.

mod common;

use common::{golden, open, open_error};
use criu_images::testing::{Counting, Dump, LAZY, Pages, Task};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

fn dump() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("dump");
    let task = Task::new(1).anonymous(0x10_0000, 8).pages(Pages::here(0x10_0000, 2));
    Dump::new().task(task).write(&dump).unwrap();
    (dir, dump)
}

/// Appends `more` to the last entry of an image, `headers` magics long.
fn extend(file: &Path, magics: usize, more: &[u8]) {
    let mut image = fs::read(file).unwrap();
    let mut at = 4 * magics;
    loop {
        let len = u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) as usize;
        if at + 4 + len == image.len() {
            image[at..at + 4].copy_from_slice(&((len + more.len()) as u32).to_le_bytes());
            break;
        }
        at += 4 + len;
    }
    image.extend_from_slice(more);
    fs::write(file, image).unwrap();
}

/// A varint field.
fn field(number: u32, value: u8) -> Vec<u8> {
    let key = number << 3;
    if key < 0x80 { vec![key as u8, value] } else { vec![(key & 0x7f) as u8 | 0x80, (key >> 7) as u8, value] }
}

#[test]
fn unknown_fields_are_refused_by_message_and_number() {
    let cases = [
        ("inventory.img", 1, 15, "inventory_entry has a field 15, which is not known"),
        ("pstree.img", 2, 6, "pstree_entry has a field 6"),
        ("core-1.img", 2, 7, "core_entry has a field 7"),
        ("mm-1.img", 2, 18, "mm_entry has a field 18"),
        ("pagemap-1.img", 2, 6, "LZ4-compressed pages: pagemap_entry has a field 6"),
        ("pagemap-1.img", 2, 9, "LZ4-compressed pages: pagemap_entry has a field 9"),
    ];
    for (file, magics, number, expected) in cases {
        let (_dir, dump) = dump();
        extend(&dump.join(file), magics, &field(number, 1));
        let error = open_error(&dump);
        assert!(error.contains(file) && error.contains(expected), "{error}");
        assert!(error.contains("this reader knows the images of CRIU 3.x to 4.2"), "{error}");
    }
}

#[test]
fn unknown_versions_are_refused() {
    for (version, expected) in [(0, "image version 0"), (3, "image version 3: LZ4-compressed pages"), (9, "version 9")]
    {
        let dir = tempfile::tempdir().unwrap();
        let dump = Dump { image_version: version, ..Dump::new() };
        dump.task(Task::new(1)).write(&dir.path().join("dump")).unwrap();
        let error = open_error(&dir.path().join("dump"));
        assert!(error.contains("inventory.img") && error.contains(expected), "{error}");
    }
}

#[test]
fn unknown_or_contradicting_flags_are_refused() {
    let cases = [
        (8 | 4, "LZ4-compressed pages: flag 8"),
        (16 | 4, "flags 0x14, which are not known"),
        (0, "no flags"),
        (1 | 4, "here and in the parent"),
    ];
    for (flags, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let task = Task::new(1).anonymous(0x10_0000, 8).pages(Pages::new(0x10_0000, 2, flags));
        Dump::new().task(task).write(&dir.path().join("dump")).unwrap();
        let error = open_error(&dir.path().join("dump"));
        assert!(error.contains("pagemap-1.img") && error.contains("entry 1 at byte"), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn overlapping_reversed_and_kernel_side_entries_are_refused() {
    let cases = [
        (vec![Pages::here(0x10_0000, 2), Pages::here(0x10_1000, 2)], "overlaps or precedes"),
        (vec![Pages::here(0x10_4000, 2), Pages::here(0x10_0000, 2)], "overlaps or precedes"),
        (vec![Pages::new(0x10_0000, 0, LAZY)], "not in user space"),
        (vec![Pages::new(0x10_0001, 1, LAZY)], "not in user space"),
        (vec![Pages::new(0xffff_8000_0000_0000, 1, LAZY)], "not in user space"),
        (vec![Pages::new(0x10_0000, u64::MAX, LAZY)], "not in user space"),
        (vec![Pages::new(0x10_0000, u64::MAX / 4096, LAZY)], "not in user space"),
    ];
    for (pages, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let task = Task { pages, ..Task::new(1).anonymous(0x10_0000, 8) };
        Dump::new().task(task).write(&dir.path().join("dump")).unwrap();
        let error = open_error(&dir.path().join("dump"));
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn mappings_that_cannot_be_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    Dump::new().task(Task::new(1).anonymous(0x10_0000, 8).anonymous(0x10_7000, 8)).write(&path("overlap")).unwrap();
    assert!(open_error(&path("overlap")).contains("mm-1.img: vma 1: 0x107000-0x10f000 overlaps"));
    Dump::new().task(Task::new(1).anonymous(0x10_0001, 8)).write(&path("odd")).unwrap();
    assert!(open_error(&path("odd")).contains("mm-1.img: vma 0"));
}

#[test]
fn trees_that_cannot_be_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        ("twice", vec![Task::new(1), Task::new(1)], "pid 1 for a second time"),
        ("zero", vec![Task::new(0)], "no pid: 0"),
        ("large", vec![Task::new(1 << 23)], "no pid: 8388608"),
        ("empty", vec![], "no task in it"),
        ("thread", vec![Task { threads: vec![0], ..Task::new(1) }], "thread 0"),
        ("threads", vec![Task { threads: vec![2, 2], ..Task::new(1) }], "thread 2"),
    ];
    for (name, tasks, expected) in cases {
        Dump { tasks, ..Dump::new() }.write(&dir.path().join(name)).unwrap();
        let error = open_error(&dir.path().join(name));
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn missing_images_are_named() {
    for name in ["inventory.img", "pstree.img", "core-1.img", "mm-1.img", "pagemap-1.img"] {
        let (_dir, dump) = dump();
        fs::remove_file(dump.join(name)).unwrap();
        let error = open_error(&dump);
        assert!(error.contains(name), "{error}");
    }
    let (_dir, dump) = dump();
    fs::remove_file(dump.join("pstree.img")).unwrap();
    assert!(open_error(&dump).contains("pre-dump"));
}

#[test]
fn encrypted_images_are_refused_by_name() {
    let (_dir, dump) = dump();
    fs::write(dump.join("cipher.img"), "").unwrap();
    assert!(open_error(&dump).contains("cipher.img: encrypted images"));
}

#[test]
fn other_machines_are_refused_by_name() {
    let (_dir, dump) = dump();
    let core = dump.join("core-1.img");
    let mut image = fs::read(&core).unwrap();
    assert_eq!(image[12..14], [8, 1]);
    image[13] = 4;
    fs::write(core, image).unwrap();
    assert!(open_error(&dump).contains("core-1.img: a checkpoint of ppc64 (mtype 4)"));
}

#[test]
fn images_of_older_criu_open() {
    for counting in [Counting::V3, Counting::V41, Counting::V42] {
        let dir = tempfile::tempdir().unwrap();
        let dump = dir.path().join("dump");
        let task = Task::new(1).anonymous(0x10_0000, 8).pages(Pages::here(0x10_0000, 2));
        Dump { counting, ..Dump::new() }.task(task).write(&dump).unwrap();
        let checkpoint = open(&dump).unwrap();
        assert_eq!(checkpoint.tasks[0].memory.as_ref().unwrap().runs[0].range.pages(), 2);
    }
    // Image version 1: no common magic.
    let (_dir, dump) = dump();
    for name in ["pstree.img", "core-1.img", "mm-1.img", "pagemap-1.img"] {
        let image = fs::read(dump.join(name)).unwrap();
        fs::write(dump.join(name), &image[4..]).unwrap();
    }
    open(&dump).unwrap();
}

#[test]
fn names_that_are_not_utf8_pass() {
    let (_dir, dump) = golden("criu-4.2");
    let files = dump.join("files.img");
    let image = fs::read(&files).unwrap();
    let at = image.windows(4).position(|w| w == b"data").unwrap();
    let mut image = image;
    image[at] = 0xff;
    fs::write(&files, image).unwrap();
    let checkpoint = open(&dump).unwrap();
    let mappings = &checkpoint.tasks[0].memory.as_ref().unwrap().mappings;
    assert!(mappings.iter().any(|m| m.name.as_deref().is_some_and(|name| name.ends_with("\u{fffd}ata"))));
    fs::remove_file(files).unwrap();
    open(&dump).unwrap();
}
