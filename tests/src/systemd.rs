//! A systemd of its own: the first process of its namespaces, with the units of `contrib/systemd` and no others.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Result, bail, ensure};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{Pair, Workdir, contrib::contrib, eventually, tools};

/// Waits for the end of its input, then ends everything and removes the control group.
const OUTSIDE: &str = r#"
set -e
mount -t cgroup2 none "$1/cgroup"
group="$1/cgroup/pageferry-$$"
mkdir "$group"
sh -c 'echo $$ > "$0/cgroup.procs"; exec "$@"' "$group" \
    unshare --cgroup --pid --ipc --uts --mount --fork --kill-child --mount-proc sh -c "$2" sh "$1" "$3" &
cat > /dev/null
kill -9 $!; wait
while ! find "$group" -depth -type d -exec rmdir {} + 2> /dev/null && [ -e "$group" ]; do sleep 0.1; done
"#;

/// systemd takes it for a container's first process, so it leaves devices and clocks alone.
const INSIDE: &str = r#"
set -e
mount --bind "$1/run" /run
if mountpoint -q /sys/fs/cgroup; then umount -R -l /sys/fs/cgroup; fi
mount -t cgroup2 none /sys/fs/cgroup
export container=pageferry SYSTEMD_UNIT_PATH="$1/units" SYSTEMD_LOG_TARGET=console
exec "$2" --system --show-status=no --default-standard-output=inherit --default-standard-error=inherit < /dev/null
"#;

/// What units take for granted.
const TARGETS: [&str; 8] =
    ["default", "sysinit", "basic", "multi-user", "shutdown", "umount", "network-online", "sockets"];

/// systemd. It and all its services end when this is dropped.
pub struct Systemd {
    outside: Child,
    folder: PathBuf,
}

impl Systemd {
    /// Starts it, with one unit and its settings.
    pub fn start(work: &Workdir) -> Result<Self> {
        let folder = work.folder("systemd")?;
        for name in ["run", "units", "cgroup", "etc"] {
            fs::create_dir_all(folder.join(name))?;
        }
        for target in TARGETS {
            fs::write(folder.join(format!("units/{target}.target")), "[Unit]\nDefaultDependencies=no\n")?;
        }
        let log = fs::File::create(folder.join("log"))?;
        let mut outside = Command::new("setpriv");
        outside.args(["--pdeathsig", "KILL", "unshare", "--mount", "sh", "-c", OUTSIDE, "sh"]).arg(&folder);
        outside.arg(INSIDE).arg(tools::program("systemd")?);
        let outside = outside.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let systemd = Self { outside, folder };
        eventually(|| {
            systemd
                .ctl(&["is-system-running"])
                .or_else(|error| if error.to_string().contains("degraded") { Ok(String::new()) } else { Err(error) })
        })?;
        Ok(systemd)
    }

    /// A pager by the unit of `contrib/systemd`. Returns the folder with its socket.
    pub fn pager(&self, name: &str, store: &str, slim: &Path, options: &str) -> Result<PathBuf> {
        let agent = tools::binary("pageferry-agent")?.display().to_string();
        self.install("pageferry-agent@.service", "pageferry-agent", &agent)?;
        let settings = format!("STORE={store}\nSLIM_DUMP={}\nOPTIONS={options}\n", slim.display());
        fs::write(self.folder.join(format!("etc/{name}.env")), settings)?;
        self.ctl(&["daemon-reload"])?;
        self.ctl(&["start", &format!("pageferry-agent@{name}")])?;
        Ok(self.folder.join("run/pageferry").join(name))
    }

