//! How far a run is: a bar on a terminal, a line now and then elsewhere.

use crate::human;
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::IsTerminal,
    sync::Mutex,
    time::{Duration, Instant},
};

/// Between two lines where there is no terminal: a log should show that a long run lives, and not be filled by it.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Where progress goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A bar on standard error if that is a terminal, else lines.
    Shown,
    /// Nowhere.
    Quiet,
}

/// Counts bytes and shows them.
#[derive(Debug)]
pub struct Meter {
    mode: Mode,
    shown: Mutex<Option<Shown>>,
}

#[derive(Debug)]
enum Shown {
    Bar(ProgressBar),
    Lines { what: &'static str, total: u64, done: u64, last: Instant },
}

impl Meter {
    /// Shows nothing before [`Meter::begin`].
    pub fn new(mode: Mode) -> Self {
        Self { mode, shown: Mutex::new(None) }
    }

    fn shown(&self) -> std::sync::MutexGuard<'_, Option<Shown>> {
        self.shown.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Begins to show a piece of work of `total` bytes.
    pub fn begin(&self, what: &'static str, total: u64) {
        let shown = match self.mode {
            Mode::Quiet => return,
            Mode::Shown if std::io::stderr().is_terminal() => {
                let bar = ProgressBar::new(total).with_message(what);
                let template = "{msg} {wide_bar} {decimal_bytes} of {decimal_total_bytes}, {decimal_bytes_per_sec}";
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style);
                }
                Shown::Bar(bar)
            }
            Mode::Shown => Shown::Lines { what, total, done: 0, last: Instant::now() },
        };
        *self.shown() = Some(shown);
    }

    /// `bytes` more are done.
    pub fn advance(&self, bytes: u64) {
        match &mut *self.shown() {
            None => {}
            Some(Shown::Bar(bar)) => bar.inc(bytes),
            Some(Shown::Lines { what, total, done, last }) => {
                *done += bytes;
                if last.elapsed() >= LINE_EVERY {
                    *last = Instant::now();
                    eprintln!("{what}: {} of {}", human::bytes(*done), human::bytes(*total));
                }
            }
        }
    }

    /// Takes the bar away.
    pub fn end(&self) {
        if let Some(Shown::Bar(bar)) = self.shown().take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.end();
    }
}
