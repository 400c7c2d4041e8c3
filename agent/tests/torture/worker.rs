//! A thread that does everything to its memory that a program can do, and knows what must be in it.

use super::{
    content::{GIANT, PAGE, Random, Region, SHARED},
    layout::{GIANT_BYTES, GIANT_STEP, Mapping},
    model::{Page, Piece, TAG_WORD},
    system,
    task::{Mix, Orders},
};
use std::{sync::atomic::Ordering::Relaxed, time::Instant};

/// Pieces of a region at the start, in pages.
const PIECE: usize = 256;
/// Pages of a piece that grows.
const MAX_PIECE: usize = 600;
const MAX_PIECES: usize = 40;
/// Nested forks.
const MAX_DEPTH: u32 = 2;

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    pub steps: u64,
    pub pages_checked: u64,
    pub forks: u64,
    pub moves: u64,
}

impl Done {
    pub fn add(&mut self, more: Self) {
        self.steps += more.steps;
        self.pages_checked += more.pages_checked;
        self.forks += more.forks;
        self.moves += more.moves;
    }

    pub fn to_words(self) -> String {
        format!("{} {} {} {}", self.steps, self.pages_checked, self.forks, self.moves)
    }

    pub fn from_words(words: &str) -> Option<Self> {
        let mut words = words.split(' ').map(|word| word.parse().ok());
        let mut next = || words.next().flatten();
        Some(Self { steps: next()?, pages_checked: next()?, forks: next()?, moves: next()? })
    }
}

/// Reports and ends the process, all threads.
pub fn fail(what: &str) -> ! {
    eprintln!("FAILED: {what}");
    system::exit(3)
}

pub struct Worker {
    orders: Orders,
    region: Region,
    random: Random,
    pieces: Vec<Piece>,
    shared: Mapping,
    /// One thread of the task has the giant region.
    giant: Option<usize>,
    depth: u32,
    children: Vec<i32>,
    step: &'static str,
    pub done: Done,
}

impl Worker {
    pub fn new(orders: Orders, thread: u32, random: Random, mappings: &[Mapping]) -> Self {
        let of = |number| *mappings.iter().find(|m| m.region.number == number).expect("every region is mapped");
        let own = of(thread);
        let page = |page| Page { stored: Some(page), tag: 0 };
        let pieces = (0..own.pages() as usize / PIECE)
            .map(|piece| Piece {
                addr: own.start as usize + piece * PIECE * PAGE,
                pages: (piece * PIECE..(piece + 1) * PIECE).map(|number| page(number as u32)).collect(),
            })
            .collect();
        Self {
            orders,
            region: own.region,
            random,
            pieces,
            shared: of(SHARED),
            giant: (thread == 0).then_some(of(GIANT).start as usize),
            depth: 0,
            children: Vec::new(),
            step: "start",
            done: Done::default(),
        }
    }

    fn fail(&self, what: &str) -> ! {
        fail(&format!(
            "task {} region {} depth {} after {} steps, {}: {what}",
            self.orders.task, self.region.number, self.depth, self.done.steps, self.step
        ))
    }

    pub fn work(&mut self, steps: u32, until: Option<Instant>) {
        for _ in 0..steps {
            if until.is_some_and(|until| Instant::now() > until) {
                break;
            }
            self.done.steps += 1;
            self.one_step();
        }
        while let Some(child) = self.children.pop() {
            self.reap(child);
        }
    }

    /// Every page of this thread, and the shared ones.
    pub fn check_all(&mut self) {
        self.step = "check of everything";
        for piece in 0..self.pieces.len() {
            for page in 0..self.pieces[piece].len() {
                self.check(piece, page, false);
            }
        }
        for page in 0..self.shared.pages() {
            self.check_shared(page as u32);
        }
    }

