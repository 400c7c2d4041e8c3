//! What can be typed.

use clap::{ArgAction, Parser, Subcommand};
use page_store::write::DEFAULT_LEVEL;
use std::path::PathBuf;

/// Splits a CRIU checkpoint into a slim dump and a page store, and back.
#[derive(Debug, Parser)]
#[command(name = "pageferry-strip", version, max_term_width = 100)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) command: Command,
    /// Print the result as JSON
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Say more (twice: much more)
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    pub(super) verbose: u8,
    /// How logs are written: for people, or one JSON object per line
    #[arg(long, global = true, value_enum, default_value = "text", value_name = "FORMAT")]
    pub(super) log_format: LogFormat,
    /// Say nothing but errors, and the result if --json asks for it
    #[arg(short, long, global = true)]
    pub(super) quiet: bool,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write a page store from a checkpoint
    ///
    /// The store appears whole or not at all: objects first, checkpoint.json last. Any static web server can host it.
    #[command(after_help = "Example:\n  criu dump -t 4711 -D /var/dump --shell-job\n  \
        pageferry-strip split /var/dump --store /srv/www/app --slim /var/slim")]
    Split(SplitArgs),
    /// Put the full checkpoint together again, byte for byte
    ///
    /// Every byte is verified; the folder appears whole or not at all. A checkpoint that had parents comes back without them,
    /// in one piece.
    #[command(after_help = "Example:\n  pageferry-strip join https://example.net/app --out /var/dump")]
    Join(JoinArgs),
    /// Read a page store whole and check every object, frame and digest
    ///
    /// Exit code 1, and a list of what is wrong with object and place, unless all is well.
    #[command(after_help = "Example:\n  pageferry-strip verify /srv/www/app")]
    Verify(VerifyArgs),
    /// Add what a program needs first to a store, as one object that the agent fetches before everything else
    ///
    /// Several recordings are merged: what at least half of them touched, in the order of mean ranks. Nothing else in the store
    /// changes but checkpoint.json.
    #[command(after_help = "Example:\n  pageferry-agent restore /srv/www/app --record trace -- --shell-job\n  \
                            pageferry-strip working-set /srv/www/app --trace trace")]
    WorkingSet(WorkingSetArgs),
    /// Show tasks, memory and sizes of a page store or checkpoint
    ///
    /// A checkpoint is read whole to tell what a store of it would come to; nothing is written.
    #[command(
        after_help = "Example:\n  pageferry-strip inspect /var/dump\n  pageferry-strip inspect https://example.net/app --json"
    )]
    Inspect(InspectArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct SplitArgs {
    /// The directory that `criu dump` wrote
    pub(super) checkpoint: PathBuf,
    /// Where the store is to be: a folder that is empty or does not exist
    #[arg(long, value_parser = local)]
    pub(super) store: Local,
    /// Also unpack the slim dump, there (it is in the store, too)
    #[arg(long, value_name = "DIR")]
    pub(super) slim: Option<PathBuf>,
    /// zstd's compression level
    #[arg(long, default_value_t = DEFAULT_LEVEL, allow_negative_numbers = true,
          value_parser = clap::value_parser!(i32).range(-7..=22))]
    pub(super) level: i32,
    /// Leave out what makes a restore without --lazy-pages fail at once (CRIU's own lazy-pages daemon cannot read it)
    #[arg(long)]
    pub(super) no_tripwire: bool,
    /// Replace the store that is there, in one step; processes that still take their memory from the old one lose it
    #[arg(long)]
    pub(super) replace: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct JoinArgs {
    /// Path or http(s):// address of the store
    pub(super) store: String,
    /// Where the checkpoint is to be: a folder that is empty or does not exist
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// Path or http(s):// address of the store
    pub(super) store: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct WorkingSetArgs {
    /// The store: a folder of this machine
    #[arg(value_parser = local)]
    pub(super) store: Local,
    /// What `pageferry-agent --record` wrote; can be given several times
    #[arg(long, value_name = "FILE", required = true)]
    pub(super) trace: Vec<PathBuf>,
    /// What to call it; a set of that name is replaced
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub(super) name: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    /// Path or http(s):// address of a store, or a checkpoint directory
    #[arg(value_name = "STORE|CHECKPOINT")]
    pub(super) location: String,
    /// For a checkpoint: zstd's compression level
    #[arg(long, default_value_t = DEFAULT_LEVEL, allow_negative_numbers = true,
          value_parser = clap::value_parser!(i32).range(-7..=22))]
    pub(super) level: i32,
}

/// A path, and no address.
#[derive(Debug, Clone)]
pub(super) struct Local(pub(super) PathBuf);

fn local(text: &str) -> Result<Local, String> {
    match text.split_once("://") {
        None => Ok(Local(text.into())),
        Some(("file", path)) if path.starts_with('/') => Ok(Local(path.into())),
        Some(_) => Err("split writes to a folder of this machine; it is plain files, copy them to their host".into()),
    }
}
