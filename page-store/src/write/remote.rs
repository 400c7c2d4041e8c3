//! A store in an object store, uploaded while it is written.

mod upload;

use super::{ObjectSink, ObjectWriter, StoreSink};
use crate::{
    Backend, Error, Folder, MANIFEST_NAME, Manifest, ObjectBackend, ObjectRef, Result,
    bucket::{Bucket, Doing, Retrying},
    manifest,
};
use object_store::{Attribute, Attributes, GetOptions, PutMode, PutOptions, PutPayload, UpdateVersion};
use std::{
    collections::HashSet,
    fs::File,
    io::{self, BufWriter, Write},
    sync::{Arc, Mutex, MutexGuard, mpsc},
};
use tokio::runtime::Runtime;
use upload::Uploads;

/// Frames are handed over in pieces of some 20 KiB.
const BUFFER_BYTES: usize = 256 << 10;

/// How `checkpoint.json` is put.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conditions {
    /// Only if what is there is still what was there before: two writers cannot mix.
    #[default]
    Conditional,
    /// Whatever is there: for buckets that know no conditional puts, where nobody else writes.
    Unconditional,
}

/// Writes a store to an object store.
///
/// An object grows in a temporary file without a name, as its own name is its digest; then it is uploaded while the next one grows, a few at
/// once. Objects that are there already, of that name and size, are left as they are: a run that was cut goes on where it ended.
/// `checkpoint.json` comes last. Dropped without a commit, it ends its uploads; objects that are whole stay for the next run.
#[derive(Debug)]
pub struct RemoteSink {
    bucket: Bucket,
    conditions: Conditions,
    before: Option<Before>,
    uploads: Arc<Uploads>,
    committed: Mutex<bool>,
    /// Ends with this.
    runtime: Option<Runtime>,
}

/// The `checkpoint.json` that was there.
#[derive(Debug)]
struct Before {
    version: UpdateVersion,
    manifest: Option<Manifest>,
}

impl RemoteSink {
    /// A store at an address such as `s3://bucket/prefix`. Refused: a place that has one, unless `replace` is set.
    pub fn create(address: &str, replace: bool, conditions: Conditions) -> Result<Self> {
        Self::at(Bucket::open(address, Retrying::Client)?, replace, conditions)
    }

    /// The same in a store that the caller has made; `address` is for messages.
    pub fn of(
        store: Arc<dyn object_store::ObjectStore>,
        address: &str,
        replace: bool,
        conditions: Conditions,
    ) -> Result<Self> {
        Self::at(Bucket::of(store, address), replace, conditions)
    }

    fn at(bucket: Bucket, replace: bool, conditions: Conditions) -> Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("upload").enable_all().build();
        let runtime = runtime.map_err(|source| Error::Io { object: "threads".into(), source })?;
        let uploads = Arc::new(Uploads::new(bucket.clone(), runtime.handle().clone()));
        let mut sink =
            Self { bucket, conditions, before: None, uploads, committed: Mutex::new(false), runtime: Some(runtime) };
        sink.before = sink.look_before(replace)?;
        Ok(sink)
    }

    fn committed(&self) -> MutexGuard<'_, bool> {
        self.committed.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Runs on the sink's threads and waits, from inside a runtime or from outside.
    fn wait_for<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T> {
        let (sender, receiver) = mpsc::channel();
        let lost =
            || Error::Io { object: self.bucket.describe(""), source: io::Error::other("an upload's thread has ended") };
        let runtime = self.runtime.as_ref().ok_or_else(lost)?;
        runtime.spawn(async move { sender.send(work.await) });
        receiver.recv().map_err(|_| lost())
    }

    fn look_before(&self, replace: bool) -> Result<Option<Before>> {
        let (bucket, path) = (self.bucket.clone(), self.bucket.path(MANIFEST_NAME)?);
        let name = self.bucket.describe(MANIFEST_NAME);
        let got = self.wait_for(async move {
            let got = bucket.store().get_opts(&path, GetOptions::default()).await?;
            let version = UpdateVersion { e_tag: got.meta.e_tag.clone(), version: got.meta.version.clone() };
            let json = match got.meta.size <= manifest::MAX_MANIFEST_BYTES {
                true => Some(got.bytes().await?),
                false => None,
            };
            Ok((version, json))
        })?;
        let (version, json) = match got {
            Ok(got) => got,
            Err(error) => {
                return match self.bucket.error(MANIFEST_NAME, Doing::Reading, &error) {
                    Error::NotFound { .. } => Ok(None),
                    error => Err(error),
                };
            }
        };
        let refused = |what: &str| Err(Error::Unsupported { object: name.clone(), what: what.into() });
        if !replace {
            return refused(
                "there is a page store already; give another place, or say --replace to put this one in its stead",
            );
        }
        let manifest = json.as_deref().and_then(|json| Manifest::parse(&name, json).ok());
        let value: serde_json::Value =
            json.as_deref().and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default();
        if value.get("format").and_then(|f| f.as_str()) != Some(manifest::FORMAT) {
            return refused("not the manifest of a page store, so nothing here is replaced; give another place");
        }
        Ok(Some(Before { version, manifest }))
    }

    fn put_manifest(&self, json: &[u8]) -> Result<()> {
        let mode = match (&self.before, self.conditions) {
            (_, Conditions::Unconditional) => PutMode::Overwrite,
            (None, Conditions::Conditional) => PutMode::Create,
            (Some(before), Conditions::Conditional) => PutMode::Update(before.version.clone()),
        };
        let doing = if mode == PutMode::Overwrite { Doing::Writing } else { Doing::WritingIf };
        let (bucket, path) = (self.bucket.clone(), self.bucket.path(MANIFEST_NAME)?);
        let (payload, ours) = (PutPayload::from(json.to_vec()), json.to_vec());
        let put = self.wait_for(async move {
            let options = PutOptions { mode, attributes: attributes(MANIFEST_NAME), ..PutOptions::default() };
            match bucket.store().put_opts(&path, payload, options).await {
                Ok(_) => Ok(()),
                // A put whose answer was lost is tried again, and finds itself.
                Err(error @ (object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. })) => {
                    let there = bucket.store().get_opts(&path, GetOptions::default()).await;
                    let there = match there {
                        Ok(there) => there.bytes().await.ok(),
                        Err(_) => None,
                    };
                    if there.is_some_and(|there| there == ours) { Ok(()) } else { Err(error) }
                }
                Err(error) => Err(error),
            }
        })?;
        put.map_err(|error| self.bucket.error(MANIFEST_NAME, doing, &error))
    }

    /// Removes objects that only the store that was replaced has named, and no store beside it. What cannot be removed costs room, nothing
    /// else.
    fn prune(&self, manifest: &Manifest) {
        let Some(before) = self.before.as_ref().and_then(|before| before.manifest.as_ref()) else { return };
        let named: HashSet<&str> = manifest.own_objects().map(|object| object.object.as_str()).collect();
        let mut old: Vec<_> = before.own_objects().filter(|object| !named.contains(object.object.as_str())).collect();
        if old.is_empty() {
            return;
        }
        let folder = Folder::of(self.bucket.clone());
        let name = folder.name().unwrap_or_default();
        // The order matters: whoever shares a pack of the old store from now on finds that its manifest has changed.
        match self.wait_for(async move { folder.neighbours().await }).and_then(|looked| looked) {
            Ok(neighbours) => old.retain(|object| !neighbours.need(&name, &object.object)),
            Err(error) => return tracing::warn!("{error}; so what the old store had is left where it is"),
        }
        let paths: Vec<_> = old.iter().filter_map(|object| self.bucket.path(&object.object).ok()).map(Ok).collect();
        let store = self.bucket.store().clone();
        let _ = self.wait_for(async move {
            use futures::StreamExt;
            let mut gone = store.delete_stream(futures::stream::iter(paths).boxed());
            while gone.next().await.is_some() {}
        });
    }
}

