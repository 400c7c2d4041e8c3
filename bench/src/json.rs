//! What the agent says at its end (`--json`).

use anyhow::{Context, Result};
use serde::Deserialize;

/// As much of the summary as is needed here.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Summary {
    /// Bytes of bodies that came from the store.
    pub(crate) wire_bytes: u64,
    /// Faults that the agent read.
    pub(crate) faults: u64,
    pub(crate) stalls: Option<Stalls>,
    /// Of the frames read ahead that were watched, the share that was asked for.
    pub(crate) read_ahead_precision: Option<f64>,
    pub(crate) cpu_seconds: f64,
    pub(crate) peak_memory_bytes: u64,
}

/// How long threads waited, in seconds.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Stalls {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Summary {
    /// The last line of an output that is JSON; there may be a log before it.
    pub(crate) fn find(output: &str) -> Result<Self> {
        let line = output.lines().rev().find(|line| line.starts_with('{'));
        let line = line.with_context(|| format!("the agent printed no summary:\n{output}"))?;
        serde_json::from_str(line).with_context(|| format!("not the agent's summary: {line}"))
    }
}
