//! Our server and nginx with the same bytes, under the same load.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use pageferry_tests::{Cell, Daemon, Host, ROOT_PID, eventually, http, tools};
use serde_json::Value;

use crate::{
    figures::Figure,
    report::Outcome,
    run::{Bench, Scene},
    stats::Samples,
};

/// How much nginx sends is what we want to send.
const AS_MUCH: f64 = 1.0;
const NGINX_PORT: u16 = 7071;
const SECONDS: u32 = 4;
/// Connections: a few faults at once, and a crowd.
const CONNECTIONS: [u32; 2] = [2, 16];
/// Pages that are asked for at random. Those of 8 MiB fit the server's cache of decoded frames (16 MiB), those of 64 MiB do not.
const FEW_PAGES: usize = 2048;
const MANY_PAGES: usize = 16_384;

/// wrk asks for the lines of a file at random: a path, and a range if there is a second word.
const SCRIPT: &str = r#"
local requests = {}
function init(args)
  math.randomseed(7)
  for line in io.lines(args[1]) do
    local path, range = line:match("(%S+) ?(%S*)")
    requests[#requests + 1] = wrk.format("GET", path, range ~= "" and { Range = range } or nil)
  end
end
function request() return requests[math.random(#requests)] end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %f %d\n", summary.requests / summary.duration * 1e6,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"#;

/// A load, and what is asked of it.
struct Load {
    name: String,
    paths: PathBuf,
    asked: bool,
}

/// Requests per second of both, in turn.
pub(crate) fn measure(bench: &Bench, scene: &Scene) -> Result<Outcome> {
    let cell = Cell::new()?;
    let store = &scene.split()?.store;
    let ours = Host::server_in(&cell, &scene.work, store)?;
    let root = scene.work.folder("www")?;
    let _nginx = nginx(&cell, scene, &root)?;
    std::os::unix::fs::symlink(store, root.join("store"))?;
    let script = root.join("wrk.lua");
    fs::write(&script, SCRIPT)?;
    let loads = [
        pages(&cell, ours.port(), &root, FEW_PAGES)?,
        pages(&cell, ours.port(), &root, MANY_PAGES)?,
        extents(store, &root)?,
    ];
    let mut outcome = Outcome::default();
    for load in &loads {
        for connections in CONNECTIONS {
            let (mut our, mut their, mut ratio) = (Samples::default(), Samples::default(), Samples::default());
            for _ in 0..bench.runs(scene.subject) {
                bench.quiet.wait()?;
                let rate = |port| wrk(&cell, &script, port, connections, &load.paths);
                let (ours, theirs) = (rate(ours.port())?, rate(NGINX_PORT)?);
                our.push(ours);
                their.push(theirs);
                ratio.push(ours / theirs);
            }
            let name = format!("{}, {connections} connections", load.name);
            scene.say(&format!("{name}: {:.0}/s, nginx {:.0}/s", our.median(), their.median()));
            let cells = [our.with_spread("/s", 0), their.with_spread("/s", 0), ratio.with_spread("×", 2)];
            outcome.rows.push([vec![name.clone()], cells.to_vec()].concat());
            let title = format!("server against nginx: {name}");
            outcome.figures.push(match load.asked {
                true => Figure::at_least(title, AS_MUCH, "×", ratio),
                false => Figure::shown(title, "×", ratio),
            });
        }
    }
    Ok(outcome)
}

/// nginx as it is set up to serve files fast. It ends with the cell.
fn nginx(cell: &Cell, scene: &Scene, root: &Path) -> Result<Daemon> {
    let folder = scene.work.folder("nginx-serve")?;
    let config = folder.join("nginx.conf");
    let text = format!(
        "daemon off;\nuser root;\nworker_processes 2;\npid nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n\
         access_log off;\nsendfile on;\ntcp_nodelay on;\nkeepalive_requests 1000000;\n\
         open_file_cache max=20000 inactive=600s;\nopen_file_cache_valid 600s;\nopen_file_cache_min_uses 1;\n\
         client_body_temp_path body;\nproxy_temp_path proxy;\nfastcgi_temp_path fastcgi;\nuwsgi_temp_path uwsgi;\n\
         scgi_temp_path scgi;\nserver {{ listen 127.0.0.1:{NGINX_PORT}; root '{}'; }}\n}}\n",
        root.display()
    );
    fs::write(&config, text)?;
    let mut nginx = cell.command(tools::program("nginx")?);
    nginx.args(["-e", "stderr", "-p"]).arg(&folder).arg("-c").arg(&config);
    let daemon = Daemon::start("nginx", &nginx, &folder.join("log"), None)?;
    cell.inside(|| eventually(|| http::connect(NGINX_PORT)))?;
    Ok(daemon)
}

/// `count` pages of the store's longest runs, each also as a file for nginx, under the same path.
fn pages(cell: &Cell, port: u16, root: &Path, count: usize) -> Result<Load> {
    let get = |path: &str| cell.inside(|| http::get_with(port, path, &[])).with_context(|| path.to_owned());
    let pagemap: Value = serde_json::from_slice(&get(&format!("/pid/{ROOT_PID}/pagemap"))?.body)?;
    let text = |run: &Value, name: &str| run[name].as_str().unwrap_or_default().to_owned();
    let mut runs: Vec<_> = pagemap["runs"].as_array().into_iter().flatten().collect();
    runs.retain(|run| text(run, "source") == "store");
    runs.sort_by_key(|run| std::cmp::Reverse(run["pages"].as_u64()));
    let folder = format!("pid/{ROOT_PID}/page");
    fs::create_dir_all(root.join(&folder))?;
    let mut paths = Vec::new();
    for run in runs {
        let hex = |name| u64::from_str_radix(text(run, name).trim_start_matches("0x"), 16);
        let (start, end) = (hex("start")?, hex("end")?);
        let end = end.min(start + (count - paths.len()) as u64 * 4096);
        let body = get(&format!("/pid/{ROOT_PID}/pages/{start:x}-{end:x}"))?.body;
        for (page, bytes) in body.chunks_exact(4096).enumerate() {
            let path = format!("{folder}/{:x}", start + page as u64 * 4096);
            fs::write(root.join(&path), bytes)?;
            paths.push(format!("/{path}"));
        }
        if paths.len() == count {
            break;
        }
    }
    ensure!(paths.len() == count, "the store has {} pages, not {count}", paths.len());
    let file = root.join(format!("pages-{count}"));
    fs::write(&file, paths.join("\n"))?;
    Ok(Load { name: format!("4 KiB pages of {} MiB", count / 256), paths: file, asked: count == FEW_PAGES })
}

/// Ranges of 64 KiB all over the largest pack.
fn extents(store: &Path, root: &Path) -> Result<Load> {
    let mut packs = Vec::new();
    for entry in fs::read_dir(store.join("packs"))? {
        let entry = entry?;
        packs.push((entry.metadata()?.len(), entry.file_name().to_string_lossy().into_owned()));
    }
    let (length, pack) = packs.into_iter().max().context("the store has no pack")?;
    let ranges = (0..4096u64).map(|n| {
        let (size, at) = (65_536 - 4096 + n * 2, n * 7_919_993 % (length - 70_000));
        format!("/store/packs/{pack} bytes={at}-{}", at + size - 1)
    });
    let file = root.join("extents");
    fs::write(&file, ranges.collect::<Vec<_>>().join("\n"))?;
    Ok(Load { name: "ranges of 64 KiB".to_owned(), paths: file, asked: true })
}

/// Requests per second.
fn wrk(cell: &Cell, script: &Path, port: u16, connections: u32, paths: &Path) -> Result<f64> {
    let mut wrk: Command = cell.command(tools::program("wrk")?);
    wrk.args(["-t1", &format!("-c{connections}"), &format!("-d{SECONDS}s"), "-s"]).arg(script);
    wrk.arg(format!("http://127.0.0.1:{port}")).arg("--").arg(paths);
    let output = tools::text(&tools::run(&mut wrk)?.stdout);
    let line = output.lines().find_map(|line| line.strip_prefix("RESULT ")).with_context(|| output.clone())?;
    let (rate, errors) = line.split_once(' ').context("two numbers")?;
    ensure!(errors == "0", "{errors} requests failed\n{output}");
    Ok(rate.parse()?)
}
