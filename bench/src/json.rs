//! What the agent says at its end (`--json`).

use anyhow::{Context, Result};
use serde::Deserialize;

/// As much of the summary as is needed here.
#[derive(Clone, Copy, Deserialize)]
pub(crate) struct Summary {
    /// Bytes of bodies that came from the store.
    pub(crate) wire_bytes: u64,
    /// Faults that the agent read.
    pub(crate) faults: u64,
}

impl Summary {
    /// The last line of an output that is JSON; there may be a log before it.
    pub(crate) fn find(output: &str) -> Result<Self> {
        let line = output.lines().rev().find(|line| line.starts_with('{'));
        let line = line.with_context(|| format!("the agent printed no summary:\n{output}"))?;
        serde_json::from_str(line).with_context(|| format!("not the agent's summary: {line}"))
    }
}
