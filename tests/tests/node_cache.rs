//! The node's cache: the second restore on a machine asks the store for little more than its name, and no cache is a reason to fail.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use common::{Scene, program, scene};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pageferry_tests::{
    Cell, Checkpoint, Host, Pager, Pair, Result, Role, SlowLink, Speed, Split, Workdir, agent_restore, compare_memory,
    criu_restore, split, tools,
};
use serde_json::Value;

/// A server that notes what it is asked for.
struct Watched {
    host: Host,
    log: PathBuf,
}

impl Watched {
    fn start(work: &Workdir, store: &Path) -> Result<Self> {
        let log = work.path().join("access.log");
        let host = Host::server_with(work, store, &["--access-log", &log.display().to_string()])?;
        Ok(Self { host, log })
    }

    /// Objects that were asked for since this was last called, in order. The last ones may be a moment late.
    fn asked(&self) -> Result<Vec<String>> {
        std::thread::sleep(Duration::from_millis(200));
        let log = fs::read_to_string(&self.log)?;
        fs::File::options().write(true).open(&self.log)?.set_len(0)?;
        let words = log.split_whitespace().filter_map(|word| word.trim_matches('"').strip_prefix("/store/"));
        Ok(words.map(str::to_owned).collect())
    }
}

fn number(summary: &Value, name: &str) -> u64 {
    summary[name].as_u64().unwrap_or_else(|| panic!("{name} in {summary}"))
}

/// `pageferry-agent restore` with a cache; every byte is compared.
fn restore(work: &Workdir, checkpoint: &Checkpoint, url: &str, cache: &Path, options: &[&str]) -> Result<Value> {
    let cell = Cell::new()?;
    let images = work.path().join("images");
    let cache = cache.display().to_string();
    let options = [&["--json", "--cache-dir", &cache], options].concat();
    // Stopped, it has the memory that it was dumped with.
    let output = agent_restore(&cell, url, &images, &options, &["--leave-stopped"])?;
    ensure!(compare_memory(&checkpoint.dir, &cell)? > 0, "nothing to compare");
    fs::remove_dir_all(&images)?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn kept(name: &str, size: usize) -> Result<(Workdir, Checkpoint, Split)> {
    let work = Workdir::new("node-cache")?;
    let checkpoint = Checkpoint::take_boxed(&work, program(name, size))?;
    let split = split(&work, &checkpoint, &[])?;
    Ok((work, checkpoint, split))
}

#[test]
fn the_second_restore_asks_for_checkpoint_json_only() -> Result<()> {
    for (name, size) in [("redis", 40_000), ("gunicorn", 20_000)] {
        let (work, checkpoint, split) = kept(name, size)?;
        let mut server = Watched::start(&work, &split.store)?;
        let cache = work.path().join("cache");
        let first = restore(&work, &checkpoint, &server.host.url(), &cache, &[])?;
        let asked = server.asked()?;
        assert!(asked.iter().any(|object| object.starts_with("slim/")), "{asked:?}");
        // What a fault and the transfer both ask for is there for the later one.
        assert!(number(&first, "cache_hits") < number(&first, "cache_misses") / 10, "{first}");
        assert_eq!(number(&first, "cache_skipped"), 0, "{first}");
        assert!(number(&first, "cache_kept_bytes") <= number(&first, "wire_bytes"), "{first}");

        let second = restore(&work, &checkpoint, &server.host.url(), &cache, &[])?;
        assert_eq!(server.asked()?, ["checkpoint.json"], "{second}");
        assert_eq!((number(&second, "cache_misses"), number(&second, "cache_wrong")), (0, 0), "{second}");
        assert_eq!(number(&second, "pages_missing"), 0, "{second}");

        // A working set that is added is the one thing that is new; and one that is there takes nothing but its turn.
        let trace = work.path().join("trace");
        let record = ["--record", &trace.display().to_string(), "--record-settle", "0.2"].map(str::to_owned);
        let cell = Cell::new()?;
        let folder = work.folder("record")?;
        let options: Vec<_> = record.iter().map(String::as_str).collect();
        let pager = Pager::start(&server.host.url(), &split.slim, &folder, &options)?;
        criu_restore(&cell, &split.slim, pager.work(), &["--lazy-pages"])?;
        checkpoint.first_reply(&cell)?;
        pager.finish()?;
        drop(cell);
        let mut strip = Command::new(tools::binary("pageferry-strip")?);
        tools::run(strip.arg("working-set").arg(&split.store).arg("--trace").arg(&trace))?;
        server.host.restart()?;
        server.asked()?;
        let set = restore(&work, &checkpoint, &server.host.url(), &cache, &[])?;
        let asked = server.asked()?;
        assert!(number(&set, "pages_by_working_set") > 0, "{set}");
        assert!(asked.len() == 2 && asked[1].starts_with("working-sets/"), "{asked:?}");
        let again = restore(&work, &checkpoint, &server.host.url(), &cache, &[])?;
        assert!(number(&again, "pages_by_working_set") > 0, "{again}");
        assert_eq!(server.asked()?, ["checkpoint.json"]);
    }
    Ok(())
}

#[test]
fn faults_alone_find_it_too_and_two_restores_at_once_share_it() -> Result<()> {
    let (work, checkpoint, split) = kept("gunicorn", 20_000)?;
    let server = Watched::start(&work, &split.store)?;
    let cache = work.path().join("cache").display().to_string();
    let lazily = |name: &str, complete: &str| -> Result<()> {
        let cell = Cell::new()?;
        let options = ["--complete", complete, "--cache-dir", &cache];
        let mut pager = Pager::start(&server.host.url(), &split.slim, &work.folder(name)?, &options)?;
        criu_restore(&cell, &split.slim, pager.work(), &["--lazy-pages"])?;
        checkpoint.first_reply(&cell)?;
        checkpoint.check(&cell)?;
        cell.end();
        pager.wait()?;
        Ok(())
    };
    let both = |complete: [&'static str; 2]| {
        std::thread::scope(|scope| {
            let threads = ["one", "two"].into_iter().zip(complete);
            let threads: Vec<_> = threads.map(|(name, complete)| scope.spawn(move || lazily(name, complete))).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("a restore panicked"))
        })
    };
    both(["now", "never"])?;
    both(["now", "never"])?;
    restore(&work, &checkpoint, &server.host.url(), Path::new(&cache), &[])?;
    server.asked()?;
    both(["never", "now"])?;
    // Whichever of them asks for what neither of the earlier ones needed.
    let asked = server.asked()?;
    assert!(asked.iter().all(|object| object == "checkpoint.json"), "{asked:?}");
    Ok(())
}

