//! Memory of agent and server while a process of 1 GB is restored.

use std::{process::Command, thread, time::Duration};

use anyhow::{Result, ensure};
use pageferry_tests::{Cell, Daemon, Host, Pager, criu_restore, eventually, tools};

use crate::{
    figures::{self, Figure},
    report::Outcome,
    run::{Bench, Scene},
    size::dumped_pages,
    stats::Samples,
};

/// How often a running process is looked at. The kernel keeps the peak; only what happens after the last look is missed.
const LOOK: Duration = Duration::from_millis(2);

/// Both commands of the agent, while a client reads every byte of the process: faults and transfer at once.
pub(crate) fn measure(bench: &Bench, scene: &Scene) -> Result<Outcome> {
    let dumped = dumped_pages(&scene.checkpoint.dir)?;
    let host = Host::server(&scene.work, &scene.split()?.store)?;
    let (mut lazy_pages, mut restore) = (Samples::default(), Samples::default());
    for run in 0..bench.runs(scene.subject) {
        bench.quiet.wait()?;
        let both =
            [of_lazy_pages(scene, &host, run)?, of_restore(scene, &host, run)?].map(|bytes| bytes / figures::MIB);
        scene.say(&format!(
            "memory {}: agent lazy-pages {:.1} MiB, agent restore {:.1} MiB",
            run + 1,
            both[0],
            both[1]
        ));
        lazy_pages.push(both[0]);
        restore.push(both[1]);
    }
    let server = Samples::from_iter([host.peak_memory()? as f64 / figures::MIB]);
    let what = format!("while {:.2} GB are restored ({})", dumped as f64 / 1e9, scene.subject.name);
    let figures = vec![
        Figure::below(format!("agent, lazy-pages: peak memory {what}"), figures::AGENT_MIB, "MiB", lazy_pages),
        Figure::below(format!("agent, restore: peak memory {what}"), figures::AGENT_MIB, "MiB", restore),
        Figure::below(format!("server: peak memory {what}, all runs"), figures::SERVER_MIB, "MiB", server),
    ];
    Ok(Outcome { figures, ..Outcome::default() })
}

fn of_lazy_pages(scene: &Scene, host: &Host, run: usize) -> Result<f64> {
    let slim = &scene.split()?.slim;
    let cell = Cell::new()?;
    let mut pager = Pager::start(&host.url(), slim, &scene.work.folder(&format!("memory-{run}"))?, &[])?;
    criu_restore(&cell, slim, pager.work(), &["--lazy-pages"])?;
    peak(scene, &cell, pager.daemon())
}

fn of_restore(scene: &Scene, host: &Host, run: usize) -> Result<f64> {
    let folder = scene.work.folder(&format!("memory-restore-{run}"))?;
    let (images, criu) = (folder.join("images"), folder.join("criu"));
    let cell = Cell::new()?;
    cell.entering(&tools::criu()?, &criu)?;
    let mut agent = Command::new(tools::binary("pageferry-agent")?);
    agent.args(["restore", &host.url(), "--images-dir"]).arg(images).arg("--criu").arg(criu);
    agent.args(["--", "--shell-job"]);
    let mut agent = Daemon::start("pageferry-agent", &agent, &folder.join("agent.log"), None)?;
    peak(scene, &cell, &mut agent)
}

/// The largest amount of memory, in bytes, that an agent has held when it ends.
fn peak(scene: &Scene, cell: &Cell, agent: &mut Daemon) -> Result<f64> {
    let mut peak = 0;
    thread::scope(|scope| {
        let client = scope
            .spawn(|| eventually(|| scene.checkpoint.first_reply(cell)).and_then(|_| scene.checkpoint.check(cell)));
        while agent.is_running()? {
            peak = peak.max(agent.peak_memory().unwrap_or_default());
            thread::sleep(LOOK);
        }
        let status = agent.wait()?;
        ensure!(status.success(), "the agent ended with {status}\n{}", agent.log());
        client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    Ok(peak as f64)
}
