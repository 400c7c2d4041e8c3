//! Small cases by hand; the random ones are in `random`.

mod kernel;
mod random;

use super::*;

const GIB: u64 = 262_144;

fn range(start: u64, pages: u64) -> PageRange {
    PageRange::new(page(start), pages).unwrap()
}

fn page(number: u64) -> PageAddr {
    PageAddr::new(number * 4096).unwrap()
}

fn stored(space: &AddressSpace, at: u64) -> Option<u64> {
    match space.fault(page(at)) {
        Answer::Stored { origin, .. } => Some(origin.get() / 4096),
        _ => None,
    }
}

#[test]
fn a_run_ends_at_the_border_of_a_mapping_and_where_pages_are_present() {
    let mut space = AddressSpace::new(0, [range(100, 50), range(150, 50)], [range(90, 90)]);
    assert_eq!(space.missing_pages(), 80);
    assert_eq!(space.fault(page(120)), Answer::Stored { origin: page(120), run: range(100, 50) });
    space.installed(range(110, 5));
    assert_eq!(space.fault(page(120)), Answer::Stored { origin: page(120), run: range(115, 35) });
    assert_eq!(space.fault(page(112)), Answer::Zero { run: range(112, 3) });
    assert_eq!(space.fault(page(190)), Answer::Zero { run: range(190, 10) });
    assert_eq!(space.fault(page(99)), Answer::NotOurs);
    assert_eq!(space.fault(page(200)), Answer::NotOurs);
    space.remove(range(0, 1000));
    assert_eq!(space.fault(page(120)), Answer::Zero { run: range(120, 30) });
    assert!(space.is_whole());
}

#[test]
fn tens_of_gib_move_and_come_back() {
    let mut space = AddressSpace::new(0, [range(1000, 64 * GIB)], [range(1000, 64 * GIB)]);
    let middle = range(1000 + 10 * GIB, 20 * GIB);
    space.remap(middle, page(200 * GIB));
    space.unmap(middle);
    space.settle();
    assert_eq!(space.fault(middle.start()), Answer::NotOurs);
    let mut places = Vec::new();
    space.places(range(1000 + 10 * GIB - 8, 16), &mut places);
    assert_eq!(
        places,
        [
            Place { runtime: range(1000 + 10 * GIB - 8, 8), origin: page(1000 + 10 * GIB - 8) },
            Place { runtime: range(200 * GIB, 8), origin: page(1000 + 10 * GIB) }
        ]
    );
    space.remap(range(200 * GIB, 20 * GIB), middle.start());
    space.unmap(range(200 * GIB, 20 * GIB));
    space.settle();
    assert_eq!(space.missing_pages(), 64 * GIB);
    assert_eq!(space.next_missing(page(0)), Some(Place { runtime: range(1000, 10 * GIB), origin: page(1000) }));
}

#[test]
fn a_late_unmap_of_a_move_spares_what_moved_in() {
    let mut space = AddressSpace::new(0, [range(0, 10), range(100, 10)], [range(0, 10), range(100, 10)]);
    space.remap(range(0, 10), page(200));
    space.remap(range(100, 10), page(0));
    space.unmap(range(100, 10));
    // The second thread is quicker: it moves on before the first one's UNMAP is queued.
    space.remap(range(0, 10), page(300));
    space.unmap(range(0, 10));
    space.unmap(range(0, 10));
    space.settle();
    assert_eq!(stored(&space, 205), Some(5));
    assert_eq!(stored(&space, 305), Some(105));
    assert_eq!(stored(&space, 5), None);
}

#[test]
fn moves_of_two_threads_reported_in_the_wrong_order() {
    let mut space = AddressSpace::new(0, [range(0, 10), range(100, 10)], [range(0, 10), range(100, 10)]);
    // In truth 0 moved to 200 first; that made room for 100.
    space.remap(range(100, 10), page(0));
    assert_eq!(space.missing_pages(), 20);
    space.remap(range(0, 10), page(200));
    space.unmap(range(0, 10));
    space.unmap(range(100, 10));
    space.settle();
    assert_eq!((stored(&space, 3), stored(&space, 203)), (Some(103), Some(3)));
}

#[test]
fn what_mremap_leaves_mapped_reads_as_zeros() {
    let mut space = AddressSpace::new(0, [range(0, 10)], [range(0, 10)]);
    space.remap(range(0, 10), page(200));
    assert!(!space.is_settled());
    assert_eq!(space.fault(page(4)), Answer::Zero { run: range(4, 1) });
    space.settle();
    assert_eq!(space.fault(page(4)), Answer::NotOurs);
    assert_eq!(stored(&space, 204), Some(4));
    // It may be moved on as part of something larger, which is no UNMAP of it; then its place is free for others.
    space.remap(range(0, 12), page(300));
    space.unmap(range(0, 12));
    space.settle();
    space.remap(range(200, 10), page(0));
    space.unmap(range(200, 10));
    space.remap(range(0, 10), page(400));
    space.unmap(range(0, 10));
    assert_eq!(stored(&space, 404), Some(4));
}

#[test]
fn ranges_at_the_end_of_user_space() {
    let last = PageAddr::LIMIT / 4096 - 10;
    let mut space = AddressSpace::new(0, [range(last, 10), range(0, 10)], [range(last, 10), range(0, 10)]);
    space.remap(range(0, 10), page(last + 5));
    assert_eq!(stored(&space, last + 9), Some(last + 9));
    space.remap(range(last, 5), page(0));
    space.installed(range(last, 10));
    space.settle();
    space.unmap(range(0, last + 10));
    assert!(space.fork().is_whole());
}
