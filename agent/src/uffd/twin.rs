//! A second process with the same descriptors: what one of them opens, the other has, and keeps when the first is killed.
//!
//! clone(2) with CLONE_FILES, and without CLONE_VM: memory is copied, the descriptor table is shared. execve(2) ends the sharing: the
//! new program gets a copy of the table, less what is close-on-exec.

use super::Error;
use nix::{errno::Errno, libc, unistd::Pid};
use std::{ffi::CString, mem::MaybeUninit, os::fd::AsRawFd, ptr};

/// Which of the two this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twin {
    /// The one that was there before, and is the other's parent.
    First(Pid),
    /// The new one.
    Second,
}

/// Makes a second process with the same descriptors. An error if this one has more than one thread: the second one could find a lock
/// held by a thread that it does not have.
pub fn split() -> Result<Twin, Error> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads != 1 {
        return Err(Error::System { call: "clone with several threads", errno: Errno::EBUSY });
    }
    clone()
}

/// Makes a second process with the same descriptors, which runs `work` and nothing else. As this process may have many threads, `work` may
/// only do what a signal handler may (signal-safety(7)): no allocation, no lock, no log.
pub fn split_off(work: impl FnOnce()) -> Result<Pid, Error> {
    match clone()? {
        Twin::First(child) => Ok(child),
        Twin::Second => {
            work();
            leave(1)
        }
    }
}

fn clone() -> Result<Twin, Error> {
    let flags = libc::c_long::from(libc::CLONE_FILES | libc::SIGCHLD);
    // SAFETY: without CLONE_VM the child has memory of its own, a stack included, as after fork(2); it has this thread only. Who calls
    // this sees to it that it does not wait for another.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match Errno::result(pid).map_err(Error::system("clone"))? {
        0 => Ok(Twin::Second),
        pid => Ok(Twin::First(Pid::from_raw(pid as libc::pid_t))),
    }
}

/// A program to be started in place of this one, made ready before, as a signal handler may not allocate.
#[derive(Debug)]
pub struct Exec {
    path: CString,
    _args: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl Exec {
    /// `args` begin with the program's name.
    pub fn new(path: CString, args: Vec<CString>) -> Self {
        let pointers = args.iter().map(|arg| arg.as_ptr()).chain([ptr::null()]).collect();
        Self { path, _args: args, pointers }
    }

    /// Starts it, with this process's environment and *all* its descriptors. Returns only if that did not work. Safe in a signal handler.
    pub fn start(&self) -> Errno {
        keep_descriptors();
        // SAFETY: both are terminated as execv(3) asks, and live.
        unsafe { libc::execv(self.path.as_ptr(), self.pointers.as_ptr()) };
        Errno::last()
    }
}

/// Ends this process at once: nothing is flushed, nothing runs at exit. Safe in a signal handler.
pub fn leave(code: i32) -> ! {
    // SAFETY: always.
    unsafe { libc::_exit(code) }
}

/// Makes every descriptor stay open in the next program.
fn keep_descriptors() {
    let keep = |fd: libc::c_int| {
        // SAFETY: sets a flag of a descriptor, or fails.
        unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
    };
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let Ok(folder) = rustix::fs::open(c"/proc/self/fd", flags, rustix::fs::Mode::empty()) else {
        // No /proc: the numbers are given out from the lowest on.
        return (0..1 << 16).for_each(keep);
    };
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut entries = rustix::fs::RawDir::new(&folder, &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        let number = entry.file_name().to_bytes();
        if number.iter().all(u8::is_ascii_digit) {
            let fd = number.iter().fold(0, |fd, digit| fd * 10 + libc::c_int::from(digit - b'0'));
            if fd != folder.as_raw_fd() {
                keep(fd);
            }
        }
    }
}
