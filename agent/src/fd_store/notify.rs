//! Messages to systemd: datagrams to the socket that `NOTIFY_SOCKET` names (sd_notify(3)).

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socket},
};
use std::{
    ffi::OsStr,
    io::IoSlice,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    time::Duration,
};

const VARIABLE: &str = "NOTIFY_SOCKET";

/// The way to systemd.
#[derive(Debug)]
pub(super) struct Notify {
    socket: OwnedFd,
    /// Named with each message: the socket behind it may be made anew.
    address: UnixAddr,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Sent,
    /// There is no room just now.
    Full,
    Failed(Errno),
}

impl Notify {
    pub(super) fn from_env() -> Result<Self> {
        let Some(address) = std::env::var_os(VARIABLE) else {
            bail!(
                "--fd-store is for a service of systemd with Type=notify and NotifyAccess=all: {VARIABLE} is not set"
            );
        };
        Self::to(&address)
    }

    pub(super) fn to(address: &OsStr) -> Result<Self> {
        let unix = match address.as_bytes() {
            [b'@', name @ ..] => UnixAddr::new_abstract(name),
            path @ [b'/', ..] => UnixAddr::new(path),
            _ => bail!("{VARIABLE}={}: neither a path nor an abstract name", address.display()),
        };
        let socket =
            socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None);
        Ok(Self {
            socket: socket.context("making a socket for systemd")?,
            address: unix.with_context(|| format!("{VARIABLE}={}", address.display()))?,
        })
    }

    /// Sends a message, and a descriptor with it; never waits.
    pub(super) fn send(&self, text: &str, fd: Option<BorrowedFd<'_>>) -> Outcome {
        let fds: Vec<_> = fd.iter().map(|fd| fd.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &[][..] } else { &rights[..] };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        loop {
            let parts = [IoSlice::new(text.as_bytes())];
            return match sendmsg(self.socket.as_raw_fd(), &parts, control, flags, Some(&self.address)) {
                Ok(_) => Outcome::Sent,
                Err(Errno::EINTR) => continue,
                // Too many descriptors under way is too many messages, too.
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ETOOMANYREFS) => Outcome::Full,
                Err(errno) => Outcome::Failed(errno),
            };
        }
    }

    /// Whether systemd has read everything that was sent before, within this time: it closes what comes with `BARRIER=1` then.
    pub(super) fn barrier(&self, patience: Duration) -> bool {
        let Ok((ours, theirs)) = nix::unistd::pipe2(OFlag::O_CLOEXEC) else { return false };
        let sent = self.send("BARRIER=1", Some(theirs.as_fd()));
        drop(theirs);
        let limit = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        sent == Outcome::Sent
            && poll(&mut [PollFd::new(ours.as_fd(), PollFlags::empty())], limit).is_ok_and(|ready| ready > 0)
    }
}
