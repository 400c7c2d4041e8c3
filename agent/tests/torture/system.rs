//! Thin wrappers over the system calls that the torture is made of. Each returns whether (or where) it worked.

use super::content::{PAGE, WORDS};
use nix::libc;
use std::{
    ffi::c_void,
    ptr::null_mut,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const ANON: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

/// Private memory at an address where nothing is.
pub fn map_at(addr: usize, len: usize) {
    // SAFETY: NOREPLACE: no mapping is touched.
    let at = unsafe { libc::mmap(addr as *mut c_void, len, RW, ANON | libc::MAP_FIXED_NOREPLACE, -1, 0) };
    assert_eq!(at as usize, addr, "no room at {addr:#x}: {}", nix::errno::Errno::last());
}

/// Memory (readable, or just reserved) wherever the kernel likes.
pub fn map(len: usize, reserve: bool) -> Option<usize> {
    let protection = if reserve { libc::PROT_NONE } else { RW };
    // SAFETY: a new mapping.
    let at = unsafe { libc::mmap(null_mut(), len, protection, ANON, -1, 0) };
    (at != libc::MAP_FAILED).then_some(at as usize)
}

pub fn unmap(addr: usize, len: usize) -> bool {
    // SAFETY: the callers unmap memory of the torture only, to which no reference exists.
    unsafe { libc::munmap(addr as *mut c_void, len) == 0 }
}

pub fn dontneed(addr: usize, len: usize) -> bool {
    // SAFETY: as above; it becomes empty.
    unsafe { libc::madvise(addr as *mut c_void, len, libc::MADV_DONTNEED) == 0 }
}

pub fn protect(addr: usize, len: usize, writable: bool) -> bool {
    // SAFETY: as above; nobody writes to it meanwhile.
    unsafe { libc::mprotect(addr as *mut c_void, len, if writable { RW } else { libc::PROT_READ }) == 0 }
}

/// mremap: the new address.
pub fn remap(addr: usize, len: usize, new_len: usize, to: Option<usize>, keep: bool) -> Option<usize> {
    let mut flags = libc::MREMAP_MAYMOVE;
    if to.is_some() {
        flags |= libc::MREMAP_FIXED;
    }
    if keep {
        flags |= libc::MREMAP_DONTUNMAP;
    }
    let to = to.unwrap_or_default() as *mut c_void;
    // SAFETY: source and destination are memory of the torture, to which no reference exists.
    let at = unsafe { libc::mremap(addr as *mut c_void, len, new_len, flags, to) };
    (at != libc::MAP_FAILED).then_some(at as usize)
}

/// Shrinks in place.
pub fn shrink(addr: usize, len: usize, new_len: usize) -> bool {
    // SAFETY: as above.
    unsafe { libc::mremap(addr as *mut c_void, len, new_len, 0) != libc::MAP_FAILED }
}

/// A page, as this thread reads it.
pub fn read(addr: usize) -> [u64; WORDS] {
    // SAFETY: mapped memory of the torture that no other thread writes to.
    unsafe { std::ptr::read_volatile(addr as *const [u64; WORDS]) }
}

/// A page, as the kernel reads it on behalf of a system call.
pub fn read_through_kernel(addr: usize) -> Option<[u64; WORDS]> {
    let mut page = [0u64; WORDS];
    let local = libc::iovec { iov_base: (&raw mut page).cast(), iov_len: PAGE };
    let remote = libc::iovec { iov_base: addr as *mut c_void, iov_len: PAGE };
    // SAFETY: writes a page into `page`.
    let read = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
    (read == PAGE as isize).then_some(page)
}

pub fn write(addr: usize, word: usize, value: u64) {
    // SAFETY: mapped memory of the torture that no other thread uses.
    unsafe { std::ptr::write_volatile((addr as *mut u64).add(word), value) }
}

/// In the child: `child`, which must not return. In the parent: the child's pid.
pub fn fork(child: impl FnOnce()) -> Option<libc::pid_t> {
    // SAFETY: glibc makes malloc usable in the child; nothing else that is locked is used there.
    match unsafe { libc::fork() } {
        -1 => None,
        0 => {
            child();
            exit(0)
        }
        pid => Some(pid),
    }
}

/// Ends the process at once, all threads, wherever they are.
pub fn exit(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

/// Becomes another program.
pub fn exec_true() -> ! {
    let argv = [c"true".as_ptr(), std::ptr::null()];
    // SAFETY: a path and a list that ends in null.
    unsafe { libc::execv(c"/bin/true".as_ptr(), argv.as_ptr()) };
    exit(9)
}

/// Waits for a child: its wait status.
pub fn wait(pid: libc::pid_t) -> i32 {
    let mut status = -1;
    // SAFETY: writes the status.
    while unsafe { libc::waitpid(pid, &raw mut status, 0) } < 0 && nix::errno::Errno::last_raw() == libc::EINTR {}
    status
}

pub fn kill(pid: libc::pid_t) {
    // SAFETY: a child that was not waited for yet.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// What the thread that runs a step does, by number, for a crash report: the last one of any thread.
pub static LAST_STEP: AtomicU64 = AtomicU64::new(0);

/// Says where a segmentation fault was before it kills.
pub fn report_crashes() {
    extern "C" fn report(_: i32, info: *mut libc::siginfo_t, _: *mut c_void) {
        // SAFETY: the kernel fills `info` for SIGSEGV and SIGBUS.
        let addr = unsafe { (*info).si_addr() } as usize;
        let pid = std::process::id();
        super::worker::fail(&format!(
            "process {pid} crashed at address {addr:#x}, last step {}",
            LAST_STEP.load(Relaxed)
        ));
    }
    // SAFETY: a handler that reports and ends the process.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = report as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESETHAND;
        libc::sigaction(libc::SIGSEGV, &raw const action, null_mut());
        libc::sigaction(libc::SIGBUS, &raw const action, null_mut());
    }
}
