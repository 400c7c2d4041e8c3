//! What is known of one mirror, and whether to ask it.

use crate::{Error, Retry};
use std::{
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A new measurement's share in the estimate.
const WEIGHT: f64 = 1.0 / 4.0;
/// What mirrors are compared by: the time that so much takes, about an extent.
const COMPARED: f64 = (256 << 10) as f64;
/// A mirror is left out after so many failures in a row; one may have reasons that pass.
const FAILURES: u32 = 2;
/// How long it is left out before it is looked at again: twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// An answer is waited for so many times the usual before another mirror is asked too; but never less than this long.
const PATIENCE: u32 = 4;
const LEAST_PATIENCE: Duration = Duration::from_millis(250);
/// Of a mirror of which nothing is known.
const UNMEASURED: Duration = Duration::from_millis(400);

/// One mirror's.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Seconds until an answer begins, estimated.
    latency: Option<f64>,
    /// Bytes per second of one answer, estimated.
    rate: Option<f64>,
    /// In a row.
    failures: u32,
    /// How often it was left out without anything good in between.
    left_out: u32,
    /// Answers with wrong bytes. Not forgotten: what is wrong stays so, whatever else works.
    wrong: u32,
    /// It is not asked; from then on it may be looked at.
    out_until: Option<Instant>,
    /// That it is left out was said.
    told: bool,
    /// Somebody looks at it just now.
    looked_at: bool,
    /// What is being asked of it.
    under_way: Vec<(u64, String, Range<u64>)>,
    next_id: u64,
}

impl Health {
    /// How long an extent would take, with what speaks against the mirror counted in; `None` if it is left out.
    pub(super) fn cost(&self) -> Option<f64> {
        let state = self.lock();
        state.out_until.is_none().then(|| {
            let time = state.latency.unwrap_or(0.0) + state.rate.map_or(0.0, |rate| COMPARED / rate.max(1.0));
            // Not nothing, so that the factor counts.
            time.max(1e-4) * f64::from(1 + state.failures) * 4f64.powi(state.wrong.min(8) as i32)
        })
    }

    /// Whether it is left out and it is time for somebody to look at it again; that is then the caller's task.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let mut state = self.lock();
        let due = !state.looked_at && state.out_until.is_some_and(|until| until <= now);
        state.looked_at |= due;
        due
    }

    /// It was looked at and is as it should be.
    pub(super) fn back(&self) {
        let mut state = self.lock();
        (state.out_until, state.looked_at, state.failures, state.told) = (None, false, 0, false);
    }

    /// It is left out for a while, longer each time. Returns whether that is news.
    pub(super) fn leave_out(&self, now: Instant) -> bool {
        let mut state = self.lock();
        state.looked_at = false;
        state.leave_out(now);
        !std::mem::replace(&mut state.told, true)
    }

    /// Nothing is known of it; somebody should look.
    pub(super) fn look_soon(&self, now: Instant) {
        self.lock().out_until = Some(now);
    }

    /// A request failed. Returns whether the mirror is left out now and was not before.
    pub(super) fn failed(&self, error: &Error, now: Instant) -> bool {
        let mut state = self.lock();
        let before = state.out_until.is_some();
        state.failures = state.failures.saturating_add(1);
        match error.retry() {
            Retry::After(pause) => state.out_until = Some(now + pause.max(FIRST_PAUSE)),
            Retry::Unreachable => state.leave_out(now),
            _ if state.failures >= FAILURES => state.leave_out(now),
            _ => {}
        }
        let news = !before && state.out_until.is_some();
        state.told |= news;
        news
    }

    /// It sent wrong bytes.
    pub(super) fn was_wrong(&self, now: Instant) {
        let mut state = self.lock();
        state.wrong = state.wrong.saturating_add(1);
        state.left_out = state.left_out.max(state.wrong);
        state.leave_out(now);
    }

    /// An answer came to its end: `bytes`, for which `waited` was waited in all.
    pub(super) fn worked(&self, bytes: u64, waited: Duration) {
        let mut state = self.lock();
        (state.failures, state.left_out) = (0, 0);
        state.learn_rate(bytes, waited);
    }

    /// An answer began after this time, or had not begun when it was given up.
    pub(super) fn answered(&self, after: Duration) {
        learn(&mut self.lock().latency, after.as_secs_f64());
    }

    /// An answer was too slow and was left: so many bytes came.
    pub(super) fn was_slow(&self, bytes: u64, waited: Duration) {
        self.lock().learn_rate(bytes.max(1), waited);
    }

    /// How long to wait for the beginning of an answer before another mirror is asked as well.
    pub(super) fn patience(&self) -> Duration {
        let latency = self.lock().latency;
        latency.map_or(UNMEASURED, |latency| (Duration::from_secs_f64(latency) * PATIENCE).max(LEAST_PATIENCE))
    }

    /// How long `bytes` should take, generously.
    pub(super) fn patience_for(&self, bytes: u64) -> Duration {
        let rate = self.lock().rate;
        let usual = rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(bytes as f64 / rate.max(1.0)));
        self.patience() + usual * PATIENCE
    }

    /// Whether something that overlaps is being asked of it.
    pub(super) fn is_asked(&self, object: &str, range: &Range<u64>) -> bool {
        let state = self.lock();
        state.under_way.iter().any(|(_, other, asked)| other == object && overlap(asked, range))
    }

    pub(super) fn begin(&self, object: &str, range: &Range<u64>) -> u64 {
        let mut state = self.lock();
        state.next_id += 1;
        let id = state.next_id;
        state.under_way.push((id, object.to_owned(), range.clone()));
        id
    }

    pub(super) fn end(&self, id: u64) {
        self.lock().under_way.retain(|(other, ..)| *other != id);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn leave_out(&mut self, now: Instant) {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.left_out.min(16)).min(LONGEST_PAUSE);
        self.left_out = self.left_out.saturating_add(1);
        self.out_until = Some(now + pause);
    }

    fn learn_rate(&mut self, bytes: u64, waited: Duration) {
        // Less than this says more about the moment than about the mirror; unless it took long.
        if bytes as f64 * 4.0 >= COMPARED || waited > LEAST_PATIENCE {
            learn(&mut self.rate, bytes as f64 / waited.as_secs_f64().max(1e-4));
        }
    }
}

