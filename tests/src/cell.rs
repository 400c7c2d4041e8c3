//! Namespaces of its own for a process tree.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::tools::{run, text};

/// What the first process of a cell does: brings up the loopback device and waits for the end of its input.
///
/// `/dev/shm` is private because CRIU makes files there under fixed names while it restores deleted ones.
const FIRST_PROCESS: &str = "ip link set lo up && mount -t tmpfs tmpfs /dev/shm && echo ready && exec cat";

/// A pid, a mount and a network namespace. Pids and ports in a cell collide with nothing outside.
///
/// The first process of the cell reads from a pipe that this process holds: when the test ends, however it ends, the
/// pipe closes, the first process exits, and the kernel kills everything in the cell.
pub struct Cell {
    unshare: Child,
    /// The cell's first process, as seen from outside.
    init: u32,
}

impl Cell {
    /// An empty cell.
    pub fn new() -> Result<Self> {
        let mut unshare = Command::new("unshare")
            .args(["--pid", "--mount", "--net", "--fork", "--mount-proc", "sh", "-c", FIRST_PROCESS])
            .env("PATH", path_with_sbin())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start unshare (util-linux)")?;
        let stdout = unshare.stdout.take().context("stdout is piped")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line != "ready\n" {
            bail!("unshare failed with {}; namespaces need root", unshare.wait()?);
        }
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let init = fs::read_to_string(&children)?.trim().parse().with_context(|| children)?;
        Ok(Self { unshare, init })
    }

    /// A command that will run inside.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.init)).args(["--pid", "--mount", "--net", "--"]).arg(program);
        command.env("PATH", path_with_sbin()).stdin(Stdio::null());
        command
    }

    /// Starts a program that can be checkpointed: in a session of its own, without terminal, with this very pid.
    pub fn start(
        &self,
        pid: i32,
        program: &Path,
        args: &[String],
        env: &[(&str, String)],
        folder: &Path,
    ) -> Result<()> {
        // Descriptors that this process inherited from whatever started it must not get into a dump. (bash, because
        // other shells redirect the first ten only.)
        const SCRIPT: &str = r#"
            for file in /proc/$$/fd/*; do
                fd=${file##*/}; if [ "$fd" -gt 2 ]; then eval "exec $fd>&-"; fi
            done
            echo $(($1 - 1)) > /proc/sys/kernel/ns_last_pid; cd "$2"; shift 2
            setsid "$@" < /dev/null > /dev/null 2>&1 & echo $!"#;
        let mut command = self.command("bash");
        command.args(["-c", SCRIPT, "bash", &pid.to_string()]).arg(folder).arg(program).args(args);
        command.envs(env.iter().map(|(name, value)| (name, value)));
        let output = text(&run(&mut command)?.stdout);
        if output.trim() != pid.to_string() {
            bail!("{} has pid {}, not {pid}", program.display(), output.trim());
        }
        Ok(())
    }

    /// A script that runs its arguments inside: for programs that start CRIU themselves and stay outside.
    pub fn entering(&self, program: &Path, script: &Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let text = format!(
            "#!/bin/sh\nexec nsenter --target={} --pid --mount --net -- '{}' \"$@\"\n",
            self.init,
            program.display()
        );
        fs::write(script, text)?;
        Ok(fs::set_permissions(script, fs::Permissions::from_mode(0o755))?)
    }

    /// Runs `work` on a thread inside the cell's network.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = format!("/proc/{}/ns/net", self.init);
        let namespace = File::open(&namespace).with_context(|| namespace)?;
        let thread = || {
            // Of this thread only, and it ends here.
            setns(&namespace, CloneFlags::CLONE_NEWNET).context("cannot enter the cell's network")?;
            work()
        };
        match std::thread::scope(|scope| scope.spawn(thread).join()) {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// `/proc/<pid>` as seen inside; `pid` is one of the cell's own.
    pub fn proc(&self, pid: i32) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/proc/{pid}", self.init))
    }

    /// The processes inside, by the pids that they have there.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let proc = PathBuf::from(format!("/proc/{}/root/proc", self.init));
        let entries = fs::read_dir(&proc).with_context(|| proc.display().to_string())?.flatten();
        Ok(entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok()).collect())
    }

    /// The pid that a process of the cell has outside.
    pub fn outside_pid(&self, pid: i32) -> Result<i32> {
        for entry in fs::read_dir("/proc")?.flatten() {
            let Ok(outside) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            if fs::read_link(entry.path().join("ns/pid")).ok() != fs::read_link(self.proc(1).join("ns/pid")).ok() {
                continue;
            }
            let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            if ids.is_some_and(|ids| ids.split_whitespace().next_back() == Some(&pid.to_string())) {
                return Ok(outside);
            }
        }
        bail!("no process {pid} in the cell")
    }

    /// Kills everything in the cell and waits until it is gone.
    pub fn end(self) {}
}

impl Drop for Cell {
    fn drop(&mut self) {
        drop(self.unshare.stdin.take());
        // The first process ends once the last one in the namespace is gone, and unshare after it.
        let _ = self.unshare.wait();
    }
}

/// Root's search path often lacks the folders of `ip` and the like.
fn path_with_sbin() -> String {
    format!("{}:/usr/local/sbin:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}
