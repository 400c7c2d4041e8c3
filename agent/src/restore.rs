//! `pageferry-agent restore`: the whole job in one command.

use crate::{
    cli::RestoreArgs,
    early::Early,
    lazy_pages::{Pager, open_store, runtime},
    status::Status,
};
use anyhow::{Context, Result, bail};
use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Instant,
};
use tokio::process::Command;

const RESTORE_LOG: &str = "restore.log";

/// Runs the command.
pub fn run(args: RestoreArgs, started: Instant) -> Result<()> {
    runtime()?.block_on(async {
        let status = Arc::new(Status::new(started));
        let store = open_store(&args.store, args.pager.http_version(), &status).await?;
        // Lives until the end: the slim dump, unless the user wants to keep it, the socket, CRIU's log.
        let scratch =
            tempfile::Builder::new().prefix("pageferry-").tempdir().context("making a temporary directory")?;
        let images_dir = args.images_dir.clone().unwrap_or_else(|| scratch.path().join("slim"));
        let work_dir = args.pager.work_dir.clone().unwrap_or_else(|| scratch.path().to_path_buf());
        let early = Early::start(&store, &args.pager)?;
        let slim = store.slim().await.context("fetching the slim dump")?;
        slim.unpack(&images_dir).with_context(|| format!("unpacking the slim dump to {}", images_dir.display()))?;
        drop(slim);

        let pager = Pager::start(store, &images_dir, &work_dir, &args.pager, early, status).await?;
        let mut criu = criu(&args, &images_dir, &work_dir)?;
        if args.stay {
            // CRIU itself waits for the process that it restored.
            let (exit, done) = tokio::join!(criu.wait(), pager.finish(args.pager.json, args.pager.quiet));
            check(exit.context("waiting for CRIU")?, &work_dir)?;
            return done;
        }
        let exit = criu.wait().await.context("waiting for CRIU")?;
        if let Err(error) = check(exit, &work_dir) {
            pager.cancel();
            let _ = pager.finish(false, true).await;
            return Err(error);
        }
        pager.finish(args.pager.json, args.pager.quiet).await
    })
}

fn criu(args: &RestoreArgs, images_dir: &Path, work_dir: &Path) -> Result<tokio::process::Child> {
    let mut command = Command::new(&args.criu);
    command.arg("restore").arg("--lazy-pages").arg("-D").arg(images_dir).arg("-W").arg(work_dir);
    command.args(["-o", RESTORE_LOG, "-v2"]);
    if !args.stay {
        command.arg("--restore-detached");
    }
    command.args(&args.criu_options).stdin(Stdio::null()).stdout(if args.pager.json {
        Stdio::null()
    } else {
        Stdio::inherit()
    });
    command.spawn().with_context(|| {
        format!("starting {}; install CRIU 4.1 or newer, or name one with --criu", args.criu.display())
    })
}

fn check(exit: ExitStatus, work_dir: &Path) -> Result<()> {
    if exit.success() {
        return Ok(());
    }
    let log = work_dir.join(RESTORE_LOG);
    bail!("criu restore failed ({exit}):\n{}", last_errors(&log))
}

/// CRIU's own words: the lines of its log that speak of an error.
fn last_errors(log: &PathBuf) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_else(|e| format!("Error: {}: {e}", log.display()));
    let errors: Vec<_> = text.lines().filter(|l| l.contains("Error") || l.contains("rror:")).collect();
    let shown = &errors[errors.len().saturating_sub(12)..];
    shown.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
