//! A second checkpoint of a service shares the packs of the first: what it costs, and that it restores from every kind of host.

mod common;

use std::{fs, path::PathBuf, process::Command};

use common::program;
use pageferry_tests::{
    Cell, Checkpoint, Daemon, Host, Pager, Result, Running, S3, Workdir, criu_restore, free_port, programs::Program,
    programs::Redis, tools,
};
use serde_json::Value;

/// Two checkpoints of one redis: the second after a thousand writes.
struct Twice {
    work: Workdir,
    first: PathBuf,
    second: Checkpoint,
}

fn twice(name: &str) -> Result<Twice> {
    let work = Workdir::new(name)?;
    let running = Running::start(&work, program("redis", 50_000))?;
    let first = work.folder("first")?;
    running.snapshot(&first)?;
    running.cell().inside(|| Redis { keys: 1000 }.fill())?;
    // Its connection is closed by now; redis has to notice.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let second = running.dump(&work.folder("second")?, &[])?;
    Ok(Twice { work, first, second })
}

fn json(command: &mut Command) -> Result<Value> {
    Ok(serde_json::from_slice(&tools::run(command.arg("--json"))?.stdout)?)
}

impl Twice {
    fn restores_from(&self, url: &str, slim: &std::path::Path, name: &str) -> Result<()> {
        let pager = Pager::start(url, slim, &self.work.folder(name)?, &[])?;
        let cell = Cell::new()?;
        criu_restore(&cell, slim, pager.work(), &["--lazy-pages"])?;
        self.second.check(&cell)?;
        pager.finish()?;
        self.second.check(&cell)?;
        cell.end();
        Ok(())
    }
}

#[test]
fn a_second_checkpoint_costs_a_fraction_and_restores() -> Result<()> {
    let twice = twice("shared")?;
    let stores = twice.work.folder("stores")?;
    let (one, two, slim) = (stores.join("one"), stores.join("two"), twice.work.path().join("slim"));
    let strip = || -> Result<Command> { Ok(Command::new(tools::binary("pageferry-strip")?)) };
    let whole = json(strip()?.arg("split").arg(&twice.first).arg("--store").arg(&one))?;
    let part = json(
        strip()?
            .arg("split")
            .arg(&twice.second.dir)
            .arg("--store")
            .arg(&two)
            .arg("--slim")
            .arg(&slim)
            .arg("--base")
            .arg(&one),
    )?;
    let bytes = |report: &Value| report["stored"].as_f64().unwrap_or(f64::NAN);
    let share = bytes(&part) / bytes(&whole);
    println!("after 1000 writes: {:.1} % new bytes\n{whole:#}\n{part:#}", share * 100.0);
    assert!(share <= 0.15, "{share}: {part:#}");

    // A folder; a static host; our server for one and for all, the latter by both of its addresses.
    twice.restores_from(&two.display().to_string(), &slim, "folder")?;
    let nginx = Host::nginx(&twice.work, &stores)?;
    twice.restores_from(&format!("{}/two", nginx.url().trim_end_matches('/')), &slim, "nginx")?;
    twice.restores_from(&Host::server(&twice.work, &two)?.url(), &slim, "server")?;
    let server = Host::server(&twice.work, &stores)?;
    let of_two = format!("http://127.0.0.1:{}/checkpoints/two", server.port());
    twice.restores_from(&of_two, &slim, "all")?;
    twice.restores_from(&format!("{of_two}/store"), &slim, "all-store")?;

    // The first goes; its packs stay for as long as the second needs them, also behind the server.
    let removed = json(strip()?.arg("rm").arg(&one))?;
    assert!(removed["kept"].as_u64() >= Some(1) && !one.join("checkpoint.json").exists(), "{removed}");
    std::thread::sleep(std::time::Duration::from_millis(2100));
    twice.restores_from(&of_two, &slim, "without")?;
    json(strip()?.arg("rm").arg(&two))?;
    assert_eq!(fs::read_dir(&stores)?.count(), 0);
    Ok(())
}

#[test]
fn in_a_bucket_too() -> Result<()> {
    let twice = twice("shared-s3")?;
    let s3 = S3::start(&twice.work)?;
    let strip = |arguments: &[&str]| -> Result<Command> {
        let mut strip = s3.command("pageferry-strip")?;
        strip.args(arguments);
        Ok(strip)
    };
    let (one, two, slim) = (s3.url("team/one"), s3.url("team/two"), twice.work.path().join("slim"));
    json(strip(&["split", "--store", &one])?.arg(&twice.first))?;
    json(strip(&["split", "--store", &two, "--base", &one])?.arg(&twice.second.dir).arg("--slim").arg(&slim))?;
    // Replaced by the very state that the second is of: what the second shares stays, though the new one names nothing of it.
    json(strip(&["split", "--store", &one, "--replace", "--level", "3"])?.arg(&twice.second.dir))?;
    assert_eq!(json(&mut strip(&["verify", &two])?)?["ok"], true);
    let removed = json(&mut strip(&["rm", &one])?)?;
    assert_eq!(removed["kept"], 0, "{removed}");
    assert_eq!(json(&mut strip(&["verify", &two])?)?["ok"], true);

    let port = free_port()?;
    let mut server = s3.command("pageferry-server")?;
    server.args([&s3.url("team"), "--listen", &format!("127.0.0.1:{port}")]);
    let mut server = Daemon::start("pageferry-server", &server, &twice.work.path().join("server.log"), None)?;
    server.wait_for_port(port)?;
    twice.restores_from(&format!("http://127.0.0.1:{port}/checkpoints/two"), &slim, "server")?;
    drop(server);
    json(&mut strip(&["rm", &two])?)?;
    let left: Vec<_> = walk(&s3.folder().join("team"))?;
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

/// Files below a folder, whose names begin with no dot.
fn walk(folder: &std::path::Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => files.extend(walk(&path)?),
            path if !entry.file_name().to_string_lossy().starts_with('.') => files.push(path),
            _ => {}
        }
    }
    Ok(files)
}
