//! `GET /pid/{pid}/mem`: a task's address space as one sparse file, whose bytes are at their addresses. HTTP's own ranges pick from it.

use super::{
    Shared, bytes, not_modified,
    pages::{holes, too_large},
    params::{self, PathOf, Query},
};
use crate::{
    conditional::ETag,
    limits::MAX_PAGES,
    multipart,
    places::{Admission, Size},
    problem::{Kind, Problem},
    range_header::{self, Asked},
    served::{Object, Served},
    walk::Survey,
};
use axum::{
    body::{Body, Bytes},
    extract::State,
    response::Response,
};
use criu_images::{PAGE_SIZE, PageRange, Pid};
use futures::{Stream, StreamExt, TryStreamExt, future};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use page_store::Digest;
use std::{ops::Range, sync::Arc};

const CONTENT_TYPE: &str = "application/octet-stream";

pub(super) async fn mem(
    State(app): Shared,
    admission: Admission,
    PathOf(pid): PathOf<String>,
    query: Query,
    method: Method,
    request: HeaderMap,
) -> Result<Response, Problem> {
    let served = &app.served().await?;
    let pid = params::pid(&pid)?;
    let holes_as_zeros = query.one_of("holes", &["zero", "error"])? == Some("zero");
    let size = served.memory(pid)?.mappings.iter().map(|mapping| mapping.range.end()).max().unwrap_or(0);

    // The checkpoint's identity covers every page of it.
    let checkpoint = &served.store.manifest().checkpoint_id;
    let etag = ETag::strong(Digest::of(format!("{checkpoint} {pid} mem {holes_as_zeros}").as_bytes()));
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(header::ETAG, etag.header());
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if etag.is_refused_by(&request) {
        let next = "Begin again with GET /pid; the server has another checkpoint by now.";
        return Err(Problem::new(Kind::PreconditionFailed, format!("The memory of task {pid} is another one."), next));
    }
    if etag.is_known_to(&request) {
        return Ok(not_modified(headers));
    }

    // Ranges are defined for GET only (RFC 9110, section 14.2); two Range headers are no Range header at all.
    let mut ranges = request.get_all(header::RANGE).iter();
    let range = match (ranges.next(), ranges.next()) {
        (Some(range), None) if method == Method::GET && etag.allows_range(&request) => range.to_str().ok(),
        _ => None,
    };
    let parts = match range.map_or(Asked::Whole, |range| range_header::parse(range, size)) {
        Asked::Parts(parts) => parts,
        Asked::Whole if method == Method::HEAD => {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
            let mut response = Response::new(Body::empty());
            *response.headers_mut() = headers;
            return Ok(response);
        }
        Asked::Whole => return Err(whole(pid, size)),
        Asked::Unsatisfiable(why) => {
            return Err(Problem::new(
                Kind::RangeNotSatisfiable,
                format!("The address space of task {pid} ends at {size:#x}, and {why}."),
                format!(
                    "Ask for bytes=first-last, both decimal and below {size}; GET /pid/{pid}/maps lists what is mapped."
                ),
            )
            .header(header::CONTENT_RANGE, format!("bytes */{size}")));
        }
    };
    let pages: u64 = parts.iter().filter_map(around).map(|range| range.pages()).sum();
    if pages > MAX_PAGES {
        return Err(too_large(pages));
    }
    let place = admission.place(Size::Pages(pages * PAGE_SIZE)).await?;
    if !holes_as_zeros {
        for range in parts.iter().filter_map(around) {
            let survey = Survey::of(served, pid, range).await?;
            if survey.hole_pages > 0 {
                return Err(holes(served, pid, range, &survey));
            }
        }
    }
    let (content_type, length, body) = match <[Range<u64>; 1]>::try_from(parts) {
        Ok([part]) => {
            let value = format!("bytes {}-{}/{size}", part.start, part.end - 1);
            headers.extend(HeaderValue::try_from(value).ok().map(|value| (header::CONTENT_RANGE, value)));
            let length = part.end - part.start;
            (HeaderValue::from_static(CONTENT_TYPE), length, bytes::body(place, read(served.clone(), pid, part)))
        }
        Err(parts) => {
            let parts = multipart::Parts::new(parts, &Object { size, etag, content_type: CONTENT_TYPE });
            let content_type = HeaderValue::try_from(parts.content_type());
            let (length, served) = (parts.length(), served.clone());
            let body = parts.body(move |part| future::ok(read(served.clone(), pid, part)));
            let content_type = content_type.unwrap_or(HeaderValue::from_static("multipart/byteranges"));
            (content_type, length, bytes::body(place, body))
        }
    };
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::CONTENT_TYPE, content_type);
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    *response.headers_mut() = headers;
    Ok(response)
}

/// Nobody wants 128 TiB.
fn whole(pid: Pid, size: u64) -> Problem {
    Problem::new(
        Kind::TooLarge,
        format!("The address space of task {pid} has {size} bytes, most of them nowhere."),
        format!("Ask for a part: Range: bytes=first-last, which are addresses, in decimal. GET /pid/{pid}/maps lists what is mapped."),
    )
    .header(header::ACCEPT_RANGES, "bytes")
}

/// The pages that bytes lie in.
fn around(part: &Range<u64>) -> Option<PageRange> {
    PageRange::from_bytes(part.start / PAGE_SIZE * PAGE_SIZE, part.end.div_ceil(PAGE_SIZE) * PAGE_SIZE)
}

/// The bytes of a part; what is absent reads as zeros.
fn read(served: Arc<Served>, pid: Pid, part: Range<u64>) -> impl Stream<Item = Result<Bytes, Problem>> + Send + use<> {
    let pages = around(&part);
    let mut skip = part.start % PAGE_SIZE;
    let mut left = part.end - part.start;
    let chunks = pages.map(|range| bytes::of_range(served, pid, range));
    futures::stream::iter(chunks).flatten().map_ok(move |mut chunk: Bytes| {
        let before = skip.min(chunk.len() as u64);
        let _ = chunk.split_to(before as usize);
        skip -= before;
        chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        left -= chunk.len() as u64;
        chunk
    })
}
