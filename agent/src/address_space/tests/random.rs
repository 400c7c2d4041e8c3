//! Random programs against a naive kernel: whatever the order in which things happen, every page gets what belongs there.

use super::kernel::{BLOCKS, Event, Process, THREADS};
use super::*;
use proptest::prelude::*;

/// Pages in a block. The large one makes every range tens of GiB long.
const SCALES: [u64; 3] = [1, 7, 3 * GIB + 5];
/// As many as a case may have.
const PROCESSES: usize = 4;

/// The agent's side, driven as the engine drives it.
struct Agent {
    scale: u64,
    kernel: Vec<Process>,
    spaces: Vec<Option<AddressSpace>>,
    /// Frames on their way: stored blocks, by process.
    in_flight: Vec<(usize, u64, u64)>,
}

impl Agent {
    fn new(scale: u64, growing: bool, late: bool, zeros: u64) -> Self {
        let stored = |n: u64| n % 7 != zeros;
        let process = Process::new(growing, late, stored);
        let blocks = |stored: bool| {
            let blocks = process.blocks.iter().filter(move |(_, b)| !stored || b.content.is_some());
            blocks.map(move |(n, _)| range(n * scale, scale)).collect::<Vec<_>>()
        };
        let space = AddressSpace::new(3, blocks(false), blocks(true));
        Self { scale, kernel: vec![process], spaces: vec![Some(space)], in_flight: Vec::new() }
    }

    fn blocks(&self, start: u64, len: u64) -> PageRange {
        range(start * self.scale, len * self.scale)
    }

    fn read_event(&mut self, process: usize) -> bool {
        let Some(event) = self.kernel[process].read() else { return false };
        let Some(mut space) = self.spaces[process].take() else { return true };
        match event {
            Event::Remap { from, to, len } => space.remap(self.blocks(from, len), page(to * self.scale)),
            Event::Remove { start, end } => space.remove(self.blocks(start, end - start)),
            Event::Unmap { start, end } => space.unmap(self.blocks(start, end - start)),
            Event::Fork { child } => {
                self.kernel[child].unborn = false;
                self.spaces[child] = Some(space.fork());
            }
        }
        self.spaces[process] = Some(space);
        self.quiet(process);
        true
    }

    /// The address space, if the kernel lets copies through.
    fn quiet(&mut self, process: usize) -> Option<&mut AddressSpace> {
        let quiet = self.kernel[process].is_quiet();
        let space = self.spaces[process].as_mut().filter(|_| quiet)?;
        space.settle();
        Some(space)
    }

    /// A thread touches a block.
    fn touch(&mut self, process: usize, block: u64, whole_run: bool) {
        let scale = self.scale;
        let Some(&truth) = self.kernel[process].blocks.get(&block).filter(|b| !b.present) else { return };
        if self.kernel[process].is_being_removed(block) {
            return;
        }
        let Some(space) = self.quiet(process) else { return };
        let (first, last) = (page(block * scale), page(block * scale + scale - 1));
        let filled = match (space.fault(first), truth.content) {
            (Answer::Stored { origin, run }, Some(content)) => {
                assert_eq!(origin, page(content * scale));
                assert!(run.contains(last));
                let back = Answer::Stored { origin: page(content * scale + scale - 1), run };
                assert_eq!(space.fault(last), back);
                space.installed(if whole_run { run } else { range(block * scale, scale) });
                run
            }
            (Answer::Zero { run }, None) => run,
            (Answer::NotOurs, None) => range(block * scale, scale),
            (answer, content) => panic!("block {block} holds {content:?}, the answer is {answer:?}"),
        };
        assert!(filled.contains(first));
        let stored = truth.content.is_some();
        for block in filled.start().get() / 4096 / scale..filled.end() / 4096 / scale {
            let removed = self.kernel[process].is_being_removed(block);
            match self.kernel[process].blocks.get_mut(&block) {
                Some(there) if removed => there.present = true,
                Some(there) if whole_run || range(block * scale, 1).start() == first => {
                    assert!(there.present || there.content.is_some() == stored);
                    there.present = true;
                }
                Some(_) => {}
                None => assert!(!stored, "a run of missing pages leaves its mapping"),
            }
        }
    }

    /// A frame has arrived: it goes wherever it is missing now.
    fn land(&mut self, (process, start, len): (usize, u64, u64)) -> bool {
        let (scale, origin) = (self.scale, self.blocks(start, len));
        self.drop_unmapped(process);
        let Some(space) = self.quiet(process) else { return false };
        let mut places = Vec::new();
        assert_eq!(space.lacks(origin), {
            space.places(origin, &mut places);
            !places.is_empty()
        });
        for place in places {
            self.spaces[process].as_mut().unwrap().installed(place.runtime);
            for page in 0..place.runtime.pages() / scale {
                let (at, content) =
                    (place.runtime.start().get() / 4096 / scale + page, place.origin.get() / 4096 / scale + page);
                let there = self.kernel[process].blocks.get_mut(&at).expect("a copy into unmapped memory");
                assert!(!there.present && there.content == Some(content), "block {content} lands on {there:?}");
                there.present = true;
            }
        }
        assert!(!self.spaces[process].as_ref().unwrap().lacks(origin));
        true
    }

