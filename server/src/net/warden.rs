//! Looks at every connection several times a second, and ends those that hold a place without using it.
//!
//! One task in place of a timer or two per connection: a look at a thousand connections takes some microseconds.

use super::{
    activity::{Activity, End, Idle},
    crowd::Crowd,
};
use crate::{
    limits::Limits,
    metrics::{Ended, Metrics},
    pace::{millis, now},
    places::Places,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// The longest pause between two looks.
const PAUSE: Duration = Duration::from_millis(250);
/// How long a connection may take to end politely.
const MANNERS: u64 = 1000;

/// Runs until the server ends.
pub(super) async fn watch(crowd: Arc<Crowd>, places: Arc<Places>, limits: Limits, metrics: Arc<Metrics>) {
    let shortest = [limits.header, limits.idle, limits.stall, limits.hurry].into_iter().min().unwrap_or(PAUSE);
    let pause = (shortest / 4).clamp(Duration::from_millis(5), PAUSE);
    loop {
        tokio::time::sleep(pause).await;
        let now = now();
        for activity in crowd.all() {
            if let Some((how, why)) = verdict(&activity, now, &limits, crowd.is_pressed()) {
                end(&activity, how, why(&metrics.ended));
            }
        }
        for late in places.late(now, millis(limits.stall), millis(limits.hurry)) {
            let why = if late.for_others { &metrics.ended.slow_for_others } else { &metrics.ended.slow };
            end(&late.connection, End::Now, why);
        }
    }
}

fn end(activity: &Activity, how: End, why: &AtomicU64) {
    if activity.end(how) {
        why.fetch_add(1, Relaxed);
    }
}

/// The name under which an end is counted.
type Why = fn(&Ended) -> &AtomicU64;

/// Whether a connection ends, and why.
fn verdict(activity: &Activity, now: u64, limits: &Limits, pressed: bool) -> Option<(End, Why)> {
    let late = activity.socket.late(now);
    if late > millis(limits.stall) {
        return Some((End::Now, |ended| &ended.slow));
    }
    if pressed && late > millis(limits.hurry) {
        return Some((End::Now, |ended| &ended.slow_for_others));
    }
    let Idle { since, head } = activity.idle()?;
    if head.is_some_and(|head| now.saturating_sub(head) > millis(limits.header)) {
        return Some((End::Now, |ended| &ended.slow_header));
    }
    let idle = now.saturating_sub(since);
    if idle > millis(limits.idle).saturating_add(MANNERS) {
        return Some((End::Now, |ended| &ended.idle));
    }
    (idle > millis(limits.idle)).then_some((End::Politely, |ended| &ended.idle))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { header: Duration::from_secs(1), idle: Duration::from_secs(9), ..Limits::default() }
    }

    fn how(activity: &Activity, after: u64, pressed: bool) -> Option<End> {
        verdict(activity, now() + after, &limits(), pressed).map(|(how, _)| how)
    }

    #[test]
    fn an_idle_connection_is_not_a_slow_header() {
        let activity = Activity::new();
        assert_eq!(how(&activity, 8000, true), None);
        assert_eq!(how(&activity, 9500, false), Some(End::Politely));
        assert_eq!(how(&activity, 11_000, false), Some(End::Now));
        activity.heard();
        assert_eq!(how(&activity, 2000, false), Some(End::Now));
        // The header is complete: now it is up to us, for as long as it takes.
        activity.begin(false);
        assert_eq!(how(&activity, 100_000, true), None);
        activity.heard();
        activity.finish();
        assert_eq!(how(&activity, 8000, false), None);
    }

    #[test]
    fn who_holds_up_others_has_less_time() {
        let activity = Activity::new();
        activity.begin(false);
        activity.socket.waits(now());
        assert_eq!(how(&activity, 2000, false), None);
        assert_eq!(how(&activity, 2000, true), Some(End::Now));
        assert_eq!(how(&activity, 61_000, false), Some(End::Now));
    }
}
