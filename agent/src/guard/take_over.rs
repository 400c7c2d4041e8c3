//! What an agent that died has left, found and sorted.

use super::{
    Guarded, Header, Word,
    header::{Stage, now},
    journal,
    ledger::Ledger,
};
use crate::{
    criu_socket::{Connection, LazyPagesSocket, SOCKET_NAME},
    engine::{ProcessId, Start},
    fd_store::{FdStore, Role},
    uffd::{self, SharedMemory, Uffd, inherited_fd},
};
use anyhow::{Context, Result, ensure};
use nix::sys::socket::{UnixAddr, getsockname};
use page_store::ScratchDir;
use std::{
    ffi::OsString,
    fs::File,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    time::Duration,
};

/// The first argument of a program that a guard starts, followed by the number of the header's descriptor.
pub(super) const ARGUMENT: &str = "--take-over=";
/// An agent that dies again so soon after it took over, so often, is started after a pause, and a longer one each time.
const SOON: Duration = Duration::from_secs(1);
const AT_ONCE: u64 = 10;
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Takes what a guard adds to the command line out of it.
pub fn split_argument(args: impl Iterator<Item = OsString>) -> (Option<RawFd>, Vec<OsString>) {
    let mut args: Vec<_> = args.collect();
    let fd = args.get(1).and_then(|word| word.to_str()?.strip_prefix(ARGUMENT)?.parse().ok());
    if fd.is_some() {
        args.remove(1);
    }
    (fd, args)
}

/// What an agent that died has left to the next.
#[derive(Debug)]
pub struct Left {
    pub(crate) ledger: Ledger,
    /// Where that was read. It stays until there is another: the header names it.
    journal: SharedMemory,
    uffds: Vec<(ProcessId, OwnedFd)>,
    listener: OwnedFd,
    folder: OwnedFd,
    connection: Option<OwnedFd>,
    /// The descriptor of a message from CRIU that was read and not dealt with.
    mail: Option<OwnedFd>,
    /// Hangs up when CRIU is gone; where `restore` started it.
    pub(crate) lifeline: Option<OwnedFd>,
    /// A scratch folder of `restore`, open.
    scratch: Option<OwnedFd>,
    /// A recording that was not delivered, open.
    recording: Option<OwnedFd>,
    /// How long ago the death was seen.
    pub(crate) died: u64,
}

impl Left {
    /// Reads journal and header, takes over what they name, and closes every other descriptor.
    ///
    /// With what systemd's fd store had, both processes were gone meanwhile, or have left on purpose.
    pub(super) fn read(header: &Header, store: &FdStore) -> Result<Self> {
        if store.is_resumed() {
            ensure!(header.stage() == Stage::Serving, "what it knew could not be kept");
            header.goes_on();
            // systemd has no copy of it, and the number may be another's by now.
            header.set_fd(Word::Recording, None);
        }
        wait_if_often(header);
        let journal = SharedMemory::open(header.inherit_fd(Word::Journal)?.context("no journal was left")?)?;
        let (ledger, records) = journal::read(&journal)?;
        let ledger = ledger.replayed(records)?;
        let listener = header.inherit_fd(Word::Listener)?.context("no socket was left")?;
        let folder = header.inherit_fd(Word::Folder)?.context("no work directory was left")?;
        // Of the task that CRIU has handed over last, and that was not dealt with.
        let takes_part = !ledger.restored && !ledger.abandoned;
        let mail_fd = if takes_part { super::mail(header).resume(ledger.last_mail) } else { None };
        let is_lost = mail_fd.is_some_and(|fd| store.lacks(fd, Role::Process(ProcessId(ledger.next_process))));
        ensure!(!is_lost, "the memory of the task that CRIU had just handed over is lost");
        // From here on nothing may fail: it would close userfaultfds.
        let is_here = |(id, known): &(&ProcessId, &super::Known)| {
            let lost = store.lacks(known.fd, Role::Process(**id));
            if lost && !known.space.is_whole() {
                eprintln!(
                    "pageferry-agent: {} is not in the fd store: it has ended, or what it lacks will read as zeros: then kill it",
                    known.name
                );
            }
            !lost
        };
        let of = |(id, known): (&ProcessId, &super::Known)| {
            let lost =
                |error: &uffd::Error| eprintln!("pageferry-agent: the userfaultfd of {} is lost: {error}", known.name);
            Some((*id, inherited_fd(known.fd).inspect_err(lost).ok()?))
        };
        let uffds = ledger.processes.iter().filter(is_here).filter_map(of).collect();
        let inherit = |word| header.inherit_fd(word).ok().flatten();
        let (mut connection, mut mail) = (None, None);
        if takes_part {
            // Accepted, and killed before it was noted: it is the only other socket of that name.
            let unnoted = || inherited_fd(others().find(is_connection)?).ok();
            connection = inherit(Word::Connection).or_else(unnoted);
            mail = mail_fd.and_then(|fd| inherited_fd(fd).ok());
        }
        let (lifeline, scratch, recording) =
            (inherit(Word::Lifeline), inherit(Word::Scratch), inherit(Word::Recording));
        let died = header.get(Word::Died);
        others().for_each(|fd| drop(inherited_fd(fd)));
        header.count(Word::TakeOvers);
        header.set_fd(Word::Connection, connection.as_ref().map(|fd| fd.as_raw_fd()));
        Ok(Self { ledger, journal, uffds, listener, folder, connection, mail, lifeline, scratch, recording, died })
    }

