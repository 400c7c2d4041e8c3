//! Kills the pager's processes, agent and guard, one at a time, at random moments.

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How long the survivor may take to make a second process again.
const PATIENCE: Duration = Duration::from_secs(20);

/// After so many agents one lives for longer than [`LONG`]: when each dies so soon, the next ones start after pauses (guard/take_over.rs).
const AT_ONCE: u32 = 8;
const LONG: Duration = Duration::from_millis(1500);

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Kills {
    pub agents: u32,
    pub guards: u32,
    /// From the kill until there were two processes again.
    pub times: Vec<Duration>,
}

impl Kills {
    pub fn add(&mut self, other: Self) {
        self.agents += other.agents;
        self.guards += other.guards;
        self.times.extend(other.times);
    }

    /// At most so long, but for one in a hundred.
    pub fn p99(&mut self) -> Option<Duration> {
        self.times.sort_unstable();
        let last = self.times.len().checked_sub(1)?;
        Some(self.times[last * 99 / 100])
    }
}

/// Kills until it is told to stop.
pub struct Killer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Kills>>,
}

impl Killer {
    /// `mark` is an argument that only this pager's command line has; pauses are up to `longest`, out of `seed`.
    pub fn start(mark: &Path, seed: u64, longest: Duration) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let (told, mark) = (stop.clone(), mark.to_path_buf());
        Self { stop, thread: std::thread::spawn(move || kill_on(&told, &mark, seed, longest)) }
    }

    pub fn stop(self) -> Result<Kills> {
        self.stop.store(true, Relaxed);
        self.thread.join().unwrap_or_else(|_| bail!("the killer panicked"))
    }
}

fn kill_on(stop: &AtomicBool, mark: &Path, seed: u64, longest: Duration) -> Result<Kills> {
    let mut kills = Kills::default();
    let mut random = seed | 1;
    let mut next = move || {
        // xorshift64
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    loop {
        std::thread::sleep(longest.mul_f64((next() % 1000) as f64 / 1000.0));
        if stop.load(Relaxed) {
            return Ok(kills);
        }
        let Some((agent, guard)) = pair(mark)? else { return Ok(kills) };
        let victim = if next() % 2 == 0 { agent } else { guard };
        let start = Instant::now();
        kill(victim, Signal::SIGKILL).context("killing a process of the pager")?;
        loop {
            match processes(mark)?.as_slice() {
                // It had ended, or does now.
                [] if is_over(mark)? => return Ok(kills),
                both if both.len() == 2 && !both.contains(&victim) => break,
                _ if start.elapsed() > PATIENCE => bail!("process {victim} was killed, and no other came in its place"),
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        kills.times.push(start.elapsed());
        *(if victim == agent { &mut kills.agents } else { &mut kills.guards }) += 1;
        if victim == agent && kills.agents % AT_ONCE == 0 {
            std::thread::sleep(LONG);
        }
    }
}

/// The agent, which has threads, and its guard; `None` when they have ended.
fn pair(mark: &Path) -> Result<Option<(Pid, Pid)>> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        match processes(mark)?.as_slice() {
            [] if is_over(mark)? => return Ok(None),
            [a, b] => match (threads(*a), threads(*b)) {
                (2.., 1) => return Ok(Some((*a, *b))),
                (1, 2..) => return Ok(Some((*b, *a))),
                _ => {}
            },
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    bail!("there are not two processes of the pager, but {:?}", processes(mark)?)
}

/// Whether no process is left. One that is just starting another program has no command line for a moment.
pub fn is_over(mark: &Path) -> Result<bool> {
    for _ in 0..20 {
        if !processes(mark)?.is_empty() {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(true)
}

fn threads(process: Pid) -> usize {
    fs::read_dir(format!("/proc/{process}/task")).map_or(0, Iterator::count)
}

/// Those that live and have `mark` on their command line.
pub fn processes(mark: &Path) -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if command.split(|byte| *byte == 0).any(|word| word == mark.as_os_str().as_encoded_bytes()) {
            found.push(Pid::from_raw(pid));
        }
    }
    Ok(found)
}
