//! The slim dump as an object: written once, the same bytes each time; read with suspicion.

mod common;

use common::*;
use criu_images::{
    Checkpoint, ImageSource, Stored,
    slim::{self, Entry, SlimSink, checkpoint_id_member},
};
use page_store::{
    Error, MANIFEST_NAME, Manifest, Result, SlimDump, Store, checkpoint_id, slim_writer::SlimArchiveWriter,
};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
};
use tar::{EntryType, Header};

async fn slim_of(store: &Path) -> SlimDump {
    Store::open(store.to_str().unwrap()).await.unwrap().slim().await.unwrap()
}

/// What [`slim::write`] puts.
#[derive(Default)]
struct Collected(BTreeMap<String, (Entry, Vec<u8>)>);

impl SlimSink for Collected {
    fn put(&mut self, name: &str, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        self.0.insert(name.into(), (entry.clone(), bytes));
        Ok(())
    }
}

/// What lies in a folder: names with kind, mode, content or target.
fn listing(dir: &Path, prefix: &str, all: &mut BTreeMap<String, (Entry, Vec<u8>)>) {
    for item in fs::read_dir(dir.join(prefix)).unwrap().map(|item| item.unwrap()) {
        let name = Path::new(prefix).join(item.file_name()).to_str().unwrap().to_owned();
        let metadata = fs::symlink_metadata(item.path()).unwrap();
        if metadata.is_dir() {
            listing(dir, &name, all);
        } else if metadata.is_symlink() {
            let target = fs::read_link(item.path()).unwrap().to_str().unwrap().into();
            all.insert(name, (Entry::Symlink { target }, Vec::new()));
        } else {
            let mode = metadata.permissions().mode() & 0o7777;
            all.insert(name, (Entry::File { len: metadata.len(), mode }, fs::read(item.path()).unwrap()));
        }
    }
}

#[tokio::test]
async fn every_member_comes_back() {
    let (dir, checkpoint, store) = made();
    fs::write(checkpoint.join("a file with a long name ".repeat(10)), "kept").unwrap();
    fs::set_permissions(checkpoint.join("core-10.img"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_dir_all(&store).unwrap();
    let manifest = split_to(&checkpoint, &store);
    let mut wanted = Collected::default();
    slim::write(&open(&checkpoint), true, &mut wanted).unwrap();
    let id = format!("{}\n", manifest.checkpoint_id).into_bytes();
    wanted.0.insert(checkpoint_id_member().into(), (Entry::File { len: 65, mode: 0o644 }, id));

    let slim = slim_of(&store).await;
    let out = dir.path().join("out/deep");
    assert!(slim.unpack(&out).is_err(), "its folder must exist");
    fs::create_dir(dir.path().join("out")).unwrap();
    slim.unpack(&out).unwrap();
    let mut unpacked = BTreeMap::new();
    listing(&out, "", &mut unpacked);
    assert_eq!(unpacked, wanted.0);
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::read_dir(dir.path().join("out")).unwrap().count(), 1, "nothing beside it");

    // GNU tar reads it too.
    let archive = fs::read(store.join(&manifest.slim.object.object)).unwrap();
    let mut archive = tar::Archive::new(zstd::Decoder::new(&archive[..]).unwrap());
    let names: Vec<_> =
        archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(names.last().map(String::as_str), Some(checkpoint_id_member()));
    assert_eq!(names.len(), wanted.0.len());
}

#[tokio::test]
async fn a_folder_that_is_there_must_be_empty() {
    let (dir, _, store) = made();
    let slim = slim_of(&store).await;
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o750)).unwrap();
    std::os::unix::fs::symlink("out", dir.path().join("link")).unwrap();
    slim.unpack(&dir.path().join("link")).unwrap();
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o750);
    assert!(fs::symlink_metadata(dir.path().join("link")).unwrap().is_symlink());
    let before = fs::read_dir(&out).unwrap().count();
    let message = slim.unpack(&out).unwrap_err().to_string();
    assert!(message.contains("not empty"), "{message}");
    assert_eq!(fs::read_dir(&out).unwrap().count(), before);
}

