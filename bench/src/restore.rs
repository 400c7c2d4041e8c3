//! Restores over a link by every method in turn, ours and CRIU's.

use std::{collections::BTreeMap, fs, path::Path, process::Command, time::Instant};

use anyhow::{Context, Result};
use pageferry_tests::{
    Cell, CriuPager, Host, Pager, SlowLink, Workdir, agent_restore, criu_restore, split as make_split, tools,
};

use crate::{
    asked,
    client::{self, REPLIES, Replies},
    json::Summary,
    link::{LOOPBACK, Link},
    method::{Method, SET},
    report::{Bar, Outcome},
    run::{Bench, Scene},
    size::dumped_pages,
    split::read_all,
    stats::Samples,
};

/// All runs of one method. Times are in milliseconds.
#[derive(Default)]
pub(crate) struct Runs {
    restored: Samples,
    pub(crate) first: Samples,
    fifty: Samples,
    pub(crate) whole: Samples,
    /// Megabytes from the store.
    pub(crate) wire: Samples,
    faults: Samples,
    stall_p50: Samples,
    stall_p99: Samples,
    /// Percent.
    precision: Samples,
    /// Seconds of the agent, or of `criu lazy-pages`.
    pub(crate) cpu: Samples,
    /// MiB of the same.
    pub(crate) memory: Samples,
}

/// One restore. Times are in seconds from its start.
#[derive(Default)]
struct Restored {
    replies: Replies,
    /// `criu restore` returned; not seen where the agent runs it.
    restored: Option<f64>,
    /// Where the program gets whole.
    whole: Option<f64>,
    usage: Option<(f64, u64)>,
    /// Where the agent did it.
    summary: Option<Summary>,
}

impl Runs {
    fn push(&mut self, run: &Restored) {
        let millis =
            |samples: &mut Samples, seconds: Option<f64>| seconds.into_iter().for_each(|s| samples.push(s * 1e3));
        millis(&mut self.restored, run.restored);
        millis(&mut self.first, Some(run.replies.first));
        millis(&mut self.fifty, run.replies.last);
        millis(&mut self.whole, run.whole);
        if let Some(summary) = run.summary {
            self.wire.push(summary.wire_bytes as f64 / 1e6);
            self.faults.push(summary.faults as f64);
            millis(&mut self.stall_p50, summary.stalls.map(|stalls| stalls.p50));
            millis(&mut self.stall_p99, summary.stalls.map(|stalls| stalls.p99));
            summary.read_ahead_precision.into_iter().for_each(|share| self.precision.push(share * 100.0));
        }
        let ours = run.summary.map(|summary| (summary.cpu_seconds, summary.peak_memory_bytes));
        if let Some((cpu, memory)) = ours.or(run.usage) {
            self.cpu.push(cpu);
            self.memory.push(memory as f64 / 1_048_576.0);
        }
    }
}

/// What all methods restore from.
struct Stage<'a> {
    scene: &'a Scene<'a>,
    link: Link,
    /// The store's address, from our server and from nginx.
    server: String,
    nginx: String,
    /// CRIU's own daemon cannot read a dump with a tripwire.
    plain_slim: &'a Path,
    /// The folder of the node's cache.
    cache: String,
}

/// Restores a program over each link by each method in turn, in another order each time.
pub(crate) fn measure(bench: &Bench, scene: &Scene, links: &[Link]) -> Result<Outcome> {
    let plan: Vec<_> = links.iter().map(|link| (*link, Method::on(*link))).collect();
    let (mut outcome, runs) = compare(bench, scene, &plan)?;
    let lazy = lazy_pages(scene)?;
    for (link, runs) in links.iter().zip(&runs) {
        let of = |method| runs.get(&method);
        outcome.figures.extend(asked::restores(scene.subject.name, *link, &of, lazy as f64 / 1e6));
    }
    Ok(outcome)
}

/// Bytes of pages that CRIU sends.
fn lazy_pages(scene: &Scene) -> Result<u64> {
    Ok(dumped_pages(&scene.checkpoint.dir)? - dumped_pages(&scene.split()?.slim)?)
}

