//! What a restore has done so far: counters that every part adds to, the progress line and the summary read from.

mod stall_buckets;
mod tasks;

pub use stall_buckets::StallBuckets;
pub use tasks::{TaskMissing, TaskTable};

use hdrhistogram::Histogram;
use page_store::CacheCounters;
use serde::Serialize;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

const LASTING: usize = 16;
const MOMENTS: usize = 5;
const OF_CACHE: usize = 6;
/// Words that [`Status::save`] takes.
pub(crate) const SAVED: usize = LASTING + MOMENTS + OF_CACHE;

/// An hour, in nanoseconds.
const LONGEST_STALL: u64 = 3_600_000_000_000;

/// Counters of one restore. Shared; all of them only grow, but for `missing`.
#[derive(Debug)]
pub struct Status {
    started: Instant,
    /// Pages not yet in the memory that they belong to, over all processes.
    pub missing: AtomicU64,
    /// Pages that were missing when each task's userfaultfd arrived, forked children's share included.
    pub expected: AtomicU64,
    /// Faults that were read.
    pub faults: AtomicU64,
    /// Pages installed because something faulted on them or on their frame.
    pub pages_by_fault: AtomicU64,
    /// Pages installed because they follow one that something faulted on.
    pub pages_read_ahead: AtomicU64,
    /// Pages installed from a working set.
    pub pages_by_working_set: AtomicU64,
    /// Pages installed by the background transfer.
    pub pages_by_transfer: AtomicU64,
    /// Pages answered with zeros, or left to the kernel because they are zeros.
    pub pages_zero: AtomicU64,
    /// Pages that the process unmapped, discarded or took with it when it exited, before they were needed.
    pub pages_dropped: AtomicU64,
    /// Bytes of bodies that came from the store.
    pub wire_bytes: AtomicU64,
    /// Requests sent to the store.
    pub requests: AtomicU64,
    /// Attempts that failed and were made again.
    pub retries: AtomicU64,
    /// Requests that were made a second time because the first was late.
    pub hedges: AtomicU64,
    /// Of the attempts that failed, answers whose bytes did not match their digest.
    pub digest_failures: AtomicU64,
    /// Pages that could not be had, for which whoever touches them gets SIGBUS.
    pub pages_poisoned: AtomicU64,
    /// Processes that were killed because a page could not be had.
    pub processes_killed: AtomicU64,
    /// How often another agent has taken over from one that died.
    pub take_overs: AtomicU64,
    /// Processes, forked ones included.
    pub processes: AtomicU64,
    /// Frames read ahead that were held back to see whether a fault asks for them, and did so.
    pub read_ahead_used: AtomicU64,
    /// The same, and none did.
    pub read_ahead_unused: AtomicU64,
    /// How often the guard process was made anew.
    pub guards: AtomicU64,
    /// What the node's cache was good for.
    pub cache: Arc<CacheCounters>,
    /// Whether the store cannot be reached just now.
    pub outage: AtomicBool,
    /// What each task lacks.
    pub tasks: TaskTable,
    /// How long faults waited, in fixed steps.
    pub stall_buckets: StallBuckets,
    moments: Mutex<Moments>,
    stalls: Mutex<Histogram<u32>>,
}

/// How long threads waited for a page, in seconds: from when their fault was read until it was answered. What the kernel takes before
/// and after that, some 5 µs, is not in it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Stalls {
    /// Half waited no longer than this.
    pub p50: f64,
    /// All but one in a hundred.
    pub p99: f64,
    /// The longest.
    pub max: f64,
    /// All together.
    pub sum: f64,
}

/// Seconds since the start, as they happened.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Moments {
    /// Listening on the lazy-pages socket.
    pub listening: Option<f64>,
    /// The first fault was read.
    pub first_fault: Option<f64>,
    /// The first fault was answered.
    pub first_fault_served: Option<f64>,
    /// CRIU said that the restore is finished: the processes run.
    pub restored: Option<f64>,
    /// No page is missing any more.
    pub whole: Option<f64>,
}

