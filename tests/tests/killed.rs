//! Trials: the agent and its guard are killed while real programs are restored. Nothing may be lost but time.

mod common;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;
use common::{Scene, scene};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pageferry_tests::{Cell, Host, Pager, Pair, Result, Role, Trial, criu_restore, eventually, p99, tools};

/// What is restored. The prefork tree has several processes that share most of their memory.
const PROGRAMS: [(&str, usize); 3] = [("redis", 40_000), ("threads", 4 << 20), ("gunicorn", 20_000)];

/// How long each take-over took, from the death of one agent to the next one's readiness: as the log says.
fn take_overs(log: &str) -> Vec<Duration> {
    let times = log.lines().filter_map(|line| line.split("took over ").nth(1)?.split(" after ").nth(1));
    times
        .filter_map(|time| Some(Duration::from_secs_f64(time.trim().strip_suffix(" ms")?.parse::<f64>().ok()? / 1e3)))
        .collect()
}

#[test]
fn agent_and_guard_killed_at_random_moments() -> Result<()> {
    let mut trial = Trial::new("agent and guard killed", 4);
    let (mut agents, mut guards, mut restores, mut times) = (0, 0, 0, Vec::new());
    for (name, size) in PROGRAMS {
        let Scene { work, checkpoint, split } = scene(name, size)?;
        let host = Host::server(&work, &split.store)?;
        let mut usual = Duration::from_secs(1);
        for round in 0..trial.count {
            let folder = work.folder(&format!("{name}-{round}"))?;
            let cell = Cell::new()?;
            let start = Instant::now();
            // Every third leaves the memory where it is, so that what is asked for comes by faults.
            let complete = if round % 3 == 2 { "never" } else { "now" };
            let pager = Pager::start(&host.url(), &split.slim, &folder, &["--complete", complete])?;
            let pair = Pair::new(&folder);
            // One after the other, as soon as there are two again; every other time the guard first.
            let order = if round % 2 == 0 { [Role::Agent, Role::Guard] } else { [Role::Guard, Role::Agent] };
            let moments = [trial.moment_within(usual), trial.moment_within(usual / 2)];
            std::thread::scope(|scope| -> Result<()> {
                let pair = &pair;
                let killer = scope.spawn(move || -> Result<[bool; 2]> {
                    let mut killed = [false; 2];
                    for (done, (role, moment)) in killed.iter_mut().zip(order.into_iter().zip(moments)) {
                        std::thread::sleep(moment);
                        *done = pair.kill(role)?;
                    }
                    Ok(killed)
                });
                let restored = criu_restore(&cell, &split.slim, &folder, &["--lazy-pages"]);
                let checked = restored.and_then(|()| checkpoint.check(&cell));
                let killed = killer.join().expect("the killer panicked")?;
                for (role, _) in order.into_iter().zip(killed).filter(|(_, killed)| *killed) {
                    *(if role == Role::Agent { &mut agents } else { &mut guards }) += 1;
                }
                checked
            })?;
            if complete == "now" {
                pair.wait_for_end()?;
                usual = start.elapsed().mul_f64(0.8).max(Duration::from_millis(300));
            }
            checkpoint.check(&cell)?;
            cell.end();
            pair.wait_for_end()?;
            let log = fs::read_to_string(folder.join("agent.log"))?;
            assert!(!log.contains("ERROR"), "{log}");
            times.extend(take_overs(&log));
            drop(pager);
            restores += 1;
        }
    }
    assert!(agents + guards > 0, "nobody was killed");
    let worst = p99(&mut times);
    trial.report(&format!(
        "{restores} restores, all right; {agents} agents and {guards} guards killed; take-over p99 {worst:.0?}"
    ));
    Ok(())
}

