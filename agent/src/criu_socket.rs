//! CRIU's lazy-pages socket: where `criu restore --lazy-pages` hands over the memory of the tasks it makes.
//!
//! A stream socket named `lazy-pages.socket` in CRIU's work directory. CRIU connects once, before it forks, and sends, in native byte
//! order (criu/uffd.c):
//! ```text
//! for each task:     i32 pid, then one byte with a userfaultfd attached     (pid as in the images)
//! for a dead task:   i32 -pid
//! at last:           u32 0x52535446, when all mappings are registered and before the tasks run
//! ```
//! Nothing is ever answered. One byte follows the pid, and only that one may be read with the descriptor: what comes after it is
//! the next message.

use crate::uffd::{self, Uffd};
use criu_images::Pid;
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket},
    sys::stat::{FchmodatFlags, Mode, fchmodat},
};
use std::{
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{
            fs::MetadataExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

/// Its name in the work directory (`LAZY_PAGES_SOCK_NAME`).
pub const SOCKET_NAME: &str = "lazy-pages.socket";
/// `LAZY_PAGES_RESTORE_FINISHED`: "RSTF".
const RESTORE_FINISHED: u32 = 0x5253_5446;

/// What is wrong with the socket or with what came over it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another pager serves this work directory.
    #[error("{0}: another pager listens here; give each restore a work directory (-W) of its own")]
    InUse(PathBuf),
    /// Something stands where the socket belongs.
    #[error("{0} is in the way: it is not a socket; remove it, or give another work directory (-W)")]
    NotASocket(PathBuf),
    /// A system call failed.
    #[error("{path}: {what}: {source}", path = .path.display())]
    System {
        /// The socket or its directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The failure.
        source: io::Error,
    },
    /// The peer sent what CRIU does not send.
    #[error("the peer on {SOCKET_NAME} does not speak CRIU's protocol: {0}")]
    Protocol(String),
    /// No usable userfaultfd came for a task.
    #[error("task {pid}: {source}")]
    Task {
        /// Whose.
        pid: Pid,
        /// Why.
        source: uffd::Error,
    },
}

/// The socket that CRIU will connect to. Dropping it removes it from the work directory.
#[derive(Debug)]
pub struct LazyPagesSocket {
    listener: UnixListener,
    path: PathBuf,
    /// The work directory, held open: a path through it has no length limit and does not care about a later chdir.
    dir: File,
    /// Device and inode of the socket file.
    identity: (u64, u64),
}

impl LazyPagesSocket {
    /// Listens in `work_dir`. The leftover of a pager that died is replaced; a socket that somebody listens on is not.
    ///
    /// Only this user and root may connect: whoever does is trusted with deciding whose memory is filled.
    pub fn bind(work_dir: &Path) -> Result<Self, Error> {
        let path = work_dir.join(SOCKET_NAME);
        let system = |what| {
            let path = path.clone();
            move |source: io::Error| Error::System { path, what, source }
        };
        let dir = File::open(work_dir).map_err(system("opening the work directory"))?;
        let name = name_in(&dir);
        let address = UnixAddr::new(&name).map_err(|e| system("naming the socket")(e.into()))?;
        match fs::symlink_metadata(&name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(system("looking for an old socket")(error)),
            Ok(old) if !std::os::unix::fs::FileTypeExt::is_socket(&old.file_type()) => {
                return Err(Error::NotASocket(path));
            }
            Ok(_) if is_bound(&address).map_err(|e| system("looking for another pager")(e.into()))? => {
                return Err(Error::InUse(path));
            }
            Ok(_) => fs::remove_file(&name).map_err(system("removing the old socket"))?,
        }
        let listener = listening(&dir, &address).map_err(|errno| match errno {
            Errno::EADDRINUSE => Error::InUse(path.clone()),
            errno => system("listening")(errno.into()),
        })?;
        let made = fs::symlink_metadata(&name).map_err(system("looking at the new socket"))?;
        Ok(Self { listener: UnixListener::from(listener), path, dir, identity: (made.dev(), made.ino()) })
    }

    /// Waits for CRIU (readable, to poll, means that it is there).
    pub fn accept(&self) -> Result<Connection, Error> {
        let system = |source| Error::System { path: self.path.clone(), what: "accepting CRIU's connection", source };
        let (stream, _) = loop {
            match self.listener.accept() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other.map_err(system)?,
            }
        };
        Connection::new(stream).map_err(system)
    }
}

