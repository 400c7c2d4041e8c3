//! A cache between the agent and the host of its store, as a CDN is one: the configurations of `contrib/`, with other ports and folders.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{Daemon, Workdir, contrib::contrib, free_port, tools};

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheKind {
    /// nginx, which keeps an object in pieces.
    Nginx,
    /// Varnish, which keeps it whole.
    Varnish,
}

/// nginx as the host of stores, and a cache in front of it.
pub struct Cache {
    _host: Daemon,
    _cache: Daemon,
    port: u16,
    requests: PathBuf,
}

impl Cache {
    /// In front of all stores below `stores`.
    pub fn start(kind: CacheKind, work: &Workdir, stores: &Path) -> Result<Self> {
        let (host_port, port) = (free_port()?, free_port()?);
        let folder = work.folder("cached-host")?;
        let requests = folder.join("requests.log");
        let log =
            format!("log_format requests '$request_uri $http_range';\naccess_log '{}' requests;\n", requests.display());
        let server = contrib(
            "nginx/stores.conf",
            &[("127.0.0.1:8080", &format!("127.0.0.1:{host_port}")), ("/srv/stores", &stores.display().to_string())],
        )?;
        let mut host = nginx(&folder, &(log + &server))?;
        host.wait_for_port(host_port)?;

        let folder = work.folder("cache")?;
        let mut cache = match kind {
            CacheKind::Nginx => {
                let kept = folder.join("kept").display().to_string();
                let ports = [
                    ("127.0.0.1:8081", format!("127.0.0.1:{port}")),
                    ("127.0.0.1:8080", format!("127.0.0.1:{host_port}")),
                ];
                let [near, far] = ports.each_ref().map(|(from, to)| (*from, to.as_str()));
                let server = contrib("nginx/cache.conf", &[near, far, ("/var/cache/pageferry", &kept)])?;
                nginx(&folder, &("access_log off;\n".to_owned() + &server))?
            }
            CacheKind::Varnish => {
                let vcl = contrib("varnish/cache.vcl", &[("\"8080\"", &format!("\"{host_port}\""))])?;
                let file = folder.join("cache.vcl");
                fs::write(&file, vcl)?;
                let mut varnish = Command::new(tools::program("varnishd")?);
                // Without its jail, which would want users of its own.
                varnish.args(["-F", "-j", "none", "-s", "malloc,256m", "-a", &format!("127.0.0.1:{port}"), "-n"]);
                varnish.arg(folder.join("work")).arg("-f").arg(file);
                Daemon::start("varnishd", &varnish, &folder.join("varnish.log"), None)?
            }
        };
        cache.wait_for_port(port)?;
        Ok(Self { _host: host, _cache: cache, port, requests })
    }

    /// The address of a store, through the cache.
    pub fn url(&self, store: &str) -> String {
        format!("http://127.0.0.1:{}/{store}", self.port)
    }

    /// Its port, for requests by hand.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How often each object, or range of one, was asked for at the host.
    pub fn requests(&self) -> Result<BTreeMap<String, u64>> {
        let mut requests = BTreeMap::new();
        for line in fs::read_to_string(&self.requests)?.lines() {
            *requests.entry(line.to_owned()).or_default() += 1;
        }
        Ok(requests)
    }
}

/// One process in the foreground that writes nowhere but below its own folder. It keeps being root, because the folder of a test is root's alone.
fn nginx(folder: &Path, servers: &str) -> Result<Daemon> {
    let config = folder.join("nginx.conf");
    let text = format!(
        "daemon off;\nmaster_process off;\nuser root;\npid nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n\
         client_body_temp_path body;\nproxy_temp_path proxy;\nfastcgi_temp_path fastcgi;\nuwsgi_temp_path uwsgi;\nscgi_temp_path scgi;\n\
         {servers}}}\n"
    );
    fs::write(&config, text)?;
    let mut nginx = Command::new(tools::program("nginx")?);
    nginx.args(["-e", "stderr", "-p"]).arg(folder).arg("-c").arg(&config);
    Daemon::start("nginx", &nginx, &folder.join("nginx.log"), None)
}
