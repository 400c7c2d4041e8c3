//! Where connections come from: TCP ports, unix sockets, sockets that systemd opened.

use anyhow::{Context, Result, bail};
use listenfd::ListenFd;
use rustix::{fs::Mode, process::umask};
use std::{
    fmt, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    task::{Context as Poller, Poll},
};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Owner and group may talk to a unix socket, others may not.
const NOT_FOR_OTHERS: Mode = Mode::from_raw_mode(0o117);

/// A socket that is listened on.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// A connection as it was accepted.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// Where a server can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl Address {
    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Listener {
    /// `ADDRESS:PORT`, `unix:PATH`, or `systemd` for all sockets that it passes.
    pub(crate) async fn bind(listen: &str) -> Result<Vec<Self>> {
        if listen == "systemd" {
            let passed = Self::passed()?;
            if passed.is_empty() {
                bail!(
                    "--listen systemd, but systemd passed no socket (LISTEN_FDS is not set for this process); is there a .socket unit?"
                );
            }
            return Ok(passed);
        }
        if let Some(path) = listen.strip_prefix("unix:") {
            return Ok(vec![unix(Path::new(path))?]);
        }
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on {listen} (another --listen, or port 0, may do)"))?;
        Ok(vec![Self::Tcp(listener)])
    }

    /// The sockets that systemd opened for this process.
    pub(crate) fn passed() -> Result<Vec<Self>> {
        let mut passed = ListenFd::from_env();
        let mut listeners = Vec::new();
        for number in 0..passed.len() {
            let named = || format!("socket {} of those that systemd passed", number + 1);
            if let Ok(Some(socket)) = passed.take_tcp_listener(number) {
                socket.set_nonblocking(true).with_context(named)?;
                listeners.push(Self::Tcp(TcpListener::from_std(socket).with_context(named)?));
            } else if let Ok(Some(socket)) = passed.take_unix_listener(number) {
                socket.set_nonblocking(true).with_context(named)?;
                // The file is systemd's.
                let file = SocketFile { path: path_of(&socket), identity: None };
                listeners.push(Self::Unix(UnixListener::from_std(socket).with_context(named)?, file));
            } else {
                bail!(
                    "{} is neither a TCP nor a unix socket that listens: use ListenStream= without Accept=yes",
                    named()
                );
            }
        }
        Ok(listeners)
    }

    pub(crate) fn address(&self) -> Result<Address> {
        Ok(match self {
            Self::Tcp(listener) => {
                Address::Tcp(listener.local_addr().context("cannot tell the address that is listened on")?)
            }
            Self::Unix(_, file) => Address::Unix(file.path.clone()),
        })
    }

    pub(super) fn poll_accept(&self, cx: &mut Poller<'_>) -> Poll<io::Result<Socket>> {
        match self {
            Self::Tcp(listener) => listener.poll_accept(cx).map_ok(|(socket, peer)| Socket::Tcp(socket, peer)),
            Self::Unix(listener, _) => listener.poll_accept(cx).map_ok(|(socket, _)| Socket::Unix(socket)),
        }
    }
}

/// The next connection of any of them; `turn` goes round, so that a busy one does not keep the others waiting.
pub(super) async fn accept(listeners: &[Listener], turn: &mut usize) -> io::Result<Socket> {
    *turn = turn.wrapping_add(1);
    let first = *turn;
    std::future::poll_fn(|cx| {
        for number in 0..listeners.len() {
            let accepted = listeners[(first.wrapping_add(number)) % listeners.len()].poll_accept(cx);
            if accepted.is_ready() {
                return accepted;
            }
        }
        Poll::Pending
    })
    .await
}

fn path_of(socket: &std::os::unix::net::UnixListener) -> PathBuf {
    let path = socket.local_addr().ok().and_then(|address| address.as_pathname().map(Path::to_owned));
    path.unwrap_or_else(|| "(unnamed)".into())
}

fn unix(path: &Path) -> Result<Listener> {
    let name = path.display();
    make_way(path)?;
    // From its first moment on; a chmod would come a moment later. Nothing else makes files meanwhile.
    let before = umask(NOT_FOR_OTHERS);
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound.with_context(|| format!("cannot listen on unix:{name}"))?;
    let identity = path.symlink_metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()));
    Ok(Listener::Unix(listener, SocketFile { path: path.to_owned(), identity }))
}

/// Takes away the socket of a server that is no more.
fn make_way(path: &Path) -> Result<()> {
    let name = path.display();
    let Ok(metadata) = path.symlink_metadata() else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        bail!("cannot listen on unix:{name}: there is a file that is not a socket; name another path");
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!("{name}: replacing the socket of a server that has ended");
            std::fs::remove_file(path).with_context(|| format!("cannot remove the stale socket {name}"))
        }
        Err(error) => Err(error)
            .with_context(|| format!("cannot listen on unix:{name}: cannot tell whether the socket there is in use")),
        Ok(_) => bail!("cannot listen on unix:{name}: another server listens there; stop it or name another path"),
    }
}

/// The file of a unix socket. Dropped, it is removed, if it is still ours.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let now = self.path.symlink_metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()));
        if self.identity.is_some() && now == self.identity {
            // It may be gone by now: all the better.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
