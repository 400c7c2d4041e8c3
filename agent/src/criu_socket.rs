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

use crate::uffd::{self, CONTROL_WORDS, Uffd};
use criu_images::Pid;
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen, socket,
        sockopt::PeerCredentials,
    },
    sys::stat::{FchmodatFlags, Mode, fchmodat},
};
use std::{
    fmt,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::{
            fs::MetadataExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
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

    /// Takes over a socket that another agent has left, and the work directory as it had it open.
    pub fn inherit(work_dir: &Path, listener: OwnedFd, dir: OwnedFd) -> Self {
        let (path, dir) = (work_dir.join(SOCKET_NAME), File::from(dir));
        // If somebody removed it, it is nobody's to remove.
        let identity = fs::symlink_metadata(name_in(&dir)).map_or((0, 0), |made| (made.dev(), made.ino()));
        Self { listener: UnixListener::from(listener), path, dir, identity }
    }

    /// The work directory.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Waits for CRIU (readable, to poll, means that it is there).
    pub fn accept(&self, mail: Mail) -> Result<Connection, Error> {
        let system = |source| Error::System { path: self.path.clone(), what: "accepting CRIU's connection", source };
        let (stream, _) = loop {
            match self.listener.accept() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other.map_err(system)?,
            }
        };
        Connection::new(stream, mail).map_err(system)
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
        /// The message's number.
        mail: u64,
    },
    /// A task that was dead when it was dumped: it has no memory.
    DeadTask(Pid),
    /// All mappings of all tasks are registered; the tasks are about to run.
    RestoreFinished,
    /// CRIU closed the connection.
    Closed,
}

/// Where a message is read to: the word, the control message with the descriptor, and how many messages there were before. If that is
/// memory shared with another process, what was taken off the connection is there when this one is killed.
#[derive(Clone, Debug)]
pub struct Mail(Arc<dyn MailMemory>);

/// Words of it.
pub const MAIL_WORDS: usize = 2 + CONTROL_WORDS;

/// Memory for a [`Mail`].
pub trait MailMemory: fmt::Debug + Send + Sync {
    /// Zeros to begin with.
    fn words(&self) -> &[AtomicU64; MAIL_WORDS];
}

impl MailMemory for [AtomicU64; MAIL_WORDS] {
    fn words(&self) -> &[AtomicU64; MAIL_WORDS] {
        self
    }
}

impl Default for Mail {
    fn default() -> Self {
        Self::new(Arc::<[AtomicU64; MAIL_WORDS]>::default())
    }
}

impl Mail {
    /// Messages go to `memory`.
    pub fn new(memory: Arc<dyn MailMemory>) -> Self {
        Self(memory)
    }

    fn word(&self) -> &AtomicU64 {
        &self.0.words()[0]
    }

    fn control(&self) -> &[AtomicU64; CONTROL_WORDS] {
        self.0.words()[1..].first_chunk().expect("of the right length")
    }

    /// How many messages were dealt with before this one.
    pub fn number(&self) -> u64 {
        self.0.words()[1 + CONTROL_WORDS].load(SeqCst)
    }

    /// The message is dealt with. In this order: what is half removed still has the number of the message that it was.
    fn clear(&self) {
        self.control().iter().chain([self.word()]).for_each(|word| word.store(0, SeqCst));
        self.0.words()[1 + CONTROL_WORDS].fetch_add(1, SeqCst);
    }

    /// Makes what another agent has left ready to go on with, given the number of the last message that it dealt with. The descriptor
    /// of the message that is left, if it has come.
    pub fn resume(&self, last: Option<u64>) -> Option<RawFd> {
        if self.word().load(SeqCst) == 0 || last == Some(self.number()) {
            self.clear();
        }
        uffd::received_fd(self.control())
    }
}

/// CRIU's end of a restore.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    mail: Mail,
    /// Whether the message in `mail` was handed out.
    delivered: bool,
    /// The number of the last message that brought a task.
    last_mail: Option<u64>,
    /// The descriptor of a message that another agent did not come to deal with.
    left: Option<OwnedFd>,
}

impl Connection {
    /// Talks to whoever is at the other end of `stream`, without ever blocking.
    pub fn new(stream: UnixStream, mail: Mail) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, mail, delivered: false, last_mail: None, left: None })
    }

    /// Goes on with a connection that another agent has left; `left` is the descriptor that [`Mail::resume`] found.
    pub fn resume(stream: UnixStream, mail: Mail, left: Option<OwnedFd>) -> io::Result<Self> {
        Ok(Self { left, ..Self::new(stream, mail)? })
    }

    /// CRIU's pid, if it can be seen from here.
    pub fn peer(&self) -> Option<i32> {
        let peer = getsockopt(&self.stream, PeerCredentials).ok()?;
        Some(peer.pid()).filter(|pid| *pid > 0)
    }

    /// The number of the last message that brought a task.
    pub fn last_mail(&self) -> Option<u64> {
        self.last_mail
    }

    /// The next message; `None` while it has not come in full. The one before counts as dealt with.
    pub fn try_read(&mut self) -> Result<Option<Message>, Error> {
        if std::mem::take(&mut self.delivered) {
            self.mail.clear();
        }
        if self.mail.word().load(SeqCst) == 0 {
            match uffd::receive_word(&self.stream, self.mail.word()) {
                Ok(None) => return Ok(None),
                Ok(Some(false)) => return Ok(Some(Message::Closed)),
                Ok(Some(true)) => {}
                Err(error) => return Err(Error::Protocol(error.to_string())),
            }
        }
        let [a, b, c, d, ..] = self.mail.word().load(SeqCst).to_ne_bytes();
        let pid = match parse(u32::from_ne_bytes([a, b, c, d]))? {
            Parsed::Task(pid) => pid,
            Parsed::Alone(message) => {
                self.delivered = true;
                return Ok(Some(message));
            }
        };
        let failed = |source| Error::Task { pid, source };
        let fd = match self.left.take() {
            Some(fd) => fd,
            None => match uffd::receive_fd(&self.stream, self.mail.control()).map_err(failed)? {
                Some(fd) => fd,
                None => return Ok(None),
            },
        };
        let uffd = Uffd::from_owned_fd(fd).map_err(failed)?;
        let mail = self.mail.number();
        (self.delivered, self.last_mail) = (true, Some(mail));
        Ok(Some(Message::Task { pid, uffd, mail }))
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
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