    fn check(&mut self, piece: usize, page: usize, through_kernel: bool) {
        let addr = self.pieces[piece].at(page);
        let found = if through_kernel { system::read_through_kernel(addr) } else { Some(system::read(addr)) };
        let Some(found) = found else { self.fail(&format!("the kernel cannot read {addr:#x}")) };
        if let Err(why) = self.pieces[piece].pages[page].check(self.region, &found) {
            self.fail(&format!("{addr:#x}: {why}"));
        }
        self.done.pages_checked += 1;
    }

    fn check_shared(&mut self, page: u32) {
        let expected = Page { stored: Some(page), tag: 0 };
        let addr = self.shared.start as usize + page as usize * PAGE;
        if let Err(why) = expected.check(self.shared.region, &system::read(addr)) {
            self.fail(&format!("shared {addr:#x}: {why}"));
        }
        self.done.pages_checked += 1;
    }

    fn one_step(&mut self) {
        if self.pieces.is_empty() {
            return;
        }
        let piece = self.random.below(self.pieces.len());
        let len = self.pieces[piece].len();
        let mut from = self.random.below(len);
        let mut to = from + 1 + self.random.below((len - from).min(64));
        if self.pieces.len() >= MAX_PIECES || self.random.one_in(8) {
            (from, to) = (0, len);
        }
        let dice = match self.orders.mix {
            Mix::Moves if self.random.one_in(2) => 60 + self.random.below(24),
            _ => self.random.below(100),
        };
        system::LAST_STEP.store(dice as u64, Relaxed);
        match dice {
            0..24 => {
                self.step = "read";
                (from..to.min(from + 4)).for_each(|page| self.check(piece, page, false));
            }
            24..28 => {
                self.step = "read by the kernel";
                self.check(piece, from, true);
            }
            28..40 => {
                self.step = "write";
                let tag = self.random.next() as u32 | 1;
                system::write(self.pieces[piece].at(from), TAG_WORD, tag.into());
                self.pieces[piece].pages[from].tag = tag;
                if self.random.one_in(4) {
                    self.check(piece, from, false);
                }
            }
            40..54 => {
                self.step = "read shared";
                let page = self.random.below(self.shared.pages() as usize);
                self.check_shared(page as u32);
            }
            54..60 => self.make_empty(piece, from, to),
            60..63 => self.unmap(piece, from, to),
            63..70 => self.move_to_reserved(piece, from, to),
            70..75 => self.grow(piece),
            75..78 => self.shrink(piece),
            78..82 => self.move_and_keep(piece, from, to),
            82..84 => self.split_mapping(piece, from, to),
            84..89 => self.use_fresh_memory(to - from),
            89..92 => self.fork(),
            92 => self.fork_and_exec(),
            93..96 if self.orders.replace => self.move_over(piece, from, to),
            96 if self.giant.is_some() => self.use_giant(),
            // Every now and then a process just ends, with threads in the middle of things.
            97 if self.depth == 0 && self.random.one_in(3000) => system::exit(0),
            _ => std::thread::yield_now(),
        }
    }

    fn make_empty(&mut self, piece: usize, from: usize, to: usize) {
        self.step = "madvise";
        let piece = &mut self.pieces[piece];
        if !system::dontneed(piece.at(from), (to - from) * PAGE) {
            self.fail("MADV_DONTNEED was refused");
        }
        piece.pages[from..to].fill(Page::ZERO);
    }

    /// Whether cutting out `from..to` would make too many pieces.
    fn is_full(&self, piece: usize, from: usize, to: usize) -> bool {
        self.pieces.len() >= MAX_PIECES && (from, to) != (0, self.pieces[piece].len())
    }

    /// Takes the piece out and puts back what is left of it without `from..to`, which is returned.
    fn cut(&mut self, piece: usize, from: usize, to: usize) -> Piece {
        let [first, middle, last] = self.pieces.swap_remove(piece).cut(from, to);
        self.pieces.extend([first, last].into_iter().filter(|piece| piece.len() > 0));
        middle
    }

    fn unmap(&mut self, piece: usize, from: usize, to: usize) {
        self.step = "munmap";
        if self.is_full(piece, from, to) {
            return;
        }
        let gone = self.cut(piece, from, to);
        if !system::unmap(gone.addr, gone.len() * PAGE) {
            self.fail("munmap was refused");
        }
    }

