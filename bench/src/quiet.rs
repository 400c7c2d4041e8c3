//! Whether the machine has something else to do.

use std::{
    cell::Cell,
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// How long the processors are watched.
const LOOK: Duration = Duration::from_millis(300);
/// The share of their time that they may be busy with something else.
const BUSY: f64 = 0.1;
/// How long one run waits for them to be idle, and all of them together.
const PATIENCE: Duration = Duration::from_secs(20);
const PATIENCE_IN_ALL: Duration = Duration::from_secs(600);
const PATIENCE_IF_QUICK: Duration = Duration::from_secs(60);

/// Lets each run begin on an idle machine if that can be had, and counts where not.
pub(crate) struct Quiet {
    patience: Duration,
    waited: Cell<Duration>,
    runs: Cell<u32>,
    busy: Cell<u32>,
}

impl Quiet {
    /// Nothing was run yet.
    pub(crate) fn new(quick: bool) -> Self {
        let patience = if quick { PATIENCE_IF_QUICK } else { PATIENCE_IN_ALL };
        Self { patience, waited: Cell::default(), runs: Cell::default(), busy: Cell::default() }
    }

    /// Writes out what earlier runs have left in the page cache, and waits until nothing else runs.
    pub(crate) fn wait(&self) -> Result<()> {
        nix::unistd::sync();
        self.runs.set(self.runs.get() + 1);
        let start = Instant::now();
        let busy = loop {
            if busy_share()? <= BUSY {
                break false;
            }
            if start.elapsed() > PATIENCE || self.waited.get() + start.elapsed() > self.patience {
                break true;
            }
        };
        self.waited.set(self.waited.get() + start.elapsed());
        self.busy.set(self.busy.get() + u32::from(busy));
        Ok(())
    }

    /// (measured runs, those that began while the machine was busy).
    pub(crate) fn runs(&self) -> (u32, u32) {
        (self.runs.get(), self.busy.get())
    }
}

fn busy_share() -> Result<f64> {
    let before = Ticks::now()?;
    sleep(LOOK);
    let after = Ticks::now()?;
    let all = after.all.saturating_sub(before.all).max(1);
    Ok(1.0 - after.idle.saturating_sub(before.idle) as f64 / all as f64)
}

/// Watches the processors while a command runs.
pub(crate) struct Watch(Ticks);

impl Watch {
    /// From now on.
    pub(crate) fn start() -> Result<Self> {
        Ok(Self(Ticks::now()?))
    }

    /// The share of all processors' time that went to anything but a command that took `own` of `wall` seconds.
    pub(crate) fn others(&self, own: f64, wall: f64) -> Result<f64> {
        let now = Ticks::now()?;
        let all = now.all.saturating_sub(self.0.all).max(1) as f64;
        let busy = all - now.idle.saturating_sub(self.0.idle) as f64;
        let cores = std::thread::available_parallelism()?.get() as f64;
        Ok((busy / all - own / (wall * cores)).max(0.0))
    }
}

/// Time of all processors since the start of the machine, in units of proc_stat(5).
struct Ticks {
    all: u64,
    idle: u64,
}

impl Ticks {
    fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().context("/proc/stat is empty")?;
        let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).flat_map(str::parse).collect();
        // user, nice, system, idle, iowait, irq, softirq, steal.
        let idle = ticks.iter().skip(3).take(2).sum();
        Ok(Self { all: ticks.iter().sum(), idle })
    }
}
