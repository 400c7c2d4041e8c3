//! Several checkpoints under one server: `/checkpoints/<name>/...` has for each what the short paths have for one.
//!
//! A checkpoint is opened when it is first asked for, and kept for as long as there is room for it. Its `checkpoint.json` is looked at again now and
//! then: one that was replaced is opened anew, one that is gone is not served any more. What is in the folder is looked up when somebody asks, so it need not be told.

mod row;

use crate::{
    conditional::ETag,
    limits::Limits,
    problem::{Kind, Problem, damaged},
    routes::{self, App},
    served::Served,
    shared_packs::SharedPacks,
};
use anyhow::Result;
use axum::{Router, body::Bytes};
use page_store::{
    Digest, Folder, MANIFEST_NAME, Store, WorkingSetObject,
    working_set::{self, Trace},
    write::{Conditions, create},
};
use row::is_name;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::OnceCell;

/// Checkpoints that are open at once; what frames may take is shared between them.
const OPEN: usize = 8;
/// What every unpacked slim dump has (page-store/FORMAT.md, "The slim dump").
const SLIM_MARK: &str = ".pageferry/checkpoint-id";
/// Checkpoints that are being opened at once.
const OPENING: usize = 2;
/// How old what is known about the folder, or about a `checkpoint.json` in it, may be.
const FRESH: Duration = Duration::from_secs(2);

/// Where checkpoints are.
#[derive(Debug)]
pub(crate) enum Checkpoints {
    /// The one that the short paths have.
    One { name: String, router: OnceLock<Router> },
    /// Whatever is in a folder.
    Many(Box<Many>),
}

/// A folder of checkpoints.
#[derive(Debug)]
pub(crate) struct Many {
    folder: Folder,
    open: Mutex<HashMap<String, Arc<Entry>>>,
    listed: tokio::sync::Mutex<Option<(Instant, List)>>,
    adding: tokio::sync::Mutex<()>,
    shared: SharedPacks,
    opening: tokio::sync::Semaphore,
}

/// A checkpoint that is open, or just being opened.
#[derive(Debug)]
struct Entry {
    opened: OnceCell<Open>,
    /// When it was last asked for, and when its `checkpoint.json` was last looked at.
    times: Mutex<(Instant, Instant)>,
}

/// What an open checkpoint is asked through.
#[derive(Debug)]
struct Open {
    served: Arc<Served>,
    router: Router,
    /// Of a raw checkpoint, which has no `checkpoint.json` that would tell.
    stamp: Option<Stamp>,
}

/// What changes when a folder gets another raw checkpoint: device, inode and time of the `inventory.img`, which is written last.
type Stamp = (u64, u64, i64, i64);

/// The list of checkpoints, as it is sent.
#[derive(Clone, Debug)]
pub(crate) struct List {
    pub(crate) json: Bytes,
    pub(crate) etag: ETag,
}

impl List {
    fn new(rows: &[Value]) -> Self {
        let json = Bytes::from(json!({ "checkpoints": rows }).to_string());
        let etag = ETag::strong(Digest::of(&json));
        Self { json, etag }
    }
}

impl Checkpoints {
    /// The only checkpoint, by the last part of where it is; addresses of servers end with `store`, which says nothing.
    pub(crate) fn one(location: &str) -> Self {
        let path = location.split(['?', '#']).next().unwrap_or("").trim_end_matches('/');
        let mut parts = path.rsplit('/').filter(|part| !part.is_empty());
        let name = match (parts.next(), parts.next()) {
            (Some("store"), Some(before)) if is_name(before) => before,
            (Some(last), _) if is_name(last) => last,
            _ => "checkpoint",
        };
        Self::One { name: name.to_owned(), router: OnceLock::new() }
    }

    /// Whatever is in a folder, if that is what a location is: no checkpoint itself.
    pub(crate) async fn in_folder(location: &str) -> Option<Self> {
        let folder = Folder::parse(location).ok()?;
        if is_raw(location) || !matches!(folder.manifest().await, Err(page_store::Error::NotFound { .. })) {
            return None;
        }
        drop(folder.folders().await.ok()?);
        // Of files and nothing else is what somebody has mistaken for a checkpoint.
        if has_files(location)
            && raw_below(location).is_empty()
            && folder.stores(|_, _| ()).await.is_ok_and(|stores| stores.is_empty())
        {
            return None;
        }
        let (open, listed, adding, shared) = Default::default();
        Some(Self::Many(Box::new(Many {
            folder,
            open,
            listed,
            adding,
            shared,
            opening: tokio::sync::Semaphore::new(OPENING),
        })))
    }

    /// What there is, for people and programs.
    pub(crate) async fn list(&self, app: &App) -> Result<List, Problem> {
        match self {
            Self::One { name, .. } => Ok(List::new(&[row::of_store(name, Ok(app.served().await?.store.manifest()))])),
            Self::Many(many) => many.list().await,
        }
    }