    /// How long ago the death was seen.
    pub(crate) fn downtime(&self) -> Duration {
        Duration::from_nanos(now().saturating_sub(self.died))
    }

    /// Whether CRIU has connected.
    pub(crate) fn has_heard_of_criu(&self) -> bool {
        self.connection.is_some() || self.ledger.restored || self.ledger.abandoned
    }

    /// The folder that `restore` works in.
    pub(crate) fn scratch(&mut self) -> Option<(PathBuf, File)> {
        named(self.scratch.take()?)
    }

    /// The file of a recording that was not delivered.
    pub(crate) fn recording(&mut self) -> Option<(PathBuf, File)> {
        named(self.recording.take()?)
    }

    /// What an engine begins with.
    pub(crate) fn into_start(self, work_dir: &Path, guarded: &Guarded) -> Result<Start> {
        let socket = LazyPagesSocket::inherit(work_dir, self.listener, self.folder);
        let resume = |fd: OwnedFd| guarded.sure(Connection::resume(fd.into(), guarded.mail(), self.mail));
        let connection = self.connection.map(resume).transpose().context("going on with CRIU's connection")?;
        let uffd = |(id, fd)| Ok((id, guarded.sure(Uffd::from_owned_fd(fd))?));
        let uffds = self.uffds.into_iter().map(uffd).collect::<Result<_>>()?;
        Ok(Start { socket, connection, ledger: self.ledger, journal: Some(self.journal), uffds })
    }
}

/// What is open as a file or a folder, and where it is.
fn named(fd: OwnedFd) -> Option<(PathBuf, File)> {
    let path = nix::fcntl::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str()).ok()?;
    Some((path.into(), fd.into()))
}

/// The agent died when everything was done but to end.
pub(super) fn tidy_up(header: &Header, store: &FdStore) -> ! {
    let inherit = |word| header.inherit_fd(word).ok().flatten().and_then(named);
    drop(inherit(Word::Scratch).map(|(path, dir)| ScratchDir::adopt(path, dir)));
    // Not among what systemd keeps: then the number is nothing, or another's.
    let recording = if store.is_resumed() { None } else { inherit(Word::Recording) };
    let undelivered = recording.filter(|(path, _)| path.exists());
    store.is_over();
    if let Some((path, _)) = undelivered {
        eprintln!(
            "pageferry-agent: the agent died while it delivered its recording; the restored processes are whole, and the recording is in {file}. Send it \
             with `curl -T {file} -H \"Authorization: Bearer $TOKEN\" ADDRESS`, with the address of --record, unless the working set is there already",
            file = path.display()
        );
        uffd::leave(1)
    }
    uffd::leave(0)
}

fn wait_if_often(header: &Header) {
    let since = Duration::from_nanos(header.get(Word::Died).saturating_sub(header.get(Word::TookOver)));
    let often = if since < SOON { header.count(Word::Quick) } else { 0 };
    header.set(Word::Quick, often);
    if let Some(over) = often.checked_sub(AT_ONCE) {
        let pause = Duration::from_millis(500).saturating_mul(1 << over.min(10)).min(LONGEST_PAUSE);
        eprintln!("pageferry-agent: the agent died {often} times in short order; another takes over in {pause:?}");
        std::thread::sleep(pause);
    }
    header.set(Word::TookOver, now());
}

/// Descriptors that nobody here has taken over, and that are not standard streams.
fn others() -> impl Iterator<Item = RawFd> {
    let numbers = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    let numbers: Vec<RawFd> = numbers.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    numbers.into_iter().filter(|fd| *fd > 2 && uffd::is_inherited(*fd))
}

/// Whether it is a connection to the lazy-pages socket (the socket itself was taken over before).
fn is_connection(fd: &RawFd) -> bool {
    let Ok(address) = getsockname::<UnixAddr>(*fd) else { return false };
    address.path().is_some_and(|path| path.file_name().is_some_and(|name| name == SOCKET_NAME))
}

/// What was left cannot be understood, so no agent can go on. The userfaultfds stay open until nobody needs them.
pub(super) fn hold(error: &anyhow::Error, store: &FdStore) -> ! {
    let told = match store.is_resumed() {
        true => format!(
            "cannot go on with what systemd has kept: {error:#}. Processes wait for what they lack, instead of reading zeros. If it was \
             another version that left it, install that one again and restart this service; if not, kill them and restore again"
        ),
        false => format!(
            "the agent died, and another cannot take over: {error:#}. What its processes lack will never come; they wait for it \
             instead of reading zeros. Kill them and restore again"
        ),
    };
    eprintln!("pageferry-agent: {told}");
    store.ready_but(&told);
    let is_needed =
        |fd: &OwnedFd| fd.try_clone().is_ok_and(|fd| Uffd::from_owned_fd(fd).is_ok_and(|uffd| uffd.is_alive()));
    let fds: Vec<_> = others().filter_map(|fd| inherited_fd(fd).ok()).collect();
    while fds.iter().any(is_needed) {
        std::thread::sleep(Duration::from_secs(1));
    }
    store.clear();
    uffd::leave(1)
}
