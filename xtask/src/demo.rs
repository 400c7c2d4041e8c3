//! `cargo xtask demo`: builds what the demo runs, then runs it (`tests/examples/demo.rs`).

use anyhow::Result;

use crate::{
    criu, paths,
    run::{command, run, step},
    setup,
};

pub(crate) fn main(args: &[String]) -> Result<()> {
    let (choice, rest) = criu::choice_from(args)?;
    setup::everything(choice)?;
    step("build", || {
        let mut cargo = command("cargo");
        run(cargo.args(["build", "--workspace", "--bins", "--examples"]).current_dir(paths::repo()))
    })?;
    run(command(paths::target()?.join("debug/examples/demo")).args(rest))
}
