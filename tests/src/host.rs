//! Who serves a page store.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{Cell, Daemon, MemoryLimit, SlowLink, Workdir, eventually, free_port, http, tools};

/// Inside a cell no port is taken but those of the programs.
const PORT_IN_CELL: u16 = 7070;

/// A server on a loopback address: of this machine, or of a cell.
pub struct Host {
    port: u16,
    /// What follows the port in the store's address.
    path: &'static str,
    daemon: Option<Daemon>,
    /// How to start it again.
    name: &'static str,
    command: Command,
    log: PathBuf,
}

impl Host {
    /// `pageferry-server`, on a store or a raw checkpoint.
    pub fn server(work: &Workdir, store: &Path) -> Result<Self> {
        Self::server_with(work, store, &[])
    }

    /// The same with more options.
    pub fn server_with(work: &Workdir, store: &Path, options: &[&str]) -> Result<Self> {
        let port = free_port()?;
        let mut server = Command::new(tools::binary("pageferry-server")?);
        server.arg(store).args(["--listen", &format!("127.0.0.1:{port}")]).args(options);
        Self::start("pageferry-server", server, work.path().join("server.log"), port, "/store")
    }

    /// `pageferry-server` with so much memory and no more.
    pub fn server_within(limit: &MemoryLimit, work: &Workdir, store: &Path) -> Result<Self> {
        let port = free_port()?;
        let mut server = Command::new(tools::binary("pageferry-server")?);
        server.arg(store).args(["--listen", &format!("127.0.0.1:{port}")]);
        let log = work.path().join("server-limited.log");
        Self::start("pageferry-server", limit.command(&server), log, port, "/store")
    }

    /// `pageferry-server` inside a cell, for an agent that runs there too.
    pub fn server_in(cell: &Cell, work: &Workdir, store: &Path) -> Result<Self> {
        let port = PORT_IN_CELL;
        let mut server = cell.command(tools::binary("pageferry-server")?);
        server.arg(store).args(["--listen", &format!("127.0.0.1:{port}")]);
        let (name, log) = ("pageferry-server", work.path().join("server-inside.log"));
        let daemon = Some(Daemon::start(name, &server, &log, None)?);
        cell.inside(|| eventually(|| http::connect(port)))?;
        Ok(Self { port, path: "/store", daemon, name, command: server, log })
    }

    /// nginx as a plain static host.
    pub fn nginx(work: &Workdir, store: &Path) -> Result<Self> {
        let port = free_port()?;
        let folder = work.folder("nginx")?;
        let config = folder.join("nginx.conf");
        std::fs::write(&config, nginx_config(port, store))?;
        let mut nginx = Command::new(tools::program("nginx")?);
        nginx.args(["-e", "stderr", "-p"]).arg(&folder).arg("-c").arg(&config);
        Self::start("nginx", nginx, work.path().join("nginx.log"), port, "")
    }

    fn start(name: &'static str, command: Command, log: PathBuf, port: u16, path: &'static str) -> Result<Self> {
        let mut host = Self { port, path, daemon: None, name, command, log };
        host.restart()?;
        Ok(host)
    }

    /// Kills it; connections break.
    pub fn stop(&mut self) {
        self.daemon = None;
    }

    /// Starts it again, on the same port.
    pub fn restart(&mut self) -> Result<()> {
        // As long as the one before listens, the next one cannot, and it is taken for it.
        self.stop();
        let mut daemon = Daemon::start(self.name, &self.command, &self.log, None)?;
        daemon.wait_for_port(self.port)?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Where the page store is: the address that the agent takes.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}{}", self.port, self.path)
    }

    /// The same through a link.
    pub fn url_across(&self, link: &SlowLink) -> String {
        format!("http://127.0.0.1:{}{}", link.port(), self.path)
    }

    /// The port, for requests by hand.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The largest amount of memory that it has held at once, in bytes.
    pub fn peak_memory(&self) -> Result<u64> {
        self.daemon.as_ref().context("it is stopped")?.peak_memory()
    }
}

/// One process in the foreground that writes nowhere but below its own folder. It keeps being root, because the folder
/// of a test is root's alone.
fn nginx_config(port: u16, store: &Path) -> String {
    format!(
        "daemon off;\nmaster_process off;\nuser root;\npid nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n\
         access_log off;\nclient_body_temp_path body;\nproxy_temp_path proxy;\nfastcgi_temp_path fastcgi;\n\
         uwsgi_temp_path uwsgi;\nscgi_temp_path scgi;\nkeepalive_requests 1000000;\n\
         server {{ listen 127.0.0.1:{port}; root '{}'; }}\n}}\n",
        store.display()
    )
}
