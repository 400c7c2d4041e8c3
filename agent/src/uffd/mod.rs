//! Typed access to a userfaultfd. The only unsafe code of the agent; what leaves this module is safe to use.
//!
//! ```text
//! mod          Uffd: adopt a descriptor, read its events
//! fill         copy, zero, wake, unregister: what the kernel says is an ordinary result
//! probe        is the process there, is this page registered: asked without changing anything
//! descriptors  taking over descriptors: from a socket, from the parent process
//! ```
//!
//! The crate `userfaultfd` is inside, its quirks stay there: an EAGAIN of UFFDIO_COPY that copied nothing is `PartiallyCopied` of
//! 0 or of -EAGAIN as a `usize`, depending on the kernel; how far a UFFDIO_ZEROPAGE got is lost; its errno is another nix's; its
//! `into_raw_fd` closes the descriptor that it returns.

mod descriptors;
mod fill;
mod ioctl;
mod probe;
#[cfg(test)]
mod tests;

pub use descriptors::{inherited_fd, receive_fd};
pub use fill::{Filled, Stop};
pub use probe::Probe;

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
};
use std::{
    fmt,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd},
};

/// Events read by one system call.
const EVENTS_PER_READ: usize = 64;

/// What went wrong with a userfaultfd, or on the way to one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The descriptor is something else.
    #[error("expected a userfaultfd, got a descriptor of {0}")]
    NotAUserfaultfd(String),
    /// The kernel reports an event that this agent does not know: it has no answer to it.
    #[error("the userfaultfd reports an unknown event {0:#x}; is this kernel newer than the agent?")]
    UnknownEvent(u8),
    /// Reading events failed in a way that should not happen.
    #[error("reading events of a userfaultfd: {0}")]
    Read(userfaultfd::Error),
    /// A message that should have brought one descriptor brought another number.
    #[error("expected one descriptor with the message, got {0}")]
    Descriptors(usize),
    /// The other end closed the connection.
    #[error("the connection was closed")]
    Closed,
    /// A number given on the command line is not a descriptor that was left to us.
    #[error("descriptor {fd} was not inherited: {why}")]
    NotInherited {
        /// The number.
        fd: i32,
        /// Why it is believed so.
        why: &'static str,
    },
    /// A system call failed.
    #[error("{call}: {errno}")]
    System {
        /// Which.
        call: &'static str,
        /// How.
        errno: Errno,
    },
}

impl Error {
    fn system(call: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::System { call, errno }
    }
}

/// What a process with registered memory did. Addresses are as the kernel gives them.
#[derive(Debug)]
pub enum Event {
    /// A thread waits for a page.
    Fault {
        /// Any byte of the page.
        addr: u64,
    },
    /// It forked: the child's userfaultfd. The child starts to run once this was read.
    Fork(Uffd),
    /// mremap moved memory.
    Remap {
        /// Old address.
        from: u64,
        /// New address.
        to: u64,
        /// Bytes.
        len: u64,
    },
    /// madvise(MADV_DONTNEED) or its like is about to make a range empty.
    Remove {
        /// First byte.
        start: u64,
        /// Just past the last byte.
        end: u64,
    },
    /// A range was unmapped.
    Unmap {
        /// First byte.
        start: u64,
        /// Just past the last byte.
        end: u64,
    },
}

/// A userfaultfd whose API handshake its maker has done. Reading never blocks.
///
/// When the last reference to it is closed, missing memory silently reads as zeros: whoever drops this decides that.
pub struct Uffd {
    inner: userfaultfd::Uffd,
    buffer: userfaultfd::EventBuffer,
}

impl Uffd {
    /// Takes over a descriptor; an error if it is not a userfaultfd.
    pub fn from_owned_fd(fd: OwnedFd) -> Result<Self, Error> {
        let link = nix::fcntl::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str())
            .map_err(Error::system("readlink in /proc/self/fd"))?;
        let link = link.to_string_lossy();
        if link != "anon_inode:[userfaultfd]" {
            return Err(Error::NotAUserfaultfd(link.into_owned()));
        }
        // SAFETY: `into_raw_fd` gives up the only owner; the new one closes it.
        Self::new(unsafe { userfaultfd::Uffd::from_raw_fd(fd.into_raw_fd()) })
    }

    fn new(inner: userfaultfd::Uffd) -> Result<Self, Error> {
        // A child's descriptor has the flags that its parent's was *made* with, whatever was set since.
        let flags = fcntl(&inner, FcntlArg::F_GETFL).map_err(Error::system("fcntl(F_GETFL)"))?;
        fcntl(&inner, FcntlArg::F_SETFL(OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK))
            .and_then(|_| fcntl(&inner, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)))
            .map_err(Error::system("fcntl(F_SETFL)"))?;
        Ok(Self { inner, buffer: userfaultfd::EventBuffer::new(EVENTS_PER_READ) })
    }

    /// Reads events, in the kernel's order: at most 64, none if none is there. Every one of them is acknowledged by this, so
    /// every one has to be applied.
    ///
    /// The kernel hands out faults before other events, so a fault may be answered rightly only once there is nothing more to read.
    pub fn read_events(&mut self) -> Result<Vec<Event>, Error> {
        let read = match self.inner.read_events(&mut self.buffer) {
            Ok(events) => events,
            Err(userfaultfd::Error::SystemError(errno)) if errno as i32 == Errno::EINTR as i32 => return Ok(Vec::new()),
            Err(error) => return Err(Error::Read(error)),
        };
        // All are converted before one fails: a fork event owns a descriptor, which would leak.
        let events: Vec<_> = read.map(convert).collect();
        events.into_iter().collect()
    }
}

fn convert(event: userfaultfd::Result<userfaultfd::Event>) -> Result<Event, Error> {
    use userfaultfd::Event as Raw;
    Ok(match event {
        Ok(Raw::Pagefault { addr, .. }) => Event::Fault { addr: addr as u64 },
        Ok(Raw::Fork { uffd }) => Event::Fork(Uffd::new(uffd)?),
        Ok(Raw::Remap { from, to, len }) => Event::Remap { from: from as u64, to: to as u64, len: len as u64 },
        Ok(Raw::Remove { start, end }) => Event::Remove { start: start as u64, end: end as u64 },
        Ok(Raw::Unmap { start, end }) => Event::Unmap { start: start as u64, end: end as u64 },
        Err(userfaultfd::Error::UnrecognizedEvent(event)) => return Err(Error::UnknownEvent(event)),
        Err(error) => return Err(Error::Read(error)),
    })
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl fmt::Debug for Uffd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uffd({})", self.inner.as_raw_fd())
    }
}
