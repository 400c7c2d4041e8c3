//! The client that waits for a restored program.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use pageferry_tests::{Cell, programs::Program};

/// How often a program that is not there yet is asked again.
const RETRY: Duration = Duration::from_millis(1);
/// The replies that are timed after the first.
const REPLIES: usize = 50;

/// When replies came, in seconds from the start of the restore.
pub(crate) struct Replies {
    pub(crate) first: f64,
    /// The fiftieth. Each is about another item, all over the program's memory, one after another.
    pub(crate) fifty: f64,
}

/// What a restore gave, its replies, and when it was over.
pub(crate) struct Timed<T> {
    pub(crate) result: T,
    pub(crate) replies: Replies,
    /// Seconds.
    pub(crate) whole: f64,
}

/// Runs `restore`, which returns when the program is whole, while a client in the cell asks the program, from the
/// beginning and until it has had all its replies.
pub(crate) fn during<T>(cell: &Cell, program: &dyn Program, restore: impl FnOnce() -> Result<T>) -> Result<Timed<T>> {
    let failed = AtomicBool::new(false);
    let start = Instant::now();
    thread::scope(|scope| {
        let client = scope.spawn(|| cell.inside(|| ask(program, start, &failed)));
        let result = restore();
        let whole = start.elapsed().as_secs_f64();
        failed.store(result.is_err(), Ordering::Relaxed);
        let replies = client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(Timed { result: result?, replies: replies?, whole })
    })
}

fn ask(program: &dyn Program, start: Instant, failed: &AtomicBool) -> Result<Replies> {
    while let Err(error) = program.first_reply() {
        if failed.load(Ordering::Relaxed) || start.elapsed() > pageferry_tests::PATIENCE {
            return Err(error.context("the program never answered"));
        }
        thread::sleep(RETRY);
    }
    let first = start.elapsed().as_secs_f64();
    for n in 1..REPLIES {
        if failed.load(Ordering::Relaxed) {
            bail!("the restore failed meanwhile");
        }
        program.reply(n * program.items() / REPLIES).with_context(|| format!("reply {} of {REPLIES}", n + 1))?;
    }
    Ok(Replies { first, fifty: start.elapsed().as_secs_f64() })
}
