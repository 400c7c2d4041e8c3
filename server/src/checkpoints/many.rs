//! Checkpoints of a folder.
//!
//! One is opened when it is first asked for, and kept for as long as there is room for it. Its `checkpoint.json` is looked at again now and then: one
//! that was replaced is opened anew, one that is gone is not served any more. What is in the folder is looked up when somebody asks, so it need not be told.

use super::{List, Open, not_opened, raw, row, unknown, wait_for};
use crate::{
    limits::Limits,
    problem::{Kind, Problem, damaged},
    routes::App,
    shared_packs::SharedPacks,
};
use anyhow::Result;
use axum::{Router, body::Bytes};
use page_store::{Folder, Manifest, WorkingSetObject};
use serde_json::Value;
use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{Semaphore, watch};

/// Checkpoints that are open at once; what frames may take is shared between them.
const OPEN: usize = 8;
/// Checkpoints that are being opened at once; and as many raw ones.
const OPENING: usize = 2;
/// How old what is known about the folder, or about a `checkpoint.json` in it, may be; and how long a request waits for a look that hangs.
const FRESH: Duration = Duration::from_secs(2);

/// A folder of checkpoints.
#[derive(Debug)]
pub(crate) struct Many {
    folder: Folder,
    /// The name of the one that the short paths have.
    default: Option<String>,
    entries: Mutex<HashMap<String, Arc<Entry>>>,
    listed: tokio::sync::Mutex<Option<(Instant, List)>>,
    adding: Arc<tokio::sync::Mutex<()>>,
    shared: SharedPacks,
    opening: Semaphore,
    /// Of their own, as they take long.
    opening_raw: Semaphore,
}

/// A checkpoint that is open, or just being opened: by one task, which goes on when nobody waits for it any more.
#[derive(Debug)]
struct Entry {
    opened: watch::Receiver<Option<Result<Arc<Open>, Problem>>>,
    /// When it was last asked for, and when its `checkpoint.json` was last looked at.
    times: Mutex<(Instant, Instant)>,
}