/// The command that does it all: the slim dump in a scratch folder, CRIU a child of an agent that dies.
#[test]
fn restore_in_one_command_killed_at_random_moments() -> Result<()> {
    let mut trial = Trial::new("restore in one command, agent killed", 6);
    let Scene { work, checkpoint, split } = scene("redis", 20_000)?;
    let host = Host::server(&work, &split.store)?;
    let (mut killed, mut early) = (0, 0);
    let mut usual = Duration::ZERO;
    for round in 0..=trial.count {
        let cell = Cell::new()?;
        let (temporary, scratch) = (work.folder(&format!("restore-{round}"))?, work.folder(&format!("tmp-{round}"))?);
        let criu = temporary.join("criu");
        cell.entering(&tools::criu()?, &criu)?;
        let log = fs::File::create(temporary.join("agent.log"))?;
        let mut agent = Command::new(tools::binary("pageferry-agent")?);
        agent.args(["restore", &host.url(), "-v", "--criu"]).arg(&criu).args(["--", "--shell-job"]);
        agent.env("TMPDIR", &scratch).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let start = Instant::now();
        let mut started = agent.spawn()?;
        let pair = Pair::new(&criu);
        // The first run is left alone, and tells how long one takes.
        if round > 0 {
            std::thread::sleep(trial.moment_within(usual));
            killed += u32::from(pair.kill(Role::Agent)?);
            // And the one that took over from it.
            std::thread::sleep(trial.moment_within(usual / 2));
            killed += u32::from(pair.kill(Role::Agent)?);
        }
        let status = started.wait()?;
        if round == 0 {
            usual = start.elapsed();
        }
        pair.wait_for_end()?;
        let said = fs::read_to_string(temporary.join("agent.log"))?;
        if status.success() {
            checkpoint.check(&cell)?;
        } else {
            // Before it listened there is nothing to take over, and nothing was restored.
            assert!(status.code() == Some(128 + 9) && !said.contains("took over"), "{status}\n{said}");
            assert_eq!(cell.pids()?.into_iter().filter(|pid| *pid >= pageferry_tests::ROOT_PID).count(), 0, "{said}");
            early += 1;
        }
        if status.success() {
            assert!(is_empty(&scratch)?, "the scratch folder is left: {said}");
        }
    }
    trial.report(&format!(
        "{} restores; {killed} agents killed while they served, all right; {early} before they listened, nothing restored",
        trial.count
    ));
    Ok(())
}

/// A standard output that nobody reads holds an agent up at its very end, with all its userfaultfds closed.
#[test]
fn killed_when_all_is_done_it_ends_well() -> Result<()> {
    let Scene { work, checkpoint, split } = scene("redis", 5_000)?;
    let cell = Cell::new()?;
    let (scratch, criu) = (work.folder("tmp")?, work.path().join("criu"));
    cell.entering(&tools::criu()?, &criu)?;
    let (reader, writer) = std::io::pipe()?;
    fill(&writer)?;
    let log = work.path().join("agent.log");
    let mut agent = Command::new(tools::binary("pageferry-agent")?);
    agent.arg("restore").arg(&split.store).args(["--json", "--criu"]).arg(&criu).args(["--", "--shell-job"]);
    agent.env("TMPDIR", &scratch).stdin(Stdio::null()).stdout(writer).stderr(fs::File::create(&log)?);
    let mut started = agent.spawn()?;
    drop(agent);
    let pair = Pair::new(&criu);
    let agent = eventually(|| {
        let (agent, _) = pair.both()?.context("it has ended")?;
        anyhow::ensure!(prints(agent)?, "it has not ended its work");
        Ok(agent)
    })?;
    kill(Pid::from_raw(agent), Signal::SIGKILL)?;
    let status = started.wait()?;
    drop(reader);
    let said = fs::read_to_string(log)?;
    assert!(status.success() && said.is_empty(), "{status}\n{said}");
    assert!(is_empty(&scratch)?, "the scratch folder is left");
    checkpoint.check(&cell)
}

/// Whether a process is just writing to its standard output (proc_pid_syscall(5)): the summary is all that an agent writes there.
fn prints(pid: i32) -> Result<bool> {
    let write = format!("{} 0x1 ", nix::libc::SYS_write);
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        if fs::read_to_string(task?.path().join("syscall"))?.starts_with(&write) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Until there is no room for a byte.
fn fill(pipe: &std::io::PipeWriter) -> Result<()> {
    use std::io::Write;
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    while (&mut &*pipe).write(&[0]).is_ok() {}
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(())
}

fn is_empty(folder: &Path) -> Result<bool> {
    Ok(fs::read_dir(folder)?.next().is_none())
}

/// The guard is the process that people know: its pid, its signals, its exit code.
#[test]
fn signals_to_the_guard_reach_the_agent() -> Result<()> {
    let Scene { work, checkpoint, split } = scene("redis", 20_000)?;
    let cell = Cell::new()?;
    let folder = work.folder("pager")?;
    let store = split.store.display().to_string();
    let mut pager = Pager::start(&store, &split.slim, &folder, &["--complete", "never"])?;
    criu_restore(&cell, &split.slim, pager.work(), &["--lazy-pages"])?;
    checkpoint.first_reply(&cell)?;
    let guard = Pair::new(&folder).both()?.map(|(_, guard)| guard);
    assert_eq!(guard, Some(pager.daemon().pid()), "the guard is the process that was started");
    kill(Pid::from_raw(pager.daemon().pid()), Signal::SIGTERM)?;
    let log = pager.finish()?;
    assert!(log.contains("asked to stop"), "{log}");
    checkpoint.check(&cell)
}

#[test]
fn without_a_guard_there_is_one_process() -> Result<()> {
    let Scene { work, split, .. } = scene("threads", 1 << 16)?;
    let folder = work.folder("pager")?;
    let mut pager = Pager::start(&split.store.display().to_string(), &split.slim, &folder, &["--no-guard-process"])?;
    assert_eq!(Pair::new(&folder).processes()?, [pager.daemon().pid()]);
    Ok(())
}
