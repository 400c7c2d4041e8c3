//! `pageferry-agent`: the command line; everything else is in the library.

#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use clap::Parser;
use pageferry_agent::{
    cli::{Cli, Command, PagerArgs, normalise},
    daemon, lazy_pages, restore,
};
use std::{fs::File, io::IsTerminal, path::Path, process::ExitCode, sync::Mutex, time::Instant};

fn main() -> ExitCode {
    let started = Instant::now();
    raise_descriptor_limit();
    match run(Cli::parse_from(normalise(std::env::args_os())), started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pageferry-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli, started: Instant) -> Result<()> {
    match cli.command {
        Command::LazyPages(args) => {
            let work_dir = args.pager.work_dir.clone().unwrap_or_else(|| args.images_dir.clone());
            log(&args.pager, &work_dir)?;
            if !args.daemon {
                return also_to_log_file(&args.pager.clone(), lazy_pages::run(args, started, || Ok(())));
            }
            let pidfile = args.pidfile.as_ref().map(|file| work_dir.join(file));
            match daemon::split(pidfile.as_deref())? {
                daemon::Side::Done => Ok(()),
                daemon::Side::Background => {
                    also_to_log_file(&args.pager.clone(), lazy_pages::run(args, started, daemon::listening))
                }
            }
        }
        Command::Restore(args) => {
            let work_dir = args.pager.work_dir.clone().unwrap_or_else(|| ".".into());
            log(&args.pager, &work_dir)?;
            also_to_log_file(&args.pager.clone(), restore::run(args, started))
        }
    }
}

/// Every process of a tree has a userfaultfd, every task of a checkpoint a pages file.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource::RLIMIT_NOFILE, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(RLIMIT_NOFILE) {
        // What cannot be raised stays; running out is reported where it happens.
        let _ = setrlimit(RLIMIT_NOFILE, hard, hard);
    }
}

fn log(args: &PagerArgs, work_dir: &Path) -> Result<()> {
    let builder = tracing_subscriber::fmt().with_max_level(args.level()?).with_target(false);
    match &args.log_file {
        Some(name) => {
            let path = work_dir.join(name);
            let file = File::create(&path).with_context(|| format!("opening the log {}", path.display()))?;
            builder.with_ansi(false).with_writer(Mutex::new(file)).init();
        }
        None => builder.with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr).init(),
    }
    Ok(())
}

/// A message on standard error is lost where nobody looks at it; a log file keeps it.
fn also_to_log_file(args: &PagerArgs, outcome: Result<()>) -> Result<()> {
    outcome.inspect_err(|error| {
        if args.log_file.is_some() {
            tracing::error!("{error:#}");
        }
    })
}
