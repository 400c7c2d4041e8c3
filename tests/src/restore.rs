//! Restoring: with our agent, with CRIU's own daemons, with none.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{Cell, Daemon, SlowLink, Speed, eventually, free_port, tools};

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

/// `pageferry-agent lazy-pages`, outside every cell: the socket is a path.
pub struct Pager {
    daemon: Daemon,
    work: PathBuf,
}

impl Pager {
    /// Starts it and waits until it says (by its `--status-fd`) that it listens.
    pub fn start(store: &str, slim: &Path, work: &Path, options: &[&str]) -> Result<Self> {
        // Standard output becomes descriptor 3, the one that the agent reports to; all it prints goes to the log.
        const SCRIPT: &str = r#"exec "$@" --status-fd 3 3>&1 1>&2"#;
        let mut agent = Command::new("sh");
        agent.args(["-c", SCRIPT, "sh"]).arg(tools::binary("pageferry-agent")?);
        agent.args(["lazy-pages", "--store", store, "-D"]).arg(slim).arg("-W").arg(work).args(options);
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

/// CRIU's own remote mode: `criu page-server --lazy-pages` on the full dump and `criu lazy-pages` beside the slim one.
pub struct CriuPager {
    /// Ends by itself, after its one restore.
    page_server: Daemon,
    lazy_pages: Daemon,
    _link: Option<SlowLink>,
}

impl CriuPager {
    /// Starts both and waits for the socket in `work`.
    ///
    /// Where root lacks CAP_SYS_RESOURCE, CRIU's page server needs higher limits for pipes (it loads the whole image
    /// into them), so those are raised, for the whole system.
    pub fn start(full: &Path, slim: &Path, work: &Path) -> Result<Self> {
        Self::start_across(full, slim, work, None)
    }

    /// The same with a link between the two, if there is a `speed`.
    pub fn start_across(full: &Path, slim: &Path, work: &Path, speed: Option<Speed>) -> Result<Self> {
        for (limit, value) in [("pipe-max-size", "67108864"), ("pipe-user-pages-soft", "0")] {
            let limit = Path::new("/proc/sys/fs").join(limit);
            if fs::read_to_string(&limit)?.trim() != value {
                fs::write(&limit, value).with_context(|| limit.display().to_string())?;
            }
        }
        let port = free_port()?.to_string();
        let criu = tools::criu()?;
        let mut server = Command::new(&criu);
        server.args(["page-server", "--lazy-pages", "--address", "127.0.0.1", "--port", &port, "-D"]).arg(full);
        // Not even a log may be added to the dump.
        server.arg("-W").arg(work).args(["-v2", "-o", "page-server.log"]);
        let mut page_server = Daemon::start("criu page-server", &server, &work.join("page-server.out"), None)?;
        // It takes one connection only, so asking whether it listens would use that up.
        eventually(|| {
            ensure!(page_server.is_running()?, "criu page-server has ended\n{}", page_server.log());
            ensure!(listens(port.parse()?)?, "criu page-server does not listen");
            Ok(())
        })?;
        let link = speed.map(|speed| SlowLink::to(port.parse()?, speed)).transpose()?;
        let port = link.as_ref().map_or(port, |link| link.port().to_string());
        let mut lazy = Command::new(&criu);
        lazy.args(["lazy-pages", "--page-server", "--address", "127.0.0.1", "--port", &port, "-D"]).arg(slim);
        lazy.arg("-W").arg(work).args(["-v2", "-o", "lazy-pages.log"]);
        let mut lazy_pages = Daemon::start("criu lazy-pages", &lazy, &work.join("lazy-pages.out"), None)?;
        eventually(|| {
            let log = || fs::read_to_string(work.join("lazy-pages.log")).unwrap_or_default();
            ensure!(lazy_pages.is_running()?, "criu lazy-pages has ended\n{}", log());
            ensure!(work.join("lazy-pages.socket").exists(), "criu lazy-pages does not listen");
            Ok(())
        })?;
        Ok(Self { page_server, lazy_pages, _link: link })
    }

    /// Waits until CRIU has transferred everything.
    pub fn finish(mut self) -> Result<()> {
        let status = self.lazy_pages.wait()?;
        ensure!(status.success(), "criu lazy-pages ended with {status}\n{}", self.lazy_pages.log());
        drop(self.page_server);
        Ok(())
    }
}

/// Whether a TCP socket listens on a port, without connecting to it.
fn listens(port: u16) -> Result<bool> {
    // Fields of proc_net_tcp(5): slot, local address, remote address, state; 0A is TCP_LISTEN.
    let sockets = fs::read_to_string("/proc/net/tcp")?;
    let port = format!(":{port:04X}");
    Ok(sockets.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().is_some_and(|local| local.ends_with(&port));
        local && fields.nth(1) == Some("0A")
    }))
}
