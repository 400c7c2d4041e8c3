//! Taking over file descriptors.

use super::Error;
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
};
use std::{
    io::IoSliceMut,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
};

/// Reads one byte and the descriptor that comes with it; `None` if nothing is there yet on a non-blocking socket.
///
/// One byte exactly, as CRIU sends it (`send_fds` in criu/util.c): the next one may be the start of the next message.
pub fn receive_fd(socket: &UnixStream) -> Result<Option<OwnedFd>, Error> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    // Room for as many as a message can have (SCM_MAX_FD): those that the kernel installed before it ran out of room would leak.
    let mut control = nix::cmsg_space!([RawFd; 253]);
    let read = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::EAGAIN) => return Ok(None),
            other => break other.map_err(Error::system("recvmsg"))?,
        }
    };
    let mut received = Vec::new();
    for message in read.cmsgs().map_err(Error::system("recvmsg"))? {
        if let ControlMessageOwned::ScmRights(fds) = message {
            // SAFETY: the kernel just made these descriptors for us; nobody else has their numbers.
            received.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    match (read.bytes, received.len()) {
        (0, 0) => Err(Error::Closed),
        (1, 1) => Ok(received.pop()),
        (_, count) => Err(Error::Descriptors(count)),
    }
}

/// Takes over a descriptor that was open when this program started, as `--status-fd 5` names it. Dropping it closes it, but
/// for the three standard ones, of which this is a duplicate.
///
/// Whatever this program opened itself is marked close-on-exec, and what was inherited is not: so the descriptor of
/// another object is never taken for one.
pub fn inherited_fd(fd: RawFd) -> Result<OwnedFd, Error> {
    let refused = |why| Error::NotInherited { fd, why };
    // SAFETY: asks about a number; if it is no descriptor, the call fails.
    let flags = unsafe { nix::libc::fcntl(fd, nix::libc::F_GETFD) };
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
            errno: nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or_default()),
        });
    }
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(Error::system("fcntl(F_SETFD)"))?;
    // SAFETY: it is open, and inherited: no object of this program owns it. Marked now, it is not taken over twice.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