/// Rows, bars, and all runs over each link.
pub(crate) fn compare(
    bench: &Bench,
    scene: &Scene,
    plan: &[(Link, &'static [Method])],
) -> Result<(Outcome, Vec<BTreeMap<Method, Runs>>)> {
    record(scene)?;
    let plain = Workdir::at(&scene.work.path().join("plain"))?;
    let plain = make_split(&plain, &scene.checkpoint, &["--no-tripwire"])?;
    fs::remove_dir_all(&plain.store)?;
    for folder in [&scene.checkpoint.dir, &scene.split()?.store, &scene.split()?.slim, &plain.slim] {
        read_all(folder)?;
    }
    let (server, nginx) =
        (Host::server(&scene.work, &scene.split()?.store)?, Host::nginx(&scene.work, &scene.split()?.store)?);
    let mut outcome = Outcome::default();
    let mut all = Vec::new();
    for (link, methods) in plan {
        let across = |host: &Host| link.speed.map(|speed| SlowLink::to(host.port(), speed)).transpose();
        let (server_link, nginx_link) = (across(&server)?, across(&nginx)?);
        let url = |host: &Host, link: &Option<SlowLink>| match link {
            Some(link) => host.url_across(link),
            None => host.url(),
        };
        let (server, nginx) = (url(&server, &server_link), url(&nginx, &nginx_link));
        let cache = scene.work.path().join("node-cache").display().to_string();
        let stage = Stage { scene, link: *link, server, nginx, plain_slim: &plain.slim, cache };
        if methods.iter().any(|method| method.is_cached()) {
            stage.fill_cache()?;
        }
        let runs = stage.all_runs(bench, methods)?;
        outcome.add(of_link(scene.subject.name, *link, &runs));
        all.push(runs);
    }
    fs::remove_dir_all(scene.work.path().join("plain"))?;
    Ok((outcome, all))
}

/// Records what a restore and fifty replies need, and adds it to the store.
fn record(scene: &Scene) -> Result<()> {
    let (split, cell) = (scene.split()?, Cell::new()?);
    let folder = scene.work.folder("record")?;
    let trace = folder.join("trace");
    let trace_name = trace.display().to_string();
    let options = ["--record-settle", "0.5", "--record", &trace_name];
    let pager = Pager::start(&split.store.display().to_string(), &split.slim, &folder, &options)?;
    client::during(&cell, scene.checkpoint.program(), REPLIES, || {
        criu_restore(&cell, &split.slim, &folder, &["--lazy-pages"])?;
        pager.finish().map(drop)
    })?;
    let mut strip = Command::new(tools::binary("pageferry-strip")?);
    tools::run(strip.arg("working-set").arg(&split.store).arg("--trace").arg(&trace).args(["--name", SET]))?;
    fs::remove_dir_all(&folder)?;
    Ok(())
}

impl Stage<'_> {
    fn all_runs(&self, bench: &Bench, methods: &[Method]) -> Result<BTreeMap<Method, Runs>> {
        let mut runs = BTreeMap::<_, Runs>::new();
        for run in 0..bench.runs(self.scene.subject) {
            for turn in 0..methods.len() {
                let method = methods[(turn + run) % methods.len()];
                if method == Method::Criu && self.link.is_far() && run > 0 {
                    continue;
                }
                let folder = self.scene.work.folder(&format!("restore-{run}-{turn}"))?;
                bench.quiet.wait()?;
                let restored = self.restore(method, &folder, run == 0).with_context(|| method.name())?;
                self.scene.say(&format!(
                    "{}, {}, {}: first reply {:.3} s, whole {}",
                    self.link.name(),
                    run + 1,
                    method.name(),
                    restored.replies.first,
                    restored.whole.map_or("-".to_owned(), |whole| format!("{whole:.3} s"))
                ));
                runs.entry(method).or_default().push(&restored);
                fs::remove_dir_all(&folder)?;
            }
        }
        Ok(runs)
    }

    /// A restore like those that follow.
    fn fill_cache(&self) -> Result<()> {
        let (cell, folder) = (Cell::new()?, self.scene.work.folder("fill-cache")?);
        let options = ["--working-set", "none", "--cache-dir", &self.cache];
        agent_restore(&cell, &self.server, &folder.join("images"), &options, &[])?;
        Ok(fs::remove_dir_all(&folder)?)
    }

    fn options(&self, method: Method) -> Vec<&str> {
        let cache: &[&str] = if method.is_cached() { &["--cache-dir", &self.cache] } else { &[] };
        [&method.options(), cache].concat()
    }

    /// One restore. `check` compares every byte afterwards, which takes time of its own.
    fn restore(&self, method: Method, folder: &Path, check: bool) -> Result<Restored> {
        let scene = self.scene;
        let (program, split, cell) = (scene.checkpoint.program(), scene.split()?, Cell::new()?);
        let local = split.store.display().to_string();
        let store = match method {
            Method::Local => &local,
            method if method.is_from_nginx() => &self.nginx,
            _ => &self.server,
        };
        let mut restored = Restored::default();
        let during = |replies, work: &mut dyn FnMut(Instant) -> Result<()>| {
            client::during(&cell, program, replies, || work(Instant::now()))
        };
        // The clock starts with `criu restore`, or with `pageferry-agent restore`; the other daemons listen by then.
        let timed = match method {
            Method::Restore | Method::RestoreSet | Method::RestoreCached => during(REPLIES, &mut |_| {
                let output = agent_restore(&cell, store, &folder.join("images"), &self.options(method), &[])?;
                restored.summary = Some(Summary::find(&tools::text(&output.stdout))?);
                Ok(())
            })?,
            Method::Full => during(REPLIES, &mut |start| {
                criu_restore(&cell, &scene.checkpoint.dir, folder, &[])?;
                restored.restored = Some(start.elapsed().as_secs_f64());
                Ok(())
            })?,
            Method::Criu | Method::CriuLocal => {
                let (full, local) = (&scene.checkpoint.dir, method == Method::CriuLocal);
                let images = if local { full } else { self.plain_slim };
                let mut pager = Some(match local {
                    true => CriuPager::start_local(full, folder)?,
                    false => CriuPager::start_across(full, images, folder, self.link.speed)?,
                });
                let far = !local && self.link.is_far();
                let timed = during(if far { 1 } else { REPLIES }, &mut |start| {
                    criu_restore(&cell, images, folder, &["--lazy-pages"])?;
                    restored.restored = Some(start.elapsed().as_secs_f64());
                    if let Some(pager) = pager.take_if(|_| !far) {
                        let usage = pager.finish()?;
                        restored.usage = Some((usage.cpu_seconds, usage.peak_memory));
                    }
                    Ok(())
                })?;
                if far {
                    restored.replies = timed.replies;
                    return Ok(restored);
                }
                timed
            }
            Method::Faults => {
                // The program never gets whole: it ends, and the agent with it.
                let mut pager = Pager::start(store, &split.slim, folder, &method.options())?;
                let timed = during(REPLIES, &mut |start| {
                    criu_restore(&cell, &split.slim, folder, &["--lazy-pages"])?;
                    restored.restored = Some(start.elapsed().as_secs_f64());
                    Ok(())
                })?;
                cell.end();
                pager.wait()?;
                restored.summary = Some(Summary::find(&pager.daemon().log())?);
                restored.replies = timed.replies;
                return Ok(restored);
            }
            _ => {
                let mut pager = Some(Pager::start(store, &split.slim, folder, &self.options(method))?);
                during(REPLIES, &mut |start| {
                    criu_restore(&cell, &split.slim, folder, &["--lazy-pages"])?;
                    restored.restored = Some(start.elapsed().as_secs_f64());
                    let pager = pager.take().context("it was waited for already")?;
                    restored.summary = Some(Summary::find(&pager.finish()?)?);
                    Ok(())
                })?
            }
        };
        if check {
            scene.checkpoint.check(&cell)?;
        }
        restored.whole = Some(timed.whole);
        restored.replies = timed.replies;
        Ok(restored)
    }
}

/// The rows and the bars of one program over one link.
fn of_link(name: &str, link: Link, runs: &BTreeMap<Method, Runs>) -> Outcome {
    let mut outcome = Outcome::default();
    let criu = runs.get(&Method::Criu);
    for (method, times) in runs {
        let beside = |of: fn(&Runs) -> &Samples| {
            let (ours, theirs) = (of(times), criu.map(of).filter(|theirs| theirs.runs() > 0));
            let text = ours.with_spread("ms", 0);
            match theirs.filter(|_| ours.runs() > 0 && *method != Method::Criu) {
                Some(theirs) => format!("{text}, {:.2}×", ours.median() / theirs.median()),
                None => text,
            }
        };
        let plain = |samples: &Samples, unit: &str, decimals| samples.median_with(unit, decimals);
        outcome.rows.push(vec![
            link.name(),
            name.to_owned(),
            method.name().to_owned(),
            plain(&times.restored, "ms", 0),
            beside(|runs| &runs.first),
            beside(|runs| &runs.fifty),
            beside(|runs| &runs.whole),
            plain(&times.wire, "MB", 1),
            plain(&times.faults, "", 0),
            format!("{} / {}", plain(&times.stall_p50, "", 2), plain(&times.stall_p99, "ms", 2)),
            plain(&times.precision, "%", 0),
            plain(&times.cpu, "s", 2),
            plain(&times.memory, "MiB", 0),
        ]);
        outcome.bars.push(Bar {
            plot: link.name(),
            group: name.to_owned(),
            label: method.name(),
            value: times.first.median(),
        });
    }
    outcome
}

/// `restore` over the loopback device, unless others are named.
pub(crate) fn links(asked: &[Link], loopback: bool) -> Vec<Link> {
    let all = if asked.is_empty() { Link::DEFAULT.to_vec() } else { asked.to_vec() };
    all.into_iter().filter(|link| (*link == LOOPBACK) == loopback).collect()
}