impl Moments {
    fn slots(&self) -> [Option<f64>; MOMENTS] {
        [self.listening, self.first_fault, self.first_fault_served, self.restored, self.whole]
    }

    fn slots_mut(&mut self) -> [&mut Option<f64>; MOMENTS] {
        let Self { listening, first_fault, first_fault_served, restored, whole } = self;
        [listening, first_fault, first_fault_served, restored, whole]
    }
}

/// Something that happens once.
#[derive(Clone, Copy, Debug)]
pub enum Moment {
    /// [`Moments::listening`].
    Listening,
    /// [`Moments::first_fault`].
    FirstFault,
    /// [`Moments::first_fault_served`].
    FirstFaultServed,
    /// [`Moments::restored`].
    Restored,
    /// [`Moments::whole`].
    Whole,
}

impl Status {
    /// All zero; time counts from `started`.
    pub fn new(started: Instant) -> Self {
        Self {
            started,
            missing: 0.into(),
            expected: 0.into(),
            faults: 0.into(),
            pages_by_fault: 0.into(),
            pages_read_ahead: 0.into(),
            pages_by_working_set: 0.into(),
            pages_by_transfer: 0.into(),
            pages_zero: 0.into(),
            pages_dropped: 0.into(),
            wire_bytes: 0.into(),
            requests: 0.into(),
            retries: 0.into(),
            hedges: 0.into(),
            digest_failures: 0.into(),
            processes: 0.into(),
            read_ahead_used: 0.into(),
            read_ahead_unused: 0.into(),
            pages_poisoned: 0.into(),
            processes_killed: 0.into(),
            take_overs: 0.into(),
            guards: 0.into(),
            cache: Arc::default(),
            outage: false.into(),
            tasks: TaskTable::default(),
            stall_buckets: StallBuckets::default(),
            moments: Mutex::default(),
            // Two digits: 100 µs and 101 µs are the same. Longer than an hour counts as an hour.
            stalls: Mutex::new(Histogram::new_with_max(LONGEST_STALL, 2).expect("bounds that the crate allows")),
        }
    }

    /// What goes on counting with the next agent when this one dies.
    fn lasting(&self) -> [&AtomicU64; LASTING] {
        [
            &self.expected,
            &self.faults,
            &self.pages_by_fault,
            &self.pages_read_ahead,
            &self.pages_by_working_set,
            &self.pages_by_transfer,
            &self.pages_zero,
            &self.pages_dropped,
            &self.wire_bytes,
            &self.requests,
            &self.retries,
            &self.hedges,
            &self.digest_failures,
            &self.processes,
            &self.pages_poisoned,
            &self.processes_killed,
        ]
    }

    /// The same of the cache.
    fn of_cache(&self) -> [&AtomicU64; OF_CACHE] {
        let CacheCounters { hits, misses, bytes, kept_bytes, skipped, wrong } = &*self.cache;
        [hits, misses, bytes, kept_bytes, skipped, wrong]
    }

    /// Puts counters and moments where the next agent finds them.
    pub(crate) fn save(&self, to: &[AtomicU64]) {
        let counters = self.lasting().map(|counter| counter.load(Relaxed));
        let moments = self.moments().slots().map(|moment| moment.unwrap_or(f64::NAN).to_bits());
        let of_cache = self.of_cache().map(|counter| counter.load(Relaxed));
        to.iter()
            .zip(counters.into_iter().chain(moments).chain(of_cache))
            .for_each(|(to, value)| to.store(value, Relaxed));
    }

