//! A pages file, from the slim dump's bytes and the store's pages.

use super::{copy, frames::FrameReader};
use crate::{Meter, retry::with_retries};
use anyhow::{Result, bail};
use criu_images::{PAGE_SIZE, PageRange, Pid, slim::Piece};
use page_store::{FRAME_PAGES, Location, PageNumber, SlimDump, Store};
use std::io::Write;

/// Pages whose runs are looked up at once (1 GiB): a task may have millions of runs.
const PAGES_AT_ONCE: u64 = 1 << 18;
const ZERO_PAGE: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];

/// Writes the pages file called `name` of the task `pid`.
pub(super) struct PagesWriter<'a> {
    pub(super) slim: &'a SlimDump,
    pub(super) store: &'a Store,
    pub(super) frames: &'a mut FrameReader,
    pub(super) meter: &'a Meter,
    pub(super) pid: Pid,
    pub(super) name: &'a str,
}

impl PagesWriter<'_> {
    pub(super) async fn write(&mut self, piece: &Piece, out: &mut impl Write) -> Result<()> {
        match *piece {
            Piece::Slim { offset, len } => copy(self.slim, self.name, offset, len, out, self.meter).await,
            Piece::Store { range } => {
                let mut done = 0;
                while done < range.pages() {
                    let pages = PAGES_AT_ONCE.min(range.pages() - done);
                    let part = range.start().checked_add(done).and_then(|start| PageRange::new(start, pages));
                    let Some(part) = part else { bail!("{range} leaves user space") };
                    self.stored(part, out).await?;
                    done += pages;
                }
                Ok(())
            }
        }
    }

    /// Every page of `range`, from the store.
    async fn stored(&mut self, range: PageRange, out: &mut impl Write) -> Result<()> {
        let mut at = range.start().get();
        for run in with_retries(self.store, || self.store.runs(self.pid, range)).await? {
            if run.range.start().get() != at {
                break;
            }
            at = run.range.end();
            match run.location {
                Location::Zero => {
                    // Written, not skipped: a pages file with holes means something else to CRIU.
                    for page in 0..run.range.pages() {
                        out.write_all(&ZERO_PAGE)?;
                        // As often as where pages have bytes: whoever wants to stop is heard.
                        if page % FRAME_PAGES == 0 {
                            tokio::task::yield_now().await;
                        }
                    }
                }
                Location::Page(first) => self.pages(first, run.range.pages(), out).await?,
            }
            self.meter.advance(run.range.bytes());
        }
        if at != range.end() {
            bail!("task {}: the store lacks the page at {at:#x}", self.pid);
        }
        Ok(())
    }

    async fn pages(&mut self, first: PageNumber, pages: u64, out: &mut impl Write) -> Result<()> {
        let (mut page, mut left) = (first, pages);
        while left > 0 {
            let take = left.min(FRAME_PAGES - page.in_frame() as u64);
            let frame = self.frames.get(page.frame(), (left - take).div_ceil(FRAME_PAGES)).await?;
            let Some(bytes) = frame.pages(page, take) else {
                bail!("frame {} of the store is too short for page {}", page.frame().0, page.0);
            };
            out.write_all(bytes)?;
            (page, left) = (PageNumber(page.0 + take), left - take);
        }
        Ok(())
    }
}
