//! The processes that CRIU has restored, as this process sees them: for `--on-missing kill`.
//!
//! A userfaultfd does not tell whose it is, and pids in the images are those of another namespace. When the restore is finished, the restored tasks
//! are CRIU's children (with `--restore-sibling`, as container engines have it, its siblings) and theirs; which ones, `NSpid` tells
//! (proc_pid_status(5)).

use criu_images::Pid;
use nix::libc::pid_t;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::{collections::HashSet, fs};

/// A process, told apart from a later one with its pid by when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Member {
    pid: pid_t,
    /// In clock ticks since the machine started (proc_pid_stat(5), field 22).
    started: u64,
}

/// Processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tree(Vec<Member>);

/// What `/proc/<pid>/stat` says.
struct Stat {
    member: Member,
    parent: pid_t,
}

impl Tree {
    /// Those of `tasks`, by their pids in the images, that CRIU, process `criu`, has restored.
    pub(crate) fn restored_by(criu: pid_t, tasks: &HashSet<Pid>) -> Self {
        let all = stats();
        let parent = all.iter().find(|stat| stat.member.pid == criu).map(|stat| stat.parent);
        // Not what else a shell or an engine has started.
        let roots: HashSet<_> = [Some(criu), parent.filter(|pid| *pid > 1)].into_iter().flatten().collect();
        let members = descendants(&all, &roots)
            .into_iter()
            .filter(|member| member.pid != criu && inner_pid(member.pid).is_some_and(|pid| tasks.contains(&pid)));
        Self(members.collect())
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Kills all that still live, and whatever they have forked. How many were killed.
    pub(crate) fn kill(&self) -> usize {
        let mut killed = HashSet::new();
        // What is forked while this goes on is found in the next round; a killed process forks no more.
        loop {
            let all = stats();
            let alive: HashSet<_> = all.iter().map(|stat| stat.member).collect();
            let roots = self.0.iter().filter(|member| alive.contains(member)).map(|member| member.pid).collect();
            let more: Vec<_> =
                descendants(&all, &roots).into_iter().filter(|member| !killed.contains(member)).collect();
            if more.is_empty() {
                return killed.len();
            }
            for member in more {
                kill(member);
                killed.insert(member);
            }
        }
    }
}

fn kill(member: Member) {
    let Some(pid) = rustix::process::Pid::from_raw(member.pid) else { return };
    // Opened first and looked at then: from here on it is this very process.
    if let Ok(fd) = pidfd_open(pid, PidfdFlags::empty())
        && stat(member.pid).is_some_and(|stat| stat.member == member)
    {
        let _ = pidfd_send_signal(&fd, Signal::KILL);
    }
}

/// `roots` and all that descends from them.
fn descendants(all: &[Stat], roots: &HashSet<pid_t>) -> Vec<Member> {
    let mut known = roots.clone();
    loop {
        let before = known.len();
        known.extend(
            all.iter().filter(|stat| known.contains(&stat.parent)).map(|stat| stat.member.pid).collect::<Vec<_>>(),
        );
        if known.len() == before {
            return all.iter().map(|stat| stat.member).filter(|member| known.contains(&member.pid)).collect();
        }
    }
}

fn stats() -> Vec<Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| stat(entry.file_name().to_str()?.parse().ok()?)).collect()
}

fn stat(pid: pid_t) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may have spaces and brackets.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    Some(Stat { member: Member { pid, started: fields.nth(17)?.parse().ok()? }, parent })
}

/// The pid that a process has in its own pid namespace.
fn inner_pid(pid: pid_t) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    Pid::new(pids.split_whitespace().next_back()?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_tree_is_found_and_killed_and_nothing_else() {
        let other = Command::new("sleep").arg("100").spawn();
        let mut shell = Command::new("sh");
        shell.args(["-c", "sleep 100 & sleep 100 & echo ready; wait"]).stdout(Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut ready).unwrap();
        let root = inner_pid(shell.id() as pid_t).unwrap();
        let tree = Tree::restored_by(std::process::id() as pid_t, &[root].into());
        assert_eq!(tree.len(), 1);
        assert_eq!(tree.kill(), 3, "and its children");
        assert!(!shell.wait().unwrap().success());
        let mut other = other.unwrap();
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn another_process_with_the_same_pid_is_left_alone() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let pid = child.id() as pid_t;
        let started = stat(pid).unwrap().member.started;
        assert_eq!(Tree(vec![Member { pid, started: started - 1 }]).kill(), 0);
        assert!(child.try_wait().unwrap().is_none());
        assert_eq!(Tree(vec![Member { pid, started }]).kill(), 1);
        child.wait().unwrap();
    }
}
