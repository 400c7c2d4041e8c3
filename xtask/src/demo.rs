//! `cargo xtask demo`: builds what the demo runs, then runs it (`tests/examples/demo.rs`).

use anyhow::Result;

use crate::{
    criu, paths, programs,
    run::{command, run, step},
};

/// What the demo runs, in the profile that tests use too: a release build takes twice as long before there is anything to see.
const BUILD: [&str; 12] = [
    "build",
    "--package",
    "pageferry-strip",
    "--package",
    "pageferry-server",
    "--package",
    "pageferry-agent",
    "--package",
    "pageferry-tests",
    "--bins",
    "--example",
    "demo",
];

pub(crate) fn main(args: &[String]) -> Result<()> {
    let (choice, rest) = criu::choice_from(args)?;
    let program = rest.iter().find(|arg| !arg.starts_with('-')).map_or("redis", String::as_str);
    // Only what this takes: the first thing that a new user sees should not wait for a JVM.
    step("set-up", || {
        programs::setup_libclang()?;
        criu::setup(choice)?;
        programs::setup_for(program)
    })?;
    step("build", || run(command("cargo").args(BUILD).current_dir(paths::repo())))?;
    run(command(paths::target()?.join("debug/examples/demo")).args(&rest))
}
