//! A child process that does not outlive its test.

use std::{
    fs::File,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    sys::wait::{Id, WaitPidFlag, WaitStatus, waitid},
    unistd::Pid,
};

use crate::PATIENCE;

/// What a process took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// On all processors.
    pub cpu_seconds: f64,
    /// The largest amount of memory that it has held at once, in bytes.
    pub peak_memory: u64,
}

/// A background process with its log. Killed and reaped on drop.
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command`; what it writes goes to `log`, but for standard output if that is piped already.
    ///
    /// `setpriv` has the kernel kill it when the thread that started it ends, so that it does not outlive a test that
    /// is killed. Start a daemon on the thread that uses it.
    pub fn start(name: &str, command: &Command, log: &Path, stdout: Option<Stdio>) -> Result<Self> {
        let open = || File::create(log).with_context(|| log.display().to_string());
        let file = open()?;
        let mut guarded = Command::new("setpriv");
        guarded.args(["--pdeathsig", "KILL"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => guarded.env(key, value),
                None => guarded.env_remove(key),
            };
        }
        guarded.stdin(Stdio::null()).stderr(file.try_clone()?).stdout(stdout.unwrap_or(file.into()));
        let child = guarded.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_path_buf() })
    }

    /// The process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or_default()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits until something accepts connections on a port of the loopback address.
    pub fn wait_for_port(&mut self, port: u16) -> Result<()> {
        let start = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status} instead of listening\n{}", self.name, self.log());
            }
            if start.elapsed() > PATIENCE {
                bail!("{} does not listen on port {port}\n{}", self.name, self.log());
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Ok(())
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() > PATIENCE {
                bail!("{} has not ended after {} s\n{}", self.name, PATIENCE.as_secs(), self.log());
            }
            // Measurements take the moment of its end from here.
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// The same, with what it took.
    pub fn wait_with_usage(&mut self) -> Result<(ExitStatus, Usage)> {
        let mut usage = Usage::default();
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let start = Instant::now();
        // The kernel forgets a process's memory when it ends, its processor time when it is reaped.
        while waitid(Id::Pid(Pid::from_raw(self.pid())), flags)? == WaitStatus::StillAlive {
            usage.peak_memory = usage.peak_memory.max(self.peak_memory().unwrap_or_default());
            if start.elapsed() > PATIENCE {
                bail!("{} has not ended after {} s\n{}", self.name, PATIENCE.as_secs(), self.log());
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        usage.cpu_seconds = self.cpu_seconds()?;
        Ok((self.wait()?, usage))
    }

    /// Processor time so far, with that of children that have ended, in seconds; to a hundredth (proc_pid_stat(5)).
    fn cpu_seconds(&self) -> Result<f64> {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = std::fs::read_to_string(&path).with_context(|| path)?;
        // The second field, a name in brackets, may have spaces.
        let fields = stat.rsplit_once(')').context("no name")?.1.split_whitespace();
        let ticks: u64 = fields.skip(11).take(4).flat_map(str::parse::<u64>).sum();
        Ok(ticks as f64 / 100.0)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// The largest amount of memory that it and its children, an agent and its guard for one, have held, in bytes.
    pub fn peak_memory(&self) -> Result<u64> {
        self.processes().into_iter().map(peak_memory).sum()
    }

    /// It and its children, and theirs.
    pub fn processes(&self) -> Vec<i32> {
        let mut all = vec![self.pid()];
        let mut looked = 0;
        while let Some(pid) = all.get(looked) {
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
            looked += 1;
        }
        all
    }

    /// All that it wrote so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // None of them can do anything about the death of the others.
        let all = self.processes();
        for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
            all.iter().for_each(|pid| {
                let _ = kill(Pid::from_raw(*pid), signal);
            });
        }
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of {} ---\n{}", self.name, self.log());
        }
    }
}

fn peak_memory(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| path)?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

/// A port of the loopback address that was free a moment ago.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
