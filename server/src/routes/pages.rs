//! `GET /pid/{pid}/pages/{range}`: the bytes of a range.

use super::{
    Shared, bytes, not_modified,
    params::{self, PathOf, Query},
};
use crate::{
    address, coding,
    conditional::ETag,
    limits::MAX_PAGES,
    negotiate,
    places::{Admission, Size},
    problem::{Kind, Problem},
    segment::Absence,
    served::{Images, Served, range_json},
    walk::Survey,
};
use axum::{extract::State, response::Response};
use criu_images::{PAGE_SIZE, PageRange, Pid};
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
    let served = app.served().await?;
    let pid = params::pid(&pid)?;
    let range = address::range(&range).map_err(|e| Problem::malformed(Kind::BadRange, e))?;
    let holes_as_zeros = query.one_of("holes", &["zero", "error"])? == Some("zero");
    if range.pages() > MAX_PAGES {
        return Err(too_large(range.pages()));
    }
    served.memory(pid)?;
    let place = admission.place(Size::Pages(range.bytes())).await?;
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
    let etag = if encoder.is_some() { ETag::weak(format_args!("{identity}.zstd")) } else { ETag::strong(identity) };
    let mut headers = HeaderMap::new();
    headers.insert(header::ETAG, etag.header());
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(value) = HeaderValue::try_from(range.start().to_string()) {
        headers.insert("x-page-address", value);
    }
    if etag.is_known_to(&request) {
        return Ok(not_modified(headers));
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    let plain = bytes::of_range(served.clone(), pid, range);
    let mut response = if let Some(encoder) = encoder {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("zstd"));
        Response::new(bytes::body(place, coding::zstd(plain, encoder)?))
    } else {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(range.bytes()));
        Response::new(bytes::body(place, plain))
    };
    *response.headers_mut() = headers;
    Ok(response)
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
