//! Against [`Checkpoint::page_at`], page by page.

use super::*;
use criu_images::{
    ImageDir, PageAt, Pid,
    bits::*,
    testing::{Dump, Pages, Task, Vma},
};
use proptest::prelude::*;
use std::sync::Arc;

const BASE: u64 = 0x7000_0000;
const SEGMENT: u64 = 5;

/// Pages of the window that is compared.
const PAGES: u64 = 80;

#[derive(Clone, Debug)]
struct Piece {
    gap: u64,
    pages: u64,
    kind: u32,
    dumped: Vec<bool>,
}

fn piece() -> impl Strategy<Value = Piece> {
    (0u64..4, 1u64..12, 0u32..6, proptest::collection::vec(any::<bool>(), 12))
        .prop_map(|(gap, pages, kind, dumped)| Piece { gap, pages, kind, dumped })
}

fn task(pieces: &[Piece]) -> Task {
    let mut task = Task::new(1);
    let mut at = BASE;
    for piece in pieces {
        at += piece.gap * PAGE_SIZE;
        let (flags, status, shmid, pgoff) = match piece.kind {
            0 | 1 => (MAP_PRIVATE | MAP_ANONYMOUS, STATUS_ANON_PRIVATE, 0, 0),
            2 => (MAP_PRIVATE, STATUS_FILE_PRIVATE, 9, 0x3000),
            3 => (MAP_SHARED | MAP_ANONYMOUS, STATUS_ANON_SHARED, SEGMENT, 0x2000),
            4 => (MAP_SHARED | MAP_ANONYMOUS, STATUS_ANON_SHARED, SEGMENT + 1, 0),
            _ => (MAP_PRIVATE, STATUS_VVAR, 0, 0),
        };
        task = task.vma(Vma { start: at, pages: piece.pages, flags, status: 1 | status, shmid, pgoff });
        let private = flags & MAP_PRIVATE != 0 && piece.kind < 5;
        for page in (0..piece.pages).filter(|page| private && piece.dumped[*page as usize]) {
            task = task.pages(Pages::here(at + page * PAGE_SIZE, 1));
        }
        at += piece.pages * PAGE_SIZE;
    }
    task
}

/// Every other lazy run is in the store; the window cuts it as it would cut any.
fn stored(memory: &Memory, window: PageRange) -> Vec<Run> {
    let lazy = memory.runs.iter().filter(|run| run.lazy).enumerate().filter(|(number, _)| number % 2 == 0);
    lazy.filter_map(|(number, run)| {
        let range = run.range.intersection(window)?;
        let skipped = (range.start().get() - run.range.start().get()) / PAGE_SIZE;
        let page = PageNumber(run.range.start().get() / PAGE_SIZE + skipped);
        Some(Run { range, location: if number % 3 == 0 { Location::Zero } else { Location::Page(page) } })
    })
    .collect()
}

fn naive(images: &Checkpoint, stored: &[Run], addr: PageAddr) -> Content {
    if let Some(run) = stored.iter().find(|run| run.range.contains(addr)) {
        return match run.location {
            Location::Zero => Content::Zero,
            Location::Page(_) => Content::Store(PageNumber(addr.get() / PAGE_SIZE)),
        };
    }
    match images.page_at(Pid::new(1).unwrap(), addr).unwrap() {
        PageAt::Private { stored, .. } | PageAt::Shared { stored, .. } => match stored {
            Stored::Here { file, offset } => Content::Slim { file, offset },
            Stored::Elsewhere => Content::Absent(Absence::Lost),
        },
        PageAt::Zero { .. } => Content::Zero,
        PageAt::File { offset, .. } => Content::Absent(Absence::InFile { offset }),
        PageAt::Special { .. } => Content::Absent(Absence::Kernel),
        PageAt::Unmapped { .. } | PageAt::NoMemory => Content::Absent(Absence::Unmapped),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_page_is_what_it_is_alone(
        pieces in proptest::collection::vec(piece(), 1..8),
        shared in proptest::collection::vec(any::<bool>(), 12),
        from in 0u64..PAGES / 2,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let shared = (0u64..).zip(&shared).filter(|(_, here)| **here).map(|(page, _)| Pages::here(page * PAGE_SIZE, 1));
        let mut dump = Dump::new().task(task(&pieces)).shared(SEGMENT, shared.collect());
        dump.files = vec![(9, "/a/file".into())];
        dump.write(dir.path()).unwrap();
        let images = Checkpoint::open(Arc::new(ImageDir::open(dir.path()).unwrap())).unwrap();
        let memory = images.tasks[0].memory.as_ref().unwrap();

        let window = PageRange::from_bytes(BASE + from * PAGE_SIZE, BASE + PAGES * PAGE_SIZE).unwrap();
        let stored = stored(memory, window);
        let mut at = window.start();
        for segment in overlay(&images, memory, &stored, window) {
            prop_assert_eq!(segment.range.start(), at);
            for page in 0..segment.range.pages() {
                let addr = at.checked_add(page).unwrap();
                let here = match segment.content {
                    Content::Store(first) => Content::Store(PageNumber(first.0 + page)),
                    Content::Slim { file, offset } => Content::Slim { file, offset: offset + page * PAGE_SIZE },
                    Content::Absent(Absence::InFile { offset }) => {
                        Content::Absent(Absence::InFile { offset: offset + page * PAGE_SIZE })
                    }
                    other => other,
                };
                prop_assert_eq!(here, naive(&images, &stored, addr), "{}", addr);
            }
            at = at.checked_add(segment.range.pages()).unwrap();
        }
        prop_assert_eq!(at.get(), window.end());
    }
}
