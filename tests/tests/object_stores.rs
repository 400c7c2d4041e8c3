//! Stores in a real S3 server: written while they are made, read by agent and tools, copied, listed and removed.

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use anyhow::{Context, ensure};
use common::{Scene, program, scene};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pageferry_tests::{
    Cell, Checkpoint, Daemon, Pager, Result, S3, SlowLink, Speed, Trial, Workdir, assert_same_files, criu_restore,
    free_port, http, s3, tools,
};

/// A checkpoint that is not split yet.
fn unsplit(name: &str, size: usize) -> Result<(Workdir, Checkpoint)> {
    let work = Workdir::new(name)?;
    let checkpoint = Checkpoint::take_boxed(&work, program(name, size))?;
    Ok((work, checkpoint))
}

fn json(command: &mut Command) -> Result<serde_json::Value> {
    Ok(serde_json::from_slice(&tools::run(command.arg("--json"))?.stdout)?)
}

/// All that it says when it fails, which it must.
fn failure(command: &mut Command) -> Result<String> {
    let output = tools::output(command)?;
    ensure!(!output.status.success(), "{command:?} succeeded");
    Ok(tools::text(&output.stderr))
}

fn with_environment(s3: &S3) -> impl Fn(&Command) -> Command + use<'_> {
    |agent| {
        let mut command = Command::new(agent.get_program());
        command.args(agent.get_args()).envs(s3.environment());
        command
    }
}

#[test]
fn split_straight_to_a_bucket_and_restored_from_it() -> Result<()> {
    let (work, checkpoint) = unsplit("redis", 20_000)?;
    let s3 = S3::start(&work)?;
    let (url, slim) = (s3.url("team/redis"), work.path().join("slim"));
    let mut split = s3.command("pageferry-strip")?;
    json(split.arg("split").arg(&checkpoint.dir).args(["--store", &url, "--slim"]).arg(&slim))?;
    // Nothing but a bucket's own words is there.
    assert!(s3.has(Path::new("team/redis/checkpoint.json")) && !work.path().join("store").exists());

    let folder = work.folder("pager")?;
    let pager = Pager::start_by(with_environment(&s3), &url, &slim, &folder, &[])?;
    let cell = Cell::new()?;
    criu_restore(&cell, &slim, &folder, &["--lazy-pages"])?;
    checkpoint.check(&cell)?;
    pager.finish()?;
    checkpoint.check(&cell)?;
    cell.end();

    // What is in the bucket is what a split to a folder makes; every tool reads it there.
    let local = work.path().join("local");
    tools::run(
        Command::new(tools::binary("pageferry-strip")?).arg("split").arg(&checkpoint.dir).arg("--store").arg(&local),
    )?;
    assert_same_store(&local, &s3.folder().join("team/redis"))?;
    let verified = json(s3.command("pageferry-strip")?.args(["verify", &url]))?;
    assert_eq!(verified["ok"], true, "{verified}");
    json(s3.command("pageferry-strip")?.args(["inspect", &url]))?;
    let joined = work.path().join("joined");
    json(s3.command("pageferry-strip")?.args(["join", &url, "--out"]).arg(&joined))?;
    assert_same_files(&checkpoint.dir, &joined)
}

/// Our server as a mirror of a bucket: who reads from it needs no credentials.
#[test]
fn the_server_reads_a_bucket() -> Result<()> {
    let (work, checkpoint) = unsplit("redis", 5_000)?;
    let s3 = S3::start(&work)?;
    let (url, slim) = (s3.url("redis"), work.path().join("slim"));
    json(
        s3.command("pageferry-strip")?.arg("split").arg(&checkpoint.dir).args(["--store", &url, "--slim"]).arg(&slim),
    )?;
    let port = free_port()?;
    let mut server = s3.command("pageferry-server")?;
    server.args([&url, "--listen", &format!("127.0.0.1:{port}")]);
    let mut server = Daemon::start("pageferry-server", &server, &work.path().join("server.log"), None)?;
    server.wait_for_port(port)?;
    assert!(http::get(port, "/pid")?.contains("redis-server"));
    let pager = Pager::start(&format!("http://127.0.0.1:{port}/store"), &slim, &work.folder("pager")?, &[])?;
    let cell = Cell::new()?;
    criu_restore(&cell, &slim, pager.work(), &["--lazy-pages"])?;
    checkpoint.check(&cell)?;
    pager.finish()?;
    checkpoint.check(&cell)
}