    /// Adds what a restore has recorded to a checkpoint's store.
    pub(crate) async fn add_working_set(
        &self,
        app: &App,
        name: &str,
        set: &str,
        trace: Bytes,
    ) -> Result<WorkingSetObject, Problem> {
        match self {
            Self::One { .. } => Err(Problem::new(
                Kind::ReadOnly,
                "A server of one checkpoint serves it as it was when it started.",
                "Serve the folder that it is in, or use `pageferry-strip working-set` and start the server again.",
            )),
            Self::Many(many) => many.add_working_set(app, name, set, trace).await,
        }
    }

    /// Who answers for an object below `name` that no checkpoint called so has: one that shares it.
    pub(crate) async fn sharer(&self, app: &App, name: &str, path: &str) -> Option<Router> {
        let Self::Many(many) = self else { return None };
        let sharer = many.shared.sharer(&many.folder, FRESH, name, path).await?;
        many.router(app, &sharer).await.ok()
    }

    /// Who answers for a checkpoint.
    pub(crate) async fn router(&self, app: &App, name: &str) -> Result<Router, Problem> {
        match self {
            Self::One { name: one, router } if name == one => {
                let served = app.served().await?;
                Ok(router.get_or_init(|| routes::of_one(app.with(served.clone()))).clone())
            }
            Self::One { name: one, .. } => Err(unknown(name, &format!("Here is only {one:?}."))),
            Self::Many(many) => many.router(app, name).await,
        }
    }
}

impl Many {
    fn open(&self) -> MutexGuard<'_, HashMap<String, Arc<Entry>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn list(&self) -> Result<List, Problem> {
        // Who comes meanwhile waits, and gets the same.
        let mut listed = self.listed.lock().await;
        if let Some((when, list)) = &*listed
            && when.elapsed() < FRESH
        {
            return Ok(list.clone());
        }
        // Only rows are kept: a manifest may be a thousand times as large.
        let row = |name: String, manifest: page_store::Result<_>| {
            let row = row::of_store(&name, manifest.as_ref().map_err(ToString::to_string));
            (name, row)
        };
        let mut rows = match (self.folder.stores(row).await, &*listed) {
            (Ok(rows), _) => rows,
            (Err(error), Some((_, list))) => {
                tracing::warn!("{error}; what was there before is listed");
                return Ok(list.clone());
            }
            (Err(error), None) => return Err(error.into()),
        };
        let location = self.folder.to_string();
        let raw = tokio::task::spawn_blocking(move || {
            raw_below(&location)
                .into_iter()
                .map(|name| (name.clone(), row::of_raw(&name, &Path::new(&location).join(&name))))
                .collect()
        });
        let raw: Vec<_> = raw.await.map_err(|_| damaged())?;
        rows.extend(raw);
        rows.sort_by(|one, other| one.0.cmp(&other.0));
        let rows: Vec<Value> = rows.into_iter().map(|(_, row)| row).collect();
        let list = List::new(&rows);
        *listed = Some((Instant::now(), list.clone()));
        Ok(list)
    }

    async fn router(&self, app: &App, name: &str) -> Result<Router, Problem> {
        if !is_name(name) {
            return Err(unknown(name, "GET /checkpoints lists them."));
        }
        loop {
            let is_open = self.open().contains_key(name);
            // A name that is none must not take the place of a checkpoint that is open.
            if !is_open && !self.has(name).await? {
                return Err(unknown(name, "GET /checkpoints lists them."));
            }
            let entry = self.entry(name);
            let opened = entry.opened.get_or_try_init(|| self.open_one(app, name)).await;
            let opened = opened.inspect_err(|_| self.forget(name, &entry))?;
            self.make_room(name);
            if entry.is_fresh() || self.is_unchanged(name, opened).await {
                return Ok(opened.router.clone());
            }
            self.forget(name, &entry);
        }
    }

    /// The one that is there, or a new one.
    fn entry(&self, name: &str) -> Arc<Entry> {
        let mut open = self.open();
        if let Some(entry) = open.get(name) {
            entry.used();
            return entry.clone();
        }
        let entry = Arc::new(Entry { opened: OnceCell::new(), times: Mutex::new((Instant::now(), Instant::now())) });
        open.insert(name.to_owned(), entry.clone());
        entry
    }

    /// Closes those that were not asked for the longest, for one that could be opened.
    fn make_room(&self, name: &str) {
        let mut open = self.open();
        while open.values().filter(|entry| entry.opened.initialized()).count() > OPEN {
            let others = open.iter().filter(|(other, entry)| *other != name && entry.opened.initialized());
            let Some(oldest) = others.min_by_key(|(_, entry)| entry.times().0).map(|(name, _)| name.clone()) else {
                return;
            };
            open.remove(&oldest);
        }
    }

    fn forget(&self, name: &str, entry: &Arc<Entry>) {
        let mut open = self.open();
        if open.get(name).is_some_and(|there| Arc::ptr_eq(there, entry)) {
            open.remove(name);
        }
    }

    async fn add_working_set(
        &self,
        app: &App,
        name: &str,
        set: &str,
        trace: Bytes,
    ) -> Result<WorkingSetObject, Problem> {
        // An error for a name that is none.
        drop(self.router(app, name).await?);
        let location = self.folder.child(name)?.to_string();
        if is_raw(&location) {
            let next = "Split it: `pageferry-strip split` makes a store that can have them.";
            return Err(Problem::new(Kind::ReadOnly, "A raw checkpoint cannot hold a working set.", next));
        }
        // One at a time: they all change `checkpoint.json`, and each holds its frames meanwhile.
        let _turn = self.adding.lock().await;
        let set = set.to_owned();
        let runtime = tokio::runtime::Handle::current();
        // Writing waits for disks.
        let added = tokio::task::spawn_blocking(move || runtime.block_on(add(&location, &set, &trace)));
        let added = added.await.map_err(|_| damaged())??;
        self.open().remove(name);
        *self.listed.lock().await = None;
        Ok(added)
    }

    /// Whether there is anything called so that might be a checkpoint.
    async fn has(&self, name: &str) -> Result<bool, Problem> {
        let child = self.folder.child(name)?;
        let is_store = !matches!(child.manifest().await, Err(page_store::Error::NotFound { .. }));
        Ok(is_store || is_raw(&child.to_string()))
    }

    async fn open_one(&self, app: &App, name: &str) -> Result<Open, Problem> {
        // The images of each are held as soon as they are read. Nobody closes the semaphore.
        let _turn = self.opening.acquire().await;
        let location = self.folder.child(name)?.to_string();
        // Before it is read: a change after this is noticed.
        let stamp = stamp(&location);
        let limits = Limits { memory: app.limits.memory / OPEN as u64, ..app.limits };
        let served = Served::open(&location, &limits, app.metrics.clone()).await;
        let served = served.map_err(|error| match error.downcast::<page_store::Error>() {
            Ok(error) => error.into(),
            Err(error) => {
                tracing::error!("{error:#}");
                damaged()
            }
        })?;
        let served = Arc::new(served);
        Ok(Open { served: served.clone(), router: routes::of_one(app.with(served)), stamp })
    }

    /// Whether it is what it was, as far as can be told.
    async fn is_unchanged(&self, name: &str, open: &Open) -> bool {
        let Ok(child) = self.folder.child(name) else { return false };
        let is_same = match child.manifest().await {
            Ok(manifest) => manifest == *open.served.store.manifest(),
            Err(page_store::Error::NotFound { .. }) => open.stamp.is_some() && open.stamp == stamp(&child.to_string()),
            Err(error) => {
                tracing::warn!("{error}; {name} is served as it was");
                true
            }
        };
        if is_same {
            self.open().get(name).inspect(|entry| entry.looked());
        }
        is_same
    }
}

