//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::{
    link::Link,
    subject::{self, Subject},
};

/// Measures Pageferry on this machine, beside CRIU's own remote lazy restore.
#[derive(Parser)]
#[command(
    name = "cargo xtask bench",
    max_term_width = 100,
    after_help = "Examples:\n  \
        cargo xtask bench                          # everything; writes bench/RESULTS.md\n  \
        cargo xtask bench --quick\n  \
        cargo xtask bench --only restore --only node"
)]
pub(crate) struct Cli {
    /// Fewer runs, and nothing of 3 GB.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Only this measurement or this checkpoint: split, size, index, memory, restore, distance, serve,
    /// large, growth, fault; redis, node, gunicorn, java,
    /// redis-1gb, gunicorn-1gb, redis-3gb, twins, memory-4gb. Can be given several times.
    #[arg(long, value_name = "NAME", value_parser = known)]
    only: Vec<String>,
    /// Restore over this link: loopback, or a round trip and a rate, such as 10ms/1gbit. Can be given several times
    /// [default: loopback, 1ms/1gbit, 10ms/1gbit, 50ms/200mbit].
    #[arg(long, value_name = "LINK", value_parser = Link::parse)]
    link: Vec<Link>,
    /// Restore over every distance (0, 1, 10, 50 ms) at every rate (unlimited, 1 Gbit/s, 200 Mbit/s).
    #[arg(long, conflicts_with = "link")]
    all_links: bool,
    /// Write the tables here too [default: bench/RESULTS.md, for a run of everything].
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Print every sample as JSON on standard output instead of the tables.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What can be measured of a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Debug)]
pub(crate) enum Measurement {
    /// Speed and memory of `pageferry-strip split`.
    Split,
    /// `split` to an object store over a link.
    Upload,
    /// Memory of agent and server during a restore.
    #[value(name = "memory")]
    Peaks,
    /// Stored bytes against dumped bytes.
    Size,
    /// Size of the index.
    Index,
    /// Times of restores, beside CRIU's own.
    Restore,
    /// The same with a network in between.
    Distance,
    /// Requests per second of the server, beside nginx.
    Serve,
    /// A process of 4 GB.
    Large,
    /// First replies as the memory grows.
    Growth,
    /// Single faults.
    Fault,
}

impl Cli {
    /// Whether this is asked for.
    pub(crate) fn wants(&self, subject: &Subject, measurement: Measurement) -> bool {
        let is_measurement = |name: &&String| Measurement::from_str(name, false).is_ok();
        let (measurements, subjects): (Vec<_>, Vec<_>) = self.only.iter().partition(is_measurement);
        let listed = |names: &[&String], name: &str| names.is_empty() || names.iter().any(|listed| *listed == name);
        let word = measurement.to_possible_value();
        subject.measurements.contains(&measurement)
            && !(self.quick && subject.large)
            && listed(&subjects, subject.name)
            && word.is_some_and(|word| listed(&measurements, word.get_name()))
    }

    /// The links to restore over.
    pub(crate) fn links(&self) -> Vec<Link> {
        if self.all_links { Link::all() } else { self.link.clone() }
    }

    /// Whether all that can be measured is, as often as it should be.
    pub(crate) fn is_complete(&self) -> bool {
        !self.quick && self.only.is_empty() && self.link.is_empty()
    }
}

fn known(name: &str) -> Result<String, String> {
    let known = Measurement::from_str(name, false).is_ok() || subject::all().iter().any(|subject| subject.name == name);
    if known { Ok(name.to_owned()) } else { Err("neither a measurement nor a checkpoint".to_owned()) }
}
