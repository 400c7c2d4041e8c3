//! Leaves the machine as it was: files, kernel settings; however this program ends but for SIGKILL. (Processes end with it
//! by themselves: see the harness.)

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

/// What CRIU's page server needs higher (REFERENCE: it loads images into pipes), and the harness therefore sets.
const SETTINGS: [&str; 2] = ["/proc/sys/fs/pipe-max-size", "/proc/sys/fs/pipe-user-pages-soft"];
/// Processes that are just being killed may still write.
const REMOVALS: u32 = 20;

/// Puts things back when dropped, and when the process is interrupted.
pub(crate) struct Guard(Arc<Before>);

struct Before {
    scratch: PathBuf,
    settings: Vec<(&'static str, String)>,
}

impl Guard {
    /// Notes what is now. `scratch` is a folder that must not stay. To be called before any thread is started.
    pub(crate) fn new(scratch: &Path) -> Result<Self> {
        let read = |name| Ok((name, fs::read_to_string(name).context(name)?));
        let settings = SETTINGS.into_iter().map(read).collect::<Result<_>>()?;
        let before = Arc::new(Before { scratch: scratch.to_path_buf(), settings });
        let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
        // Of all threads, since they are started later; not of child processes, whose mask std clears.
        signals.thread_block()?;
        let at_signal = Arc::clone(&before);
        thread::spawn(move || {
            if let Ok(signal) = signals.wait() {
                eprintln!("\n{signal}: putting everything back");
                at_signal.restore();
                std::process::exit(128 + signal as i32);
            }
        });
        Ok(Self(before))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.restore();
    }
}

impl Before {
    fn restore(&self) {
        for (name, value) in &self.settings {
            if fs::read_to_string(name).is_ok_and(|now| now != *value)
                && let Err(error) = fs::write(name, value)
            {
                eprintln!("cannot set {name} back to {}: {error}", value.trim());
            }
        }
        for _ in 0..REMOVALS {
            if fs::remove_dir_all(&self.scratch).is_ok() || !self.scratch.exists() {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
        eprintln!("cannot remove {}", self.scratch.display());
    }
}