#[test]
fn an_agent_that_takes_over_goes_on_with_the_cache() -> Result<()> {
    let Scene { work, checkpoint, split } = scene("redis", 40_000)?;
    let server = Watched::start(&work, &split.store)?;
    let cache = work.path().join("cache").display().to_string();
    let restore = |name: &str| -> Result<Value> {
        let folder = work.folder(name)?;
        let cell = Cell::new()?;
        // The last of it comes only after the kill.
        let options = ["--complete", "never", "--json", "--cache-dir", &cache];
        let mut pager = Pager::start(&server.host.url(), &split.slim, &folder, &options)?;
        criu_restore(&cell, &split.slim, pager.work(), &["--lazy-pages"])?;
        checkpoint.first_reply(&cell)?;
        // Counters are saved four times a second.
        std::thread::sleep(Duration::from_millis(600));
        assert!(Pair::new(&folder).kill(Role::Agent)?);
        checkpoint.check(&cell)?;
        kill(Pid::from_raw(pager.daemon().pid()), Signal::SIGTERM)?;
        let log = pager.finish()?;
        checkpoint.check(&cell)?;
        let summary = log.lines().rfind(|line| line.starts_with('{')).context("no summary")?;
        Ok(serde_json::from_str(summary)?)
    };
    let first = restore("first")?;
    server.asked()?;
    let second = restore("second")?;
    for summary in [&first, &second] {
        assert_eq!(number(summary, "take_overs"), 1, "{summary}");
        assert_eq!(number(summary, "pages_missing"), 0, "{summary}");
    }
    assert!(number(&second, "cache_hits") > 100, "{second}");
    assert_eq!(server.asked()?, ["checkpoint.json"], "{second}");
    Ok(())
}

#[test]
fn a_cache_that_is_damaged_changes_nothing() -> Result<()> {
    let (work, checkpoint, split) = kept("threads", 4 << 20)?;
    let server = Watched::start(&work, &split.store)?;
    let cache = work.path().join("cache");
    restore(&work, &checkpoint, &server.host.url(), &cache, &[])?;
    server.asked()?;
    let mut segments = fs::read_dir(&cache)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "segment"));
    for path in segments {
        let mut bytes = fs::read(&path)?;
        // The first half of the records, a bit in each 10 kB.
        let (from, to) = (256 << 10, (256 << 10) + (bytes.len() - (256 << 10)) / 2);
        (from..to).step_by(10_000).for_each(|at| bytes[at] ^= 4);
        fs::write(&path, bytes)?;
    }
    let damaged = restore(&work, &checkpoint, &server.host.url(), &cache, &[])?;
    assert!(number(&damaged, "cache_wrong") > 0 && number(&damaged, "cache_hits") > 0, "{damaged}");
    assert_eq!(number(&damaged, "digest_failures"), 0, "the store did nothing wrong: {damaged}");
    server.asked()?;
    // What was wrong was kept again.
    restore(&work, &checkpoint, &server.host.url(), &cache, &[])?;
    assert_eq!(server.asked()?, ["checkpoint.json"]);
    Ok(())
}

/// Measures on whatever this was built as; `cargo xtask bench --only distance` does so among other things.
#[test]
#[ignore = "a measurement: run it alone, with --nocapture"]
fn first_reply_from_the_cache_beside_a_local_store() -> Result<()> {
    first_replies("redis", 217_000)?;
    first_replies("java", 1_000_000)
}

