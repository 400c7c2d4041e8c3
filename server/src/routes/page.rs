//! `GET /pid/{pid}/page/{address}`: one page.

use super::{
    Shared, not_modified,
    params::{self, PathOf, Query},
};
use crate::{
    address,
    conditional::ETag,
    content::SegmentReader,
    hexdump::hexdump,
    negotiate,
    places::{Admission, Size},
    problem::{Kind, Problem, damaged},
    segment::{Absence, Content, Segment},
    served::{Images, Served, mapping_json},
    walk::single,
};
use axum::{
    body::Bytes,
    extract::State,
    response::{IntoResponse, Response},
};
use criu_images::{Memory, PageAddr, Pid};
use http::{HeaderMap, HeaderValue, header};
use page_store::Digest;
use serde_json::{Value, json};
use std::sync::{Arc, atomic::Ordering::Relaxed};

pub(super) const RAW: &str = "application/octet-stream";
pub(super) const HEXDUMP: &str = "text/plain";
const JSON: &str = "application/json";

pub(super) async fn page(
    State(app): Shared,
    admission: Admission,
    PathOf((pid, address)): PathOf<(String, String)>,
    query: Query,
    request: HeaderMap,
) -> Result<Response, Problem> {
    let served = &app.served().await?;
    let pid = params::pid(&pid)?;
    let page = address::page(&address).map_err(|e| Problem::malformed(Kind::BadAddress, e))?;
    let form = match query.one_of("format", &["raw", "hexdump", "json"])? {
        Some("raw") => RAW,
        Some("hexdump") => HEXDUMP,
        Some(_) => JSON,
        None => negotiate::accept(&request, &[RAW, HEXDUMP, JSON]),
    };

    let memory = served.memory(pid)?;
    let place = admission.place(Size::Pages(criu_images::PAGE_SIZE)).await?;
    let (bytes, digest, source) = read(served, pid, page).await?;
    // Of its own, so that a client that does not take its page holds 4 KiB and not a frame.
    let bytes = Bytes::copy_from_slice(&bytes);
    drop(place);
    let etag = match form {
        RAW => ETag::strong(digest),
        HEXDUMP => ETag::strong(format_args!("{digest}.hexdump")),
        // It also tells about the mapping, which is not part of the digest.
        _ => ETag::weak(format_args!("{digest}.json")),
    };
    // Room for all that an answer has: a map that grows is built twice.
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(header::ETAG, etag.header());
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    // The next start of the server may serve another checkpoint here.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(value) = HeaderValue::try_from(page.to_string()) {
        headers.insert("x-page-address", value);
    }
    headers.insert("x-page-source", HeaderValue::from_static(source));
    if etag.is_known_to(&request) {
        return Ok(not_modified(headers));
    }
    Ok(match form {
        RAW => {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(RAW));
            let mut response = Response::new(bytes.into());
            *response.headers_mut() = headers;
            response
        }
        HEXDUMP => (headers, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], hexdump(page.get(), &bytes))
            .into_response(),
        _ => {
            let mapping = Images::mapping(memory, page).map(mapping_json).unwrap_or(Value::Null);
            let body = json!({
                "pid": pid.get(),
                "address": page.to_string(),
                "source": source,
                "blake3_128": digest.to_string(),
                "mapping": mapping,
            });
            (headers, axum::Json(body)).into_response()
        }
    })
}

/// A page, its digest, and where it came from.
async fn read(served: &Arc<Served>, pid: Pid, page: PageAddr) -> Result<(Bytes, Digest, &'static str), Problem> {
    let range = single(page).ok_or_else(damaged)?;
    let segment: Segment = served.segments(pid, range).await?.into_iter().next().ok_or_else(damaged)?;
    let source = match segment.content {
        Content::Store(number) => {
            let page = served.frames.page(&served.store, number, &served.metrics).await?;
            let (bytes, digest) = page.ok_or_else(damaged)?;
            served.metrics.pages.store.fetch_add(1, Relaxed);
            return Ok((bytes, digest, "store"));
        }
        Content::Slim { .. } => "slim",
        Content::Zero => "zero",
        Content::Absent(why) => return Err(absent(served.memory(pid)?, pid, page, why)),
    };
    let bytes = SegmentReader::new(served.clone(), segment, false).next().await?.ok_or_else(damaged)?;
    let digest = Digest::of(&bytes);
    Ok((bytes, digest, source))
}

/// Why there is no such page, and where else to look.
fn absent(memory: &Memory, pid: Pid, page: PageAddr, why: Absence) -> Problem {
    let mapping = Images::mapping(memory, page);
    let name = mapping.ok().and_then(|m| m.name.as_deref());
    match why {
        Absence::Unmapped => {
            let nearest: Vec<_> = mapping.err().into_iter().flatten().flatten().collect();
            let listed: Vec<_> = nearest
                .iter()
                .map(|m| match &m.name {
                    Some(name) => format!("{} ({name})", m.range),
                    None => m.range.to_string(),
                })
                .collect();
            let next = match listed.is_empty() {
                true => "The task has no mappings at all.".to_owned(),
                false => format!("The nearest mappings are {}. GET /pid/{pid}/maps lists all.", listed.join(" and ")),
            };
            let nearest: Vec<_> = nearest.into_iter().map(mapping_json).collect();
            Problem::new(Kind::Unmapped, format!("Nothing is mapped at {page} in task {pid}."), next)
                .with("address", page.to_string())
                .with("nearest", nearest)
        }
        Absence::InFile { offset } => Problem::new(
            Kind::PageInFile,
            format!(
                "The page at {page} of task {pid} was never written to: its content is that of {} from byte {offset} on.",
                name.unwrap_or("the mapped file")
            ),
            "Read it from that file, on the machine that the checkpoint is restored on.",
        )
        .with("address", page.to_string())
        .with("file", name)
        .with("offset", offset),
        Absence::Kernel => Problem::new(
            Kind::KernelPage,
            format!("The page at {page} of task {pid} belongs to {}.", name.unwrap_or("the kernel")),
            "It is made anew on every restore; there is nothing to read.",
        )
        .with("address", page.to_string()),
        Absence::Lost => {
            tracing::error!("task {pid}: the slim dump says that the store has {page}, but it does not");
            damaged()
        }
    }
}
