//! The file that links are in: written whole, and read again when they are not taken any more.

use super::{Links, MAX_BYTES, location};
use crate::{Error, Result, backend::blocking};
use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::{sync::Mutex, time::Instant};
use url::Url;

/// How often the file is looked at while links are refused: every request asks for it then.
pub(super) const AGAIN: Duration = Duration::from_secs(2);

impl Links {
    /// Reads a links file.
    pub fn read(file: &Path) -> Result<Self> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Error::NotFound { object: location(file) },
            _ => Error::Io { object: location(file), source: error },
        };
        let mut json = Vec::new();
        // One byte more tells that there are more.
        File::open(file).and_then(|opened| opened.take(MAX_BYTES + 1).read_to_end(&mut json)).map_err(failed)?;
        Self::parse(file, &json)
    }

    /// Writes a links file, readable for its owner only. It is there whole or not at all, so a reader of one that was there before finds
    /// that one or this one.
    pub fn write(&self, file: &Path) -> Result<()> {
        let failed = |source: io::Error| Error::Io { object: file.display().to_string(), source };
        let json = self.to_json()?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Mode 0600 from its beginning.
        let mut temporary = tempfile::Builder::new().prefix(".links-").tempfile_in(folder).map_err(failed)?;
        temporary.write_all(&json).map_err(failed)?;
        temporary.as_file().sync_all().map_err(failed)?;
        temporary.persist(file).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

/// A links file that is in use.
#[derive(Debug)]
pub(crate) struct LinksFile {
    path: PathBuf,
    links: RwLock<Arc<Links>>,
    /// When it was read.
    pub(super) read: Mutex<Instant>,
}

impl LinksFile {
    /// Reads it for the first time.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let links = RwLock::new(Arc::new(Links::read(path)?));
        Ok(Self { path: path.to_owned(), links, read: Mutex::new(Instant::now()) })
    }

    pub(crate) fn current(&self) -> Arc<Links> {
        self.links.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An address that says which scheme they have; only that of it counts.
    pub(crate) fn any(&self) -> Url {
        self.current().any().clone()
    }

    /// An object, for messages: its name and its host.
    pub(crate) fn describe(&self, object: &str) -> String {
        let file = location(&self.path);
        match (object, self.current().link(object)) {
            ("", _) => file,
            (_, Some(link)) => format!("{object} at {}", link.origin().ascii_serialization()),
            (_, None) => format!("{object} of {file}"),
        }
    }

    /// Links from the file that are not those which were `refused`, if there are such by now.
    pub(crate) async fn renewed(&self, refused: &Arc<Links>) -> Option<Arc<Links>> {
        // Who else was refused waits, and uses the same.
        let mut read = self.read.lock().await;
        let current = self.current();
        if !Arc::ptr_eq(&current, refused) {
            return Some(current);
        }
        if read.elapsed() < AGAIN {
            return None;
        }
        *read = Instant::now();
        let path = self.path.clone();
        match blocking(move || Links::read(&path)).await {
            Ok(links) if links == *current => None,
            Ok(links) if links.any().scheme() != current.any().scheme() => {
                let file = location(&self.path);
                tracing::warn!("{file}: its links are {}:// now, and are not used; start again", links.any().scheme());
                None
            }
            Ok(links) => {
                tracing::info!("{}: other links by now, good until {}", location(&self.path), links.expires());
                let links = Arc::new(links);
                *self.links.write().unwrap_or_else(PoisonError::into_inner) = links.clone();
                Some(links)
            }
            Err(error) => {
                tracing::warn!("{error}; going on with the links from before");
                None
            }
        }
    }

    /// The error for an object whose link does not lead to it.
    pub(crate) fn refused(&self, object: &str, links: &Links, problem: &str) -> Error {
        let (file, expires) = (location(&self.path), links.expires());
        let why = match links.have_expired() {
            true => format!("the links of {file} have expired ({expires})"),
            false => format!(
                "{file} says that its links are good until {expires}, but the credentials that signed them may have ended, or a clock is wrong"
            ),
        };
        let path = self.path.display();
        let what =
            format!("{problem}; {why}: make new ones with `pageferry-strip presign {} --out {path}`", links.store());
        Error::Unsupported { object: self.describe(object), what }
    }

    /// The error for an object without a link.
    pub(crate) fn unlinked(&self, object: &str, links: &Links) -> Error {
        let (store, path) = (links.store(), self.path.display());
        let what = format!(
            "there is no link for it; if the store has changed, make new ones with `pageferry-strip presign {store} --out {path}`"
        );
        Error::Unsupported { object: self.describe(object), what }
    }
}
