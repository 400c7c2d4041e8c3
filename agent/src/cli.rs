//! The command line.

use crate::{
    engine::{Complete, OnMissing},
    recording::RecordTo,
};
use clap::{
    Args, Parser, Subcommand,
    builder::{OsStringValueParser, TypedValueParser},
};
use page_store::HttpVersion;
use std::{path::PathBuf, time::Duration};

pub use crate::{access::AccessArgs, cache::CacheArgs};

/// Restores CRIU checkpoints from a page store: processes run at once, their memory follows.
#[derive(Parser, Debug)]
#[command(name = "pageferry-agent", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Stand in for `criu lazy-pages`: take userfaultfds from CRIU and fill the memory of restored processes.
    #[command(
        name = "lazy-pages",
        after_help = "Example:\n  \
            pageferry-agent lazy-pages --store http://10.0.0.5:8080/store -D /var/lib/ckpt/slim &\n  \
            criu restore --lazy-pages -D /var/lib/ckpt/slim -d\n\n\
            Without --store, the images directory itself is the store: the same as `criu lazy-pages` on local images."
    )]
    LazyPages(LazyPagesArgs),
    /// Restore in one command: fetch the slim dump, run `criu restore --lazy-pages`, fill the memory.
    #[command(after_help = "Examples:\n  \
            pageferry-agent restore http://10.0.0.5:8080/store\n  \
            pageferry-agent restore https://cdn.example.com/ckpt/redis --complete never -- --shell-job --tcp-established\n  \
            pageferry-agent restore s3://checkpoints/redis --cache-dir /var/cache/pageferry --cache-size 20G")]
    Restore(RestoreArgs),
    /// Check whether a restore works here: kernel, userfaultfd, CRIU, limits; with a store, whether it can be had and restored; with
    /// --cache-dir, whether a cache can be there. Nothing is made or changed.
    #[command(after_help = "Examples:\n  \
            pageferry-agent doctor\n  \
            pageferry-agent doctor http://10.0.0.5:8080/store --json\n  \
            pageferry-agent doctor --cache-dir /var/cache/pageferry --cache-size 20G\n\n\
            Exit code 0 only if nothing failed; warnings are no failures.")]
    Doctor(DoctorArgs),
}

/// Options that both commands have.
#[derive(Args, Debug, Clone)]
pub struct PagerArgs {
    /// When to transfer memory that nothing has asked for yet.
    #[arg(long, value_enum, default_value = "now", value_name = "WHEN")]
    pub complete: Complete,
    /// Transfer what nothing has asked for no faster than this, in bytes per second; k, M and G are thousands, millions, billions.
    /// What the process waits for is not held up.
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub limit_rate: Option<u64>,
    /// Speak HTTP/2: one connection for demand, one for the transfer, instead of as many as there are requests at once.
    #[arg(long)]
    pub http2: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub access: AccessArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cache: CacheArgs,
    /// Folder for the lazy-pages socket and log files [default: the images directory].
    #[arg(short = 'W', long, value_name = "DIR")]
    pub work_dir: Option<PathBuf>,
    /// Write the log to this file (relative to the work directory).
    #[arg(short = 'o', long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// Record which memory the process needs first; meanwhile only what it touches is fetched. To a file, for `pageferry-strip working-set`; or
    /// to the address of a working set at a pageferry-server, http(s)://HOST:PORT/checkpoints/CHECKPOINT/working-sets/NAME: it is sent there with PUT
    /// when the restore has ended, and stays in a file in TMPDIR if the server does not take it.
    #[arg(long, value_name = "FILE|ADDRESS", value_parser = OsStringValueParser::new().try_map(RecordTo::parse))]
    pub record: Option<RecordTo>,
    /// A file with the token for the server of --record; it needs the scope working-sets there. Without this, a server with the scheme, host
    /// and port of a store gets the token for the store, and every other one gets none.
    #[arg(long, value_name = "FILE", requires = "record")]
    pub record_token_file: Option<PathBuf>,
    /// A recording ends when nothing was touched for so long; or when the agent gets SIGUSR1, the signal that the service is ready.
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    pub record_settle: Duration,
    /// The working set to fetch first, `none` for none [default: the one that was added last].
    #[arg(long, value_name = "NAME", conflicts_with = "record")]
    pub working_set: Option<String>,
    /// What to do about memory that cannot be had: wait for it, for ever; or, after --give-up-after, send SIGBUS to whoever touches it, or kill
    /// the restored processes. Never are zeros read in its place.
    #[arg(long, value_enum, default_value = "wait", value_name = "WHAT")]
    pub on_missing: OnMissing,
    /// How long a page that a process waits for may be missing before --on-missing applies; or what came for it was wrong, from every mirror
    /// and past every cache.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub give_up_after: Duration,
    /// Do without the second process that keeps the memory's descriptors open, and starts another agent if this one is killed: then the restored
    /// processes read zeros in place of what they lack.
    #[arg(long)]
    pub no_guard_process: bool,
    /// Serve /metrics (for Prometheus), /status and /healthz on this address and port, or on a socket given as unix:PATH.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics: Option<String>,
    /// More in the log: -v debug, -vv trace; CRIU's -v4 works too.
    #[arg(short, long, value_name = "LEVEL", action = clap::ArgAction::Append, num_args = 0..=1, default_missing_value = "+", require_equals = true)]
    pub verbosity: Vec<String>,
    /// Only warnings and errors.
    #[arg(short, long)]
    pub quiet: bool,
    /// How the log is written: for people, or one JSON object per line.
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// Print the summary as JSON on standard output.
    #[arg(long)]
    pub json: bool,
}