#[test]
fn copied_listed_and_removed() -> Result<()> {
    let Scene { work, checkpoint: _checkpoint, split } = scene("redis", 5_000)?;
    let s3 = S3::start(&work)?;
    let strip = |arguments: &[&str]| -> Result<Command> {
        let mut strip = s3.command("pageferry-strip")?;
        strip.args(arguments);
        Ok(strip)
    };
    let (one, two) = (s3.url("a/one"), s3.url("a/two"));
    let copied = json(strip(&["copy", &split.store.display().to_string(), &one])?.arg("-q"))?;
    assert!(copied["objects"].as_u64() >= Some(3) && copied["skipped"] == 0, "{copied}");
    json(&mut strip(&["copy", &one, &two])?)?;
    let back = work.path().join("back");
    json(strip(&["copy", &two])?.arg(&back))?;
    assert_same_store(&split.store, &back)?;

    // A folder that is no store, and one that is a broken one.
    fs::create_dir_all(s3.folder().join("a/other"))?;
    fs::create_dir_all(s3.folder().join("a/broken"))?;
    fs::write(s3.folder().join("a/broken/checkpoint.json"), "{")?;
    let listed = json(&mut strip(&["list", &s3.url("a")])?)?;
    let stores = listed["stores"].as_array().context("no list")?;
    let names: Vec<_> = stores.iter().filter_map(|store| store["store"].as_str()).collect();
    assert_eq!(names, [s3.url("a/broken"), one.clone(), two.clone()], "{listed}");
    assert!(stores[0]["problem"].is_string() && stores[1]["problem"].is_null(), "{listed}");

    json(&mut strip(&["rm", &one, "--dry-run"])?)?;
    assert!(s3.has(Path::new("a/one/checkpoint.json")));
    json(&mut strip(&["rm", &one])?)?;
    assert!(files(&s3.folder().join("a/one"))?.is_empty());
    assert!(failure(&mut strip(&["rm", &one])?)?.contains("not found"));
    assert_eq!(json(&mut strip(&["verify", &two])?)?["ok"], true);
    json(strip(&["rm"])?.arg(&back))?;
    assert!(!back.exists());
    Ok(())
}

fn assert_same_store(one: &Path, other: &Path) -> Result<()> {
    let objects = |folder: &Path| -> Result<Vec<_>> {
        let mut objects = Vec::new();
        for file in files(folder)? {
            objects.push((file.strip_prefix(folder)?.to_path_buf(), fs::read(&file)?));
        }
        objects.sort();
        Ok(objects)
    };
    let (one, other) = (objects(one)?, objects(other)?);
    assert!(one.len() > 3 && one == other, "not the same objects");
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry?.path();
        if path.is_dir() { all.extend(files(&path)?) } else { all.push(path) }
    }
    Ok(all)
}

/// Killed at any moment, a run leaves no `checkpoint.json`, and what it left is not sent again.
#[test]
fn an_upload_that_was_cut_goes_on() -> Result<()> {
    let mut trial = Trial::new("uploads cut", 4);
    let (work, checkpoint) = unsplit("sparse", 1 << 30)?;
    let s3 = S3::start(&work)?;
    // Slow enough to be cut in the middle.
    let port: u16 = s3.environment()[3].1.rsplit(':').next().context("no port")?.parse()?;
    let link = SlowLink::to(port, Speed { round_trip: Duration::from_millis(5), rate: Some(100e6) })?;
    let mut cut = 0;
    for round in 0..trial.count {
        let url = s3.url(&format!("round-{round}"));
        let split = || -> Result<Command> {
            let mut split = Command::new(tools::binary("pageferry-strip")?);
            split.arg("split").arg(&checkpoint.dir).args(["--store", &url, "-q"]).envs(s3::environment(link.port()));
            Ok(split)
        };
        for signal in [Signal::SIGKILL, Signal::SIGTERM] {
            let mut running = split()?.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
            thread::sleep(trial.moment_within(Duration::from_millis(800)));
            kill(Pid::from_raw(i32::try_from(running.id())?), signal)?;
            let status = running.wait()?;
            let there = s3.has(&PathBuf::from(format!("round-{round}/checkpoint.json")));
            // A signal may come between the last step and the end.
            assert!(there || !status.success(), "{status}");
            cut += u32::from(!there);
            if there {
                break;
            }
        }
        if !s3.has(&PathBuf::from(format!("round-{round}/checkpoint.json"))) {
            tools::run(&mut split()?)?;
        }
        let verified = json(s3.command("pageferry-strip")?.args(["verify", &url]))?;
        assert_eq!(verified["ok"], true, "{verified}");
    }
    trial.report(&format!("{} stores, {cut} runs cut, all whole in the end", trial.count));
    Ok(())
}

