//! The tables.

use std::{collections::BTreeMap, fmt::Write};

use serde_json::json;

use crate::{
    cli::Measurement,
    figures::{Figure, Verdict},
    machine::Machine,
};

/// One in so many runs may begin on a busy machine before the report says that it is not to be trusted.
const MANY_OF: u32 = 10;

/// What one measurement of one subject gives.
#[derive(Default)]
pub(crate) struct Outcome {
    /// For the first table.
    pub(crate) figures: Vec<Figure>,
    /// For the measurement's own table.
    pub(crate) rows: Vec<Vec<String>>,
    /// For plots.
    pub(crate) bars: Vec<Bar>,
}

/// A time that is drawn, in milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    /// In which plot.
    pub(crate) plot: String,
    /// With which others.
    pub(crate) group: String,
    pub(crate) label: &'static str,
    pub(crate) value: f64,
}

impl Outcome {
    /// Adds another's.
    pub(crate) fn add(&mut self, other: Self) {
        self.figures.extend(other.figures);
        self.rows.extend(other.rows);
        self.bars.extend(other.bars);
    }
}

/// All that was measured.
#[derive(Default)]
pub(crate) struct Report {
    outcomes: BTreeMap<Measurement, Outcome>,
}

impl Report {
    /// Adds what a measurement gave, or that it gave nothing.
    pub(crate) fn add(&mut self, measurement: Measurement, subject: &str, result: anyhow::Result<Outcome>) {
        let all = self.outcomes.entry(measurement).or_default();
        match result {
            Ok(outcome) => all.add(outcome),
            Err(error) => {
                eprintln!("{subject}: {measurement:?} failed: {error:#}");
                all.figures.push(Figure::failed(format!("{measurement:?} of {subject}"), &error));
            }
        }
    }

    /// How many figures there are, and how many of them could not be measured.
    pub(crate) fn failures(&self) -> (usize, usize) {
        let failed = |figure: &&Figure| figure.verdict == Verdict::Failed;
        (self.figures().count(), self.figures().filter(failed).count())
    }

    /// Every sample.
    pub(crate) fn json(&self, machine: &Machine) -> serde_json::Value {
        json!({ "machine": machine, "figures": self.figures().collect::<Vec<_>>() })
    }

    /// The document, `complete` or not, with `plots` (file and title) below `RESULTS.plots`. `runs` is how many runs there were, and how many began on a busy machine.
    pub(crate) fn markdown(
        &self,
        machine: &Machine,
        complete: bool,
        runs: (u32, u32),
        plots: &[(String, String)],
    ) -> String {
        let mut text = String::from("# Results\n\nWritten by `cargo xtask bench`");
        text += if complete { ".\n\n" } else { "; not all of it: see the options that it was given.\n\n" };
        let row = |figure: &Figure| {
            let Figure { name, asked, measured, verdict, .. } = figure;
            vec![name.clone(), asked.clone(), measured.clone(), verdict.words().to_owned()]
        };
        text += &table(&["figure", "asked", "measured: median (smallest–largest)", "held?"], self.figures().map(row));
        if runs.1 * MANY_OF > runs.0 {
            text += "\n**Not measured on a quiet machine: times and rates are worse than they would be there.**\n";
        }
        text += "\n## Machine\n\n";
        text += &machine.markdown();
        let _ = writeln!(
            text,
            "* {} measured runs, {} of which began while the machine had something else to do",
            runs.0, runs.1
        );
        for (file, title) in plots {
            let _ = write!(text, "\n![{title}](RESULTS.plots/{file})\n");
        }
        for (measurement, outcome) in &self.outcomes {
            let (title, words, header) = section(*measurement);
            let _ = write!(text, "\n## {title}\n\n{words}\n");
            if !outcome.rows.is_empty() {
                let _ = write!(text, "\n{}", table(header, outcome.rows.iter().cloned()));
            }
        }
        text
    }

    /// All that is drawn.
    pub(crate) fn bars(&self) -> Vec<Bar> {
        self.outcomes.values().flat_map(|outcome| outcome.bars.iter().cloned()).collect()
    }

    fn figures(&self) -> impl Iterator<Item = &Figure> {
        self.outcomes.values().flat_map(|outcome| &outcome.figures)
    }
}

const RESTORE: &str = "\
All methods restore the same checkpoint in turn, in another order each time, each into namespaces of its own; files are in the
page cache. The clock starts with `criu restore` (`agent restore URL`: with the agent, which has nothing but the address and
downloads the slim dump first); servers and pagers listen by then. CRIU's page server has also loaded the pages into its
pipes by then. From that moment a client asks every millisecond until it is answered, then goes on with 49 more requests,
one after another, each for another item. `restored` is when `criu restore` returned. The program is whole when its pager has
ended by itself (full dump: when `criu restore` has). In the first run of each method by which it gets whole, all of its
state is compared with what it was. `×` is the ratio to the median of CRIU's page-server and lazy-pages, which send every
page uncompressed. With \"set\": the store has a working set, recorded from one restore with the same fifty requests.
Stalls are from when the agent read a fault until it was answered, p50 / p99. `read ahead` is the share of what was read ahead
on a fault that other faults asked for, estimated from one frame of each extent that is held back. Processor time
and peak memory are those of the agent, or of `criu lazy-pages`. Medians; for times also the smallest and largest run.";
const DISTANCE: &str = "\
The same with a TCP proxy between store and agent (CRIU: between page server and `criu lazy-pages`) that delays what it is
given by half the round trip each way and lets through so many bits per second; a new connection costs one round trip. CRIU's slim
dump is at hand, and so is ours but for `agent restore URL`. From 50 ms on, CRIU's own daemons are timed once and until the
first reply only.";
const RESTORE_HEADER: [&str; 13] = [
    "link",
    "program",
    "method",
    "restored",
    "first reply",
    "50 replies",
    "whole",
    "from the store",
    "faults",
    "stalls",
    "read ahead",
    "processor",
    "memory",
];