/// `pageferry-agent doctor`.
#[derive(Args, Debug, Clone)]
pub struct DoctorArgs {
    /// The page store to restore from: a path, http(s):// address or links:FILE; a raw checkpoint directory works too.
    pub store: Option<String>,
    /// The CRIU to check.
    #[arg(long, value_name = "PATH", default_value = "criu", env = "PAGEFERRY_CRIU")]
    pub criu: PathBuf,
    /// Speak HTTP/2 with the store.
    #[arg(long)]
    pub http2: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub access: AccessArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cache: CacheArgs,
    /// Print a JSON list of {check, outcome, detail, advice}.
    #[arg(long)]
    pub json: bool,
    /// A log of what is done, on standard error.
    #[arg(short, long)]
    pub verbose: bool,
    /// Print only what is not as it should be.
    #[arg(short, long)]
    pub quiet: bool,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// `pageferry-agent lazy-pages`.
#[derive(Args, Debug, Clone)]
pub struct LazyPagesArgs {
    /// The page store: a path, http(s):// address or links:FILE [default: the images directory, as a raw checkpoint]. Given several times: mirrors
    /// that hold the same; each request goes to the one that does best.
    #[arg(long, value_name = "STORE")]
    pub store: Vec<String>,
    /// The images that `criu restore` is given: a slim dump.
    #[arg(short = 'D', long, value_name = "DIR", default_value = ".")]
    pub images_dir: PathBuf,
    /// Write one zero byte to this descriptor when listening.
    #[arg(long, value_name = "FD")]
    pub status_fd: Option<i32>,
    /// Go to the background once listening.
    #[arg(short, long)]
    pub daemon: bool,
    /// Have systemd hold the memory's descriptors (its fd store), so that a restart of the service loses nothing: for a unit with
    /// Type=notify, NotifyAccess=all and FileDescriptorStoreMax=. SIGUSR2 then means: leave at once, with exit code 75;
    /// another start goes on (RestartForceExitStatus=75).
    #[arg(long, conflicts_with_all = ["daemon", "no_guard_process"])]
    pub fd_store: bool,
    /// With --daemon: write the pid here (relative to the work directory).
    #[arg(long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,
    /// CRIU's option; there is no configuration file, so it changes nothing.
    #[arg(long, hide = true)]
    pub no_default_config: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub pager: PagerArgs,
}

/// `pageferry-agent restore`.
#[derive(Args, Debug, Clone)]
pub struct RestoreArgs {
    /// The page store: a path, http(s):// address or links:FILE; a raw checkpoint directory works too.
    pub store: String,
    /// A mirror: another place that holds the same. Can be given several times; each request goes to the place that does best.
    #[arg(long = "store", value_name = "MIRROR")]
    pub mirrors: Vec<String>,
    /// Where to unpack the slim dump, and leave it [default: a temporary directory].
    #[arg(short = 'D', long, value_name = "DIR")]
    pub images_dir: Option<PathBuf>,
    /// The CRIU to run.
    #[arg(long, value_name = "PATH", default_value = "criu", env = "PAGEFERRY_CRIU")]
    pub criu: PathBuf,
    /// Stay until the restored process exits (CRIU runs without --restore-detached).
    #[arg(long)]
    pub stay: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub pager: PagerArgs,
    /// Options for `criu restore`.
    #[arg(last = true, value_name = "CRIU RESTORE OPTIONS")]
    pub criu_options: Vec<String>,
}

impl Cli {
    /// The options of a command that restores.
    pub fn pager(&self) -> Option<&PagerArgs> {
        match &self.command {
            Command::LazyPages(args) => Some(&args.pager),
            Command::Restore(args) => Some(&args.pager),
            Command::Doctor(_) => None,
        }
    }
}

impl RestoreArgs {
    /// Where the store is, and its mirrors.
    pub(crate) fn locations(&self) -> Vec<String> {
        std::iter::once(&self.store).chain(&self.mirrors).cloned().collect()
    }
}

impl PagerArgs {
    /// HTTP/1.1 unless asked otherwise. A demand fault is one small request, and there are seldom more than a few at once: with HTTP/1.1
    /// each has a connection to itself, so that no answer queues behind another; HTTP/2 has them share one, its window and its losses.
    /// Measured from 10 ms away over 1 Gbit/s, first reply and whole: redis 196 and 1062 ms, over HTTP/2 219 and 1157; node 315 and 324, over
    /// HTTP/2 303 and 307; Java 306 and 819, over HTTP/2 316 and 895 (`bench/RESULTS.md`).
    pub(crate) fn http_version(&self) -> HttpVersion {
        if self.http2 { HttpVersion::Http2 } else { HttpVersion::Http1 }
    }