fn learn(estimate: &mut Option<f64>, measured: f64) {
    let before = estimate.unwrap_or(measured);
    *estimate = Some(before + (measured - before) * WEIGHT);
}

pub(super) fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_that_fails_is_left_out_longer_each_time_until_it_works() {
        let (health, start) = (Health::default(), Instant::now());
        let broken = Error::unavailable("x", "y");
        assert!(!health.failed(&broken, start) && health.cost().is_some(), "once is nothing");
        assert!(health.failed(&broken, start) && health.cost().is_none());
        assert!(!health.is_due(start) && health.is_due(start + FIRST_PAUSE));
        assert!(!health.is_due(start + FIRST_PAUSE), "one looks at it, not all");
        health.leave_out(start);
        assert!(!health.is_due(start + FIRST_PAUSE) && health.is_due(start + FIRST_PAUSE * 2));
        health.back();
        assert!(health.cost().is_some());
        health.worked(1, Duration::ZERO);
        health.leave_out(start);
        assert!(health.is_due(start + FIRST_PAUSE), "what was is forgotten");
        for _ in 0..99 {
            health.leave_out(start);
        }
        assert!(health.is_due(start + LONGEST_PAUSE));
    }

    #[test]
    fn what_the_host_says_counts() {
        let (health, start) = (Health::default(), Instant::now());
        let with = |retry| Error::Unavailable { object: "x".into(), problem: "y".into(), retry };
        assert!(health.failed(&with(Retry::After(Duration::from_secs(7))), start));
        assert!(!health.is_due(start + Duration::from_secs(6)) && health.is_due(start + Duration::from_secs(7)));
        assert!(Health::default().failed(&with(Retry::Unreachable), start), "nobody is there");
    }

    #[test]
    fn the_faster_one_costs_less_and_the_wrong_one_much_more() {
        let (fast, slow) = (Health::default(), Health::default());
        fast.answered(Duration::from_millis(1));
        slow.answered(Duration::from_millis(1));
        fast.worked(1 << 20, Duration::from_millis(10));
        slow.worked(1 << 20, Duration::from_millis(100));
        assert!(fast.cost() < slow.cost());
        fast.was_wrong(Instant::now());
        assert_eq!(fast.cost(), None);
        fast.back();
        fast.was_wrong(Instant::now());
        fast.back();
        assert!(fast.cost() > slow.cost());
    }

    #[test]
    fn what_is_under_way_is_known_until_it_ends() {
        let health = Health::default();
        let id = health.begin("x", &(10..20));
        assert!(
            health.is_asked("x", &(15..30)) && !health.is_asked("x", &(20..30)) && !health.is_asked("y", &(15..30))
        );
        health.end(id);
        assert!(!health.is_asked("x", &(15..30)));
    }
}
