//! CRIU's own daemons, for comparison.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{Daemon, SlowLink, Speed, Usage, eventually, free_port, tools};

/// CRIU's own remote mode: `criu page-server --lazy-pages` on the full dump and `criu lazy-pages` beside the slim one.
pub struct CriuPager {
    /// Ends by itself, after its one restore. A local one has none.
    page_server: Option<Daemon>,
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
        let lazy_pages = lazy_pages(slim, work, &["--page-server", "--address", "127.0.0.1", "--port", &port])?;
        Ok(Self { page_server: Some(page_server), lazy_pages, _link: link })
    }

    /// `criu lazy-pages` on the full dump, of this machine.
    pub fn start_local(full: &Path, work: &Path) -> Result<Self> {
        Ok(Self { page_server: None, lazy_pages: lazy_pages(full, work, &[])?, _link: None })
    }

    /// Waits until CRIU has transferred everything. Gives what its `lazy-pages` took.
    pub fn finish(mut self) -> Result<Usage> {
        let (status, usage) = self.lazy_pages.wait_with_usage()?;
        ensure!(status.success(), "criu lazy-pages ended with {status}\n{}", self.lazy_pages.log());
        drop(self.page_server);
        Ok(usage)
    }
}

fn lazy_pages(images: &Path, work: &Path, options: &[&str]) -> Result<Daemon> {
    let mut lazy = Command::new(tools::criu()?);
    lazy.arg("lazy-pages").args(options).arg("-D").arg(images);
    lazy.arg("-W").arg(work).args(["-v2", "-o", "lazy-pages.log"]);
    let mut lazy_pages = Daemon::start("criu lazy-pages", &lazy, &work.join("lazy-pages.out"), None)?;
    eventually(|| {
        let log = || fs::read_to_string(work.join("lazy-pages.log")).unwrap_or_default();
        ensure!(lazy_pages.is_running()?, "criu lazy-pages has ended\n{}", log());
        ensure!(work.join("lazy-pages.socket").exists(), "criu lazy-pages does not listen");
        Ok(())
    })?;
    Ok(lazy_pages)
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
