//! Putting pages in place.

use super::{Error, Uffd, ioctl};
use criu_images::{PAGE_SIZE, PageAddr, PageRange};
use nix::errno::Errno;
use std::ffi::c_void;

/// Where user space begins at the latest: the largest vm.mmap_min_addr that is in use (Documentation/admin-guide/sysctl/vm.rst).
const LOWEST: u64 = 64 << 10;

/// How far a copy or zero-fill came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled {
    /// Pages from the start of the range that were put in place by it; threads that waited for one of them run on.
    pub pages: u64,
    /// Why it did not go further; `None` if all was filled.
    pub stop: Option<Stop>,
}

/// Why a page was not put in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// An event is unread, or was read and its thread has not gone on yet: read, apply, look again whether the page belongs
    /// there, retry. (Or the process has no memory to put it in, for the moment: retry too.)
    Again,
    /// The process exited, or executes another program: there is no such memory any more.
    Gone,
    /// A page is there already. A thread may still wait for it, from before: UFFDIO_WAKE.
    Exists,
    /// Not inside one registered mapping, though no event is outstanding: unmapped and reported, not registered yet, or across a border
    /// between two mappings (then page by page works).
    NotRegistered,
    /// Anything else: a bug, or a kernel that is not like others.
    Failed(Errno),
}

impl Stop {
    pub(super) fn from_errno(errno: i32) -> Self {
        match Errno::from_raw(errno) {
            // ENOMEM: the memory cgroup of the process is at its limit. Its own fault would wait or kill; we retry.
            Errno::EAGAIN | Errno::EINTR | Errno::ENOMEM => Self::Again,
            // ENOSPC: the same, Linux 4.11 to 4.13 (ioctl_userfaultfd(2)).
            Errno::ESRCH | Errno::ENOSPC => Self::Gone,
            Errno::EEXIST => Self::Exists,
            Errno::ENOENT => Self::NotRegistered,
            other => Self::Failed(other),
        }
    }
}

impl Uffd {
    /// Copies whole pages to `dst` on, wherever none is yet, and wakes who waits for them. What `bytes` has beyond its last whole
    /// page is not copied.
    pub fn copy(&self, dst: PageAddr, bytes: &[u8]) -> Filled {
        let pages = bytes.len() as u64 / PAGE_SIZE;
        self.fill(pages, |done| {
            let rest = &bytes[(done * PAGE_SIZE) as usize..(pages * PAGE_SIZE) as usize];
            let dst = (dst.get() + done * PAGE_SIZE) as *mut c_void;
            // SAFETY: the kernel reads `rest`, which is borrowed. It writes only to pages that do not exist yet, in memory registered
            // with this userfaultfd: no Rust object can be in there, be it in another process (always, outside of tests) or in this.
            match unsafe { self.inner.copy(rest.as_ptr().cast(), dst, rest.len(), true) } {
                Ok(bytes) => Ok(bytes as u64 / PAGE_SIZE),
                // Nothing was copied: 0, or a negative errno taken for a length.
                Err(userfaultfd::Error::PartiallyCopied(bytes)) if bytes == 0 || bytes > rest.len() => Err(Stop::Again),
                Err(userfaultfd::Error::PartiallyCopied(bytes)) => Ok(bytes as u64 / PAGE_SIZE),
                Err(userfaultfd::Error::CopyFailed(errno)) => Err(Stop::from_errno(errno as i32)),
                Err(_) => Err(Stop::Failed(Errno::EIO)),
            }
        })
    }

    /// Maps zero pages wherever in `range` none is yet, and wakes who waits for them.
    pub fn zero(&self, range: PageRange) -> Filled {
        self.fill(range.pages(), |done| {
            let range =
                ioctl::Range { start: range.start().get() + done * PAGE_SIZE, len: (range.pages() - done) * PAGE_SIZE };
            ioctl::zero(&self.inner, range).map(|bytes| bytes / PAGE_SIZE).map_err(Stop::from_errno)
        })
    }

    /// Makes every access to these pages send SIGBUS, wherever none is there yet, and wakes who waits for them (UFFDIO_POISON, Linux 6.6;
    /// on older ones `Stop::Failed`). The userfaultfd need not have asked for the feature.
    pub fn poison(&self, range: PageRange) -> Filled {
        self.fill(range.pages(), |done| {
            let range =
                ioctl::Range { start: range.start().get() + done * PAGE_SIZE, len: (range.pages() - done) * PAGE_SIZE };
            ioctl::poison(&self.inner, range).map(|bytes| bytes / PAGE_SIZE).map_err(Stop::from_errno)
        })
    }

    /// Repeats `step` (given the pages done; returns how many more are) until all are done or it says why not. The kernel does
    /// not say why a fill stopped half-way; the next attempt, from there on, does.
    fn fill(&self, pages: u64, step: impl Fn(u64) -> Result<u64, Stop>) -> Filled {
        let mut done = 0;
        while done < pages {
            match step(done) {
                Ok(more) => done += more,
                // The kernel looks for unread events first and for the mapping then: in between it may have been moved away (seen:
                // pages given up as unmapped that were just moved, and zeros in their place).
                Err(Stop::NotRegistered) if !self.is_quiet() => return Filled { pages: done, stop: Some(Stop::Again) },
                Err(stop) => return Filled { pages: done, stop: Some(stop) },
            }
        }
        Filled { pages, stop: None }
    }

    /// Lets threads that wait for a page of `range` look again. They fault anew if it is still missing.
    pub fn wake(&self, range: PageRange) -> Result<(), Error> {
        let (start, len) = (range.start().get() as *mut c_void, range.bytes() as usize);
        self.inner.wake(start, len).map_err(|error| system("UFFDIO_WAKE", &error))
    }

    /// The same for every thread of the process, wherever it waits; also for one whose fault was read by somebody who then died.
    pub fn wake_all(&self) -> Result<(), Error> {
        // The kernel takes addresses from vm.mmap_min_addr to TASK_SIZE (fs/userfaultfd.c, validate_range), which depends on processor and
        // program: x86-64 with and without 5-level page tables, aarch64 with 52 and 48 bits, 32-bit programs on both.
        let wake = |end: u64| ioctl::wake(&self.inner, ioctl::Range { start: LOWEST, len: end - LOWEST });
        [(1 << 56) - PAGE_SIZE, 1 << 52, 1 << 48, (1 << 47) - PAGE_SIZE, 1 << 32, 0xffff_e000, 0xc000_0000]
            .into_iter()
            .find_map(|end| wake(end).ok())
            .ok_or(Error::System { call: "UFFDIO_WAKE of everything", errno: Errno::EINVAL })
    }

    /// Gives the range back to the kernel: what is missing in it reads as zeros from now on. A range that is not mapped is an error
    /// (EINVAL), as is a process that is gone (ENOMEM).
    pub fn unregister(&self, range: PageRange) -> Result<(), Error> {
        let (start, len) = (range.start().get() as *mut c_void, range.bytes() as usize);
        self.inner.unregister(start, len).map_err(|error| system("UFFDIO_UNREGISTER", &error))
    }
}

fn system(call: &'static str, error: &userfaultfd::Error) -> Error {
    let errno = match error {
        userfaultfd::Error::SystemError(errno) => Errno::from_raw(*errno as i32),
        _ => Errno::EIO,
    };
    Error::System { call, errno }
}
