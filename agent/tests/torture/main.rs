//! Torture: processes that do everything to their memory that a program can do, from several threads, while it arrives.
//!
//! A fake CRIU speaks the real protocol to the real agent; each task is a real process (this program again) with a real userfaultfd.
//! Every page has known content, every thread knows what it did to its memory, and every read is checked. Root is needed.
//!
//! ```text
//! PAGEFERRY_TORTURE_SECONDS=600 cargo test -p pageferry-agent --test torture     # default 20
//! PAGEFERRY_TORTURE_SEED=1234                                                    # begin with this one
//! PAGEFERRY_TORTURE_MODE=2                                                       # always this one of MODES
//! PAGEFERRY_TORTURE_KILL=1                                                       # in every round; 0: in none; else in every other
//! ```
//! In rounds with kills, the agent or its guard is killed (SIGKILL) at random moments all the while, as soon as there are two again.
//! A seed fixes what each thread does, not how the threads interleave.

#![allow(unreachable_pub)]

mod content;
mod criu;
mod killer;
mod layout;
mod model;
mod pager;
mod slow_host;
mod system;
mod task;
mod worker;

use anyhow::{Context, Result};
use killer::{Killer, Kills};
use page_store::write::{LocalSink, Options, split};
use slow_host::SlowHost;
use std::{
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use task::{Mix, Orders};
use worker::Done;

/// Between a kill and the next, at most.
const LONGEST_PEACE: Duration = Duration::from_millis(600);
/// For a round, before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the pager reads from.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// The checkpoint as it was dumped.
    Raw,
    /// A page store that was made of it.
    Store,
    /// The same store, from a web server that is slow and fails.
    Web,
}

/// How a round goes: the pager's `--complete`, its source, what the tasks do.
const MODES: [(&str, Source, Mix); 6] = [
    ("never", Source::Raw, Mix::Ordinary),
    ("now", Source::Web, Mix::Ordinary),
    ("never", Source::Store, Mix::Moves),
    ("now", Source::Web, Mix::Moves),
    ("now", Source::Raw, Mix::Ordinary),
    ("idle", Source::Web, Mix::Moves),
];

fn main() -> ExitCode {
    if let Ok(words) = std::env::var(criu::TASK_VARIABLE) {
        match Orders::from_words(&words) {
            Some(orders) => task::run(orders),
            None => return ExitCode::FAILURE,
        }
    }
    if std::env::args().any(|arg| arg == "--list") {
        println!("torture: test");
        return ExitCode::SUCCESS;
    }
    match torture() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn torture() -> Result<()> {
    let limit = Duration::from_secs(number("PAGEFERRY_TORTURE_SECONDS").unwrap_or(20));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let mut seed = number("PAGEFERRY_TORTURE_SEED").unwrap_or(now.as_millis() as u64);
    let only = number("PAGEFERRY_TORTURE_MODE").map(|mode| mode as usize);
    let replace = number("PAGEFERRY_TORTURE_REPLACE") == Some(1);
    let kill = number("PAGEFERRY_TORTURE_KILL");
    let dir = tempfile::tempdir()?;
    let (images, store) = (dir.path().join("checkpoint"), dir.path().join("store"));
    layout::write_checkpoint(&images).context("writing a checkpoint")?;
    let checkpoint = criu_images::Checkpoint::open(Arc::new(criu_images::ImageDir::open(&images)?))?;
    split(&checkpoint, &LocalSink::create(&store, false)?, &Options::default(), &())?;

    let latency = Duration::from_millis(2);
    let host = SlowHost { dir: store.clone(), latency, bytes_per_second: 4 << 20, failures: 50 };
    let url = host.start()?;

    let start = Instant::now();
    let (mut total, mut rounds, mut kills) = (Done::default(), 0u32, Kills::default());
    while rounds == 0 || start.elapsed() < limit {
        let (complete, source, mix) = MODES[only.unwrap_or(rounds as usize) % MODES.len()];
        let store = match source {
            Source::Raw => images.to_string_lossy(),
            Source::Store => store.to_string_lossy(),
            Source::Web => url.as_str().into(),
        };
        let began = Instant::now();
        // Every other round, and each mode in turn.
        let every_other = (rounds as usize + rounds as usize / MODES.len()) % 2 == 1;
        let kill = kill.map_or(every_other, |kill| kill == 1);
        let what = format!("--complete {complete}, {source:?}, {mix:?}{}", if kill { ", kills" } else { "" });
        let (done, killed) = round(&images, &store, complete, Orders { task: 0, seed, mix, replace }, kill)
            .with_context(|| format!("PAGEFERRY_TORTURE_SEED={seed}, {what}"))?;
        println!(
            "seed {seed}, {what}: {done:?}, {} agents and {} guards killed in {:.1?}",
            killed.agents,
            killed.guards,
            began.elapsed()
        );
        total.add(done);
        kills.add(killed);
        rounds += 1;
        seed += 1;
    }
    println!(
        "trial: layout | {rounds} rounds in {:.0?}, no wrong byte: {total:?} | last seed {}",
        start.elapsed(),
        seed - 1
    );
    let p99 = kills.p99().unwrap_or_default();
    println!(
        "trial: layout | {} agents and {} guards killed; two processes again after {p99:.0?} (p99)",
        kills.agents, kills.guards
    );
    Ok(())
}

fn round(images: &Path, store: &str, complete: &str, orders: Orders, kill: bool) -> Result<(Done, Kills)> {
    let work_dir = tempfile::tempdir()?;
    let mut pager = pager::Pager::start(store, images, work_dir.path(), complete)?;
    let run = |pager: &mut pager::Pager| {
        let killer = kill.then(|| Killer::start(work_dir.path(), orders.seed, LONGEST_PEACE));
        let done = criu::restore(work_dir.path(), orders).and_then(|restored| restored.wait(PATIENCE));
        let kills = killer.map_or_else(|| Ok(Kills::default()), Killer::stop);
        let (done, kills) = (done?, kills?);
        pager.wait(work_dir.path(), Duration::from_secs(20), kills.guards > 0)?;
        Ok((done, kills))
    };
    run(&mut pager).map_err(|error: anyhow::Error| {
        let state = if pager.runs() { "the pager runs" } else { "the pager has ended" };
        error.context(format!("{state}\n{}", pager.log()))
    })
}
