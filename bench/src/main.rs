//! `cargo xtask bench`: measures what Pageferry promises, on this machine, and prints a table.
//!
//! Real programs are checkpointed by real CRIU, split, served and restored. Each [subject](subject::Subject) is one
//! checkpoint; what is measured of it is one module each: [`split`], [`size`], [`memory`], [`restore`],
//! [`synthetic`], [`serve`]. What is asked of the numbers stands in [`figures`], [`asked`] and [`synthetic`].
#![forbid(unsafe_code)]

mod asked;
mod cli;
mod client;
mod figures;
mod guard;
mod json;
mod link;
mod machine;
mod measured;
mod memory;
mod method;
mod plot;
mod quiet;
mod report;
mod restore;
mod run;
mod serve;
mod size;
mod split;
mod stats;
mod subject;
mod synthetic;
mod upload;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let mut args: Vec<_> = std::env::args_os().skip(1).collect();
    let result = match args.first() {
        // This program runs a part of itself as a process of its own: see there.
        Some(first) if first == measured::SWITCH => measured::child(args.split_off(1)),
        _ => run::main(&cli::Cli::parse()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pageferry-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
