//! The progress line: a bar on a terminal, now and then a line elsewhere.

use crate::status::Status;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::IsTerminal,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

/// Shown until dropped.
pub(crate) struct Line {
    task: Option<tokio::task::JoinHandle<()>>,
    bar: ProgressBar,
}

/// How often a line is logged where there is no terminal.
const LOG_EVERY: u32 = 50;
const TICK: Duration = Duration::from_millis(100);

impl Line {
    pub(crate) fn start(status: Arc<Status>, silent: bool) -> Self {
        let terminal = std::io::stderr().is_terminal() && !silent;
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(0), target)
            .with_style(ProgressStyle::with_template("{bar:30} {msg}").expect("a constant template"));
        let shown = bar.clone();
        let task = tokio::spawn(async move {
            let mut ticks = 0;
            loop {
                tokio::time::sleep(TICK).await;
                let message = describe(&status);
                let expected = status.expected.load(Relaxed);
                shown.set_length(expected);
                shown.set_position(expected.saturating_sub(status.missing.load(Relaxed)));
                shown.set_message(message.clone());
                ticks += 1;
                if !terminal && ticks % LOG_EVERY == 0 {
                    tracing::info!("{message}");
                }
            }
        });
        Self { task: Some(task), bar }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        self.bar.finish_and_clear();
    }
}

fn describe(status: &Status) -> String {
    if status.moments().restored.is_none() {
        return "waiting for CRIU".into();
    }
    let outage = if status.outage.load(Relaxed) { "; the store does not answer, trying again" } else { "" };
    format!(
        "{} of {} pages missing, {} faults, {:.1} MiB from the store{outage}",
        status.missing.load(Relaxed),
        status.expected.load(Relaxed),
        status.faults.load(Relaxed),
        status.wire_bytes.load(Relaxed) as f64 / (1 << 20) as f64
    )
}
