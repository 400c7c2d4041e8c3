//! Objects of which wrong bytes came: for a while they are read past every cache on the way.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long after wrong bytes caches are not asked. What made the copy wrong may have made others wrong; and whoever needs the bytes asks
/// again well within it.
const SUSPECTED: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct Suspects(Mutex<HashMap<String, Instant>>);

impl Suspects {
    pub(super) fn add(&self, object: &str) {
        let mut suspects = self.lock();
        suspects.retain(|_, since| since.elapsed() < SUSPECTED);
        suspects.insert(object.to_owned(), Instant::now());
    }

    pub(super) fn has(&self, object: &str) -> bool {
        self.lock().get(object).is_some_and(|since| since.elapsed() < SUSPECTED)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
