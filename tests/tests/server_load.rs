//! `pageferry-server` when much is asked of it, and when it dies, while real processes depend on it.
//!
//! [`Trial`] says how often, `PAGEFERRY_OUTAGES` how many seconds a killed server stays away (`1`; a longer run has `1,10,60`).

mod common;

use std::{
    env,
    io::Write,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use common::{Scene, scene};
use pageferry_tests::{Cell, Host, MemoryLimit, Pager, Result, Trial, criu_restore, eventually, forget_cached, http};

const MIB: u64 = 1 << 20;
/// What the server may hold in memory (issue 2).
const MEMORY_LIMIT: u64 = 64 * MIB;

/// The store of a scene through lazy-pages, checked while pages are missing and again when all are there.
fn restore(scene: &Scene, host: &Host, name: &str) -> Result<()> {
    let cell = Cell::new()?;
    let work = scene.work.folder(name)?;
    let pager = Pager::start(&host.url(), &scene.split.slim, &work, &[])?;
    criu_restore(&cell, &scene.split.slim, pager.work(), &["--lazy-pages"])?;
    scene.checkpoint.check(&cell)?;
    pager.finish()?;
    scene.checkpoint.check(&cell)
}

#[test]
fn ten_restores_at_once_cost_the_server_what_one_does() -> Result<()> {
    let scene = scene("redis", 40_000)?;
    let trials = Trial::new("10 restores at once", 1);
    for trial in 0..trials.count {
        let host = Host::server(&scene.work, &scene.split.store)?;
        restore(&scene, &host, &format!("alone-{trial}"))?;
        let one = host.peak_memory()?;
        thread::scope(|scope| {
            let (scene, host) = (&scene, &host);
            let restores: Vec<_> =
                (0..10).map(|n| scope.spawn(move || restore(scene, host, &format!("{trial}-{n}")))).collect();
            restores.into_iter().try_for_each(|restore| restore.join().expect("a restore panicked"))
        })?;
        let ten = host.peak_memory()?;
        trials.report(&format!("server {} MiB at most with one, {} MiB with ten", one / MIB, ten / MIB));
        // Answers on their way to nine more agents; what does not fit waits (places/mod.rs in server).
        assert!(ten <= one + 24 * MIB && ten < MEMORY_LIMIT, "{one} bytes with one restore, {ten} with ten");
    }
    Ok(())
}

fn metric(host: &Host, name: &str) -> Result<u64> {
    let text = http::get(host.port(), "/metrics")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("{name} is not in {text}"))?.parse()?)
}

#[test]
fn killed_in_the_middle_and_back_later() -> Result<()> {
    let scene = scene("redis", 40_000)?;
    let outages = env::var("PAGEFERRY_OUTAGES").unwrap_or_else(|_| "1".to_owned());
    let outages = outages.split(',').map(str::parse).collect::<Result<Vec<u64>, _>>().context("PAGEFERRY_OUTAGES")?;
    let trials = Trial::new("server killed", 1);
    for trial in 0..trials.count {
        for &seconds in &outages {
            let complete = killed_for(&scene, Duration::from_secs(seconds), &format!("{trial}-{seconds}"))?;
            trials
                .report(&format!("away for {seconds} s, complete {:.1} s after it was killed", complete.as_secs_f64()));
        }
    }
    Ok(())
}

fn killed_for(scene: &Scene, outage: Duration, name: &str) -> Result<Duration> {
    let mut host = Host::server(&scene.work, &scene.split.store)?;
    let cell = Cell::new()?;
    // Slow enough for there to be a middle.
    let options = ["--limit-rate", "4194304"];
    let mut pager = Pager::start(&host.url(), &scene.split.slim, &scene.work.folder(name)?, &options)?;
    criu_restore(&cell, &scene.split.slim, pager.work(), &["--lazy-pages"])?;
    scene.checkpoint.first_reply(&cell)?;
    let begun = metric(&host, "pageferry_http_body_bytes_total")?;
    eventually(|| match metric(&host, "pageferry_http_body_bytes_total")? >= begun + 4 * MIB {
        true => Ok(()),
        false => bail!("nothing is transferred"),
    })?;
    assert!(pager.daemon().is_running()?, "it is done already: there was no middle");
    // SIGKILL.
    host.stop();
    let killed = Instant::now();
    thread::scope(|scope| {
        let check = scope.spawn(|| scene.checkpoint.check(&cell));
        thread::sleep(outage);
        assert!(!check.is_finished(), "redis answered for keys that nobody could send: {:?}", check.join());
        assert!(pager.daemon().is_running()?, "the agent gave up\n{}", pager.daemon().log());
        host.restart()?;
        check.join().expect("the check panicked")
    })?;
    pager.finish()?;
    let complete = killed.elapsed();
    scene.checkpoint.check(&cell)?;
    Ok(complete)
}

#[test]
fn within_64_mib_page_cache_and_all() -> Result<()> {
    // Its packs alone are larger than what the server may use.
    let scene = scene("redis", 150_000)?;
    let limit = MemoryLimit::new(MEMORY_LIMIT)?;
    let trials = Trial::new("server under 64 MiB", 1);
    for trial in 0..trials.count {
        forget_cached(&scene.split.store)?;
        let host = Host::server_within(&limit, &scene.work, &scene.split.store)?;
        let manifest: serde_json::Value = serde_json::from_str(&http::get(host.port(), "/store/checkpoint.json")?)?;
        let pack = manifest["packs"][0]["object"].as_str().context("no pack")?;
        // Beside the restore, clients that want all of it and take nothing.
        let greedy: Vec<_> = (0..200)
            .map(|_| {
                let mut stream = http::connect(host.port())?;
                write!(stream, "GET /store/{pack} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
                Ok(stream)
            })
            .collect::<Result<_>>()?;
        restore(&scene, &host, &format!("limited-{trial}"))?;
        let (peak, own) = (limit.peak()? / MIB, host.peak_memory()? / MIB);
        trials.report(&format!("{peak} MiB at most, page cache included; {own} MiB of its own"));
        assert_eq!(limit.kills()?, 0);
        assert!(limit.peak()? > MEMORY_LIMIT * 9 / 10, "the limit was not felt: {}", limit.peak()?);
        drop(greedy);
    }
    Ok(())
}
