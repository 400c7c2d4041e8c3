//! `GET /pid/{pid}/maps`: the mappings, as JSON or as `/proc/<pid>/maps` shows them.

use super::{
    Shared, bytes,
    params::{self, PathOf, Query},
};
use crate::{
    negotiate,
    places::{Admission, Size},
    problem::Problem,
    served::{Served, mapping_json, permissions},
};
use axum::{
    body::Bytes,
    extract::State,
    response::{IntoResponse, Response},
};
use criu_images::{Mapping, Pid};
use futures::stream;
use http::{HeaderMap, header};
use std::{fmt::Write, sync::Arc};

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";

/// Mappings written at a time: some 40 KiB. A task can have 65,530 of them and more.
const BATCH: usize = 256;

pub(super) async fn maps(
    State(app): Shared,
    admission: Admission,
    PathOf(pid): PathOf<String>,
    query: Query,
    request: HeaderMap,
) -> Result<Response, Problem> {
    let served = app.served().await?;
    let pid = params::pid(&pid)?;
    served.memory(pid)?;
    let as_text = match query.one_of("format", &["json", "text"])? {
        Some(format) => format == "text",
        None => negotiate::accept(&request, &[JSON, TEXT]) == TEXT,
    };
    let write = if as_text { text } else { json };
    let place = admission.place(Size::List).await?;
    let batches = stream::try_unfold(0, move |first| {
        let batch = batch(&served, pid, first, write);
        async move { batch }
    });
    let content_type = if as_text { "text/plain; charset=utf-8" } else { JSON };
    let headers = [(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-cache"), (header::VARY, "accept")];
    Ok((headers, bytes::body(place, batches)).into_response())
}

/// Writes mappings: all of them, the number of the first to be written, which are to be written.
type WriteBatch = fn(Pid, &[Mapping], usize, &[Mapping]) -> String;

fn batch(served: &Arc<Served>, pid: Pid, first: usize, write: WriteBatch) -> Result<Option<(Bytes, usize)>, Problem> {
    let all = &served.memory(pid)?.mappings;
    // One round more than there are mappings: the last writes what closes the list.
    if first > all.len() {
        return Ok(None);
    }
    let next = first.saturating_add(BATCH).min(all.len());
    let text = write(pid, all, first, all.get(first..next).unwrap_or_default());
    let next = if next == all.len() { next + 1 } else { next };
    Ok(Some((Bytes::from(text), next)))
}

fn json(pid: Pid, all: &[Mapping], first: usize, batch: &[Mapping]) -> String {
    let mut text = if first == 0 { format!("{{\"pid\":{pid},\"mappings\":[") } else { String::new() };
    for (number, mapping) in batch.iter().enumerate() {
        text.push_str(if first + number > 0 { ",\n" } else { "\n" });
        // Writing to a String cannot fail.
        let _ = write!(text, "{}", mapping_json(mapping));
    }
    if first + batch.len() == all.len() {
        text.push_str("]}\n");
    }
    text
}

fn text(_: Pid, _: &[Mapping], _: usize, batch: &[Mapping]) -> String {
    batch.iter().map(line).collect()
}

/// As `show_map_vma` (fs/proc/task_mmu.c) writes it. The device and inode are not in a checkpoint.
fn line(mapping: &Mapping) -> String {
    let range = mapping.range;
    let numbers = format!(
        "{:08x}-{:08x} {} {:08x} 00:00 0 ",
        range.start(),
        range.end(),
        permissions(mapping),
        mapping.file_offset
    );
    match &mapping.name {
        None => format!("{numbers}\n"),
        Some(name) => format!("{numbers:<73}{}\n", name.replace('\n', "\\012")),
    }
}
