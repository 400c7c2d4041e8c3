//! `pageferry-agent`: the command line; everything else is in the library.

#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use clap::Parser;
use pageferry_agent::{
    Refused,
    cli::{Cli, Command, LogFormat, PagerArgs, normalise},
    daemon, doctor,
    fd_store::FdStore,
    guard::{self, Guarded, Left},
    lazy_pages,
    recording::Interrupted,
    restore,
    restore::Stopped,
};
use std::{
    ffi::OsString,
    fs::File,
    io::{self, IsTerminal},
    os::fd::RawFd,
    path::Path,
    process::ExitCode,
    sync::Mutex,
    time::Instant,
};
use tracing_subscriber::fmt::writer::BoxMakeWriter;

fn main() -> ExitCode {
    let started = Instant::now();
    raise_descriptor_limit();
    let (take_over, args) = guard::split_argument(std::env::args_os());
    if take_over.is_some() {
        // A program that was started through /proc is called "exe".
        let _ = nix::sys::prctl::set_name(c"pageferry-agent");
    }
    let cli = Cli::parse_from(normalise(args.iter().cloned()));
    let json = cli.pager().is_some_and(PagerArgs::is_json_on_stderr);
    match run(cli, &args, take_over, started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !(json && tracing::dispatcher::has_been_set()) {
                eprintln!("pageferry-agent: {error:#}");
            }
            if is_disk_full(&error) {
                eprintln!(
                    "The disk is full: make room, or name other places with TMPDIR, --images-dir and --work-dir."
                );
            }
            ExitCode::from(code(&error))
        }
    }
}

fn code(error: &anyhow::Error) -> u8 {
    if error.is::<Refused>() {
        // As for other wrong words (clap's).
        return 2;
    }
    let stopped = error.downcast_ref::<Stopped>().map(|stopped| stopped.signal);
    let signal = stopped.or_else(|| error.downcast_ref::<Interrupted>().map(|interrupted| interrupted.signal));
    signal.and_then(|signal| u8::try_from(128 + signal).ok()).unwrap_or(1)
}

fn is_disk_full(error: &anyhow::Error) -> bool {
    let kinds = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    kinds.into_iter().any(|kind| matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
}

fn run(cli: Cli, words: &[OsString], take_over: Option<RawFd>, started: Instant) -> Result<()> {
    match cli.command {
        Command::LazyPages(args) => {
            let work_dir = args.pager.work_dir.clone().unwrap_or_else(|| args.images_dir.clone());
            let mut listening: fn() -> Result<()> = || Ok(());
            if args.daemon && take_over.is_none() {
                let pidfile = args.pidfile.as_ref().map(|file| work_dir.join(file));
                match daemon::split(pidfile.as_deref())? {
                    daemon::Side::Done => return Ok(()),
                    daemon::Side::Background => listening = daemon::listening,
                }
            }
            let pager = args.pager.clone();
            let (store, stored) = match args.fd_store {
                true => FdStore::open(take_over.is_none())?,
                false => (FdStore::default(), None),
            };
            guarded(&pager, &work_dir, words, take_over.or(stored), &store, |guarded, left| {
                lazy_pages::run(args, started, guarded, left, listening)
            })
        }
        Command::Restore(args) => {
            let work_dir = args.pager.work_dir.clone().unwrap_or_else(|| ".".into());
            let pager = args.pager.clone();
            guarded(&pager, &work_dir, words, take_over, &FdStore::default(), |guarded, left| {
                restore::run(args, started, guarded, left)
            })
        }
        Command::Doctor(args) => {
            let level = if args.verbose { tracing::Level::DEBUG } else { tracing::Level::ERROR };
            let logs = tracing_subscriber::fmt().with_max_level(level).with_target(false);
            logs.with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr).init();
            doctor::run(&args)
        }
    }
}

/// Runs `work` in an agent, with a guard if one is wanted.
fn guarded(
    args: &PagerArgs,
    work_dir: &Path,
    words: &[OsString],
    take_over: Option<RawFd>,
    store: &FdStore,
    work: impl FnOnce(Guarded, Option<Left>) -> Result<()>,
) -> Result<()> {
    let divided = match args.no_guard_process {
        true => Ok((Guarded::by_nobody(), None)),
        false => guard::guard(words, take_over, store),
    };
    match log(args, work_dir, take_over.is_some()) {
        // Memory of others is held: that goes before.
        Err(error) if take_over.is_some() => eprintln!("pageferry-agent: going on without a log: {error:#}"),
        other => other?,
    }
    let (guarded, left) = match divided {
        Ok(divided) => divided,
        Err(error) if take_over.is_some() => return Err(error),
        Err(error) => {
            tracing::warn!("no guard process, a killed agent would leave zeros: {error:#}");
            (Guarded::by_nobody(), None)
        }
    };
    let outcome = also_to_log_file(args, work(guarded.clone(), left));
    guarded.ends(outcome.as_ref().err().map_or(0, code));
    outcome
}

/// Every process of a tree has a userfaultfd, every task of a checkpoint a pages file.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource::RLIMIT_NOFILE, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(RLIMIT_NOFILE) {
        // What cannot be raised stays; running out is reported where it happens.
        let _ = setrlimit(RLIMIT_NOFILE, hard, hard);
    }
}

fn log(args: &PagerArgs, work_dir: &Path, goes_on: bool) -> Result<()> {
    let (writer, ansi) = match &args.log_file {
        Some(name) => {
            let path = work_dir.join(name);
            let file = File::options()
                .create(true)
                .write(true)
                .append(goes_on)
                .truncate(!goes_on)
                .open(&path)
                .with_context(|| format!("opening the log {}", path.display()))?;
            (BoxMakeWriter::new(Mutex::new(file)), false)
        }
        None => (BoxMakeWriter::new(std::io::stderr), std::io::stderr().is_terminal()),
    };
    let builder = tracing_subscriber::fmt().with_max_level(args.level()?).with_target(false).with_writer(writer);
    match args.log_format {
        LogFormat::Text => builder.with_ansi(ansi).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

/// A message on standard error is lost where nobody looks at it; a log file keeps it. Whoever reads the log as JSON gets it there.
fn also_to_log_file(args: &PagerArgs, outcome: Result<()>) -> Result<()> {
    outcome.inspect_err(|error| {
        if args.log_file.is_some() || args.is_json_on_stderr() {
            tracing::error!("{error:#}");
        }
    })
}
