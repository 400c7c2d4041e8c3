//! Files that are read again when they change: compared by content, because a secret that an orchestrator replaces may keep its
//! time and its size.

use anyhow::{Context, Result, bail};
use std::{
    fs::File,
    io::Read,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// How often files are looked at.
pub(crate) const PAUSE: Duration = Duration::from_secs(1);

/// Some files, and what they held when they were last read.
#[derive(Debug)]
pub(crate) struct Watched {
    paths: Vec<PathBuf>,
    most: u64,
    /// The hash of all of them; of the error, if they could not be read.
    seen: Mutex<Option<blake3::Hash>>,
}

impl Watched {
    /// `most`: bytes that one of them may have.
    pub(crate) fn new(paths: impl IntoIterator<Item = PathBuf>, most: u64) -> Self {
        Self { paths: paths.into_iter().collect(), most, seen: Mutex::new(None) }
    }

    /// What they hold, in their order.
    pub(crate) fn read(&self) -> Result<Vec<Vec<u8>>> {
        let read = self.contents();
        self.notice(&read);
        read
    }

    /// What they hold, if that is not what they held the last time; an error is told once.
    pub(crate) fn changed(&self) -> Option<Result<Vec<Vec<u8>>>> {
        let read = self.contents();
        self.notice(&read).then_some(read)
    }

    fn contents(&self) -> Result<Vec<Vec<u8>>> {
        let read = |path: &PathBuf| {
            let name = path.display();
            let mut bytes = Vec::new();
            let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
            file.take(self.most + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {name}"))?;
            if bytes.len() as u64 > self.most {
                bail!("{name} has more than {} bytes: is it the right file?", self.most);
            }
            Ok(bytes)
        };
        self.paths.iter().map(read).collect()
    }

    fn notice(&self, read: &Result<Vec<Vec<u8>>>) -> bool {
        let mut hasher = blake3::Hasher::new();
        match read {
            Ok(contents) => contents.iter().for_each(|bytes| {
                hasher.update(blake3::hash(bytes).as_bytes());
            }),
            Err(error) => {
                hasher.update(format!("{error:#}").as_bytes());
            }
        }
        let hash = hasher.finalize();
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).replace(hash) != Some(hash)
    }
}
