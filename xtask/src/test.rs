//! `cargo xtask test`: everything that CI checks.
//!
//! One cargo profile and one set of features for all steps, so that nothing is built twice.

use std::{
    ffi::OsStr,
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    criu, paths, programs,
    run::{self, command, quiet, run, step},
    setup,
};

/// How long the server may take to listen.
const PATIENCE: Duration = Duration::from_secs(30);

/// Generated requests per operation of the HTTP interface.
const SCHEMATHESIS_EXAMPLES: &str = "40";
/// What they are generated from: a commit is green or red, whoever runs this. Another number makes other requests.
const SCHEMATHESIS_SEED: &str = "2016";

pub(crate) fn main(args: &[String]) -> Result<()> {
    let (choice, rest) = criu::choice_from(args)?;
    let said = |word: &str| rest.iter().any(|arg| arg == word);
    let (quick, garage) = (said("--quick"), said("--with-garage"));
    ensure!(rest.iter().all(|arg| ["--quick", "--with-garage"].contains(&&**arg)), "test does not know {rest:?}");

    let start = Instant::now();
    setup::everything(choice)?;
    if garage {
        programs::setup_garage()?;
    }
    let mut failed = Vec::new();
    // A step that fails does not hide what the next ones have to say.
    let mut check = |name: &'static str, work: &dyn Fn() -> Result<()>| {
        if let Err(error) = step(name, work) {
            eprintln!("{} {error:#}", run::red("failed:"));
            failed.push(name);
        }
    };
    check("format", &|| run(cargo().args(["fmt", "--all", "--check"])));
    check("spelling", &|| run(command(paths::program("typos")?).current_dir(paths::repo())));
    let clippy = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
    check("clippy", &|| run(cargo().args(clippy)));
    let doc = ["doc", "--workspace", "--no-deps", "--quiet"];
    check("documentation", &|| run(cargo().args(doc).env("RUSTDOCFLAGS", "-D warnings")));
    check("licences and sources of dependencies", &licences);
    // With tests, so that features are the same as in the next steps.
    check("build", &|| run(cargo().args(["build", "--workspace", "--all-targets", "--quiet"])));
    // All packages in one command: with fewer, cargo would choose other features and build much of it again.
    let mut tests = vec!["test", "--workspace", "--no-fail-fast", "--quiet"];
    if quick {
        tests.extend(["--exclude", "pageferry-tests"]);
    }
    // A backtrace per expected error would hide the message.
    check("tests", &|| run(cargo().args(&tests).env("RUST_LIB_BACKTRACE", "0")));
    if !quick {
        check("schemathesis and a generated client against the live server", &schemathesis);
    }
    if garage {
        let tests = ["test", "--package", "pageferry-tests", "--test", "garage", "--quiet", "--", "--ignored"];
        check("stores in Garage", &|| run(cargo().args(tests)));
    }
    ensure!(failed.is_empty(), "{} after {}", failed.join(", "), run::seconds(start.elapsed()));
    eprintln!("{} in {}", run::green("All is well"), run::seconds(start.elapsed()));
    Ok(())
}

fn cargo() -> Command {
    let mut cargo = command("cargo");
    cargo.current_dir(paths::repo());
    cargo
}

/// `deny.toml`, where cargo-deny is installed. It is too slow to build for what it adds to every run.
fn licences() -> Result<()> {
    if !run::succeeds(cargo().args(["deny", "--version"])) {
        eprintln!("    skipped: cargo-deny is not installed (cargo install cargo-deny)");
        return Ok(());
    }
    run(cargo().args(["deny", "--log-level", "error", "check", "bans", "licenses", "sources"]))
}

/// Holds the server to `openapi.yaml` with generated requests, valid and not, on a store, on a raw checkpoint, and on the folder that the store is in, with and
/// without a default.
fn schemathesis() -> Result<()> {
    let folder = paths::target()?.join("tmp").join(format!("schemathesis-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let result = schemathesis_in(&folder);
    fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    result
}

fn schemathesis_in(folder: &Path) -> Result<()> {
    let built = paths::target()?.join("debug");
    quiet(command(built.join("examples/samples")).arg(folder).args(["small", "threads"]))?;
    let (checkpoint, store) = (folder.join("threads/dump"), folder.join("store"));
    let mut strip = command(built.join("pageferry-strip"));
    quiet(strip.arg("split").arg(&checkpoint).arg("--store").arg(&store).arg("--slim").arg(folder.join("slim")))?;
    generated_client(&Server::start(&built.join("pageferry-server"), &[store.as_os_str()])?, folder)?;
    let with_default = [folder.as_os_str(), "--default".as_ref(), "store".as_ref()];
    for served in [&[store.as_os_str()][..], &[checkpoint.as_os_str()], &[folder.as_os_str()], &with_default] {
        let server = Server::start(&built.join("pageferry-server"), served)?;
        let mut schemathesis = command(paths::program("schemathesis")?);
        schemathesis.arg("--config-file").arg(paths::repo().join("server/schemathesis.toml"));
        schemathesis.args(["run", "--no-color", "--checks", "all", "--max-examples", SCHEMATHESIS_EXAMPLES]);
        schemathesis.args(["--seed", SCHEMATHESIS_SEED]);
        schemathesis.arg("--url").arg(&server.url).arg(paths::repo().join("openapi.yaml"));
        // It leaves a folder with its state where it is started.
        run(schemathesis.current_dir(folder))?;
    }
    Ok(())
}

/// A client that is generated from `openapi.yaml` works.
fn generated_client(server: &Server, folder: &Path) -> Result<()> {
    let generator = paths::program("openapi-python-client")?;
    let client = folder.join("client");
    let mut generate = command(&generator);
    generate.args(["generate", "--meta", "none", "--path"]).arg(paths::repo().join("openapi.yaml"));
    quiet(generate.arg("--output-path").arg(&client).current_dir(folder))?;
    // What it needs is installed beside the generator.
    let python = fs::canonicalize(&generator)?.with_file_name("python3");
    let script = paths::repo().join("server/tests/generated_client.py");
    run(command(python).arg(script).arg(folder).arg(&server.url).env("PYTHONDONTWRITEBYTECODE", "1"))
}

/// A running `pageferry-server`.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(binary: &PathBuf, served: &[&OsStr]) -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut server = command(binary);
        server.args(served).args(["--listen", &format!("127.0.0.1:{port}")]).stdout(Stdio::null());
        let child = server.spawn().with_context(|| binary.display().to_string())?;
        let mut server = Self { child, url: format!("http://127.0.0.1:{port}") };
        let start = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("the server ended with {status}");
            }
            ensure!(start.elapsed() < PATIENCE, "the server does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
