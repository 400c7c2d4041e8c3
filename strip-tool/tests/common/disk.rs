//! Disks that have no room, or are not written to.

use nix::unistd::geteuid;
use std::{fs, path::PathBuf, process::Command};

/// A file system of its own, so small that it fills.
pub(crate) struct SmallDisk(pub(crate) PathBuf);

impl SmallDisk {
    /// Options are those of tmpfs: `size=1m`, `nr_inodes=9`.
    pub(crate) fn mount(path: PathBuf, options: &str) -> Self {
        fs::create_dir(&path).unwrap();
        Self::run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "pageferry-test"]).arg(&path));
        Self(path)
    }

    /// `size=2m` makes room, `ro` makes it read-only.
    pub(crate) fn remount(&self, options: &str) {
        Self::run(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0));
    }

    fn run(mount: &mut Command) {
        assert!(geteuid().is_root(), "this test mounts a small file system, which needs root");
        assert!(mount.status().unwrap().success(), "{mount:?}");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status();
        assert!(std::thread::panicking() || unmounted.unwrap().success());
        let _ = fs::remove_dir(&self.0);
    }
}
