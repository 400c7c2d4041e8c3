//! Trying again: what cannot be had now may be had later, and whoever needs a page has no other choice than to wait for it.

use crate::status::Status;
use anyhow::Result;
use std::{future::Future, sync::atomic::Ordering::Relaxed, time::Duration};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Attempts until one succeeds.
pub(super) async fn until_it_works<T, E, F>(status: &Status, mut attempt: impl FnMut() -> F) -> T
where
    E: Into<anyhow::Error>,
    F: Future<Output = Result<T, E>>,
{
    let mut pauses = Pauses::default();
    loop {
        match attempt().await {
            Ok(value) => {
                pauses.worked(status);
                return value;
            }
            Err(error) => pauses.failed(status, &error.into()).await,
        }
    }
}

/// The pause before the next attempt: doubles up to two seconds.
#[derive(Default)]
pub(super) struct Pauses {
    failures: u32,
}

impl Pauses {
    pub(super) fn worked(&mut self, status: &Status) {
        self.failures = 0;
        if status.outage.swap(false, Relaxed) {
            tracing::info!("the store answers again");
        }
    }

    pub(super) async fn failed(&mut self, status: &Status, error: &anyhow::Error) {
        status.retries.fetch_add(1, Relaxed);
        if matches!(error.downcast_ref(), Some(page_store::Error::Corrupt { .. })) {
            status.digest_failures.fetch_add(1, Relaxed);
        }
        if status.outage.swap(true, Relaxed) {
            tracing::debug!("still failing: {error:#}");
        } else {
            tracing::warn!("{error:#}; trying again until it works, processes that need the page wait");
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE);
        self.failures += 1;
        tokio::time::sleep(pause).await;
    }
}
