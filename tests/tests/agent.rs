//! What the agent promises beyond a restore that works.

mod common;

use std::{fs, process::Command};

use common::{Scene, program, scene};
use pageferry_tests::{Cell, Checkpoint, Host, Pager, Result, Workdir, agent_restore, criu_restore, tools};

/// What the agent and the server may hold in memory (issue 2).
const MEMORY_LIMIT: u64 = 64 << 20;

#[test]
fn never_serves_faults_only() -> Result<()> {
    for (name, size) in [("redis", 40_000), ("gunicorn", 40_000), ("threads", 4 << 20)] {
        let Scene { work, checkpoint, split } = scene(name, size)?;
        let host = Host::server(&work, &split.store)?;
        let cell = Cell::new()?;
        let mut pager = Pager::start(&host.url(), &split.slim, &work.folder("pager")?, &["--complete", "never"])?;
        criu_restore(&cell, &split.slim, pager.work(), &["--lazy-pages"])?;
        // The kernel reads these from the process's memory, and cannot wait for a page.
        checkpoint.check_command_lines(&cell)?;
        checkpoint.first_reply(&cell)?;
        let early = resident(&cell)?;
        assert!(pager.daemon().is_running()?, "{name}: nobody is left to serve faults");
        // Every page of the program's data, each by a fault.
        checkpoint.check(&cell)?;
        let late = resident(&cell)?;
        println!("{name}: {} MB resident after the first reply, {} MB after all", early >> 20, late >> 20);
        assert!(early < late * 3 / 4, "{name}: {early} of {late} bytes were there after the first reply");
        assert!(pager.daemon().is_running()?, "{name}: the agent must stay as long as the process");

        let (agent, server) = (pager.daemon().peak_memory()?, host.peak_memory()?);
        println!("{name}: agent {} MB, server {} MB", agent >> 20, server >> 20);
        assert!(agent < MEMORY_LIMIT, "{name}: the agent took {agent} bytes");
        assert!(server < MEMORY_LIMIT, "{name}: the server took {server} bytes");

        // The process goes, and the agent with it.
        cell.end();
        pager.wait()?;
    }
    Ok(())
}

/// Bytes of the first task's memory that are there.
fn resident(cell: &Cell) -> Result<u64> {
    let mut pages = 0;
    for pid in cell.pids()?.into_iter().filter(|pid| *pid >= pageferry_tests::ROOT_PID) {
        let statm = fs::read_to_string(cell.proc(pid).join("statm"))?;
        pages += statm.split_whitespace().nth(1).map_or(Ok(0), str::parse::<u64>)?;
    }
    Ok(pages * 4096)
}

#[test]
fn one_store_restored_twice_at_once() -> Result<()> {
    let Scene { work, checkpoint, split } = scene("node", 100_000)?;
    let host = Host::nginx(&work, &split.store)?;
    let restore = |name: &str| -> Result<()> {
        let cell = Cell::new()?;
        let pager = Pager::start(&host.url(), &split.slim, &work.folder(name)?, &[])?;
        criu_restore(&cell, &split.slim, pager.work(), &["--lazy-pages"])?;
        checkpoint.check(&cell)?;
        pager.finish()?;
        checkpoint.check(&cell)
    };
    std::thread::scope(|scope| {
        let threads = ["one", "two"].map(|name| scope.spawn(move || restore(name)));
        threads.into_iter().try_for_each(|thread| thread.join().expect("a restore panicked"))
    })
}

#[test]
fn a_raw_checkpoint_is_a_store_too() -> Result<()> {
    for (name, size) in [("redis", 10_000), ("gunicorn", 10_000)] {
        let work = Workdir::new("raw")?;
        let checkpoint = Checkpoint::take_boxed(&work, program(name, size))?;
        let folder = checkpoint.dir.display().to_string();
        let host = Host::server(&work, &checkpoint.dir)?;
        for (way, store) in [("folder", &folder), ("server", &host.url())] {
            // The slim dump is made on the way.
            let cell = Cell::new()?;
            agent_restore(&cell, store, &work.path().join(format!("images-{way}")), &[], &[])?;
            checkpoint.check(&cell)?;
            // Or none is: CRIU itself leaves out what the full dump marks as lazy.
            let cell = Cell::new()?;
            let pager = Pager::start(store, &checkpoint.dir, &work.folder(way)?, &[])?;
            criu_restore(&cell, &checkpoint.dir, pager.work(), &["--lazy-pages"])?;
            checkpoint.check(&cell)?;
            pager.finish()?;
        }
    }
    Ok(())
}

