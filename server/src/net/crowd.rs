//! All connections, and who has to go when there are too many.

use super::activity::{Activity, End};
use crate::metrics::Metrics;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use tokio::sync::Notify;

/// The connections of a server, at most so many.
#[derive(Debug)]
pub(crate) struct Crowd {
    members: Mutex<Members>,
    most: usize,
    metrics: Arc<Metrics>,
    /// One left.
    left: Notify,
    /// Somebody waits for a place, and none of those inside is idle.
    pressed: AtomicBool,
}

#[derive(Debug, Default)]
struct Members {
    by_number: HashMap<u64, Arc<Activity>>,
    next: u64,
}

impl Crowd {
    pub(crate) fn new(most: usize, metrics: Arc<Metrics>) -> Self {
        Self { members: Mutex::default(), most, metrics, left: Notify::new(), pressed: AtomicBool::new(false) }
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more. If there is none, the connection that has been without a request for the longest gives way; if none is
    /// without one, this waits.
    pub(crate) async fn place(self: &Arc<Self>) -> Place {
        loop {
            let left = self.left.notified();
            {
                let mut members = self.members();
                if members.by_number.len() < self.most {
                    self.pressed.store(false, Relaxed);
                    let activity = Arc::new(Activity::new());
                    let number = members.next;
                    members.next += 1;
                    members.by_number.insert(number, activity.clone());
                    self.metrics.connections.store(members.by_number.len() as u64, Relaxed);
                    return Place { crowd: self.clone(), number, activity };
                }
            }
            if !self.drop_idle() {
                self.pressed.store(true, Relaxed);
            }
            left.await;
        }
    }

    /// Ends the connection that has been without a request for the longest. `false` if each has one.
    pub(crate) fn drop_idle(&self) -> bool {
        let members = self.members();
        let idle = members.by_number.values().filter_map(|activity| Some((activity.idle()?.since, activity)));
        let Some((_, longest)) = idle.min_by_key(|(since, _)| *since) else { return false };
        if longest.end(End::Now) {
            self.metrics.ended.crowded.fetch_add(1, Relaxed);
        }
        true
    }

    /// Whether somebody waits for a place that only a connection with a request could give.
    pub(crate) fn is_pressed(&self) -> bool {
        self.pressed.load(Relaxed)
    }

    /// All that are there now.
    pub(crate) fn all(&self) -> Vec<Arc<Activity>> {
        self.members().by_number.values().cloned().collect()
    }

    /// Has all of them end after the requests that they have, and waits for that.
    pub(crate) async fn leave(&self) {
        for activity in self.all() {
            activity.end(End::Politely);
        }
        loop {
            let left = self.left.notified();
            if self.members().by_number.is_empty() {
                return;
            }
            left.await;
        }
    }
}

/// One connection among the others. Dropped, it has left.
#[derive(Debug)]
pub(crate) struct Place {
    crowd: Arc<Crowd>,
    number: u64,
    pub(crate) activity: Arc<Activity>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut members = self.crowd.members();
        members.by_number.remove(&self.number);
        self.crowd.metrics.connections.store(members.by_number.len() as u64, Relaxed);
        drop(members);
        // Only the accept loop waits, or the end of the server: one permit is enough, and it is kept for who comes later.
        self.crowd.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn the_longest_without_a_request_gives_way() {
        let crowd = Arc::new(Crowd::new(2, Arc::default()));
        let (busy, idle) = (crowd.place().await, crowd.place().await);
        busy.activity.begin(false);
        let mut third = Box::pin(crowd.place());
        assert!(third.as_mut().now_or_never().is_none());
        assert_eq!(idle.activity.told(None).await, End::Now);
        drop(idle);
        let third = third.await;
        assert!(!crowd.is_pressed());

        // Nobody with a request is sent away for one who may have none.
        third.activity.begin(false);
        let mut fourth = Box::pin(crowd.place());
        assert!(fourth.as_mut().now_or_never().is_none());
        assert!(crowd.is_pressed());
        assert!(busy.activity.told(None).now_or_never().is_none());
        drop(busy);
        drop(fourth.await);
        assert_eq!(crowd.all().len(), 1);
    }
}
