//! Who serves a page store.

use std::{path::Path, process::Command};

use anyhow::Result;

use crate::{Daemon, Workdir, free_port, tools};

/// A server on the loopback address, outside every cell.
pub struct Host {
    port: u16,
    /// What follows the port in the store's address.
    path: &'static str,
    daemon: Daemon,
}

impl Host {
    /// `pageferry-server`, on a store or a raw checkpoint.
    pub fn server(work: &Workdir, store: &Path) -> Result<Self> {
        let port = free_port()?;
        let mut server = Command::new(tools::binary("pageferry-server")?);
        server.arg(store).args(["--listen", &format!("127.0.0.1:{port}")]);
        Self::start("pageferry-server", &server, &work.path().join("server.log"), port, "/store")
    }

    /// nginx as a plain static host.
    pub fn nginx(work: &Workdir, store: &Path) -> Result<Self> {
        let port = free_port()?;
        let folder = work.folder("nginx")?;
        let config = folder.join("nginx.conf");
        std::fs::write(&config, nginx_config(port, store))?;
        let mut nginx = Command::new(tools::program("nginx")?);
        nginx.args(["-e", "stderr", "-p"]).arg(&folder).arg("-c").arg(&config);
        Self::start("nginx", &nginx, &work.path().join("nginx.log"), port, "")
    }

    fn start(name: &str, command: &Command, log: &Path, port: u16, path: &'static str) -> Result<Self> {
        let mut daemon = Daemon::start(name, command, log, None)?;
        daemon.wait_for_port(port)?;
        Ok(Self { port, path, daemon })
    }

    /// Where the page store is: the address that the agent takes.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}{}", self.port, self.path)
    }

    /// The port, for requests by hand.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process.
    pub fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
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
