//! Goes through any range of a task's memory with a little state, however large the range is.

use crate::{
    problem::Problem,
    segment::{Absence, Content, Segment},
    served::Served,
};
use criu_images::{PAGE_SIZE, PageAddr, PageRange, Pid};
use std::{sync::Arc, vec};

/// Bytes looked up at a time, where little is known about how scattered they are; and at most: a mapping of 20 TiB is done in
/// 80,000 steps.
const WINDOW: u64 = 8 << 20;
const LARGEST_WINDOW: u64 = 256 << 20;
/// Segments that are kept, 160 KiB: a walk lives as long as its answer, and there may be many. What was looked up beyond is looked up again.
const KEPT: usize = 4096;

/// The segments of a range, one after another.
#[derive(Debug)]
pub(crate) struct Walk {
    served: Arc<Served>,
    pid: Pid,
    rest: Option<PageRange>,
    window: u64,
    ready: vec::IntoIter<Segment>,
}

impl Walk {
    pub(crate) fn new(served: Arc<Served>, pid: Pid, range: PageRange) -> Self {
        Self { served, pid, rest: Some(range), window: WINDOW, ready: Vec::new().into_iter() }
    }

    /// The next one; together they cover the range exactly.
    pub(crate) async fn next(&mut self) -> Result<Option<Segment>, Problem> {
        loop {
            if let Some(segment) = self.ready.next() {
                return Ok(Some(segment));
            }
            let Some(rest) = self.rest else { return Ok(None) };
            let cut = rest.start().get().saturating_add(self.window).min(rest.end());
            let Some(window) = PageRange::from_bytes(rest.start().get(), cut) else { return Ok(None) };
            let mut segments = self.served.segments(self.pid, window).await?;
            let cut = match segments.get(KEPT) {
                Some(first) => {
                    let cut = first.range.start().get();
                    segments.truncate(KEPT);
                    segments.shrink_to_fit();
                    self.window = WINDOW;
                    cut
                }
                None => {
                    if segments.len() < KEPT / 16 {
                        self.window = (self.window * 2).min(LARGEST_WINDOW);
                    }
                    cut
                }
            };
            self.rest = PageRange::from_bytes(cut, rest.end());
            self.ready = segments.into_iter();
            // Nothing above needs to have waited: let others have their turn.
            tokio::task::yield_now().await;
        }
    }
}

/// What a range lacks. Lists are cut after [`Survey::LISTED`] entries.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    pub(crate) present: Vec<PageRange>,
    pub(crate) holes: Vec<(PageRange, Absence)>,
    pub(crate) hole_pages: u64,
}

impl Survey {
    /// Enough to see what is the matter, and a problem document stays a few KiB.
    pub(crate) const LISTED: usize = 32;

    /// Looks at a range without reading any page.
    pub(crate) async fn of(served: &Arc<Served>, pid: Pid, range: PageRange) -> Result<Self, Problem> {
        let mut survey = Self::default();
        let mut walk = Walk::new(served.clone(), pid, range);
        while let Some(Segment { range, content }) = walk.next().await? {
            let Content::Absent(why) = content else {
                let listed = survey.present.len();
                match survey.present.last_mut() {
                    Some(last) if last.end() == range.start().get() => *last = joined(*last, range),
                    _ if listed < Self::LISTED => survey.present.push(range),
                    _ => {}
                }
                continue;
            };
            survey.hole_pages = survey.hole_pages.saturating_add(range.pages());
            if survey.holes.len() < Self::LISTED {
                survey.holes.push((range, why));
            }
        }
        Ok(survey)
    }
}

fn joined(first: PageRange, second: PageRange) -> PageRange {
    PageRange::new(first.start(), first.pages().saturating_add(second.pages())).unwrap_or(first)
}

/// Part of a segment.
pub(crate) fn skip(segment: Segment, pages: u64) -> Option<Segment> {
    let start = segment.range.start().checked_add(pages)?;
    let range = PageRange::new(start, segment.range.pages().checked_sub(pages)?)?;
    let content = match segment.content {
        Content::Store(first) => Content::Store(page_store::PageNumber(first.0.saturating_add(pages))),
        Content::Slim { file, offset } => {
            Content::Slim { file, offset: offset.saturating_add(pages.saturating_mul(PAGE_SIZE)) }
        }
        other => other,
    };
    Some(Segment { range, content })
}

/// One page as a range.
pub(crate) fn single(page: PageAddr) -> Option<PageRange> {
    PageRange::new(page, 1)
}
