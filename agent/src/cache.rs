//! The node's cache, as the command line asks for it.

use crate::{cli::bytes, status::Status};
use anyhow::Result;
use clap::Args;
use page_store::{Error, MIN_CACHE_BYTES, NodeCache};
use std::{path::PathBuf, time::Duration};
use tokio::{sync::oneshot, time::timeout};

/// How long a cache may take to open; one of 10 GB takes a tenth of a second.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// The outcome of `work`, done by a thread of its own; `None` if it is not there after `patience`. Not a thread of the runtime's: that would wait
/// for a disk that hangs, in the end.
pub(crate) async fn apart<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, done) = oneshot::channel();
    // One that cannot be started has dropped its sender.
    let _ = std::thread::Builder::new().name("cache".into()).spawn(move || drop(sender.send(work())));
    timeout(patience, done).await.ok()?.ok()
}

/// Where to keep what came from stores.
#[derive(Args, Debug, Clone, Default)]
pub struct CacheArgs {
    /// Keep what comes from stores in this folder, for all later restores on this machine: what is in it is not fetched again. It is made if it does
    /// not exist, and shared by all agents that name it. It holds the memory of processes: only its owner may read it.
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// How much the cache may take on the disk, in bytes; k, M, G and T are thousands, millions, and so on. What was used longest ago makes room. Give
    /// all agents of a machine the same.
    #[arg(long, value_name = "SIZE", default_value = "10G", value_parser = size, requires = "cache_dir")]
    pub cache_size: u64,
}

/// A folder that is something else, or somebody else's: as wrong as a word on the command line.
#[derive(Debug, thiserror::Error)]
#[error("--cache-dir {0}")]
pub struct Refused(Error);

impl CacheArgs {
    /// Opens the cache, if one is asked for. What is wrong with its disk is told, and no reason not to restore.
    pub(crate) async fn open(&self, status: &Status) -> Result<Option<NodeCache>, Refused> {
        let Some(folder) = self.cache_dir.clone() else { return Ok(None) };
        let (size, counters) = (self.cache_size, status.cache.clone());
        match apart(PATIENCE, move || NodeCache::open(&folder, size, counters)).await {
            Some(Ok(cache)) => Ok(Some(cache)),
            Some(Err(error @ Error::Unsupported { .. })) => Err(Refused(error)),
            Some(Err(error)) => {
                tracing::warn!(
                    "--cache-dir {error}: going on without a cache; name a folder of this machine that can be written to"
                );
                Ok(None)
            }
            None => {
                tracing::warn!("--cache-dir: does not open within {} s: going on without a cache", PATIENCE.as_secs());
                Ok(None)
            }
        }
    }

    /// The same for an agent that takes over: nothing is a reason to stop.
    pub(crate) async fn open_again(&self, status: &Status) -> Option<NodeCache> {
        self.open(status).await.unwrap_or_else(|error| {
            tracing::error!("{error}; going on without a cache");
            None
        })
    }
}

fn size(text: &str) -> Result<u64, String> {
    let size = bytes(text).ok_or("give bytes, for instance 512M or 10G")?;
    if size < MIN_CACHE_BYTES {
        return Err(format!("a cache has at least {MIN_CACHE_BYTES} bytes"));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("512M"), Ok(512_000_000));
        assert_eq!(size("10G"), Ok(10_000_000_000));
        assert_eq!(size("2T"), Ok(2_000_000_000_000));
        assert_eq!(size("16777216"), Ok(MIN_CACHE_BYTES));
        for bad in ["", "1M", "0", "10GB", "ten", "1.5G", "-5G", "99999999T"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn nobody_waits_for_a_disk_that_hangs() {
        let start = Instant::now();
        let hangs = || std::thread::sleep(Duration::from_secs(60));
        assert!(apart(Duration::from_millis(50), hangs).await.is_none());
        assert_eq!(apart(Duration::from_secs(60), || 7).await, Some(7));
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    fn args(dir: PathBuf) -> CacheArgs {
        CacheArgs { cache_dir: Some(dir), cache_size: MIN_CACHE_BYTES }
    }

    #[tokio::test]
    async fn only_a_folder_of_another_use_stops_a_restore() {
        let dir = tempfile::tempdir().unwrap();
        let status = Status::new(Instant::now());
        assert!(CacheArgs::default().open(&status).await.unwrap().is_none());
        assert!(args(dir.path().join("new")).open(&status).await.unwrap().is_some());
        assert!(args(dir.path().join("new")).open_again(&status).await.is_some());
        // Has "new" in it.
        let refused = args(dir.path().into()).open(&status).await.unwrap_err().to_string();
        assert!(refused.starts_with("--cache-dir ") && refused.contains(dir.path().to_str().unwrap()), "{refused}");
        assert!(args(dir.path().into()).open_again(&status).await.is_none());
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(args(file).open(&status).await.unwrap().is_none());
    }
}
