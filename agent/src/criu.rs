//! Running `criu restore`.

use crate::{cli::RestoreArgs, guard::Guarded, guard::Word};
use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use std::{
    os::fd::OwnedFd,
    path::Path,
    process::{ExitStatus, Stdio},
};
use tokio::{
    net::unix::pipe,
    process::{Child, Command},
};

const RESTORE_LOG: &str = "restore.log";

/// Starts it. It holds the other end of a pipe, the lifeline, so that an agent that did not start it can tell when it has ended.
pub(crate) fn start(args: &RestoreArgs, images_dir: &Path, work_dir: &Path, guarded: &Guarded) -> Result<Child> {
    let mut command = Command::new(&args.criu);
    command.arg("restore").arg("--lazy-pages").arg("-D").arg(images_dir).arg("-W").arg(work_dir);
    command.args(["-o", RESTORE_LOG, "-v2"]);
    if !args.stay {
        command.arg("--restore-detached");
    }
    let stdout = if args.pager.json { Stdio::null() } else { Stdio::inherit() };
    command.args(&args.criu_options).stdin(Stdio::null()).stdout(stdout);
    let (lifeline, held) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context("making a pipe")?;
    guarded.keep(Word::Lifeline, &lifeline);
    fcntl(&held, FcntlArg::F_SETFD(FdFlag::empty())).context("passing a pipe on")?;
    let child = command.spawn();
    drop(held);
    // Stays open as long as this process lives: the next agent looks at it.
    std::mem::forget(lifeline);
    child.with_context(|| {
        format!("starting {}; install CRIU 4.1 or newer, or name one with --criu", args.criu.display())
    })
}

/// Whether CRIU, which another agent started, has ended.
pub(crate) fn has_ended(lifeline: &OwnedFd) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let mut ask = [PollFd::new(lifeline.as_fd(), PollFlags::empty())];
    poll(&mut ask, PollTimeout::ZERO).is_ok_and(|count| count > 0)
}

/// Waits until it has.
pub(crate) async fn end_of(lifeline: Option<OwnedFd>) -> Result<()> {
    let Some(lifeline) = lifeline else { return Ok(()) };
    let watched = lifeline.try_clone().context("watching CRIU")?;
    // Stays open: the next agent looks at it.
    std::mem::forget(lifeline);
    let watched = pipe::Receiver::from_owned_fd(watched).context("watching CRIU")?;
    watched.readable().await.context("watching CRIU")
}

/// An error, in CRIU's own words, if it failed.
pub(crate) fn check(exit: ExitStatus, work_dir: &Path) -> Result<()> {
    if exit.success() {
        return Ok(());
    }
    bail!("criu restore failed ({exit}):\n{}", last_errors(work_dir))
}

/// The lines of its log that speak of an error.
pub(crate) fn last_errors(work_dir: &Path) -> String {
    let log = work_dir.join(RESTORE_LOG);
    let text = std::fs::read_to_string(&log).unwrap_or_else(|e| format!("Error: {}: {e}", log.display()));
    let errors: Vec<_> = text.lines().filter(|l| l.contains("Error") || l.contains("rror:")).collect();
    let shown = &errors[errors.len().saturating_sub(12)..];
    shown.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