    /// Moves to an address that is ours, where nothing is that could raise an event.
    fn move_to_reserved(&mut self, piece: usize, from: usize, to: usize) {
        self.step = "mremap";
        if self.is_full(piece, from, to) {
            return;
        }
        let len = (to - from) * PAGE;
        let Some(target) = system::map(len, true) else { return };
        match system::remap(self.pieces[piece].at(from), len, len, Some(target), false) {
            Some(at) => {
                let mut moved = self.cut(piece, from, to);
                moved.addr = at;
                self.pieces.push(moved);
                self.done.moves += 1;
            }
            // More than one mapping (mprotect split it, and the kernel has not merged it again).
            None => _ = system::unmap(target, len),
        }
    }

    /// Moves over memory of ours, which is thereby unmapped.
    fn move_over(&mut self, piece: usize, from: usize, to: usize) {
        self.step = "mremap over mapped memory";
        let len = to - from;
        let other = self.random.below(self.pieces.len());
        if other == piece || self.pieces[other].len() < len || self.pieces.len() >= MAX_PIECES {
            return;
        }
        let at = self.random.below(self.pieces[other].len() - len + 1);
        let target = self.pieces[other].at(at);
        if system::remap(self.pieces[piece].at(from), len * PAGE, len * PAGE, Some(target), false).is_some() {
            let moved = self.cut(piece, from, to);
            let other = self.pieces.iter().position(|piece| (piece.addr..piece.at(piece.len())).contains(&target));
            let other = &mut self.pieces[other.expect("it was not touched")];
            let at = (target - other.addr) / PAGE;
            other.pages[at..at + len].copy_from_slice(&moved.pages);
            self.done.moves += 1;
        } else if !system::unmap(target, len * PAGE) {
            self.fail("munmap was refused");
        } else {
            // A refused mremap may have unmapped its target or not: now it is.
            self.cut(other, at, at + len);
        }
    }

    /// Grows: in place if there is room, else the kernel moves it wherever it likes, which may be where another thread's
    /// memory was a moment ago.
    fn grow(&mut self, piece: usize) {
        self.step = "mremap to grow";
        let more = 1 + self.random.below(20);
        let this = &mut self.pieces[piece];
        let len = this.len();
        if len + more > MAX_PIECE {
            return;
        }
        if let Some(at) = system::remap(this.addr, len * PAGE, (len + more) * PAGE, None, false) {
            self.done.moves += u64::from(at != this.addr);
            this.addr = at;
            this.pages.resize(len + more, Page::ZERO);
            let page = len + self.random.below(more);
            self.check(piece, page, false);
        }
    }

    fn shrink(&mut self, piece: usize) {
        self.step = "mremap to shrink";
        let this = &mut self.pieces[piece];
        let len = this.len();
        let less = 1 + self.random.below(8);
        if len > less && system::shrink(this.addr, len * PAGE, (len - less) * PAGE) {
            this.pages.truncate(len - less);
        }
    }

    /// MREMAP_DONTUNMAP: the content goes, the mapping stays, empty.
    fn move_and_keep(&mut self, piece: usize, from: usize, to: usize) {
        self.step = "mremap and keep";
        if self.pieces.len() >= MAX_PIECES {
            return;
        }
        let len = (to - from) * PAGE;
        let Some(at) = system::remap(self.pieces[piece].at(from), len, len, None, true) else { return };
        let old = &mut self.pieces[piece].pages[from..to];
        let moved = Piece { addr: at, pages: old.to_vec() };
        old.fill(Page::ZERO);
        self.pieces.push(moved);
        self.done.moves += 1;
        match self.random.below(4) {
            0 => self.check(piece, from, false),
            1 => {
                let gone = self.cut(piece, from, to);
                if !system::unmap(gone.addr, len) {
                    self.fail("munmap was refused");
                }
            }
            _ => {}
        }
    }

