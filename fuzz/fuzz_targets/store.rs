//! Objects of a page store, replaced by whatever the fuzzer likes, with names and digests that agree: opening it, asking for runs,
//! reading every frame and unpacking the slim dump must end in an answer or an error.
//!
//! Input: `kind: u8`, then the object: 0 the manifest, 1 a part of the index, 2 its columns before compression (after the numbers of runs
//! and tasks, `u32` each), 3 a pack, 4 the slim dump, 5 the same before compression.

#![no_main]

mod common;

use common::{BASE, Memory, Objects, RUNTIME, replace};
use criu_images::{Checkpoint, ImageSource, PageAddr, PageRange, Pid};
use futures::StreamExt;
use libfuzzer_sys::fuzz_target;
use page_store::{FrameNumber, MANIFEST_NAME, Result, Store, index::HEADER_LEN};
use std::sync::Arc;

fn read_all(objects: Objects) -> Result<()> {
    RUNTIME.block_on(async {
        let store = Store::from_backend(Arc::new(Memory(objects))).await?;
        let everything = PageRange::from_bytes(0, PageAddr::LIMIT).expect("a range");
        for task in store.manifest().tasks.iter().take(10) {
            let Some(pid) = Pid::new(task.pid) else { panic!("a pid that is none") };
            let mut end = 0;
            for run in store.runs(pid, everything).await.unwrap_or_default() {
                assert!(run.range.start().get() >= end, "runs overlap");
                end = run.range.end();
            }
        }
        let frames = store.frame_count().min(100);
        let _ = store.stream_frames(FrameNumber(0)..FrameNumber(frames)).count().await;
        let slim = store.slim().await?;
        for name in slim.names()? {
            slim.read(&name)?;
        }
        let parent = slim.parent()?;
        assert!(parent.is_none_or(|p| p.names().is_ok()));
        // In memory: the unpacked folder is checked by the tests of the crate.
        let _ = Checkpoint::open(Arc::new(slim));
        Ok(())
    })
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    let (mut objects, mut manifest) = BASE.clone();
    let compress = |plain: &[u8]| zstd::bulk::compress(plain, 1).expect("compressed");
    match kind {
        0 => {
            objects.insert(MANIFEST_NAME.into(), bytes.to_vec());
            let _ = read_all(objects);
            return;
        }
        1 => replace(&mut objects, &mut manifest.index[0].object, bytes.to_vec()),
        2 if bytes.len() >= 8 => {
            // The rest of the header as it was, or nothing would get past it.
            let mut part = objects[&manifest.index[0].object.object][..HEADER_LEN].to_vec();
            let (counts, columns) = bytes.split_at(8);
            part[28..36].copy_from_slice(counts);
            part[36..].copy_from_slice(&(columns.len() as u32).to_le_bytes());
            part.extend(compress(columns));
            replace(&mut objects, &mut manifest.index[0].object, part);
        }
        3 => replace(&mut objects, &mut manifest.packs[0].object, bytes.to_vec()),
        4 => replace(&mut objects, &mut manifest.slim.object, bytes.to_vec()),
        5 => replace(&mut objects, &mut manifest.slim.object, compress(bytes)),
        _ => return,
    }
    // What the fuzzer made may be another length than the manifest says of packs; the reader then ends early.
    manifest.totals.pack_bytes = manifest.packs.iter().map(|p| p.object.size).sum();
    let Ok(json) = manifest.to_json() else { return };
    objects.insert(MANIFEST_NAME.into(), json);
    let _ = read_all(objects);
});