    /// Goes on from what an agent before has saved.
    pub(crate) fn resume(&self, from: &[AtomicU64]) {
        let mut values = from.iter().map(|value| value.load(Relaxed));
        self.lasting().into_iter().zip(&mut values).for_each(|(counter, value)| counter.store(value, Relaxed));
        let mut moments = self.moments.lock().unwrap_or_else(|e| e.into_inner());
        let seconds =
            values.by_ref().take(MOMENTS).map(f64::from_bits).map(|moment| Some(moment).filter(|m| m.is_finite()));
        moments.slots_mut().into_iter().zip(seconds).for_each(|(slot, moment)| *slot = moment);
        self.of_cache().into_iter().zip(values).for_each(|(counter, value)| counter.store(value, Relaxed));
    }

    /// A fault was answered so long after it was read.
    pub fn stalled(&self, time: Duration) {
        self.stall_buckets.add(time);
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.stalls.lock().unwrap_or_else(|e| e.into_inner()).saturating_record(nanos);
    }

    /// Waiting times so far; `None` before the first fault.
    pub fn stalls(&self) -> Option<Stalls> {
        let stalls = self.stalls.lock().unwrap_or_else(|e| e.into_inner());
        let seconds = |nanos: u64| nanos as f64 / 1e9;
        let quantile = |q| seconds(stalls.value_at_quantile(q));
        (!stalls.is_empty()).then(|| Stalls {
            p50: quantile(0.5),
            p99: quantile(0.99),
            max: seconds(stalls.max()),
            sum: stalls.mean() / 1e9 * stalls.len() as f64,
        })
    }

    /// Of the frames that were read ahead and watched, the share that was asked for.
    pub fn read_ahead_precision(&self) -> Option<f64> {
        let (used, unused) = (self.read_ahead_used.load(Relaxed), self.read_ahead_unused.load(Relaxed));
        (used + unused > 0).then(|| used as f64 / (used + unused) as f64)
    }

    /// Notes a moment; only the first time counts.
    pub fn reached(&self, moment: Moment) {
        let now = self.started.elapsed().as_secs_f64();
        let mut moments = self.moments.lock().unwrap_or_else(|e| e.into_inner());
        let slot = match moment {
            Moment::Listening => &mut moments.listening,
            Moment::FirstFault => &mut moments.first_fault,
            Moment::FirstFaultServed => &mut moments.first_fault_served,
            Moment::Restored => &mut moments.restored,
            Moment::Whole => &mut moments.whole,
        };
        slot.get_or_insert(now);
    }

