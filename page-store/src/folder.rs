//! Folders that are stores or hold them, wherever they are: what is below them, what can be removed there.

mod neighbours;

pub use neighbours::Neighbours;
pub(crate) use neighbours::neighbours_of;

use crate::{
    Error, Links, MANIFEST_NAME, Manifest, Result, Store,
    backend::blocking,
    bucket::{Bucket, Doing, Retrying},
};
use futures::{StreamExt, stream};
use std::{
    collections::BTreeSet,
    fmt, fs, io,
    path::{Path, PathBuf},
};

/// Manifests that are read at once.
const MANIFESTS_AT_ONCE: usize = 16;

/// A folder of this machine, or a prefix in an object store. It is a store, or holds stores.
#[derive(Clone, Debug)]
pub struct Folder(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Local(PathBuf),
    Bucket(Bucket, String),
}

impl Folder {
    /// The place at a path or an address.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.strip_suffix(MANIFEST_NAME).filter(|rest| rest.ends_with('/')).unwrap_or(text);
        if Links::is_location(text) {
            let what = "links cannot be listed or removed from; use a path, s3://, gs:// or az://".into();
            return Err(Error::Unsupported { object: text.into(), what });
        }
        match text.split_once("://") {
            _ if Bucket::is_address(text) => {
                let address = text.trim_end_matches('/').to_owned();
                Ok(Self(Kind::Bucket(Bucket::open(&address, Retrying::Client)?, address)))
            }
            Some(("file", path)) if path.starts_with('/') => Ok(Self(Kind::Local(path.into()))),
            Some((scheme, _)) if !Path::new(text).exists() => {
                let what = format!(
                    "{scheme}:// addresses cannot be listed or removed from; use a path, s3://, gs:// or az://"
                );
                Err(Error::Unsupported { object: text.into(), what })
            }
            _ => Ok(Self(Kind::Local(text.into()))),
        }
    }

    /// The place that a bucket stands for.
    pub(crate) fn of(bucket: Bucket) -> Self {
        let address = bucket.describe("").trim_end_matches('/').to_owned();
        Self(Kind::Bucket(bucket, address))
    }

    /// The last part of it.
    pub fn name(&self) -> Option<String> {
        match &self.0 {
            Kind::Local(path) => {
                let path = path.canonicalize().unwrap_or_else(|_| path.clone());
                Some(path.file_name()?.to_str()?.to_owned())
            }
            Kind::Bucket(_, address) => {
                let (_, path) = address.split_once("://")?.1.split_once('/')?;
                Some(path.rsplit('/').next().filter(|name| !name.is_empty())?.to_owned())
            }
        }
    }

    /// What it is in.
    pub fn parent(&self) -> Option<Self> {
        match &self.0 {
            Kind::Local(path) => {
                let path = path.canonicalize().unwrap_or_else(|_| path.clone());
                Some(Self(Kind::Local(path.parent()?.into())))
            }
            Kind::Bucket(_, address) => {
                self.name()?;
                Self::parse(address.rsplit_once('/')?.0).ok()
            }
        }
    }

    /// What is called so in it.
    pub fn child(&self, name: &str) -> Result<Self> {
        match &self.0 {
            Kind::Local(path) => Ok(Self(Kind::Local(path.join(name)))),
            Kind::Bucket(_, address) => Self::parse(&format!("{address}/{name}")),
        }
    }

    /// Names of what is right below it, sorted: folders, or what looks like them.
    pub async fn folders(&self) -> Result<Vec<String>> {
        match &self.0 {
            Kind::Local(path) => {
                let path = path.clone();
                blocking(move || folders_of(&path)).await
            }
            Kind::Bucket(bucket, _) => {
                let listed = bucket.store().list_with_delimiter(Some(bucket.prefix())).await;
                let listed = listed.map_err(|error| bucket.error("", Doing::Reading, &error))?;
                let names = listed.common_prefixes.iter().filter_map(|path| Some(path.filename()?.to_owned()));
                Ok(names.collect::<BTreeSet<_>>().into_iter().collect())
            }
        }
    }

    /// Stores right below it, and itself if it is one: `note` makes something of the name (empty for itself) and of what its `checkpoint.json`
    /// says, or what is wrong with it. Only what it makes is kept. Names with a dot in front are passed over.
    pub async fn stores<T>(&self, note: impl Fn(String, Result<Manifest>) -> T) -> Result<Vec<T>> {
        let mut names = self.folders().await?;
        names.retain(|name| !name.starts_with('.'));
        names.insert(0, String::new());
        let note = &note;
        let read = |name: String| async move {
            let place = if name.is_empty() { self.clone() } else { self.child(&name).ok()? };
            match place.manifest().await {
                Err(Error::NotFound { .. }) => None,
                manifest => Some(note(name, manifest)),
            }
        };
        let found = stream::iter(names).map(read).buffered(MANIFESTS_AT_ONCE);
        Ok(found.filter_map(std::future::ready).collect().await)
    }

    /// What its `checkpoint.json` says.
    pub async fn manifest(&self) -> Result<Manifest> {
        // A folder without one may be a raw checkpoint, which is no store to be listed or removed.
        if let Kind::Local(path) = &self.0
            && !path.join(MANIFEST_NAME).exists()
        {
            return Err(Error::NotFound { object: path.join(MANIFEST_NAME).display().to_string() });
        }
        Ok(Store::open(&self.to_string()).await?.manifest().clone())
    }

    /// Removes an object; one that is not there is as good as removed.
    pub async fn remove(&self, object: &str) -> Result<()> {
        match &self.0 {
            Kind::Local(root) => {
                let path = root.join(object);
                blocking(move || match fs::remove_file(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        Err(Error::Io { object: path.display().to_string(), source: e })
                    }
                    _ => Ok(()),
                })
                .await
            }
            Kind::Bucket(bucket, _) => {
                let paths = stream::iter([Ok(bucket.path(object)?)]).boxed();
                let mut gone = bucket.store().delete_stream(paths);
                while let Some(gone) = gone.next().await {
                    match gone.map_err(|error| bucket.error(object, Doing::Writing, &error)) {
                        Ok(_) | Err(Error::NotFound { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(())
            }
        }
    }

    /// Removes folders that a store leaves, if nothing is in them. Object stores have none.
    pub async fn remove_empty_folders(&self) {
        if let Kind::Local(root) = &self.0 {
            for folder in ["index", "packs", "slim", "working-sets", ""] {
                let _ = fs::remove_dir(root.join(folder));
            }
        }
    }
}

fn folders_of(path: &Path) -> Result<Vec<String>> {
    let failed = |source| Error::Io { object: path.display().to_string(), source };
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // What a link leads to counts.
        if entry.path().is_dir()
            && let Ok(name) = entry.file_name().into_string()
        {
            names.insert(name);
        }
    }
    Ok(names.into_iter().collect())
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Local(path) => path.display().fmt(f),
            Kind::Bucket(_, address) => f.write_str(address),
        }
    }
}
