//! On real userfaultfds; root or `vm.unprivileged_userfaultfd` is needed.

use super::*;
use criu_images::{PageAddr, PageRange};
use nix::{
    libc,
    sys::mman::{MRemapFlags, MapFlags, ProtFlags, mmap_anonymous, mremap, munmap},
    sys::wait::waitpid,
    unistd::{ForkResult, Pid, fork, pipe},
};
use std::{
    ffi::c_void,
    io::Read,
    num::NonZeroUsize,
    os::fd::AsRawFd,
    ptr::NonNull,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use userfaultfd::{FeatureFlags, UffdBuilder};

const PAGE: usize = 4096;

fn make_uffd() -> Uffd {
    let features =
        FeatureFlags::EVENT_FORK | FeatureFlags::EVENT_REMAP | FeatureFlags::EVENT_REMOVE | FeatureFlags::EVENT_UNMAP;
    let uffd = UffdBuilder::new().close_on_exec(true).require_features(features).user_mode_only(false).create();
    let uffd = uffd.expect("userfaultfd(2): this test needs root");
    Uffd::from_owned_fd(uffd.as_fd().try_clone_to_owned().unwrap()).unwrap()
}

fn events_of(uffd: &Uffd) -> Batch {
    let room: [AtomicU64; 64 * MESSAGE_WORDS] = std::array::from_fn(|_| AtomicU64::new(0));
    uffd.read_events(&room).unwrap()
}

/// Private memory of this process, registered with a userfaultfd of its own. One at a time: a fork is reported to every
/// userfaultfd of a process, and waits for all of them.
struct Memory {
    _alone: MutexGuard<'static, ()>,
    uffd: Uffd,
    children: Vec<Uffd>,
    start: NonNull<c_void>,
    pages: usize,
}

impl Memory {
    fn new(pages: usize) -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let len = NonZeroUsize::new(pages * PAGE).unwrap();
        // SAFETY: a new mapping.
        let start =
            unsafe { mmap_anonymous(None, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE) };
        let (uffd, start) = (make_uffd(), start.unwrap());
        uffd.inner.register(start.as_ptr(), pages * PAGE).unwrap();
        Self { _alone, uffd, children: Vec::new(), start, pages }
    }

    fn page(&self, number: usize) -> PageAddr {
        PageAddr::new((self.start.as_ptr() as usize + number * PAGE) as u64).unwrap()
    }

    fn range(&self, first: usize, pages: u64) -> PageRange {
        PageRange::new(self.page(first), pages).unwrap()
    }

    fn byte(&self, page: usize) -> u8 {
        read(self.page(page))
    }

    /// Reads events until there is one.
    fn event(&mut self) -> Event {
        loop {
            let mut batch = events_of(&self.uffd);
            match batch.events.pop() {
                Some(event) => {
                    assert!(batch.events.is_empty());
                    self.children.append(&mut batch.children);
                    return event;
                }
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn when_quiet(&self) {
        while !self.uffd.is_quiet() {
            std::thread::yield_now();
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = self.uffd.inner.unregister(self.start.as_ptr(), self.pages * PAGE);
        // SAFETY: what `new` mapped; nobody has references into it.
        let _ = unsafe { munmap(self.start, self.pages * PAGE) };
    }
}

fn read(page: PageAddr) -> u8 {
    // SAFETY: the tests call this on mapped pages only.
    unsafe { std::ptr::read_volatile(page.get() as *const u8) }
}

fn bytes(pages: usize, value: u8) -> Vec<u8> {
    vec![value; pages * PAGE]
}

#[test]
fn a_fault_is_reported_and_a_copy_lets_it_run_on() {
    let mut memory = Memory::new(4);
    let page = memory.page(2);
    let reader = std::thread::spawn(move || read(page));
    let Event::Fault { addr } = memory.event() else { panic!("a fault") };
    assert_eq!(PageAddr::containing(addr), Some(page));
    memory.uffd.wake(memory.range(0, 4)).unwrap();
    assert!(matches!(memory.event(), Event::Fault { .. }), "woken, it faults anew");
    assert_eq!(memory.uffd.copy(page, &bytes(1, 7)), Filled { pages: 1, stop: None });
    assert_eq!(reader.join().unwrap(), 7);
    assert!(events_of(&memory.uffd).events.is_empty());
}

#[test]
fn a_fill_says_how_far_it_came_and_why_not_further() {
    let memory = Memory::new(8);
    let filled = |pages, stop| Filled { pages, stop: Some(stop) };
    assert_eq!(memory.uffd.copy(memory.page(5), &bytes(1, 1)).stop, None);
    assert_eq!(memory.uffd.copy(memory.page(2), &bytes(6, 2)), filled(3, Stop::Exists));
    assert_eq!(memory.uffd.zero(memory.range(0, 8)), filled(2, Stop::Exists));
    assert_eq!(memory.uffd.zero(memory.range(6, 2)), Filled { pages: 2, stop: None });
    assert_eq!(memory.uffd.copy(memory.page(0), &[]), Filled { pages: 0, stop: None });
    let content: Vec<_> = (0..8).map(|page| memory.byte(page)).collect();
    assert_eq!(content, [0, 0, 2, 2, 2, 1, 0, 0]);

    let other = PageAddr::containing(content.as_ptr() as u64).unwrap();
    assert_eq!(memory.uffd.copy(other, &bytes(1, 1)), filled(0, Stop::NotRegistered));
    assert_eq!(memory.uffd.zero(PageRange::new(other, 1).unwrap()), filled(0, Stop::NotRegistered));
    let kernel = PageAddr::new(PageAddr::LIMIT - 4096).unwrap();
    assert!(matches!(memory.uffd.copy(kernel, &bytes(1, 1)).stop, Some(Stop::Failed(Errno::EINVAL))));
}

#[test]
fn across_a_border_of_mappings_only_page_by_page() {
    let memory = Memory::new(4);
    // SAFETY: the second half of the mapping, which has no page yet.
    let half = unsafe { memory.start.byte_add(2 * PAGE) };
    // SAFETY: as above.
    unsafe { nix::sys::mman::mprotect(half, 2 * PAGE, ProtFlags::PROT_READ) }.unwrap();
    assert_eq!(memory.uffd.copy(memory.page(0), &bytes(4, 1)).stop, Some(Stop::NotRegistered));
    for page in 0..4 {
        assert_eq!(memory.uffd.copy(memory.page(page), &bytes(1, 1)).stop, None);
    }
}

#[test]
fn unregistered_memory_reads_as_zeros() {
    let memory = Memory::new(2);
    memory.uffd.unregister(memory.range(0, 2)).unwrap();
    assert_eq!(memory.byte(1), 0);
    assert_eq!(memory.uffd.probe(memory.page(0)), Probe::NotRegistered);
}

#[test]
fn while_an_event_is_unread_nothing_is_filled() {
    let mut memory = Memory::new(8);
    let start = memory.start.as_ptr() as usize;
    // Not the last pages: what is followed by nothing may grow where it is, and then nothing is said.
    let (from, len) = (start + 5 * PAGE, 2 * PAGE);
    let mapper = std::thread::spawn(move || {
        let from = NonNull::new(from as *mut c_void).unwrap();
        // SAFETY: memory of this test, which nobody refers to.
        unsafe { mremap(from, len, len * 2, MRemapFlags::MREMAP_MAYMOVE, None) }.unwrap().as_ptr() as u64
    });
    while memory.uffd.is_quiet() {
        std::thread::yield_now();
    }
    assert_eq!(memory.uffd.probe(memory.page(0)), Probe::Outstanding);
    let again = Filled { pages: 0, stop: Some(Stop::Again) };
    assert_eq!(memory.uffd.copy(memory.page(0), &bytes(1, 1)), again);
    assert_eq!(memory.uffd.zero(memory.range(0, 2)), again);
    let Event::Remap { from: old, to, len: moved } = memory.event() else { panic!("a move") };
    assert_eq!((old, moved), (from as u64, len as u64));
    // The old range is reported a second time: what `address_space` expects.
    let Event::Unmap { start, end } = memory.event() else { panic!("an unmap") };
    assert_eq!((start, end), (old, old + moved));
    assert_eq!(mapper.join().unwrap(), to);
    memory.when_quiet();
    // What mremap added is registered as well, though nothing said so.
    let grown = PageAddr::new(to + 3 * PAGE as u64).unwrap();
    assert_eq!(memory.uffd.probe(grown), Probe::Registered);
    assert_eq!(memory.uffd.zero(PageRange::new(grown, 1).unwrap()).stop, None);
    assert_eq!(memory.uffd.probe(memory.page(6)), Probe::NotRegistered);
    let moved = PageRange::new(PageAddr::new(to).unwrap(), 4).unwrap();
    memory.uffd.unregister(moved).unwrap();
    memory.uffd.unregister(memory.range(7, 1)).unwrap();
    // SAFETY: the moved memory and what came after it, which nobody refers to.
    unsafe {
        munmap(NonNull::new(to as *mut c_void).unwrap(), 4 * PAGE).unwrap();
        munmap(NonNull::new(memory.page(7).get() as *mut c_void).unwrap(), PAGE).unwrap();
    }
    memory.pages = 5;
}

#[test]
fn a_remove_is_reported_before_it_happens() {
    let mut memory = Memory::new(4);
    memory.uffd.copy(memory.page(0), &bytes(4, 9));
    let start = memory.start.as_ptr() as usize;
    let remover = std::thread::spawn(move || {
        // SAFETY: memory of this test, which nobody refers to.
        unsafe { libc::madvise((start + PAGE) as *mut c_void, 2 * PAGE, libc::MADV_DONTNEED) }
    });
    let Event::Remove { start: first, end } = memory.event() else { panic!("a remove") };
    assert_eq!((first, end), ((start + PAGE) as u64, (start + 3 * PAGE) as u64));
    assert_eq!(remover.join().unwrap(), 0);
    memory.when_quiet();
    assert_eq!(memory.uffd.zero(memory.range(1, 2)).stop, None);
    assert_eq!([0, 1, 2, 3].map(|page| memory.byte(page)), [9, 0, 0, 9]);
}

/// A probe allocates a page and drops it again: none may be left behind.
#[test]
fn a_probe_changes_nothing() {
    let mut memory = Memory::new(2);
    memory.uffd.copy(memory.page(1), &bytes(1, 5));
    for _ in 0..1000 {
        assert_eq!(memory.uffd.probe(memory.page(0)), Probe::Registered);
        assert_eq!(memory.uffd.probe(memory.page(1)), Probe::Registered);
    }
    assert_eq!(memory.byte(1), 5);
    let page = memory.page(0);
    let reader = std::thread::spawn(move || read(page));
    assert!(matches!(memory.event(), Event::Fault { .. }), "still missing");
    assert_eq!(memory.uffd.probe(page), Probe::Registered);
    assert!(!reader.is_finished(), "a probe is not an answer");
    memory.uffd.copy(page, &bytes(1, 6));
    assert_eq!(reader.join().unwrap(), 6);
}

#[test]
fn a_child_brings_its_own_and_is_known_to_be_gone() {
    let mut memory = Memory::new(2);
    let (wait, release) = pipe().unwrap();
    let page = memory.page(1);
    let (wait_fd, release_fd) = (wait.as_raw_fd(), release.as_raw_fd());
    // As a thread of its own, because fork returns only when the event was read.
    let forker = std::thread::spawn(move || {
        // SAFETY: the child makes only system calls.
        match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => child.as_raw(),
            ForkResult::Child => {
                // SAFETY: plain system calls on descriptors and memory that the child has; it never returns.
                unsafe {
                    libc::close(release_fd);
                    let mut byte = 0u8;
                    libc::read(wait_fd, (&raw mut byte).cast(), 1);
                    libc::_exit(i32::from(read(page)));
                }
            }
        }
    });
    let Event::Fork { fd } = memory.event() else { panic!("a fork") };
    let child = memory.children.pop().unwrap();
    assert_eq!(child.as_fd().as_raw_fd(), fd);
    let pid = forker.join().unwrap();
    assert!(child.is_alive() && child.is_quiet());
    assert!(events_of(&child).events.is_empty());
    assert_eq!(child.copy(page, &bytes(1, 42)).stop, None);
    drop(release);
    let status = waitpid(Pid::from_raw(pid), None).unwrap();
    assert_eq!(status, nix::sys::wait::WaitStatus::Exited(Pid::from_raw(pid), 42));
    assert!(!child.is_alive());
    let gone = Filled { pages: 0, stop: Some(Stop::Gone) };
    assert_eq!(child.copy(memory.page(0), &bytes(1, 1)), gone);
    assert_eq!(child.zero(memory.range(0, 1)), gone);
    child.wake(memory.range(0, 1)).unwrap();
    assert!(child.unregister(memory.range(0, 1)).is_err());
    assert!(memory.uffd.is_alive());
    drop(wait);
}

#[test]
fn other_descriptors_are_refused() {
    let file = std::fs::File::open("/dev/null").unwrap();
    let error = Uffd::from_owned_fd(file.into()).unwrap_err();
    assert!(matches!(&error, Error::NotAUserfaultfd(what) if what == "/dev/null"), "{error}");
}

#[test]
fn only_what_was_inherited_is_taken_over() {
    let why = |fd| match inherited_fd(fd) {
        Err(Error::NotInherited { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    assert!(why(-1).contains("no such descriptor"));
    assert!(why(987_654).contains("no such descriptor"));
    let (mut reading, writing) = std::io::pipe().unwrap();
    assert!(why(writing.as_raw_fd()).contains("opened by this program"));
    // SAFETY: a duplicate without close-on-exec, as one that a parent process left open.
    let left_open = unsafe { libc::dup(writing.as_raw_fd()) };
    drop(writing);
    let ours = inherited_fd(left_open).unwrap();
    assert!(why(left_open).contains("taken over already"));
    std::io::Write::write_all(&mut std::fs::File::from(ours), &[0]).unwrap();
    let mut all = Vec::new();
    reading.read_to_end(&mut all).unwrap();
    assert_eq!(all, [0], "dropping it closed it");
    assert!(inherited_fd(2).unwrap().as_raw_fd() > 2);
}
