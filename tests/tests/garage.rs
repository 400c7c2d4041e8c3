//! Stores in Garage, a distributed object store. It takes long to build, so these run only with `cargo xtask test --with-garage`.

mod common;

use std::{fs, path::Path, process::Command};

use anyhow::ensure;
use common::program;
use pageferry_tests::{Cell, Checkpoint, Garage, Pager, Result, Workdir, criu_restore, tools};

fn strip(garage: &Garage, arguments: &[&str]) -> Result<Command> {
    let mut strip = Command::new(tools::binary("pageferry-strip")?);
    strip.args(arguments);
    Ok(garage.let_in(strip))
}

fn fails(command: &mut Command, words: &str) -> Result<()> {
    let output = tools::output(command)?;
    let said = tools::text(&output.stderr);
    ensure!(!output.status.success() && said.contains(words), "{command:?}: {said}");
    Ok(())
}

#[test]
#[ignore = "run by `cargo xtask test --with-garage`"]
fn split_restored_replaced_copied_and_removed() -> Result<()> {
    let work = Workdir::new("garage")?;
    // Packs of several parts each.
    let checkpoint = Checkpoint::take_boxed(&work, program("redis", 60_000))?;
    let garage = Garage::start(&work)?;
    let (url, slim) = (garage.url("redis"), work.path().join("slim"));
    let split = |options: &[&str]| -> Result<Command> {
        let mut command = strip(&garage, &["split", "--store", &url, "-q"])?;
        command.arg(&checkpoint.dir).args(options);
        Ok(command)
    };
    tools::run(split(&[])?.arg("--slim").arg(&slim))?;
    let with_keys = |agent: &Command| {
        let mut command = Command::new(agent.get_program());
        command.args(agent.get_args());
        garage.let_in(command)
    };
    let folder = work.folder("pager")?;
    let pager = Pager::start_by(with_keys, &url, &slim, &folder, &[])?;
    let cell = Cell::new()?;
    criu_restore(&cell, &slim, &folder, &["--lazy-pages"])?;
    checkpoint.check(&cell)?;
    pager.finish()?;
    checkpoint.check(&cell)?;

    fails(&mut split(&[])?, "--replace")?;
    tools::run(&mut split(&["--replace", "--level", "9"])?)?;
    tools::run(&mut strip(&garage, &["verify", &url])?)?;
    let copy = work.path().join("copy");
    tools::run(strip(&garage, &["copy", &url])?.arg(&copy))?;
    assert!(files(&copy)? > 3);
    tools::run(&mut strip(&garage, &["rm", &url])?)?;
    let listed = tools::run(&mut strip(&garage, &["list", &garage.url("")])?)?;
    assert!(tools::text(&listed.stdout).contains("no page store"), "{}", tools::text(&listed.stdout));

    fails(&mut strip(&garage, &["verify", "s3://no-such-bucket/x"])?, "no such bucket")?;
    fails(strip(&garage, &["verify", &url])?.env("AWS_REGION", "us-east-1"), "it is garage; set AWS_REGION")?;
    fails(strip(&garage, &["verify", &url])?.env("AWS_SECRET_ACCESS_KEY", "guessed"), "credentials")
}

fn files(folder: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        count += if path.is_dir() { files(&path)? } else { 1 };
    }
    Ok(count)
}
