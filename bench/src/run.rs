//! The order of things: one checkpoint after another, all that is measured of it while it is there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use pageferry_tests::{Checkpoint, Split, Workdir, split as make_split, tools};

use crate::{
    cli::{Cli, Measurement},
    guard::Guard,
    link::Link,
    machine::Machine,
    memory, plot,
    quiet::Quiet,
    report::Report,
    restore, serve, size, split,
    subject::{self, Subject},
    synthetic, upload,
};

/// Runs of each measurement; of large checkpoints, and with `--quick`.
const RUNS: usize = 5;
const FEWER_RUNS: usize = 3;

/// What all measurements share.
pub(crate) struct Bench {
    quick: bool,
    links: Vec<Link>,
    pub(crate) quiet: Quiet,
}

impl Bench {
    /// How often something is measured of a subject.
    pub(crate) fn runs(&self, subject: &Subject) -> usize {
        if self.quick || subject.large { FEWER_RUNS } else { RUNS }
    }
}

/// A checkpoint that can be measured.
pub(crate) struct Scene<'a> {
    pub(crate) subject: &'a Subject,
    pub(crate) work: Workdir,
    pub(crate) checkpoint: Checkpoint,
    split: Option<Split>,
}

impl Scene<'_> {
    /// Its store and slim dump, as `split` makes them by default.
    pub(crate) fn split(&self) -> Result<&Split> {
        self.split.as_ref().context("it was not split")
    }

    /// Progress.
    pub(crate) fn say(&self, text: &str) {
        say(self.subject, text);
    }
}

fn say(subject: &Subject, text: &str) {
    eprintln!("{:<12} {text}", subject.name);
}

/// Measures all that is asked for.
pub(crate) fn main(cli: &Cli) -> Result<()> {
    let wanted = |subject: &Subject| -> Vec<_> {
        subject.measurements.iter().copied().filter(|measurement| cli.wants(subject, *measurement)).collect()
    };
    ensure!(subject::all().iter().any(|subject| !wanted(subject).is_empty()), "with these options nothing is measured");
    for binary in ["pageferry-strip", "pageferry-server", "pageferry-agent"] {
        tools::binary(binary)?;
    }
    let scratch = tools::target()?.join("tmp").join(format!("bench-{}", std::process::id()));
    let guard = Guard::new(&scratch)?;
    let machine = Machine::look()?;
    let bench = Bench { quick: cli.quick, links: cli.links(), quiet: Quiet::new(cli.quick) };
    let mut report = Report::default();
    for subject in subject::all() {
        let wanted = wanted(&subject);
        if wanted.is_empty() {
            continue;
        }
        let folder = scratch.join(subject.name);
        let needs_split = wanted.iter().any(|measurement| *measurement != Measurement::Split);
        match prepare(&subject, &folder, needs_split) {
            Ok(scene) => {
                for measurement in wanted {
                    report.add(measurement, subject.name, measure(&bench, &scene, measurement));
                }
            }
            Err(error) => {
                let error = format!("{error:#}");
                wanted
                    .into_iter()
                    .for_each(|wanted| report.add(wanted, subject.name, Err(anyhow::anyhow!(error.clone()))));
            }
        }
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
    }
    drop(guard);
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("RESULTS.md");
    let out = cli.out.clone().or_else(|| (cli.is_complete() && report.failures().1 == 0).then(default));
    let plots = match &out {
        Some(out) => plot::draw(&report.bars(), &out.with_extension("plots"))?,
        None => Vec::new(),
    };
    let text = report.markdown(&machine, cli.is_complete(), bench.quiet.runs(), &plots);
    if cli.json {
        println!("{:#}", report.json(&machine));
    } else {
        println!("{text}");
    }
    let (all, failed) = report.failures();
    if let Some(out) = out {
        write(&out, &text)?;
    }
    ensure!(failed == 0, "{failed} of {all} figures could not be measured");
    Ok(())
}

fn write(out: &PathBuf, text: &str) -> Result<()> {
    fs::write(out, text).with_context(|| out.display().to_string())?;
    eprintln!("written to {}", out.display());
    Ok(())
}

/// Makes the checkpoint, and its store if one is needed.
pub(crate) fn prepare<'a>(subject: &'a Subject, folder: &Path, needs_split: bool) -> Result<Scene<'a>> {
    let work = Workdir::at(folder)?;
    let program = (subject.program)();
    say(subject, &format!("checkpoint of {}", program.describe()));
    let checkpoint = Checkpoint::take_boxed(&work, program)?;
    let split = needs_split.then(|| make_split(&work, &checkpoint, &[])).transpose()?;
    Ok(Scene { subject, work, checkpoint, split })
}

fn measure(bench: &Bench, scene: &Scene, measurement: Measurement) -> Result<crate::report::Outcome> {
    match measurement {
        Measurement::Split => split::measure(bench, scene),
        Measurement::Upload => upload::measure(bench, scene),
        Measurement::Peaks => memory::measure(bench, scene),
        Measurement::Size => size::stored(scene),
        Measurement::Index => size::index(scene),
        Measurement::Restore => restore::measure(bench, scene, &restore::links(&bench.links, true)),
        Measurement::Distance => restore::measure(bench, scene, &restore::links(&bench.links, false)),
        Measurement::Serve => serve::measure(bench, scene),
        Measurement::Large => synthetic::large(bench, scene),
        Measurement::Growth => synthetic::growth(bench, scene),
        Measurement::Fault => synthetic::fault(bench, scene),
    }
}
