//! Memory that outlives this process: a memfd, mapped, that another process maps too.
//!
//! It is handed out as atomic words, for which every content is valid, whoever writes it: another process, or the kernel.

use super::Error;
use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    libc,
    sys::memfd::{MFdFlags, memfd_create},
    sys::mman::{MapFlags, ProtFlags, mlock, mmap, munmap},
    unistd::ftruncate,
};
use std::{
    ffi::{CStr, c_void},
    num::NonZeroUsize,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::atomic::AtomicU64,
};

/// A memfd and its mapping.
#[derive(Debug)]
pub struct SharedMemory {
    fd: OwnedFd,
    start: NonNull<c_void>,
    words: usize,
}

// SAFETY: the mapping belongs to this object alone, and its content is reached through atomics only.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Makes one, all zeros, of at least so many words. `name` is what `/proc/<pid>/fd` shows.
    ///
    /// All of it is present from here on, and stays so if the memory may be locked (RLIMIT_MEMLOCK): a system call that writes to it never
    /// has to wait for a page.
    pub fn create(name: &CStr, words: usize) -> Result<Self, Error> {
        let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)
            .map_err(Error::system("memfd_create"))?;
        let bytes = (words * 8).next_multiple_of(4096);
        let length =
            libc::off_t::try_from(bytes).map_err(|_| Error::system("memfd_create")(nix::errno::Errno::EFBIG))?;
        ftruncate(&fd, length).map_err(Error::system("ftruncate of a memfd"))?;
        // Nobody can make it shorter, which would turn an access into SIGBUS.
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).map_err(Error::system("sealing a memfd"))?;
        // Blocks first: a mapping that cannot be filled is not an error to mmap, but SIGBUS later.
        nix::fcntl::fallocate(&fd, nix::fcntl::FallocateFlags::empty(), 0, length)
            .map_err(Error::system("fallocate of a memfd"))?;
        Self::map(fd, bytes)
    }

    /// Maps one that another process made with [`SharedMemory::create`].
    pub fn open(fd: OwnedFd) -> Result<Self, Error> {
        let stat = nix::sys::stat::fstat(&fd).map_err(Error::system("fstat of a memfd"))?;
        let seals = fcntl(&fd, FcntlArg::F_GET_SEALS).map_err(Error::system("looking at the seals of a memfd"))?;
        let bytes = usize::try_from(stat.st_size).unwrap_or(0) & !4095;
        if seals & SealFlag::F_SEAL_SHRINK.bits() == 0 || bytes == 0 {
            return Err(Error::System { call: "opening a memfd of ours", errno: nix::errno::Errno::EINVAL });
        }
        Self::map(fd, bytes)
    }

    fn map(fd: OwnedFd, bytes: usize) -> Result<Self, Error> {
        let Some(length) = NonZeroUsize::new(bytes) else {
            return Err(Error::system("mmap")(nix::errno::Errno::EINVAL));
        };
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE;
        // SAFETY: a new mapping, at an address that the kernel chooses, of a file that cannot shrink.
        let start = unsafe { mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags, &fd, 0) }
            .map_err(Error::system("mmap of a memfd"))?;
        let memory = Self { fd, start, words: bytes / 8 };
        memory.lock();
        Ok(memory)
    }

    /// Keeps all of it present, as far as that is allowed. A process that fork(2) or the like has made does not inherit this (mlock(2)).
    pub fn lock(&self) {
        // SAFETY: a mapping of our own. Where it may not be locked, it may be swapped out, and comes back when it is touched.
        let _ = unsafe { mlock(self.start, self.words * 8) };
    }

    /// The content.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: mapped as long as `self` lives, aligned to a page, and any content is a valid u64.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast::<AtomicU64>(), self.words) }
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing borrowed from it is left.
        let _ = unsafe { munmap(self.start, self.words * 8) };
    }
}
