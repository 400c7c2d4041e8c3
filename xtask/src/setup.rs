//! `cargo xtask setup`: everything that builds, tests, the demo and measurements need.

use anyhow::{Result, ensure};

use crate::{criu, programs, run::step};

pub(crate) fn main(args: &[String]) -> Result<()> {
    let (choice, rest) = criu::choice_from(args)?;
    ensure!(rest.is_empty(), "setup does not know {rest:?}");
    everything(choice)
}

/// Idempotent, and quick where all is there.
pub(crate) fn everything(choice: criu::Choice) -> Result<()> {
    step("set-up", || {
        programs::setup_toolchain()?;
        programs::setup_libclang()?;
        criu::setup(choice)?;
        programs::setup()
    })
}
