//! Waiting times in fixed steps, for a histogram that Prometheus can add up over agents.
//!
//! Beside the finer histogram that the summary's quantiles come from, because that one is behind a lock: whoever reads the metrics must
//! not be able to hold up a fault.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Upper bounds in nanoseconds: from a fault that was answered from memory to one that waited for a store to come back.
const BOUNDS: [u64; 21] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
];

/// How many faults waited how long.
#[derive(Debug, Default)]
pub struct StallBuckets {
    /// Faults in each step; the last one is what waited longer than all bounds.
    counts: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq)]
pub struct Buckets {
    /// Upper bound in seconds, and how many faults waited no longer than this.
    pub cumulative: Vec<(f64, u64)>,
    /// All faults.
    pub count: u64,
    /// All waiting times together, in seconds.
    pub sum: f64,
}

impl StallBuckets {
    pub(super) fn add(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let step = BOUNDS.partition_point(|bound| *bound < nanos);
        self.counts[step].fetch_add(1, Relaxed);
        self.nanos.fetch_add(nanos, Relaxed);
    }

    /// What was counted so far.
    pub fn snapshot(&self) -> Buckets {
        let mut count = 0;
        let mut cumulative = Vec::with_capacity(BOUNDS.len());
        for (bound, faults) in BOUNDS.iter().zip(&self.counts) {
            count += faults.load(Relaxed);
            cumulative.push((*bound as f64 / 1e9, count));
        }
        count += self.counts[BOUNDS.len()].load(Relaxed);
        Buckets { cumulative, count, sum: self.nanos.load(Relaxed) as f64 / 1e9 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_step_and_steps_add_up() {
        let buckets = StallBuckets::default();
        for micros in [1, 10, 11, 25, 1_000_000, 60_000_000, 60_000_001] {
            buckets.add(Duration::from_micros(micros));
        }
        let Buckets { cumulative, count, sum } = buckets.snapshot();
        let at = |bound| cumulative.iter().find(|(b, _)| *b == bound).unwrap().1;
        assert_eq!((at(0.00001), at(0.000025), at(0.5), at(1.0), at(60.0), count), (2, 4, 4, 5, 6, 7));
        assert!((sum - 121.000_048).abs() < 1e-9, "{sum}");
        assert!(cumulative.is_sorted());
    }
}
