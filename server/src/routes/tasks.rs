//! `GET /pid` and `GET /pid/{pid}`: the tasks.

use super::{
    Shared,
    params::{self, PathOf},
};
use crate::{
    places::{Admission, Size},
    problem::Problem,
    served::Served,
};
use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use criu_images::{Task, TaskState};
use http::header;
use serde_json::{Value, json};

/// Bytes that a task takes while the list is made: some 200 of text, and more as a tree.
const TASK_BYTES: u64 = 1024;

pub(super) async fn list(State(app): Shared, admission: Admission) -> Result<Response, Problem> {
    let served = &app.served().await?;
    let manifest = served.store.manifest();
    let place = admission.place(Size::Whole(served.images.0.tasks.len() as u64 * TASK_BYTES)).await?;
    let tasks: Vec<_> = served.images.0.tasks.iter().map(|task| task_json(served, task)).collect();
    let body = json!({
        "checkpoint_id": manifest.checkpoint_id,
        "image_version": manifest.image_version,
        "tasks": tasks,
        "totals": manifest.totals,
    });
    let body = place.hand(body.to_string().into());
    Ok(([(header::CACHE_CONTROL, "no-cache"), (header::CONTENT_TYPE, "application/json")], body).into_response())
}

pub(super) async fn one(State(app): Shared, PathOf(pid): PathOf<String>) -> Result<Response, Problem> {
    let served = &app.served().await?;
    let task = served.task(params::pid(&pid)?)?;
    let mut body = task_json(served, task);
    if let Some(memory) = &task.memory {
        let mapped = memory.mappings.iter().fold(0u64, |sum, m| sum.saturating_add(m.range.pages()));
        body["mappings"] = memory.mappings.len().into();
        body["mapped_pages"] = mapped.into();
    }
    Ok(([(header::CACHE_CONTROL, "no-cache")], Json(body)).into_response())
}

fn task_json(served: &Served, task: &Task) -> Value {
    let manifest = served.store.manifest();
    let entry = manifest.task_position(task.pid).and_then(|position| manifest.tasks.get(position));
    json!({
        "pid": task.pid.get(),
        "parent": task.parent.map(|pid| pid.get()),
        "comm": task.comm,
        "state": match task.state {
            TaskState::Alive => "alive",
            TaskState::Stopped => "stopped",
            TaskState::Dead => "dead",
            TaskState::Other(_) => "other",
        },
        "threads": task.threads.iter().map(|tid| tid.get()).collect::<Vec<_>>(),
        "lazy_pages": entry.map_or(0, |t| t.lazy_pages),
        "slim_pages": entry.map_or(0, |t| t.slim_pages),
    })
}
