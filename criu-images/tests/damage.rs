//! Truncated and flipped images: an error that names the file, or a checkpoint that hangs together; never a panic.

mod common;

use common::{golden, open};
use criu_images::{Checkpoint, PAGE_SIZE, Stored};
use proptest::prelude::*;
use std::{fs, path::Path};

/// What must hold for whatever opens.
fn hangs_together(checkpoint: &Checkpoint) {
    for task in &checkpoint.tasks {
        let Some(memory) = &task.memory else { continue };
        for pair in memory.mappings.windows(2) {
            assert!(pair[0].range.end() <= pair[1].range.start().get());
        }
        for pair in memory.runs.windows(2) {
            assert!(pair[0].range.end() <= pair[1].range.start().get());
        }
        for run in &memory.runs {
            assert!(
                memory
                    .mappings
                    .iter()
                    .all(|m| { m.range.intersection(run.range).is_none_or(|both| both == run.range) })
            );
        }
        if let Some(run) = memory.runs.first() {
            for addr in [run.range.start().get(), run.range.end() - PAGE_SIZE, run.range.end()] {
                if let Some(addr) = criu_images::PageAddr::new(addr) {
                    assert!(checkpoint.page_at(task.pid, addr).is_some());
                }
            }
        }
    }
    let private = checkpoint.tasks.iter().filter_map(|t| t.memory.as_ref()).flat_map(|m| &m.runs);
    for run in private.chain(checkpoint.shared.iter().flat_map(|s| &s.runs)) {
        if let Stored::Here { file, offset } = run.stored {
            let file = &checkpoint.pages_files[file.0 as usize];
            assert!(offset + run.range.bytes() <= file.len());
        }
    }
}

fn small_images(dump: &Path) -> Vec<String> {
    let names = fs::read_dir(dump).unwrap().map(|item| item.unwrap().file_name().into_string().unwrap());
    let ours = ["inventory", "pstree", "core-", "mm-", "pagemap-", "files", "memfd"];
    let mut names: Vec<_> = names.filter(|name| ours.iter().any(|prefix| name.starts_with(prefix))).collect();
    names.sort();
    names
}

/// Opens `dump` with `image` in place of file `name`.
fn open_with(dump: &Path, name: &str, image: &[u8]) -> Option<String> {
    fs::write(dump.join(name), image).unwrap();
    match open(dump) {
        Ok(checkpoint) => {
            hangs_together(&checkpoint);
            None
        }
        Err(e) => Some(e.to_string()),
    }
}

/// How many places between entries there are, the one before the first included.
fn cuts(image: &[u8]) -> usize {
    let (mut at, mut count) = (8, 0);
    while at < image.len() {
        at += 4 + u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) as usize;
        count += 1;
    }
    count
}

#[test]
fn truncated_anywhere() {
    let (_dir, dump) = golden("criu-4.2");
    for name in small_images(&dump) {
        let whole = fs::read(dump.join(&name)).unwrap();
        let mut opened = 0;
        for len in 0..whole.len() {
            match open_with(&dump, &name, &whole[..len]) {
                // A cut between entries cannot be seen in the file itself: no trailer, no checksum.
                None => opened += 1,
                Some(error) => assert!(error.contains(".img: "), "{name} cut at {len}: {error}"),
            }
        }
        let between = if ["pstree.img", "files.img", "memfd.img"].contains(&&*name) { cuts(&whole) } else { 0 };
        assert!(opened <= between, "{name}: {opened} cuts went unseen");
        fs::write(dump.join(&name), whole).unwrap();
    }
    open(&dump).unwrap();
}

#[test]
fn every_bit_of_the_structure_flipped() {
    let (_dir, dump) = golden("criu-4.1");
    for name in ["inventory.img", "pstree.img", "memfd.img"] {
        let whole = fs::read(dump.join(name)).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut image = whole.clone();
            image[bit / 8] ^= 1 << (bit % 8);
            open_with(&dump, name, &image);
        }
        fs::write(dump.join(name), whole).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_few_bytes_changed(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        golden_dump in prop::sample::select(vec!["criu-4.1", "criu-4.2"]),
    ) {
        let (_dir, dump) = golden(golden_dump);
        let names = small_images(&dump);
        let name = which.get(&names);
        let mut image = fs::read(dump.join(name)).unwrap();
        for (at, byte) in changes {
            let at = at.index(image.len());
            image[at] = byte;
        }
        if let Some(error) = open_with(&dump, name, &image) {
            prop_assert!(error.contains(".img"), "{}", error);
        }
    }
}
