//! A limit for traffic that nobody waits for.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::time::sleep_until;

/// Bytes per second, for all that share it together.
#[derive(Debug, Default)]
pub(crate) struct RateLimit {
    bytes_per_second: Option<f64>,
    /// When all that passed has had its time.
    free: Mutex<Option<Instant>>,
}

impl RateLimit {
    /// `None`: no limit.
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second: bytes_per_second.map(|rate| rate.max(1) as f64), free: Mutex::default() }
    }

    /// Returns once `bytes` more have had their time.
    pub(crate) async fn pass(&self, bytes: u64) {
        if let Some(end) = self.reserve(bytes, Instant::now()) {
            sleep_until(end.into()).await;
        }
    }

    /// When `bytes` that come `now` have had their time, after all that came before; what was not used is not saved up.
    fn reserve(&self, bytes: u64, now: Instant) -> Option<Instant> {
        let rate = self.bytes_per_second?;
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let end = free.map_or(now, |free| free.max(now)) + Duration::from_secs_f64(bytes as f64 / rate);
        *free = Some(end);
        Some(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_takes_its_time_whoever_it_is() {
        let limit = RateLimit::new(Some(1000));
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(limit.reserve(1000, at(0)), Some(at(1000)));
        assert_eq!(limit.reserve(500, at(0)), Some(at(1500)));
        assert_eq!(limit.reserve(500, at(700)), Some(at(2000)));
        assert_eq!(limit.reserve(1000, at(10_000)), Some(at(11_000)), "nothing was saved up");
        assert_eq!(RateLimit::new(None).reserve(u64::MAX, start), None);
    }
}
