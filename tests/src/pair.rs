//! An agent and its guard, found by their command line: after a kill, neither needs to be a child of the test.

use std::{fs, path::Path, time::Instant};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::PATIENCE;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one with threads.
    Agent,
    /// The other.
    Guard,
}

/// The two processes that have a certain argument.
pub struct Pair<'a> {
    mark: &'a Path,
}

impl<'a> Pair<'a> {
    /// `mark` is an argument that no other process has, its work directory for one.
    pub fn new(mark: &'a Path) -> Self {
        Self { mark }
    }

    /// Kills one of them as soon as both are there, and waits until both are there again. `false` if they have ended, or do then.
    pub fn kill(&self, role: Role) -> Result<bool> {
        let Some(victim) = self.both()?.map(|(agent, guard)| if role == Role::Agent { agent } else { guard }) else {
            return Ok(false);
        };
        kill(Pid::from_raw(victim), Signal::SIGKILL).context("killing a process of the pager")?;
        loop {
            match self.both()? {
                None => return Ok(false),
                Some((agent, guard)) if agent != victim && guard != victim => return Ok(true),
                Some(_) => {}
            }
        }
    }

    /// The agent and its guard; `None` once they have ended.
    pub fn both(&self) -> Result<Option<(i32, i32)>> {
        let start = Instant::now();
        let mut empty = 0;
        while start.elapsed() < PATIENCE {
            match self.processes()?.as_slice() {
                // One that is just starting another program has no command line for a moment.
                [] if empty == 20 => return Ok(None),
                [] => empty += 1,
                [a, b] => match (threads(*a), threads(*b)) {
                    (2.., 1) => return Ok(Some((*a, *b))),
                    (1, 2..) => return Ok(Some((*b, *a))),
                    _ => {}
                },
                _ => empty = 0,
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        bail!("there are not two processes of the pager, but {:?}", self.processes()?)
    }

    /// Waits until there is none.
    pub fn wait_for_end(&self) -> Result<()> {
        crate::eventually(|| {
            let left = self.processes()?;
            if !left.is_empty() || !self.processes()?.is_empty() {
                bail!("processes {left:?} of the pager have not ended");
            }
            Ok(())
        })
    }

    /// All that live.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = command.split(|byte| *byte == 0);
            let is_agent = words.next().is_some_and(|name| name.ends_with(b"pageferry-agent"));
            if is_agent && words.any(|word| word == self.mark.as_os_str().as_encoded_bytes()) {
                found.push(pid);
            }
        }
        Ok(found)
    }
}

fn threads(process: i32) -> usize {
    fs::read_dir(format!("/proc/{process}/task")).map_or(0, Iterator::count)
}
