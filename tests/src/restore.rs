//! Restoring: with our agent, or with `criu restore` alone.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{Cell, Daemon, tools};

/// `criu restore -d` of `images` inside a cell; the log goes to `work`, and so does the search for the socket.
pub fn criu_restore(cell: &Cell, images: &Path, work: &Path, options: &[&str]) -> Result<()> {
    let mut criu = cell.command(tools::criu()?);
    criu.args(["restore", "-d", "--shell-job", "-v2", "-o", "restore.log", "-D"]).arg(images).arg("-W").arg(work);
    let log = || fs::read_to_string(work.join("restore.log")).unwrap_or_default();
    tools::run(criu.args(options)).map(drop).with_context(log)
}

/// `pageferry-agent restore`, the agent and CRIU inside a cell.
///
/// The store is a local path or is served inside the cell: it has a network of its own.
pub fn agent_restore_in(
    cell: &Cell,
    store: &str,
    images: &Path,
    options: &[&str],
    criu_options: &[&str],
) -> Result<Output> {
    let agent = cell.command(tools::binary("pageferry-agent")?);
    restore_with(agent, store, images, &tools::criu()?, options, criu_options)
}

/// `pageferry-agent restore`, the agent outside and CRIU inside a cell. `images` is a folder of this test.
pub fn agent_restore(
    cell: &Cell,
    store: &str,
    images: &Path,
    options: &[&str],
    criu_options: &[&str],
) -> Result<Output> {
    let criu = images.with_extension("criu");
    cell.entering(&tools::criu()?, &criu)?;
    restore_with(Command::new(tools::binary("pageferry-agent")?), store, images, &criu, options, criu_options)
}

fn restore_with(
    mut agent: Command,
    store: &str,
    images: &Path,
    criu: &Path,
    options: &[&str],
    criu_options: &[&str],
) -> Result<Output> {
    agent.args(["restore", store, "--images-dir"]).arg(images).arg("--criu").arg(criu).args(options);
    tools::run(agent.args(["--", "--shell-job"]).args(criu_options))
}

fn copy(command: &Command) -> Command {
    let mut copy = Command::new(command.get_program());
    copy.args(command.get_args());
    copy
}

/// `pageferry-agent lazy-pages`, outside every cell: the socket is a path.
pub struct Pager {
    daemon: Daemon,
    work: PathBuf,
}

impl Pager {
    /// Starts it and waits until it says (by its `--status-fd`) that it listens.
    pub fn start(store: &str, slim: &Path, work: &Path, options: &[&str]) -> Result<Self> {
        Self::start_by(copy, store, slim, work, options)
    }

    /// The same, by the command that `wrapped` makes of the agent's.
    pub fn start_by(
        wrapped: impl FnOnce(&Command) -> Command,
        store: &str,
        slim: &Path,
        work: &Path,
        options: &[&str],
    ) -> Result<Self> {
        // Standard output becomes descriptor 3, the one that the agent reports to; all it prints goes to the log.
        const SCRIPT: &str = r#"exec "$@" --status-fd 3 3>&1 1>&2"#;
        let mut agent = Command::new("sh");
        agent.args(["-c", SCRIPT, "sh"]).arg(tools::binary("pageferry-agent")?);
        agent.args(["lazy-pages", "--store", store, "-D"]).arg(slim).arg("-W").arg(work).args(options);
        let agent = wrapped(&agent);
        let mut daemon = Daemon::start("pageferry-agent", &agent, &work.join("agent.log"), Some(Stdio::piped()))?;
        let mut status = daemon.child().stdout.take().context("stdout is piped")?;
        let mut byte = [1];
        if status.read(&mut byte)? != 1 || byte != [0] {
            bail!("the agent ended with {} before it listened\n{}", daemon.wait()?, daemon.log());
        }
        Ok(Self { daemon, work: work.to_path_buf() })
    }

    /// The folder with the socket.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// Waits until the agent ends by itself: all is transferred, or the process is gone.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.daemon.wait()
    }

    /// Waits until it ends, and demands that it says that all is well.
    pub fn finish(mut self) -> Result<String> {
        let status = self.daemon.wait()?;
        let log = self.daemon.log();
        ensure!(status.success(), "the agent ended with {status}\n{log}");
        Ok(log)
    }

    /// The process.
    pub fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }
}
