//! `pageferry-agent lazy-pages`, and the pager that `restore` runs.

use crate::{
    cli::{LazyPagesArgs, PagerArgs},
    counting::CountingBackend,
    criu_socket::LazyPagesSocket,
    early::Early,
    engine::{Engine, Orders, Plan, RecordOptions},
    fetch::Fetcher,
    ids,
    images::Images,
    progress,
    rate::RateLimit,
    status::{Moment, Status},
    uffd,
};
use anyhow::{Context, Result};
use nix::sys::eventfd::EventFd;
use page_store::{HttpVersion, Store};
use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::JoinHandle,
    time::Instant,
};
use tokio::runtime::Runtime;

/// A pager that listens, and will serve one restore.
pub struct Pager {
    engine: JoinHandle<Result<()>>,
    orders: Arc<Orders>,
    wake: Arc<EventFd>,
    status: Arc<Status>,
    signals: Signals,
}

impl Pager {
    /// Checks that the images in `images_dir` and the store belong together, and listens in `work_dir`.
    pub async fn start(
        store: Store,
        images_dir: &Path,
        work_dir: &Path,
        args: &PagerArgs,
        early: Early,
        status: Arc<Status>,
    ) -> Result<Self> {
        let signals = Signals::new()?;
        let images = Images::open(images_dir, &store).await?;
        ids::keep_clear_of(&images.ids)?;
        let socket = LazyPagesSocket::bind(work_dir)?;
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let fetcher = Fetcher::start(&store, status.clone(), cores, RateLimit::new(args.limit_rate))?;
        let wake = fetcher.waker();
        let orders = Arc::new(Orders::default());
        let ids = images.ids.clone();
        let record = args.record.clone().map(|file| RecordOptions { file, settle: args.record_settle });
        let plan = Plan { complete: args.complete, replays: early.working_set.is_some(), record };
        if let Some(set) = early.working_set {
            fetcher.replay(set);
        }
        let engine = Engine::new(socket, images, store, fetcher, plan, orders.clone(), status.clone())?;
        let engine = std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || engine.run())
            .context("starting the engine's thread")?;
        ids::check_threads(&ids)?;
        status.reached(Moment::Listening);
        Ok(Self { engine, orders, wake, status, signals })
    }

    /// Waits until every process is whole or gone. A signal makes it finish early: it completes all processes at once and then ends,
    /// since a process whose pager goes away reads zeros.
    pub async fn finish(self, json: bool, quiet: bool) -> Result<()> {
        let progress = progress::Line::start(self.status.clone(), quiet || json);
        let mut signals = self.signals;
        let engine = tokio::task::spawn_blocking(move || self.engine.join());
        tokio::pin!(engine);
        let outcome = loop {
            tokio::select! {
                outcome = &mut engine => break outcome?,
                told = signals.next() => if told == Told::Ready {
                    self.orders.stop_recording.store(true, Relaxed);
                    let _ = self.wake.write(1);
                } else {
                    tracing::warn!(
                        "asked to stop: first the {} pages that are still missing, the processes would read zeros without them",
                        self.status.missing.load(Relaxed)
                    );
                    self.orders.hurry.store(true, Relaxed);
                    let _ = self.wake.write(1);
                }
            }
        };
        drop(progress);
        outcome.map_err(|_| anyhow::anyhow!("the engine's thread panicked; this is a bug, please report it"))??;
        let summary = self.status.summary();
        if json {
            println!("{}", serde_json::to_string(&summary)?);
        } else if !quiet {
            eprintln!("{summary}");
        }
        tracing::debug!("{summary:?}");
        Ok(())
    }

    /// Makes a pager that CRIU has not connected to end.
    pub fn cancel(&self) {
        self.orders.hurry.store(true, Relaxed);
        let _ = self.wake.write(1);
    }
}

/// What a signal means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Stop,
    /// The restored service is ready: a recording has all that matters.
    Ready,
}

/// SIGINT and SIGTERM; SIGUSR1. Caught from before CRIU starts: an agent that a signal ends then would leave zeros.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    user1: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            user1: signal(SignalKind::user_defined1())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.terminate.recv() => Told::Stop,
            _ = self.user1.recv() => Told::Ready,
        }
    }
}

/// Opens a store so that what it reads is counted.
pub(crate) async fn open_store(location: &str, http: HttpVersion, status: &Arc<Status>) -> Result<Store> {
    let store = Store::open_by(location, http).await.with_context(|| format!("opening the page store {location}"))?;
    Ok(store.with_backend(Arc::new(CountingBackend::new(store.backend().clone(), status.clone()))))
}

/// The runtime for all but pages. Few threads: each takes a thread id that a restored process may need.
pub(crate) fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("agent").enable_all().build()?)
}

/// Runs the command.
pub fn run(args: LazyPagesArgs, started: Instant, listening: impl FnOnce() -> Result<()>) -> Result<()> {
    let work_dir = args.pager.work_dir.clone().unwrap_or_else(|| args.images_dir.clone());
    runtime()?.block_on(async {
        let status = Arc::new(Status::new(started));
        let location = args.store.clone().unwrap_or_else(|| args.images_dir.display().to_string());
        let store = open_store(&location, args.pager.http_version(), &status).await?;
        let early = Early::start(&store, &args.pager)?;
        let pager = Pager::start(store, &args.images_dir, &work_dir, &args.pager, early, status).await?;
        if let Some(fd) = args.status_fd {
            let fd = uffd::inherited_fd(fd).context("--status-fd")?;
            File::from(fd).write_all(&[0]).context("writing to --status-fd")?;
        }
        listening()?;
        tracing::info!("listening in {}", work_dir.display());
        pager.finish(args.pager.json, args.pager.quiet).await
    })
}

/// `path` relative to the work directory, as CRIU takes its log and pid files.
pub fn in_work_dir(work_dir: &Path, path: &Path) -> PathBuf {
    work_dir.join(path)
}
