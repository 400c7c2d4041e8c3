//! What the stores beside a store need of each other.

use super::{Folder, Kind, MANIFESTS_AT_ONCE, folders_of};
use crate::{
    Error, MANIFEST_NAME, Manifest, Result,
    backend::{blocking, check_limit},
    bucket::{Bucket, Doing},
    manifest::MAX_MANIFEST_BYTES,
    names,
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::GetOptions;
use std::{collections::HashSet, fs, io, path::Path};

/// What the stores beside a store need.
#[derive(Debug, Default)]
pub struct Neighbours {
    /// Packs, their own and others', as `../<sibling>/packs/<digest>.pack`.
    packs: HashSet<String>,
}

impl Neighbours {
    /// Whether one of them needs this pack in the folder `name`.
    pub fn need(&self, name: &str, pack: &str) -> bool {
        self.packs.contains(&names::in_sibling(name, pack))
    }

    /// What `checkpoint.json` of the store `name` says.
    fn add(&mut self, name: &str, json: &[u8]) {
        match Manifest::parse(MANIFEST_NAME, json) {
            Ok(manifest) => self.packs.extend(manifest.packs.iter().map(|pack| pack.object.from_beside(name))),
            // What cannot be understood, of a newer version perhaps, still says which packs it needs.
            Err(_) => {
                let text = String::from_utf8_lossy(json);
                let words = text.split('"').flat_map(|word| [word.to_owned(), names::in_sibling(name, word)]);
                self.packs.extend(words.filter(|word| names::shared(word).is_some()));
            }
        }
    }
}

impl Folder {
    /// What is beside it. An error if any `checkpoint.json` there cannot be read: it might need what is here.
    pub async fn neighbours(&self) -> Result<Neighbours> {
        match (&self.0, self.parent(), self.name()) {
            (Kind::Local(path), ..) => {
                let path = path.clone();
                blocking(move || neighbours_of(&path)).await
            }
            (Kind::Bucket(..), Some(parent), Some(own)) => parent.neighbours_in_bucket(&own).await,
            // A whole bucket has nothing beside it.
            (Kind::Bucket(..), ..) => Ok(Neighbours::default()),
        }
    }

    async fn neighbours_in_bucket(&self, own: &str) -> Result<Neighbours> {
        let names = self.folders().await?.into_iter().filter(|name| name != own);
        let read = |name: String| async move {
            let json = match &self.child(&name)?.0 {
                Kind::Bucket(bucket, _) => manifest_of(bucket).await?,
                Kind::Local(_) => None,
            };
            Ok::<_, Error>((name, json))
        };
        let read = stream::iter(names).map(read).buffer_unordered(MANIFESTS_AT_ONCE);
        let add = |mut all: Neighbours, (name, json): (String, Option<Bytes>)| async move {
            if let Some(json) = json {
                all.add(&name, &json);
            }
            Ok(all)
        };
        read.try_fold(Neighbours::default(), add).await
    }
}

async fn manifest_of(bucket: &Bucket) -> Result<Option<Bytes>> {
    let failed = |error| bucket.error(MANIFEST_NAME, Doing::Reading, &error);
    let got = match bucket.store().get_opts(&bucket.path(MANIFEST_NAME)?, GetOptions::default()).await.map_err(failed) {
        Ok(got) => got,
        Err(Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    check_limit(&bucket.describe(MANIFEST_NAME), got.meta.size, MAX_MANIFEST_BYTES)?;
    got.bytes().await.map(Some).map_err(failed)
}

/// The same for a folder of this machine, which must exist.
pub(crate) fn neighbours_of(path: &Path) -> Result<Neighbours> {
    let failed = |path: &Path| {
        let object = path.display().to_string();
        move |source| Error::Io { object, source }
    };
    let path = path.canonicalize().map_err(failed(path))?;
    let mut all = Neighbours::default();
    let Some(parent) = path.parent() else { return Ok(all) };
    for name in folders_of(parent)? {
        let manifest = parent.join(&name).join(MANIFEST_NAME);
        if parent.join(&name).canonicalize().is_ok_and(|real| real == path) {
            continue;
        }
        let len = match fs::metadata(&manifest) {
            Ok(metadata) => metadata.len(),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            Err(e) => return Err(failed(&manifest)(e)),
        };
        check_limit(&manifest.display().to_string(), len, MAX_MANIFEST_BYTES)?;
        all.add(&name, &fs::read(&manifest).map_err(failed(&manifest))?);
    }
    Ok(all)
}
