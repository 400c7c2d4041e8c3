//! What a guard does: wait. All of it is code that a signal handler may run, for a guard that a process with many threads has made.

use super::{
    c_string,
    header::{Header, Stage, Word, now},
    take_over::ARGUMENT,
};
use crate::uffd::{Exec, leave};
use anyhow::{Context, Result};
use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use rustix::process::{PidfdFlags, pidfd_open};
use std::{ffi::OsString, os::fd::AsFd};

/// Passed on to the agent.
const SIGNALS: [Signal; 5] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2];
/// How long to wait before a program that could not be started is tried again.
const PAUSE_SECONDS: u32 = 1;

/// What the agent is to its guard.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Agent {
    Child,
    Parent,
}

/// What a guard starts in its own place when its agent has died.
pub(super) fn program(header: &Header, args: &[OsString]) -> Result<Exec> {
    let (name, rest) = args.split_first().context("no program name")?;
    let take_over = OsString::from(format!("{ARGUMENT}{}", header.fd()));
    let words = [name.clone(), take_over].into_iter().chain(rest.iter().cloned());
    Ok(Exec::new(c_string(super::PROGRAM.into())?, words.map(c_string).collect::<Result<_>>()?))
}

/// From here on those signals wait to be read. Returns what was blocked before.
pub(super) fn block_signals() -> Result<SigSet> {
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SIGNALS.into_iter().collect()), Some(&mut before))
        .context("blocking signals")?;
    Ok(before)
}

/// Undoes [`block_signals`]. In a program that a guard has started, they were blocked from the start.
pub(super) fn restore_signals(before: &SigSet) -> Result<()> {
    let mut mask = *before;
    SIGNALS.into_iter().for_each(|signal| mask.remove(signal));
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None).context("unblocking signals")
}

/// Returns when a process is gone.
pub(super) fn wait_for(pid: Pid) {
    let Some(fd) = open(pid) else { return };
    let mut ask = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    while poll(&mut ask, PollTimeout::NONE).is_err() {}
}

fn open(pid: Pid) -> Option<std::os::fd::OwnedFd> {
    pidfd_open(rustix::process::Pid::from_raw(pid.as_raw())?, PidfdFlags::empty()).ok()
}

/// Waits for the agent's end; what that means then, the header says.
pub(super) fn stand_by(header: &Header, agent: Pid, relation: Agent, exec: &Exec) -> ! {
    let signals = SignalFd::with_flags(&SIGNALS.into_iter().collect(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK);
    // Gone already: as good as waited for.
    if let Some(death) = open(agent) {
        loop {
            // Without a signalfd, signals are not passed on; all else goes on.
            let told = signals.as_ref().map_or(death.as_fd(), |signals| signals.as_fd());
            let mut ask = [death.as_fd(), told].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            if poll(&mut ask, PollTimeout::NONE).is_err() {
                continue;
            }
            if let Ok(signals) = &signals {
                pass_on(signals, agent);
            }
            if ask[0].any() == Some(true) {
                break;
            }
        }
    }
    header.set(Word::Died, now());
    let status = match relation {
        Agent::Child => waitpid(agent, Some(WaitPidFlag::WNOHANG)).ok(),
        Agent::Parent => None,
    };
    if let Some(code) = header.outcome() {
        leave(code);
    }
    match header.stage() {
        Stage::Starting => leave(match status {
            Some(WaitStatus::Exited(_, code)) => code,
            Some(WaitStatus::Signaled(_, signal, _)) => {
                // Signals are not caught yet.
                let words = b"pageferry-agent: stopped before it listened; nothing was restored\n";
                let _ = nix::unistd::write(std::io::stderr(), words);
                128 + signal as i32
            }
            _ => 1,
        }),
        // The userfaultfds stay open as long as this process lives.
        Stage::Holding => loop {
            nix::unistd::pause();
        },
        Stage::Serving | Stage::Whole => loop {
            exec.start();
            nix::unistd::sleep(PAUSE_SECONDS);
        },
    }
}

/// Those that a terminal sends reach the agent by themselves.
fn pass_on(signals: &SignalFd, agent: Pid) {
    while let Ok(Some(info)) = signals.read_signal() {
        if info.ssi_code <= 0
            && let Ok(signal) = Signal::try_from(info.ssi_signo as libc::c_int)
        {
            let _ = kill(agent, signal);
        }
    }
}
