//! A command run to its end, with what it took.
//!
//! The kernel tells the peak memory of a process that has ended only to its parent, and only as the largest of all the
//! children that the parent has had (getrusage(2), RUSAGE_CHILDREN). So each measured command gets a parent of its own:
//! this program again, with one child.

use std::{
    ffi::OsString,
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeVal,
};
use serde::{Deserialize, Serialize};

/// The first argument of this program when it is the parent of a measured command.
pub(crate) const SWITCH: &str = "--measured";

/// What a command took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// From its start to its end, in seconds.
    pub(crate) wall: f64,
    /// Of all cores, in seconds.
    pub(crate) cpu: f64,
    /// The largest amount of memory that it has held at once, in bytes.
    pub(crate) peak_memory: f64,
}

/// Runs a command; what it writes goes to `log`, which is part of the error when it fails.
pub(crate) fn run(command: &Command, log: &Path) -> Result<Usage> {
    let result = log.with_extension("usage");
    let output = File::create(log).with_context(|| log.display().to_string())?;
    let mut parent = Command::new(std::env::current_exe()?);
    // The kernel ends both with this process.
    parent.arg(SWITCH).arg(&result).args(["setpriv", "--pdeathsig", "KILL"]);
    parent.arg(command.get_program()).args(command.get_args());
    parent.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let status = parent.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).status()?;
    ensure!(status.success(), "{command:?}\n{}", fs::read_to_string(log)?);
    Ok(serde_json::from_slice(&fs::read(&result)?)?)
}

/// The parent: writes what the command took to a file.
pub(crate) fn child(args: Vec<OsString>) -> Result<()> {
    let [result, program, args @ ..] = &args[..] else { bail!("{SWITCH} RESULT PROGRAM ARGUMENTS") };
    let start = Instant::now();
    let status = Command::new(program).args(args).status().context("cannot start it")?;
    let wall = start.elapsed().as_secs_f64();
    ensure!(status.success(), "{status}");
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    let cpu = seconds(usage.user_time()) + seconds(usage.system_time());
    let usage = Usage { wall, cpu, peak_memory: usage.max_rss() as f64 * 1024.0 };
    fs::write(result, serde_json::to_vec(&usage)?).context("writing the result")
}
