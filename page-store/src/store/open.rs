//! What a location is, and its manifest.

use crate::{
    Backend, Error, HttpBackend, HttpOptions, Links, LocalBackend, MANIFEST_NAME, Manifest, Mirrors, ObjectBackend,
    Result, backend::blocking, bucket::Bucket, links::LinksFile, manifest::MAX_MANIFEST_BYTES, raw::RawCheckpoint,
};
use std::{path::Path, sync::Arc};

/// What every checkpoint directory of CRIU's has.
const INVENTORY: &str = "inventory.img";

/// The backend for a location that a user typed.
pub(super) async fn backend(location: &str, http: &HttpOptions) -> Result<Arc<dyn Backend>> {
    if let Some(file) = Links::path_of(location) {
        let file = file.to_owned();
        let file = blocking(move || LinksFile::open(&file)).await?;
        return Ok(Arc::new(HttpBackend::of_links(file, http.clone())?));
    }
    match location.split_once("://") {
        Some(("http" | "https", _)) => Ok(Arc::new(HttpBackend::with_options(location, http.clone())?)),
        _ if Bucket::is_address(location) => Ok(Arc::new(ObjectBackend::new(location)?)),
        Some(("file", path)) if path.starts_with('/') => local(path).await,
        Some((scheme, _)) if !Path::new(location).exists() => {
            let what = format!(
                "addresses with {scheme}:// are not known; use a path, http://, https://, s3://, gs://, az:// or links:FILE"
            );
            Err(Error::Unsupported { object: location.into(), what })
        }
        _ => local(location).await,
    }
}

async fn local(path: &str) -> Result<Arc<dyn Backend>> {
    let location = path.to_owned();
    blocking(move || {
        let mut path = Path::new(&location);
        if path.file_name().is_some_and(|name| name == MANIFEST_NAME) && path.is_file() {
            path = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        }
        if path.join(MANIFEST_NAME).is_file() {
            return Ok(Arc::new(LocalBackend::new(path)) as Arc<dyn Backend>);
        }
        if path.join(INVENTORY).is_file() {
            return Ok(Arc::new(RawCheckpoint::open(path)?) as Arc<dyn Backend>);
        }
        if !path.exists() {
            return Err(Error::NotFound { object: location.clone() });
        }
        let what =
            format!("neither a page store (no {MANIFEST_NAME} in it) nor a CRIU checkpoint (no {INVENTORY} in it)");
        Err(Error::Unsupported { object: location.clone(), what })
    })
    .await
}

/// The mirrors at these locations, and what they hold.
pub(super) async fn mirrors(locations: &[String], http: &HttpOptions) -> Result<(Arc<Manifest>, Arc<dyn Backend>)> {
    let (mirrors, manifest) = Mirrors::open(backends(locations, http).await?).await?;
    Ok((manifest, Arc::new(mirrors)))
}

/// The backends at these locations. One that cannot even be looked at is left out, unless all are such.
pub(super) async fn backends(locations: &[String], http: &HttpOptions) -> Result<Vec<Arc<dyn Backend>>> {
    let mut backends = Vec::new();
    let mut failure = None;
    for location in locations {
        match backend(location, http).await {
            Ok(backend) => backends.push(backend),
            Err(error) => {
                tracing::warn!("{error}; left out");
                failure.get_or_insert(error);
            }
        }
    }
    if let Some(error) = failure.filter(|_| backends.is_empty()) {
        return Err(error);
    }
    Ok(backends)
}

/// Fetches and checks the manifest.
pub(crate) async fn manifest(backend: &dyn Backend) -> Result<Manifest> {
    let json = backend.get(MANIFEST_NAME, MAX_MANIFEST_BYTES).await?;
    Manifest::parse(&backend.describe(MANIFEST_NAME), &json)
}
