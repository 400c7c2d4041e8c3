//! `cargo xtask bench`: builds what is measured, optimised, and runs the measurements (`bench/`).

use anyhow::Result;

use crate::{
    criu, paths, programs,
    run::{command, run, step},
    setup,
};

/// In one build, so that all of them are built with the same features of what they share.
const PACKAGES: [&str; 4] = ["pageferry-strip", "pageferry-server", "pageferry-agent", "pageferry-bench"];

/// All arguments but `--criu` are the benchmark's own.
pub(crate) fn main(args: &[String]) -> Result<()> {
    let (choice, rest) = criu::choice_from(args)?;
    setup::everything(choice)?;
    step("programs to measure against", programs::setup_optimised)?;
    step("build (release)", || {
        let mut cargo = command("cargo");
        cargo.args(["build", "--release", "--bins"]).current_dir(paths::repo());
        run(cargo.args(PACKAGES.iter().flat_map(|package| ["-p", package])))
    })?;
    run(command(paths::target()?.join("release/pageferry-bench")).args(rest))
}
