//! `pageferry-agent doctor`: what works here, and what to do where something does not.
//!
//! ```text
//! kernel    its version, userfaultfd          system   capabilities, pids, limits, memory
//! criu      the program, its own checks       store    everything that a restore from it needs
//! cache     what a node cache needs
//! ```
//! Each check is tried rather than looked up, where trying changes nothing. None is made twice: a doctor tells how it is now.

mod cache;
mod criu;
mod kernel;
mod store;
mod system;

use crate::{cli::DoctorArgs, lazy_pages::runtime};
use anyhow::{Result, ensure};
use serde::Serialize;
use std::{
    fmt,
    io::{self, Write},
};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// A restore works, but worse than it could, or not in every case.
    Warn,
    /// A restore fails.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Its name: the same on every machine.
    pub check: &'static str,
    /// How it came out.
    pub outcome: Outcome,
    /// What was found.
    pub detail: String,
    /// What to do.
    pub advice: Option<String>,
}

/// Checks, in the order in which they were made.
struct Report {
    checks: Vec<Check>,
    /// Whether each is printed as soon as it is made.
    prints: bool,
    /// Whether only what is not as it should be is.
    quiet: bool,
}

/// Runs the command: an error if any check failed.
pub fn run(args: &DoctorArgs) -> Result<()> {
    let mut report = Report { checks: Vec::new(), prints: !args.json, quiet: args.quiet };
    runtime()?.block_on(async {
        kernel::check(&mut report);
        system::check(&mut report);
        criu::check(&mut report, &args.criu).await;
        cache::check(&mut report, &args.cache).await;
        if let Some(location) = &args.store {
            store::check(&mut report, location, args).await;
        }
    });
    if args.json {
        let mut out = io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, &report.checks)?;
        writeln!(out)?;
    }
    let failed: Vec<_> = report.checks.iter().filter(|c| c.outcome == Outcome::Fail).map(|c| c.check).collect();
    ensure!(failed.is_empty(), "a restore will not work here: {}", failed.join(", "));
    Ok(())
}

impl Report {
    fn ok(&mut self, check: &'static str, detail: impl Into<String>) {
        self.add(check, Outcome::Ok, detail, None);
    }

    fn warn(&mut self, check: &'static str, detail: impl Into<String>, advice: impl Into<String>) {
        self.add(check, Outcome::Warn, detail, Some(advice.into()));
    }

    fn fail(&mut self, check: &'static str, detail: impl Into<String>, advice: impl Into<String>) {
        self.add(check, Outcome::Fail, detail, Some(advice.into()));
    }

    fn add(&mut self, check: &'static str, outcome: Outcome, detail: impl Into<String>, advice: Option<String>) {
        let check = Check { check, outcome, detail: detail.into(), advice };
        if self.prints && !(self.quiet && outcome == Outcome::Ok) {
            // Nobody need be there to read it: the exit code tells as well.
            let _ = writeln!(io::stdout(), "{check}");
        }
        self.checks.push(check);
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.outcome {
            Outcome::Ok => "ok",
            Outcome::Warn => "warn",
            Outcome::Fail => "FAIL",
        };
        // What programs say may have several lines.
        let indented = |text: &str| text.trim_end().replace('\n', "\n                           ");
        write!(f, "{outcome:<5} {:<20} {}", self.check, indented(&self.detail))?;
        match &self.advice {
            Some(advice) => write!(f, "\n                           -> {}", indented(advice)),
            None => Ok(()),
        }
    }
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    let mib = bytes as f64 / (1 << 20) as f64;
    if mib < 1024.0 { format!("{mib:.1} MiB") } else { format!("{:.1} GiB", mib / 1024.0) }
}
