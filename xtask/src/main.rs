//! The one entry for everything: `cargo xtask setup | test | torture | demo | bench`.
//!
//! xtask is built before anything else is there, so it stays on `std` and `anyhow`; all the rest it runs as commands.
#![forbid(unsafe_code)]

mod apt;
mod bench;
mod criu;
mod demo;
mod paths;
mod programs;
mod run;
mod setup;
mod test;
mod torture;

use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
cargo xtask setup [--criu system|trixie|sid]   find or fetch libclang, CRIU and the programs that tests checkpoint
cargo xtask test  [--quick] [--with-garage]    setup, then everything that CI checks (--quick: no end-to-end tests;
                                               --with-garage: in that object store, too, which builds for twenty minutes)
cargo xtask torture [--only NAME] [--count N] [--seed S]
                                               setup, then the trials, many times: kills, outages, hostile hosts (hours)
cargo xtask demo  [redis|node] [--json]        checkpoint a real program, restore it over HTTP, show what happens
cargo xtask bench [--quick] [--only NAME]      setup, then the measurements of bench/ (release build)

As root on Debian or Ubuntu nothing else needs to be typed. Programs are unpacked under target/, not installed,
wherever that is possible. PAGEFERRY_DEBIAN_MIRROR names a Debian mirror where the system's apt knows none.
";

fn main() -> ExitCode {
    match dispatch(std::env::args().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\n{} {error:#}", run::red("failed:"));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: Vec<String>) -> Result<()> {
    let (command, rest) = match args.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", &[][..]),
    };
    match command {
        "setup" => setup::main(rest),
        "test" => test::main(rest),
        "torture" => torture::main(rest),
        "demo" => demo::main(rest),
        "bench" => bench::main(rest),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        other => bail!("no such command: {other}\n\n{HELP}"),
    }
}
