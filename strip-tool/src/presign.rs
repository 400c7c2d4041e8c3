//! `presign`: links with which machines read a store in a private bucket without credentials.

use crate::{Stop, human, retry::open_store};
use anyhow::{Context, Result};
use page_store::LinkSigner;
use serde::Serialize;
use std::{fmt, path::PathBuf, time::Duration};

/// What to make links for.
#[derive(Debug, Clone)]
pub struct PresignOptions {
    /// Address of the store: `s3://`, `gs://` or `az://`.
    pub store: String,
    /// Where they go; a file that is there is replaced.
    pub out: PathBuf,
    /// How long they are good.
    pub expires: Duration,
}

/// What was made. No link is in it.
#[derive(Debug, Clone, Serialize)]
pub struct PresignReport {
    /// The store.
    pub store: String,
    /// Identity of the checkpoint.
    pub checkpoint_id: String,
    /// The file.
    pub file: PathBuf,
    /// Links in it: one for each object, `checkpoint.json` among them.
    pub links: usize,
    /// When they end, as in 2026-01-31T18:00:00Z.
    pub expires: String,
}

/// Reads what the store has, signs, and writes the file.
pub async fn presign(options: &PresignOptions, stop: &Stop) -> Result<PresignReport> {
    let signer = LinkSigner::new(&options.store, options.expires)?;
    let sign = async {
        let store = open_store(&options.store).await?;
        let links = signer.sign(store.manifest()).await?;
        Ok((store.manifest().checkpoint_id.clone(), links))
    };
    let (checkpoint_id, links) = stop.or(sign).await?;
    stop.check()?;
    links.write(&options.out).with_context(|| format!("cannot write the links to {}", options.out.display()))?;
    Ok(PresignReport {
        store: links.store().to_owned(),
        checkpoint_id,
        file: options.out.clone(),
        links: links.len(),
        expires: links.expires(),
    })
}

impl fmt::Display for PresignReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (links, file, expires) = (human::count(self.links as u64), self.file.display(), &self.expires);
        writeln!(f, "{links} links to {} are in {file}, good until {expires}", self.store)?;
        writeln!(f, "Whoever has that file can read the store: pageferry-agent restore links:{file}")
    }
}