/// How an object is to be handed out: its name is its digest, so it never changes, except for the one name that does.
fn attributes(object: &str) -> Attributes {
    let (kind, caching) = match object {
        MANIFEST_NAME => ("application/json", "no-cache"),
        name if name.ends_with(".tar.zst") => ("application/zstd", "public, max-age=31536000, immutable"),
        _ => ("application/octet-stream", "public, max-age=31536000, immutable"),
    };
    Attributes::from_iter([(Attribute::ContentType, kind), (Attribute::CacheControl, caching)])
}

impl ObjectSink for RemoteSink {
    fn begin(&self) -> Result<Box<dyn ObjectWriter>> {
        let file = tempfile::tempfile().map_err(Error::temporary_file)?;
        Ok(Box::new(RemoteObject { file: BufWriter::with_capacity(BUFFER_BYTES, file), uploads: self.uploads.clone() }))
    }

    fn commit(&self, manifest: &[u8]) -> Result<()> {
        self.commit_after(manifest, &mut || Ok(()))
    }
}

impl StoreSink for RemoteSink {
    fn commit_after(&self, manifest: &[u8], before: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let parsed = Manifest::parse(&self.bucket.describe(MANIFEST_NAME), manifest)?;
        self.uploads.finish()?;
        before()?;
        self.put_manifest(manifest)?;
        *self.committed() = true;
        self.prune(&parsed);
        Ok(())
    }

    fn is_committed(&self) -> bool {
        *self.committed()
    }

    fn written(&self) -> Result<Arc<dyn Backend>> {
        self.uploads.finish()?;
        Ok(Arc::new(ObjectBackend::at(self.bucket.fresh())))
    }

    fn has(&self, object: &ObjectRef) -> bool {
        let (bucket, object) = (self.bucket.clone(), object.clone());
        self.wait_for(async move { upload::is_there(&bucket, &object.object, object.size).await }).unwrap_or(false)
    }
}

impl Drop for RemoteSink {
    fn drop(&mut self) {
        self.uploads.stop();
        if let Some(runtime) = self.runtime.take() {
            // Within another runtime it must not be waited for.
            runtime.shutdown_background();
        }
    }
}

/// An object that grows.
struct RemoteObject {
    file: BufWriter<File>,
    uploads: Arc<Uploads>,
}

impl Write for RemoteObject {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl ObjectWriter for RemoteObject {
    fn finish(self: Box<Self>, name: &str) -> Result<()> {
        let file = self.file.into_inner().map_err(|e| Error::temporary_file(e.into_error()))?;
        self.uploads.start(name, file)
    }
}
