//! A limit on the memory of a process and of what the kernel keeps for it: a control group.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// A control group of its own, below the one that this process is in. It goes away when it is dropped; by then, its processes must be
/// gone.
pub struct MemoryLimit {
    folder: PathBuf,
    /// The second version of control groups has other names.
    unified: bool,
}

impl MemoryLimit {
    /// At most so many bytes, page cache and socket buffers included.
    pub fn new(bytes: u64) -> Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let of = |kind: &str| own.lines().find_map(|line| Some(line.split_once(kind)?.1.trim_start_matches('/')));
        let name = format!("pageferry-{}-{bytes}", std::process::id());
        let limit = match of(":memory:") {
            Some(own) => Self { folder: Path::new("/sys/fs/cgroup/memory").join(own).join(name), unified: false },
            None => {
                let own = Path::new("/sys/fs/cgroup").join(of("0::").context("this kernel has no control groups")?);
                // A group that has processes can have no limited groups below it (cgroups(7), "no internal processes"), unless it is
                // the root.
                let is_root = own == Path::new("/sys/fs/cgroup/");
                let parent = if is_root { own.as_path() } else { own.parent().context("the root has no parent")? };
                let control = parent.join("cgroup.subtree_control");
                fs::write(&control, "+memory").with_context(|| control.display().to_string())?;
                Self { folder: parent.join(name), unified: true }
            }
        };
        fs::create_dir(&limit.folder).with_context(|| {
            format!("{}: this test needs root and control groups for memory", limit.folder.display())
        })?;
        let file = if limit.unified { "memory.max" } else { "memory.limit_in_bytes" };
        fs::write(limit.folder.join(file), bytes.to_string()).context(file)?;
        Ok(limit)
    }

    /// `command`, to be started inside.
    pub fn command(&self, command: &Command) -> Command {
        const SCRIPT: &str = r#"echo $$ > "$1" || exit 1; shift; exec "$@""#;
        let mut inside = Command::new("sh");
        inside.args(["-c", SCRIPT, "sh"]).arg(self.folder.join("cgroup.procs"));
        inside.arg(command.get_program()).args(command.get_args());
        inside
    }

    /// The most that was used at once.
    pub fn peak(&self) -> Result<u64> {
        let file = if self.unified { "memory.peak" } else { "memory.max_usage_in_bytes" };
        Ok(fs::read_to_string(self.folder.join(file)).context(file)?.trim().parse()?)
    }

    /// How often a process was killed for it.
    pub fn kills(&self) -> Result<u64> {
        let file = if self.unified { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(self.folder.join(file)).context(file)?;
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        Ok(count.with_context(|| format!("{file} has no oom_kill"))?.parse()?)
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.folder) {
            eprintln!("{}: {error}", self.folder.display());
        }
    }
}

/// Has the kernel forget what it keeps of the files in a folder, so that whoever reads them next pays for them.
pub fn forget_cached(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            forget_cached(&path)?;
            continue;
        }
        let mut dd = Command::new("dd");
        let file = format!("of={}", path.display());
        let output = crate::tools::output(dd.args([&file, "oflag=nocache", "conv=notrunc,fdatasync", "count=0"]))?;
        ensure!(output.status.success(), "{}", crate::tools::text(&output.stderr));
    }
    Ok(())
}