/// In the archive or unpacked, it opens as a checkpoint whose lazy pages are elsewhere.
#[tokio::test]
async fn opens_as_a_checkpoint() {
    let (dir, checkpoint, store) = made();
    let full = open(&checkpoint);
    let slim = slim_of(&store).await;
    let out = dir.path().join("out");
    slim.unpack(&out).unwrap();
    let id = slim_of(&store).await;
    assert_eq!(
        checkpoint_id(&id).unwrap().unwrap(),
        Store::open(store.to_str().unwrap()).await.unwrap().manifest().checkpoint_id
    );
    for slim in [Checkpoint::open(Arc::new(slim)).unwrap(), open(&out)] {
        assert_eq!(slim.tasks.len(), 3);
        for (slim, full) in slim.tasks.iter().zip(&full.tasks) {
            let lazy = |task: &criu_images::Task| -> u64 {
                let runs = task.memory.iter().flat_map(|m| &m.runs);
                runs.filter(|r| r.lazy).map(|r| r.range.pages()).sum()
            };
            assert_eq!((slim.pid, lazy(slim)), (full.pid, lazy(full)));
            let elsewhere = slim.memory.iter().flat_map(|m| &m.runs).filter(|r| r.lazy);
            assert!(elsewhere.into_iter().all(|r| r.stored == Stored::Elsewhere));
        }
        assert_eq!(slim.source.names().unwrap(), slim_names(&full));
    }
}

fn slim_names(full: &Checkpoint) -> Vec<String> {
    let mut wanted = Collected::default();
    slim::write(full, true, &mut wanted).unwrap();
    let files = wanted.0.into_iter().filter(|(_, (entry, _))| matches!(entry, Entry::File { .. }));
    let mut names: Vec<_> = files.map(|(name, _)| name).chain([checkpoint_id_member().into()]).collect();
    names.sort();
    names
}

fn write(members: &[(&str, Entry, &[u8])]) -> io::Result<(Vec<u8>, String, u64)> {
    let mut writer = SlimArchiveWriter::new(Vec::new())?;
    for (name, entry, content) in members {
        writer.put(name, entry, &mut &content[..])?;
    }
    let archive = writer.finish(["0".repeat(64)])?;
    Ok((archive.out, archive.checkpoint_id, archive.unpacked))
}

fn file(content: &[u8]) -> Entry {
    Entry::File { len: content.len() as u64, mode: 0o640 }
}

#[test]
fn the_writer_is_deterministic_and_its_id_tells_apart() {
    let big: Vec<u8> = (0..900).flat_map(noise).collect();
    let members: Vec<(&str, Entry, &[u8])> =
        vec![("a", file(b"x"), b"x"), ("b", file(&big), &big), ("c", Entry::Dir, b"")];
    let (bytes, id, unpacked) = write(&members).unwrap();
    assert_eq!((bytes.clone(), id.clone(), unpacked), write(&members).unwrap());
    assert_eq!(unpacked, 1 + 900 * 4096 + 65);
    let differs = |members: &[(&str, Entry, &[u8])]| assert_ne!(write(members).unwrap().1, id);
    differs(&members[..2]);
    differs(&[members[0].clone(), members[2].clone(), members[1].clone()]);
    differs(&[("a", file(b"y"), b"y"), members[1].clone(), members[2].clone()]);
    differs(&[("A", file(b"x"), b"x"), members[1].clone(), members[2].clone()]);
    differs(&[("a", Entry::File { len: 1, mode: 0o600 }, b"x"), members[1].clone(), members[2].clone()]);
}

#[test]
fn the_writer_refuses_what_a_reader_would() {
    let link = |target: &str| Entry::Symlink { target: target.into() };
    for name in ["../a", "/a", "a/../b", "", "a\nb", checkpoint_id_member()] {
        assert!(write(&[(name, file(b""), b"")]).is_err(), "{name}");
    }
    for target in ["/etc/passwd", "..", "../x", "a/../../x", ""] {
        assert!(write(&[("link", link(target), b"")]).is_err(), "{target}");
    }
    write(&[("link", link(".pageferry/tripwire"), b""), ("x/link", link("../y"), b"")]).unwrap();
    // Content that is shorter than it should be.
    assert!(write(&[("a", Entry::File { len: 5, mode: 0 }, b"abc")]).is_err());
}

/// A store whose slim dump is this archive.
async fn with_archive(archive: &[u8], unpacked: u64, id: &str) -> Result<SlimDump> {
    let (_dir, _, dir) = made();
    let mut backend = MemoryBackend::load(&dir, 100_000);
    let mut manifest = Manifest::parse("x", &backend.objects[MANIFEST_NAME])?;
    let blake3 = blake3::hash(archive).to_hex().to_string();
    let object = format!("slim/{blake3}.tar.zst");
    backend.objects.insert(object.clone(), archive.to_vec());
    manifest.slim.object = page_store::ObjectRef { object, size: archive.len() as u64, blake3 };
    manifest.slim.unpacked = unpacked;
    manifest.checkpoint_id = id.into();
    backend.objects.insert(MANIFEST_NAME.into(), manifest.to_json()?);
    Store::from_backend(Arc::new(backend)).await?.slim().await
}