#[test]
fn two_uploads_of_one_store_at_once() -> Result<()> {
    let (work, checkpoint) = unsplit("redis", 5_000)?;
    let s3 = S3::start(&work)?;
    let url = s3.url("same");
    let start = |level: &str| -> Result<_> {
        let mut split = s3.command("pageferry-strip")?;
        split.arg("split").arg(&checkpoint.dir).args(["--store", &url, "-q", "--level", level]);
        Ok(split.stderr(Stdio::piped()).spawn()?)
    };
    // Different stores of one checkpoint: mixed, they would be none.
    let both = [start("1")?, start("9")?];
    let mut won = 0;
    for running in both {
        let output = running.wait_with_output()?;
        won += u32::from(output.status.success());
        let said = tools::text(&output.stderr);
        // Later ones find it there at their start.
        let told = said.contains("meanwhile") || said.contains("there is a page store already");
        assert!(output.status.success() || told, "{said}");
    }
    assert_eq!(won, 1);
    assert_eq!(json(s3.command("pageferry-strip")?.args(["verify", &url]))?["ok"], true);
    Ok(())
}

/// A server that answers each request with what it is told, for what a real one does not do on demand. It counts requests.
fn answering(
    answer: impl Fn(&str, usize) -> (u16, String) + Send + Sync + 'static,
) -> Result<(u16, Arc<Mutex<Vec<String>>>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let (seen, answer) = (requests.clone(), Arc::new(answer));
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let (seen, answer) = (seen.clone(), answer.clone());
            thread::spawn(move || -> std::io::Result<()> {
                let mut reader = BufReader::new(client.try_clone()?);
                loop {
                    let (mut first, mut length) = (String::new(), 0);
                    if reader.read_line(&mut first)? == 0 {
                        return Ok(());
                    }
                    loop {
                        let mut line = String::new();
                        reader.read_line(&mut line)?;
                        if line.trim().is_empty() {
                            break;
                        }
                        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                            length = value.trim().parse().unwrap_or(0);
                        }
                    }
                    std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink())?;
                    let count = {
                        let mut seen = seen.lock().unwrap_or_else(|e| e.into_inner());
                        seen.push(first.trim().to_owned());
                        seen.len()
                    };
                    let (status, code) = answer(&first, count);
                    let body =
                        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>so it is</Message></Error>");
                    let body = if first.starts_with("HEAD") || status == 200 { String::new() } else { body };
                    write!(
                        client,
                        "HTTP/1.1 {status} X\r\nETag: \"x\"\r\nContent-Length: {}\r\n\r\n{body}",
                        body.len()
                    )?;
                }
            });
        }
    });
    Ok((port, requests))
}

#[test]
fn each_refusal_says_what_to_change() -> Result<()> {
    let Scene { work, checkpoint: _checkpoint, split } = scene("redis", 2_000)?;
    let copy = |port: u16, options: &[&str]| -> Result<Command> {
        let mut copy = Command::new(tools::binary("pageferry-strip")?);
        copy.arg("copy").arg(&split.store).args(["s3://bucket/x", "-q"]).args(options).envs(s3::environment(port));
        Ok(copy)
    };
    for (status, code, words) in [
        (403, "RequestTimeTooSkewed", "clock"),
        (403, "InvalidAccessKeyId", "wrong credentials"),
        (403, "AccessDenied", "may not read there"),
        (404, "NoSuchBucket", "no such bucket"),
        (301, "PermanentRedirect", "AWS_REGION"),
    ] {
        let (port, _) = answering(move |_, _| (status, code.to_owned()))?;
        let said = failure(&mut copy(port, &[])?)?;
        assert!(said.contains(words) && said.contains("s3://bucket/x"), "{code}: {said}");
    }
    // A bucket that knows no conditional puts.
    let (port, _) = answering(|request, _| match request {
        get if get.starts_with("GET") || get.starts_with("HEAD") => (404, "NoSuchKey".into()),
        put if put.contains("checkpoint.json") => (501, "NotImplemented".into()),
        _ => (200, String::new()),
    })?;
    let said = failure(&mut copy(port, &[])?)?;
    assert!(said.contains("--no-conditional-put"), "{said}");
    // One that is asked too often, now and then.
    let (port, requests) = answering(|request, count| match request {
        _ if count % 3 == 0 => (503, "SlowDown".into()),
        get if get.starts_with("GET") || get.starts_with("HEAD") => (404, "NoSuchKey".into()),
        _ => (200, String::new()),
    })?;
    tools::run(&mut copy(port, &["--no-conditional-put"])?)?;
    let requests = requests.lock().unwrap_or_else(|e| e.into_inner());
    assert!(
        requests.last().is_some_and(|last| last.starts_with("PUT") && last.contains("checkpoint.json")),
        "{requests:?}"
    );

    // The real one, with the wrong secret.
    let s3 = S3::start(&work)?;
    let mut wrong = s3.command("pageferry-strip")?;
    wrong.args(["verify", &s3.url("x")]).env("AWS_SECRET_ACCESS_KEY", "guessed");
    let said = failure(&mut wrong)?;
    assert!(said.contains("wrong credentials"), "{said}");
    Ok(())
}
