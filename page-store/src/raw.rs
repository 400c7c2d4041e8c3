//! A checkpoint directory that was never stripped, read as a store.
//!
//! Its packs are the pages files that lazy pages lie in, parents' ones included, each whole and as it is
//! ([`PackEncoding::Plain`]): frame `i` of a pack is bytes `65536 i ..` of its file. Frames of the next file follow those of the one
//! before, so page numbers have gaps where the last frame of a file is short. Nothing is deduplicated; pages of zeros are
//! [`Location::Zero`](crate::Location), though they are in the packs too, and so are eager pages that lie among lazy ones.
//!
//! `checkpoint.json`, the index and the slim dump are made when it is opened, and kept in memory and in an unlinked temporary file.

mod digest;
mod index;
mod slim;

use crate::{
    Backend, ByteStream, Error, FRAME_PAGES, MANIFEST_NAME, Manifest, PackEncoding, PackObject, Result, Totals,
    backend::{check_limit, check_range, stream_range},
    manifest,
    write::describe::task_entries,
};
use async_trait::async_trait;
use bytes::Bytes;
use criu_images::{Checkpoint, ImageDir, PAGE_SIZE, PagesFile};
use digest::{FileDigests, digest_file};
use futures::{StreamExt, stream};
use std::{
    collections::HashMap,
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

/// A backend whose packs are the checkpoint's pages files (frames are raw 64 KiB slices) and whose other objects are made when it
/// is opened.
#[derive(Debug, Clone)]
pub struct RawCheckpoint {
    dir: PathBuf,
    objects: Arc<HashMap<String, Object>>,
}

/// Where the bytes of an object are.
#[derive(Debug)]
enum Object {
    /// Made at open.
    Memory(Bytes),
    /// Made at open: the slim dump.
    File { file: Arc<File>, len: u64 },
    /// A file of the checkpoint.
    Pages { file: PagesFile, seen: Option<Seen> },
}

/// A pages file when it was opened. Its digests hold for it only as long as it stays so.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    len: u64,
    modified: SystemTime,
}

impl Seen {
    /// `None` if the file has no name (any more): then nobody can change it behind our back, but through what is open already.
    fn of(file: &PagesFile) -> Option<Self> {
        let metadata = std::fs::metadata(file.name()).ok()?;
        Some(Self { len: metadata.len(), modified: metadata.modified().ok()? })
    }
}

impl RawCheckpoint {
    /// Reads the images and computes every digest: one pass over the pages files.
    pub fn open(dir: &Path) -> Result<Self> {
        let checkpoint = Checkpoint::open(Arc::new(ImageDir::open(dir)?))?;
        let used = index::files_with_lazy_pages(&checkpoint)?;
        let mut objects = HashMap::new();
        let (mut packs, mut digests) = (Vec::<PackObject>::new(), Vec::<FileDigests>::new());
        for &number in &used {
            let file = checkpoint.pages_files[number.0 as usize].clone();
            // Before it is read: a change after this is noticed.
            let seen = Seen::of(&file);
            let digest = digest_file(&file)?;
            let object = object("packs", "pack", digest.whole, file.len());
            packs.push(PackObject {
                object: object.clone(),
                encoding: PackEncoding::Plain,
                frames: digest.frames.len() as u64,
            });
            objects.insert(object.object, Object::Pages { file, seen });
            digests.push(digest);
        }
        let built = index::build(&checkpoint, &used, digests)?;
        let mut index = Vec::new();
        for part in built.parts {
            let object = object("index", "idx", blake3::hash(&part.bytes), part.bytes.len() as u64);
            objects.insert(object.object.clone(), Object::Memory(part.bytes.into()));
            let (frames, first_task, first_address) = (part.frames, part.first_task, part.first_address);
            index.push(crate::IndexObject { object, frames, first_task, first_address });
        }
        let slim = slim::make(&checkpoint, &index)?;
        objects
            .insert(slim.object.object.object.clone(), Object::File { file: slim.file, len: slim.object.object.size });
        let mut tasks = task_entries(&checkpoint);
        let dumped_pages = tasks.iter().map(|t| t.lazy_pages + t.slim_pages).sum::<u64>() + shared_pages(&checkpoint);
        for (task, pages) in tasks.iter_mut().zip(&built.pages) {
            // What CRIU leaves to the pager is here, even if it is in the slim dump too.
            task.lazy_pages = *pages;
        }
        let lazy_pages = built.pages.iter().sum();
        let pack_bytes = packs.iter().map(|p| p.object.size).sum();
        let totals = Totals {
            dumped_pages,
            lazy_pages,
            zero_pages: built.zero_pages,
            stored_pages: pack_bytes / PAGE_SIZE,
            // Not looked for: what is twice in the files is twice here.
            distinct_pages: lazy_pages - built.zero_pages,
            pack_bytes,
        };
        let manifest = Manifest {
            format: manifest::FORMAT.into(),
            version: manifest::VERSION,
            page_size: PAGE_SIZE,
            frame_pages: FRAME_PAGES,
            checkpoint_id: slim.checkpoint_id,
            image_version: checkpoint.image_version,
            tasks,
            index,
            packs,
            slim: slim.object,
            totals,
            working_sets: Vec::new(),
        };
        objects.insert(MANIFEST_NAME.into(), Object::Memory(manifest.to_json()?.into()));
        Ok(Self { dir: dir.to_owned(), objects: Arc::new(objects) })
    }

