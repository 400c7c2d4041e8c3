//! `GET /pid/{pid}/pagemap`: where each page is, in runs.

use super::{
    Shared, bytes,
    pages::why_text,
    params::{self, PathOf, Query},
};
use crate::{
    address,
    places::{Admission, Size},
    problem::{Kind, Problem},
    segment::{Absence, Content, Segment},
    served::{Served, range_json},
    walk::Walk,
};
use axum::{
    body::Bytes,
    extract::State,
    response::{IntoResponse, Response},
};
use criu_images::{PAGE_SIZE, PageRange, Pid};
use futures::stream;
use http::header;
use std::{fmt::Write, sync::Arc};

/// Bytes of JSON that are written at a time.
const BATCH: usize = 32 << 10;

pub(super) async fn pagemap(
    State(app): Shared,
    admission: Admission,
    PathOf(pid): PathOf<String>,
    query: Query,
) -> Result<Response, Problem> {
    let served = app.served().await?;
    let pid = params::pid(&pid)?;
    served.memory(pid)?;
    let range =
        query.get("range").map(address::range).transpose().map_err(|e| Problem::malformed(Kind::BadRange, e))?;
    let place = admission.place(Size::List).await?;
    let listing = Listing { served, pid, range, mapping: 0, walk: None, run: None, stage: Stage::Head, any: false };
    let batches = stream::try_unfold(listing, |mut listing| async move {
        let batch = listing.next().await?;
        Ok(batch.map(|batch| (batch, listing)))
    });
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers, bytes::body(place, batches)).into_response())
}

enum Stage {
    Head,
    Runs,
    Done,
}

/// The list while it is written: mapping by mapping, so that the gaps between them cost nothing.
struct Listing {
    served: Arc<Served>,
    pid: Pid,
    range: Option<PageRange>,
    /// The next one to go through.
    mapping: usize,
    walk: Option<Walk>,
    /// The last run, to which the next segment may belong.
    run: Option<Segment>,
    stage: Stage,
    any: bool,
}

impl Listing {
    async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let mut text = match self.stage {
            Stage::Head => format!("{{\"pid\":{},\"runs\":[", self.pid),
            Stage::Runs => String::new(),
            Stage::Done => return Ok(None),
        };
        self.stage = Stage::Runs;
        while text.len() < BATCH {
            let segment = self.segment().await?;
            if let (Some(run), Some(segment)) = (self.run, segment)
                && let Some(joined) = joined(run, segment)
            {
                self.run = Some(joined);
                continue;
            }
            match self.run.take() {
                Some(run) => self.write(&mut text, run),
                None if segment.is_none() => {
                    text.push_str("]}\n");
                    self.stage = Stage::Done;
                    break;
                }
                None => {}
            }
            self.run = segment;
        }
        Ok(Some(Bytes::from(text)))
    }

    async fn segment(&mut self) -> Result<Option<Segment>, Problem> {
        loop {
            if let Some(walk) = &mut self.walk
                && let Some(segment) = walk.next().await?
            {
                return Ok(Some(segment));
            }
            let Some(mapping) = self.served.memory(self.pid)?.mappings.get(self.mapping) else { return Ok(None) };
            self.mapping += 1;
            let part = match self.range {
                Some(range) => mapping.range.intersection(range),
                None => Some(mapping.range),
            };
            self.walk = part.map(|part| Walk::new(self.served.clone(), self.pid, part));
        }
    }

    fn write(&mut self, text: &mut String, run: Segment) {
        let mut json = range_json(run.range);
        json["source"] = match run.content {
            Content::Store(first) => {
                json["page_number"] = first.0.into();
                "store"
            }
            Content::Slim { .. } => "slim",
            Content::Zero => "zero",
            Content::Absent(why) => why_text(why),
        }
        .into();
        text.push_str(if self.any { ",\n" } else { "\n" });
        self.any = true;
        // Writing to a String cannot fail.
        let _ = write!(text, "{json}");
    }
}

/// Both as one run, if the second continues the first.
fn joined(first: Segment, second: Segment) -> Option<Segment> {
    if first.range.end() != second.range.start().get() {
        return None;
    }
    let pages = first.range.pages();
    let continues = match (first.content, second.content) {
        (Content::Store(a), Content::Store(b)) => a.0.checked_add(pages) == Some(b.0),
        (Content::Slim { .. }, Content::Slim { .. }) | (Content::Zero, Content::Zero) => true,
        (Content::Absent(Absence::InFile { offset: a }), Content::Absent(Absence::InFile { offset: b })) => {
            pages.checked_mul(PAGE_SIZE).and_then(|len| len.checked_add(a)) == Some(b)
        }
        (Content::Absent(a), Content::Absent(b)) => a == b,
        _ => false,
    };
    let range = PageRange::new(first.range.start(), pages.checked_add(second.range.pages())?)?;
    continues.then_some(Segment { range, content: first.content })
}