    /// A child may be thought to have memory that it has not: an UNMAP that two threads of its parent had outstanding, for the same
    /// range, before it was forked and after. The kernel says so when it is copied to (ENOENT).
    fn drop_unmapped(&mut self, process: usize) {
        let unmapped: Vec<_> = (0..BLOCKS).filter(|block| !self.kernel[process].is_used(*block)).collect();
        let ranges: Vec<_> = unmapped.into_iter().map(|block| self.blocks(block, 1)).collect();
        if let Some(space) = self.quiet(process).filter(|_| process > 0) {
            ranges.into_iter().for_each(|range| space.installed(range));
        }
    }

    /// All events read: the address space is what the kernel has.
    fn check(&mut self, process: usize) {
        while self.kernel[process].is_busy() {
            self.read_event(process);
            (0..THREADS).for_each(|thread| self.kernel[process].go_on(thread));
        }
        self.drop_unmapped(process);
        let Some(space) = self.quiet(process) else { return };
        space.missing.check();
        let mut missing = Vec::new();
        let mut from = page(0);
        while let Some(place) = space.next_missing(from) {
            missing.push((place.runtime, place.origin));
            from = PageAddr::new(place.runtime.end()).unwrap();
        }
        let (space, scale) = (space.clone(), self.scale);
        let blocks = &self.kernel[process].blocks;
        for block in 0..BLOCKS {
            let truth = blocks.get(&block).filter(|b| !b.present).and_then(|b| b.content);
            let ours = missing.iter().find(|(range, _)| range.contains(page(block * scale)));
            let ours =
                ours.map(|(range, origin)| (origin.get() / 4096 + block * scale - range.start().get() / 4096) / scale);
            assert_eq!(ours, truth, "block {block}");
        }
        let count = blocks.values().filter(|b| !b.present && b.content.is_some()).count() as u64;
        assert_eq!(space.missing_pages(), count * scale);
        assert_eq!(space.is_whole(), count == 0);
    }

    fn step(&mut self, [what, process, thread, a, b, c]: [u8; 6]) {
        let process = usize::from(process) % self.kernel.len();
        let thread = usize::from(thread) % THREADS;
        let [a, b, c] = [a, b, c].map(u64::from);
        let count = self.kernel.len();
        let kernel = &mut self.kernel[process];
        let own = kernel.own(thread, a, 1 + b % 4).filter(|_| kernel.is_idle(thread));
        match (what % 32, own) {
            (0..6, _) => self.touch(process, a % BLOCKS, b % 2 == 0),
            (6..8, _) => self.in_flight.push((process, a % BLOCKS, 1 + b % 4)),
            (8..11, _) if !self.in_flight.is_empty() => {
                let frame = self.in_flight.swap_remove(a as usize % self.in_flight.len());
                if !self.land(frame) {
                    self.in_flight.push(frame);
                }
            }
            (11..16, _) => (0..1 + a % 3).for_each(|_| _ = self.read_event(process)),
            (16..20, _) => kernel.go_on(thread),
            (20..25, Some(own)) => kernel.remap(thread, own, c, b / 4 % 3 / 2, b / 16 % 4 == 0, false),
            // MREMAP_DONTUNMAP differs from a move only in an event that does not come, so it is known once all is quiet. That
            // other threads go on unmapping just there before is left out.
            (25, Some(own)) if kernel.growing && kernel.is_quiet() => {
                kernel.remap(thread, own, c, 0, false, true);
                self.check(process);
            }
            (26, Some((start, len))) => kernel.grow(thread, start, len),
            (27..29, Some((start, len))) => kernel.unmap(thread, start, len),
            (29, Some((start, len))) => kernel.remove(thread, start, len),
            (30, _) if count < PROCESSES && kernel.is_idle(thread) && (kernel.late || !kernel.is_report_due()) => {
                let child = kernel.fork(thread, count);
                self.kernel.push(child);
                self.spaces.push(None);
            }
            (31, _) if a < 8 => {
                self.check(process);
                // It exits.
                if a == 0 && process > 0 {
                    self.spaces[process] = None;
                }
            }
            _ => {}
        }
    }
}

proptest! {
    // 4,000 cases take two seconds; PROPTEST_CASES asks for more.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(4000), ..ProptestConfig::default() })]

    #[test]
    fn every_page_gets_what_belongs_there(
        scale in 0..SCALES.len(),
        growing: bool,
        late: bool,
        zeros in 0u64..9,
        steps in prop::collection::vec(any::<[u8; 6]>(), 0..250),
    ) {
        let mut agent = Agent::new(SCALES[scale], growing, late, zeros);
        for step in steps {
            agent.step(step);
        }
        for process in 0..agent.kernel.len() {
            agent.check(process);
        }
    }
}
