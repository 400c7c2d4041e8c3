//! A naive kernel: a map of pages, threads that change it under a lock, and events that come when their thread gets to it.

use std::collections::{BTreeMap, VecDeque};

/// Threads of a process. Memory belongs to one of them: what another thread uses is left alone, as in any sound program.
pub(super) const THREADS: usize = 3;
/// Addresses, in blocks.
pub(super) const BLOCKS: u64 = 40;

/// Owner of a block in a forked child that nobody uses there.
pub(super) const NOBODY: usize = THREADS;

/// A block of registered memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub owner: usize,
    /// The stored block that has to be read here; `None`: zeros.
    pub content: Option<u64>,
    pub present: bool,
    /// Moved here while another thread's move was still to be reported.
    fresh: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Remap {
        from: u64,
        to: u64,
        len: u64,
    },
    Remove {
        start: u64,
        end: u64,
    },
    Unmap {
        start: u64,
        end: u64,
    },
    /// Position of the child among all processes.
    Fork {
        child: usize,
    },
}

/// What a thread in a system call has still to do.
#[derive(Clone, Copy, Debug)]
enum Step {
    Report(Event),
    Zap { start: u64, end: u64 },
}

/// A process, as it really is.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub blocks: BTreeMap<u64, Block>,
    calls: [VecDeque<Step>; THREADS],
    /// The thread's first step is in the queue.
    queued: [bool; THREADS],
    queue: VecDeque<(usize, Event)>,
    /// The one thread of a forked child.
    only: Option<usize>,
    /// Exists, but its fork event was not read yet.
    pub unborn: bool,
    /// There is memory that no event told of: mappings grow, mremap leaves mappings behind. Else mremap replaces mappings, and threads may
    /// be `late`. Not both, the first known gap: if unknown memory goes away, other memory takes its place, and that is reported
    /// first, then no order of the events can tell whose memory was there.
    pub growing: bool,
    /// Threads may be held up between a change and its report.
    pub late: bool,
}

impl Process {
    /// Two pieces of memory for each thread, with a gap after each.
    pub(super) fn new(growing: bool, late: bool, stored: impl Fn(u64) -> bool) -> Self {
        let block = |number: u64| {
            let (piece, offset) = (number / 5, number % 5);
            let owner = (piece as usize) % THREADS;
            let content = stored(number).then_some(number);
            (piece < 2 * THREADS as u64 && offset < 4)
                .then_some((number, Block { owner, content, present: false, fresh: false }))
        };
        Self {
            blocks: (0..BLOCKS).filter_map(block).collect(),
            calls: Default::default(),
            queued: Default::default(),
            queue: VecDeque::new(),
            only: None,
            unborn: false,
            growing,
            late: late && !growing,
        }
    }

    pub(super) fn is_idle(&self, thread: usize) -> bool {
        !self.unborn && self.only.is_none_or(|only| only == thread) && self.calls[thread].is_empty()
    }

    /// Whether a thread is in a call.
    pub(super) fn is_busy(&self) -> bool {
        !self.unborn && self.calls.iter().any(|call| !call.is_empty())
    }

    /// A thread is about to make this block empty. Until it has, another may find it either way.
    pub(super) fn is_being_removed(&self, block: u64) -> bool {
        let calls = self.calls.iter().flatten();
        calls.into_iter().any(|step| matches!(step, Step::Zap { start, end } if (*start..*end).contains(&block)))
    }

    /// Whether somebody uses a block.
    pub(super) fn is_used(&self, block: u64) -> bool {
        self.blocks.get(&block).is_some_and(|block| block.owner != NOBODY)
    }

    /// Copies are let through: no change waits to be read.
    pub(super) fn is_quiet(&self) -> bool {
        !self.calls.iter().flatten().any(|step| matches!(step, Step::Report(_)))
    }

    /// The thread's next own range of up to `max` blocks, from its `nth` block on.
    pub(super) fn own(&self, thread: usize, nth: u64, max: u64) -> Option<(u64, u64)> {
        let own: Vec<_> = self.blocks.keys().copied().filter(|n| self.is_own(*n, 1, thread)).collect();
        let start = *own.get((nth % own.len().max(1) as u64) as usize)?;
        let len = (start..start + max).take_while(|n| own.contains(n)).count() as u64;
        Some((start, len))
    }

    fn is_free(&self, start: u64, len: u64) -> bool {
        start + len <= BLOCKS && self.blocks.range(start..start + len).next().is_none()
    }

    /// The second known gap: what moved in while a replacing mremap of another thread was to be reported, perhaps to where that one's
    /// memory was, goes away before it is reported. So it is left alone until then.
    fn is_own(&self, start: u64, len: u64, thread: usize) -> bool {
        let late = self.is_report_due();
        let is_own = |block: &Block| block.owner == thread && !(late && block.fresh);
        (start..start + len).all(|n| self.blocks.get(&n).is_some_and(is_own))
    }

