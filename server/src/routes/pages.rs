//! `GET /pid/{pid}/pages/{range}`: the bytes of a range.

use super::{
    Shared, bytes, not_modified,
    page::{HEXDUMP, RAW},
    params::{self, PathOf, Query},
};
use crate::{
    address, coding,
    conditional::ETag,
    hexdump::Hexdump,
    limits::MAX_PAGES,
    negotiate,
    places::{Admission, Size},
    problem::{Kind, Problem},
    segment::Absence,
    served::{Images, Served, range_json},
    walk::Survey,
};
use axum::{body::Bytes, extract::State, response::Response};
use criu_images::{PAGE_SIZE, PageRange, Pid};
use futures::{StreamExt, TryStreamExt, future, stream, stream::BoxStream};
use http::{HeaderMap, HeaderValue, header};
use page_store::Digest;
use serde_json::Value;

pub(super) async fn pages(
    State(app): Shared,
    admission: Admission,
    PathOf((pid, range)): PathOf<(String, String)>,
    query: Query,
    request: HeaderMap,
) -> Result<Response, Problem> {
    let served = &app.served().await?;
    let pid = params::pid(&pid)?;
    let range = address::range(&range).map_err(|e| Problem::malformed(Kind::BadRange, e))?;
    let holes_as_zeros = query.one_of("holes", &["zero", "error"])? == Some("zero");
    let is_hexdump = match query.one_of("format", &["raw", "hexdump"])? {
        Some(format) => format == "hexdump",
        None => negotiate::accept(&request, &[RAW, HEXDUMP]) == HEXDUMP,
    };
    if range.pages() > MAX_PAGES {
        return Err(too_large(range.pages()));
    }
    served.memory(pid)?;
    let size = if is_hexdump { Size::Hexdump(range.bytes()) } else { Size::Pages(range.bytes()) };
    let place = admission.place(size).await?;
    if !holes_as_zeros {
        let survey = Survey::of(served, pid, range).await?;
        if survey.hole_pages > 0 {
            return Err(holes(served, pid, range, &survey));
        }
    }

    // The checkpoint's identity covers every page of it.
    let checkpoint = &served.store.manifest().checkpoint_id;
    let identity = Digest::of(format!("{checkpoint} {pid} {range} {holes_as_zeros}").as_bytes());
    let encoder = if negotiate::accepts_zstd(&request) { admission.encoder() } else { None };
    let form = if is_hexdump { ".hexdump" } else { "" };
    let etag = match encoder {
        Some(_) => ETag::weak(format_args!("{identity}{form}.zstd")),
        None => ETag::strong(format_args!("{identity}{form}")),
    };
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(header::ETAG, etag.header());
    headers.insert(header::VARY, HeaderValue::from_static("accept, accept-encoding"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(value) = HeaderValue::try_from(range.start().to_string()) {
        headers.insert("x-page-address", value);
    }
    if etag.is_known_to(&request) {
        return Ok(not_modified(headers));
    }
    let content_type = if is_hexdump { "text/plain; charset=utf-8" } else { RAW };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    let plain = bytes::of_range(served.clone(), pid, range);
    let plain = if is_hexdump { as_hexdump(range, plain) } else { plain };
    let mut response = if let Some(encoder) = encoder {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("zstd"));
        Response::new(bytes::body(place, coding::zstd(plain, encoder)?))
    } else {
        if !is_hexdump {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(range.bytes()));
        }
        Response::new(bytes::body(place, plain))
    };
    *response.headers_mut() = headers;
    Ok(response)
}

/// The bytes of a range as text, a page at a time.
fn as_hexdump(
    range: PageRange,
    chunks: BoxStream<'static, Result<Bytes, Problem>>,
) -> BoxStream<'static, Result<Bytes, Problem>> {
    let pages = chunks.map_ok(|mut chunk| {
        let pages = std::iter::from_fn(move || {
            (!chunk.is_empty()).then(|| chunk.split_to(chunk.len().min(PAGE_SIZE as usize)))
        });
        stream::iter(pages.map(Ok))
    });
    // None is the end.
    let pages = pages.try_flatten().map_ok(Some).chain(stream::once(future::ok(None)));
    let mut dump = Hexdump::new(range.start().get());
    let text = pages.map_ok(move |page| match page {
        Some(page) => dump.lines(&page),
        None => dump.end(),
    });
    // A page that repeats the line before it has no text.
    text.map_ok(Bytes::from).try_filter(|text| future::ready(!text.is_empty())).boxed()
}

/// More than a request may ask for.
pub(super) fn too_large(pages: u64) -> Problem {
    Problem::new(
        Kind::TooLarge,
        format!("The request asks for {pages} pages."),
        format!("Ask for at most {MAX_PAGES} pages ({} bytes) at once.", MAX_PAGES * PAGE_SIZE),
    )
    .with("limit_pages", MAX_PAGES)
}

/// Pages that are not in the checkpoint, and those that are.
pub(super) fn holes(served: &Served, pid: Pid, range: PageRange, survey: &Survey) -> Problem {
    let memory = served.memory(pid).ok();
    let holes: Vec<Value> = survey
        .holes
        .iter()
        .map(|(hole, why)| {
            let mut json = range_json(*hole);
            json["why"] = why_text(*why).into();
            if let (Absence::InFile { offset }, Some(memory)) = (why, memory) {
                json["offset"] = (*offset).into();
                json["file"] = Images::mapping(memory, hole.start()).ok().and_then(|m| m.name.clone()).into();
            }
            json
        })
        .collect();
    let present: Vec<Value> = survey.present.iter().map(|part| range_json(*part)).collect();
    Problem::new(
        Kind::Holes,
        format!("{} of the {} pages in {range} of task {pid} are not in the checkpoint.", survey.hole_pages, range.pages()),
        format!("Ask for the ranges in `present`, or add ?holes=zero to read the others as zeros; GET /pid/{pid}/maps lists what is mapped."),
    )
    .with("hole_pages", survey.hole_pages)
    .with("holes", holes)
    .with("present", present)
}

/// As it stands in JSON.
pub(super) fn why_text(why: Absence) -> &'static str {
    match why {
        Absence::Unmapped => "unmapped",
        Absence::InFile { .. } => "file",
        Absence::Kernel => "kernel",
        Absence::Lost => "lost",
    }
}
