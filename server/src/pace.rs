//! Patience with a peer that has to take something: used up while it takes nothing, won back by what it takes.
//!
//! A limit on the time without any byte would be met by a client that takes one byte a minute. Here such a client runs out of
//! patience too, only a little later; one that takes [`SLOWEST`] or more never does.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Bytes per second: 128 kbit/s, less than any network that a process is restored over.
pub(crate) const SLOWEST: u64 = 16 << 10;

/// Nobody is waited for.
const REST: u64 = u64::MAX;

/// Milliseconds on a clock that began long ago, so that a moment before the start of the program can be told as well.
pub(crate) fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    const BEFORE: u64 = 1 << 40;
    BEFORE.saturating_add(millis(START.elapsed()))
}

/// Whole milliseconds.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// One place where a peer is waited for. Written by one task, read by any.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Since when, less what was used before; or [`REST`].
    from: AtomicU64,
    /// Milliseconds used before.
    used: AtomicU64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { from: AtomicU64::new(REST), used: AtomicU64::new(0) }
    }
}

impl Pace {
    /// From now on the peer is waited for, if it was not already.
    pub(crate) fn waits(&self, now: u64) {
        if self.from.load(Relaxed) == REST {
            self.from.store(now.saturating_sub(self.used.load(Relaxed)), Relaxed);
        }
    }

    /// The peer took so many bytes, and is not waited for any more.
    pub(crate) fn took(&self, now: u64, bytes: u64) {
        let used = match self.from.swap(REST, Relaxed) {
            REST => self.used.load(Relaxed),
            from => now.saturating_sub(from),
        };
        self.used.store(used.saturating_sub(bytes.saturating_mul(1000) / SLOWEST), Relaxed);
    }

    /// Milliseconds of patience that are used up; none while nobody is waited for.
    pub(crate) fn late(&self, now: u64) -> u64 {
        match self.from.load(Relaxed) {
            REST => 0,
            from => now.saturating_sub(from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_counts_only_while_the_peer_is_waited_for() {
        let pace = Pace::default();
        assert_eq!(pace.late(5000), 0);
        pace.waits(5000);
        pace.waits(5500);
        assert_eq!(pace.late(6000), 1000);
        pace.took(6000, SLOWEST / 2);
        // Our own work, however long.
        assert_eq!(pace.late(60_000), 0);
        pace.waits(60_000);
        assert_eq!(pace.late(60_100), 600);
    }

    #[test]
    fn a_byte_now_and_then_is_not_enough() {
        let pace = Pace::default();
        let mut now = 1_000_000;
        for _ in 0..60 {
            pace.waits(now);
            now += 1000;
            pace.took(now, 1);
        }
        pace.waits(now);
        assert_eq!(pace.late(now), 60_000);
        // Who takes as much as is asked for is never late, and what was lost is won back.
        for _ in 0..100 {
            now += 1000;
            pace.took(now, 2 * SLOWEST);
            pace.waits(now);
        }
        assert_eq!(pace.late(now), 0);
    }
}
