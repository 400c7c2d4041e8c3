//! What Pageferry does, shown on a real program: `cargo xtask demo [redis|node|gunicorn|java] [--json]`.

use std::{
    fs,
    io::IsTerminal,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use pageferry_tests::{
    Cell, Checkpoint, Daemon, Host, ROOT_PID, Running, SlowLink, Speed, Workdir, eventually, folder_size,
    programs::{Gunicorn, Java, Node, Program, Redis},
    split, tools,
};

/// Another data centre of the region.
const DISTANCE: Speed = Speed { round_trip: Duration::from_millis(10), rate: Some(1e9) };
/// Width of the bar that shows how much memory has come.
const BAR: u64 = 40;

fn main() -> Result<()> {
    let mut name = "redis".to_owned();
    let mut json = false;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--json" => json = true,
            _ => name = argument,
        }
    }
    let program: Box<dyn Program> = match name.as_str() {
        "redis" => Box::new(Redis { keys: 200_000 }),
        "node" => Box::new(Node { objects: 300_000 }),
        "gunicorn" => Box::new(Gunicorn { items: 100_000 }),
        "java" => Box::new(Java { objects: 500_000 }),
        other => bail!("the demo knows redis, node, gunicorn and java; not {other}"),
    };
    // Everything lies in one folder and runs in namespaces that end with this program: nothing is left behind.
    let figures = demo(&Workdir::new("demo")?, program)?;
    if json {
        println!("{figures}");
    }
    Ok(())
}

fn demo(work: &Workdir, program: Box<dyn Program>) -> Result<serde_json::Value> {
    let what = program.describe();
    say(1, &format!("Start {what}"));
    let start = Instant::now();
    let running = Running::start(work, program)?;
    let memory_before = resident(running.cell())?;
    note(&format!("ready after {}, with {} of memory", seconds(start.elapsed()), megabytes(memory_before)));

    say(2, "criu dump, which ends it");
    let start = Instant::now();
    let checkpoint = running.dump(&work.folder("dump")?, &[])?;
    let dumped = folder_size(&checkpoint.dir)?;
    note(&format!("{} of images in {}", megabytes(dumped), seconds(start.elapsed())));

    say(3, "pageferry-strip split, into a slim dump and a page store");
    let start = Instant::now();
    let split = split(work, &checkpoint, &[])?;
    let split_time = start.elapsed();
    let (slim, stored) = (folder_size(&split.slim)?, folder_size(&split.store)?);
    let rate = dumped as f64 / split_time.as_secs_f64() / 1e6;
    note(&format!(
        "slim dump {}, page store {} ({:.1} to 1), in {}: {rate:.0} MB/s",
        megabytes(slim),
        megabytes(stored),
        dumped as f64 / stored as f64,
        seconds(split_time)
    ));
    fs::remove_dir_all(&checkpoint.dir)?;
    fs::remove_dir_all(&split.slim)?;
    note("the original process, its dump and the slim dump are gone now; the store is all there is");

    say(4, "pageferry-server serves the store");
    let host = Host::server(work, &split.store)?;
    note(&host.url());

    say(5, &format!("pageferry-agent restore {} --complete never", host.url()));
    note("(it fetches only what the process touches; without the option all the rest follows)");
    let cell = Cell::new()?;
    let start = Instant::now();
    let (faults_only, first) = restore(&cell, &host, work, &checkpoint)?;
    let first_reply = start.elapsed();
    note(&format!("first reply after {}: {}", seconds(first_reply), shortened(&first)));
    let memory_first = resident(&cell)?;
    bar(memory_first, memory_before);
    note("the process runs; the rest of its memory is still on the other side of an HTTP connection");

    say(6, "Now ask for everything");
    let start = Instant::now();
    checkpoint.check(&cell)?;
    let all_replies = start.elapsed();
    bar(resident(&cell)?, memory_before);
    note(&format!("every reply is what it was, byte for byte; fetched page by page in {}", seconds(all_replies)));
    note(&format!(
        "agent: {} of memory at most, server: {}",
        megabytes(faults_only.peak_memory()?),
        megabytes(host.peak_memory()?)
    ));

    say(7, "From 10 ms away, first as it is, then with what the first restore recorded as a working set");
    drop(faults_only);
    drop(cell);
    let far = SlowLink::to(host.port(), DISTANCE)?;
    let url = host.url_across(&far);
    note("(a proxy delays what it is given by 5 ms each way and lets through 1 Gbit/s)");
    let without = far_restore(&url, work, &checkpoint, "without", &["--working-set", "none"])?;
    note(&format!("without: first reply after {}", seconds(without)));
    let trace = work.path().join("trace").display().to_string();
    far_restore(&host.url(), work, &checkpoint, "record", &["--record", &trace, "--record-settle", "0.5"])?;
    let mut strip = Command::new(tools::binary("pageferry-strip")?);
    tools::run(strip.arg("working-set").arg(&split.store).args(["--trace", &trace]))?;
    // The server goes on with the checkpoint.json that it has opened.
    drop((far, host));
    let host = Host::server(work, &split.store)?;
    let far = SlowLink::to(host.port(), DISTANCE)?;
    let with = far_restore(&host.url_across(&far), work, &checkpoint, "with", &[])?;
    note(&format!("with:    first reply after {}", seconds(with)));

    say(8, "And as it is meant to be used: with the rest following in the background");
    let cell = Cell::new()?;
    let start = Instant::now();
    let mut agent = agent(&cell, &host.url(), &work.path().join("images-complete"), &[], work)?;
    eventually(|| checkpoint.first_reply(&cell))?;
    let first_again = start.elapsed();
    let status = agent.wait()?;
    if !status.success() {
        bail!("the agent ended with {status}\n{}", agent.log());
    }
    let whole = start.elapsed();
    note(&format!("first reply after {}, whole after {}; the agent has ended", seconds(first_again), seconds(whole)));
    note("what it has to say:");
    agent.log().lines().for_each(|line| note(&format!("  {line}")));
    bar(resident(&cell)?, memory_before);
    checkpoint.check(&cell)?;
    drop(cell);

    println!();
    note("All processes are ended and all files removed. To do the same with a process of yours:");
    note("  criu dump -t PID -D checkpoint --shell-job");
    note("  pageferry-strip split checkpoint --store store    # copy store/ to any web server or bucket");
    note("  pageferry-agent restore https://host/store -- --shell-job");
    Ok(serde_json::json!({
        "program": what,
        "dump_bytes": dumped,
        "slim_bytes": slim,
        "store_bytes": stored,
        "split_seconds": split_time.as_secs_f64(),
        "memory_bytes": memory_before,
        "memory_at_first_reply_bytes": memory_first,
        "first_reply_seconds": first_reply.as_secs_f64(),
        "all_by_fault_seconds": all_replies.as_secs_f64(),
        "first_reply_from_10_ms_seconds": without.as_secs_f64(),
        "first_reply_from_10_ms_with_working_set_seconds": with.as_secs_f64(),
        "whole_seconds": whole.as_secs_f64(),
    }))
}

