//! gunicorn with preloaded workers: a prefork tree that shares most of its pages.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{CommandLine, Program, State};
use crate::{eventually, http, tools};

const PORT: u16 = 8000;
const WORKERS: usize = 3;

/// A WSGI application with `items` dictionaries, loaded before three workers are forked. 100,000 items take about 90 MB
/// in each of the four processes.
pub struct Gunicorn {
    /// How many.
    pub items: usize,
}

impl Program for Gunicorn {
    fn name(&self) -> &'static str {
        "gunicorn"
    }

    fn describe(&self) -> String {
        format!("gunicorn with three preloaded workers over {} Python objects", self.items)
    }

    fn port(&self) -> u16 {
        PORT
    }

    fn command(&self, folder: &Path) -> Result<CommandLine> {
        std::fs::copy(tools::asset("gunicorn_app.py"), folder.join("gunicorn_app.py"))?;
        // No timeout: the time between dump and restore counts, and the master would kill its workers.
        let args = ["--preload", "--workers", "3", "--timeout", "0", "--bind", "127.0.0.1:8000"];
        let mut args = args.map(str::to_owned).to_vec();
        args.extend(["--worker-tmp-dir", "/dev/shm", "gunicorn_app:application"].map(str::to_owned));
        let env = vec![("ITEMS", self.items.to_string()), ("PYTHONDONTWRITEBYTECODE", "1".to_owned())];
        Ok(CommandLine { program: tools::program("gunicorn")?, args, env })
    }

    fn ready(&self) -> Result<()> {
        self.all_workers("/").map(drop)
    }

    fn items(&self) -> usize {
        self.items
    }

    fn reply(&self, item: usize) -> Result<String> {
        http::get(PORT, &format!("/item/{item}"))
    }

    fn state(&self) -> Result<State> {
        let mut state = self.all_workers("/state")?;
        for n in (0..self.items).step_by(self.items / 50 + 1) {
            state.insert(format!("item {n}"), http::get(PORT, &format!("/item/{n}"))?);
        }
        Ok(state)
    }
}

impl Gunicorn {
    /// Asks until every worker has answered. The kernel chooses who accepts a connection; requests at the same time
    /// spread them.
    fn all_workers(&self, path: &str) -> Result<State> {
        let mut state = State::new();
        eventually(|| {
            let ask = || http::get(PORT, path);
            let replies: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..WORKERS).map(|_| scope.spawn(ask)).collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("panic"))))
                    .collect()
            });
            for reply in replies {
                let reply = reply?;
                let pid = reply.split(' ').next().context("an empty reply")?;
                let before = state.insert(format!("worker {pid}"), reply.clone());
                ensure!(before.is_none_or(|before| before == reply), "worker {pid} changed its mind: {reply}");
            }
            ensure!(state.len() == WORKERS, "{} of {WORKERS} workers have answered", state.len());
            Ok(())
        })?;
        Ok(state)
    }
}
