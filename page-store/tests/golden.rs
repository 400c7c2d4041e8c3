//! A store that pins the format. It was made by the writer from a dump of CRIU 4.2 (`criu-images/tests/fixtures`); `BLESS=1 cargo test
//! -p page-store --test golden` makes it again, which is right only together with a new version of the format, or of zstd.

mod common;

use common::*;
use criu_images::{PAGE_SIZE, Stored};
use futures::TryStreamExt;
use page_store::{FrameNumber, MANIFEST_NAME, Store};
use std::{collections::BTreeMap, fs, os::unix::fs::FileExt, path::Path};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/store");
const DUMP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../criu-images/tests/fixtures/criu-4.2.tar.zst");

fn unpack_dump(to: &Path) {
    let archive = zstd::Decoder::new(fs::File::open(DUMP).unwrap()).unwrap();
    tar::Archive::new(archive).unpack(to).unwrap();
    // The first lazy pages become noise and zeros, which the dump has none of: a frame that zstd does not shrink, and a page that
    // is not stored.
    let checkpoint = open(to);
    let lazy = checkpoint.tasks.iter().flat_map(|t| &t.memory).flat_map(|m| &m.runs).filter(|run| run.lazy);
    let pages = lazy.flat_map(|run| {
        let Stored::Here { file, offset } = run.stored else { panic!("a slim dump") };
        (0..run.range.pages()).map(move |i| (file, offset + i * PAGE_SIZE))
    });
    for (seed, (file, offset)) in (0..17).zip(pages) {
        let path = checkpoint.pages_files[file.0 as usize].name();
        let page = if seed == 7 { vec![0; 4096] } else { noise(seed) };
        fs::File::options().write(true).open(path).unwrap().write_all_at(&page, offset).unwrap();
    }
}

fn objects(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    MemoryBackend::load(dir, 0).objects.into_iter().collect()
}

#[test]
fn the_writer_makes_it_byte_for_byte() {
    let dir = folder();
    let (dump, store) = (dir.path().join("dump"), dir.path().join("store"));
    unpack_dump(&dump);
    split_to(&dump, &store);
    let made = objects(&store);
    if std::env::var_os("BLESS").is_some() {
        let _ = fs::remove_dir_all(GOLDEN);
        for (name, bytes) in &made {
            let path = Path::new(GOLDEN).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }
    let golden = objects(Path::new(GOLDEN));
    assert_eq!(made.keys().collect::<Vec<_>>(), golden.keys().collect::<Vec<_>>());
    for (name, bytes) in &golden {
        assert!(made[name] == *bytes, "{name} differs");
    }
}

#[tokio::test]
async fn it_opens_and_holds_every_page() {
    let dir = folder();
    let dump = dir.path().join("dump");
    unpack_dump(&dump);
    let store = Store::open(GOLDEN).await.unwrap();
    assert!(stored_pages(&store).await.unwrap() == lazy_pages(&open(&dump)));
    let all = FrameNumber(0)..FrameNumber(store.frame_count());
    let frames: Vec<_> = store.stream_frames(all).try_collect().await.unwrap();
    let pages: usize = frames.iter().map(|f| f.bytes().len() / 4096).sum();
    assert_eq!(pages as u64, store.manifest().totals.stored_pages);
    let slim = store.slim().await.unwrap();
    slim.unpack(&dir.path().join("slim")).unwrap();
    assert_eq!(store.manifest().to_json().unwrap(), fs::read(Path::new(GOLDEN).join(MANIFEST_NAME)).unwrap());
}
