//! Keeps our own process and thread ids out of the way of those that the restore needs.
//!
//! CRIU restores each task under its old id, in the pid namespace that it runs in. If that is ours too, an id that we hold makes
//! the restore fail with EEXIST. A checkpoint with a pid 1 brings a namespace of its own and cannot collide.

use anyhow::{Result, ensure};
use criu_images::Pid;
use std::fs;

const NS_LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";

/// To be called before threads are started: from here on new ids are larger than all of `needed`, where the kernel lets us say so.
pub(crate) fn keep_clear_of(needed: &[Pid], guard: Option<u64>) -> Result<()> {
    if has_own_namespace(needed) {
        return Ok(());
    }
    check_threads(needed)?;
    check(needed, guard.and_then(|pid| u32::try_from(pid).ok()))?;
    let number = |path: &str| fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u32>().ok());
    let (Some(last), Some(limit)) = (number(NS_LAST_PID), number("/proc/sys/kernel/pid_max")) else { return Ok(()) };
    if let Some(highest) = needed.iter().map(|pid| pid.get()).max()
        && last < highest
        && highest + 100 < limit
    {
        // Needs CAP_CHECKPOINT_RESTORE; without it `check_threads` still finds a collision.
        let _ = fs::write(NS_LAST_PID, highest.to_string());
    }
    Ok(())
}

/// Refuses to go on if this process has an id that the restore needs.
pub(crate) fn check_threads(needed: &[Pid]) -> Result<()> {
    if has_own_namespace(needed) {
        return Ok(());
    }
    for task in fs::read_dir("/proc/self/task")? {
        check(needed, task?.file_name().to_string_lossy().parse().ok())?;
    }
    Ok(())
}

fn check(needed: &[Pid], id: Option<u32>) -> Result<()> {
    let id = id.and_then(Pid::new);
    ensure!(
        id.is_none_or(|id| needed.binary_search(&id).is_err()),
        "this agent runs as process or thread {}, an id that the checkpoint needs; start it again, or restore in a pid \
         namespace of its own (unshare -p -m -n -f --mount-proc)",
        id.map_or(0, Pid::get)
    );
    Ok(())
}

fn has_own_namespace(needed: &[Pid]) -> bool {
    needed.first().is_some_and(|pid| pid.get() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_pid_is_refused_unless_the_checkpoint_has_a_namespace() {
        let pid = |n| Pid::new(n).unwrap();
        let own = pid(std::process::id());
        assert!(check_threads(&[own]).is_err());
        assert!(check_threads(&[pid(1), own]).is_ok());
        assert!(check_threads(&[]).is_ok());
    }
}
