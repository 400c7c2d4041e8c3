//! From pages to runs: cut where the mapping or the laziness changes, joined where nothing does.

use crate::{
    Mapping, PageRange, PageRun, Stored,
    chain::Piece,
    lazy::{self, KeepEager},
};

/// Cuts `pieces` (sorted) at the borders of `mappings` (sorted) and of `keep`. Pages outside of every mapping stay eager:
/// the restorer would not register them.
pub(crate) fn runs(pieces: &[Piece], mappings: &[Mapping], keep: &KeepEager) -> Vec<PageRun> {
    let mut runs: Vec<PageRun> = Vec::with_capacity(pieces.len());
    // Index of the mapping that the last run lies in.
    let mut last = None;
    let mut next = 0;
    for piece in pieces {
        let mut start = piece.range.start();
        loop {
            while mappings.get(next).is_some_and(|m| m.range.end() <= start.get()) {
                next += 1;
            }
            let mapping = mappings.get(next).filter(|m| m.range.contains(start));
            let border = match (mapping, mappings.get(next)) {
                (Some(inside), _) => inside.range.end(),
                (None, Some(above)) => above.range.start().get(),
                (None, None) => piece.range.end(),
            };
            let (stays, end) = keep.at(start, border.min(piece.range.end()));
            let lazy = !stays && mapping.is_some_and(lazy::leave_out);
            let Some(range) = PageRange::from_bytes(start.get(), end) else { break };
            let skipped = start.get() - piece.range.start().get();
            let stored = match piece.stored {
                Stored::Here { file, offset } => Stored::Here { file, offset: offset + skipped },
                Stored::Elsewhere => Stored::Elsewhere,
            };
            let run = PageRun { range, stored, lazy, marked_lazy: piece.marked_lazy };
            let place = mapping.map(|_| next);
            match runs.last_mut().filter(|_| last == Some(place)) {
                Some(before) if continues(before, &run) => before.range = join(before.range, range),
                _ => runs.push(run),
            }
            last = Some(place);
            match range.start().checked_add(range.pages()).filter(|_| end < piece.range.end()) {
                Some(after) => start = after,
                None => break,
            }
        }
    }
    runs.shrink_to_fit();
    runs
}

fn continues(before: &PageRun, run: &PageRun) -> bool {
    let stored = match (before.stored, run.stored) {
        (Stored::Here { file: a, offset: at }, Stored::Here { file: b, offset }) => {
            a == b && at + before.range.bytes() == offset
        }
        (Stored::Elsewhere, Stored::Elsewhere) => true,
        _ => false,
    };
    let adjacent = before.range.end() == run.range.start().get();
    adjacent && stored && before.lazy == run.lazy && before.marked_lazy == run.marked_lazy
}

fn join(a: PageRange, b: PageRange) -> PageRange {
    PageRange::new(a.start(), a.pages() + b.pages()).unwrap_or(a)
}
