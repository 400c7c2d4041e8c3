//! Trials: the same thing many times, each time a little different.
//!
//! `PAGEFERRY_TRIAL_COUNT` says how often (CI: a few times), `PAGEFERRY_TRIAL_SEED` with what luck. Each prints a line that begins with
//! `trial:`, which `cargo xtask torture` collects.

use std::time::{Duration, SystemTime};

/// How often, and with what luck.
pub struct Trial {
    name: &'static str,
    /// How often.
    pub count: u64,
    /// With what luck.
    pub seed: u64,
    random: u64,
}

impl Trial {
    /// `count` times, unless the environment says otherwise.
    pub fn new(name: &'static str, count: u64) -> Self {
        let number = |variable: &str| std::env::var(variable).ok()?.parse().ok();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seed = number("PAGEFERRY_TRIAL_SEED").unwrap_or(now.as_nanos() as u64);
        println!("{name}: PAGEFERRY_TRIAL_SEED={seed}");
        Self { name, count: number("PAGEFERRY_TRIAL_COUNT").unwrap_or(count), seed, random: seed | 1 }
    }

    /// A seed for each time.
    pub fn seeds(&self) -> impl Iterator<Item = u64> + use<> {
        (0..self.count).map({
            let seed = self.seed;
            move |n| seed.wrapping_add(n)
        })
    }

    /// xorshift64 (Marsaglia).
    pub fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Some moment within so long.
    pub fn moment_within(&mut self, time: Duration) -> Duration {
        time.mul_f64((self.random() % 10_000) as f64 / 10_000.0)
    }

    /// Says what was seen.
    pub fn report(&self, what: &str) {
        println!("trial: {} | {what} | seed {}", self.name, self.seed);
    }
}

/// At most so long, but for one in a hundred.
pub fn p99(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.len().checked_sub(1).map(|last| times[(last * 99).div_ceil(100)]).unwrap_or_default()
}
