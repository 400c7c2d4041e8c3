//! Restores on the loopback device and through a slower link, ours and CRIU's in turn.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use pageferry_tests::{
    Cell, CriuPager, Host, Pager, SlowLink, Speed, Workdir, agent_restore, criu_restore, split as make_split, tools,
};

use crate::{
    client::{self, Replies},
    figures::Figure,
    json::Summary,
    report::Outcome,
    run::{Bench, Scene},
    split::read_all,
    stats::Samples,
};

/// A network between the store and the agent: two data centres of one region.
pub(crate) const DISTANCE: Speed = Speed { round_trip: Duration::from_millis(10), rate: Some(1e9) };
/// How much sooner than CRIU a program shall answer, and be whole, over [`DISTANCE`].
const FIRST_SOONER: f64 = 5.0;
const WHOLE_SOONER: f64 = 8.0;
/// Runs over a distance: CRIU takes 20 s.
const DISTANT_RUNS: usize = 3;

/// A way to restore.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    /// `pageferry-agent lazy-pages` in the place of `criu lazy-pages`.
    LazyPages,
    /// The same, with a working set.
    LazyPagesSet,
    /// Without one, and only what is touched is fetched (`--complete never`).
    Faults,
    /// `pageferry-agent restore URL`, which has nothing but the address.
    Restore,
    /// The same, with a working set.
    RestoreSet,
    /// `criu lazy-pages` and `criu page-server`.
    Criu,
    /// `criu restore` of the full dump, from this machine.
    Full,
}

const METHODS: [Method; 7] = [
    Method::LazyPages,
    Method::LazyPagesSet,
    Method::Faults,
    Method::Restore,
    Method::RestoreSet,
    Method::Criu,
    Method::Full,
];
/// What the set is called.
const SET: &str = "bench";

impl Method {
    fn name(self) -> &'static str {
        match self {
            Self::LazyPages => "agent lazy-pages",
            Self::LazyPagesSet => "agent lazy-pages, set",
            Self::Faults => "agent, faults only",
            Self::Restore => "agent restore URL",
            Self::RestoreSet => "agent restore URL, set",
            Self::Criu => "CRIU lazy-pages",
            Self::Full => "CRIU, full dump here",
        }
    }

    /// What the agent is told.
    fn options(self) -> [&'static str; 3] {
        match self {
            Self::LazyPagesSet | Self::RestoreSet => ["--json", "--working-set", SET],
            _ => ["--json", "--working-set", "none"],
        }
    }
}

/// All runs of one method. Times are in milliseconds.
#[derive(Default)]
struct Times {
    first: Samples,
    fifty: Samples,
    whole: Samples,
    /// Megabytes from the store.
    wire: Samples,
    faults: Samples,
}

/// One restore.
struct Restored {
    replies: Replies,
    /// Seconds; where the program gets whole.
    whole: Option<f64>,
    /// Where the agent did it.
    summary: Option<Summary>,
}

/// Restores a program by each method in turn, in another order each time.
pub(crate) fn measure(bench: &Bench, scene: &Scene, speed: Option<Speed>) -> Result<Outcome> {
    record(scene)?;
    let host = Host::server(&scene.work, &scene.split()?.store)?;
    let link = speed.map(|speed| SlowLink::to(host.port(), speed)).transpose()?;
    let url = link.as_ref().map_or_else(|| host.url(), |link| host.url_across(link));
    let runs = speed.map_or_else(|| bench.runs(scene.subject), |_| DISTANT_RUNS);
    // CRIU's own daemon cannot read a dump with a tripwire.
    let plain = Workdir::at(&scene.work.path().join("plain"))?;
    let plain = make_split(&plain, &scene.checkpoint, &["--no-tripwire"])?;
    fs::remove_dir_all(&plain.store)?;
    for folder in [&scene.checkpoint.dir, &scene.split()?.store, &scene.split()?.slim, &plain.slim] {
        read_all(folder)?;
    }

    let mut times: [Times; METHODS.len()] = Default::default();
    for run in 0..runs {
        for turn in 0..METHODS.len() {
            let which = (turn + run) % METHODS.len();
            let method = METHODS[which];
            let folder = scene.work.folder(&format!("restore-{run}-{which}"))?;
            bench.quiet.wait()?;
            let restored = restore(scene, method, &url, speed, &plain.slim, &folder, run == 0);
            let Restored { replies, whole, summary } = restored.with_context(|| method.name())?;
            let times = &mut times[which];
            times.first.push(replies.first * 1e3);
            times.fifty.push(replies.fifty * 1e3);
            whole.into_iter().for_each(|whole| times.whole.push(whole * 1e3));
            if let Some(summary) = summary {
                times.wire.push(summary.wire_bytes as f64 / 1e6);
                times.faults.push(summary.faults as f64);
            }
            scene.say(&format!(
                "restore {}, {}: first reply {:.3} s, 50 replies {:.3} s, whole {}",
                run + 1,
                method.name(),
                replies.first,
                replies.fifty,
                whole.map_or("-".to_owned(), |whole| format!("{whole:.3} s"))
            ));
            fs::remove_dir_all(&folder)?;
        }
    }
    fs::remove_dir_all(scene.work.path().join("plain"))?;
    Ok(outcome(scene.subject.name, &times, speed))
}

/// Records what a restore and fifty replies need, and adds it to the store.
fn record(scene: &Scene) -> Result<()> {
    let (split, cell) = (scene.split()?, Cell::new()?);
    let folder = scene.work.folder("record")?;
    let trace = folder.join("trace");
    let trace_name = trace.display().to_string();
    let options = ["--record-settle", "0.5", "--record", &trace_name];
    let pager = Pager::start(&split.store.display().to_string(), &split.slim, &folder, &options)?;
    client::during(&cell, scene.checkpoint.program(), || {
        criu_restore(&cell, &split.slim, &folder, &["--lazy-pages"])?;
        pager.finish()
    })?;
    let mut strip = std::process::Command::new(tools::binary("pageferry-strip")?);
    tools::run(strip.arg("working-set").arg(&split.store).arg("--trace").arg(&trace).args(["--name", SET]))?;
    fs::remove_dir_all(&folder)?;
    Ok(())
}

