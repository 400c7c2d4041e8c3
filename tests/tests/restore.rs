//! Each program: checkpoint, split, wipe the original, restore through the agent, check every key, reply and byte.

mod common;

use std::fs;

use common::program;
use pageferry_tests::{
    Cell, Checkpoint, Host, Pager, Result, Workdir, agent_restore, agent_restore_in, criu_restore, programs::Program,
    split,
};

#[test]
fn redis() -> Result<()> {
    all_the_ways(program("redis", 40_000))
}

#[test]
fn gunicorn() -> Result<()> {
    all_the_ways(program("gunicorn", 40_000))
}

#[test]
fn node() -> Result<()> {
    all_the_ways(program("node", 100_000))
}

#[test]
fn java() -> Result<()> {
    all_the_ways(program("java", 200_000))
}

#[test]
fn threads_shared_memory_children() -> Result<()> {
    all_the_ways(program("threads", 4 << 20))
}

/// By hand and with one command, from our server and from nginx, and from the folder itself.
fn all_the_ways(program: Box<dyn Program>) -> Result<()> {
    let work = Workdir::new(program.name())?;
    let checkpoint = Checkpoint::take_boxed(&work, program)?;
    let split = split(&work, &checkpoint, &[])?;
    fs::remove_dir_all(&checkpoint.dir)?;

    let server = Host::server(&work, &split.store)?;
    let nginx = Host::nginx(&work, &split.store)?;
    let store = split.store.display().to_string();
    for (way, url) in [("server", server.url()), ("nginx", nginx.url()), ("folder", store.clone())] {
        eprintln!("lazy-pages, {way}");
        let cell = Cell::new()?;
        let pager = Pager::start(&url, &split.slim, &work.folder(&format!("pager-{way}"))?, &[])?;
        criu_restore(&cell, &split.slim, pager.work(), &["--lazy-pages"])?;
        checkpoint.check_command_lines(&cell)?;
        checkpoint.check(&cell)?;
        pager.finish()?;
        // Once more, now that no agent is left.
        checkpoint.check(&cell)?;
    }

    // Nothing but an address from here on.
    fs::remove_dir_all(&split.slim)?;
    for (way, url) in [("server", server.url()), ("nginx", nginx.url())] {
        eprintln!("restore, {way}");
        let cell = Cell::new()?;
        agent_restore(&cell, &url, &work.path().join(format!("images-{way}")), &[], &[])?;
        checkpoint.check_command_lines(&cell)?;
        checkpoint.check(&cell)?;
    }
    eprintln!("restore, all inside");
    let cell = Cell::new()?;
    let server = Host::server_in(&cell, &work, &split.store)?;
    agent_restore_in(&cell, &server.url(), &work.path().join("images-inside"), &[], &[])?;
    checkpoint.check(&cell)
}
