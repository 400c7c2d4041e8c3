//! Trials: what a restored process may do to its memory and to itself while pages are missing. The agent ends when it should, goes on when it
//! should, and leaves nothing.

mod common;

use std::{fs, path::Path, process::Command, thread, time::Duration};

use anyhow::bail;
use common::{Scene, scene};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pageferry_tests::{
    Cell, Host, MemoryLimit, Pager, Pair, ROOT_PID, Result, Trial, criu_restore, eventually, programs::Sparse,
};

const GIB: usize = 1 << 30;
const MIB: u64 = 1 << 20;
/// What the agent may use in all (issue 4).
const MEMORY_LIMIT: u64 = 64 * MIB;

/// As [`common::program`] has it: 5 GiB of addresses, 80 MiB of content.
const SPARSE: usize = 5 * GIB;

/// A restore whose pages come by faults only.
fn lazily(scene: &Scene, folder: &Path, options: &[&str]) -> Result<(Cell, Pager)> {
    let cell = Cell::new()?;
    let store = scene.split.store.display().to_string();
    let pager = Pager::start(&store, &scene.split.slim, folder, options)?;
    criu_restore(&cell, &scene.split.slim, folder, &["--lazy-pages"])?;
    Ok((cell, pager))
}

/// What a restore may leave in its work directory.
fn leftovers(folder: &Path) -> Result<Vec<String>> {
    let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let expected = |name: &String| name.ends_with(".log") || name.starts_with("stats-");
    Ok(names.collect::<Result<Vec<_>>>()?.into_iter().filter(|name| !expected(name)).collect())
}

#[test]
fn three_gib_are_unmapped_and_discarded() -> Result<()> {
    let mut trial = Trial::new("3 GiB munmap and MADV_DONTNEED", 1);
    let scene = scene("sparse", SPARSE)?;
    let mut rounds = 0;
    for round in 0..trial.count {
        for (what, complete) in [("discard", "never"), ("unmap", "never"), ("discard", "now"), ("unmap", "now")] {
            let folder = scene.work.folder(&format!("{what}-{complete}-{round}"))?;
            let host = Host::server(&scene.work, &scene.split.store)?;
            let cell = Cell::new()?;
            // Slow enough for there to be a middle.
            let options = ["--complete", complete, "--limit-rate", "2M"];
            let pager = Pager::start(&host.url(), &scene.split.slim, &folder, &options)?;
            criu_restore(&cell, &scene.split.slim, &folder, &["--lazy-pages"])?;
            scene.checkpoint.first_reply(&cell)?;
            thread::sleep(trial.moment_within(Duration::from_millis(300)));
            assert_eq!(cell.inside(|| Sparse::tell(what))?, "done");
            let state = cell.inside(|| Sparse::tell("state"))?;
            assert_eq!(state, expected_after(what), "{what}, --complete {complete}");
            if complete == "now" {
                pager.finish()?;
                assert_eq!(cell.inside(|| Sparse::tell("state"))?, state);
            } else {
                cell.end();
                Pair::new(&folder).wait_for_end()?;
            }
            rounds += 1;
        }
    }
    trial.report(&format!("{rounds} restores, all complete and right"));
    Ok(())
}

/// The checksum that the program gives then, worked out here.
fn expected_after(what: &str) -> String {
    let hole = 512 << 20..(512 << 20) + 3 * GIB;
    let mut crc = 0;
    for page in (0..SPARSE / 4096).step_by(common::SPARSE_STEP) {
        let inside = hole.contains(&(page * 4096));
        if inside && what == "unmap" {
            continue;
        }
        let mut bytes = [0; 4096];
        if !inside {
            bytes[..8].copy_from_slice(&(page as u64).to_le_bytes());
            bytes[8..16].copy_from_slice(&(page as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
        }
        crc = crc32(crc, &bytes);
    }
    format!("{crc:08x}")
}

/// As zlib's (RFC 1952, section 8).
fn crc32(before: u32, bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!before, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1)))
    })
}