    /// Whether standard error gets the log as JSON: then nothing else may be written there.
    pub fn is_json_on_stderr(&self) -> bool {
        self.log_format == LogFormat::Json && self.log_file.is_none()
    }

    /// Whether neither progress nor summary is wanted for people.
    pub(crate) fn is_silent(&self) -> bool {
        self.quiet || self.is_json_on_stderr()
    }

    /// The level for the log. CRIU's numbers: 0 and 1 errors, 2 warnings, 3 information, 4 debug.
    pub fn level(&self) -> anyhow::Result<tracing::Level> {
        use tracing::Level;
        if self.quiet {
            return Ok(Level::WARN);
        }
        let mut level = 3;
        for word in &self.verbosity {
            level = if word.chars().all(|c| c == '+' || c == 'v') {
                level + word.len()
            } else {
                word.parse().map_err(|_| anyhow::anyhow!("--verbosity takes a number from 0 to 5, not {word:?}"))?
            };
        }
        Ok(match level {
            0 | 1 => Level::ERROR,
            2 => Level::WARN,
            3 => Level::INFO,
            4 => Level::DEBUG,
            _ => Level::TRACE,
        })
    }
}

fn rate(text: &str) -> Result<u64, String> {
    bytes(text).filter(|rate| *rate > 0).ok_or_else(|| "give bytes per second, for instance 500k or 12M".into())
}

/// A number with a unit or without: k, M, G and T are thousands, millions, and so on.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = match text.find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let unit = match unit {
        "" => 1,
        "k" | "K" => 1_000,
        "m" | "M" => 1_000_000,
        "g" | "G" => 1_000_000_000,
        "t" | "T" => 1_000_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

/// Rewrites CRIU's `-v4` to what a GNU-style parser reads, `--verbosity=4`; stops at `--`.
pub fn normalise(args: impl Iterator<Item = std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    let mut own = true;
    args.map(|arg| {
        own &= arg != "--";
        match arg.to_str().and_then(|a| a.strip_prefix("-v")) {
            Some(number) if own && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => {
                format!("--verbosity={number}").into()
            }
            _ => arg,
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    fn level(args: &[&str]) -> Level {
        let args = ["pageferry-agent", "lazy-pages"].iter().chain(args).map(Into::into);
        match Cli::try_parse_from(normalise(args)).unwrap().command {
            Command::LazyPages(args) => args.pager.level().unwrap(),
            _ => unreachable!(),
        }
    }

    #[test]
    fn verbosity_is_given_as_criu_takes_it() {
        assert_eq!(level(&[]), Level::INFO);
        assert_eq!(level(&["-v"]), Level::DEBUG);
        assert_eq!(level(&["-vv"]), Level::TRACE);
        assert_eq!(level(&["-v4"]), Level::DEBUG);
        assert_eq!(level(&["--verbosity=4"]), Level::DEBUG);
        assert_eq!(level(&["-v2", "-D", "."]), Level::WARN);
        assert_eq!(level(&["-q"]), Level::WARN);
        assert_eq!(level(&["--no-default-config", "--verbosity=4", "--images-dir", "."]), Level::DEBUG);
    }

    #[test]
    fn rates_have_units() {
        assert_eq!(rate("12M"), Ok(12_000_000));
        assert_eq!(rate("500k"), Ok(500_000));
        assert_eq!(rate("1"), Ok(1));
        for bad in ["", "0", "-1", "1.5M", "12Mbit", "M", "99999999999999999999", "18446744073709551615G"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