    pub(super) fn unmap(&mut self, thread: usize, start: u64, len: u64) {
        // The first gap once more: memory that grew into exactly the range of another thread's outstanding UNMAP, and is unmapped.
        let same = Event::Unmap { start, end: start + len };
        if self.growing && self.calls.iter().flatten().any(|step| matches!(step, Step::Report(event) if *event == same))
        {
            return;
        }
        self.blocks.retain(|n, _| !(start..start + len).contains(n));
        self.call(thread, [Step::Report(Event::Unmap { start, end: start + len })]);
    }

    pub(super) fn remove(&mut self, thread: usize, start: u64, len: u64) {
        let end = start + len;
        self.call(thread, [Step::Report(Event::Remove { start, end }), Step::Zap { start, end }]);
    }

    /// A mapping grows where it is: nothing tells.
    pub(super) fn grow(&mut self, thread: usize, start: u64, len: u64) {
        if self.growing && self.is_free(start + len, 1) {
            self.blocks.insert(start + len, Block { owner: thread, content: None, present: false, fresh: false });
        }
    }

    /// mremap to the `nth` free place, or (`fixed`) over memory of the thread.
    pub(super) fn remap(
        &mut self,
        thread: usize,
        (from, len): (u64, u64),
        nth: u64,
        grow: u64,
        fixed: bool,
        keep: bool,
    ) {
        let fixed = fixed && !self.growing;
        let grow = if keep || !self.growing { 0 } else { grow };
        let places: Vec<_> = (0..BLOCKS)
            .filter(|to| if fixed { self.is_own(*to, len, thread) } else { self.is_free(*to, len + grow) })
            .filter(|to| to + len + grow <= from || from + len <= *to)
            .collect();
        let Some(&to) = places.get((nth % places.len().max(1) as u64) as usize) else { return };
        let late = self.is_report_due();
        let mut steps = Vec::new();
        let target = to..to + len + grow;
        if self.blocks.range(target.clone()).next().is_some() {
            steps.push(Step::Report(Event::Unmap { start: to, end: target.end }));
            self.blocks.retain(|n, _| !target.contains(n));
        }
        for offset in 0..len + grow {
            let fresh = Block { owner: thread, content: None, present: false, fresh: false };
            let block = if offset < len { self.blocks.remove(&(from + offset)) } else { None };
            self.blocks.insert(to + offset, Block { fresh: late, ..block.unwrap_or(fresh) });
            if keep && offset < len {
                self.blocks.insert(from + offset, fresh);
            }
        }
        steps.push(Step::Report(Event::Remap { from, to, len }));
        if !keep {
            steps.push(Step::Report(Event::Unmap { start: from, end: from + len }));
        }
        self.call(thread, steps);
    }

    /// Whether a thread has changed a mapping and has still to queue the first event of that, or the one that tells of a move (mremap
    /// over mapped memory queues an UNMAP first). A child forked right then has the change, and it is reported too late for it; but
    /// no sound program's child uses memory that another thread is just changing.
    pub(super) fn is_report_due(&self) -> bool {
        let is_move = |step: &Step| matches!(step, Step::Report(Event::Remap { .. }));
        let is_late = |thread: usize| {
            let mut steps = self.calls[thread].iter();
            let first = steps.next().filter(|_| !self.queued[thread]);
            first.is_some_and(|step| self.late || is_move(step)) || steps.any(is_move)
        };
        (0..THREADS).any(is_late)
    }

    /// The child; `number` is what the event will call it. A range that another thread is about to make empty may be empty in the
    /// child or not, as nothing orders the two: it is, as its event comes first.
    pub(super) fn fork(&mut self, thread: usize, number: usize) -> Self {
        let mut child = Self {
            only: Some(thread),
            unborn: true,
            queued: Default::default(),
            queue: VecDeque::new(),
            ..self.clone()
        };
        for call in &mut child.calls {
            call.retain(|step| matches!(step, Step::Zap { .. }));
        }
        (0..THREADS).for_each(|thread| child.go_on(thread));
        if self.late {
            // What other threads were just doing may be reported on the wrong side of the fork. Only this thread lives on in the child.
            for block in child.blocks.values_mut().filter(|block| block.owner != thread) {
                (block.owner, block.present) = (NOBODY, true);
            }
        }
        self.call(thread, [Step::Report(Event::Fork { child: number })]);
        child
    }

    fn call(&mut self, thread: usize, steps: impl IntoIterator<Item = Step>) {
        self.calls[thread].extend(steps);
        if !self.late {
            self.go_on(thread);
        }
    }

    /// Lets a thread go on until it waits for an event to be read, or is idle.
    pub(super) fn go_on(&mut self, thread: usize) {
        while !self.queued[thread] {
            match self.calls[thread].front().copied() {
                Some(Step::Report(event)) => {
                    self.queued[thread] = true;
                    self.queue.push_back((thread, event));
                }
                Some(Step::Zap { start, end }) => {
                    for (_, block) in self.blocks.range_mut(start..end) {
                        (block.content, block.present) = (None, false);
                    }
                    self.calls[thread].pop_front();
                }
                None => return,
            }
        }
    }

    /// Reads an event. Its thread goes on later, when `go_on` says so.
    pub(super) fn read(&mut self) -> Option<Event> {
        let (thread, event) = self.queue.pop_front()?;
        self.queued[thread] = false;
        self.calls[thread].pop_front();
        Some(event)
    }
}
