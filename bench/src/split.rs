//! Speed and memory of `pageferry-strip split`.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};
use pageferry_tests::tools;

use crate::{
    figures::{self, Figure},
    measured,
    quiet::Watch,
    report::Outcome,
    run::{Bench, Scene},
    size::dumped_pages,
    stats::Samples,
};

/// Splits a checkpoint several times at the default level, each time into a new store.
pub(crate) fn measure(bench: &Bench, scene: &Scene) -> Result<Outcome> {
    let dumped = dumped_pages(&scene.checkpoint.dir)?;
    let [mut rate, mut cpu, mut memory, mut others]: [Samples; 4] = Default::default();
    for run in 0..bench.runs(scene.subject) {
        let out = scene.work.folder(&format!("split-{run}"))?;
        let mut strip = Command::new(tools::binary("pageferry-strip")?);
        strip.arg("split").arg(&scene.checkpoint.dir).arg("--store").arg(out.join("store"));
        strip.arg("--slim").arg(out.join("slim"));
        read_all(&scene.checkpoint.dir)?;
        bench.quiet.wait()?;
        let watch = Watch::start()?;
        let usage = measured::run(&strip, &out.join("split.log"))?;
        others.push(watch.others(usage.cpu, usage.wall)? * 100.0);
        fs::remove_dir_all(&out)?;
        rate.push(dumped as f64 / 1e6 / usage.wall);
        cpu.push(usage.cpu / (dumped as f64 / 1e9));
        memory.push(usage.peak_memory / figures::MIB);
        scene.say(&format!(
            "split {}: {:.2} s, {:.0} MB/s, {:.2} s of processor time, {:.0} MiB",
            run + 1,
            usage.wall,
            dumped as f64 / 1e6 / usage.wall,
            usage.cpu,
            usage.peak_memory / figures::MIB
        ));
    }
    let what = format!("split of {:.2} GB ({})", dumped as f64 / 1e9, scene.subject.name);
    let row = [
        scene.subject.name.to_owned(),
        format!("{:.1}", dumped as f64 / 1e6),
        rate.runs().to_string(),
        rate.with_spread("MB/s", 0),
        cpu.with_spread("s", 2),
        memory.with_spread("MiB", 1),
        others.with_spread("%", 0),
    ];
    let figures = vec![
        Figure::at_least(what.clone(), figures::SPLIT_MB_PER_SECOND, "MB/s", rate),
        Figure::below(format!("{what}, peak memory"), figures::SPLIT_MIB, "MiB", memory),
    ];
    Ok(Outcome { figures, rows: vec![row.to_vec()], ..Outcome::default() })
}

/// Brings a folder's files into the page cache.
pub(crate) fn read_all(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            read_all(&path)?;
        } else if path.is_file() {
            std::io::copy(&mut fs::File::open(&path)?, &mut std::io::sink())?;
        }
    }
    Ok(())
}