/// One restore. `check` compares every byte afterwards, which takes time of its own.
fn restore(
    scene: &Scene,
    method: Method,
    url: &str,
    speed: Option<Speed>,
    plain_slim: &Path,
    folder: &Path,
    check: bool,
) -> Result<Restored> {
    let program = scene.checkpoint.program();
    let slim = &scene.split()?.slim;
    let cell = Cell::new()?;
    // The clock starts with `criu restore`, or with `pageferry-agent restore`; the other daemons listen by then.
    let timed = match method {
        Method::LazyPages | Method::LazyPagesSet => {
            let pager = Pager::start(url, slim, folder, &method.options())?;
            client::during(&cell, program, || {
                criu_restore(&cell, slim, folder, &["--lazy-pages"])?;
                Ok(Some(pager.finish()?))
            })?
        }
        Method::Faults => return faults_only(scene, url, folder, cell),
        Method::Restore | Method::RestoreSet => client::during(&cell, program, || {
            let output = agent_restore(&cell, url, &folder.join("images"), &method.options(), &[])?;
            Ok(Some(tools::text(&output.stdout)))
        })?,
        Method::Criu => {
            let pager = CriuPager::start_across(&scene.checkpoint.dir, plain_slim, folder, speed)?;
            client::during(&cell, program, || {
                criu_restore(&cell, plain_slim, folder, &["--lazy-pages"])?;
                pager.finish()?;
                Ok(None)
            })?
        }
        Method::Full => client::during(&cell, program, || {
            criu_restore(&cell, &scene.checkpoint.dir, folder, &[])?;
            Ok(None)
        })?,
    };
    if check {
        scene.checkpoint.check(&cell)?;
    }
    let summary = timed.result.as_deref().map(Summary::find).transpose()?;
    Ok(Restored { replies: timed.replies, whole: Some(timed.whole), summary })
}

/// The program never gets whole: it ends, and the agent with it.
fn faults_only(scene: &Scene, url: &str, folder: &Path, cell: Cell) -> Result<Restored> {
    let slim = &scene.split()?.slim;
    let mut pager = Pager::start(url, slim, folder, &["--json", "--working-set", "none", "--complete", "never"])?;
    let restore = || criu_restore(&cell, slim, folder, &["--lazy-pages"]);
    let timed = client::during(&cell, scene.checkpoint.program(), restore)?;
    cell.end();
    pager.wait()?;
    let summary = Summary::find(&pager.daemon().log())?;
    Ok(Restored { replies: timed.replies, whole: None, summary: Some(summary) })
}

/// With a working set and over [`DISTANCE`]: how much later than CRIU's restore from local files the first reply may come, and how much sooner than
/// over CRIU's own daemons it shall.
fn with_set(method: Method, name: &str) -> Option<(f64, f64)> {
    let sooner = if matches!(name, "node" | "gunicorn") { 25.0 } else { 5.0 };
    match method {
        Method::LazyPagesSet => Some((1.25, sooner)),
        Method::RestoreSet => Some((2.0, sooner)),
        _ => None,
    }
}

fn outcome(name: &str, times: &[Times; METHODS.len()], speed: Option<Speed>) -> Outcome {
    let of = |method| METHODS.iter().position(|other| *other == method).map(|which| &times[which]);
    let mut outcome = Outcome::default();
    let Some(criu) = of(Method::Criu) else { return outcome };
    for (method, times) in METHODS.into_iter().zip(times) {
        let cell = |ours: &Samples, theirs: &Samples| {
            let times = ours.with_spread("ms", 0);
            match ours.runs() == 0 || method == Method::Criu {
                true => times,
                false => format!("{times}, {:.2}×", ours.median() / theirs.median()),
            }
        };
        outcome.rows.push(vec![
            name.to_owned(),
            method.name().to_owned(),
            cell(&times.first, &criu.first),
            cell(&times.fifty, &criu.fifty),
            cell(&times.whole, &criu.whole),
            times.wire.with_spread("MB", 1),
            times.faults.with_spread("faults", 0).replace(" faults", ""),
        ]);
        if let (Some(_), Some(full), Some((limit, sooner))) = (speed, of(Method::Full), with_set(method, name)) {
            let what = |than: &str| format!("{name}, {}, 10 ms: first reply against {than}", method.name());
            let ours = || times.first.clone();
            let eager = full.first.clone();
            outcome.figures.push(Figure::no_later(what("CRIU from local files"), limit, "ms", ours(), eager));
            outcome.figures.push(Figure::sooner(what("CRIU's own"), sooner, "ms", ours(), criu.first.clone()));
        }
        if matches!(method, Method::LazyPages | Method::Restore) {
            let beside = |what: &str, sooner: f64, ours: &Samples, theirs: &Samples| {
                let (ours, theirs) = (ours.clone(), theirs.clone());
                match speed {
                    None => Figure::beside(format!("{name}, {}: {what}", method.name()), "ms", ours, theirs),
                    Some(_) => {
                        Figure::sooner(format!("{name}, {}, 10 ms: {what}", method.name()), sooner, "ms", ours, theirs)
                    }
                }
            };
            outcome.figures.push(beside("first reply", FIRST_SOONER, &times.first, &criu.first));
            outcome.figures.push(beside("whole", WHOLE_SOONER, &times.whole, &criu.whole));
        }
    }
    outcome
}
