//! The checkpoint that a server serves: its store, the images of its slim dump, a few decoded frames.

use crate::{
    conditional::ETag,
    frame_cache::FrameCache,
    limits::Limits,
    metrics::Metrics,
    places::Places,
    problem::{Kind, Problem},
    segment::{self, Segment},
};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use criu_images::{Checkpoint, Mapping, Memory, PageAddr, PageRange, Pid, Task};
use page_store::{MANIFEST_NAME, Manifest, ObjectRef, Store};
use serde_json::{Value, json};
use std::{collections::HashMap, sync::Arc};

/// Larger than any `checkpoint.json` that is not a mistake: a hundred thousand tasks fit.
const MANIFEST_LIMIT: u64 = 32 << 20;

/// An open checkpoint.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) store: Store,
    pub(crate) images: Images,
    pub(crate) frames: Arc<FrameCache>,
    pub(crate) metrics: Arc<Metrics>,
    /// What `/store/` has: exactly what the manifest names, and the manifest.
    pub(crate) objects: HashMap<String, Object>,
    /// As it was when the store was opened: it and what it names belong together.
    pub(crate) manifest_json: Bytes,
}

/// The images of the slim dump; page bytes stay in its file.
#[derive(Clone)]
pub(crate) struct Images(pub(crate) Arc<Checkpoint>);

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Images({} tasks)", self.0.tasks.len())
    }
}

/// An object of the static mirror.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) size: u64,
    pub(crate) etag: ETag,
    pub(crate) content_type: &'static str,
}

impl Served {
    /// Opens a store or a raw checkpoint, its slim dump with it.
    pub(crate) async fn open(location: &str, limits: &Limits, metrics: Arc<Metrics>) -> Result<Self> {
        let (store, manifest_json) = store_at(location).await?;
        let slim =
            store.slim().await.context("cannot read the slim dump, which holds the pages that are never lazy")?;
        let images = tokio::task::spawn_blocking(move || Checkpoint::open(Arc::new(slim))).await??;
        let objects = objects(store.manifest(), &manifest_json);
        Ok(Self {
            store,
            images: Images(Arc::new(images)),
            frames: Arc::new(FrameCache::new(Places::kept_frames(limits))),
            metrics,
            objects,
            manifest_json,
        })
    }

    /// The same checkpoint as it is at `location` now: its store may have other working sets. What follows from the rest of it is kept.
    pub(crate) async fn renewed(&self, location: &str) -> Result<Self> {
        let (store, manifest_json) = store_at(location).await?;
        let without_sets = |manifest: &Manifest| Manifest { working_sets: Vec::new(), ..manifest.clone() };
        if without_sets(store.manifest()) != without_sets(self.store.manifest()) {
            bail!("{location} has another checkpoint than when this server was started; start it again");
        }
        let (images, frames, metrics) = (self.images.clone(), self.frames.clone(), self.metrics.clone());
        let objects = objects(store.manifest(), &manifest_json);
        Ok(Self { store, images, frames, metrics, objects, manifest_json })
    }

    /// The images of a task, or what to tell who asked for one that is not there.
    pub(crate) fn task(&self, pid: Pid) -> Result<&Task, Problem> {
        self.images.0.task(pid).ok_or_else(|| {
            let pids: Vec<_> = self.images.0.tasks.iter().map(|t| t.pid.get()).collect();
            let leader = self.images.0.tasks.iter().find(|t| t.threads.contains(&pid));
            let next = match leader {
                Some(leader) => format!("It is a thread of {}, which shares its memory: ask for that pid.", leader.pid),
                None => "Ask for one of the pids in `pids`; GET /pid tells more about them.".to_owned(),
            };
            Problem::new(Kind::NoSuchTask, format!("The checkpoint has no task with pid {pid}."), next)
                .with("pids", pids)
        })
    }