/// Restores with faults only, and waits for the first reply.
fn restore(cell: &Cell, host: &Host, work: &Workdir, checkpoint: &Checkpoint) -> Result<(Daemon, String)> {
    let images = work.path().join("images-never");
    let mut agent = agent(cell, &host.url(), &images, &["--complete", "never"], work)?;
    let first = eventually(|| {
        Ok(match agent.is_running()? {
            true => Ok(checkpoint.first_reply(cell)?),
            false => Err(anyhow::anyhow!("the agent has ended\n{}", agent.log())),
        })
    })??;
    Ok((agent, first))
}

/// Restores into a cell of its own until all is there; gives the time to the first reply.
fn far_restore(url: &str, work: &Workdir, checkpoint: &Checkpoint, name: &str, options: &[&str]) -> Result<Duration> {
    let cell = Cell::new()?;
    let start = Instant::now();
    let mut agent = agent(&cell, url, &work.path().join(format!("images-{name}")), options, work)?;
    eventually(|| checkpoint.first_reply(&cell))?;
    let first = start.elapsed();
    let status = agent.wait()?;
    if !status.success() {
        bail!("the agent ended with {status}\n{}", agent.log());
    }
    Ok(first)
}

/// Starts `pageferry-agent restore`, with CRIU inside the cell.
fn agent(cell: &Cell, url: &str, images: &Path, options: &[&str], work: &Workdir) -> Result<Daemon> {
    let criu = images.with_extension("criu");
    cell.entering(&tools::criu()?, &criu)?;
    let mut agent = Command::new(tools::binary("pageferry-agent")?);
    agent.args(["restore", url, "--images-dir"]).arg(images).arg("--criu").arg(criu).args(options);
    agent.args(["--", "--shell-job"]);
    Daemon::start("pageferry-agent", &agent, &work.path().join("agent.log"), None)
}

/// Bytes of memory that the tasks of the cell's program hold; what they share counts once per task.
fn resident(cell: &Cell) -> Result<u64> {
    let mut pages = 0;
    for pid in cell.pids()?.into_iter().filter(|pid| *pid >= ROOT_PID) {
        let path = cell.proc(pid).join("statm");
        let statm = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        pages += statm.split_whitespace().nth(1).map_or(Ok(0), str::parse::<u64>)?;
    }
    Ok(pages * 4096)
}

fn say(number: u8, text: &str) {
    println!("\n{} {}", style("1;36", &number.to_string()), style("1", text));
}

fn note(text: &str) {
    println!("  {text}");
}

/// How much of the memory is here.
fn bar(here: u64, all: u64) {
    let full = (here * BAR / all.max(1)).min(BAR);
    let text = format!("{}{}", "█".repeat(full as usize), "░".repeat((BAR - full) as usize));
    note(&format!("{} {} of {} of memory is here", style("32", &text), megabytes(here), megabytes(all)));
}

fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn megabytes(bytes: u64) -> String {
    let megabytes = bytes as f64 / 1e6;
    if megabytes < 10.0 { format!("{megabytes:.1} MB") } else { format!("{megabytes:.0} MB") }
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

fn style(code: &str, text: &str) -> String {
    if std::io::stdout().is_terminal() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}