async fn add(location: &str, set: &str, trace: &[u8]) -> Result<WorkingSetObject, Problem> {
    // Locks the store, or notes what is there, so that what is read is what is added to.
    let sink = create(location, true, Conditions::Conditional).map_err(|error| not_written(&error))?;
    let store = Store::open(location).await?;
    let trace = Trace::parse("the body", trace, &store.manifest().checkpoint_id, store.frame_count());
    let trace = trace.map_err(|error| {
        let next = "Send the file that `pageferry-agent --record` wrote in a restore of this very checkpoint.";
        Problem::new(Kind::BadTrace, format!("{error}."), next)
    })?;
    working_set::add(&store, &*sink, set, &[trace]).await.map_err(|error| not_written(&error))
}

fn not_written(error: &page_store::Error) -> Problem {
    tracing::error!("{error}");
    let detail = "The store of this checkpoint could not be written to; the server's log says why.";
    Problem::new(Kind::ReadOnly, detail, "If somebody else writes to it, try again; else let the server write there.")
}

fn has_files(location: &str) -> bool {
    fs::read_dir(location).is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|entry| entry.path().is_file())))
}

/// Whether it is a checkpoint as `criu dump` left it, and no store as well.
fn is_raw(location: &str) -> bool {
    stamp(location).is_some()
}

/// `None` unless a raw checkpoint is there.
fn stamp(location: &str) -> Option<Stamp> {
    let folder = Path::new(location);
    let inventory = fs::metadata(folder.join("inventory.img")).ok()?;
    let is_store = folder.join(MANIFEST_NAME).exists();
    // A slim dump lacks the pages that are asked for.
    let is_slim = folder.join(SLIM_MARK).exists();
    (!is_store && !is_slim).then(|| (inventory.dev(), inventory.ino(), inventory.mtime(), inventory.mtime_nsec()))
}

/// Names of raw checkpoints in a folder of this machine.
fn raw_below(location: &str) -> Vec<String> {
    let entries = fs::read_dir(location).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| !name.starts_with('.') && is_raw(&format!("{location}/{name}"))).collect()
}

impl Entry {
    fn times(&self) -> MutexGuard<'_, (Instant, Instant)> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn used(&self) {
        self.times().0 = Instant::now();
    }

    fn looked(&self) {
        self.times().1 = Instant::now();
    }

    fn is_fresh(&self) -> bool {
        self.times().1.elapsed() < FRESH
    }
}

fn unknown(name: &str, next: &str) -> Problem {
    Problem::new(
        Kind::NoSuchCheckpoint,
        format!("This server has no checkpoint {}.", crate::address::quoted(name)),
        next,
    )
}
