//! Packs that checkpoints of a folder share: who names them, when the store that they lie in does not (any more).

use page_store::{Folder, Manifest};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};
use tokio::sync::Mutex;

/// The packs that any checkpoint of a folder shares with another, by name (`../<sibling>/packs/<digest>.pack`), and one that does.
#[derive(Debug, Default)]
pub(crate) struct SharedPacks(Mutex<Option<(Instant, HashMap<String, String>)>>);

impl SharedPacks {
    /// A checkpoint that names the object `path` of its sibling `name`. What is known is not older than `fresh`.
    pub(crate) async fn sharer(&self, folder: &Folder, fresh: Duration, name: &str, path: &str) -> Option<String> {
        if !path.starts_with("packs/") {
            return None;
        }
        // Who comes meanwhile waits, and uses the same.
        let mut known = self.0.lock().await;
        if known.as_ref().is_none_or(|(when, _)| when.elapsed() >= fresh) {
            let shared = |name: String, manifest: page_store::Result<Manifest>| {
                let manifest = manifest.ok();
                let objects = manifest.iter().flat_map(Manifest::objects).filter(|object| object.sibling().is_some());
                objects.map(|object| (object.object.clone(), name.clone())).collect::<Vec<_>>()
            };
            *known = Some((Instant::now(), folder.stores(shared).await.ok()?.into_iter().flatten().collect()));
        }
        known.as_ref()?.1.get(&format!("../{name}/{path}")).cloned()
    }
}
