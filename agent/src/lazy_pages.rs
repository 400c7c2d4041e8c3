//! `pageferry-agent lazy-pages`, and the pager that `restore` runs.

use crate::{
    cli::{LazyPagesArgs, PagerArgs},
    counting::CountingBackend,
    criu_socket::LazyPagesSocket,
    early::{Early, WorkingSetDownload},
    engine::{Engine, FIRST_PROCESS, OnMissing, Orders, Plan, RecordOptions, Start},
    fd_store::FdStore,
    fetch::{Fetcher, at_first},
    guard::{Guarded, Ledger, Left, Word},
    ids,
    images::Images,
    observe, progress,
    rate::RateLimit,
    recording::{self, Delivery, RecordTo, Recording},
    status::{Moment, SAVED, Status},
    uffd,
};
use anyhow::{Context, Result, bail};
use nix::sys::eventfd::EventFd;
use page_store::{NodeCache, Store};
use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
};

/// How long the end of a restore may wait for a disk: what is not in the cache by then is fetched again some day.
const FLUSH: Duration = Duration::from_secs(2);

/// A pager that listens, and will serve one restore.
pub struct Pager {
    engine: JoinHandle<Result<()>>,
    orders: Arc<Orders>,
    wake: Arc<EventFd>,
    status: Arc<Status>,
    signals: Signals,
    guarded: Guarded,
    cache: Option<NodeCache>,
    delivery: Option<(Delivery, Recording)>,
}

/// What a pager needs of its surroundings.
pub(crate) struct Setting<'a> {
    pub images_dir: &'a Path,
    pub work_dir: &'a Path,
    pub args: &'a PagerArgs,
    /// Where the store is, and its mirrors.
    pub stores: &'a [String],
    pub status: Arc<Status>,
    pub guarded: Guarded,
}

impl Pager {
    /// Checks that the images and the store belong together, and listens in the work directory.
    pub(crate) async fn start(store: Store, early: Early, setting: Setting<'_>) -> Result<Self> {
        if setting.args.on_missing == OnMissing::Sigbus {
            let can_poison = uffd::features::Features::probe().poison;
            can_poison.context("--on-missing sigbus needs UFFDIO_POISON, which Linux has since 6.6; use kill")?;
        }
        let images = Images::open(setting.images_dir, &store).await?;
        ids::keep_clear_of(&images.ids, setting.guarded.pid())?;
        let ledger = Ledger {
            manifest: store.manifest().to_json()?,
            layouts: images.layouts,
            ids: images.ids,
            next_process: FIRST_PROCESS,
            ..Ledger::default()
        };
        let socket = LazyPagesSocket::bind(setting.work_dir)?;
        let start = Start { socket, connection: None, ledger, journal: None, uffds: Vec::new() };
        let record = setting.args.record.clone().map(|to| Recording::new(to, setting.guarded.clone()));
        Self::run(store, early.working_set, record, start, setting)
    }

    /// Goes on where another agent has died. Nothing is replayed, and a recording is over: a part of one is of no use. A whole one that was to be
    /// sent to a server still is.
    pub(crate) fn take_over(store: Store, mut left: Left, setting: Setting<'_>) -> Result<Self> {
        tracing::warn!(
            "the agent died; this one, process {}, took over {} processes after {} ms",
            std::process::id(),
            left.ledger.processes.len(),
            left.downtime().as_millis()
        );
        let made = left.recording();
        let record = match (setting.args.record.clone(), made) {
            (Some(to), Some(made)) => Some(Recording::left(to, made, setting.guarded.clone())),
            (Some(RecordTo::File(file)), None) => {
                tracing::warn!("the recording is lost with it, if it is not in {} already", file.display());
                None
            }
            (Some(RecordTo::Server(_)), None) => {
                let files = recording::pattern(&store.manifest().checkpoint_id);
                tracing::warn!("the recording is lost with it; if it was over, it is in {files}");
                None
            }
            (None, _) => None,
        };
        setting.status.resume(setting.guarded.counters(SAVED));
        let start = left.into_start(setting.work_dir, &setting.guarded)?;
        Self::run(store, None, record, start, setting)
    }

