//! How many attempts after failures a store gets, all together: what many extents wait for is not asked for by all of them again and again.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Attempts per second after failures, and how many can be saved up. A host that is down gets no more than these; each frame that comes brings
/// one back, so that a host that often fails is asked as fast as it answers.
const RATE: f64 = 20.0;
const SAVED: f64 = 40.0;
/// The last ones are for demand.
const FOR_DEMAND: f64 = 20.0;
/// No more than one message about failures, and one about their end, in so long.
const QUIET: Duration = Duration::from_secs(10);

/// Who tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// A thread waits.
    Demand,
    /// Nobody does.
    Background,
}

/// Attempts that may be made after failures.
#[derive(Debug)]
pub(super) struct Budget(Mutex<State>);

#[derive(Debug)]
struct State {
    tokens: f64,
    at: Instant,
    said: Option<Instant>,
    /// Bad news was told, and not yet that it is over.
    owes: bool,
}

impl Default for Budget {
    fn default() -> Self {
        Self(Mutex::new(State { tokens: SAVED, at: Instant::now(), said: None, owes: false }))
    }
}

impl Budget {
    /// Returns when there is an attempt for `who`. Demand that comes while the background waits is first.
    pub(super) async fn spend(&self, who: Who) {
        while let Some(wait) = self.take(who, Instant::now()) {
            tokio::time::sleep(wait).await;
        }
    }

    /// Takes an attempt, or says when to look again.
    fn take(&self, who: Who, now: Instant) -> Option<Duration> {
        let mut state = self.lock();
        let earned = now.saturating_duration_since(state.at).as_secs_f64() * RATE;
        state.tokens = (state.tokens + earned).min(SAVED);
        state.at = state.at.max(now);
        let needed = match who {
            Who::Demand => 1.0,
            Who::Background => 1.0 + FOR_DEMAND,
        };
        if state.tokens >= needed {
            state.tokens -= 1.0;
            return None;
        }
        Some(Duration::from_secs_f64(((needed - state.tokens) / RATE).max(0.001)))
    }

    /// A frame came.
    pub(super) fn worked(&self) {
        let mut state = self.lock();
        state.tokens = (state.tokens + 1.0).min(SAVED);
    }

    /// Whether a failure is to be told now.
    pub(super) fn says_bad_news(&self) -> bool {
        let mut state = self.lock();
        let says = state.said.is_none_or(|said| said.elapsed() > QUIET);
        if says {
            state.said = Some(Instant::now());
            state.owes = true;
        }
        says
    }

    /// Whether it is to be told that failures are over: once for each time that they were.
    pub(super) fn says_good_news(&self) -> bool {
        std::mem::take(&mut self.lock().owes)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts(budget: &Budget, who: Who, now: Instant) -> usize {
        (0..1000).take_while(|_| budget.take(who, now).is_none()).count()
    }

    #[test]
    fn the_background_leaves_attempts_to_demand() {
        let budget = Budget::default();
        let now = Instant::now();
        assert_eq!(attempts(&budget, Who::Background, now), (SAVED - FOR_DEMAND) as usize);
        assert_eq!(attempts(&budget, Who::Demand, now), FOR_DEMAND as usize);
        let later = now + Duration::from_secs(1);
        assert_eq!(attempts(&budget, Who::Demand, later), RATE as usize, "so many a second");
        assert_eq!(attempts(&budget, Who::Background, later), 0);
        let wait = budget.take(Who::Background, later).unwrap();
        assert!(budget.take(Who::Background, later + wait + Duration::from_millis(1)).is_none());
    }

    #[test]
    fn what_comes_brings_attempts_back() {
        let budget = Budget::default();
        let now = Instant::now();
        attempts(&budget, Who::Demand, now);
        (0..3).for_each(|_| budget.worked());
        assert_eq!(attempts(&budget, Who::Demand, now), 3);
        (0..1000).for_each(|_| budget.worked());
        assert_eq!(attempts(&budget, Who::Demand, now), SAVED as usize, "not without limit");
    }

    #[test]
    fn news_is_told_once() {
        let budget = Budget::default();
        assert!(!budget.says_good_news());
        assert!(budget.says_bad_news() && !budget.says_bad_news());
        assert!(budget.says_good_news() && !budget.says_good_news());
    }
}
