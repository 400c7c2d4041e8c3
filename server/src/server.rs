//! A server from its first socket to its last answer.

use crate::{
    checkpoints::Checkpoints,
    doors::Doors,
    limits::Limits,
    net::{self, Address, Listener},
    routes::{self, App},
    served::Served,
};
use anyhow::{Result, bail};
use criu_images::{PageAddr, PageRange, Pid};
use std::{future::Future, net::SocketAddr, sync::Arc};

/// A server that has a socket, and perhaps a checkpoint.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<Listener>,
    app: Arc<App>,
}

/// A checkpoint that is served by now.
#[derive(Debug, Clone)]
pub struct Opened {
    /// None for a folder.
    served: Option<Arc<Served>>,
    /// The checkpoint of a folder that the short paths have.
    default: Option<String>,
}

impl Server {
    /// Takes an address such as `127.0.0.1:8080`, or port 0 for any, and lets everybody in.
    pub async fn bind(listen: &str, limits: Limits) -> Result<Self> {
        Self::bind_all(&[listen.to_owned()], Doors::default(), limits).await
    }

    /// Takes several addresses: `ADDRESS:PORT`, `unix:PATH`, `systemd` for the sockets that it passes.
    pub async fn bind_all(listen: &[String], doors: Doors, limits: Limits) -> Result<Self> {
        let mut listeners = Vec::new();
        for listen in listen {
            listeners.extend(Listener::bind(listen).await?);
        }
        Ok(Self { listeners, app: Arc::new(App::new(limits, doors)) })
    }

    /// Takes the sockets that systemd passed, if it passed any.
    pub fn passed(doors: Doors, limits: Limits) -> Result<Option<Self>> {
        let listeners = Listener::passed()?;
        Ok((!listeners.is_empty()).then(|| Self { listeners, app: Arc::new(App::new(limits, doors)) }))
    }

    /// Where it listens.
    pub fn addresses(&self) -> Result<Vec<Address>> {
        self.listeners.iter().map(Listener::address).collect()
    }

    /// The first address and port that it listens on.
    pub fn address(&self) -> Result<SocketAddr> {
        for address in self.addresses()? {
            if let Address::Tcp(address) = address {
                return Ok(address);
            }
        }
        bail!("no port is listened on, only unix sockets")
    }

    /// Opens `location` (a page store, a raw checkpoint directory, the address of a store, or a folder of those) while the server runs already:
    /// `/healthz` answers at once, `/readyz` when this is done. In a folder, the short paths have the checkpoint called `default`.
    pub fn open(&self, location: &str, default: Option<&str>) -> impl Future<Output = Result<Opened>> + Send + use<> {
        let (app, location, default) = (self.app.clone(), location.to_owned(), default.map(str::to_owned));
        async move {
            let checkpoints = Checkpoints::at(&location, default.as_deref()).await?;
            app.located(checkpoints.clone());
            let served = checkpoints.open(&app).await?;
            Ok(Opened { served, default })
        }
    }

    /// Serves until `stop` is done, then finishes running answers. Gives the number of connections that had to be cut after
    /// [`Limits::grace`].
    pub async fn run(self, stop: impl Future<Output = ()>) -> u64 {
        let (limits, metrics, places) = (self.app.limits, self.app.metrics.clone(), self.app.places.clone());
        let doors = self.app.doors.clone();
        let watch = tokio::spawn(doors.clone().watch());
        let cut = net::serve(self.listeners, doors.tls, routes::router(self.app), places, limits, metrics, stop).await;
        watch.abort();
        cut
    }
}

impl Opened {
    /// Tasks, and pages that the dump had.
    pub fn summary(&self) -> String {
        let Some(served) = &self.served else {
            let default = self.default.as_ref().map(|name| format!(", {name} at the short paths"));
            return format!("a folder of checkpoints{}", default.unwrap_or_default());
        };
        let manifest = served.store.manifest();
        let names: Vec<_> = manifest.tasks.iter().take(4).map(|t| format!("{} {}", t.comm, t.pid)).collect();
        let more = if manifest.tasks.len() > names.len() { ", ..." } else { "" };
        let mib = manifest.totals.dumped_pages / 256;
        format!("{} ({}{more}), {mib} MiB of pages", count(manifest.tasks.len(), "task"), names.join(", "))
    }

    /// Whether there is a checkpoint without a name in front.
    pub fn has_short_paths(&self) -> bool {
        self.served.is_some() || self.default.is_some()
    }

    /// Pids of all tasks.
    pub fn pids(&self) -> Vec<u32> {
        self.served.iter().flat_map(|served| &served.images.0.tasks).map(|t| t.pid.get()).collect()
    }

    /// Requests that have an answer here, as `curl` commands for the server at `url`.
    pub fn examples(&self, url: &str) -> String {
        match &self.served {
            Some(served) => examples(served, url),
            None => {
                let store = match self.default {
                    Some(_) => "store",
                    None => "checkpoints/NAME/store",
                };
                format!("  curl {url}/checkpoints\n  pageferry-agent restore {url}/{store}\n")
            }
        }
    }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Requests that have an answer.
pub(crate) fn examples(served: &Served, url: &str) -> String {
    let mut text = format!("  curl {url}/pid\n");
    if let Some((pid, page)) = example_page(served) {
        text += &format!("  curl -H 'Accept: text/plain' {url}/pid/{pid}/maps\n");
        text += &format!("  curl -H 'Accept: text/plain' {url}/pid/{pid}/page/{page:x}\n");
        if let Some(range) = PageRange::new(page, 1) {
            text += &format!("  curl -o pages.bin {url}/pid/{pid}/pages/{:x}-{:x}\n", range.start(), range.end());
        }
    }
    text += &format!("  pageferry-agent restore {url}/store\n");
    text
}

/// A page of the first task that has any; its heap, if it has one, says more than its program's data.
fn example_page(served: &Served) -> Option<(Pid, PageAddr)> {
    served.images.0.tasks.iter().find_map(|task| {
        let memory = task.memory.as_ref()?;
        let heap = memory.mappings.iter().find(|m| m.name.as_deref() == Some("[heap]")).map(|m| m.range);
        let in_heap = memory.runs.iter().find(|run| heap.is_some_and(|heap| heap.contains(run.range.start())));
        in_heap.or(memory.runs.first()).map(|run| (task.pid, run.range.start()))
    })
}
