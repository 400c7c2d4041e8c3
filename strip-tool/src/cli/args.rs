//! What can be typed.

use clap::{ArgAction, Parser, Subcommand};
use page_store::{
    HttpOptions, HttpVersion, Links,
    write::{Conditions, DEFAULT_LEVEL},
};
use std::{path::PathBuf, time::Duration};

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
    /// A file with the token that the store's host wants [default: the token in PAGEFERRY_TOKEN]
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Trust this authority besides those of the machine (PEM)
    #[arg(long, global = true, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// The certificate to show a host that asks for one (PEM)
    #[arg(long, global = true, value_name = "FILE", requires = "tls_client_key")]
    tls_client_cert: Option<PathBuf>,
    /// The key of --tls-client-cert (PEM)
    #[arg(long, global = true, value_name = "FILE", requires = "tls_client_cert")]
    tls_client_key: Option<PathBuf>,
}

impl Args {
    /// What hosts are shown.
    pub(super) fn access(&self) -> page_store::Result<HttpOptions> {
        let token = std::env::var("PAGEFERRY_TOKEN").ok();
        let client = self.tls_client_cert.as_deref().zip(self.tls_client_key.as_deref());
        let (file, ca) = (self.token_file.as_deref(), self.tls_ca.as_deref());
        HttpOptions::read(HttpVersion::default(), file, token.as_deref(), ca, client)
    }
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
        pageferry-strip split /var/dump --store /srv/www/app --slim /var/slim\n  \
        pageferry-strip split /var/dump2 --store /srv/www/app-2 --base /srv/www/app")]
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
    /// Copy a page store to another place, every byte verified on the way
    ///
    /// From any path or address to a folder or an object store. Objects that are there already are left as they are, so a copy that was cut
    /// goes on where it ended.
    #[command(after_help = "Example:\n  pageferry-strip copy /srv/www/app s3://bucket/app")]
    Copy(CopyArgs),
    /// List the page stores in a folder, below a prefix of an object store, or of a pageferry-server
    #[command(after_help = "Example:\n  pageferry-strip list s3://bucket\n  pageferry-strip list /srv/www --json\n  \
        pageferry-strip list https://host:8443 --token-file token")]
    List(ListArgs),
    /// Make links with which machines without credentials read a store in a private bucket
    ///
    /// The file has one link for each object, and is a place to read from: links:FILE. Make it anew, over the old one, before the links end, or
    /// when the store has changed: a restore that runs goes on with the new ones.
    #[command(after_help = "Example:\n  pageferry-strip presign s3://bucket/app --out app.links --expires 12h\n  \
                            pageferry-agent restore links:app.links")]
    Presign(PresignArgs),
    /// Remove a page store
    ///
    /// checkpoint.json goes first, so that no reader finds half a store. Packs that stores beside it share stay.
    #[command(after_help = "Example:\n  pageferry-strip rm s3://bucket/app --dry-run")]
    Rm(RmArgs),
}

/// How a store is put into an object store.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct PutArgs {
    /// In an object store: put checkpoint.json whatever is there. For buckets that do not know conditional puts, where nobody else
    /// writes
    #[arg(long)]
    no_conditional_put: bool,
}

impl PutArgs {
    pub(super) fn conditions(self) -> Conditions {
        if self.no_conditional_put { Conditions::Unconditional } else { Conditions::Conditional }
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct CopyArgs {
    /// Path or address of the store; links:FILE, too
    #[arg(value_name = "STORE")]
    pub(super) from: String,
    /// Where the copy is to be: a folder that is empty or does not exist, or s3://, gs://, az://
    #[arg(value_name = "STORE", value_parser = writable)]
    pub(super) to: String,
    /// Replace the store that is there
    #[arg(long)]
    pub(super) replace: bool,
    #[command(flatten)]
    pub(super) put: PutArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// A folder, a prefix such as s3://bucket/prefix, or the address of a pageferry-server
    #[arg(value_name = "PREFIX")]
    pub(super) location: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct PresignArgs {
    /// The store: s3://, gs:// or az://
    pub(super) store: String,
    /// The file to write, readable for you alone: who has it can read the store
    #[arg(long, value_name = "FILE")]
    pub(super) out: PathBuf,
    /// How long the links are good: seconds, or a span such as 90m, 12h, 7days, which is the most. Links that were signed with temporary
    /// credentials end with these at the latest
    #[arg(long, value_name = "TIME", default_value = "12h", value_parser = span)]
    pub(super) expires: Duration,
}

#[derive(Debug, clap::Args)]
pub(super) struct RmArgs {
    /// Path or s3://, gs://, az:// address of the store
    pub(super) store: String,
    /// Remove nothing, say what would be
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct SplitArgs {
    /// The directory that `criu dump` wrote
    pub(super) checkpoint: PathBuf,
    /// Where the store is to be: a folder that is empty or does not exist; or a place in an object store (s3://, gs://, az://), to which it
    /// goes while it is made
    #[arg(long, value_parser = writable)]
    pub(super) store: String,
    /// Also unpack the slim dump, there (it is in the store, too)
    #[arg(long, value_name = "DIR")]
    pub(super) slim: Option<PathBuf>,
    /// Do not store again what this store has: one in the same folder or under the same prefix, which is read whole first. It must stay
    /// beside the new one (`rm` keeps what others need)
    #[arg(long, value_name = "STORE", value_parser = writable)]
    pub(super) base: Option<String>,
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
    #[command(flatten)]
    pub(super) put: PutArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct JoinArgs {
    /// Path of the store, or its address: http(s)://, s3://, gs://, az://, links:FILE
    pub(super) store: String,
    /// Where the checkpoint is to be: a folder that is empty or does not exist
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// Path of the store, or its address: http(s)://, s3://, gs://, az://, links:FILE
    pub(super) store: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct WorkingSetArgs {
    /// The store: a folder of this machine, or a place in an object store (s3://, gs://, az://)
    #[arg(value_parser = writable)]
    pub(super) store: String,
    /// What `pageferry-agent --record` wrote; can be given several times
    #[arg(long, value_name = "FILE", required = true)]
    pub(super) trace: Vec<PathBuf>,
    /// What to call it; a set of that name is replaced
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = set_name)]
    pub(super) name: String,
    #[command(flatten)]
    pub(super) put: PutArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    /// Path of a store or of a checkpoint directory, or address of a store
    #[arg(value_name = "STORE|CHECKPOINT")]
    pub(super) location: String,
    /// For a checkpoint: zstd's compression level
    #[arg(long, default_value_t = DEFAULT_LEVEL, allow_negative_numbers = true,
          value_parser = clap::value_parser!(i32).range(-7..=22))]
    pub(super) level: i32,
}

/// The name of a working set.
fn set_name(text: &str) -> Result<String, String> {
    page_store::working_set::check_name(text).map(|()| text.to_owned())
}

/// Seconds, or a number with a unit.
fn span(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => {
            humantime::parse_duration(text).map_err(|_| "give seconds, or a span such as 90m, 12h or 7days".into())
        }
    }
}

/// A path or address that something can be written to.
fn writable(text: &str) -> Result<String, String> {
    match text.split_once("://") {
        _ if Links::is_location(text) => {
            Err("nothing can be written by way of links; use a path, s3://, gs:// or az://".into())
        }
        Some((scheme @ ("http" | "https"), _)) => {
            Err(format!("nothing can be written to {scheme}:// addresses; use a path, s3://, gs:// or az://"))
        }
        _ => Ok(text.to_owned()),
    }
}
