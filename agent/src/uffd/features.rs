//! What this kernel and this user may do with userfaultfd: tried, not read from a version number.

use super::ioctl::{self, Range, iowr};
use nix::{errno::Errno, libc};
use std::{
    fs::OpenOptions,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// `UFFD_FEATURE_EVENT_FORK`, `_REMAP`, `_REMOVE`, `_UNMAP`: what CRIU asks for (criu/uffd.c, `NEED_UFFD_API_FEATURES`).
pub const EVENTS: [(&str, u64); 4] =
    [("EVENT_FORK", 1 << 1), ("EVENT_REMAP", 1 << 2), ("EVENT_REMOVE", 1 << 3), ("EVENT_UNMAP", 1 << 6)];

/// What was found out.
#[derive(Debug)]
pub struct Features {
    /// userfaultfd(2) gives one that also catches faults inside the kernel, as a restored process has them in its system calls.
    pub syscall: Result<(), Errno>,
    /// The same by `/dev/userfaultfd`, for which permissions of a file decide (Linux 6.1).
    pub device: Result<(), Errno>,
    /// Of the events, those that the kernel has.
    pub known: Vec<&'static str>,
    /// Whether it grants all four to us.
    pub events: Result<(), Errno>,
    /// Whether UFFDIO_POISON works (Linux 6.6).
    pub poison: Result<(), Errno>,
}

impl Features {
    /// Asks the kernel, on userfaultfds and one page of our own that are gone afterwards.
    pub fn probe() -> Self {
        let available = open().and_then(|uffd| handshake(&uffd, 0)).unwrap_or(0);
        let all = EVENTS.iter().fold(0, |all, (_, bit)| all | bit);
        Self {
            syscall: by_syscall().map(drop),
            device: by_device().map(drop),
            known: EVENTS.iter().filter(|(_, bit)| available & bit != 0).map(|(name, _)| *name).collect(),
            events: open().and_then(|uffd| handshake(&uffd, all)).map(drop),
            poison: open().and_then(|uffd| {
                handshake(&uffd, 0)?;
                poison_a_page(&uffd)
            }),
        }
    }
}

/// `struct uffdio_api`.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct Register {
    range: Range,
    mode: u64,
    ioctls: u64,
}

const UFFD_API: u64 = 0xaa;
const UFFDIO_API: u64 = iowr::<Api>(0x3f);
const UFFDIO_REGISTER: u64 = iowr::<Register>(0);
/// `_IO(0xaa, 0)`.
const USERFAULTFD_IOC_NEW: u64 = 0xaa00;
const MODE_MISSING: u64 = 1;
const PAGE: usize = 4096;

// As a C compiler gives them from linux/userfaultfd.h.
const _: () = assert!(UFFDIO_API == 0xc018_aa3f && UFFDIO_REGISTER == 0xc020_aa00);

/// By either way.
fn open() -> Result<OwnedFd, Errno> {
    by_syscall().or_else(|_| by_device())
}

fn by_syscall() -> Result<OwnedFd, Errno> {
    // SAFETY: takes flags only and makes a descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
    owned(fd)
}

fn by_device() -> Result<OwnedFd, Errno> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/userfaultfd");
    let device = device.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    // SAFETY: takes flags only and makes a descriptor.
    let fd = unsafe { libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW, libc::O_CLOEXEC | libc::O_NONBLOCK) };
    owned(fd.into())
}

fn owned(fd: libc::c_long) -> Result<OwnedFd, Errno> {
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel just made this descriptor for us; nobody else has its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// UFFDIO_API: the features that the kernel has, if it grants those that were asked for.
fn handshake(uffd: &OwnedFd, features: u64) -> Result<u64, Errno> {
    let mut api = Api { api: UFFD_API, features, ioctls: 0 };
    // SAFETY: the argument is the struct that this ioctl reads and writes.
    Errno::result(unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_API, &raw mut api) })?;
    Ok(api.features)
}

/// Maps a page, poisons it, unmaps it. Nobody reads it.
fn poison_a_page(uffd: &OwnedFd) -> Result<(), Errno> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, at an address that the kernel chooses.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, protection, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    let range = Range { start: page as u64, len: PAGE as u64 };
    let mut register = Register { range, mode: MODE_MISSING, ioctls: 0 };
    // SAFETY: the argument is the struct that this ioctl reads and writes; the page is the one mapped above, in which no Rust object is.
    let registered = unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_REGISTER, &raw mut register) };
    let outcome = Errno::result(registered).and_then(|_| ioctl::poison(uffd, range).map_err(Errno::from_raw));
    // SAFETY: what was mapped above; nobody has references into it. No event is reported: none was asked for.
    unsafe { libc::munmap(page, PAGE) };
    outcome.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_agent_needs_is_there_for_root() {
        let features = Features::probe();
        assert_eq!(features.syscall, Ok(()), "this test needs root");
        assert_eq!(features.known, EVENTS.map(|(name, _)| name));
        assert_eq!(features.events, Ok(()));
    }
}
