//! A manifest, and parts of an index held against it, without the store around them (which `store` has): ten times as many inputs.
//!
//! Input: `kind: u8`, then 0 a manifest, 1 a part, 2 a part's columns before compression after the numbers of runs and tasks (`u32` each).

#![no_main]

mod common;

use common::BASE;
use criu_images::{PageAddr, PageRange};
use libfuzzer_sys::fuzz_target;
use page_store::{
    Location, Manifest,
    index::{HEADER_LEN, IndexPart, MAX_PAGES, PartBounds},
};

fn decode(manifest: &Manifest, bytes: &[u8]) {
    let everything = PageRange::from_bytes(0, PageAddr::LIMIT).expect("a range");
    for position in 0..manifest.index.len().min(4) {
        let Some(bounds) = PartBounds::of(manifest, position) else { continue };
        let Ok(part) = IndexPart::decode("part", bytes, &bounds) else { continue };
        for task in 0..manifest.tasks.len().min(4) as u32 {
            let mut end = 0;
            for run in part.runs(task, everything) {
                assert!(run.range.start().get() >= end, "runs overlap");
                end = run.range.end();
                assert!(!matches!(run.location, Location::Page(first) if first.0 + run.range.pages() > MAX_PAGES));
            }
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    let (objects, manifest) = &*BASE;
    let good = &objects[&manifest.index[0].object.object];
    match kind {
        0 => {
            let Ok(manifest) = Manifest::parse("checkpoint.json", bytes) else { return };
            let again = manifest.to_json().expect("what was read can be written");
            let again = Manifest::parse("again", &again).expect("and read");
            assert_eq!(again.objects().count(), manifest.objects().count());
            decode(&manifest, good);
        }
        1 => decode(manifest, bytes),
        2 if bytes.len() >= 8 => {
            let mut part = good[..HEADER_LEN].to_vec();
            let (counts, columns) = bytes.split_at(8);
            part[28..36].copy_from_slice(counts);
            part[36..].copy_from_slice(&(columns.len() as u32).to_le_bytes());
            part.extend(zstd::bulk::compress(columns, 1).expect("compressed"));
            decode(manifest, &part);
        }
        _ => {}
    }
});
