//! `POST /pid/{pid}/pages`: many ranges in one answer.

use super::{
    Shared, body as request_body, bytes,
    pages::too_large,
    params::{self, PathOf},
};
use crate::{
    address, coding,
    content::SegmentReader,
    framing::{self, Kind as Record},
    limits::{MAX_BODY, MAX_PAGES, MAX_RANGES},
    negotiate,
    places::{Admission, Size},
    problem::{Kind, Problem},
    segment::Content,
    served::Served,
    walk::Walk,
};
use axum::{
    body::{Body, Bytes},
    extract::State,
    response::Response,
};
use criu_images::{PAGE_SIZE, PageRange, Pid};
use futures::{Stream, stream};
use http::{HeaderMap, HeaderValue, header};
use std::{sync::Arc, vec};

pub(super) async fn bulk(
    State(app): Shared,
    admission: Admission,
    PathOf(pid): PathOf<String>,
    request: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let served = &app.served().await?;
    let pid = params::pid(&pid)?;
    served.memory(pid)?;
    request_body::is_json(&request)?;
    let body = request_body::read(&request, body, MAX_BODY, app.limits.stall).await?;
    let ranges = parse(&body)?;
    let pages = ranges.iter().fold(0u64, |sum, range| sum.saturating_add(range.pages()));
    let place = admission.place(Size::Pages(pages.saturating_mul(PAGE_SIZE))).await?;

    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(framing::CONTENT_TYPE));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    let plain = records(served.clone(), pid, ranges);
    let encoder = if negotiate::accepts_zstd(&request) { admission.encoder() } else { None };
    let mut response = if let Some(encoder) = encoder {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("zstd"));
        Response::new(bytes::body(place, coding::zstd(Box::pin(plain), encoder)?))
    } else {
        Response::new(bytes::body(place, plain))
    };
    *response.headers_mut() = headers;
    Ok(response)
}

/// `["start-end", ...]`.
fn parse(body: &[u8]) -> Result<Vec<PageRange>, Problem> {
    let bad = |detail: String| {
        Problem::new(Kind::BadBody, detail, "Send a JSON list of ranges, such as [\"7f0000000000-7f0000004000\"].")
    };
    let texts: Vec<std::borrow::Cow<'_, str>> =
        serde_json::from_slice(body).map_err(|e| bad(format!("The body: {e}.")))?;
    if texts.is_empty() {
        return Err(bad("The list of ranges is empty.".to_owned()));
    }
    if texts.len() > MAX_RANGES {
        return Err(Problem::new(
            Kind::TooLarge,
            format!("The list has {} ranges.", texts.len()),
            format!("Send at most {MAX_RANGES} ranges at once."),
        )
        .with("limit_ranges", MAX_RANGES));
    }
    let range = |(number, text): (usize, &std::borrow::Cow<'_, str>)| {
        address::range(text).map_err(|e| Problem::malformed(Kind::BadRange, e).with("range_number", number))
    };
    let ranges = texts.iter().enumerate().map(range).collect::<Result<Vec<_>, _>>()?;
    let pages = ranges.iter().fold(0u64, |sum, range| sum.saturating_add(range.pages()));
    if pages > MAX_PAGES {
        return Err(too_large(pages));
    }
    Ok(ranges)
}

/// The stream of `framing`.
fn records(
    served: Arc<Served>,
    pid: Pid,
    ranges: Vec<PageRange>,
) -> impl Stream<Item = Result<Bytes, Problem>> + Send + 'static {
    let records = Records {
        served,
        pid,
        ranges: ranges.into_iter(),
        walk: None,
        reader: None,
        hasher: blake3::Hasher::new(),
        data_pages: 0,
        count: 0,
        stage: Stage::Magic,
    };
    stream::try_unfold(records, |mut records| async move {
        let chunk = records.next().await?;
        Ok(chunk.map(|chunk| (chunk, records)))
    })
}

enum Stage {
    Magic,
    Records,
    Ended,
}

struct Records {
    served: Arc<Served>,
    pid: Pid,
    ranges: vec::IntoIter<PageRange>,
    /// Through the current range.
    walk: Option<Walk>,
    /// The pages of the current record.
    reader: Option<SegmentReader>,
    hasher: blake3::Hasher,
    data_pages: u64,
    count: u32,
    stage: Stage,
}

impl Records {
    async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let chunk = match self.stage {
            Stage::Magic => {
                self.stage = Stage::Records;
                Bytes::from_static(&framing::MAGIC)
            }
            Stage::Records => match self.next_record().await? {
                Some(chunk) => chunk,
                None => {
                    self.stage = Stage::Ended;
                    let end = framing::end(self.data_pages, self.count);
                    self.hasher.update(&end);
                    return Ok(Some([&end[..], self.hasher.finalize().as_bytes()].concat().into()));
                }
            },
            Stage::Ended => return Ok(None),
        };
        self.hasher.update(&chunk);
        Ok(Some(chunk))
    }

    async fn next_record(&mut self) -> Result<Option<Bytes>, Problem> {
        loop {
            if let Some(reader) = &mut self.reader
                && let Some(bytes) = reader.next().await?
            {
                return Ok(Some(bytes));
            }
            self.reader = None;
            let segment = match &mut self.walk {
                Some(walk) => walk.next().await?,
                None => None,
            };
            if let Some(segment) = segment {
                let kind = match segment.content {
                    Content::Store(_) | Content::Slim { .. } => Record::Data,
                    Content::Zero => Record::Zero,
                    Content::Absent(_) => Record::Absent,
                };
                if kind == Record::Data {
                    self.data_pages = self.data_pages.saturating_add(segment.range.pages());
                    self.reader = Some(SegmentReader::new(self.served.clone(), segment, false));
                }
                self.count = self.count.saturating_add(1);
                return Ok(Some(Bytes::copy_from_slice(&framing::record(segment.range, kind))));
            }
            match self.ranges.next() {
                Some(range) => self.walk = Some(Walk::new(self.served.clone(), self.pid, range)),
                None => return Ok(None),
            }
        }
    }
}
