//! The kernel: its version, and what it lets us do with userfaultfd.

use super::Report;
use crate::uffd::features::{EVENTS, Features};
use nix::errno::Errno;
use std::fs;

/// Before it, a copy and a change of the layout could cross each other (`mmap_changing`, commit df2cc96e7701).
const OLDEST: (u32, u32) = (4, 18);

pub(super) fn check(report: &mut Report) {
    version(report);
    let features = Features::probe();
    userfaultfd(report, &features);
    events(report, &features);
    match features.poison {
        Ok(()) => report.ok("uffd-poison", "UFFDIO_POISON works"),
        Err(errno) => report.warn(
            "uffd-poison",
            format!("UFFDIO_POISON does not work: {errno}"),
            "without it (Linux 6.6) a thread whose page can never be had waits for ever instead of getting SIGBUS",
        ),
    }
}

fn version(report: &mut Report) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    match numbers(release) {
        Some(version) if version >= OLDEST => report.ok("kernel", format!("Linux {release}")),
        Some(_) => report.fail(
            "kernel",
            format!("Linux {release}"),
            format!("before Linux {}.{} memory can be filled wrongly; use a newer kernel", OLDEST.0, OLDEST.1),
        ),
        None => report.warn("kernel", format!("unknown version {release:?}"), "mount /proc"),
    }
}

/// `6.18.5-generic` as (6, 18).
pub(super) fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn userfaultfd(report: &mut Report, features: &Features) {
    let told = |outcome: &Result<(), Errno>| outcome.map_or_else(|errno| errno.to_string(), |()| "works".into());
    let sysctl = fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd");
    let detail = format!(
        "system call: {}; /dev/userfaultfd: {}; vm.unprivileged_userfaultfd = {}",
        told(&features.syscall),
        told(&features.device),
        sysctl.as_deref().map_or("absent", str::trim)
    );
    match (features.syscall, features.device) {
        (Ok(()), _) => report.ok("userfaultfd", detail),
        (Err(_), Ok(())) => report.warn(
            "userfaultfd",
            detail,
            "CRIU makes userfaultfds by the system call: run as root, or set vm.unprivileged_userfaultfd to 1",
        ),
        (Err(Errno::ENOSYS), Err(_)) => {
            report.fail("userfaultfd", detail, "use a kernel with CONFIG_USERFAULTFD");
        }
        _ => report.fail(
            "userfaultfd",
            detail,
            "run as root; in a container, let its seccomp profile allow userfaultfd; or set vm.unprivileged_userfaultfd to 1",
        ),
    }
}

fn events(report: &mut Report, features: &Features) {
    let names: Vec<_> = EVENTS.iter().map(|(name, _)| *name).collect();
    let all = names.join(", ");
    match features.events {
        Err(_) if features.syscall.is_err() && features.device.is_err() => report.fail(
            "uffd-events",
            format!("{all}: not tried, there is no userfaultfd to try them on"),
            "CRIU's lazy restore needs all four; see the check of userfaultfd",
        ),
        Ok(()) => report.ok("uffd-events", format!("{all}: granted")),
        Err(Errno::EPERM) => report.fail(
            "uffd-events",
            format!("{all}: not permitted"),
            "EVENT_FORK needs CAP_SYS_PTRACE: run as root, or in a container with that capability",
        ),
        Err(errno) => report.fail(
            "uffd-events",
            format!("{all}: {errno}; the kernel has {:?}", features.known),
            "CRIU's lazy restore needs all four; use another kernel",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_two_numbers_and_whatever_follows() {
        assert_eq!(numbers("6.18.5-generic"), Some((6, 18)));
        assert_eq!(numbers("5.4"), Some((5, 4)));
        assert_eq!(numbers("4.2.1"), Some((4, 2)));
        for bad in ["", "6", "six.one", "6."] {
            assert_eq!(numbers(bad), None, "{bad}");
        }
    }
}
