//! `pageferry-agent restore`: the whole job in one command.

use crate::{
    cli::RestoreArgs,
    criu,
    early::Early,
    fetch::at_first,
    guard::{Guarded, Left, Word},
    lazy_pages::{Pager, Setting, began, endpoint, open_store, reopen_store, runtime},
    recording::Delivery,
    status::Status,
};
use anyhow::{Context, Result};
use criu_images::ImageDir;
use futures::FutureExt;
use page_store::{ScratchDir, Store};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};
use tokio::{
    process::Child,
    signal::unix::{SignalKind, signal},
};

const SCRATCH: &str = ".pageferry-restore-";

/// The error of a restore that a signal ended before CRIU was there. (Later ones make the pager hurry: a process that lacks memory is no
/// place to stop at.)
#[derive(Debug, thiserror::Error)]
#[error("stopped before CRIU was started; nothing was restored")]
pub struct Stopped {
    /// Number of the signal.
    pub signal: i32,
}

/// The folders of a restore.
struct Folders {
    images_dir: PathBuf,
    work_dir: PathBuf,
    /// Lives until the end: the slim dump, unless the user wants to keep it, the socket, CRIU's log.
    _scratch: ScratchDir,
    stores: Vec<String>,
}

impl Folders {
    fn new(args: &RestoreArgs, scratch: ScratchDir, guarded: &Guarded) -> Self {
        guarded.keep(Word::Scratch, &scratch);
        Self {
            images_dir: args.images_dir.clone().unwrap_or_else(|| scratch.path().join("slim")),
            work_dir: args.pager.work_dir.clone().unwrap_or_else(|| scratch.path().to_path_buf()),
            _scratch: scratch,
            stores: args.locations(),
        }
    }

    fn setting<'a>(&'a self, args: &'a RestoreArgs, status: &Arc<Status>, guarded: &Guarded) -> Setting<'a> {
        Setting {
            images_dir: &self.images_dir,
            work_dir: &self.work_dir,
            args: &args.pager,
            stores: &self.stores,
            status: status.clone(),
            guarded: guarded.clone(),
        }
    }
}

/// Runs the command.
pub fn run(args: RestoreArgs, started: Instant, guarded: Guarded, left: Option<Left>) -> Result<()> {
    let status = Arc::new(Status::new(began(&guarded, started)));
    guarded.sure(runtime())?.block_on(async {
        let _endpoint = endpoint(args.pager.metrics.as_deref(), &status, left.is_some())?;
        match left {
            Some(left) => take_over(&args, left, &status, &guarded).await,
            None => begin(&args, &status, &guarded).await,
        }
    })
}

async fn begin(args: &RestoreArgs, status: &Arc<Status>, guarded: &Guarded) -> Result<()> {
    let stopped = stopped()?;
    tokio::pin!(stopped);
    let (folders, pager) = tokio::select! {
        biased;
        stopped = &mut stopped => return Err(stopped.into()),
        prepared = prepare(args, status, guarded) => prepared?,
    };
    // It may have come while nobody looked.
    if let Some(stopped) = stopped.as_mut().now_or_never() {
        pager.abandon().await;
        return Err(stopped.into());
    }
    let criu = criu::start(args, &folders.images_dir, &folders.work_dir, guarded)?;
    with_criu(args, pager, criu, &folders.work_dir).await
}

/// Done when SIGINT or SIGTERM comes; caught from now on.
fn stopped() -> Result<impl Future<Output = Stopped>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        let kind = tokio::select! {
            _ = interrupt.recv() => SignalKind::interrupt(),
            _ = terminate.recv() => SignalKind::terminate(),
        };
        Stopped { signal: kind.as_raw_value() }
    })
}

/// Everything that CRIU needs to be there.
async fn prepare(args: &RestoreArgs, status: &Arc<Status>, guarded: &Guarded) -> Result<(Folders, Pager)> {
    Delivery::check(&args.pager, &args.locations())?;
    let store = open_store(&args.locations(), &args.pager, status).await?;
    let temporary = std::env::temp_dir();
    let scratch = ScratchDir::create(&temporary, SCRATCH)
        .with_context(|| format!("making a folder in {} (TMPDIR names another place)", temporary.display()))?;
    let folders = Folders::new(args, scratch, guarded);
    let early = Early::start(&store, &args.pager)?;
    unpack_slim_dump(&args.store, &store, &folders.images_dir).await?;
    let pager = Pager::start(store, early, folders.setting(args, status, guarded)).await?;
    Ok((folders, pager))
}

/// Unpacks the slim dump, unless a run before this one has left it there.
async fn unpack_slim_dump(location: &str, store: &Store, images_dir: &Path) -> Result<()> {
    let there = ImageDir::open(images_dir).ok().and_then(|images| page_store::checkpoint_id(&images).ok()).flatten();
    if there.is_some_and(|id| id == store.manifest().checkpoint_id) {
        tracing::info!("{} has the slim dump already", images_dir.display());
        return Ok(());
    }
    let slim = at_first(location, || store.slim()).await.context("fetching the slim dump")?;
    slim.unpack(images_dir).with_context(|| format!("unpacking the slim dump to {}", images_dir.display()))
}

async fn with_criu(args: &RestoreArgs, pager: Pager, mut criu: Child, work_dir: &Path) -> Result<()> {
    if args.stay {
        // CRIU itself waits for the process that it restored.
        let (exit, done) = tokio::join!(criu.wait(), pager.finish(args.pager.json, args.pager.is_silent()));
        let exit = criu::check(exit.context("waiting for CRIU")?, work_dir);
        if let (Err(_), Err(error)) = (&exit, &done) {
            // Only one of them can be what this ends with.
            tracing::error!("{error:#}");
        }
        return exit.and(done);
    }
    let exit = criu.wait().await.context("waiting for CRIU")?;
    if let Err(error) = criu::check(exit, work_dir) {
        pager.news_of_criu()();
        let _ = pager.finish(false, true).await;
        return Err(error);
    }
    pager.finish(args.pager.json, args.pager.is_silent()).await
}

/// Goes on with what another agent has begun. CRIU was started by that one: what it says is in its log, and on its socket.
async fn take_over(args: &RestoreArgs, mut left: Left, status: &Arc<Status>, guarded: &Guarded) -> Result<()> {
    let (path, dir) = guarded.sure(left.scratch().context("the scratch folder is gone"))?;
    let folders = Folders::new(args, ScratchDir::adopt(path, dir), guarded);
    let store = reopen_store(&args.locations(), &args.pager, &left, status).await;
    let lifeline = left.lifeline.take();
    let begun = left.has_heard_of_criu();
    let pager = guarded.sure(Pager::take_over(store, left, folders.setting(args, status, guarded)))?;
    let work_dir = &folders.work_dir;
    if !begun && lifeline.as_ref().is_none_or(criu::has_ended) {
        // It was not started, or has ended before it connected, and will say why once more.
        let criu = criu::start(args, &folders.images_dir, work_dir, guarded)?;
        return with_criu(args, pager, criu, work_dir).await;
    }
    let criu_is_gone = pager.news_of_criu();
    let ended = async {
        let ended = criu::end_of(lifeline).await;
        criu_is_gone();
        ended
    };
    // It ends long before, unless it was asked to stay.
    let (ended, outcome) = tokio::join!(ended, pager.finish(args.pager.json, args.pager.is_silent()));
    let outcome = ended.and(outcome);
    outcome.map_err(|error| match status.moments().restored {
        None => error.context(format!("criu restore failed:\n{}", criu::last_errors(work_dir))),
        Some(_) => error,
    })
}