impl AsFd for LazyPagesSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for LazyPagesSocket {
    fn drop(&mut self) {
        // Only if it is still ours: another pager may have found us deaf, and taken the place.
        let name = name_in(&self.dir);
        if fs::symlink_metadata(&name).is_ok_and(|there| (there.dev(), there.ino()) == self.identity) {
            let _ = fs::remove_file(&name);
        }
    }
}

/// The socket's path through the open directory: short enough for a socket address (108 bytes), always.
fn name_in(dir: &File) -> PathBuf {
    format!("/proc/self/fd/{}/{SOCKET_NAME}", dir.as_raw_fd()).into()
}

/// Whether some process holds the socket at `address` open. A connect of the wrong type finds out without being noticed, where
/// a real one would pass for CRIU: EPROTOTYPE if there is one, ECONNREFUSED if not (net/unix/af_unix.c, `unix_find_bsd`).
fn is_bound(address: &UnixAddr) -> nix::Result<bool> {
    let probe = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    match connect(probe.as_raw_fd(), address) {
        Ok(()) | Err(Errno::EPROTOTYPE) => Ok(true),
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn listening(dir: &File, address: &UnixAddr) -> nix::Result<OwnedFd> {
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(socket.as_raw_fd(), address)?;
    // Before anybody can connect.
    fchmodat(dir, SOCKET_NAME, Mode::S_IRUSR | Mode::S_IWUSR, FchmodatFlags::FollowSymlink)?;
    listen(&socket, Backlog::new(1)?)?;
    Ok(socket)
}

/// What CRIU says.
#[derive(Debug)]
pub enum Message {
    /// A task, and the userfaultfd of its memory. Its mappings may not be registered yet.
    Task {
        /// Its pid in the images.
        pid: Pid,
        /// Of its memory.
        uffd: Uffd,
    },
    /// A task that was dead when it was dumped: it has no memory.
    DeadTask(Pid),
    /// All mappings of all tasks are registered; the tasks are about to run.
    RestoreFinished,
    /// CRIU closed the connection.
    Closed,
}

/// CRIU's end of a restore.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    word: [u8; 4],
    /// Bytes of `word` that have come.
    filled: usize,
    /// The task whose userfaultfd comes next.
    task: Option<Pid>,
}

impl Connection {
    /// Talks to whoever is at the other end of `stream`, without ever blocking.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, word: [0; 4], filled: 0, task: None })
    }

    /// The next message; `None` while it has not come in full.
    pub fn try_read(&mut self) -> Result<Option<Message>, Error> {
        if self.task.is_none() {
            match self.read_word()? {
                Word::Incomplete => return Ok(None),
                Word::End => return Ok(Some(Message::Closed)),
                Word::Is(word) => match parse(word)? {
                    Parsed::Task(pid) => self.task = Some(pid),
                    Parsed::Alone(message) => return Ok(Some(message)),
                },
            }
        }
        let Some(pid) = self.task else { return Ok(None) };
        let failed = |source| Error::Task { pid, source };
        let Some(fd) = uffd::receive_fd(&self.stream).map_err(failed)? else { return Ok(None) };
        self.task = None;
        Ok(Some(Message::Task { pid, uffd: Uffd::from_owned_fd(fd).map_err(failed)? }))
    }

    fn read_word(&mut self) -> Result<Word, Error> {
        while self.filled < self.word.len() {
            match self.stream.read(&mut self.word[self.filled..]) {
                Ok(0) if self.filled == 0 => return Ok(Word::End),
                Ok(0) => return Err(Error::Protocol("the connection ends inside a message".into())),
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Word::Incomplete),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What CRIU leaves behind when it is killed with unread data on its side.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(Word::End),
                Err(source) => return Err(Error::System { path: SOCKET_NAME.into(), what: "reading", source }),
            }
        }
        self.filled = 0;
        Ok(Word::Is(u32::from_ne_bytes(self.word)))
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

enum Word {
    Incomplete,
    End,
    Is(u32),
}

enum Parsed {
    Task(Pid),
    Alone(Message),
}

fn parse(word: u32) -> Result<Parsed, Error> {
    if word == RESTORE_FINISHED {
        return Ok(Parsed::Alone(Message::RestoreFinished));
    }
    let number = word.cast_signed();
    match Pid::new(number.unsigned_abs()) {
        Some(pid) if number > 0 => Ok(Parsed::Task(pid)),
        Some(pid) => Ok(Parsed::Alone(Message::DeadTask(pid))),
        None => Err(Error::Protocol(format!("{number} ({word:#010x}) is neither a pid nor a message"))),
    }
}

#[cfg(test)]
mod tests;