impl Many {
    /// Whatever is in a folder, if that is what a location is: no checkpoint itself.
    pub(super) async fn of(location: &str, default: Option<&str>) -> Result<Option<Self>> {
        let Ok(folder) = Folder::parse(location) else { return Ok(None) };
        match folder.manifest().await {
            Ok(_) => return Ok(None),
            Err(page_store::Error::NotFound { .. }) if raw::stamp(location).is_none() => {}
            Err(page_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        drop(folder.folders().await?);
        // Of files and nothing else is what somebody has mistaken for a checkpoint.
        if raw::has_files(location)
            && raw::below(location).is_empty()
            && folder.stores(|_, _| ()).await.is_ok_and(|stores| stores.is_empty())
        {
            return Ok(None);
        }
        let (entries, listed, adding, shared) = Default::default();
        let [opening, opening_raw] = [Semaphore::new(OPENING), Semaphore::new(OPENING)];
        let default = default.map(str::to_owned);
        Ok(Some(Self { folder, default, entries, listed, adding, shared, opening, opening_raw }))
    }

    /// The name of the checkpoint that the short paths have.
    pub(super) fn default(&self) -> Result<&str, Problem> {
        self.default.as_deref().ok_or_else(|| {
            let next = "GET /checkpoints lists them; put /checkpoints/<name> in front of the path, or start the server with --default NAME.";
            Problem::new(Kind::NoSuchPath, "This server has several checkpoints.", next)
        })
    }

    pub(super) async fn list(&self) -> Result<List, Problem> {
        // Who comes meanwhile waits, and gets the same.
        let mut listed = self.listed.lock().await;
        if let Some((when, list)) = &*listed
            && when.elapsed() < FRESH
        {
            return Ok(list.clone());
        }
        // Only rows are kept: a manifest may be a thousand times as large.
        let row = |name: String, manifest: page_store::Result<Manifest>| {
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
            raw::below(&location)
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

    /// A checkpoint, open. Whoever waits for it longer than [`Limits::opening`] is told so, and it goes on being opened.
    pub(super) async fn get(self: &Arc<Self>, app: &Arc<App>, name: &str) -> Result<Arc<Open>, Problem> {
        if !row::is_name(name) {
            return Err(unknown(name, "GET /checkpoints lists them."));
        }
        loop {
            let entry = match self.known(name) {
                Some(entry) => entry,
                // A name that is none must not take the place of a checkpoint that is open.
                None if !self.has(name).await? => return Err(unknown(name, "GET /checkpoints lists them.")),
                None => self.begin(app, name),
            };
            let open = wait_for(&mut entry.opened.clone(), app.limits.opening).await??;
            if entry.is_fresh() || self.is_unchanged(name, &entry, &open).await {
                return Ok(open);
            }
            self.forget(name, &entry);
        }
    }

    pub(super) async fn sharer(self: &Arc<Self>, app: &Arc<App>, name: &str, path: &str) -> Option<Router> {
        let sharer = self.shared.sharer(&self.folder, FRESH, name, path).await?;
        Some(self.get(app, &sharer).await.ok()?.router.clone())
    }

    pub(super) async fn add_working_set(
        self: &Arc<Self>,
        app: &Arc<App>,
        name: String,
        set: String,
        trace: Bytes,
    ) -> Result<WorkingSetObject, Problem> {
        let open = self.get(app, &name).await?;
        // One at a time: they all change `checkpoint.json`, and each holds its frames meanwhile.
        let turn = self.adding.clone().lock_owned().await;
        let many = self.clone();
        let task = tokio::spawn(async move {
            let _turn = turn;
            let added = open.add(many.folder.child(&name)?.to_string(), set, trace).await?;
            many.entries().remove(&name);
            *many.listed.lock().await = None;
            Ok(added)
        });
        task.await.map_err(|_| damaged())?
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, name: &str) -> Option<Arc<Entry>> {
        self.entries().get(name).filter(|entry| !entry.is_dead()).inspect(|entry| entry.used()).cloned()
    }

    /// Begins to open one, unless somebody else has just done so.
    fn begin(self: &Arc<Self>, app: &Arc<App>, name: &str) -> Arc<Entry> {
        let mut entries = self.entries();
        if let Some(entry) = entries.get(name).filter(|entry| !entry.is_dead()) {
            return entry.clone();
        }
        let (done, opened) = watch::channel(None);
        let entry = Arc::new(Entry { opened, times: Mutex::new((Instant::now(), Instant::now())) });
        entries.insert(name.to_owned(), entry.clone());
        let (many, app, name, this) = (self.clone(), app.clone(), name.to_owned(), entry.clone());
        tokio::spawn(async move {
            match many.open(&app, &name).await {
                Ok(open) => {
                    done.send_replace(Some(Ok(Arc::new(open))));
                    many.make_room(&name);
                }
                // All who wait are told, and whoever comes later has it tried again.
                Err(problem) => {
                    many.forget(&name, &this);
                    done.send_replace(Some(Err(problem)));
                }
            }
        });
        entry
    }

    async fn open(&self, app: &App, name: &str) -> Result<Open, Problem> {
        let location = self.folder.child(name)?.to_string();
        let opening = if raw::stamp(&location).is_some() { &self.opening_raw } else { &self.opening };
        // The images of each are held as soon as they are read. Nobody closes the semaphore.
        let _turn = opening.acquire().await;
        let limits = Limits { memory: app.limits.memory / OPEN as u64, ..app.limits };
        Open::new(app, &location, &limits).await.map_err(not_opened)
    }

    /// Closes those that were not asked for the longest, for one that could be opened.
    fn make_room(&self, name: &str) {
        let mut entries = self.entries();
        while entries.values().filter(|entry| entry.is_open()).count() > OPEN {
            let others = entries.iter().filter(|(other, entry)| *other != name && entry.is_open());
            let Some(oldest) = others.min_by_key(|(_, entry)| entry.times().0).map(|(name, _)| name.clone()) else {
                return;
            };
            entries.remove(&oldest);
        }
    }

    fn forget(&self, name: &str, entry: &Arc<Entry>) {
        let mut entries = self.entries();
        if entries.get(name).is_some_and(|there| Arc::ptr_eq(there, entry)) {
            entries.remove(name);
        }
    }

    /// Whether there is anything called so that might be a checkpoint.
    async fn has(&self, name: &str) -> Result<bool, Problem> {
        let child = self.folder.child(name)?;
        match child.manifest().await {
            Err(page_store::Error::NotFound { .. }) => Ok(raw::stamp(&child.to_string()).is_some()),
            // What is not known to be there takes nobody's turn.
            Err(error) if error.is_transient() => Err(error.into()),
            // What is wrong is told by the attempt to open it.
            _ => Ok(true),
        }
    }

    /// Whether it is what it was, as far as can be told.
    async fn is_unchanged(&self, name: &str, entry: &Entry, open: &Open) -> bool {
        let Ok(child) = self.folder.child(name) else { return false };
        let is_same = match tokio::time::timeout(FRESH, child.manifest()).await {
            Ok(Ok(manifest)) => manifest == *open.served.store.manifest(),
            Ok(Err(page_store::Error::NotFound { .. })) => {
                open.stamp.is_some() && open.stamp == raw::stamp(&child.to_string())
            }
            Ok(Err(error)) => {
                tracing::warn!("{error}; {name} is served as it was");
                true
            }
            Err(_) => {
                tracing::warn!("{child} has not answered within {} s; {name} is served as it was", FRESH.as_secs());
                true
            }
        };
        if is_same {
            entry.looked();
        }
        is_same
    }
}

impl Entry {
    /// Whether whoever opened it came to no end, which is our mistake and was logged.
    fn is_dead(&self) -> bool {
        self.opened.has_changed().is_err() && self.opened.borrow().is_none()
    }

    fn is_open(&self) -> bool {
        matches!(&*self.opened.borrow(), Some(Ok(_)))
    }

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
