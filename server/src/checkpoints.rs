//! The checkpoints of a server: the one that it was started with, or whatever is in a folder. `/checkpoints/<name>/...` has for each what the
//! short paths have for one.
//!
//! ```text
//! hosted   the one that a server was started with        many   those of a folder, opened as they are asked for
//! raw      checkpoints as `criu dump` left them          row    a checkpoint as it is listed
//! ```

mod hosted;
mod many;
mod raw;
mod row;

use crate::{
    conditional::ETag,
    limits::Limits,
    problem::{Kind, Problem, damaged},
    routes::{self, App},
    served::Served,
};
use anyhow::{Context, Result, bail};
use axum::{Router, body::Bytes};
use hosted::Hosted;
use many::Many;
use page_store::{
    Digest, Store, WorkingSetObject,
    working_set::{self, Trace},
    write::{Conditions, create},
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// Where checkpoints are.
#[derive(Clone, Debug)]
pub(crate) enum Checkpoints {
    /// The one that the short paths have.
    One(Arc<Hosted>),
    /// Whatever is in a folder.
    Many(Arc<Many>),
}

/// What an open checkpoint is asked through.
#[derive(Debug)]
struct Open {
    served: Arc<Served>,
    /// Its routes, for `/checkpoints/<name>/`.
    router: Router,
    /// Of a raw checkpoint, which has no `checkpoint.json` that would tell.
    stamp: Option<raw::Stamp>,
}

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
    /// What is at a location; nothing is opened yet. `default` is the name of the checkpoint in a folder that the short paths are to have.
    pub(crate) async fn at(location: &str, default: Option<&str>) -> Result<Self> {
        if let Some(name) = default.filter(|name| !row::is_name(name)) {
            bail!("--default {name:?}: this cannot be the name of a checkpoint in a folder");
        }
        match (Many::of(location, default).await, default) {
            (Ok(Some(many)), _) => Ok(Self::Many(Arc::new(many))),
            (Ok(None), Some(_)) => bail!(
                "--default names a checkpoint of a folder, and {location} is no folder of checkpoints: leave it out, or serve the folder around it"
            ),
            (Err(error), Some(_)) => Err(error).with_context(|| format!("cannot look into {location}")),
            // What is wrong is told by the attempt to open it.
            (_, None) => Ok(Self::One(Arc::new(Hosted::new(location)))),
        }
    }

    /// Opens what has to be open before anything is served, and gives it.
    pub(crate) async fn open(&self, app: &App) -> Result<Option<Arc<Served>>> {
        match self {
            Self::One(hosted) => hosted.begin(app).await.map(Some),
            Self::Many(_) => Ok(None),
        }
    }

    /// Whether there is something to serve.
    pub(crate) fn is_ready(&self) -> bool {
        match self {
            Self::One(hosted) => hosted.is_open(),
            Self::Many(_) => true,
        }
    }

    /// What the short paths have.
    pub(crate) async fn default(&self, app: &Arc<App>) -> Result<Arc<Served>, Problem> {
        Ok(self.open_default(app).await?.served.clone())
    }

    async fn open_default(&self, app: &Arc<App>) -> Result<Arc<Open>, Problem> {
        match self {
            Self::One(hosted) => hosted.get(app.limits.opening).await,
            Self::Many(many) => many.get(app, many.default()?).await,
        }
    }

    /// What there is, for people and programs.
    pub(crate) async fn list(&self, app: &App) -> Result<List, Problem> {
        match self {
            Self::One(hosted) => hosted.list(app.limits.opening).await,
            Self::Many(many) => many.list().await,
        }
    }

    /// Adds what a restore has recorded to the store of a checkpoint, the short paths' if no name is given. From then on it is served with it. Once
    /// it has begun, it is done to its end, also if whoever asked for it goes away.
    pub(crate) async fn add_working_set(
        &self,
        app: &Arc<App>,
        name: Option<String>,
        set: String,
        trace: Bytes,
    ) -> Result<WorkingSetObject, Problem> {
        match self {
            Self::One(hosted) => {
                name.map_or(Ok(()), |name| hosted.is_called(&name))?;
                hosted.add_working_set(app, set, trace).await
            }
            Self::Many(many) => {
                let name = name.map_or_else(|| many.default().map(str::to_owned), Ok)?;
                many.add_working_set(app, name, set, trace).await
            }
        }
    }

    /// Who answers for an object below `name` that no checkpoint called so has: one that shares it.
    pub(crate) async fn sharer(&self, app: &Arc<App>, name: &str, path: &str) -> Option<Router> {
        let Self::Many(many) = self else { return None };
        many.sharer(app, name, path).await
    }

    /// Who answers for a checkpoint.
    pub(crate) async fn router(&self, app: &Arc<App>, name: &str) -> Result<Router, Problem> {
        let open = match self {
            Self::One(hosted) => {
                hosted.is_called(name)?;
                hosted.get(app.limits.opening).await?
            }
            Self::Many(many) => many.get(app, name).await?,
        };
        Ok(open.router.clone())
    }
}

impl Open {
    async fn new(app: &App, location: &str, limits: &Limits) -> Result<Self> {
        // Before it is read: a change after this is noticed.
        let stamp = raw::stamp(location);
        let served = Arc::new(Served::open(location, limits, app.metrics.clone()).await?);
        Ok(Self { router: routes::of_one(app.with(served.clone())), served, stamp })
    }

    /// The same as it is after something was added to its store.
    async fn renewed(&self, app: &App, location: &str) -> Result<Self> {
        let served = Arc::new(self.served.renewed(location).await?);
        Ok(Self { router: routes::of_one(app.with(served.clone())), served, stamp: self.stamp })
    }

    /// Adds a recording to its store, which is at `location`.
    async fn add(&self, location: String, set: String, trace: Bytes) -> Result<WorkingSetObject, Problem> {
        if self.stamp.is_some() {
            let next = "Split it: `pageferry-strip split` makes a store that can have them.";
            return Err(Problem::new(Kind::ReadOnly, "A raw checkpoint cannot hold a working set.", next));
        }
        let runtime = tokio::runtime::Handle::current();
        // Writing waits for disks.
        let added = tokio::task::spawn_blocking(move || runtime.block_on(add(&location, &set, &trace)));
        added.await.map_err(|_| damaged())?
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

fn unknown(name: &str, next: &str) -> Problem {
    Problem::new(
        Kind::NoSuchCheckpoint,
        format!("This server has no checkpoint {}.", crate::address::quoted(name)),
        next,
    )
}

/// What kept a checkpoint from being opened.
fn not_opened(error: anyhow::Error) -> Problem {
    match error.downcast::<page_store::Error>() {
        Ok(error) => error.into(),
        Err(error) => {
            tracing::error!("{error:#}");
            damaged()
        }
    }
}

/// Waits for a checkpoint that is being opened, for so long.
async fn wait_for<T: Clone>(
    opening: &mut tokio::sync::watch::Receiver<Option<T>>,
    patience: Duration,
) -> Result<T, Problem> {
    match tokio::time::timeout(patience, opening.wait_for(Option::is_some)).await {
        Ok(Ok(opened)) => opened.clone().ok_or_else(damaged),
        // Who opened it has died, and said why.
        Ok(Err(_)) => Err(damaged()),
        Err(_) => Err(routes::not_ready()),
    }
}
