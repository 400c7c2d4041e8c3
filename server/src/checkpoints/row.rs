//! A checkpoint as `/checkpoints` lists it.

use criu_images::{Checkpoint, ImageDir, PAGE_SIZE};
use page_store::Manifest;
use serde_json::{Value, json};
use std::{path::Path, sync::Arc};

/// Tasks that are listed.
const TASKS: usize = 16;

/// Whether it may name a checkpoint: one component of a path, and of an address.
pub(super) fn is_name(name: &str) -> bool {
    let is_good = |c: char| !c.is_control() && !matches!(c, '/' | '\\' | '?' | '#' | '%');
    !name.is_empty() && !name.starts_with('.') && name.chars().all(is_good)
}

/// Of a store, or of a raw checkpoint that is read as one.
pub(super) fn of_store(name: &str, manifest: Result<&Manifest, String>) -> Value {
    let manifest = match manifest {
        Ok(manifest) if is_name(name) => manifest,
        Ok(_) => return problem(name, "its name cannot be part of an address; give the folder another one"),
        Err(problem_with_it) => return problem(name, &problem_with_it),
    };
    let stored = manifest.own_objects().map(|object| object.size).sum::<u64>();
    let all = manifest.objects().map(|object| object.size).sum::<u64>();
    json!({
        "name": name,
        "checkpoint_id": manifest.checkpoint_id,
        "tasks": manifest.tasks.iter().take(TASKS).map(|task| json!({ "pid": task.pid, "comm": task.comm })).collect::<Vec<_>>(),
        "task_count": manifest.tasks.len(),
        "dumped_bytes": manifest.totals.dumped_pages * PAGE_SIZE,
        "stored_bytes": stored,
        "shared_bytes": all - stored,
        "working_sets": manifest.working_sets.iter().map(|set| set.name.as_str()).collect::<Vec<_>>(),
    })
}

/// Of a raw checkpoint in a folder of this machine: only its images are read. It has an identity once its pages are digested.
pub(super) fn of_raw(name: &str, path: &Path) -> Value {
    let images = ImageDir::open(path).and_then(|dir| Checkpoint::open(Arc::new(dir)));
    let checkpoint = match images {
        Ok(checkpoint) if is_name(name) => checkpoint,
        Ok(_) => return problem(name, "its name cannot be part of an address; give the folder another one"),
        Err(error) => return problem(name, &error.to_string()),
    };
    let tasks = checkpoint.tasks.iter();
    json!({
        "name": name,
        "raw": true,
        "tasks": tasks.take(TASKS).map(|task| json!({ "pid": task.pid.get(), "comm": task.comm })).collect::<Vec<_>>(),
        "task_count": checkpoint.tasks.len(),
        "dumped_bytes": checkpoint.pages_files.iter().map(|file| file.len()).sum::<u64>(),
        "working_sets": [],
    })
}

fn problem(name: &str, problem: &str) -> Value {
    json!({ "name": name, "problem": problem })
}