    /// mprotect splits the mapping, which no event tells; afterwards it may be one again.
    fn split_mapping(&mut self, piece: usize, from: usize, to: usize) {
        self.step = "mprotect";
        let (addr, len) = (self.pieces[piece].at(from), (to - from) * PAGE);
        if !system::protect(addr, len, false) {
            self.fail("mprotect was refused");
        }
        self.check(piece, from, false);
        self.check(piece, to - 1, false);
        if !system::protect(addr, len, true) {
            self.fail("mprotect was refused");
        }
    }

    /// Memory that no pager knows, perhaps where some was that it knew.
    fn use_fresh_memory(&mut self, pages: usize) {
        self.step = "fresh memory";
        let Some(addr) = system::map(pages * PAGE, false) else { return };
        for page in (0..pages).step_by(7) {
            let addr = addr + page * PAGE;
            if system::read(addr).iter().any(|word| *word != 0) {
                self.fail(&format!("fresh memory at {addr:#x} is not empty"));
            }
            system::write(addr, TAG_WORD, 77);
        }
        if (0..pages).step_by(7).any(|page| system::read(addr + page * PAGE)[TAG_WORD] != 77) {
            self.fail(&format!("fresh memory at {addr:#x} was changed"));
        }
        system::unmap(addr, pages * PAGE);
    }

    /// A child with the same memory, that does things to it too; only this thread is in it.
    fn fork(&mut self) {
        self.step = "fork";
        if self.depth >= MAX_DEPTH || self.children.len() >= 2 {
            if let Some(child) = self.children.pop() {
                self.reap(child);
            }
            return;
        }
        let fate = self.random.below(8);
        let seed = self.random.next();
        let child = system::fork(|| {
            self.depth += 1;
            self.children.clear();
            self.random = Random::new(seed);
            self.step = "start of a child";
            let steps = 20 + self.random.below(200) as u32;
            self.work(steps, None);
            if fate < 4 {
                self.check_all();
            }
        });
        self.done.forks += 1;
        match (child, fate) {
            (None, _) => {}
            (Some(child), 0) => {
                system::kill(child);
                system::wait(child);
            }
            (Some(child), 1..4) => self.reap(child),
            (Some(child), _) => self.children.push(child),
        }
    }

    fn fork_and_exec(&mut self) {
        self.step = "fork and exec";
        if let Some(child) = system::fork(|| system::exec_true()) {
            self.done.forks += 1;
            self.reap(child);
        }
    }

    fn reap(&mut self, child: i32) {
        let status = system::wait(child);
        if status != 0 {
            self.fail(&format!("child {child} ended with wait status {status:#x}"));
        }
    }

    /// Ranges that no 32-bit number of bytes can hold: moved, emptied, unmapped, at once.
    fn use_giant(&mut self) {
        self.step = "giant region";
        let Some(mut addr) = self.giant.take() else { return };
        let len = GIANT_BYTES as usize;
        if let Some(at) = system::map(len, true).and_then(|to| system::remap(addr, len, len, Some(to), false)) {
            addr = at;
            self.done.moves += 1;
        }
        let (hole_start, hole_end) = (2 * GIANT_STEP as usize, 12 * GIANT_STEP as usize + PAGE);
        if !system::dontneed(addr + hole_start, hole_end - hole_start) {
            self.fail("MADV_DONTNEED was refused");
        }
        let region = Region { task: self.region.task, number: GIANT };
        let step = GIANT_STEP as usize;
        for page in 0..len / step {
            let offset = page * step;
            let stored = !(hole_start..hole_end).contains(&offset);
            let expected = Page { stored: stored.then_some(page as u32), tag: 0 };
            for (expected, addr) in [(expected, addr + offset), (Page::ZERO, addr + offset + step / 2)] {
                if let Err(why) = expected.check(region, &system::read(addr)) {
                    self.fail(&format!("{addr:#x}: {why}"));
                }
            }
        }
        if !system::unmap(addr, len) {
            self.fail("munmap was refused");
        }
    }
}
