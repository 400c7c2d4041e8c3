//! A fake CRIU: the real protocol, real userfaultfds, real processes.

use super::{
    layout::{DEAD_PID, TASKS, pid},
    task::{Orders, REGISTER, REGISTERED, RUN},
    worker::Done,
};
use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::{
        signal::{Signal, killpg},
        socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};
use std::{
    io::{IoSlice, IoSliceMut, Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How a task is told what it is.
pub const TASK_VARIABLE: &str = "PAGEFERRY_TORTURE_TASK";

/// A task that is being restored, or runs.
struct Task {
    process: Child,
    socket: UnixStream,
}

impl Task {
    /// How it ended, if it has. It is not reaped yet, so that its number stays its own.
    fn ended(&self) -> Result<Option<WaitStatus>> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let status = waitid(Id::Pid(self.pid()), flags).context("waiting for a task")?;
        Ok(Some(status).filter(|status| *status != WaitStatus::StillAlive))
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id() as i32)
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // Whatever it forked is in its process group.
        let _ = killpg(self.pid(), Signal::SIGKILL);
        let _ = self.process.wait();
    }
}

/// The tasks of a restore.
pub struct Restored {
    tasks: Vec<Task>,
}

/// Restores all tasks: the pager that listens in `work_dir` fills their memory.
pub fn restore(work_dir: &Path, orders: Orders) -> Result<Restored> {
    let mut pager =
        UnixStream::connect(work_dir.join("lazy-pages.socket")).context("connecting to lazy-pages.socket")?;
    let mut tasks = Vec::new();
    for number in 0..TASKS {
        let (ours, theirs) = UnixStream::pair()?;
        let process = Command::new(std::env::current_exe()?)
            .env(TASK_VARIABLE, Orders { task: number, ..orders }.to_words())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .process_group(0)
            .spawn()?;
        let task = Task { process, socket: ours };
        task.socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        let uffd = receive(&task.socket).with_context(|| format!("task {number}: making a userfaultfd"))?;
        pager.write_all(&(pid(number) as i32).to_ne_bytes())?;
        let fds = [uffd.as_raw_fd()];
        sendmsg::<()>(
            pager.as_raw_fd(),
            &[IoSlice::new(&[0])],
            &[ControlMessage::ScmRights(&fds)],
            MsgFlags::empty(),
            None,
        )?;
        tasks.push(task);
    }
    pager.write_all(&(-(DEAD_PID as i32)).to_ne_bytes())?;
    for task in &mut tasks {
        task.socket.write_all(&[REGISTER])?;
        let mut byte = [0];
        task.socket.read_exact(&mut byte).context("a task that registers its memory")?;
        ensure!(byte == [REGISTERED], "a task said {byte:?}");
    }
    pager.write_all(&0x5253_5446u32.to_ne_bytes())?;
    for task in &mut tasks {
        task.socket.write_all(&[RUN])?;
    }
    Ok(Restored { tasks })
}

impl Restored {
    /// Waits until all tasks have ended; an error unless they were content.
    pub fn wait(mut self, patience: Duration) -> Result<Done> {
        let start = Instant::now();
        let mut done = Done::default();
        for (number, task) in self.tasks.iter_mut().enumerate() {
            let status = loop {
                if let Some(status) = task.ended()? {
                    break status;
                }
                if start.elapsed() > patience {
                    bail!("task {number} hangs:\n{}", threads(task.process.id()));
                }
                std::thread::sleep(Duration::from_millis(5));
            };
            ensure!(matches!(status, WaitStatus::Exited(_, 0)), "task {number} ended with {status:?}");
            let mut words = String::new();
            task.socket.read_to_string(&mut words)?;
            // One that just exits in the middle does not say what it did.
            done.add(Done::from_words(&words).unwrap_or_default());
        }
        Ok(done)
    }
}

/// What the threads of a process group wait in.
fn threads(group: u32) -> String {
    let mut text = String::new();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = process.path();
        let stat = std::fs::read_to_string(path.join("stat")).unwrap_or_default();
        let of_group =
            stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(2)) == Some(&group.to_string());
        for thread in std::fs::read_dir(path.join("task")).into_iter().flatten().flatten().filter(|_| of_group) {
            let read = |name| std::fs::read_to_string(thread.path().join(name)).unwrap_or_default();
            text += &format!("  {} {} {}\n", thread.path().display(), read("wchan"), read("syscall").trim());
        }
    }
    text
}

/// The descriptor that a task sends.
fn receive(socket: &UnixStream) -> Result<OwnedFd> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut control = nix::cmsg_space!([RawFd; 1]);
    let read = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for message in read.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = message
            && let Some(fd) = fds.first()
        {
            // SAFETY: the kernel just made it for us.
            return Ok(unsafe { OwnedFd::from_raw_fd(*fd) });
        }
    }
    bail!("no descriptor came; does this user have the right to use userfaultfd?")
}
