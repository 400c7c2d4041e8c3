//! As much of systemd as a file descriptor store takes: it keeps what a service sends it, and hands it to the next start (sd_notify(3),
//! sd_listen_fds(3)).

use std::{
    fs::File,
    io::IoSliceMut,
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use anyhow::{Context, Result, bail, ensure};
use command_fds::{CommandFdExt, FdMapping};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::{PATIENCE, Pair, eventually, tools};

/// What it sends to itself.
const CATCH_UP: &str = "CATCH UP";
const END: &str = "END";

/// One service, `pageferry-agent lazy-pages --fd-store`.
pub struct FakeSystemd {
    /// The name of the socket, in the abstract namespace: paths below a target directory may be too long for one.
    name: String,
    store: Arc<Store>,
    receiver: Option<JoinHandle<()>>,
    work: PathBuf,
    args: Vec<String>,
    service: Option<Child>,
}

#[derive(Default)]
struct Store {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    fds: Vec<(String, OwnedFd)>,
    ready: bool,
    /// How often it was asked to read what had come before.
    caught_up: u64,
    ends: bool,
}

impl Store {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `false` if that takes too long.
    fn wait_until(&self, done: impl Fn(&mut State) -> bool) -> bool {
        let waited = self.changed.wait_timeout_while(self.state(), PATIENCE, |state| !done(state));
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn take(&self, message: &str, fd: Option<OwnedFd>) {
        let value = |key: &str| message.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let mut state = self.state();
        let name = value("FDNAME").unwrap_or_default();
        match fd {
            // systemd keeps a descriptor once; that it is the same shows in its name here.
            Some(fd) if value("FDSTORE") == Some("1") && state.fds.iter().all(|(there, _)| there != name) => {
                state.fds.push((name.to_owned(), fd));
            }
            _ => {}
        }
        if value("FDSTOREREMOVE") == Some("1") {
            state.fds.retain(|(there, _)| there != name);
        }
        state.ready |= value("READY") == Some("1");
        state.caught_up += u64::from(message == CATCH_UP);
        state.ends |= message == END;
        self.changed.notify_all();
    }
}

impl FakeSystemd {
    /// One that will start a pager of this store and slim dump, with the folder `work`.
    pub fn new(store: &str, slim: &Path, work: &Path, options: &[&str]) -> Result<Self> {
        let name = format!("pageferry-test-{}-{}", std::process::id(), work.display());
        let name: String = name.chars().rev().take(100).collect();
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        let kept = Arc::new(Store::default());
        let store_of_receiver = kept.clone();
        let receiver = std::thread::spawn(move || {
            while !store_of_receiver.state().ends {
                match receive(&socket) {
                    Ok((message, fd)) => store_of_receiver.take(&message, fd),
                    Err(error) => panic!("the fake systemd cannot read: {error:#}"),
                }
            }
        });
        let slim = slim.display().to_string();
        let dir = work.display().to_string();
        let args = ["lazy-pages", "--fd-store", "--store", store, "-D", &slim, "-W", &dir].into_iter();
        let args = args.chain(options.iter().copied()).map(str::to_owned).collect();
        Ok(Self { name, store: kept, receiver: Some(receiver), work: work.to_path_buf(), args, service: None })
    }

    /// Starts the service, gives it what is kept, and waits until it is ready.
    pub fn start(&mut self) -> Result<()> {
        self.catch_up()?;
        // Only what will be the service knows its pid.
        const SCRIPT: &str = r#"LISTEN_PID=$$ exec "$@""#;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "sh", "-c", SCRIPT, "sh"]).arg(tools::binary("pageferry-agent")?);
        let log = File::options().create(true).append(true).open(self.work.join("agent.log"))?;
        command.args(&self.args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.env("NOTIFY_SOCKET", format!("@{}", self.name));
        {
            let mut state = self.store.state();
            state.ready = false;
            let names: Vec<_> = state.fds.iter().map(|(name, _)| name.as_str()).collect();
            command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
            let clones = state.fds.iter().map(|(_, fd)| fd.try_clone()).collect::<std::io::Result<Vec<_>>>()?;
            let mappings = clones.into_iter().zip(3..).map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd });
            command.fd_mappings(mappings.collect()).context("two descriptors for one number")?;
        }
        self.service = Some(command.spawn().context("starting setpriv (util-linux)")?);
        drop(command);
        ensure!(self.store.wait_until(|state| state.ready), "the service is not ready\n{}", self.log());
        Ok(())
    }

    /// Reads all that was sent before. systemd does so before it notices that the sender has ended (core/manager.c, the priorities of its event
    /// sources); what a killed service had sent, the next start gets.
    fn catch_up(&self) -> Result<()> {
        let before = self.store.state().caught_up;
        self.tell_itself(CATCH_UP)?;
        let done = |state: &mut State| state.caught_up > before;
        ensure!(self.store.wait_until(done), "the fake systemd does not read its messages");
        Ok(())
    }

    fn tell_itself(&self, message: &str) -> Result<()> {
        let address = SocketAddr::from_abstract_name(&self.name)?;
        UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address)?;
        Ok(())
    }

    /// What is kept, by name.
    pub fn kept(&self) -> Result<Vec<String>> {
        self.catch_up()?;
        Ok(self.store.state().fds.iter().map(|(name, _)| name.clone()).collect())
    }

    /// The service's agent and guard.
    pub fn pair(&self) -> Pair<'_> {
        Pair::new(&self.work)
    }

    /// The service's main process.
    pub fn pid(&self) -> Result<i32> {
        Ok(i32::try_from(self.service.as_ref().context("not started")?.id())?)
    }

    /// Ends agent and guard at once: neither can do anything about the death of the other.
    pub fn kill_both(&mut self) -> Result<()> {
        let both = self.pair().processes()?;
        for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
            both.iter().try_for_each(|pid| kill(Pid::from_raw(*pid), signal)).context("killing the service")?;
        }
        self.wait()?;
        self.pair().wait_for_end()
    }

    /// Sends a signal to the main process.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.pid()?), signal)?)
    }

    /// Waits for the end of the main process.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let service = self.service.as_mut().context("not started")?;
        eventually(|| service.try_wait()?.context("the service has not ended"))
    }

    /// All that the service has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.work.join("agent.log")).unwrap_or_default()
    }
}

impl Drop for FakeSystemd {
    fn drop(&mut self) {
        if self.service.is_some() && self.pair().processes().is_ok_and(|all| !all.is_empty()) {
            let _ = self.kill_both();
        }
        if let (Ok(()), Some(receiver)) = (self.tell_itself(END), self.receiver.take()) {
            let _ = receiver.join();
        }
        if std::thread::panicking() {
            eprintln!("--- log of the service ---\n{}", self.log());
        }
    }
}

fn receive(socket: &UnixDatagram) -> Result<(String, Option<OwnedFd>)> {
    let (mut text, mut space) = ([0; 4096], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut text)];
    let length = loop {
        match recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => break message.bytes,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => bail!(error),
        }
    };
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let text = String::from_utf8(text[..length].to_vec()).context("not text")?;
    Ok((text, fd))
}
