//! `pageferry-server`: see `--help`.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use clap::{ArgAction, Parser};
use pageferry_server::{
    Opened, Server,
    limits::{Limits, raise_open_files},
};
use std::{io::Write, process::ExitCode, time::Duration};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Threads that may wait for a disk. Each costs an arena of the allocator, and the page cache answers most reads without them.
const BLOCKING_THREADS: usize = 16;
/// Threads that answer requests, on machines that have more: for the same reason, and eight fill any network.
const MOST_THREADS: usize = 8;

/// Serves the pages of a CRIU checkpoint over HTTP: single pages, ranges, many ranges at once, and the page store itself, from
/// which pageferry-agent restores.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:
  pageferry-server /srv/store/redis
  pageferry-server /ckpt/redis --listen 0.0.0.0:8080     # a checkpoint as criu dump left it
  curl http://127.0.0.1:8080/pid

The server prints its address on standard output once everything is open; logs go to standard error. SIGINT and SIGTERM let
running answers finish (--grace), a second one ends it at once."
)]
struct Cli {
    /// A page store, a checkpoint directory that was never split, or the http(s):// address of a store
    #[arg(value_name = "STORE|CHECKPOINT")]
    location: String,
    /// Address and port; port 0 takes any free one
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    listen: String,
    /// Connections at once; one more takes the place of the one that has been without a request for the longest, or waits if all
    /// have one
    #[arg(long, default_value_t = Limits::default().connections, value_name = "N")]
    max_connections: usize,
    /// MiB of memory for decoded frames that are kept and for answers on their way; everything else takes some 10 MiB, and 12 to 40 KiB
    /// for each connection. Requests that find no room wait, and get 503 with Retry-After after ten seconds
    #[arg(long, default_value_t = Limits::default().memory >> 20, value_name = "MIB",
        value_parser = clap::value_parser!(u64).range(Limits::LEAST_MEMORY >> 20..1 << 24))]
    memory: u64,
    /// Seconds that running answers get to finish when the server is told to stop
    #[arg(long, default_value_t = Limits::default().grace.as_secs(), value_name = "SECONDS")]
    grace: u64,
    /// Print the start-up message as a JSON line, and write logs so
    #[arg(long)]
    json: bool,
    /// How logs are written: for people, or one JSON object per line [default: text; with --json, json]
    #[arg(long, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Log every request; twice: everything
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
    /// Log errors only, and print nothing
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl Cli {
    fn log_format(&self) -> LogFormat {
        self.log_format.unwrap_or(if self.json { LogFormat::Json } else { LogFormat::Text })
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    log(&cli);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(std::thread::available_parallelism().map_or(1, |n| n.get().min(MOST_THREADS)))
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("pageferry")
        .build();
    let result = runtime.context("cannot start threads").and_then(|runtime| {
        let result = runtime.block_on(serve(&cli));
        // A read from a disk that hangs must not hold up the end.
        runtime.shutdown_timeout(Duration::from_millis(100));
        result
    });
    match result {
        Ok(code) => code,
        Err(error) => {
            match cli.log_format() {
                LogFormat::Text => eprintln!("pageferry-server: {error:#}"),
                LogFormat::Json => tracing::error!("{error:#}"),
            }
            ExitCode::FAILURE
        }
    }
}

async fn serve(cli: &Cli) -> Result<ExitCode> {
    let room = raise_open_files();
    let connections = cli.max_connections.clamp(1, room);
    if connections < cli.max_connections {
        tracing::info!("{connections} connections at once: `ulimit -Hn` allows no more open files");
    }
    let grace = Duration::from_secs(cli.grace);
    let limits = Limits { connections, grace, memory: cli.memory << 20, ..Limits::default() };
    // Before anything else, so that no signal is lost.
    let mut signals =
        Signals { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? };
    let server = Server::bind(&cli.listen, limits).await?;
    let url = format!("http://{}", server.address()?);
    tracing::info!("opening {}; {url}/readyz tells when it is ready", cli.location);

    let open = server.open(&cli.location);
    let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut running = tokio::spawn(server.run(async {
        // An error means that nobody is there to stop it, so it has to.
        let _ = stopped.await;
    }));
    tokio::select! {
        opened = open => say(cli, &url, &opened?)?,
        () = signals.next() => return Ok(ExitCode::SUCCESS),
    }
    signals.next().await;
    tracing::info!("stopping; running answers have {} seconds to finish", cli.grace);
    let _ = stopping.send(());
    let cut = tokio::select! {
        cut = &mut running => cut?,
        () = signals.next() => return Ok(ExitCode::FAILURE),
    };
    if cut > 0 {
        tracing::warn!("{cut} connections were cut: their answers took longer than --grace {}", cli.grace);
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// What asks the server to stop.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    async fn next(&mut self) {
        tokio::select! { _ = self.interrupt.recv() => {}, _ = self.terminate.recv() => {} }
    }
}

/// The start-up message. Whoever started the server with port 0 learns the address from it.
fn say(cli: &Cli, url: &str, opened: &Opened) -> Result<()> {
    let message = match (cli.quiet, cli.json) {
        (true, _) => return Ok(()),
        (_, true) => {
            let store = format!("{url}/store");
            format!("{}\n", serde_json::json!({ "url": url, "store": store, "pids": opened.pids() }))
        }
        (..) => format!("listening on {url}\n{} in {}\n{}", opened.summary(), cli.location, opened.examples(url)),
    };
    let mut stdout = std::io::stdout().lock();
    // Nobody need be there to read it.
    let _ = stdout.write_all(message.as_bytes()).and_then(|()| stdout.flush());
    Ok(())
}

fn log(cli: &Cli) {
    let default = match (cli.quiet, cli.verbose) {
        (true, _) => "error",
        (_, 0) => "warn",
        (_, 1) => "pageferry_server=debug,page_store=info,warn",
        (..) => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("PAGEFERRY_LOG").unwrap_or_else(|_| default.into());
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match cli.log_format() {
        LogFormat::Json => logs.json().init(),
        LogFormat::Text => logs.init(),
    }
}
