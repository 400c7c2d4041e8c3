//! Typed access to a userfaultfd. The only unsafe code of the agent; what leaves this module is safe to use.
//!
//! ```text
//! mod          Uffd: adopt a descriptor, read its events
//! message      an event as the kernel writes it
//! fill         copy, zero, wake, unregister: what the kernel says is an ordinary result
//! probe        is the process there, is this page registered: asked without changing anything
//! descriptors  taking over descriptors: from a socket, from the parent process
//! place        putting inherited descriptors at the numbers that they should have
//! memory       memory that outlives this process
//! twin         a second process with the same descriptors
//! features     what this kernel and this user may do with one, for `doctor`
//! ```
//!
//! The crate `userfaultfd` is inside, its quirks stay there: an EAGAIN of UFFDIO_COPY that copied nothing is `PartiallyCopied` of
//! 0 or of -EAGAIN as a `usize`, depending on the kernel; how far a UFFDIO_ZEROPAGE got is lost; its errno is another nix's; its
//! `into_raw_fd` closes the descriptor that it returns.

mod descriptors;
pub mod features;
mod fill;
mod ioctl;
mod memory;
mod message;
mod place;
mod probe;
#[cfg(test)]
mod tests;
mod twin;

pub use descriptors::{CONTROL_WORDS, inherited_fd, is_inherited, receive_fd, receive_word, received_fd};
pub use fill::{Filled, Stop};
pub use memory::SharedMemory;
pub use message::{Event, FIRST_KIND, MESSAGE_WORDS};
pub use place::place;
pub use probe::Probe;
pub use twin::{Exec, Twin, leave, split, split_off};

use message::MESSAGE_BYTES;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
    libc,
};
use std::{
    fmt,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// What went wrong with a userfaultfd, or on the way to one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The descriptor is something else.
    #[error("expected a userfaultfd, got a descriptor of {0}")]
    NotAUserfaultfd(String),
    /// The kernel reports an event that this agent does not know: it has no answer to it.
    #[error("the userfaultfd reports an unknown event {0:#x}; is this kernel newer than the agent?")]
    UnknownEvent(u8),
    /// A message that should have brought a descriptor brought none.
    #[error("expected one descriptor with the message, got none")]
    NoDescriptor,
    /// Or several.
    #[error("expected one descriptor with the message, got more")]
    MoreDescriptors,
    /// The other end closed the connection inside a message.
    #[error("the connection ends inside a message")]
    CutShort,
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

/// Events, in the kernel's order.
#[derive(Debug, Default)]
pub struct Batch {
    /// What was read.
    pub events: Vec<Event>,
    /// The userfaultfds of children, one for each fork event, in their order.
    pub children: Vec<Uffd>,
}

/// A userfaultfd whose API handshake its maker has done. Reading never blocks.
///
/// When the last reference to it is closed, missing memory silently reads as zeros: whoever drops this decides that.
pub struct Uffd {
    inner: userfaultfd::Uffd,
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
        Self::new(fd)
    }

    fn new(fd: OwnedFd) -> Result<Self, Error> {
        // A child's descriptor has the flags that its parent's was *made* with, whatever was set since.
        let flags = fcntl(&fd, FcntlArg::F_GETFL).map_err(Error::system("fcntl(F_GETFL)"))?;
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK))
            .and_then(|_| fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)))
            .map_err(Error::system("fcntl(F_SETFL)"))?;
        // SAFETY: `into_raw_fd` gives up the only owner; the new one closes it.
        Ok(Self { inner: unsafe { userfaultfd::Uffd::from_raw_fd(fd.into_raw_fd()) } })
    }

    /// Reads events to `room`, in the kernel's order: as many as fit, none if none is there. Every one of them is acknowledged by this,
    /// so every one has to be applied. `room` may be memory that another process reads when this one has died: whatever the kernel has
    /// handed out then is there.
    ///
    /// The kernel hands out faults before other events, so a fault may be answered rightly only once there is nothing more to read.
    pub fn read_events(&self, room: &[AtomicU64]) -> Result<Batch, Error> {
        let size = room.len() / MESSAGE_WORDS * MESSAGE_BYTES;
        // SAFETY: `room` is borrowed, at least `size` bytes long, and may be written through a shared reference, as atomics may.
        let read = unsafe { libc::read(self.inner.as_raw_fd(), room.as_ptr().cast_mut().cast(), size) };
        let Ok(read) = usize::try_from(read) else {
            return match Errno::last() {
                Errno::EAGAIN | Errno::EINTR => Ok(Batch::default()),
                errno => Err(Error::System { call: "reading events of a userfaultfd", errno }),
            };
        };
        let messages = room[..read / 8].chunks_exact(MESSAGE_WORDS);
        // All are looked at before one fails: descriptors of a batch that cannot be understood stay open.
        let events = messages.map(|words| Event::parse(std::array::from_fn(|at| words[at].load(Relaxed))));
        let events = events.collect::<Result<Vec<_>, _>>()?;
        let forks = events.iter().filter_map(|event| match event {
            // SAFETY: the kernel just made this descriptor for us; nobody else has its number.
            Event::Fork { fd } => Some(Self::new(unsafe { OwnedFd::from_raw_fd(*fd) })),
            _ => None,
        });
        Ok(Batch { children: forks.collect::<Result<_, _>>()?, events })
    }
}

/// Another descriptor for what is open under this number, as the next agent would have it.
#[cfg(test)]
pub(crate) fn duplicate_for_test(fd: std::os::fd::RawFd) -> OwnedFd {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let this = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    pidfd_getfd(this, fd, PidfdGetfdFlags::empty()).unwrap()
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
