//! Whole objects: from the node's cache if it has them, else from where the store is. Each is verified before it is used.

use super::Store;
use crate::{
    ByteStream, Error, ObjectRef, Result, SlimDump, WorkingSetObject,
    backend::{blocking, read_range_of},
    working_set::WorkingSet,
};
use bytes::Bytes;
use futures::StreamExt;
use std::{fs::File, sync::Arc};
use tokio::io::AsyncWriteExt;

impl Store {
    /// Fetches the slim dump into an unlinked temporary file and checks its digest and every member.
    pub async fn slim(&self) -> Result<SlimDump> {
        let object = &self.manifest.slim.object;
        let name = self.backend.describe(&object.object);
        let file = match self.cached_file(object).await? {
            Some(file) => file,
            None => {
                // Backends give exactly so many bytes, or an error.
                let body = match object.size {
                    0 => futures::stream::empty().boxed(),
                    size => self.backend.get_range(&object.object, 0..size).await?,
                };
                let file = to_file(&name, object, body).await.inspect_err(|error| self.suspect(object, error))?;
                if let (Some(cache), Ok(copy)) = (&self.cache, file.try_clone()) {
                    cache.keep_file(object, copy);
                }
                file
            }
        };
        let manifest = Arc::clone(&self.manifest);
        blocking(move || SlimDump::from_archive(&name, file, &manifest)).await
    }

    /// A working set, its digest checked; its frames are not decoded yet.
    pub async fn working_set(&self, set: &WorkingSetObject) -> Result<WorkingSet> {
        let bytes = self.object(&set.object).await?;
        WorkingSet::parse(&self.backend.describe(&set.object.object), bytes, self.frame_count())
    }

    /// An object that fits into memory.
    pub(super) async fn object(&self, object: &ObjectRef) -> Result<Bytes> {
        if let Some(bytes) = self.cached_object(object).await {
            return Ok(bytes);
        }
        let bytes = self.backend.get(&object.object, object.size).await?;
        let bytes = self.checked(object, bytes).await.inspect_err(|error| self.suspect(object, error))?;
        if let Some(cache) = &self.cache {
            cache.keep_object(object, bytes.clone());
        }
        Ok(bytes)
    }

    async fn cached_object(&self, object: &ObjectRef) -> Option<Bytes> {
        let cache = self.cache.as_ref()?;
        loop {
            let found = cache.object(object).await?;
            let range = 0..object.size;
            let read = read_range_of(found.body, &object.object, &range);
            let checked = async { self.checked(object, read.await?).await };
            match checked.await {
                Ok(bytes) => {
                    cache.object_was_right(object);
                    return Some(bytes);
                }
                // There may be another copy.
                Err(error) if cache.object_was_wrong(&found.record, &error) => {}
                Err(_) => return None,
            }
        }
    }

    /// The same, in an unlinked temporary file. An error is one of that file.
    async fn cached_file(&self, object: &ObjectRef) -> Result<Option<File>> {
        let Some(cache) = &self.cache else { return Ok(None) };
        loop {
            let Some(found) = cache.object(object).await else { return Ok(None) };
            match to_file(&object.object, object, found.body).await {
                Ok(file) => {
                    cache.object_was_right(object);
                    return Ok(Some(file));
                }
                Err(error) if cache.object_was_wrong(&found.record, &error) => {}
                Err(_) => return Ok(None),
            }
        }
    }

    async fn checked(&self, object: &ObjectRef, bytes: Bytes) -> Result<Bytes> {
        let (name, object) = (self.backend.describe(&object.object), object.clone());
        // Hashing a large one takes milliseconds.
        blocking(move || check(&name, &object, &bytes).map(|()| bytes)).await
    }

    /// What came was not what it should be: no copy of it is to be used again.
    fn suspect(&self, object: &ObjectRef, error: &Error) {
        if matches!(error, Error::Corrupt { .. }) {
            self.backend.forget(&object.object, &(0..object.size));
        }
    }
}

/// Writes a body into an unlinked temporary file, and checks it.
async fn to_file(name: &str, object: &ObjectRef, mut body: ByteStream) -> Result<File> {
    let temporary = Error::temporary_file;
    let file = blocking(move || tempfile::tempfile().map_err(temporary)).await?;
    let mut file = tokio::fs::File::from_std(file);
    let mut hasher = blake3::Hasher::new();
    while let Some(chunk) = body.next().await.transpose()? {
        hasher.update(&chunk);
        file.write_all(&chunk).await.map_err(temporary)?;
    }
    file.flush().await.map_err(temporary)?;
    let file = file.into_std().await;
    match hasher.finalize().to_hex().as_str() == object.blake3 {
        true => Ok(file),
        false => Err(wrong_digest(name)),
    }
}

/// Whether an object is the one that the manifest names.
fn check(name: &str, object: &ObjectRef, bytes: &[u8]) -> Result<()> {
    if bytes.len() as u64 != object.size {
        let problem = format!("{} bytes, but the manifest says {}", bytes.len(), object.size);
        return Err(Error::Corrupt { object: name.into(), place: "length".into(), problem });
    }
    match blake3::hash(bytes).to_hex().as_str() == object.blake3 {
        true => Ok(()),
        false => Err(wrong_digest(name)),
    }
}

fn wrong_digest(name: &str) -> Error {
    Error::Corrupt { object: name.into(), place: "digest".into(), problem: "not that of the manifest".into() }
}
