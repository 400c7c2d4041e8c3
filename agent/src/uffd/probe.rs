//! Questions to the kernel that change nothing.
//!
//! Virtual pids are of no use here: the agent may sit outside the pid namespace of the tasks, and a pid is taken anew. The
//! userfaultfd itself knows its process. UFFDIO_COPY checks, in this order (fs/userfaultfd.c, mm/userfaultfd.c, the same since
//! Linux 4.14): an unread event gives EAGAIN; addresses that no process could have, EINVAL; memory that is no more, ESRCH;
//! a page outside of registered mappings, ENOENT. Only then the source is read: from a page that nobody can read, that is EFAULT,
//! and nothing was changed. (EEXIST comes before only if a huge page is there.)

use super::{Uffd, ioctl};
use criu_images::{PAGE_SIZE, PageAddr};
use nix::libc;

/// What the kernel says about a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It is in a registered mapping, present or not. No event was outstanding at that moment.
    Registered,
    /// It is not. As the event of a change that began just now may be outstanding, this is final only if another probe after it does
    /// not say [`Outstanding`](Self::Outstanding).
    NotRegistered,
    /// An event is unread, or was read and its thread has not gone on yet.
    Outstanding,
    /// The process exited, or executes another program.
    Gone,
}

/// An address that 32-bit and 64-bit processes may have, whatever their mmap_min_addr.
const ANYWHERE: u64 = 1 << 30;

impl Uffd {
    /// Asks about the page at `addr`.
    pub fn probe(&self, addr: PageAddr) -> Probe {
        let Ok(nowhere) = ioctl::Unreadable::get() else { return Probe::Outstanding };
        match ioctl::copy_from_nowhere(&self.inner, addr.get(), nowhere) {
            libc::ESRCH | libc::ENOSPC => Probe::Gone,
            libc::EFAULT | libc::EEXIST => Probe::Registered,
            libc::ENOENT | libc::EINVAL => Probe::NotRegistered,
            _ => Probe::Outstanding,
        }
    }

    /// Whether no event is outstanding. If so, all that was done to the memory before has been reported and read.
    pub fn is_quiet(&self) -> bool {
        self.probe(anywhere()) != Probe::Outstanding
    }

    /// Whether the process still has the memory that this userfaultfd is for.
    pub fn is_alive(&self) -> bool {
        self.probe(anywhere()) != Probe::Gone
    }
}

fn anywhere() -> PageAddr {
    const { assert!(ANYWHERE.is_multiple_of(PAGE_SIZE) && ANYWHERE < PageAddr::LIMIT) };
    PageAddr::new(ANYWHERE).expect("a page in user space")
}
