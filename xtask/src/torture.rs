//! `cargo xtask torture`: the trials, as often as one likes. CI makes each a few times, as part of `cargo xtask test`.
//!
//! A trial is a test that prints lines beginning with `trial:` and reads how often it is to be made from `PAGEFERRY_TRIAL_COUNT`, with what
//! luck from `PAGEFERRY_TRIAL_SEED`. This runs them one after the other, and prints what they said as one table.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    time::Instant,
};

use anyhow::{Context, Result, ensure};

use crate::{
    criu, paths,
    run::{self, command},
    setup,
};

/// What is run: a word for `--only`, the package and its test file, one test of it or all, and how often in a full run.
struct Trial {
    name: &'static str,
    package: &'static str,
    file: &'static str,
    test: &'static str,
    count: u64,
    environment: &'static [(&'static str, &'static str)],
}

const fn trial(name: &'static str, file: &'static str, test: &'static str, count: u64) -> Trial {
    Trial { name, package: "pageferry-tests", file, test, count, environment: &[] }
}

const TRIALS: [Trial; 15] = [
    // Of each of three programs.
    trial("killed", "killed", "agent_and_guard_killed_at_random_moments", 67),
    trial("killed-restore", "killed", "restore_in_one_command_killed_at_random_moments", 50),
    Trial {
        package: "pageferry-agent",
        // Forks, moves, unmaps and discards from several threads; agent and guard are killed all the while.
        environment: &[("PAGEFERRY_TORTURE_SECONDS", "600"), ("PAGEFERRY_TORTURE_KILL", "1")],
        ..trial("layout", "torture", "", 1)
    },
    Trial {
        environment: &[("PAGEFERRY_OUTAGES", "1,10,60")],
        ..trial("server-killed", "server_load", "killed_in_the_middle_and_back_later", 2)
    },
    trial("hostile-proxy", "hostile", "nine_answers_of_ten_are_spoiled", 10),
    trial("hostile-restore", "hostile", "one_command_from_a_host_that_lies", 10),
    trial("mirrors", "hostile", "one_of_two_mirrors_is_of_no_use", 5),
    trial("behind-a-cache", "cdn", "", 100),
    trial("huge-holes", "endings", "three_gib_are_unmapped_and_discarded", 10),
    trial("ten-at-once", "server_load", "ten_restores_at_once_cost_the_server_what_one_does", 5),
    Trial { package: "pageferry-strip", ..trial("tools-interrupted", "trial", "", 100) },
    trial("restore-interrupted", "interrupted", "", 50),
    trial("endings", "endings", "exits_is_killed_executes_or_is_stopped", 25),
    trial("agent-64-mib", "endings", "the_agent_within_64_mib", 1),
    trial("server-64-mib", "server_load", "within_64_mib_page_cache_and_all", 3),
];

/// `--only NAME`, `--count N` for every trial, `--seed S`.
pub(crate) fn main(args: &[String]) -> Result<()> {
    let (choice, rest) = criu::choice_from(args)?;
    let (mut only, mut count, mut seed) = (None, None, None);
    let mut words = rest.iter();
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--only" => only = Some(value.clone()),
            "--count" => count = Some(value.parse::<u64>().context("--count")?),
            "--seed" => seed = Some(value.parse::<u64>().context("--seed")?),
            other => anyhow::bail!("torture does not know {other}"),
        }
    }
    let names = TRIALS.map(|trial| trial.name);
    ensure!(
        only.as_ref().is_none_or(|only| names.contains(&only.as_str())),
        "no such trial; there are {}",
        names.join(", ")
    );
    setup::everything(choice)?;
    run::run(command("cargo").args(["build", "--workspace", "--all-targets", "--quiet"]).current_dir(paths::repo()))?;
    let mut table = Vec::new();
    for trial in TRIALS.iter().filter(|trial| only.as_ref().is_none_or(|only| only == trial.name)) {
        let start = Instant::now();
        eprintln!("{}", trial.name);
        let (holds, said) = trial.run(count.unwrap_or(trial.count), seed)?;
        table.push((trial.name, holds, said, start.elapsed()));
    }
    println!("\n| trial | holds | time | what was seen |\n| --- | --- | --- | --- |");
    for (name, holds, said, time) in &table {
        let holds = if *holds { "yes" } else { "NO" };
        println!("| {name} | {holds} | {} | {} |", run::seconds(*time), said.join("; "));
    }
    let failed: Vec<_> = table.iter().filter(|row| !row.1).map(|row| row.0).collect();
    ensure!(failed.is_empty(), "{} did not hold", failed.join(", "));
    Ok(())
}

impl Trial {
    fn run(&self, count: u64, seed: Option<u64>) -> Result<(bool, Vec<String>)> {
        let mut cargo = command("cargo");
        cargo.args(["test", "--quiet", "-p", self.package, "--test", self.file, "--"]).current_dir(paths::repo());
        if !self.test.is_empty() {
            cargo.args(["--exact", self.test]);
        }
        cargo.args(["--nocapture", "--test-threads", "1"]).env("PAGEFERRY_TRIAL_COUNT", count.to_string());
        cargo.envs(self.environment.iter().copied()).env("RUST_LIB_BACKTRACE", "0");
        if let Some(seed) = seed {
            cargo.env("PAGEFERRY_TRIAL_SEED", seed.to_string()).env("PAGEFERRY_TORTURE_SEED", seed.to_string());
        }
        let mut child = cargo.stdout(Stdio::piped()).spawn().context("starting cargo")?;
        let mut said = Vec::new();
        for line in BufReader::new(child.stdout.take().context("stdout is piped")?).lines() {
            let line = line?;
            eprintln!("    {line}");
            // A progress dot may come before.
            if let Some((_, what)) = line.split_once("trial: ") {
                said.push(what.replace(" | ", ", "));
            }
        }
        let holds = child.wait()?.success();
        // A test that was renamed would pass, having done nothing.
        if said.is_empty() {
            said.push("it reported nothing".to_owned());
            return Ok((false, said));
        }
        Ok((holds, said))
    }
}