#[test]
fn exits_is_killed_executes_or_is_stopped() -> Result<()> {
    let mut trial = Trial::new("process exits, is killed, execs, is stopped", 2);
    let scene = scene("sparse", SPARSE)?;
    let mut rounds = 0;
    for round in 0..trial.count {
        for what in ["exit", "kill", "exec", "stop"] {
            let folder = scene.work.folder(&format!("{what}-{round}"))?;
            let complete = if trial.random().is_multiple_of(2) { "never" } else { "now" };
            let (cell, mut pager) = lazily(&scene, &folder, &["--complete", complete, "--limit-rate", "8M"])?;
            thread::sleep(trial.moment_within(Duration::from_millis(400)));
            let root = Pid::from_raw(cell.outside_pid(ROOT_PID)?);
            match what {
                "kill" => kill(root, Signal::SIGKILL)?,
                "stop" => {
                    kill(root, Signal::SIGSTOP)?;
                    thread::sleep(Duration::from_millis(300));
                    kill(root, Signal::SIGCONT)?;
                    scene.checkpoint.check(&cell)?;
                    if complete == "never" {
                        assert!(pager.daemon().is_running()?, "the agent must stay as long as the process");
                        kill(root, Signal::SIGKILL)?;
                    }
                }
                other => drop(cell.inside(|| Sparse::tell(other))?),
            }
            let log = pager.finish()?;
            assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
            assert_eq!(leftovers(&folder)?, [""; 0], "{what}");
            assert_eq!(Pair::new(&folder).processes()?, [0; 0], "{what}");
            rounds += 1;
        }
    }
    trial.report(&format!("{rounds} restores, the agent ended each time and left nothing"));
    Ok(())
}

/// One of several processes goes; the agent serves the others, and lets go of what the one had.
#[test]
fn one_process_of_a_tree_goes() -> Result<()> {
    let scene = scene("gunicorn", 20_000)?;
    let folder = scene.work.folder("pager")?;
    let (cell, mut pager) = lazily(&scene, &folder, &["--complete", "never"])?;
    scene.checkpoint.first_reply(&cell)?;
    let Some((agent, _)) = Pair::new(&folder).both()? else { bail!("no agent") };
    let before = userfaultfds(agent)?;
    let workers: Vec<_> = cell.pids()?.into_iter().filter(|pid| *pid > ROOT_PID).collect();
    kill(Pid::from_raw(cell.outside_pid(workers[0])?), Signal::SIGKILL)?;
    // Its arbiter forks another in its place, which may bring a userfaultfd of its own.
    eventually(|| match userfaultfds(agent)? <= before {
        true if !cell.proc(workers[0]).exists() => Ok(()),
        _ => bail!("{before} userfaultfds before, {} after", userfaultfds(agent)?),
    })?;
    scene.checkpoint.first_reply(&cell)?;
    assert!(pager.daemon().is_running()?);
    Ok(())
}

fn userfaultfds(process: i32) -> Result<usize> {
    let links = fs::read_dir(format!("/proc/{process}/fd"))?.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
    Ok(links.filter(|link| link.to_string_lossy().contains("userfaultfd")).count())
}

#[test]
fn the_agent_within_64_mib() -> Result<()> {
    let scene = scene("redis", 150_000)?;
    let host = Host::server(&scene.work, &scene.split.store)?;
    let limit = MemoryLimit::new(MEMORY_LIMIT)?;
    let folder = scene.work.folder("limited")?;
    let cell = Cell::new()?;
    let within = |agent: &Command| limit.command(agent);
    let pager = Pager::start_by(within, &host.url(), &scene.split.slim, &folder, &[])?;
    criu_restore(&cell, &scene.split.slim, &folder, &["--lazy-pages"])?;
    scene.checkpoint.check(&cell)?;
    let log = pager.finish()?;
    scene.checkpoint.check(&cell)?;
    assert_eq!(limit.kills()?, 0, "{log}");
    println!("trial: agent under 64 MiB | {} MiB at most, page cache included; no kill | -", limit.peak()? / MIB);
    Ok(())
}
