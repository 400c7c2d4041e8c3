//! `pageferry-server`: see `--help`.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use clap::{ArgAction, Parser};
use pageferry_server::{
    AccessLog, Address, Doors, Opened, Origin, Server, Tls, TlsFiles, Tokens,
    limits::{Limits, raise_open_files},
};
use std::{io::Write, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};
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
  pageferry-server /ckpt/redis --listen unix:/run/pageferry.sock     # a checkpoint as criu dump left it
  curl http://127.0.0.1:8080/pid

For others than this machine, memory is served to those who may see it:
  echo agents read $(openssl rand -hex 32) >tokens
  pageferry-server /srv/store/redis --listen 0.0.0.0:8443 --token-file tokens --tls-cert cert.pem --tls-key key.pem

The server prints its address on standard output once everything is open; logs go to standard error. SIGINT and SIGTERM let
running answers finish (--grace), a second one ends it at once."
)]
struct Cli {
    /// A page store, a checkpoint directory that was never split, the address of a store (http(s)://, s3://, gs://, az://, links:FILE); or a folder or
    /// prefix that has several of them, which are served below /checkpoints/
    #[arg(value_name = "STORE|CHECKPOINT|FOLDER")]
    location: String,
    /// In a folder: the checkpoint that the short paths (/pid, /store, ...) have, too
    #[arg(long, value_name = "NAME")]
    default: Option<String>,
    /// Address and port (port 0 takes any free one), unix:PATH, or `systemd` for the sockets that it passes; can be given several
    /// times [default: the sockets that systemd passes, else 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS:PORT|unix:PATH|systemd")]
    listen: Vec<String>,
    /// Answer only requests with a token of this file: lines NAME SCOPE[,SCOPE] TOKEN; scopes are read, working-sets, metrics. It is
    /// read again when it changes, and on SIGHUP; /healthz and /readyz need no token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Speak TLS, with this certificate (PEM, the chain after it); read again when it changes, and on SIGHUP
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key of --tls-cert (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Answer only clients that have a certificate of this authority (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
    /// Let everybody who can reach the address read all memory
    #[arg(long)]
    insecure_public: bool,
    /// Note every request in this file, `-` for standard output: time, peer, method, path, status, bytes, duration, request id, token's
    /// name, user agent; one JSON object per line if logs are JSON. SIGHUP has it opened again
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
    /// Let everybody who may read add working sets, too (PUT /working-sets/SET, PUT /checkpoints/NAME/working-sets/SET); with --token-file, tokens with that scope may
    #[arg(long)]
    allow_working_sets: bool,
    /// Let pages of this web origin read what is served, https://example.com or with a port (CORS); can be given several times
    #[arg(long, value_name = "ORIGIN", value_parser = Origin::parse)]
    cors_origin: Vec<Origin>,
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
    let doors = doors(cli)?;
    // A server that has nothing to read again ends with its terminal, as ever.
    let mut hang_up = if doors.have_files() { Some(signal(SignalKind::hangup())?) } else { None };
    let server = bind(cli, doors.clone(), limits).await?;
    let addresses = server.addresses()?;
    refuse_strangers(cli, &doors, &addresses)?;
    let urls = Urls::new(&addresses, &doors);
    let url = urls.first();
    if hang_up.is_some() {
        tokio::spawn(async move {
            while let Some(signal) = &mut hang_up
                && signal.recv().await.is_some()
            {
                doors.hang_up();
            }
        });
    }
    tracing::info!("opening {}; {url}/readyz tells when it is ready", cli.location);

    let open = server.open(&cli.location, cli.default.as_deref());
    let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut running = tokio::spawn(server.run(async {
        // An error means that nobody is there to stop it, so it has to.
        let _ = stopped.await;
    }));
    tokio::select! {
        opened = open => say(cli, &urls, &opened?)?,
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

/// What the options say about who may come in.
fn doors(cli: &Cli) -> Result<Doors> {
    let tokens = cli.token_file.as_deref().map(Tokens::read).transpose().context("--token-file")?;
    let tls = match (&cli.tls_cert, &cli.tls_key) {
        (Some(cert), Some(key)) => {
            let files = TlsFiles { cert: cert.clone(), key: key.clone(), client_ca: cli.tls_client_ca.clone() };
            Some(Tls::read(files).context("TLS")?)
        }
        _ => None,
    };
    let json = cli.log_format() == LogFormat::Json;
    let access_log = cli.access_log.as_deref().map(|path| AccessLog::open(path, json)).transpose()?;
    Ok(Doors {
        tokens: tokens.map(Arc::new),
        tls: tls.map(Arc::new),
        allow_working_sets: cli.allow_working_sets,
        cors: cli.cors_origin.clone(),
        access_log: access_log.map(Arc::new),
    })
}

async fn bind(cli: &Cli, doors: Doors, limits: Limits) -> Result<Server> {
    if !cli.listen.is_empty() {
        return Server::bind_all(&cli.listen, doors, limits).await;
    }
    match Server::passed(doors.clone(), limits)? {
        Some(server) => Ok(server),
        None => Server::bind_all(&["127.0.0.1:8080".to_owned()], doors, limits).await,
    }
}

/// These are people's memories: whoever puts them where others can reach them has to say who may.
fn refuse_strangers(cli: &Cli, doors: &Doors, addresses: &[Address]) -> Result<()> {
    let public = addresses.iter().find(|address| !address.is_local());
    let Some(address) = public.filter(|_| !doors.are_closed() && !cli.insecure_public) else { return Ok(()) };
    bail!(
        "{address} can be reached from other machines, and everybody there could read all memory of the checkpoint: add --token-file FILE \
         (best with --tls-cert and --tls-key) or --tls-client-ca FILE, or listen on 127.0.0.1 or unix:PATH; --insecure-public does without"
    )
}

/// Where the server is, as its users write it.
struct Urls {
    all: Vec<String>,
    /// What curl has to be told besides the address.
    curl: String,
    /// The address for curl and the agent.
    shown: String,
    tokens: bool,
}

impl Urls {
    fn new(addresses: &[Address], doors: &Doors) -> Self {
        let scheme = if doors.tls.is_some() { "https" } else { "http" };
        let url = |address: &Address| match address {
            Address::Tcp(address) => format!("{scheme}://{address}"),
            Address::Unix(_) => address.to_string(),
        };
        let mut curl = String::new();
        let mut shown = addresses.first().map(url).unwrap_or_default();
        if let Some(Address::Unix(path)) = addresses.first() {
            curl = format!("--unix-socket {} ", path.display());
            shown = "http://localhost".to_owned();
        }
        if doors.tokens.is_some() {
            curl += "-H \"Authorization: Bearer $PAGEFERRY_TOKEN\" ";
        }
        Self { all: addresses.iter().map(url).collect(), curl, shown, tokens: doors.tokens.is_some() }
    }

    fn first(&self) -> &str {
        self.all.first().map_or("", |url| url)
    }

    fn is_unix(&self) -> bool {
        self.first().starts_with("unix:")
    }

    /// Examples as they work here.
    fn examples(&self, opened: &Opened) -> String {
        let mut text = String::new();
        for line in opened.examples(&self.shown).lines() {
            if let Some(rest) = line.strip_prefix("  curl ") {
                text += &format!("  curl {}{rest}\n", self.curl);
            } else if !self.is_unix() {
                text += line;
                text += if self.tokens { " --token-file FILE\n" } else { "\n" };
            }
        }
        text
    }
}

/// The start-up message. Whoever started the server with port 0 learns the address from it.
fn say(cli: &Cli, urls: &Urls, opened: &Opened) -> Result<()> {
    let message = match (cli.quiet, cli.json) {
        (true, _) => return Ok(()),
        (_, true) => {
            let url = urls.first();
            let store = (!urls.is_unix() && opened.has_short_paths()).then(|| format!("{url}/store"));
            format!("{}\n", serde_json::json!({ "url": url, "urls": urls.all, "store": store, "pids": opened.pids() }))
        }
        (..) => {
            let url = urls.all.join(" and ");
            format!("listening on {url}\n{} in {}\n{}", opened.summary(), cli.location, urls.examples(opened))
        }
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