    /// The memory of a task; a dead one has none.
    pub(crate) fn memory(&self, pid: Pid) -> Result<&Memory, Problem> {
        self.task(pid)?.memory.as_ref().ok_or_else(|| {
            Problem::new(
                Kind::NoMemory,
                format!("Task {pid} was a zombie when it was dumped."),
                "GET /pid lists the tasks with their states; ask for one that is alive or stopped.",
            )
        })
    }

    /// A part of a task's address space, split by where its content is. `window` is not for whole address spaces: the answer
    /// has up to one element per page.
    pub(crate) async fn segments(&self, pid: Pid, window: PageRange) -> Result<Vec<Segment>, Problem> {
        let memory = self.memory(pid)?;
        let stored = match self.store.runs(pid, window).await {
            Ok(runs) => runs,
            Err(page_store::Error::NoSuchTask(_)) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        Ok(segment::overlay(&self.images.0, memory, &stored, window))
    }
}

impl Images {
    /// The mapping that holds `addr`, else the nearest ones below and above.
    pub(crate) fn mapping(memory: &Memory, addr: PageAddr) -> Result<&Mapping, [Option<&Mapping>; 2]> {
        let above = memory.mappings.partition_point(|m| m.range.end() <= addr.get());
        match memory.mappings.get(above) {
            Some(mapping) if mapping.range.contains(addr) => Ok(mapping),
            next => Err([above.checked_sub(1).and_then(|below| memory.mappings.get(below)), next]),
        }
    }
}

/// A store, and the bytes of its `checkpoint.json`.
async fn store_at(location: &str) -> Result<(Store, Bytes)> {
    let store = Store::open(location).await.with_context(|| format!("cannot open {location}"))?;
    let manifest_json = store.backend().get(MANIFEST_NAME, MANIFEST_LIMIT).await?;
    let described = store.backend().describe(MANIFEST_NAME);
    if Manifest::parse(&described, &manifest_json)?.checkpoint_id != store.manifest().checkpoint_id {
        bail!("{described} was replaced while it was being opened; start again");
    }
    Ok((store, manifest_json))
}

fn objects(manifest: &Manifest, manifest_json: &[u8]) -> HashMap<String, Object> {
    let mut objects = HashMap::new();
    let mut put = |object: &ObjectRef| {
        let content_type =
            if object.object.ends_with(".tar.zst") { "application/zstd" } else { "application/octet-stream" };
        let etag = ETag::strong(&object.blake3);
        objects.insert(object.object.clone(), Object { size: object.size, etag, content_type });
    };
    manifest.objects().for_each(&mut put);
    objects.insert(
        MANIFEST_NAME.to_owned(),
        Object {
            size: manifest_json.len() as u64,
            etag: ETag::strong(page_store::Digest::of(manifest_json)),
            content_type: "application/json",
        },
    );
    objects
}

/// A mapping as JSON: in lists and in problems.
pub(crate) fn mapping_json(mapping: &Mapping) -> Value {
    let mut json = range_json(mapping.range);
    json["permissions"] = permissions(mapping).into();
    json["offset"] = mapping.file_offset.into();
    json["name"] = mapping.name.clone().into();
    json["can_be_lazy"] = mapping.can_be_lazy.into();
    json
}

/// A range as JSON. `range` is what goes into an address.
pub(crate) fn range_json(range: PageRange) -> Value {
    json!({
        "start": range.start().to_string(),
        "end": format!("{:#x}", range.end()),
        "range": range.to_string(),
        "pages": range.pages(),
    })
}

/// `rwxp`, as in `/proc/<pid>/maps`.
pub(crate) fn permissions(mapping: &Mapping) -> String {
    let bit = |bit: u32, letter: char| if mapping.prot & bit != 0 { letter } else { '-' };
    let shared = if mapping.is_shared() { 's' } else { 'p' };
    [bit(1, 'r'), bit(2, 'w'), bit(4, 'x'), shared].into_iter().collect()
}
