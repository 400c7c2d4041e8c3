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
/// The replies that are timed, as a rule.
pub(crate) const REPLIES: usize = 50;

/// When replies came, in seconds from the start of the restore.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Replies {
    pub(crate) first: f64,
    /// The last one of several. Each is about another item, all over the program's memory, one after another.
    pub(crate) last: Option<f64>,
}

/// A restore's replies, and when it was over.
pub(crate) struct Timed {
    pub(crate) replies: Replies,
    /// Seconds.
    pub(crate) whole: f64,
}

/// Runs `restore`, which returns when the program is whole, while a client in the cell asks the program, from the
/// beginning and until it has had so many replies.
pub(crate) fn during(
    cell: &Cell,
    program: &dyn Program,
    replies: usize,
    restore: impl FnOnce() -> Result<()>,
) -> Result<Timed> {
    let failed = AtomicBool::new(false);
    let start = Instant::now();
    thread::scope(|scope| {
        let client = scope.spawn(|| cell.inside(|| ask(program, replies, start, &failed)));
        let result = restore();
        let whole = start.elapsed().as_secs_f64();
        failed.store(result.is_err(), Ordering::Relaxed);
        let replies = client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        result?;
        Ok(Timed { replies: replies?, whole })
    })
}

fn ask(program: &dyn Program, replies: usize, start: Instant, failed: &AtomicBool) -> Result<Replies> {
    while let Err(error) = program.first_reply() {
        if failed.load(Ordering::Relaxed) || start.elapsed() > pageferry_tests::PATIENCE {
            return Err(error.context("the program never answered"));
        }
        thread::sleep(RETRY);
    }
    let first = start.elapsed().as_secs_f64();
    for n in 1..replies {
        if failed.load(Ordering::Relaxed) {
            bail!("the restore failed meanwhile");
        }
        program.reply(n * program.items() / replies).with_context(|| format!("reply {} of {replies}", n + 1))?;
    }
    Ok(Replies { first, last: (replies > 1).then(|| start.elapsed().as_secs_f64()) })
}
