//! Taking over file descriptors.

use super::{Error, message::low_half};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::MsgFlags,
};
use std::{
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// Reads the 32-bit word that comes next to `word`, straight: whether it was taken off the stream is to be seen there, also by another
/// process that shares the memory, when this one is killed. `None` if not all of it has come; `Some(false)` at the end of the stream.
///
/// Zero must not be a word that the peer sends, and `word` be 0.
pub fn receive_word(socket: &UnixStream, word: &AtomicU64) -> Result<Option<bool>, Error> {
    const BYTES: usize = size_of::<u32>();
    let mut seen = [0; BYTES];
    let peek = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    match retry(|| nix::sys::socket::recv(socket.as_raw_fd(), &mut seen, peek)) {
        Ok(0) | Err(Errno::ECONNRESET) => return Ok(Some(false)),
        Ok(BYTES) => {}
        Ok(_) if has_ended(socket) => return Err(Error::CutShort),
        Ok(_) | Err(Errno::EAGAIN) => return Ok(None),
        Err(errno) => return Err(Error::System { call: "recv", errno }),
    }
    // SAFETY: the kernel writes four bytes to memory that is borrowed, larger, and may be written through a shared reference.
    let read = unsafe { libc::recv(socket.as_raw_fd(), word.as_ptr().cast(), BYTES, libc::MSG_DONTWAIT) };
    match usize::try_from(read) {
        Ok(BYTES) => Ok(Some(true)),
        _ => Err(Error::System { call: "recv of what was there", errno: Errno::EIO }),
    }
}

/// Whether nothing more will come.
fn has_ended(socket: &UnixStream) -> bool {
    let mut ask = [PollFd::new(socket.as_fd(), PollFlags::from_bits_retain(libc::POLLRDHUP))];
    poll(&mut ask, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// A control message with one descriptor: `struct cmsghdr` (length, level, type; cmsg(3)) and its number, in 64-bit words.
pub const CONTROL_WORDS: usize = 3;

/// Reads one byte and the descriptor that comes with it; `None` if nothing is there yet on a non-blocking socket. `control`, all
/// zeros before, holds the control message then: [`received_fd`] finds the number there, also in another process that shares memory and
/// descriptors, when this one is killed.
///
/// One byte exactly, as CRIU sends it (`send_fds` in criu/util.c): the next one may be the start of the next message. One descriptor has
/// room; the kernel makes none that have not.
pub fn receive_fd(socket: &UnixStream, control: &[AtomicU64; CONTROL_WORDS]) -> Result<Option<OwnedFd>, Error> {
    let mut byte = 0u8;
    let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // SAFETY: all zeros is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    message.msg_control = control.as_ptr().cast_mut().cast();
    // SAFETY: computes a number.
    message.msg_controllen = unsafe { libc::CMSG_LEN(size_of::<RawFd>() as u32) } as _;
    let read = retry(|| {
        // SAFETY: the kernel writes to `byte` and, CMSG_LEN bytes at most, to `control`, which is longer and may be written through a
        // shared reference.
        Errno::result(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) })
    });
    let more = message.msg_flags & libc::MSG_CTRUNC != 0;
    match (read, received_fd(control)) {
        (Err(Errno::EAGAIN), _) => Ok(None),
        (Err(errno), _) => Err(Error::System { call: "recvmsg", errno }),
        (Ok(0), None) => Err(Error::Closed),
        (Ok(_), None) => Err(Error::NoDescriptor),
        (Ok(_), Some(fd)) => {
            // SAFETY: the kernel just made this descriptor for us; nobody else has its number.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            if more { Err(Error::MoreDescriptors) } else { Ok(Some(fd)) }
        }
    }
}

/// The descriptor in a control message that [`receive_fd`] read.
pub fn received_fd(control: &[AtomicU64; CONTROL_WORDS]) -> Option<RawFd> {
    let [length, kind, fd] = [0, 1, 2].map(|at| control[at].load(Relaxed));
    let [level, what] = [kind as u32, (kind >> 32) as u32].map(u32::cast_signed);
    let is_one = length != 0 && (level, what) == (libc::SOL_SOCKET, libc::SCM_RIGHTS);
    is_one.then(|| low_half(fd))
}

/// Whether [`inherited_fd`] would take it over.
pub fn is_inherited(fd: RawFd) -> bool {
    // SAFETY: asks about a number; if it is no descriptor, the call fails.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    flags >= 0 && !FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC)
}

/// Takes over a descriptor that was open when this program started, as `--status-fd 5` names it. Dropping it closes it, but
/// for the three standard ones, of which this is a duplicate.
///
/// Whatever this program opened itself is marked close-on-exec, and what was inherited is not: so the descriptor of
/// another object is never taken for one.
pub fn inherited_fd(fd: RawFd) -> Result<OwnedFd, Error> {
    let refused = |why| Error::NotInherited { fd, why };
    // SAFETY: asks about a number; if it is no descriptor, the call fails.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    if flags < 0 {
        return Err(refused("no such descriptor is open"));
    }
    if FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC) {
        return Err(refused("it was opened by this program, or taken over already"));
    }
    // SAFETY: it is open, and what was inherited is closed by nobody but, below, its new owner.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    if fd <= 2 {
        return borrowed.try_clone_to_owned().map_err(|error| Error::System {
            call: "duplicating a standard stream",
            errno: Errno::from_raw(error.raw_os_error().unwrap_or_default()),
        });
    }
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(Error::system("fcntl(F_SETFD)"))?;
    // SAFETY: it is open, and inherited: no object of this program owns it. Marked now, it is not taken over twice.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
