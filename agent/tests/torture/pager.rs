//! The pager under test: the real binary.

use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::{
    fs::{self, File},
    io::Read,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// `pageferry-agent lazy-pages`, listening.
pub struct Pager {
    process: Child,
    output: PathBuf,
}

impl Pager {
    /// Starts it as a container engine starts CRIU's, and waits until it says on its status descriptor that it listens.
    pub fn start(store: &str, images: &Path, work_dir: &Path, complete: &str) -> Result<Self> {
        // Not close-on-exec: the pager inherits the end that is written to.
        let (status, written) = nix::unistd::pipe()?;
        let close_on_exec = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
        nix::fcntl::fcntl(&status, close_on_exec)?;
        let output = work_dir.join("agent.log");
        let log = File::create(&output)?;
        let process = Command::new(env!("CARGO_BIN_EXE_pageferry-agent"))
            .args(["lazy-pages", "--store", store, "--complete", complete, "-v4"])
            .arg("--status-fd")
            .arg(written.as_raw_fd().to_string())
            .arg("-D")
            .arg(images)
            .arg("-W")
            .arg(work_dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting pageferry-agent")?;
        drop(written);
        let mut pager = Self { process, output };
        if let Err(error) = listens(status) {
            let _ = pager.process.kill();
            return Err(error.context(pager.log()));
        }
        Ok(pager)
    }

    /// Waits until it ends, which it must do by itself, and content.
    /// If the process that was started was killed, it cannot say so: then it is the last one of them that has to be gone.
    pub fn wait(&mut self, mark: &Path, patience: Duration, was_killed: bool) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait()?
                && super::killer::is_over(mark)?
            {
                ensure!(status.success() || was_killed, "the pager ended with {status}");
                return Ok(());
            }
            if start.elapsed() > patience {
                bail!("the pager does not end though all tasks have");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// The end of its output.
    pub fn log(&self) -> String {
        let text = fs::read(&self.output).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(20000)..]).into_owned();
        format!("--- the pager's log ends with ---\n{text}---")
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn listens(status: OwnedFd) -> Result<()> {
    let timeout = PollTimeout::try_from(Duration::from_secs(60))?;
    let ready = poll(&mut [PollFd::new(status.as_fd(), PollFlags::POLLIN)], timeout)?;
    ensure!(ready == 1, "the pager does not listen after a minute");
    let mut bytes = Vec::new();
    File::from(status).read_to_end(&mut bytes)?;
    ensure!(bytes == [0], "the pager wrote {bytes:?} to its status descriptor");
    Ok(())
}
