//! What is measured of processes that are nothing but memory: large ones, growing ones, and single faults.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use pageferry_tests::{Cell, Pager, criu_restore, programs::Memory};

use crate::{
    figures::Figure,
    link::{LOOPBACK, REGION},
    method::Method,
    report::Outcome,
    restore,
    run::{Bench, Scene, prepare},
    size::dumped_pages,
    stats::Samples,
    subject::{Subject, TWINS, small_memory},
};

/// Memory of the agent while 4 GB are restored, in MiB.
const AGENT_MIB: f64 = 96.0;
/// Its processor time per byte, against `criu lazy-pages`.
const CPU: f64 = 2.0;
/// From the touch of a page to the next instruction, the frame being in the agent's memory: half of all, in microseconds.
const FAULT_MICROS: f64 = 30.0;
/// How much later the first reply of a program may come that is ten times as large.
const GROWTH: f64 = 1.2;
/// Frames that are touched by one process, then by its twin: fewer than the agent keeps (256), whatever it reads ahead.
const TOUCHED: usize = 150;
const FRAME_PAGES: usize = 16;

/// A process of 4 GB: our agent beside `criu lazy-pages` on local files. (CRIU's page server loads the whole image into pipes, and ends near
/// 2 GiB: criu#1710.)
pub(crate) fn large(bench: &Bench, scene: &Scene) -> Result<Outcome> {
    const METHODS: &[Method] =
        &[Method::LazyPages, Method::LazyPagesSet, Method::Local, Method::CriuLocal, Method::Full];
    let (mut outcome, mut runs) = restore::compare(bench, scene, &[(LOOPBACK, METHODS)])?;
    let runs = runs.pop().context("one link was measured")?;
    let of = |method| runs.get(&method).context("it was measured");
    let gigabytes = dumped_pages(&scene.checkpoint.dir)? as f64 / 1e9;
    let what = format!("{gigabytes:.2} GB ({})", scene.subject.name);
    let ours = of(Method::LazyPages)?;
    let title = format!("agent, peak memory while {what} are restored");
    outcome.figures.push(Figure::below(title, AGENT_MIB, "MiB", ours.memory.clone()));
    let per_gb = |samples: &Samples| samples.map(|seconds| seconds / gigabytes);
    let (ours, theirs) = (per_gb(&ours.cpu), per_gb(&of(Method::CriuLocal)?.cpu));
    let title = format!("agent, processor time per GB installed of {what}, against `criu lazy-pages`, local");
    outcome.figures.push(Figure::no_later(title, CPU, "s", ours, theirs));
    Ok(outcome)
}

/// First replies, with a working set and over [`REGION`], of a program and of one a tenth as large.
pub(crate) fn growth(bench: &Bench, scene: &Scene) -> Result<Outcome> {
    const METHODS: &[Method] = &[Method::LazyPagesSet, Method::RestoreSet];
    let small = Subject { large: scene.subject.large, ..small_memory() };
    let folder = scene.work.path().join("small");
    let tenth = prepare(&small, &folder, true)?;
    let (mut outcome, mut runs_of_tenth) = restore::compare(bench, &tenth, &[(REGION, METHODS)])?;
    let (whole, mut runs) = restore::compare(bench, scene, &[(REGION, METHODS)])?;
    outcome.add(whole);
    let (runs_of_tenth, runs) = (runs_of_tenth.pop().unwrap_or_default(), runs.pop().unwrap_or_default());
    for method in METHODS {
        if let (Some(tenth), Some(runs)) = (runs_of_tenth.get(method), runs.get(method)) {
            let title = format!("{}, {}: first reply, against a tenth of the memory", method.name(), REGION.name());
            outcome.figures.push(Figure::no_later(title, GROWTH, "ms", runs.first.clone(), tenth.first.clone()));
        }
    }
    fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(outcome)
}

/// One process touches pages, each in another frame; then its twin touches the same, whose frames the agent has by now.
pub(crate) fn fault(bench: &Bench, scene: &Scene) -> Result<Outcome> {
    let (mut fetched, mut cached) = (Samples::default(), Samples::default());
    for run in 0..bench.runs(scene.subject) {
        bench.quiet.wait()?;
        let folder = scene.work.folder(&format!("fault-{run}"))?;
        let (first, second) = touch_both(scene, &folder)?;
        fetched.push(first * 1e6);
        cached.push(second * 1e6);
        scene.say(&format!("fault {}: {:.1} µs fetched, {:.1} µs cached", run + 1, first * 1e6, second * 1e6));
    }
    let title = |what: &str| format!("a page touched to the next instruction, median of {TOUCHED}: {what}");
    let figures = vec![
        Figure::at_most(title("its frame in the agent's memory"), FAULT_MICROS, "µs", cached),
        Figure::shown(title("its frame in a store on this machine"), "µs", fetched),
    ];
    Ok(Outcome { figures, ..Outcome::default() })
}

/// Medians, in seconds.
fn touch_both(scene: &Scene, folder: &Path) -> Result<(f64, f64)> {
    let (split, cell) = (scene.split()?, Cell::new()?);
    let options = ["--complete", "never", "--working-set", "none"];
    let pager = Pager::start(&split.store.display().to_string(), &split.slim, folder, &options)?;
    criu_restore(&cell, &split.slim, folder, &["--lazy-pages"])?;
    let touch = |twin| -> Result<f64> {
        // Once before, so that the interpreter's own pages are there.
        cell.inside(|| TWINS.touch(twin, TWINS.bytes / 8192, FRAME_PAGES, 2))?;
        let times = cell.inside(|| TWINS.touch(twin, 0, FRAME_PAGES, TOUCHED))?;
        ensure!(times.len() == TOUCHED, "{} times, not {TOUCHED}", times.len());
        Ok(times.into_iter().collect::<Samples>().median())
    };
    let medians = (touch(false)?, touch(true)?);
    cell.end();
    drop(pager);
    Ok(medians)
}

/// Both as one program.
pub(crate) fn twins() -> Box<dyn pageferry_tests::programs::Program> {
    Box::new(Memory { ..TWINS })
}
