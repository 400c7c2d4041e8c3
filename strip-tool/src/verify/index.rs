//! The parts of the index, and through their frame tables the packs.

use super::{Check, MANIFEST_NAME, packs, with_retries};
use anyhow::Result;
use criu_images::{PageAddr, PageRange};
use page_store::{
    FrameInfo, FrameNumber, Location,
    index::{IndexPart, PartBounds},
};
use std::sync::Arc;
use tokio::task::JoinSet;

/// Packs that are read at once. Decoding is what takes the time, and this keeps so many cores busy.
const PACKS_AT_ONCE: usize = 4;

/// What the index says is in the store.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Per task, by position: lazy pages, neighbours joined.
    pub(super) ranges: Vec<Vec<PageRange>>,
    /// Whether every part could be read: else what is missing is no news.
    pub(super) complete: bool,
}

/// Goes through the index once.
pub(super) struct IndexCheck<'a> {
    check: &'a Arc<Check>,
    held: Held,
    zero_pages: u64,
    stored_pages: u64,
    /// Frames of the pack that is being gathered, and whether they are all of it.
    frames: Vec<FrameInfo>,
    pack: usize,
    whole: bool,
    /// Whether the frames before the next one are not known, and with them where its pack begins.
    lost: bool,
    jobs: JoinSet<()>,
}

impl<'a> IndexCheck<'a> {
    /// Checks the index and all packs.
    pub(super) async fn run(check: &'a Arc<Check>) -> Result<Held> {
        let manifest = check.store.manifest();
        let ranges = vec![Vec::new(); manifest.tasks.len()];
        let mut this = Self {
            check,
            held: Held { ranges, complete: true },
            zero_pages: 0,
            stored_pages: 0,
            frames: Vec::new(),
            pack: 0,
            whole: true,
            lost: false,
            jobs: JoinSet::new(),
        };
        let mut first_frame = 0;
        for at in 0..manifest.index.len() {
            let frames = manifest.index[at].frames;
            match this.part(at).await {
                Some(part) => {
                    this.runs(&part);
                    for n in first_frame..first_frame + frames {
                        this.frame(part.frame(FrameNumber(n))).await?;
                    }
                }
                None => (this.held.complete, this.lost, this.whole) = (false, true, false),
            }
            first_frame += frames;
        }
        while this.pack < manifest.packs.len() {
            this.next_pack().await?;
        }
        while let Some(done) = this.jobs.join_next().await {
            done?;
        }
        this.sums();
        Ok(this.held)
    }

    /// A part, if it is good.
    async fn part(&self, at: usize) -> Option<IndexPart> {
        let store = &self.check.store;
        let object = &store.manifest().index[at].object;
        let bytes = with_retries(store, || store.backend().get(&object.object, object.size)).await;
        let bytes = bytes.map_err(|e| self.check.error(&object.object, e)).ok()?;
        self.check.meter.advance(bytes.len() as u64);
        if bytes.len() as u64 != object.size {
            let problem = format!("{} bytes, but the manifest says {}", bytes.len(), object.size);
            self.check.problem(&object.object, "length", problem);
        }
        self.check.check_digest(object, blake3::hash(&bytes));
        let bounds = PartBounds::of(store.manifest(), at)?;
        let part = IndexPart::decode(&store.backend().describe(&object.object), &bytes, &bounds);
        part.map_err(|e| self.check.error(&object.object, e)).ok()
    }

    fn runs(&mut self, part: &IndexPart) {
        let Some(everything) = PageRange::from_bytes(0, PageAddr::LIMIT) else { return };
        for (task, ranges) in (0u32..).zip(&mut self.held.ranges) {
            for run in part.runs(task, everything) {
                if run.location == Location::Zero {
                    self.zero_pages += run.range.pages();
                }
                push(ranges, run.range);
            }
        }
    }

    async fn frame(&mut self, frame: Option<FrameInfo>) -> Result<()> {
        let Some(frame) = frame else {
            (self.lost, self.whole) = (true, false);
            return Ok(());
        };
        while self.pack < frame.pack as usize {
            self.next_pack().await?;
        }
        if std::mem::take(&mut self.lost) {
            self.whole = frame.offset == 0;
        }
        self.stored_pages += u64::from(frame.pages);
        self.frames.push(frame);
        Ok(())
    }

    /// Has the gathered pack checked, and goes on to the next.
    async fn next_pack(&mut self) -> Result<()> {
        let frames = std::mem::take(&mut self.frames);
        let frames = std::mem::replace(&mut self.whole, !self.lost).then_some(frames);
        while self.jobs.len() >= PACKS_AT_ONCE {
            if let Some(done) = self.jobs.join_next().await {
                done?;
            }
        }
        self.jobs.spawn(packs::check(Arc::clone(self.check), self.pack, frames));
        self.pack += 1;
        Ok(())
    }

    /// The manifest's sums.
    fn sums(&self) {
        if !self.held.complete {
            return;
        }
        let manifest = self.check.store.manifest();
        let expect = |place: String, said: u64, found: u64| {
            if said != found {
                self.check.problem(MANIFEST_NAME, place, format!("{said}, but the index has {found}"));
            }
        };
        for (n, (task, ranges)) in manifest.tasks.iter().zip(&self.held.ranges).enumerate() {
            expect(format!("tasks[{n}].lazy_pages"), task.lazy_pages, ranges.iter().map(|r| r.pages()).sum());
        }
        expect("totals.zero_pages".into(), manifest.totals.zero_pages, self.zero_pages);
        expect("totals.stored_pages".into(), manifest.totals.stored_pages, self.stored_pages);
    }
}

/// Appends a range that lies behind the others; joins it to the last if it touches that.
pub(super) fn push(ranges: &mut Vec<PageRange>, range: PageRange) {
    if let Some(last) = ranges.last_mut()
        && last.end() == range.start().get()
        && let Some(joined) = PageRange::new(last.start(), last.pages() + range.pages())
    {
        *last = joined;
        return;
    }
    ranges.push(range);
}
