//! Two stores that pin the format, the second one sharing the pack of the first. They were made by the writer from a dump of CRIU 4.2 (`criu-images/tests/fixtures`); `BLESS=1 cargo test
//! -p page-store --test golden` makes them again, which is right only together with a new version of the format, or of zstd.

mod common;

use common::*;
use criu_images::{PAGE_SIZE, Stored};
use futures::TryStreamExt;
use page_store::{
    FrameNumber, MANIFEST_NAME, Store,
    write::{self, Base, LocalSink, Options},
};
use std::{collections::BTreeMap, fs, os::unix::fs::FileExt, path::Path};

const APP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/app");
const SHARING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/app-2");
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

/// The dump some time later: pages of the first task that were noise are other noise now.
fn unpack_later_dump(to: &Path) {
    unpack_dump(to);
    let checkpoint = open(to);
    let run = checkpoint.tasks.iter().flat_map(|t| &t.memory).flat_map(|m| &m.runs).find(|run| run.lazy).unwrap();
    let Stored::Here { file, offset } = run.stored else { panic!("a slim dump") };
    let pages = fs::File::options().write(true).open(checkpoint.pages_files[file.0 as usize].name()).unwrap();
    pages.write_all_at(&noise(1000), offset).unwrap();
}

/// Compares what was made with what is kept, or keeps it.
fn is_golden(made: &Path, kept: &str) {
    let made = objects(made);
    if std::env::var_os("BLESS").is_some() {
        let _ = fs::remove_dir_all(kept);
        for (name, bytes) in &made {
            let path = Path::new(kept).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }
    let golden = objects(Path::new(kept));
    assert_eq!(made.keys().collect::<Vec<_>>(), golden.keys().collect::<Vec<_>>());
    for (name, bytes) in &golden {
        assert!(made[name] == *bytes, "{name} differs");
    }
}

#[tokio::test]
async fn the_writer_makes_them_byte_for_byte() {
    let dir = folder();
    let (dump, later) = (dir.path().join("dump"), dir.path().join("later"));
    unpack_dump(&dump);
    split_to(&dump, &dir.path().join("app"));
    is_golden(&dir.path().join("app"), APP);

    unpack_later_dump(&later);
    let app = Store::open(APP).await.unwrap();
    let mut base = Base::new(&app, "app", "app-2").unwrap();
    for range in Base::ranges(&app) {
        base.push(Base::read(&app, range).await.unwrap());
    }
    let sink = LocalSink::create(dir.path().join("app-2"), false).unwrap();
    write::split_with(&open(&later), base, &sink, &Options::default(), &()).unwrap();
    is_golden(&dir.path().join("app-2"), SHARING);
}

async fn holds_every_page(golden: &str, dump: &Path) -> Store {
    let dir = folder();
    let store = Store::open(golden).await.unwrap();
    assert!(stored_pages(&store).await.unwrap() == lazy_pages(&open(dump)));
    let all = FrameNumber(0)..FrameNumber(store.frame_count());
    let frames: Vec<_> = store.stream_frames(all).try_collect().await.unwrap();
    let pages: usize = frames.iter().map(|f| f.bytes().len() / 4096).sum();
    assert_eq!(pages as u64, store.manifest().totals.stored_pages);
    let slim = store.slim().await.unwrap();
    slim.unpack(&dir.path().join("slim")).unwrap();
    assert_eq!(store.manifest().to_json().unwrap(), fs::read(Path::new(golden).join(MANIFEST_NAME)).unwrap());
    store
}

#[tokio::test]
async fn they_open_and_hold_every_page() {
    let dir = folder();
    let (dump, later) = (dir.path().join("dump"), dir.path().join("later"));
    unpack_dump(&dump);
    unpack_later_dump(&later);
    assert_eq!(holds_every_page(APP, &dump).await.manifest().version, 1);
    let sharing = holds_every_page(SHARING, &later).await;
    assert_eq!(sharing.manifest().version, 2);
    let packs: Vec<_> = sharing.manifest().packs.iter().map(|pack| pack.object.sibling().is_some()).collect();
    assert_eq!(packs, [true, false]);
}
