//! With systemd, its file descriptor store holds the memory's descriptors: agent and guard may end at once, by a kill or for an upgrade. Here
//! systemd is a fake that speaks the same protocol.

mod common;

use anyhow::ensure;
use common::{Scene, scene};
use nix::sys::signal::Signal;
use pageferry_tests::{Cell, FakeSystemd, Host, Pager, Result, Trial, criu_restore, eventually};

/// That the last take-over found pages missing. It says so a moment after the service is ready.
fn has_pages_to_come(systemd: &FakeSystemd) -> Result<()> {
    eventually(|| {
        let log = systemd.log();
        let last = log.rsplit_once("this one, process").map_or("", |(_, after)| after);
        let lines = last.lines().filter(|line| line.contains("took over") && line.contains("pages to come"));
        let pages = lines.filter_map(|line| line.split(": ").nth(1)?.split(' ').next()?.parse::<u64>().ok());
        ensure!(pages.sum::<u64>() > 0, "all was there already\n{log}");
        Ok(())
    })
}

#[test]
fn agent_and_guard_killed_at_once_lose_nothing() -> Result<()> {
    for (name, size) in [("redis", 40_000), ("gunicorn", 20_000)] {
        let Scene { work, checkpoint, split } = scene(name, size)?;
        let host = Host::server(&work, &split.store)?;
        let cell = Cell::new()?;
        let folder = work.folder("pager")?;
        let mut systemd = FakeSystemd::new(&host.url(), &split.slim, &folder, &["--complete", "never"])?;
        systemd.start()?;
        criu_restore(&cell, &split.slim, &folder, &["--lazy-pages"])?;
        checkpoint.first_reply(&cell)?;
        for _ in 0..3 {
            systemd.kill_both()?;
            systemd.start()?;
            checkpoint.first_reply(&cell)?;
        }
        has_pages_to_come(&systemd)?;
        checkpoint.check(&cell)?;
        // What is left comes before it ends, and with it the store is empty.
        systemd.signal(Signal::SIGTERM)?;
        let status = systemd.wait()?;
        let log = systemd.log();
        assert!(status.success() && !log.contains("ERROR"), "{status}\n{log}");
        assert_eq!(systemd.kept()?, Vec::<String>::new(), "{log}");
        checkpoint.check(&cell)?;
    }
    Ok(())
}

/// `systemctl restart` of the unit in `contrib/systemd`.
#[test]
fn an_upgrade_is_a_pause() -> Result<()> {
    let Scene { work, checkpoint, split } = scene("gunicorn", 20_000)?;
    let host = Host::server(&work, &split.store)?;
    let cell = Cell::new()?;
    let folder = work.folder("pager")?;
    let mut systemd = FakeSystemd::new(&host.url(), &split.slim, &folder, &["--complete", "never"])?;
    systemd.start()?;
    // Once before CRIU has come, too.
    for restored in [false, true, true] {
        systemd.signal(Signal::SIGUSR2)?;
        let status = systemd.wait()?;
        // What the unit has systemd start again.
        assert_eq!(status.code(), Some(75), "{status}\n{}", systemd.log());
        systemd.pair().wait_for_end()?;
        systemd.start()?;
        if !restored {
            criu_restore(&cell, &split.slim, &folder, &["--lazy-pages"])?;
        }
        checkpoint.first_reply(&cell)?;
    }
    has_pages_to_come(&systemd)?;
    // An agent that dies alone is the guard's, as without systemd.
    assert!(systemd.pair().kill(pageferry_tests::Role::Agent)?);
    checkpoint.check(&cell)?;
    cell.end();
    let status = systemd.wait()?;
    let log = systemd.log();
    assert!(status.success() && !log.contains("ERROR"), "{status}\n{log}");
    assert_eq!(systemd.kept()?, Vec::<String>::new(), "{log}");
    Ok(())
}

#[test]
fn both_killed_at_random_moments() -> Result<()> {
    let mut trial = Trial::new("agent and guard killed at once, with an fd store", 6);
    let Scene { work, checkpoint, split } = scene("gunicorn", 20_000)?;
    let host = Host::server(&work, &split.store)?;
    let mut usual = std::time::Duration::from_millis(500);
    for round in 0..trial.count {
        let folder = work.folder(&format!("round-{round}"))?;
        let cell = Cell::new()?;
        let complete = if round % 2 == 0 { "never" } else { "now" };
        let mut systemd = FakeSystemd::new(&host.url(), &split.slim, &folder, &["--complete", complete])?;
        systemd.start()?;
        let moment = trial.moment_within(usual);
        let start = std::time::Instant::now();
        std::thread::scope(|scope| -> Result<()> {
            let restored = scope.spawn(|| criu_restore(&cell, &split.slim, &folder, &["--lazy-pages"]));
            std::thread::sleep(moment);
            // It may have completed all, and ended, before.
            if !systemd.pair().processes()?.is_empty() {
                systemd.kill_both()?;
                if !systemd.kept()?.is_empty() {
                    systemd.start()?;
                }
            }
            restored.join().expect("the restore panicked")
        })?;
        usual = start.elapsed();
        checkpoint.check(&cell)?;
        assert!(!systemd.log().contains("ERROR"), "{}", systemd.log());
        cell.end();
        systemd.wait()?;
        assert_eq!(systemd.kept()?, Vec::<String>::new(), "{}", systemd.log());
    }
    trial.report(&format!("{} restores, all right", trial.count));
    Ok(())
}

/// Without a store, what the agent holds would be gone.
#[test]
fn leaving_without_a_store_is_refused() -> Result<()> {
    let Scene { work, checkpoint, split } = scene("redis", 20_000)?;
    let cell = Cell::new()?;
    let folder = work.folder("pager")?;
    let store = split.store.display().to_string();
    let mut pager = Pager::start(&store, &split.slim, &folder, &["--complete", "never"])?;
    criu_restore(&cell, &split.slim, &folder, &["--lazy-pages"])?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pager.daemon().pid()), Signal::SIGUSR2)?;
    eventually(|| {
        ensure!(pager.daemon().log().contains("needs --fd-store"), "{}", pager.daemon().log());
        Ok(())
    })?;
    checkpoint.check(&cell)
}