/// A tar with one strange member among good ones, whatever it says about itself.
fn hostile(header: impl FnOnce(&mut Header), content: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    let mut strange = Header::new_gnu();
    strange.set_path("a").unwrap();
    strange.set_size(content.len() as u64);
    strange.set_mode(0o644);
    header(&mut strange);
    strange.set_cksum();
    tar.extend_from_slice(strange.as_bytes());
    tar.extend_from_slice(content);
    tar.resize(tar.len().next_multiple_of(512), 0);
    let mut id = Header::new_gnu();
    id.set_path(checkpoint_id_member()).unwrap();
    id.set_size(65);
    id.set_mode(0o644);
    id.set_cksum();
    tar.extend_from_slice(id.as_bytes());
    tar.extend_from_slice(format!("{}\n", "a".repeat(64)).as_bytes());
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    tar
}

async fn refused(what: &str, tar: &[u8], unpacked: u64) {
    let archive = zstd::encode_all(tar, 1).unwrap();
    match with_archive(&archive, unpacked, &"a".repeat(64)).await {
        Ok(_) => panic!("{what} was accepted"),
        Err(e) => {
            assert!(matches!(e, Error::Corrupt { .. }) && e.to_string().starts_with("memory/slim/"), "{what}: {e}")
        }
    }
}

fn set_name(name: &[u8]) -> impl FnOnce(&mut Header) {
    move |header| header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name)
}

#[tokio::test]
async fn hostile_archives() {
    let good = hostile(|_| {}, b"hello");
    with_archive(&zstd::encode_all(&good[..], 1).unwrap(), 70, &"a".repeat(64)).await.unwrap();

    for name in [&b"../evil"[..], b"/evil", b"a/../../b", b"a//b", b"./a", b"\xff\xfe", b"a\nb"] {
        refused(&format!("{:?}", String::from_utf8_lossy(name)), &hostile(set_name(name), b"hello"), 70).await;
    }
    let link = |target: &'static str| {
        move |header: &mut Header| {
            header.set_entry_type(EntryType::Symlink);
            header.set_link_name(target).unwrap();
        }
    };
    refused("link up", &hostile(link(".."), b""), 65).await;
    refused("absolute link", &hostile(link("/etc/passwd"), b""), 65).await;
    refused("link up from below", &hostile(link("b/../../c"), b""), 65).await;
    refused("link with content", &hostile(link("b"), b"hello"), 70).await;
    for kind in
        [EntryType::Link, EntryType::Fifo, EntryType::Char, EntryType::Block, EntryType::XHeader, EntryType::GNUSparse]
    {
        refused(&format!("{kind:?}"), &hostile(|h| h.set_entry_type(kind), b""), 65).await;
    }
    // A file below a link, in either order.
    let below = |first: &[u8]| [first, &hostile(set_name(b"a/b"), b"")[..]].concat();
    refused("a file below a link", &below(&hostile(link("c"), b"")[..512]), 65).await;
    refused("a file below a file", &below(&hostile(|_| {}, b"")[..512]), 65).await;
    refused("a member twice", &[&good[..1024], &good].concat(), 75).await;
    refused("another sum than in the manifest", &good, 71).await;
    refused("more than in the manifest", &good, 69).await;
    refused("a length that lies", &hostile(|h| h.set_size(u64::MAX), b"hello"), 70).await;
    refused("a length past the end", &hostile(|h| h.set_size(1 << 40), b"hello"), 1 << 41).await;
    refused(
        "a long name of a terabyte",
        &hostile(
            |h| {
                h.set_entry_type(EntryType::GNULongName);
                h.set_size(1 << 40)
            },
            b"x",
        ),
        70,
    )
    .await;
    refused("a long name of nothing", &hostile(|h| h.set_entry_type(EntryType::GNULongName), b""), 65).await;
    refused("something behind the end", &[&good[..], b"x"].concat(), 70).await;
    let mut checksum = good.clone();
    checksum[3] ^= 1;
    refused("a wrong checksum", &checksum, 70).await;
    for len in (0..good.len() - 1).step_by(100) {
        refused(&format!("cut at {len}"), &good[..len], 70).await;
    }
    refused("no id", &[&good[..1024], &[0; 1024]].concat(), 5).await;
    let error = with_archive(&zstd::encode_all(&good[..], 1).unwrap(), 70, &"b".repeat(64)).await.unwrap_err();
    assert!(error.to_string().contains("it is of checkpoint aaaa"), "{error}");
    // A window that would need more memory than any slim dump of ours.
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&good).unwrap();
    let archive = encoder.finish().unwrap();
    assert!(matches!(with_archive(&archive, 70, &"a".repeat(64)).await, Err(Error::Corrupt { .. })));
}