    /// The moments so far.
    pub fn moments(&self) -> Moments {
        *self.moments.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// What `--json` prints.
    pub fn summary(&self) -> Summary {
        Summary {
            processes: self.processes.load(Relaxed),
            faults: self.faults.load(Relaxed),
            pages_by_fault: self.pages_by_fault.load(Relaxed),
            pages_read_ahead: self.pages_read_ahead.load(Relaxed),
            pages_by_working_set: self.pages_by_working_set.load(Relaxed),
            pages_by_transfer: self.pages_by_transfer.load(Relaxed),
            pages_zero: self.pages_zero.load(Relaxed),
            pages_dropped: self.pages_dropped.load(Relaxed),
            pages_missing: self.missing.load(Relaxed),
            wire_bytes: self.wire_bytes.load(Relaxed),
            requests: self.requests.load(Relaxed),
            retries: self.retries.load(Relaxed),
            hedges: self.hedges.load(Relaxed),
            digest_failures: self.digest_failures.load(Relaxed),
            pages_poisoned: self.pages_poisoned.load(Relaxed),
            processes_killed: self.processes_killed.load(Relaxed),
            take_overs: self.take_overs.load(Relaxed),
            guards: self.guards.load(Relaxed),
            cache_hits: self.cache.hits.load(Relaxed),
            cache_misses: self.cache.misses.load(Relaxed),
            cache_bytes: self.cache.bytes.load(Relaxed),
            cache_kept_bytes: self.cache.kept_bytes.load(Relaxed),
            cache_skipped: self.cache.skipped.load(Relaxed),
            cache_wrong: self.cache.wrong.load(Relaxed),
            read_ahead_precision: self.read_ahead_precision(),
            stalls: self.stalls(),
            cpu_seconds: cpu_seconds(),
            peak_memory_bytes: peak_memory(),
            seconds: self.moments(),
        }
    }
}

/// A snapshot of [`Status`], for printing.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "each is what has the same name in Status")]
pub struct Summary {
    pub processes: u64,
    pub faults: u64,
    pub pages_by_fault: u64,
    pub pages_read_ahead: u64,
    pub pages_by_working_set: u64,
    pub pages_by_transfer: u64,
    pub pages_zero: u64,
    pub pages_dropped: u64,
    pub pages_missing: u64,
    pub wire_bytes: u64,
    pub requests: u64,
    pub retries: u64,
    pub hedges: u64,
    pub digest_failures: u64,
    pub pages_poisoned: u64,
    pub processes_killed: u64,
    pub take_overs: u64,
    pub guards: u64,
    pub cache_hits: u64,
    pub cache_misses: u64,
    pub cache_bytes: u64,
    pub cache_kept_bytes: u64,
    pub cache_skipped: u64,
    pub cache_wrong: u64,
    pub read_ahead_precision: Option<f64>,
    pub stalls: Option<Stalls>,
    pub cpu_seconds: f64,
    pub peak_memory_bytes: Option<u64>,
    pub seconds: Moments,
}

/// The largest amount of memory that this process has held at once, in bytes (`VmHWM`, proc_pid_status(5)).
fn peak_memory() -> Option<u64> {
    memory("VmHWM:")
}

/// The memory that it holds now, in bytes.
pub(crate) fn resident_memory() -> Option<u64> {
    memory("VmRSS:")
}

fn memory(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Processor time that this process took, on all cores.
pub(crate) fn cpu_seconds() -> f64 {
    use nix::sys::resource::{UsageWho, getrusage};
    let usage = getrusage(UsageWho::RUSAGE_SELF);
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    usage.map_or(0.0, |usage| seconds(usage.user_time()) + seconds(usage.system_time()))
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = |moment: Option<f64>| moment.map_or("-".to_string(), |s| format!("{s:.3} s"));
        writeln!(
            f,
            "pages   {} by fault, {} read ahead, {} by working set, {} by transfer, {} zero, {} given up by the process, {} missing",
            self.pages_by_fault,
            self.pages_read_ahead,
            self.pages_by_working_set,
            self.pages_by_transfer,
            self.pages_zero,
            self.pages_dropped,
            self.pages_missing
        )?;
        writeln!(
            f,
            "store   {:.1} MiB in {} requests, {} retries, {} digest failures",
            self.wire_bytes as f64 / (1 << 20) as f64,
            self.requests,
            self.retries,
            self.digest_failures
        )?;
        if self.cache_hits + self.cache_misses > 0 {
            writeln!(
                f,
                "cache   {:.1} MiB in {} hits, {} misses; {:.1} MiB kept, {} not kept, {} wrong",
                self.cache_bytes as f64 / (1 << 20) as f64,
                self.cache_hits,
                self.cache_misses,
                self.cache_kept_bytes as f64 / (1 << 20) as f64,
                self.cache_skipped,
                self.cache_wrong
            )?;
        }
        if let Some(stalls) = self.stalls {
            let ms = |seconds: f64| format!("{:.3} ms", seconds * 1e3);
            writeln!(f, "stalls  p50 {}, p99 {}, longest {}", ms(stalls.p50), ms(stalls.p99), ms(stalls.max))?;
        }
        write!(
            f,
            "time    restored {}, first fault {} (served {}), whole {}; {} processes, {} faults",
            at(self.seconds.restored),
            at(self.seconds.first_fault),
            at(self.seconds.first_fault_served),
            at(self.seconds.whole),
            self.processes,
            self.faults
        )
    }
}
