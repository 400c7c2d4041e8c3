//! Memory that can never be had: whatever `--on-missing` says is done, and nobody reads zeros in its place.

mod common;

use common::{Scene, scene};
use pageferry_tests::{Cell, Host, Pager, ROOT_PID, Result, criu_restore, eventually};

/// Restores redis, takes the store away, asks for every key, and waits until neither the program nor the agent is left: the agent's log and
/// whether it was content.
fn without_a_store(options: &[&str]) -> Result<(String, bool)> {
    let Scene { work, checkpoint, split } = scene("redis", 20_000)?;
    let mut host = Host::server(&work, &split.store)?;
    let cell = Cell::new()?;
    let all = [&["--complete", "never", "--give-up-after", "1"], options].concat();
    let mut pager = Pager::start(&host.url(), &split.slim, &work.folder("pager")?, &all)?;
    criu_restore(&cell, &split.slim, pager.work(), &["--lazy-pages"])?;
    checkpoint.first_reply(&cell)?;
    host.stop();
    // A wrong value would be told as such; what is wanted is that the connection breaks.
    let error = format!("{:#}", checkpoint.check(&cell).expect_err("redis answered for keys that nobody could send"));
    assert!(error.ends_with(r#"GET key:00000000: """#) || error.contains("reset"), "{error}");
    // Nobody in the cell reaps it; one that is dead has no command line.
    eventually(|| match std::fs::read(cell.proc(ROOT_PID).join("cmdline")) {
        Ok(command) if !command.is_empty() => anyhow::bail!("redis lives"),
        _ => Ok(()),
    })?;
    let status = pager.wait()?;
    Ok((pager.daemon().log(), status.success()))
}

#[test]
fn sigbus_for_who_touches_it() -> Result<()> {
    let (log, content) = without_a_store(&["--on-missing", "sigbus"])?;
    assert!(log.contains("gets SIGBUS") && log.contains("pages could not be had"), "{log}");
    assert!(!content, "not all that was asked was done");
    Ok(())
}

#[test]
fn the_processes_are_killed() -> Result<()> {
    let (log, content) = without_a_store(&["--on-missing", "kill"])?;
    assert!(log.contains("killed the 1 restored processes"), "{log}");
    assert!(!content, "not all that was asked was done");
    Ok(())
}
