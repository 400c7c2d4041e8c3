//! Putting inherited descriptors at the numbers by which other memory of a restore names them.

use super::{Error, inherited_fd, is_inherited};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc,
};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Moves inherited descriptors, `(from, to)` each: they are inherited as before, at other numbers. All of them leave their old places first, so
/// that none is in another's way. To be called before this program has opened anything.
pub fn place(moves: &[(RawFd, RawFd)]) -> Result<(), Error> {
    let above = moves.iter().flat_map(|(from, to)| [*from, *to]).max().unwrap_or(2) + 1;
    let aside: Vec<(OwnedFd, RawFd)> =
        moves.iter().map(|(from, to)| Ok((set_aside(*from, above)?, *to))).collect::<Result<_, Error>>()?;
    for (fd, to) in aside {
        // SAFETY: asks about a number; if it is no descriptor, the call fails.
        let is_open = unsafe { libc::fcntl(to, libc::F_GETFD) } >= 0;
        if to <= 2 || (is_open && !is_inherited(to)) {
            return Err(Error::NotInherited { fd: to, why: "another descriptor has the number that it should get" });
        }
        // SAFETY: what is open at that number, if anything is, was inherited and belongs to no object of this program.
        Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), to) }).map_err(Error::system("dup2"))?;
    }
    Ok(())
}

/// Out of the way of all the others.
fn set_aside(fd: RawFd, above: RawFd) -> Result<OwnedFd, Error> {
    let fd = inherited_fd(fd)?;
    let moved = fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(above)).map_err(Error::system("fcntl(F_DUPFD_CLOEXEC)"))?;
    // SAFETY: the kernel just made this descriptor for us; nobody else has its number.
    Ok(unsafe { OwnedFd::from_raw_fd(moved) })
}