    fn run(
        store: Store,
        working_set: Option<WorkingSetDownload>,
        record: Option<Recording>,
        start: Start,
        setting: Setting<'_>,
    ) -> Result<Self> {
        let Setting { args, stores, status, guarded, .. } = setting;
        let signals = guarded.sure(Signals::new())?;
        let give_up = (args.on_missing != OnMissing::Wait).then_some(args.give_up_after);
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let limit = RateLimit::new(args.limit_rate);
        let fetcher = guarded.sure(Fetcher::start(&store, status.clone(), cores, limit, give_up))?;
        let wake = fetcher.waker();
        let orders = Arc::new(Orders::default());
        orders.hurry.store(guarded.is_raised(Word::Hurry), Relaxed);
        let ids = start.ledger.ids.clone();
        let delivery = Delivery::of(args, stores).zip(record.clone());
        // One that an agent before has made is whole.
        let record = record.filter(|recording| !recording.is_made());
        let record = record.map(|recording| RecordOptions { recording, settle: args.record_settle });
        let plan =
            Plan { complete: args.complete, replays: working_set.is_some(), record, on_missing: args.on_missing };
        if let Some(set) = working_set {
            fetcher.replay(set);
        }
        guarded.sure(guarded.watch())?;
        let begun = start.ledger.restored;
        let fd_store = guarded.store().cloned();
        let cache = store.cache().cloned();
        let engine = Engine::new(start, store, fetcher, plan, orders.clone(), status.clone(), guarded.clone())?;
        let thread = std::thread::Builder::new().name("engine".into()).spawn(move || {
            let outcome = engine.run();
            // Whatever it is: nobody needs what is stored any more.
            fd_store.inspect(FdStore::clear);
            outcome
        });
        let engine = guarded.sure(thread.context("starting the engine's thread"))?;
        if !begun {
            ids::check_threads(&ids)?;
        }
        guarded.store().inspect(|store| store.ready());
        status.reached(Moment::Listening);
        Ok(Self { engine, orders, wake, status, signals, guarded, cache, delivery })
    }

    /// Waits until every process is whole or gone. A signal makes it finish early: it completes all processes at once and then ends,
    /// since a process whose pager goes away reads zeros.
    pub async fn finish(self, json: bool, silent: bool) -> Result<()> {
        let progress = progress::Line::start(self.status.clone(), silent || json);
        let mut signals = self.signals;
        let engine = tokio::task::spawn_blocking(move || self.engine.join());
        tokio::pin!(engine);
        let outcome = loop {
            tokio::select! {
                outcome = &mut engine => break outcome?,
                told = signals.next() => if told == Told::Ready {
                    self.orders.stop_recording.store(true, Relaxed);
                    let _ = self.wake.write(1);
                } else if told == Told::Leave {
                    if self.guarded.store().is_some() {
                        self.orders.leave.store(true, Relaxed);
                        let _ = self.wake.write(1);
                    } else {
                        tracing::warn!("SIGUSR2 asks to leave memory to the next start, which needs --fd-store; SIGTERM completes and ends");
                    }
                } else {
                    tracing::warn!(
                        "asked to stop: first the {} pages that are still missing, the processes would read zeros without them",
                        self.status.missing.load(Relaxed)
                    );
                    self.guarded.raise(Word::Hurry);
                    self.orders.hurry.store(true, Relaxed);
                    let _ = self.wake.write(1);
                }
            }
        };
        drop(progress);
        let outcome =
            outcome.unwrap_or_else(|_| bail!("the engine's thread panicked; this is a bug, please report it"));
        if let Err(error) = outcome {
            if let Some((_, recording)) = self.delivery {
                recording.stays();
            }
            return Err(error);
        }
        if let Some(cache) = self.cache {
            // What has come is there for the next restore.
            let _ = tokio::task::spawn_blocking(move || cache.flush(FLUSH)).await;
        }
        let summary = self.status.summary();
        if json {
            println!("{}", serde_json::to_string(&summary)?);
        } else if !silent {
            eprintln!("{summary}");
        } else {
            tracing::info!(summary = %serde_json::to_string(&summary)?, "done");
        }
        tracing::debug!("{summary:?}");
        let Some((delivery, recording)) = self.delivery else { return Ok(()) };
        let stop = async {
            loop {
                if let Told::Stop(signal) = signals.next().await {
                    break signal;
                }
            }
        };
        let hurry = self.orders.hurry.load(Relaxed);
        delivery.deliver(&recording, stop, hurry).await
    }

    /// Ends a pager for which CRIU was never started; signals have nothing to say any more.
    pub(crate) async fn abandon(self) {
        self.news_of_criu()();
        // Whatever it ends with, it has no process to fail.
        let _ = tokio::task::spawn_blocking(move || self.engine.join()).await;
    }

    /// For telling it, while it finishes, that CRIU has ended: a pager that CRIU has not connected to then ends too.
    pub(crate) fn news_of_criu(&self) -> impl Fn() + use<> {
        let (orders, wake) = (self.orders.clone(), self.wake.clone());
        move || {
            orders.criu_is_gone.store(true, Relaxed);
            let _ = wake.write(1);
        }
    }
}

/// What a signal means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    /// By this signal.
    Stop(i32),
    /// The restored service is ready: a recording has all that matters.
    Ready,
    /// Another start goes on, with what systemd holds.
    Leave,
}

