//! What this process may do and have: capabilities, pids, limits, memory.

use super::{Report, size};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use std::{
    fs::{self, OpenOptions},
    path::Path,
};

/// What an agent takes at most, whatever it restores: frames on their way and those kept for the next fault, the index, its threads.
pub(super) const AGENT_MEMORY: u64 = 96 << 20;
/// Descriptors that an agent has without a single process: connections, packs that are kept open.
pub(super) const OWN_DESCRIPTORS: u64 = 256;

const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_CHECKPOINT_RESTORE: u32 = 40;

pub(super) fn check(report: &mut Report) {
    proc(report);
    let held = capabilities(report);
    pids(report, held & (1 << CAP_SYS_ADMIN | 1 << CAP_CHECKPOINT_RESTORE) != 0);
    descriptors(report);
    locked_memory(report, held & 1 << CAP_IPC_LOCK != 0);
    memory(report);
}

fn proc(report: &mut Report) {
    let own = fs::read_link("/proc/self").ok();
    match own.as_deref().and_then(Path::to_str) {
        Some(pid) if pid == std::process::id().to_string() => report.ok("proc", "/proc is this pid namespace's"),
        Some(pid) => report.fail(
            "proc",
            format!("/proc calls this process {pid}, it is {}", std::process::id()),
            "mount the /proc of this pid namespace (unshare --mount-proc)",
        ),
        None => report.fail("proc", "/proc is not mounted", "mount -t proc proc /proc"),
    }
}

/// Gives the capabilities that we have, as bits.
fn capabilities(report: &mut Report) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = held.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
    let has = |bit: u32| held & 1 << bit != 0;
    let names = [
        ("CAP_SYS_ADMIN", CAP_SYS_ADMIN),
        ("CAP_SYS_PTRACE", CAP_SYS_PTRACE),
        ("CAP_CHECKPOINT_RESTORE", CAP_CHECKPOINT_RESTORE),
    ];
    let told: Vec<_> =
        names.iter().map(|(name, bit)| format!("{name} {}", if has(*bit) { "yes" } else { "no" })).collect();
    let detail = told.join(", ");
    if has(CAP_SYS_ADMIN) && has(CAP_SYS_PTRACE) {
        report.ok("capabilities", detail);
    } else if has(CAP_CHECKPOINT_RESTORE) && has(CAP_SYS_PTRACE) {
        report.warn(
            "capabilities",
            detail,
            "without CAP_SYS_ADMIN CRIU restores only simple process trees (criu --unprivileged)",
        );
    } else {
        report.fail(
            "capabilities",
            detail,
            "CRIU needs CAP_SYS_ADMIN (or CAP_CHECKPOINT_RESTORE) and CAP_SYS_PTRACE: run as root, or in a privileged container",
        );
    }
    held
}

/// The highest pid that there can be.
pub(super) fn pid_max() -> Option<u32> {
    fs::read_to_string("/proc/sys/kernel/pid_max").ok()?.trim().parse().ok()
}

fn pids(report: &mut Report, may_choose: bool) {
    match pid_max() {
        Some(max) if max > 32_768 => report.ok("pid_max", format!("kernel.pid_max = {max}")),
        Some(max) => report.warn(
            "pid_max",
            format!("kernel.pid_max = {max}"),
            "processes return under their old pids, and of so few they are soon taken: sysctl kernel.pid_max=4194304",
        ),
        None => report.warn("pid_max", "kernel.pid_max cannot be read", "mount /proc"),
    }
    // Everybody may open it; writing takes a capability (pid_ns_ctl_handler in kernel/pid_namespace.c).
    let problem = match OpenOptions::new().write(true).open("/proc/sys/kernel/ns_last_pid") {
        Ok(_) if may_choose => return report.ok("ns_last_pid", "can be written"),
        Ok(_) => "neither CAP_SYS_ADMIN nor CAP_CHECKPOINT_RESTORE".to_owned(),
        Err(error) => error.to_string(),
    };
    report.warn(
        "ns_last_pid",
        format!("cannot be written: {problem}"),
        "the agent's own threads may take ids that the checkpoint needs; run as root, with a writable /proc/sys",
    );
}

/// Descriptors that we may have. (What we may have at most: the agent raises the soft limit.)
pub(super) fn descriptor_limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(_, hard)| hard)
}

fn descriptors(report: &mut Report) {
    let limit = descriptor_limit();
    match limit >= 4 * OWN_DESCRIPTORS {
        true => report.ok("RLIMIT_NOFILE", limit_text(limit)),
        false => report.warn(
            "RLIMIT_NOFILE",
            limit_text(limit),
            "each process takes a descriptor, the agent itself some 200: ulimit -Hn 65536",
        ),
    }
}

fn locked_memory(report: &mut Report, unlimited: bool) {
    let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft);
    match unlimited || limit == RLIM_INFINITY {
        true => report.ok(
            "RLIMIT_MEMLOCK",
            format!("{}{}", limit_text(limit), if unlimited { ", and CAP_IPC_LOCK" } else { "" }),
        ),
        false => report.warn(
            "RLIMIT_MEMLOCK",
            limit_text(limit),
            "a process that had locked more memory than this cannot be restored: ulimit -l unlimited, or CAP_IPC_LOCK",
        ),
    }
}

fn limit_text(limit: u64) -> String {
    if limit == RLIM_INFINITY { "unlimited".into() } else { limit.to_string() }
}

fn memory(report: &mut Report) {
    let Some(limit) = memory_limit() else {
        return report
            .ok("memory", format!("no limit by a memory cgroup; an agent takes up to {}", size(AGENT_MEMORY)));
    };
    let detail = format!("memory cgroup limit {}; an agent takes up to {}", size(limit), size(AGENT_MEMORY));
    match limit >= AGENT_MEMORY {
        true => report.ok("memory", detail),
        false => {
            report.fail("memory", detail, "raise the limit (memory.max) of this cgroup, or start the agent in another")
        }
    }
}

/// The least limit of the memory cgroups that we are in.
pub(super) fn memory_limit() -> Option<u64> {
    least_limit(&fs::read_to_string("/proc/self/cgroup").ok()?, Path::new("/sys/fs/cgroup"))
}

/// `cgroups` is as in cgroup(7); a container may see its own cgroup as the root, so each folder above counts too.
fn least_limit(cgroups: &str, root: &Path) -> Option<u64> {
    let mut least = None;
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let (base, file) = match controllers {
            "" => (root.to_path_buf(), "memory.max"),
            names if names.split(',').any(|name| name == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        for folder in Path::new(path.trim_start_matches('/')).ancestors() {
            let text = fs::read_to_string(base.join(folder).join(file)).unwrap_or_default();
            // `max`, or a number that no machine has (version 1), means none.
            let limit = text.trim().parse::<u64>().ok().filter(|limit| *limit < 1 << 60);
            least = least.into_iter().chain(limit).min();
        }
    }
    least
}

/// Memory that this machine can give just now.
pub(super) fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_of_all_folders_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("a/b/memory.max", "max\n");
        write("a/memory.max", "500\n");
        write("memory.max", "700\n");
        assert_eq!(least_limit("0::/a/b\n", root.path()), Some(500));
        assert_eq!(least_limit("0::/nowhere/visible\n", root.path()), Some(700));
        write("memory/x/memory.limit_in_bytes", "300\n");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(least_limit("3:cpu,cpuacct:/x\n2:memory:/x\n", root.path()), Some(300));
        assert_eq!(least_limit("2:memory:/y\n", root.path()), None);
        assert_eq!(least_limit("nonsense\n", root.path()), None);
    }
}
