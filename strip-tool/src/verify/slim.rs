//! The slim dump: a checkpoint that lacks exactly what the index has.

use super::{
    Check, MANIFEST_NAME,
    index::{Held, push},
    with_retries,
};
use criu_images::{Checkpoint, PageRange, Stored, Task, slim::original_files};
use page_store::PackEncoding;
use std::sync::Arc;

/// Checks the slim dump against what the index says is in the store.
pub(super) async fn check(check: &Check, held: &Held) {
    let store = &check.store;
    let slim = &store.manifest().slim.object;
    // The digest is checked where it is fetched.
    let dump = match with_retries(store, || store.slim()).await {
        Ok(dump) => Arc::new(dump),
        Err(e) => return check.error(&slim.object, e),
    };
    check.meter.advance(slim.size);
    check.check_end(slim).await;
    match Checkpoint::open(dump.clone()) {
        Ok(checkpoint) => compare(check, held, &checkpoint),
        Err(e) => check.problem(&slim.object, "as a checkpoint", e.to_string()),
    }
    if let Err(e) = original_files(dump) {
        check.problem(&slim.object, "what the original was", e.to_string());
    }
}

fn compare(check: &Check, held: &Held, slim: &Checkpoint) {
    let manifest = check.store.manifest();
    let pids = |tasks: &[Task]| tasks.iter().map(|task| task.pid.get()).collect::<Vec<_>>();
    if pids(&slim.tasks) != manifest.tasks.iter().map(|task| task.pid).collect::<Vec<_>>() {
        return check.problem(MANIFEST_NAME, "tasks", "other ones, or in another order, than in the slim dump");
    }
    if slim.image_version != manifest.image_version {
        let problem = format!("{}, but the slim dump's is {}", manifest.image_version, slim.image_version);
        check.problem(MANIFEST_NAME, "image_version", problem);
    }
    let raw = manifest.packs.iter().any(|pack| pack.encoding == PackEncoding::Plain);
    for (n, ((task, entry), held_ranges)) in slim.tasks.iter().zip(&manifest.tasks).zip(&held.ranges).enumerate() {
        let runs = || task.memory.iter().flat_map(|memory| &memory.runs);
        let eager = runs().filter(|run| run.stored != Stored::Elsewhere).map(|run| run.range.pages()).sum::<u64>();
        if eager != entry.slim_pages {
            let problem = format!("{}, but the slim dump has {eager}", entry.slim_pages);
            check.problem(MANIFEST_NAME, format!("tasks[{n}].slim_pages"), problem);
        }
        if !held.complete {
            continue;
        }
        let mut lazy = Vec::new();
        runs().filter(|run| run.stored == Stored::Elsewhere).for_each(|run| push(&mut lazy, run.range));
        let place = |range: &PageRange| format!("task {}, {range}", task.pid);
        for range in without(&lazy, held_ranges) {
            check.problem(&manifest.slim.object.object, place(&range), "lazy pages that are not in the index");
        }
        // A raw checkpoint leaves to the pager what its own images do: argv and environment too, though a slim dump keeps them.
        let surplus = if raw { Vec::new() } else { without(held_ranges, &lazy) };
        for range in surplus {
            check.problem(&manifest.slim.object.object, place(&range), "pages of the index that are not lazy here");
        }
    }
}

/// What of `all` is not in `known`; both sorted, without overlaps.
fn without(all: &[PageRange], known: &[PageRange]) -> Vec<PageRange> {
    let mut left = Vec::new();
    for range in all {
        let mut at = range.start().get();
        let from = known.partition_point(|k| k.end() <= at);
        for hit in known[from..].iter().map_while(|k| k.intersection(*range)) {
            left.extend(PageRange::from_bytes(at, hit.start().get()));
            at = hit.end();
        }
        left.extend(PageRange::from_bytes(at, range.end()));
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use criu_images::PAGE_SIZE;

    fn ranges(pages: &[(u64, u64)]) -> Vec<PageRange> {
        let range = |&(from, to)| PageRange::from_bytes(from * PAGE_SIZE, to * PAGE_SIZE).unwrap();
        pages.iter().map(range).collect()
    }

    #[test]
    fn what_is_missing() {
        let known = ranges(&[(2, 4), (6, 7), (9, 12)]);
        assert_eq!(without(&ranges(&[(1, 10)]), &known), ranges(&[(1, 2), (4, 6), (7, 9)]));
        assert_eq!(without(&known, &known), []);
        assert_eq!(without(&known, &[]), known);
        assert_eq!(without(&ranges(&[(0, 2), (11, 13)]), &known), ranges(&[(0, 2), (12, 13)]));
    }
}
