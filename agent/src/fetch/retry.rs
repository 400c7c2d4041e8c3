//! Trying again: what cannot be had now may be had later, and whoever needs a page has no other choice than to wait for it.

use super::{
    budget::{Budget, Who},
    changed::Watch,
};
use crate::status::Status;
use anyhow::Result;
use page_store::{Error, Retry, is_of_this_machine};
use std::{
    future::Future,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What is tried again how: the first pause and the longest; each is twice the one before, and a random part of it is waited for, so that those
/// who failed together do not come again together.
fn pauses_after(error: Option<&Error>) -> (Duration, Duration) {
    match error {
        // Nobody is there: a machine or a container that restarts takes seconds.
        Some(Error::Unavailable { retry: Retry::Unreachable, .. }) => (ms(50), ms(2000)),
        // Somebody is there, and the next answer may be a good one.
        Some(Error::Unavailable { .. }) => (ms(20), ms(500)),
        // The next request goes past caches, or to another mirror.
        Some(Error::Corrupt { .. }) => (ms(5), ms(500)),
        // Uploaded or put back by somebody, a token renewed: none of it takes less than seconds.
        Some(Error::NotFound { .. }) => (ms(50), ms(5000)),
        _ => (ms(100), ms(5000)),
    }
}

/// The pause after so many failures in a row, from none to the longest; `random` from 0 to 1.
fn pause(error: Option<&Error>, failures: u32, random: f64) -> Duration {
    let (first, longest) = pauses_after(error);
    let jittered = first.saturating_mul(1 << failures.min(16)).min(longest).mul_f64(random);
    match error.map(Error::retry) {
        Some(Retry::After(asked)) => asked + jittered,
        _ => jittered,
    }
}

/// What attempts for one kind of traffic share.
#[derive(Clone)]
pub(super) struct Policy {
    pub(super) status: Arc<Status>,
    pub(super) budget: Arc<Budget>,
    pub(super) watch: Arc<Watch>,
    pub(super) who: Who,
}

impl Policy {
    pub(super) fn pauses(&self) -> Pauses {
        Pauses { policy: self.clone(), failures: 0 }
    }

    /// Attempts until one succeeds.
    pub(super) async fn until_it_works<T, E, F>(&self, mut attempt: impl FnMut() -> F) -> T
    where
        E: Into<anyhow::Error>,
        F: Future<Output = Result<T, E>>,
    {
        let mut pauses = self.pauses();
        loop {
            match attempt().await {
                Ok(value) => {
                    pauses.worked();
                    return value;
                }
                Err(error) => pauses.failed(&error.into()).await,
            }
        }
    }
}

/// The pauses between the attempts at one thing.
pub(super) struct Pauses {
    policy: Policy,
    failures: u32,
}

impl Pauses {
    pub(super) fn worked(&mut self) {
        self.failures = 0;
        self.policy.budget.worked();
        if self.policy.status.outage.swap(false, Relaxed) && self.policy.budget.says_good_news() {
            tracing::info!("the store answers again");
        }
    }

    /// Returns when it is time for the next attempt.
    pub(super) async fn failed(&mut self, error: &anyhow::Error) {
        let Policy { status, budget, watch, who } = &self.policy;
        let cause = error.downcast_ref::<Error>();
        status.retries.fetch_add(1, Relaxed);
        if matches!(cause, Some(Error::Corrupt { .. })) {
            status.digest_failures.fetch_add(1, Relaxed);
        }
        watch.failed(cause);
        if !status.outage.swap(true, Relaxed) && budget.says_bad_news() {
            tracing::warn!(
                error = format!("{error:#}"),
                "no answer from the store; trying again until it works, processes that need the page wait"
            );
        } else {
            tracing::debug!(error = format!("{error:#}"), "failed");
        }
        tokio::time::sleep(pause(cause, self.failures, fastrand::f64())).await;
        self.failures += 1;
        budget.spend(*who).await;
    }
}

/// How long an address that was given is tried before it is taken for wrong. Those who start an agent together with its server need not put
/// them in order; those who mistyped a port see why soon.
const UNREACHABLE: Duration = Duration::from_secs(5);
const FAILING: Duration = Duration::from_secs(60);
/// Answers in a row that will not change, such as 404 and 403, before that is believed: one may come from a host that is being set up.
const FINAL_ANSWERS: u32 = 4;

/// Attempts at what a restore begins with, the manifest and the slim dump: here a mistake is likelier than an outage, and nothing is lost yet.
pub(crate) async fn at_first<T, F>(location: &str, mut attempt: impl FnMut() -> F) -> page_store::Result<T>
where
    F: Future<Output = page_store::Result<T>>,
{
    let start = tokio::time::Instant::now();
    let mut reached = start;
    let (mut failures, mut final_answers) = (0, 0);
    loop {
        let error = match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if error.retry() != Retry::Unreachable {
            reached = tokio::time::Instant::now();
        }
        final_answers = if error.is_transient() { 0 } else { final_answers + 1 };
        let wait = pause(Some(&error), failures, fastrand::f64());
        // Mirrors are told apart by commas.
        let local = location.split(", ").all(is_of_this_machine);
        if local
            || final_answers >= FINAL_ANSWERS
            || start.elapsed() + wait > FAILING
            || reached.elapsed() + wait > UNREACHABLE
        {
            return Err(error);
        }
        if failures == 0 {
            tracing::warn!("{error}; trying again for a while");
        }
        failures += 1;
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unavailable(retry: Retry) -> Error {
        Error::Unavailable { object: "x".into(), problem: "y".into(), retry }
    }

    #[test]
    fn pauses_grow_up_to_a_limit_and_are_random() {
        let error = unavailable(Retry::Soon);
        let longest = |failures| pause(Some(&error), failures, 1.0);
        assert_eq!([0, 1, 2, 30].map(longest), [20, 40, 80, 500].map(ms));
        assert_eq!(pause(Some(&error), 30, 0.0), Duration::ZERO);
        assert_eq!(pause(Some(&error), 30, 0.5), ms(250));
        assert!(
            pause(Some(&unavailable(Retry::Unreachable)), 9, 1.0) > longest(9),
            "a host that is down is asked less"
        );
        assert_eq!(pause(None, 100, 1.0), ms(5000));
    }

    #[test]
    fn the_pause_that_a_host_asks_for_is_kept() {
        let error = unavailable(Retry::After(ms(7000)));
        assert_eq!(pause(Some(&error), 0, 0.0), ms(7000));
        assert!(pause(Some(&error), 0, 1.0) > ms(7000), "not all come again at once");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_restore_begins_with_is_not_tried_for_ever() {
        let attempts = async |location: &str, error: &dyn Fn() -> Error| {
            let (count, start) = (std::cell::Cell::new(0), tokio::time::Instant::now());
            let attempt = || {
                count.set(count.get() + 1);
                std::future::ready(Err::<(), _>(error()))
            };
            at_first(location, attempt).await.unwrap_err();
            (count.get(), start.elapsed())
        };
        let missing = || Error::NotFound { object: "x".into() };
        assert_eq!(attempts("/a/path", &|| unavailable(Retry::Soon)).await.0, 1, "a path");
        assert_eq!(attempts("http://x", &missing).await.0, FINAL_ANSWERS);
        let (count, time) = attempts("http://x", &|| unavailable(Retry::Unreachable)).await;
        assert!(count > 3 && time <= UNREACHABLE, "{count} in {time:?}");
        let (count, time) = attempts("http://x", &|| unavailable(Retry::Soon)).await;
        assert!(count > 20 && time > UNREACHABLE && time <= FAILING, "{count} in {time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_restore_begins_with_may_fail_a_few_times() {
        let mut left = 30;
        let attempt = || {
            left -= 1;
            std::future::ready(if left == 0 { Ok(7) } else { Err(unavailable(Retry::Soon)) })
        };
        assert_eq!(at_first("http://x", attempt).await.unwrap(), 7);
    }
}
