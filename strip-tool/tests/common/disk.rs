//! Disks that have no room, or are not written to.

use nix::unistd::geteuid;
use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

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
        // A process that another test is just starting has our descriptors until it is another program.
        let mut left = 100;
        let unmount = || Command::new("umount").arg(&self.0).stderr(Stdio::null()).status();
        while !unmount().is_ok_and(|status| status.success()) {
            left -= 1;
            assert!(left > 0 || std::thread::panicking(), "{} cannot be unmounted", self.0.display());
            if left <= 0 {
                break;
            }
            sleep(Duration::from_millis(50));
        }
        let _ = fs::remove_dir(&self.0);
    }
}
