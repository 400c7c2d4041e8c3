//! Not what programs say about their memory, but the memory: every page of every task, compared with the dump.

mod common;

use std::process::Command;

use common::{all_programs, program};
use pageferry_tests::{
    Cell, Checkpoint, Host, Pager, Result, Running, Workdir, agent_restore, compare_memory, criu_restore, split, tools,
};

#[test]
fn restored_by_criu_alone() -> Result<()> {
    // What the comparison is worth: nothing differs where we have no part in it.
    for (name, size) in [("threads", 1 << 20), ("gunicorn", 1000)] {
        let work = Workdir::new("memory-eager")?;
        let checkpoint = Checkpoint::take_boxed(&work, program(name, size))?;
        let cell = Cell::new()?;
        criu_restore(&cell, &checkpoint.dir, &work.folder("restore")?, &["--leave-stopped"])?;
        assert!(compare_memory(&checkpoint.dir, &cell)? > 0);
    }
    Ok(())
}

#[test]
fn restored_through_lazy_pages() -> Result<()> {
    for program in all_programs() {
        let name = program.name();
        let work = Workdir::new(name)?;
        let checkpoint = Checkpoint::take_boxed(&work, program)?;
        let split = split(&work, &checkpoint, &[])?;
        let host = Host::server(&work, &split.store)?;
        let cell = Cell::new()?;
        let pager = Pager::start(&host.url(), &split.slim, &work.folder("pager")?, &[])?;
        criu_restore(&cell, &split.slim, pager.work(), &["--lazy-pages", "--leave-stopped"])?;
        pager.finish()?;
        println!("{name}: {} pages are the same", compare_memory(&checkpoint.dir, &cell)?);
    }
    Ok(())
}

#[test]
fn restored_in_one_command() -> Result<()> {
    let work = Workdir::new("memory-command")?;
    let checkpoint = Checkpoint::take_boxed(&work, program("node", 50_000))?;
    let split = split(&work, &checkpoint, &[])?;
    let host = Host::nginx(&work, &split.store)?;
    let cell = Cell::new()?;
    agent_restore(&cell, &host.url(), &work.path().join("images"), &[], &["--leave-stopped"])?;
    assert!(compare_memory(&checkpoint.dir, &cell)? > 0);
    Ok(())
}

#[test]
fn of_a_dump_on_top_of_another() -> Result<()> {
    let tracking = ["check", "--feature", "mem_dirty_track"];
    if !tools::output(Command::new(tools::criu()?).args(tracking))?.status.success() {
        println!("this kernel does not track memory; criu-images tests chains that it builds itself");
        return Ok(());
    }
    let work = Workdir::new("chain")?;
    let running = Running::start(&work, program("redis", 20_000))?;
    running.pre_dump(&work.folder("before")?, &["--track-mem"])?;
    let checkpoint = running.dump(&work.folder("dump")?, &["--track-mem", "--prev-images-dir", "../before"])?;
    let split = split(&work, &checkpoint, &[])?;
    let cell = Cell::new()?;
    let store = split.store.display().to_string();
    let pager = Pager::start(&store, &split.slim, &work.folder("pager")?, &[])?;
    criu_restore(&cell, &split.slim, pager.work(), &["--lazy-pages", "--leave-stopped"])?;
    pager.finish()?;
    assert!(compare_memory(&checkpoint.dir, &cell)? > 0);
    Ok(())
}