    /// A server by the units of `contrib/systemd`, behind a socket. Its user can read neither our folders nor `/tmp`, so it gets copies of binary and store.
    pub fn server(&self, store: &Path, port: u16) -> Result<()> {
        let run = self.folder.join("run");
        fs::copy(tools::binary("pageferry-server")?, run.join("pageferry-server"))?;
        tools::run(Command::new("cp").arg("-r").arg(store).arg(run.join("store")))?;
        self.install("pageferry-server.service", "pageferry-server", "/run/pageferry-server")?;
        let socket = contrib("systemd/pageferry-server.socket", &[("127.0.0.1:8080", &format!("127.0.0.1:{port}"))])?;
        fs::write(self.folder.join("units/pageferry-server.socket"), socket)?;
        fs::write(self.folder.join("etc/server.env"), "STORE=/run/store\n")?;
        self.ctl(&["daemon-reload"])?;
        self.ctl(&["start", "pageferry-server.socket"]).map(drop)
    }

    /// The only changes to a unit: where the binary is, and its settings.
    fn install(&self, unit: &str, binary: &str, path: &str) -> Result<()> {
        let (path, etc) = (path.to_owned(), self.folder.join("etc").display().to_string());
        let words = [(format!("/usr/local/bin/{binary}"), path), ("/etc/pageferry".to_owned(), etc)];
        let words = words.each_ref().map(|(from, to)| (from.as_str(), to.as_str()));
        Ok(fs::write(self.folder.join("units").join(unit), contrib(&format!("systemd/{unit}"), &words)?)?)
    }

    /// `systemctl`, which must succeed. What it prints.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let first = self.first_process()?;
        let mut systemctl = Command::new("nsenter");
        systemctl
            .args([&format!("--target={first}"), "--pid", "--mount", "--cgroup", "--", "systemctl"])
            .args(arguments);
        let output = tools::output(&mut systemctl)?;
        let said = tools::text(&output.stdout);
        ensure!(
            output.status.success(),
            "systemctl {}: {said}{}\n{}",
            arguments.join(" "),
            tools::text(&output.stderr),
            self.log()
        );
        Ok(said)
    }

    /// A property of a pager's unit.
    pub fn property(&self, name: &str, property: &str) -> Result<String> {
        let value = self.ctl(&["show", "--value", "--property", property, &format!("pageferry-agent@{name}")])?;
        Ok(value.trim().to_owned())
    }

    /// Waits until it has started a pager again by itself, after so many times before.
    pub fn has_restarted(&self, name: &str, starts: u32) -> Result<()> {
        eventually(|| {
            let now: u32 = self.property(name, "NRestarts")?.parse()?;
            let is_active = self.property(name, "ActiveState")? == "active";
            ensure!(now > starts && is_active, "not restarted\n{}", self.log());
            Ok(())
        })
    }

    /// Ends agent and guard of a pager at once: neither can do anything about the death of the other.
    pub fn kill_both(&self, name: &str) -> Result<()> {
        let mark = PathBuf::from("/run/pageferry").join(name);
        let both = Pair::new(&mark).processes()?.into_iter().filter(|pid| self.has(*pid));
        let both: Vec<_> = both.collect();
        ensure!(both.len() == 2, "there are not two processes of the pager, but {both:?}\n{}", self.log());
        both.iter().try_for_each(|pid| kill(Pid::from_raw(*pid), Signal::SIGSTOP))?;
        for pid in both {
            match kill(Pid::from_raw(pid), Signal::SIGKILL) {
                // systemd has seen the death of the first, and killed the second.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => bail!("killing {pid}: {errno}"),
            }
        }
        Ok(())
    }

    /// All that it and its services have said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// systemd's pid out here.
    fn first_process(&self) -> Result<i32> {
        let mut all = vec![i32::try_from(self.outside.id())?];
        let mut looked = 0;
        while let Some(pid) = all.get(looked) {
            if fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "systemd") {
                return Ok(*pid);
            }
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
            looked += 1;
        }
        bail!("systemd does not run\n{}", self.log())
    }

    /// Whether a process belongs to this one's services: other tests may run pagers of the same name.
    fn has(&self, pid: i32) -> bool {
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        self.first_process().is_ok_and(|first| namespace(first) == namespace(pid))
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        if let Some(mut stdin) = self.outside.stdin.take() {
            let _ = stdin.flush();
        }
        let _ = self.outside.wait();
        if std::thread::panicking() {
            eprintln!("--- log of systemd ---\n{}", self.log());
        }
    }
}
