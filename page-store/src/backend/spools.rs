//! Which objects of a host that ignores Range are kept, and who downloads them.

use super::{
    buffers::Buffers,
    local::blocking,
    spool::{Chunks, MAX_SPOOL, Spool, temporary, warn_unwritable},
};
use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{self, OwnedMutexGuard},
    time::timeout,
};

/// Objects that are kept, as many as a local backend keeps open: each holds a file descriptor, of which a process often has 1024.
const MAX_OBJECTS: usize = 128;
/// How long a request waits for the answer to another, which may bring the object for both. A host that is slower may not answer
/// at all; then each asks for itself, and the first answer counts.
const PATIENCE: Duration = Duration::from_secs(1);

/// The objects that one host sent whole.
#[derive(Debug, Default)]
pub(super) struct Spools {
    kept: Mutex<Kept>,
    /// The last answer to a range was a whole object.
    ignores_range: AtomicBool,
    /// A spool could not be written; no other is begun.
    unwritable: Arc<AtomicBool>,
    buffers: Arc<Buffers>,
}

/// While it is held, others wait to see what the host answers.
pub(super) type Turn = Option<OwnedMutexGuard<()>>;

impl Spools {
    /// The spool that has the range or may yet have it. Otherwise the host is to be asked; one that ignores Range, by one request
    /// for each object at a time.
    pub(super) async fn find(&self, object: &str, range: &Range<u64>) -> Result<Spool, Turn> {
        if let Some(spool) = self.kept().live(object, range) {
            return Ok(spool);
        }
        let alone = || self.ignores_range.load(Relaxed) && range.end <= MAX_SPOOL && !self.unwritable.load(Relaxed);
        if !alone() {
            return Err(None);
        }
        let turn = Arc::clone(&self.kept().object(object).turn);
        let turn = timeout(PATIENCE, turn.lock_owned()).await.ok();
        // The answer that was waited for may have been the range alone; then nobody need wait any more.
        self.kept().live(object, range).ok_or(turn.filter(|_| alone()))
    }

    /// Takes note of what came for a range: the whole object, or what was asked for.
    pub(super) fn answered(&self, whole: bool) {
        self.ignores_range.store(whole, Relaxed);
    }

    /// Whether a whole object that came for `range`, of `total` bytes if the host says so, is to be kept.
    pub(super) fn wants(&self, range: &Range<u64>, total: Option<u64>) -> bool {
        let more = total.is_none_or(|total| total > range.end - range.start && total <= MAX_SPOOL);
        more && range.end <= MAX_SPOOL && !self.unwritable.load(Relaxed)
    }

    /// Begins a spool with the body of a whole object. If another was first, its spool is as good, and this body is dropped. Gives
    /// the body back if no file can be had.
    pub(super) async fn begin(
        &self,
        object: &str,
        range: &Range<u64>,
        total: Option<u64>,
        body: Chunks,
    ) -> Result<Spool, Chunks> {
        if let Some(spool) = self.kept().live(object, range) {
            return Ok(spool);
        }
        let file = match blocking(|| tempfile::tempfile().map_err(temporary)).await {
            Ok(file) => file,
            Err(error) => {
                warn_unwritable(&self.unwritable, &error);
                return Err(body);
            }
        };
        let mut kept = self.kept();
        if let Some(spool) = kept.live(object, range) {
            return Ok(spool);
        }
        let spool = Spool::begin(file, Arc::clone(&self.buffers), total, body, Arc::clone(&self.unwritable));
        kept.object(object).spool = Some(spool.clone());
        Ok(spool)
    }

    /// What was kept of an object is not what it should be: the next reader downloads it anew.
    pub(super) fn forget(&self, object: &str) {
        if let Some(object) = self.kept().objects.get_mut(object) {
            object.spool = None;
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Kept {
    objects: HashMap<String, Object>,
    /// Counts uses, so that the object can be told that was not used for longest.
    clock: u64,
}

#[derive(Debug, Default)]
struct Object {
    /// Held by the request that may bring it.
    turn: Arc<sync::Mutex<()>>,
    spool: Option<Spool>,
    /// The clock when it was last used.
    used: u64,
}

impl Kept {
    /// The spool of an object, if it has the range or may yet have it. One that broke is forgotten.
    fn live(&mut self, name: &str, range: &Range<u64>) -> Option<Spool> {
        let object = self.objects.get_mut(name)?;
        object.spool.take_if(|spool| !spool.is_live());
        let spool = object.spool.clone().filter(|spool| spool.may_have(range))?;
        self.clock += 1;
        object.used = self.clock;
        Some(spool)
    }

    /// The entry of an object; a new one may take the place of the one that was not used for longest, whose readers keep its file.
    fn object(&mut self, name: &str) -> &mut Object {
        if self.objects.len() >= MAX_OBJECTS && !self.objects.contains_key(name) {
            let oldest = self.objects.iter().min_by_key(|(_, object)| object.used).map(|(name, _)| name.clone());
            oldest.and_then(|name| self.objects.remove(&name));
        }
        self.clock += 1;
        let object = self.objects.entry(name.to_owned()).or_default();
        object.used = self.clock;
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{StreamExt, stream};

    #[tokio::test]
    async fn keeps_so_many_objects_and_those_in_use() {
        let spools = Spools::default();
        for i in 0..=MAX_OBJECTS {
            let begun = spools.begin(&i.to_string(), &(0..1), None, stream::pending().boxed()).await;
            assert!(begun.is_ok() && spools.kept().live("0", &(0..1)).is_some());
        }
        assert!(spools.kept().live("1", &(0..1)).is_none());
        assert_eq!(spools.kept().objects.len(), MAX_OBJECTS);
    }

    #[tokio::test]
    async fn only_a_host_that_ignores_range_is_asked_in_turn() {
        let spools = Spools::default();
        let turn = async || spools.find("x", &(0..1)).await.unwrap_err();
        assert!(turn().await.is_none());
        spools.answered(true);
        let first = turn().await;
        assert!(first.is_some());
        let mut second = std::pin::pin!(turn());
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        let second = second.await;
        assert!(second.is_some());
        // Now the range alone came: who waits need not any more, nor does who comes later.
        let mut third = std::pin::pin!(turn());
        assert!(futures::poll!(&mut third).is_pending());
        spools.answered(false);
        drop(second);
        assert!(third.await.is_none() && turn().await.is_none());
    }

    #[test]
    fn what_is_kept() {
        let wants = |range, total| Spools::default().wants(&range, total);
        assert!(wants(0..10, None) && wants(0..10, Some(11)) && wants(1..10, Some(10)) && wants(0..1, Some(MAX_SPOOL)));
        assert!(!wants(0..10, Some(10)), "all of it was asked for");
        assert!(!wants(0..1, Some(MAX_SPOOL + 1)) && !wants(MAX_SPOOL..MAX_SPOOL + 1, None));
    }
}