fn first_replies(program: &str, size: usize) -> Result<()> {
    const RUNS: usize = 21;
    let Scene { work, checkpoint, split } = scene(program, size)?;
    let host = Host::server(&work, &split.store)?;
    let link = SlowLink::to(host.port(), Speed { round_trip: Duration::from_millis(50), rate: Some(200e6) })?;
    let cache = work.path().join("cache").display().to_string();
    let (local, far) = (split.store.display().to_string(), host.url_across(&link));
    // Filled from near by.
    agent_restore(&Cell::new()?, &host.url(), &work.path().join("images"), &["--cache-dir", &cache], &[])?;
    let ways = [("local store", &local, None), ("node cache, 50 ms away", &far, Some(&cache))];
    let mut times = [Vec::new(), Vec::new()];
    for run in 0..RUNS {
        for (at, (name, store, cache)) in ways.into_iter().enumerate() {
            let folder = work.folder(&format!("run-{run}-{at}"))?;
            let cell = Cell::new()?;
            let cache: Vec<_> = cache.into_iter().flat_map(|cache| ["--cache-dir", cache]).collect();
            let pager = Pager::start(store, &split.slim, &folder, &[&["--json"], &cache[..]].concat())?;
            let start = Instant::now();
            criu_restore(&cell, &split.slim, pager.work(), &["--lazy-pages"])?;
            let restored = start.elapsed();
            checkpoint.first_reply(&cell)?;
            let first = start.elapsed();
            let log = pager.finish()?;
            let summary: Value =
                serde_json::from_str(log.lines().rfind(|line| line.starts_with('{')).context("none")?)?;
            println!(
                "{name}: restored {restored:?}, first reply {first:?}, whole {}, faults {}, stalls {}",
                summary["seconds"]["whole"], summary["faults"], summary["stalls"]
            );
            times[at].push(first);
        }
    }
    times.iter_mut().for_each(|times| times.sort_unstable());
    let [local, cached] = times.map(|times| (times[0], times[RUNS / 2], times[RUNS - 1]));
    println!("{program}, first reply, smallest, median, largest: local store {local:?}, node cache {cached:?}");
    println!("ratio of medians {:.3}", cached.1.as_secs_f64() / local.1.as_secs_f64());
    Ok(())
}

/// A tmpfs.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: PathBuf, options: &str) -> Result<Self> {
        fs::create_dir_all(&path)?;
        tools::run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "pageferry-test"]).arg(&path))?;
        Ok(Self(path))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).stderr(Stdio::null()).status();
    }
}

#[test]
fn a_cache_that_cannot_be_is_told_once_and_the_restore_goes_on() -> Result<()> {
    let Scene { work, checkpoint, split } = scene("threads", 4 << 20)?;
    let host = Host::server(&work, &split.store)?;
    let full = Disk::mount(work.path().join("full"), "mode=700,size=1m")?;
    let read_only = Disk::mount(work.path().join("read-only"), "mode=700,size=1m,ro")?;
    let file = work.path().join("file");
    fs::write(&file, "")?;
    for (cache, word) in [(&full.0, "make room there"), (&read_only.0, "Read-only"), (&file, "going on without")] {
        let folder = work.folder("pager")?;
        let cell = Cell::new()?;
        let options = ["--cache-dir", &cache.display().to_string()];
        let pager = Pager::start(&host.url(), &split.slim, &folder, &options)?;
        criu_restore(&cell, &split.slim, pager.work(), &["--lazy-pages"])?;
        checkpoint.check(&cell)?;
        let log = pager.finish()?;
        assert_eq!(log.matches("WARN").count(), 1, "{log}");
        assert!(log.contains(word) && log.contains(&*cache.display().to_string()) && !log.contains("ERROR"), "{log}");
    }
    Ok(())
}

#[test]
fn a_folder_of_another_use_is_refused_like_a_wrong_word() -> Result<()> {
    let Scene { work, split, .. } = scene("threads", 1 << 16)?;
    let store = split.store.display().to_string();
    let foreign = work.folder("photos")?;
    fs::write(foreign.join("holiday.jpg"), "x")?;
    let images = work.path().join("images");
    let agent = |words: &[&str]| -> Result<(Option<i32>, String)> {
        let mut agent = Command::new(tools::binary("pageferry-agent")?);
        agent.args(["restore", &store, "--criu", "/bin/false", "--images-dir"]).arg(&images).args(words);
        let output = tools::output(&mut agent)?;
        Ok((output.status.code(), tools::text(&output.stderr)))
    };
    let (code, said) = agent(&["--cache-dir", &foreign.display().to_string()])?;
    assert!(code == Some(2) && said.contains("photos") && said.contains("no node cache"), "{code:?} {said}");
    assert_eq!(fs::read_dir(&foreign)?.count(), 1);
    assert!(!images.exists());
    for words in [&["--cache-size", "10G"][..], &["--cache-dir", "/x", "--cache-size", "1M"]] {
        let (code, said) = agent(words)?;
        assert!(code == Some(2) && said.contains("--cache-size"), "{code:?} {said}");
    }
    Ok(())
}
