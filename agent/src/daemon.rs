//! `--daemon`: the agent starts itself again in a session of its own and leaves once that one listens.
//!
//! Started again rather than forked: a fork would have to come before every thread, and needs unsafe code.

use anyhow::{Context, Result, bail};
use std::{
    io::{Read, Write},
    path::Path,
    process::{Command, Stdio},
};

/// Set for the process that goes on in the background.
const MARK: &str = "PAGEFERRY_DAEMON";

/// Which of the two this is.
pub enum Side {
    /// Goes on; has to call [`listening`] once it listens.
    Background,
    /// Everything is done.
    Done,
}

/// Starts the background process, waits until it listens and writes its pid; in the background process, begins a session.
pub fn split(pidfile: Option<&Path>) -> Result<Side> {
    if std::env::var_os(MARK).is_some() {
        nix::unistd::setsid().context("beginning a session")?;
        return Ok(Side::Background);
    }
    let mut child = Command::new(std::env::current_exe().context("finding our own program file")?)
        .args(std::env::args_os().skip(1))
        .env(MARK, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the background process")?;
    let mut ready = [0];
    let said = child.stdout.take().context("no pipe to the background process")?.read(&mut ready)?;
    if said == 0 {
        let status = child.wait()?;
        bail!("the background process ended before it listened ({status})");
    }
    if let Some(path) = pidfile {
        std::fs::write(path, child.id().to_string()).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(Side::Done)
}

/// In the background process: tells the one that started it to leave, and lets go of its terminal.
pub fn listening() -> Result<()> {
    std::io::stdout().write_all(b".")?;
    std::io::stdout().flush()?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    Ok(())
}
