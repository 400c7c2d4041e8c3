//! Numbers in files that lie must not make a reader set memory aside: the address space of this process stays small while it reads
//! hostile objects. One test alone in its process, so that nothing else is measured.

mod common;

use common::*;
use page_store::{
    FrameNumber, MANIFEST_NAME, Manifest, Store,
    index::{HEADER_LEN, IndexPart, PartBounds},
};
use std::{fs, sync::Arc};

/// What a full part of an index may take (32 MiB unpacked, 24 MiB of runs), and a margin for allocator and threads.
const LIMIT_KIB: u64 = 96 << 10;

/// The most address space that this process ever had, in KiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn lengths_that_lie_allocate_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_dir, _, dir) = made();
    // Everything once, so that threads, arenas and tables are there.
    let read_all = |backend: MemoryBackend| {
        runtime.block_on(async {
            let store = Store::from_backend(Arc::new(backend)).await?;
            stored_pages(&store).await?;
            store.read_frame(FrameNumber(0)).await?;
            store.slim().await.map(|_| ())
        })
    };
    read_all(MemoryBackend::load(&dir, 4096)).unwrap();
    let before = peak();

    let backend = MemoryBackend::load(&dir, 4096);
    let manifest = Manifest::parse("x", &backend.objects[MANIFEST_NAME]).unwrap();
    let index = &backend.objects[&manifest.index[0].object.object];
    let bounds = PartBounds::of(&manifest, 0).unwrap();
    let lies = [0, 1, 0xffff, 0x1_0000, 0x10_0000, 0x200_0000, 0x7fff_ffff, u32::MAX];
    for field in (8..HEADER_LEN).step_by(4) {
        for lie in lies {
            let mut index = index.clone();
            index[field..field + 4].copy_from_slice(&lie.to_le_bytes());
            let _ = IndexPart::decode("x", &index, &bounds);
            // The same with 32 MiB of zeros behind it, in a few KiB.
            index.truncate(HEADER_LEN);
            index.extend(zstd::bulk::compress(&vec![0; 32 << 20], 1).unwrap());
            assert!(IndexPart::decode("x", &index, &bounds).is_err());
        }
    }
    // Gigabytes of zeros in an index, a frame, a slim dump: each with digests that agree.
    let bomb = || {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        std::io::copy(&mut std::io::Read::take(std::io::repeat(0), 2 << 30), &mut encoder).unwrap();
        encoder.finish().unwrap()
    };
    let bomb = bomb();
    let with = |kind: &str| {
        let mut backend = MemoryBackend::load(&dir, 4096);
        let mut manifest = manifest.clone();
        let (object, bytes) = match kind {
            "index" => (&mut manifest.index[0].object, [&index[..HEADER_LEN], &bomb[..]].concat()),
            "packs" => {
                // As long as the pack it stands for, so that the index still fits.
                let bytes = bomb.iter().copied().cycle().take(manifest.packs[0].object.size as usize).collect();
                (&mut manifest.packs[0].object, bytes)
            }
            _ => (&mut manifest.slim.object, bomb.clone()),
        };
        object.blake3 = blake3::hash(&bytes).to_hex().to_string();
        object.size = bytes.len() as u64;
        let extension = object.object.split_once('.').unwrap().1.to_owned();
        object.object = format!("{kind}/{}.{extension}", object.blake3);
        backend.objects.insert(object.object.clone(), bytes);
        backend.objects.insert(MANIFEST_NAME.into(), manifest.to_json().unwrap());
        backend
    };
    for kind in ["index", "packs", "slim"] {
        let error = read_all(with(kind)).unwrap_err().to_string();
        assert!(error.contains(kind), "{error}");
    }
    let grown = peak() - before;
    assert!(grown < LIMIT_KIB, "{grown} KiB");
}
