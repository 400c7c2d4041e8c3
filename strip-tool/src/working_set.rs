//! `working-set`: adds to a store what recorded restores needed first.

use crate::{Stop, human, retry::open_store};
use anyhow::{Context, Result, ensure};
use page_store::{
    is_of_this_machine,
    working_set::{self, Trace},
    write::{Conditions, create},
};
use serde::Serialize;
use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

/// Most bytes of a trace: a million numbers.
const MAX_TRACE_BYTES: u64 = 32 << 20;

/// What to do.
#[derive(Debug, Clone)]
pub struct WorkingSetOptions {
    /// A path, or the address of a place in an object store.
    pub store: String,
    /// What `pageferry-agent --record` wrote.
    pub traces: Vec<PathBuf>,
    /// What the set is called; one of that name is replaced.
    pub name: String,
    /// Whether `checkpoint.json` is put only if nobody else has put one meanwhile; for object stores.
    pub conditions: Conditions,
}

/// What was added.
#[derive(Debug, Clone, Serialize)]
pub struct WorkingSetReport {
    /// Its name.
    pub name: String,
    /// Name of the object below the store.
    pub object: String,
    /// Frames in it.
    pub frames: u64,
    /// Bytes of the object.
    pub bytes: u64,
    /// Traces that it was made of.
    pub traces: usize,
}

impl fmt::Display for WorkingSetReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (frames, size) = (human::count(self.frames), human::bytes(self.bytes));
        writeln!(f, "working set {:?}: {frames} frames, {size}, of {} traces", self.name, self.traces)
    }
}

/// Adds the set. The store stays readable all the time.
pub async fn add(options: &WorkingSetOptions, stop: &Stop) -> Result<WorkingSetReport> {
    let location = options.store.as_str();
    ensure!(
        !is_of_this_machine(location) || Path::new(location).join(page_store::MANIFEST_NAME).is_file(),
        "{location} is not a page store of this machine (a raw checkpoint cannot hold a working set: split it first)"
    );
    // Locks the store, or notes what is there, so that what is read is what is added to.
    let sink = create(location, true, options.conditions)?;
    let store = open_store(location).await?;
    let mut traces = Vec::new();
    for file in &options.traces {
        let name = file.display().to_string();
        let length = fs::metadata(file).with_context(|| name.clone())?.len();
        ensure!(length <= MAX_TRACE_BYTES, "{name}: {length} bytes, no trace is so long");
        let json = fs::read(file).with_context(|| name.clone())?;
        traces.push(Trace::parse(&name, &json, &store.manifest().checkpoint_id, store.frame_count())?);
    }
    let adding = async { Ok(working_set::add(&store, &*sink, &options.name, &traces).await?) };
    let added = stop.or(adding).await?;
    Ok(WorkingSetReport {
        name: added.name,
        object: added.object.object,
        frames: added.frames,
        bytes: added.object.size,
        traces: traces.len(),
    })
}
