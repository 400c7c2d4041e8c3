//! Whether the store was replaced under a running restore.
//!
//! What a restore reads is named and checked by the manifest that it began with, so nothing can be mixed; but objects may be gone for good, and
//! whoever replaced the store should hear why a process waits.

use page_store::{Error, MANIFEST_NAME, Store};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// How often the manifest is looked at while objects are missing or wrong.
const EVERY: Duration = Duration::from_secs(5);

/// Looks at the manifest again when there is reason to.
pub(super) struct Watch {
    store: Store,
    looked: Mutex<Option<Instant>>,
    told: AtomicBool,
}

impl Watch {
    pub(super) fn new(store: Store) -> Arc<Self> {
        Arc::new(Self { store, looked: Mutex::default(), told: false.into() })
    }

    /// An attempt failed. If that may be because the store was replaced, somebody looks; the caller does not wait.
    pub(super) fn failed(self: &Arc<Self>, error: Option<&Error>) {
        if !matches!(error, Some(Error::NotFound { .. } | Error::Corrupt { .. })) || self.told.load(Relaxed) {
            return;
        }
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.is_none_or(|looked| looked.elapsed() > EVERY) {
            *looked = Some(Instant::now());
            let watch = self.clone();
            tokio::spawn(async move { watch.look().await });
        }
    }

    /// Says so, once, if the store holds something else by now. Returns whether it does.
    async fn look(&self) -> bool {
        let Ok(now) = self.store.current_manifest().await else { return false };
        let ours = self.store.manifest();
        let changed = !now.is_same_store(ours);
        if changed && !self.told.swap(true, Relaxed) {
            tracing::error!(
                "{}: the store now holds another checkpoint, {}; this restore needs the old objects, of {}: put them back, or kill what was restored. \
                 Nothing of the new one is used",
                self.store.backend().describe(MANIFEST_NAME),
                now.checkpoint_id,
                ours.checkpoint_id
            );
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use criu_images::{
        Checkpoint, ImageDir,
        testing::{Dump, LAZY, PRESENT, Pages, Task},
    };
    use page_store::write::{LocalSink, Options, split};
    use std::path::Path;

    fn make(dump: &Path, store: &Path, pid: u32) {
        let pages = Pages::new(0x1000_0000, 16, PRESENT | LAZY);
        Dump::new().task(Task::new(pid).anonymous(0x1000_0000, 16).pages(pages)).write(dump).unwrap();
        let checkpoint = Checkpoint::open(Arc::new(ImageDir::open(dump).unwrap())).unwrap();
        let sink = LocalSink::create(store, true).unwrap();
        split(&checkpoint, &sink, &Options::default(), &()).unwrap();
    }

    #[tokio::test]
    async fn a_store_that_was_replaced_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("store");
        make(&dir.path().join("one"), &folder, 10);
        let store = Store::open(&folder.display().to_string()).await.unwrap();
        let watch = Watch::new(store);
        assert!(!watch.look().await);
        make(&dir.path().join("two"), &folder, 11);
        assert!(watch.look().await);
        assert!(watch.told.load(Relaxed));
        std::fs::remove_file(folder.join(MANIFEST_NAME)).unwrap();
        assert!(!watch.look().await, "a store that is gone is not another one");
    }

    #[tokio::test]
    async fn it_is_looked_at_only_when_an_object_is_missing_or_wrong_and_not_too_often() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("store");
        make(&dir.path().join("one"), &folder, 10);
        let watch = Watch::new(Store::open(&folder.display().to_string()).await.unwrap());
        let looked = || *watch.looked.lock().unwrap();
        watch.failed(Some(&Error::unavailable("x", "y")));
        watch.failed(None);
        assert_eq!(looked(), None);
        watch.failed(Some(&Error::NotFound { object: "x".into() }));
        let first = looked();
        assert!(first.is_some());
        watch.failed(Some(&Error::NotFound { object: "x".into() }));
        assert_eq!(looked(), first);
    }
}