/// Title, method, and the header of the measurement's own table.
fn section(measurement: Measurement) -> (&'static str, &'static str, &'static [&'static str]) {
    match measurement {
        Measurement::Split => (
            "Split",
            "`pageferry-strip split CHECKPOINT --store STORE --slim SLIM` at the default level, each run into a new\n\
             store on the same disk, from start to end of the process. The checkpoint is in the page cache; what earlier\n\
             runs wrote is on disk. A rate is bytes of `pages-*.img` per second. Memory is the process's peak as the\n\
             kernel counts it (`ru_maxrss`); the worst run has to hold, for rates the median. The last column is the share\n\
             of all processors' time that other processes, and the kernel itself, took meanwhile.",
            &["checkpoint", "pages, MB", "runs", "rate", "processor time per GB", "peak memory", "taken by others"],
        ),
        Measurement::Upload => (
            "Upload",
            "`pageferry-strip split` to a folder, and to an S3 server (s3s-fs, built for speed) of the same machine and cores through a TCP proxy that delays and paces; what the slower of \
             compressor and link allows is the larger of the time to the folder and all stored bytes at the link's rate.",
            &["checkpoint", "link", "stored MB", "to the bucket", "to a folder", "the slower of both"],
        ),
        Measurement::Peaks => (
            "Memory",
            "One `pageferry-server` for all runs. Both commands of the agent restore the process while a client reads\n\
             every byte of it, so that faults and transfer go on at once. Peaks are the kernel's (`VmHWM`); the worst\n\
             run has to hold.",
            &[],
        ),
        Measurement::Size => (
            "Size",
            "Everything in the store (packs, index, slim dump as tar.zst, `checkpoint.json`) against the bytes of\n\
             `pages-*.img`. For comparison, what `zstd -3` makes of the same files, each as a whole: that can be read from\n\
             the beginning only.",
            &[
                "checkpoint",
                "pages, MB",
                "packs, MB",
                "index, kB",
                "slim dump, kB",
                "store, MB",
                "ratio",
                "zstd -3, MB",
            ],
        ),
        Measurement::Index => ("Index", "All index objects of a store.", &[]),
        Measurement::Restore => ("Restore on loopback", RESTORE, &RESTORE_HEADER),
        Measurement::Distance => ("Restore over a link", DISTANCE, &RESTORE_HEADER),
        Measurement::Serve => (
            "Server",
            "`wrk -t1` for 4 s each, ours and nginx (two workers, sendfile, open_file_cache) in turn, on the loopback device of a\n\
             network namespace. Pages: `GET /pid/<pid>/page/<address>`, nginx has each as a file; chosen at random from so many\n\
             MiB. Those of 8 MiB fit the server's cache of decoded frames (16 MiB); of 64 MiB three in four have to be decoded and\n\
             verified anew, a frame of 64 KiB for a page of 4. Ranges: of the largest pack. The ratio is the median of those of\n\
             each pair of runs.",
            &["load", "pageferry-server", "nginx", "ratio"],
        ),
        Measurement::Large => (
            "A process of 4 GB",
            "As above, on loopback, beside `criu lazy-pages` on local images: CRIU's page server loads the whole image into\n\
             pipes, which fails near 2 GiB (criu#1710).",
            &RESTORE_HEADER,
        ),
        Measurement::Growth => (
            "Growth",
            "A process with 4 GB, and one with a tenth of it, each with a working set recorded from the same fifty requests.",
            &RESTORE_HEADER,
        ),
        Measurement::Fault => (
            "Faults",
            "A process and its forked twin, with the same 64 MiB, from a store in a folder of this machine. The first touches\n\
             one page in each of 150 frames, then the twin the same, each touch timed inside the process.",
            &[],
        ),
    }
}

/// A markdown table that can be read as text too.
fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let rows: Vec<_> = std::iter::once(header.iter().map(|cell| (*cell).to_owned()).collect()).chain(rows).collect();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<_> = (0..header.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
        if number == 0 {
            let lines: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
            let _ = writeln!(text, "| {} |", lines.join(" | "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["redis", "≥ 1"], ["x", "-"]].map(|row| row.map(str::to_owned).to_vec());
        let text = table(&["what", "a"], rows.into_iter());
        assert_eq!(text, "| what  | a   |\n| ----- | --- |\n| redis | ≥ 1 |\n| x     | -   |\n");
    }
}