/// SIGINT, SIGTERM and SIGHUP; SIGUSR1; SIGUSR2. Caught from before CRIU starts: an agent that a signal ends then would leave zeros.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
    user1: tokio::signal::unix::Signal,
    user2: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.interrupt.recv() => Told::Stop(SignalKind::interrupt().as_raw_value()),
            _ = self.terminate.recv() => Told::Stop(SignalKind::terminate().as_raw_value()),
            _ = self.hang_up.recv() => Told::Stop(SignalKind::hangup().as_raw_value()),
            _ = self.user1.recv() => Told::Ready,
            _ = self.user2.recv() => Told::Leave,
        }
    }
}

/// Opens a store so that what it reads is counted.
pub(crate) async fn open_store(locations: &[String], args: &PagerArgs, status: &Arc<Status>) -> Result<Store> {
    let names = locations.join(", ");
    let http = args.access.options(args.http_version())?;
    let opened = async {
        let store = at_first(&names, || Store::open_mirrors(locations, http.clone())).await;
        store.with_context(|| format!("opening the page store {names}"))
    };
    let cache = async { Ok(args.cache.open(status).await?) };
    let (store, cache) = tokio::try_join!(opened, cache)?;
    Ok(with_cache(counting(store, status), cache))
}

fn with_cache(store: Store, cache: Option<NodeCache>) -> Store {
    match cache {
        Some(cache) => store.with_cache(cache),
        None => store,
    }
}

fn counting(store: Store, status: &Arc<Status>) -> Store {
    store.with_backend(Arc::new(CountingBackend::new(store.backend().clone(), status.clone())))
}

/// The runtime for all but pages. Few threads: each takes a thread id that a restored process may need.
pub(crate) fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("agent").enable_all().build()?)
}

/// Opens again the store of a restore that another agent has begun. It has worked before, and gives up as little as a fetch does.
pub(crate) async fn reopen_store(locations: &[String], args: &PagerArgs, left: &Left, status: &Arc<Status>) -> Store {
    let http = args.access.options_again(args.http_version()).await;
    let cache = args.cache.open_again(status).await;
    loop {
        match Store::reopen_mirrors(locations, http.clone(), &left.ledger.manifest).await {
            Ok(store) => return with_cache(counting(store, status), cache),
            Err(error) => tracing::error!("opening the page store again: {error}; trying again"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The endpoint for metrics. A take-over does not fail for want of one.
pub(crate) fn endpoint(
    address: Option<&str>,
    status: &Arc<Status>,
    takes_over: bool,
) -> Result<Option<observe::Endpoint>> {
    match observe::endpoint(address, status) {
        Err(error) if takes_over => {
            tracing::error!("{error:#}; going on without");
            Ok(None)
        }
        other => other,
    }
}

/// When the restore began, though another agent may have begun it.
pub(crate) fn began(guarded: &Guarded, started: Instant) -> Instant {
    guarded.age().and_then(|age| Instant::now().checked_sub(age)).unwrap_or(started)
}

/// Runs the command.
pub fn run(
    args: LazyPagesArgs,
    started: Instant,
    guarded: Guarded,
    left: Option<Left>,
    listening: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let work_dir = args.pager.work_dir.clone().unwrap_or_else(|| args.images_dir.clone());
    guarded.sure(runtime())?.block_on(async {
        let status = Arc::new(Status::new(began(&guarded, started)));
        let _endpoint = endpoint(args.pager.metrics.as_deref(), &status, left.is_some())?;
        let mut locations = args.store.clone();
        if locations.is_empty() {
            locations.push(args.images_dir.display().to_string());
        }
        let setting = Setting {
            images_dir: &args.images_dir,
            work_dir: &work_dir,
            args: &args.pager,
            stores: &locations,
            status: status.clone(),
            guarded,
        };
        let pager = match left {
            Some(left) => {
                let store = reopen_store(&locations, &args.pager, &left, &status).await;
                Pager::take_over(store, left, setting)?
            }
            None => {
                Delivery::check(&args.pager, &locations)?;
                let store = open_store(&locations, &args.pager, &status).await?;
                let early = Early::start(&store, &args.pager)?;
                let pager = Pager::start(store, early, setting).await?;
                if let Some(fd) = args.status_fd {
                    let fd = uffd::inherited_fd(fd).context("--status-fd")?;
                    File::from(fd).write_all(&[0]).context("writing to --status-fd")?;
                }
                listening()?;
                tracing::info!("listening in {}", work_dir.display());
                pager
            }
        };
        pager.finish(args.pager.json, args.pager.is_silent()).await
    })
}

/// `path` relative to the work directory, as CRIU takes its log and pid files.
pub fn in_work_dir(work_dir: &Path, path: &Path) -> PathBuf {
    work_dir.join(path)
}
