//! The command line: arguments in, a command run, its report out, an exit code.

mod args;

use crate::{
    Meter, Mode, Stop, Stopped, copy, inspect, join, list, presign, retry::show, rm, split, verify, working_set,
};
use anyhow::{Context, Result};
use args::{Args, Command, LogFormat};
use clap::Parser;
use page_store::write::Options;
use serde::Serialize;
use std::{
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
};
use tracing_subscriber::EnvFilter;

/// Runs the program.
pub fn main() -> ExitCode {
    let args = Args::parse();
    let level = match (args.quiet, args.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, _) => "debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    match args.log_format {
        LogFormat::Text => logs.without_time().init(),
        LogFormat::Json => logs.json().init(),
    }
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            let advice = "The disk is full. Nothing was left behind; make room or give another place.";
            match (args.log_format, is_disk_full(&error)) {
                (LogFormat::Text, false) => eprintln!("pageferry-strip: {error:#}"),
                (LogFormat::Text, true) => eprintln!("pageferry-strip: {error:#}\n{advice}"),
                (LogFormat::Json, false) => tracing::error!("{error:#}"),
                (LogFormat::Json, true) => tracing::error!(advice, "{error:#}"),
            }
            match error.downcast_ref::<Stopped>() {
                Some(stopped) => ExitCode::from(u8::try_from(128 + stopped.signal).unwrap_or(1)),
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn is_disk_full(error: &anyhow::Error) -> bool {
    let kinds = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    kinds.into_iter().any(|kind| matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
}

fn run(args: &Args) -> Result<ExitCode> {
    show(args.access()?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let stop = runtime.block_on(async { Stop::on_signals() })?;
    let meter = Meter::new(if args.quiet || args.log_format == LogFormat::Json { Mode::Quiet } else { Mode::Shown });
    match &args.command {
        Command::Split(a) => {
            let write = Options { level: a.level, tripwire: !a.no_tripwire };
            let options = split::SplitOptions {
                checkpoint: a.checkpoint.clone(),
                store: a.store.clone(),
                slim: a.slim.clone(),
                base: a.base.clone(),
                replace: a.replace,
                conditions: a.put.conditions(),
                write,
            };
            args.print(&split::split(&options, &meter, &stop)?)?;
        }
        Command::Join(a) => {
            let options = join::JoinOptions { store: a.store.clone(), out: a.out.clone() };
            args.print(&runtime.block_on(join::join(&options, &meter, &stop))?)?;
        }
        Command::Verify(a) => {
            let report = runtime.block_on(verify::verify(&a.store, Arc::new(meter), &stop))?;
            args.print(&report)?;
            if !report.ok {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::WorkingSet(a) => {
            let options = working_set::WorkingSetOptions {
                store: a.store.clone(),
                traces: a.trace.clone(),
                name: a.name.clone(),
                conditions: a.put.conditions(),
            };
            args.print(&runtime.block_on(working_set::add(&options, &stop))?)?;
        }
        Command::Copy(a) => {
            let options = copy::CopyOptions {
                from: a.from.clone(),
                to: a.to.clone(),
                replace: a.replace,
                conditions: a.put.conditions(),
            };
            args.print(&runtime.block_on(copy::copy(&options, &meter, &stop))?)?;
        }
        Command::Presign(a) => {
            let options = presign::PresignOptions { store: a.store.clone(), out: a.out.clone(), expires: a.expires };
            args.print(&runtime.block_on(presign::presign(&options, &stop))?)?;
        }
        Command::List(a) => args.print(&runtime.block_on(list::list(&a.location, &stop))?)?,
        Command::Rm(a) => {
            let options = rm::RmOptions { store: a.store.clone(), dry_run: a.dry_run };
            args.print(&runtime.block_on(rm::rm(&options, &stop))?)?;
        }
        Command::Inspect(a) => {
            let options = Options { level: a.level, ..Options::default() };
            args.print(&runtime.block_on(inspect::inspect(&a.location, options, meter, &stop))?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// Prints a report: JSON if that was asked for; nothing for people who want it quiet.
    fn print(&self, report: &(impl Serialize + Display)) -> Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            serde_json::to_writer_pretty(&mut out, report).context("cannot write the result")?;
            writeln!(out).context("cannot write the result")?;
        } else if !self.quiet {
            write!(out, "{report}").context("cannot write the result")?;
        }
        out.flush().context("cannot write the result")
    }
}
