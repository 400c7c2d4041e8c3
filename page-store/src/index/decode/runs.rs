//! The columns of runs: tasks, addresses, lengths, locations.

use super::{Header, PartBounds, Reader};
use crate::{
    FRAME_PAGES, Result,
    index::{
        MAX_PAGES,
        lookup::{Group, RunEntry},
        varint,
    },
};
use criu_images::{PAGE_SIZE, PageAddr};

pub(super) fn groups(reader: &mut Reader<'_>, header: &Header, bounds: &PartBounds<'_>) -> Result<Vec<Group>> {
    let tasks = bounds.manifest.tasks.len() as u64;
    let mut groups: Vec<Group> = reader.reserve("tasks", header.groups, 2)?;
    let (mut task, mut first_run) = (0u64, 0u64);
    for i in 0..header.groups {
        let place = || format!("task list, entry {i}");
        let step = reader.varint(&place)?;
        let runs = reader.varint(&place)?;
        task = task.checked_add(step).filter(|&t| t < tasks).ok_or_else(|| reader.corrupt(place(), "no such task"))?;
        if i > 0 && step == 0 {
            return Err(reader.corrupt(place(), "the same task again"));
        }
        if runs == 0 || runs > header.runs - first_run {
            return Err(reader.corrupt(place(), "number of runs does not fit"));
        }
        groups.push(Group { task: task as u32, first_run: first_run as u32 });
        first_run += runs;
    }
    if first_run != header.runs {
        return Err(reader.corrupt("task list", format!("{first_run} runs, but {} in the header", header.runs)));
    }
    Ok(groups)
}

pub(super) fn ranges(
    reader: &mut Reader<'_>,
    header: &Header,
    groups: &[Group],
    bounds: &PartBounds<'_>,
) -> Result<Vec<RunEntry>> {
    let mut runs: Vec<RunEntry> = reader.reserve("runs", header.runs, 3)?;
    // The two columns go together: gaps lead, lengths follow in a second reader that starts where gaps end.
    let mut gaps = Reader { object: reader.object, rest: reader.rest };
    for i in 0..header.runs {
        reader.varint(&|| format!("addresses, run {i}"))?;
    }
    let mut group = groups.iter().peekable();
    let (mut task, mut end) = (0u32, 0u64);
    for i in 0..header.runs {
        let place = || format!("run {i}");
        if let Some(next) = group.next_if(|g| u64::from(g.first_run) == i) {
            (task, end) = (next.task, 0);
        }
        let gap = gaps.varint(&place)?;
        let pages = reader.varint(&|| format!("lengths, run {i}"))?.saturating_add(1);
        let first = end.saturating_add(gap);
        end = first.saturating_add(pages);
        if end > PageAddr::LIMIT / PAGE_SIZE {
            return Err(reader.corrupt(place(), "leaves user space"));
        }
        let start = (task, first * PAGE_SIZE);
        if i == 0 && start != bounds.first {
            return Err(reader.corrupt(place(), "the part begins elsewhere than the manifest says"));
        }
        if bounds.next.is_some_and(|next| (task, end * PAGE_SIZE) > next) {
            return Err(reader.corrupt(place(), "belongs to the next part"));
        }
        runs.push(RunEntry { first, pages, location: RunEntry::ZERO });
    }
    Ok(runs)
}

pub(super) fn locations(reader: &mut Reader<'_>, runs: &mut [RunEntry], bounds: &PartBounds<'_>) -> Result<()> {
    // What a run names came before it or comes in its own part.
    let end_frame = bounds.first_frame.saturating_add(bounds.frames);
    let all_pages = end_frame.saturating_mul(FRAME_PAGES).min(MAX_PAGES);
    let mut expected = bounds.first_frame.saturating_mul(FRAME_PAGES);
    for (i, run) in runs.iter_mut().enumerate() {
        let place = || format!("locations, run {i}");
        let Some(folded) = reader.varint(&place)?.checked_sub(1) else { continue };
        let page = expected.checked_add_signed(varint::unzigzag(folded));
        let end = page.and_then(|page| page.checked_add(run.pages)).filter(|&end| end <= all_pages);
        let (Some(page), Some(end)) = (page, end) else {
            return Err(reader.corrupt(place(), "names pages that are not in this part or before it"));
        };
        run.location = page;
        expected = end;
    }
    Ok(())
}
