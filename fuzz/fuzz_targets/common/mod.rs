//! A small page store in memory, whose objects a fuzzer replaces.
#![allow(dead_code, reason = "each target uses a part")]

use criu_images::{
    Checkpoint, ImageDir,
    testing::{Dump, Pages, Task},
};
use futures::StreamExt;
use page_store::{
    Backend, ByteStream, Error, MANIFEST_NAME, Manifest, ObjectRef, Result,
    write::{LocalSink, Options, split},
};
use std::{
    collections::HashMap,
    fs,
    ops::Range,
    sync::{Arc, LazyLock},
};

pub type Objects = HashMap<String, Vec<u8>>;

/// A small store and its manifest.
pub static BASE: LazyLock<(Objects, Manifest)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (dump, store) = (dir.path().join("dump"), dir.path().join("store"));
    let task = |pid| Task::new(pid).anonymous(0x10_0000, 40).pages(Pages::here(0x10_0000, 20));
    let second = Task { ppid: 1, ..task(2) };
    Dump::new().task(task(1)).task(second).write(&dump).expect("written");
    let checkpoint = Checkpoint::open(Arc::new(ImageDir::open(&dump).expect("a folder"))).expect("a checkpoint");
    let sink = LocalSink::create(&store, false).expect("a folder");
    let manifest = split(&checkpoint, &sink, &Options::default(), &()).expect("split");
    let mut objects = Objects::new();
    let named = manifest.index.iter().map(|p| &p.object).chain(manifest.packs.iter().map(|p| &p.object));
    for object in named.chain([&manifest.slim.object]) {
        objects.insert(object.object.clone(), fs::read(store.join(&object.object)).expect("an object"));
    }
    objects.insert(MANIFEST_NAME.into(), manifest.to_json().expect("a manifest"));
    (objects, manifest)
});

pub static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"));

#[derive(Debug)]
pub struct Memory(pub Objects);

#[async_trait::async_trait]
impl Backend for Memory {
    fn describe(&self, object: &str) -> String {
        object.into()
    }
    async fn get(&self, object: &str, limit: u64) -> Result<bytes::Bytes> {
        match self.0.get(object) {
            Some(bytes) if bytes.len() as u64 <= limit => Ok(bytes.clone().into()),
            _ => Err(Error::NotFound { object: object.into() }),
        }
    }
    async fn get_range(&self, object: &str, range: Range<u64>) -> Result<ByteStream> {
        let bytes = self.0.get(object).and_then(|b| b.get(range.start as usize..usize::try_from(range.end).ok()?));
        let bytes = bytes.ok_or_else(|| Error::NotFound { object: object.into() })?;
        Ok(futures::stream::iter([Ok(bytes.to_vec().into())]).boxed())
    }
    fn fresh(&self) -> Arc<dyn Backend> {
        Arc::new(Self(self.0.clone()))
    }
}

/// Puts `bytes` in the place of an object, with the name that it then has.
pub fn replace(objects: &mut Objects, object: &mut ObjectRef, bytes: Vec<u8>) {
    let extension = object.object.split_once('.').map_or("", |(_, extension)| extension).to_owned();
    let folder = object.object.split('/').next().unwrap_or("").to_owned();
    object.blake3 = blake3::hash(&bytes).to_hex().to_string();
    object.size = bytes.len() as u64;
    object.object = format!("{folder}/{}.{extension}", object.blake3);
    objects.insert(object.object.clone(), bytes);
}
