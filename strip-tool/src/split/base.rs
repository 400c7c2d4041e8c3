//! The store that a new one shares packs of: read before, looked at again after.

use crate::{
    Meter, Stop,
    retry::{open_store, with_retries},
    rm::{self, RmOptions},
};
use anyhow::{Context, Result, bail, ensure};
use criu_images::PAGE_SIZE;
use futures::{StreamExt, TryStreamExt, stream};
use page_store::{Error, Folder, Manifest, write::Base};
use std::{collections::HashSet, fs, future::ready, path::Path};
use tokio::runtime::Runtime;

/// Requests at once; decoding is what takes the time, and this keeps so many cores busy.
const AT_ONCE: usize = 4;

/// Where the base is.
pub(super) struct SharedBase {
    runtime: Runtime,
    base: Folder,
    name: String,
    store: String,
}

impl SharedBase {
    /// Reads the base at a path or address whole, every byte verified. The folder of the new store must be there already, if it is one.
    pub(super) fn read(base: &str, store: &str, meter: &Meter, stop: &Stop) -> Result<(Base, Self)> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
        let (folder, own) = (Folder::parse(base)?, Folder::parse(store)?);
        let place = |folder: &Folder| folder.parent().zip(folder.name());
        let (Some((parent, name)), Some((beside, own))) = (place(&folder), place(&own)) else {
            bail!("--base needs both stores in one folder, but {base} or {store} is not in any");
        };
        ensure!(
            parent.to_string() == beside.to_string(),
            "--base needs both stores in one folder, but {base} is in {parent} and {store} in {beside}: readers look for its packs beside \
             the new store"
        );
        ensure!(name != own, "{store} cannot be its own base");
        let read = async {
            let store = open_store(base).await?;
            let mut read = Base::new(&store, &name, &own)?;
            meter.begin("read base", store.manifest().totals.stored_pages * PAGE_SIZE);
            let frames = |range: std::ops::Range<_>| {
                let store = store.clone();
                // On a thread of its own each.
                let frames =
                    tokio::spawn(async move { with_retries(&store, || Base::read(&store, range.clone())).await });
                async { frames.await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic())) }
            };
            let push = |frames: Vec<_>| {
                meter.advance(frames.iter().map(page_store::write::BaseFrame::bytes).sum());
                read.push(frames);
                ready(Ok::<_, Error>(()))
            };
            stream::iter(Base::ranges(&store)).map(frames).buffered(AT_ONCE).try_for_each(push).await?;
            Ok(read)
        };
        let read = runtime.block_on(stop.or(read)).with_context(|| format!("cannot share pages with {base}"))?;
        meter.end();
        Ok((read, Self { runtime, base: folder, name, store: store.into() }))
    }

    /// An error unless the base still names what the new store shares with it, now that everybody can see that it does. If it does not, its
    /// packs may be gone: the new store is removed, and the slim dump with it.
    pub(super) fn check(&self, manifest: &Manifest, slim: Option<&Path>) -> Result<()> {
        let check = async {
            let base = match self.base.manifest().await {
                Ok(base) => base,
                Err(Error::NotFound { .. }) => return Ok(false),
                Err(error) => return Err(error),
            };
            let named: HashSet<String> = base.objects().map(|object| object.from_beside(&self.name)).collect();
            Ok(manifest.objects().filter(|object| object.sibling().is_some()).all(|o| named.contains(&o.object)))
        };
        let (base, store) = (&self.base, &self.store);
        let gone = || format!("{base} was removed or replaced meanwhile");
        if self.runtime.block_on(check).with_context(|| format!("{store} is there, but {base} cannot be looked at"))? {
            return Ok(());
        }
        let options = RmOptions { store: store.clone(), dry_run: false };
        let removed = self.runtime.block_on(rm::remove(&options));
        removed.with_context(|| format!("{}, and {store}, which needs it, could not be removed", gone()))?;
        if let Some(slim) = slim {
            let left = || format!("{}, and {}, which is of no use now, could not be removed", gone(), slim.display());
            fs::remove_dir_all(slim).with_context(left)?;
        }
        bail!("{}; nothing was written. Try again with a base that stays", gone())
    }
}