#[test]
fn a_store_of_another_checkpoint_is_refused_before_criu_starts() -> Result<()> {
    let right = scene("threads", 1 << 16)?;
    let wrong = scene("node", 10_000)?;
    let url = wrong.split.store.display().to_string();
    let refused = Pager::start(&url, &right.split.slim, &right.work.folder("pager")?, &[]);
    let error = format!("{:#}", refused.err().expect("these do not belong together"));
    assert!(error.contains("exit status: 1"), "{error}");
    assert!(!right.work.path().join("pager/lazy-pages.socket").exists());
    Ok(())
}

#[test]
fn what_is_no_store_is_refused() -> Result<()> {
    let Scene { work, split, .. } = scene("threads", 1 << 16)?;
    let empty = work.folder("empty")?;
    let host = Host::nginx(&work, &empty)?;
    let unreachable = format!("http://127.0.0.1:{}/store", pageferry_tests::free_port()?);
    for store in [empty.display().to_string(), host.url(), unreachable] {
        let mut agent = Command::new(tools::binary("pageferry-agent")?);
        let images = work.path().join("images");
        agent.args(["restore", &store, "--criu", "/bin/false", "--images-dir"]).arg(&images);
        let refused = tools::output(&mut agent)?;
        let message = tools::text(&refused.stderr);
        assert!(!refused.status.success(), "{store}");
        assert!(message.contains(&store), "the message does not name {store}: {message}");
        assert!(!message.contains("panicked"), "{message}");
        assert!(Pager::start(&store, &split.slim, &work.folder("pager")?, &[]).is_err(), "{store}");
    }
    Ok(())
}

/// One flipped bit in each object: either nothing is restored, or nothing wrong is.
#[test]
fn a_flipped_bit_never_enters_a_process() -> Result<()> {
    let Scene { work, split, .. } = scene("threads", 1 << 20)?;
    let packs = split.store.join("packs");
    for entry in fs::read_dir(&packs)? {
        let path = entry?.path();
        let mut bytes = fs::read(&path)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes)?;
    }
    let mut verify = Command::new(tools::binary("pageferry-strip")?);
    assert!(!tools::output(verify.arg("verify").arg(&split.store))?.status.success());

    // The agent keeps trying, and says so; the process waits rather than see a wrong byte.
    let cell = Cell::new()?;
    let url = split.store.display().to_string();
    let mut pager = Pager::start(&url, &split.slim, &work.folder("pager")?, &[])?;
    criu_restore(&cell, &split.slim, pager.work(), &["--lazy-pages"])?;
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert!(pager.daemon().is_running()?, "the agent gave up: {}", pager.daemon().log());
    let log = pager.daemon().log();
    assert!(log.contains("digest") || log.contains("corrupt"), "the agent does not say what is wrong: {log}");
    Ok(())
}

#[test]
fn a_server_that_goes_away_for_a_while_is_waited_for() -> Result<()> {
    let Scene { work, checkpoint, split } = scene("redis", 20_000)?;
    let mut host = Host::server(&work, &split.store)?;
    let cell = Cell::new()?;
    let mut pager = Pager::start(&host.url(), &split.slim, &work.folder("pager")?, &["--complete", "never"])?;
    criu_restore(&cell, &split.slim, pager.work(), &["--lazy-pages"])?;
    checkpoint.first_reply(&cell)?;
    host.stop();
    std::thread::scope(|scope| {
        let check = scope.spawn(|| checkpoint.check(&cell));
        std::thread::sleep(std::time::Duration::from_secs(1));
        assert!(!check.is_finished(), "redis answered for keys that nobody could send");
        host.restart()?;
        check.join().expect("the check panicked")
    })?;
    assert!(pager.daemon().is_running()?);
    Ok(())
}
