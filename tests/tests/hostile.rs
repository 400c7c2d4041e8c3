//! Restores from hosts that lie, and from two of which one is of no use.
//!
//! [`Trial`] says how often, and with what luck.

mod common;

use std::time::{Duration, Instant};

use anyhow::Context;
use common::{Scene, scene};
use pageferry_tests::{
    Cell, Host, Pager, Result, SlowLink, Speed, Trial, agent_restore, criu_restore, free_port,
    hostile::{ALL_FAULTS, Fault, Hostile, WITHOUT_WHOLE},
};

#[test]
fn nine_answers_of_ten_are_spoiled() -> Result<()> {
    let trial = Trial::new("nine answers of ten spoiled", 1);
    let (mut restores, mut answers) = (0, [0; 2]);
    for (name, size, faults) in [("redis", 20_000, WITHOUT_WHOLE), ("threads", 1 << 20, ALL_FAULTS)] {
        let Scene { work, checkpoint, split } = scene(name, size)?;
        let host = Host::server(&work, &split.store)?;
        for seed in trial.seeds() {
            let proxy = Hostile::to(host.port(), 9, faults, seed)?;
            let url = format!("http://127.0.0.1:{}/store", proxy.port());
            let start = Instant::now();
            let cell = Cell::new()?;
            let pager = Pager::start(&url, &split.slim, &work.folder(&format!("pager-{seed}"))?, &[])?;
            criu_restore(&cell, &split.slim, pager.work(), &["--lazy-pages"])?;
            checkpoint.check(&cell).with_context(|| format!("seed {seed}"))?;
            pager.finish()?;
            checkpoint.check(&cell).with_context(|| format!("seed {seed}"))?;
            let (good, bad) = proxy.answers();
            println!("{name}: {good} good answers, {bad} spoiled, {:.1} s", start.elapsed().as_secs_f32());
            assert!(bad > good, "the proxy did not spoil enough to prove anything");
            restores += 1;
            answers = [answers[0] + good, answers[1] + bad];
        }
    }
    trial.report(&format!("{restores} restores, all right; {} good answers, {} spoiled", answers[0], answers[1]));
    Ok(())
}

/// With nothing but the address: the slim dump comes through the same host.
#[test]
fn one_command_from_a_host_that_lies() -> Result<()> {
    let Scene { work, checkpoint, split } = scene("redis", 5_000)?;
    let host = Host::nginx(&work, &split.store)?;
    let trial = Trial::new("one command from a host that lies", 1);
    for seed in trial.seeds() {
        let proxy = Hostile::to(host.port(), 9, ALL_FAULTS, seed)?;
        let cell = Cell::new()?;
        let url = format!("http://127.0.0.1:{}", proxy.port());
        agent_restore(&cell, &url, &work.path().join(format!("images-{seed}")), &[], &[])?;
        checkpoint.check(&cell).with_context(|| format!("seed {seed}"))?;
    }
    trial.report(&format!("{} restores, all right", trial.count));
    Ok(())
}

#[test]
fn one_of_two_mirrors_is_of_no_use() -> Result<()> {
    let Scene { work, checkpoint, split } = scene("redis", 20_000)?;
    let host = Host::server(&work, &split.store)?;
    // As far away as mirrors are; on loopback CRIU alone would be measured.
    let near = Speed { round_trip: Duration::from_millis(10), rate: Some(200e6) };
    let (one, other) = (SlowLink::to(host.port(), near)?, SlowLink::to(host.port(), near)?);
    let good = host.url_across(&one);
    // Pages come from packs; what is wrong with the rest would be found before CRIU starts.
    let corrupt = Hostile::to(other.port(), 10, &[Fault::FlippedBit], 1)?;
    let crawl = SlowLink::to(host.port(), Speed { round_trip: Duration::from_millis(50), rate: Some(4e6) })?;
    let gone = format!("http://127.0.0.1:{}/store", free_port()?);
    let corrupt_url = format!("http://127.0.0.1:{}/store", corrupt.port());
    let trial = Trial::new("two mirrors", 1);
    let (mut alone, mut ratios) = (None, Vec::new());
    for (name, mirrors) in [
        ("the good one alone", vec![good.clone()]),
        ("both fine", vec![host.url_across(&other), good.clone()]),
        ("gone", vec![gone, good.clone()]),
        ("corrupt", vec![corrupt_url, good.clone()]),
        ("slow", vec![host.url_across(&crawl), good.clone()]),
    ] {
        let mut times = Vec::new();
        for run in 0..trial.count.max(1) {
            let options: Vec<_> = mirrors[1..].iter().flat_map(|mirror| ["--store", mirror.as_str()]).collect();
            let cell = Cell::new()?;
            let start = Instant::now();
            let folder = work.folder(&format!("pager-{name}-{run}"))?;
            let pager = Pager::start(&mirrors[0], &split.slim, &folder, &options)?;
            criu_restore(&cell, &split.slim, pager.work(), &["--lazy-pages"])?;
            pager.finish()?;
            times.push(start.elapsed().as_secs_f64());
            checkpoint.check(&cell).context(name)?;
        }
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        let compared = median / *alone.get_or_insert(median);
        ratios.push(format!("{name} {median:.2} s ({compared:.2})"));
    }
    trial.report(&format!("all right; whole after (of the good one alone): {}", ratios.join(", ")));
    Ok(())
}