    fn object(&self, name: &str) -> Result<&Object> {
        self.objects.get(name).ok_or_else(|| Error::NotFound { object: self.describe(name) })
    }
}

fn shared_pages(checkpoint: &Checkpoint) -> u64 {
    checkpoint.shared.iter().flat_map(|segment| &segment.runs).map(|run| run.range.pages()).sum()
}

fn object(folder: &str, extension: &str, digest: blake3::Hash, size: u64) -> crate::ObjectRef {
    let blake3 = digest.to_hex().to_string();
    crate::ObjectRef { object: format!("{folder}/{blake3}.{extension}"), size, blake3 }
}

#[async_trait]
impl Backend for RawCheckpoint {
    fn describe(&self, object: &str) -> String {
        match self.objects.get(object) {
            // What the user can look at.
            Some(Object::Pages { file, .. }) => file.name().to_owned(),
            _ => format!("{object} of {}", self.dir.display()),
        }
    }

    async fn get(&self, object: &str, limit: u64) -> Result<Bytes> {
        let len = match self.object(object)? {
            Object::Memory(bytes) => bytes.len() as u64,
            Object::File { len, .. } => *len,
            Object::Pages { file, .. } => file.len(),
        };
        check_limit(&self.describe(object), len, limit)?;
        match self.object(object)? {
            Object::Memory(bytes) => Ok(bytes.clone()),
            _ if len == 0 => Ok(Bytes::new()),
            _ => crate::read_range(self, object, 0..len).await,
        }
    }

    async fn get_range(&self, object: &str, range: Range<u64>) -> Result<ByteStream> {
        check_range(|| self.describe(object), &range)?;
        match self.object(object)? {
            Object::Memory(bytes) => {
                let part = usize::try_from(range.end).ok().and_then(|end| bytes.get(range.start as usize..end));
                let part = part.map(|part| bytes.slice_ref(part)).ok_or_else(|| Error::Corrupt {
                    object: self.describe(object),
                    place: format!("bytes {}..{}", range.start, range.end),
                    problem: format!("it ends at byte {}", bytes.len()),
                })?;
                Ok(stream::iter([Ok(part)]).boxed())
            }
            Object::File { file, len } => {
                let file = PagesFile::new(self.describe(object), Arc::clone(file), 0, *len);
                Ok(stream_range(file, range))
            }
            Object::Pages { file, seen } => {
                if seen.is_some() && Seen::of(file).is_some_and(|now| Some(now) != *seen) {
                    let source = std::io::Error::other("it changed since it was opened; open the checkpoint again");
                    return Err(Error::Io { object: file.name().into(), source });
                }
                Ok(stream_range(file.clone(), range))
            }
        }
    }

    fn fresh(&self) -> Arc<dyn Backend> {
        Arc::new(self.clone())
    }
}
