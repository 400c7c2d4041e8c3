//! How the agent gets its frames: over which connections, in which order, how fast.

mod common;

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use common::{Scene, scene};
use nix::{sys::signal, unistd::Pid};
use pageferry_tests::{Cell, Host, Pager, Result, criu_restore, eventually};

fn summary(log: &str) -> serde_json::Value {
    let line = log.lines().rfind(|line| line.starts_with('{')).unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|_| panic!("no summary in {log}"))
}

#[test]
fn http2_serves_as_well() -> Result<()> {
    let Scene { work, checkpoint, split } = scene("redis", 20_000)?;
    let host = Host::server(&work, &split.store)?;
    let cell = Cell::new()?;
    let pager = Pager::start(&host.url(), &split.slim, &work.folder("pager")?, &["--http2"])?;
    criu_restore(&cell, &split.slim, pager.work(), &["--lazy-pages"])?;
    checkpoint.check(&cell)?;
    pager.finish()?;
    checkpoint.check(&cell)
}

#[test]
fn a_rate_limit_holds_up_no_fault() -> Result<()> {
    let Scene { work, checkpoint, split } = scene("threads", 1 << 20)?;
    let host = Host::server(&work, &split.store)?;
    let cell = Cell::new()?;
    let options = ["--json", "--limit-rate", "1"];
    let mut pager = Pager::start(&host.url(), &split.slim, &work.folder("pager")?, &options)?;
    criu_restore(&cell, &split.slim, pager.work(), &["--lazy-pages"])?;
    // A frame would take hours.
    checkpoint.check(&cell)?;
    assert!(pager.daemon().is_running()?, "it has transferred all, at a byte per second");
    cell.end();
    pager.wait()?;
    let summary = summary(&pager.daemon().log());
    assert!(summary["pages_by_fault"].as_u64() > Some(0), "{summary}");
    assert_eq!(summary["stalls"]["p99"].as_f64().map(|p99| p99 < 30.0), Some(true), "{summary}");
    Ok(())
}

#[test]
fn a_recording_ends_when_the_service_is_said_to_be_ready() -> Result<()> {
    let Scene { work, checkpoint, split } = scene("threads", 1 << 20)?;
    let trace = work.path().join("trace");
    let options = ["--record", &trace.display().to_string(), "--record-settle", "1000000"];
    let cell = Cell::new()?;
    let store = split.store.display().to_string();
    let mut pager = Pager::start(&store, &split.slim, &work.folder("pager")?, &options)?;
    criu_restore(&cell, &split.slim, pager.work(), &["--lazy-pages"])?;
    checkpoint.first_reply(&cell)?;
    assert!(!trace.exists());
    // The agent is what `sh` became.
    signal::kill(Pid::from_raw(pager.daemon().pid()), signal::Signal::SIGUSR1)?;
    pager.finish()?;
    assert!(String::from_utf8(fs::read(&trace)?)?.contains("pageferry-trace"));
    checkpoint.check(&cell)
}

/// A proxy whose connections work, until one dies with the next request for each that `deaths` counts: it takes the request, and no answer
/// ever comes.
fn some_die(port: u16, deaths: &Arc<AtomicUsize>) -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = listener.local_addr()?.port();
    let deaths = deaths.clone();
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let deaths = deaths.clone();
            thread::spawn(move || -> std::io::Result<()> {
                let far = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
                let (answers, to_client) = (far.try_clone()?, near.try_clone()?);
                thread::spawn(move || pass(answers, to_client, || false));
                pass(near, far, || deaths.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok());
                Ok(())
            });
        }
    });
    Ok(near)
}

/// Passes on what comes, until one of the ends closes. Once `dies` it passes on nothing any more.
fn pass(mut from: TcpStream, mut to: TcpStream, dies: impl Fn() -> bool) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if dies() {
            let _ = std::io::copy(&mut from, &mut std::io::sink());
        } else if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

#[test]
fn a_connection_that_is_dead_holds_up_nobody_for_long() -> Result<()> {
    let Scene { work, checkpoint, split } = scene("redis", 20_000)?;
    let host = Host::server(&work, &split.store)?;
    let deaths = Arc::new(AtomicUsize::new(0));
    let port = some_die(host.port(), &deaths)?;
    let cell = Cell::new()?;
    let url = format!("http://127.0.0.1:{port}/store");
    let mut pager = Pager::start(&url, &split.slim, &work.folder("pager")?, &["--json", "--complete", "never"])?;
    criu_restore(&cell, &split.slim, pager.work(), &["--lazy-pages"])?;
    // Nothing is asked for now but what the program needs for its answer.
    deaths.store(1, Relaxed);
    eventually(|| checkpoint.first_reply(&cell))?;
    assert_eq!(deaths.load(Relaxed), 0, "the reply took no request");
    signal::kill(Pid::from_raw(pager.daemon().pid()), signal::Signal::SIGTERM)?;
    let summary = summary(&pager.finish()?);
    assert!(summary["hedges"].as_u64() > Some(0), "{summary}");
    assert_eq!(summary["retries"], 0, "a second request was enough: {summary}");
    checkpoint.check(&cell)
}
