//! A private bucket, read by machines without credentials: by presigned links, each good for one object and for a time. The S3 server is a
//! real one, which checks signatures and when they end.

mod common;

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use common::program;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pageferry_tests::{
    Cell, Checkpoint, Daemon, Pager, Result, S3, Workdir, agent_restore, assert_same_files, criu_restore, free_port,
    http, s3, tools,
};
use serde_json::Value;

/// Two stores in the bucket, of which the second has no pack of its own; the slim dump of it.
struct Private {
    work: Workdir,
    checkpoint: Checkpoint,
    s3: S3,
    slim: PathBuf,
}

/// Seconds that links are good for which are to end: a restore has begun by then.
const SHORT: u64 = 4;

impl Private {
    fn new(name: &str, size: usize) -> Result<Self> {
        let work = Workdir::new(name)?;
        let checkpoint = Checkpoint::take_boxed(&work, program("redis", size))?;
        let s3 = S3::start(&work)?;
        let slim = work.path().join("slim");
        let private = Self { work, checkpoint, s3, slim };
        let split = |arguments: &[&str]| -> Result<Value> {
            let mut split = private.s3.command("pageferry-strip")?;
            json(split.arg("split").arg(&private.checkpoint.dir).args(arguments))
        };
        let (one, two) = (private.s3.url("team/one"), private.s3.url("team/two"));
        split(&["--store", &one])?;
        split(&["--store", &two, "--base", &one, "--slim", &private.slim.display().to_string()])?;
        Ok(private)
    }

    fn file(&self) -> PathBuf {
        self.work.path().join("two.links")
    }

    fn location(&self) -> String {
        format!("links:{}", self.file().display())
    }

    /// Makes links for the second store.
    fn presign(&self, expires: &str) -> Result<Command> {
        let mut presign = self.s3.command("pageferry-strip")?;
        presign.args(["presign", &self.s3.url("team/two"), "--expires", expires, "--out"]).arg(self.file());
        Ok(presign)
    }
}

fn json(command: &mut Command) -> Result<Value> {
    Ok(serde_json::from_slice(&tools::run(command.arg("--json"))?.stdout)?)
}

/// One of our tools, as on a machine that knows nothing of the bucket but the links.
fn without_credentials(program: &str) -> Result<Command> {
    let mut command = Command::new(tools::binary(program)?);
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"] {
        command.env_remove(name);
    }
    Ok(command)
}

#[test]
fn a_machine_without_credentials_reads_all_of_a_store() -> Result<()> {
    let private = Private::new("presigned", 5_000)?;
    let report = json(&mut private.presign("10m")?)?;
    assert_eq!(fs::metadata(private.file())?.permissions().mode() & 0o777, 0o600);
    let links: Value = serde_json::from_slice(&fs::read(private.file())?)?;
    let objects = links["objects"].as_object().context("no links")?;
    assert_eq!(report["links"].as_u64(), Some(objects.len() as u64), "{report}");
    assert_eq!(links["store"], private.s3.url("team/two"));
    assert!(objects.contains_key("checkpoint.json") && objects.keys().any(|name| name.starts_with("../one/packs/")));

    let location = private.location();
    let strip = |arguments: &[&str]| -> Result<Command> {
        let mut strip = without_credentials("pageferry-strip")?;
        strip.args(arguments);
        Ok(strip)
    };
    // A token that is for other hosts is not sent; and however much is said, no signature is in it.
    let token = private.work.path().join("token");
    fs::write(&token, "secret")?;
    let verified = tools::run(strip(&["verify", &location, "-vv", "--json", "--token-file"])?.arg(&token))?;
    assert_eq!(serde_json::from_slice::<Value>(&verified.stdout)?["ok"], true);
    let said = tools::text(&verified.stderr);
    assert!(said.contains("DEBUG") && !said.contains("X-Amz"), "{said}");
    json(&mut strip(&["inspect", &location])?)?;
    let (joined, copied) = (private.work.path().join("joined"), private.work.path().join("copied"));
    json(strip(&["join", &location, "--out"])?.arg(&joined))?;
    assert_same_files(&private.checkpoint.dir, &joined)?;
    json(strip(&["copy", &location])?.arg(&copied))?;
    let mut doctor = without_credentials("pageferry-agent")?;
    let doctor = tools::text(&tools::output(doctor.args(["doctor", &location, "--json"]))?.stdout);
    assert!(doctor.contains("the host sends only what is asked for") && !doctor.contains("X-Amz"), "{doctor}");

    // The agent alone, and with a mirror; then from our server, which reads by the links.
    let restore = |store: &str, options: &[&str], name: &str| -> Result<()> {
        let cell = Cell::new()?;
        let images = private.work.path().join(name);
        agent_restore(&cell, store, &images, options, &[])?;
        private.checkpoint.check(&cell)?;
        cell.end();
        Ok(())
    };
    restore(&location, &[], "alone")?;
    restore(&location, &["--store", &copied.display().to_string()], "with-a-mirror")?;
    let port = free_port()?;
    let mut server = without_credentials("pageferry-server")?;
    server.args([&location, "--listen", &format!("127.0.0.1:{port}")]);
    let mut server = Daemon::start("pageferry-server", &server, &private.work.path().join("server.log"), None)?;
    server.wait_for_port(port)?;
    assert!(http::get(port, "/pid")?.contains("redis-server"));
    restore(&format!("http://127.0.0.1:{port}/store"), &[], "from-a-server")
}

#[test]
fn links_end_and_new_ones_are_taken_in_the_middle() -> Result<()> {
    let private = Private::new("presigned-short", 20_000)?;
    let made = Instant::now();
    tools::run(&mut private.presign(&SHORT.to_string())?)?;
    let location = private.location();
    let pager = Pager::start(&location, &private.slim, &private.work.folder("pager")?, &["--complete", "never"])?;
    let cell = Cell::new()?;
    criu_restore(&cell, &private.slim, pager.work(), &["--lazy-pages"])?;

    thread::sleep((Duration::from_secs(SHORT + 1)).saturating_sub(made.elapsed()));
    let refused = tools::output(without_credentials("pageferry-strip")?.args(["verify", &location]))?;
    let said = tools::text(&refused.stderr);
    ensure!(!refused.status.success(), "the server takes links that have ended");
    for words in
        ["checkpoint.json at http://127.0.0.1:", "(AccessDenied)", "have expired", "`pageferry-strip presign s3://"]
    {
        assert!(said.contains(words) && !said.contains("X-Amz"), "{said}");
    }

    // The process waits for its memory until there are new links.
    let mut again = private.presign("1h")?;
    let renewal = thread::spawn(move || {
        thread::sleep(Duration::from_secs(2));
        tools::run(&mut again)
    });
    private.checkpoint.check(&cell)?;
    renewal.join().map_err(|_| anyhow::anyhow!("making new links panicked"))??;
    cell.end();
    let log = pager.finish()?;
    assert!(log.contains("have expired") && log.contains("other links by now"), "{log}");
    assert!(!log.contains("X-Amz"), "{log}");
    Ok(())
}

/// Ctrl-C is heard while a host that does not answer is waited for.
#[test]
fn told_to_stop() -> Result<()> {
    let work = Workdir::new("presigned-stop")?;
    // The kernel takes the connection; nobody reads from it.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let (file, began) = (work.path().join("links"), Instant::now());
    let mut presign = tools::interruptible("pageferry-strip")?;
    presign.args(["presign", "s3://bucket/app", "--out"]).arg(&file);
    let mut presign = presign.envs(s3::environment(silent.local_addr()?.port())).stderr(Stdio::null()).spawn()?;
    thread::sleep(Duration::from_millis(500));
    kill(Pid::from_raw(i32::try_from(presign.id())?), Signal::SIGINT)?;
    assert_eq!(presign.wait()?.code(), Some(130));
    assert!(began.elapsed() < Duration::from_secs(5) && !file.exists());
    Ok(())
}

#[test]
fn what_cannot_be_signed_or_is_tampered_with() -> Result<()> {
    let private = Private::new("presigned-wrong", 1_000)?;
    let refused = |command: &mut Command, words: &str| -> Result<()> {
        let output = tools::output(command)?;
        let said = tools::text(&output.stderr);
        ensure!(!output.status.success() && said.contains(words), "{command:?}: {said}, not {words}");
        ensure!(!said.contains("X-Amz-Signature"), "{said}");
        Ok(())
    };
    let links = private.file();
    for (store, words) in [("/srv/app", "s3://, gs:// or az://"), ("https://host/app", "--token-file")] {
        let mut presign = private.s3.command("pageferry-strip")?;
        refused(presign.args(["presign", store, "--out"]).arg(&links), words)?;
    }
    refused(&mut private.presign("8days")?, "7 days at most")?;
    refused(&mut private.presign("0")?, "a second at least")?;
    refused(&mut private.presign("soon")?, "12h")?;
    assert!(!links.exists());
    refused(without_credentials("pageferry-strip")?.args(["split", "x", "--store", "links:x"]), "by way of links")?;
    refused(without_credentials("pageferry-strip")?.args(["list", &private.location()]), "cannot be listed")?;
    refused(without_credentials("pageferry-strip")?.args(["verify", &private.location()]), "not found")?;

    // The signature is of one object: it opens no other.
    tools::run(&mut private.presign("1h")?)?;
    let mut json: Value = serde_json::from_slice(&fs::read(&links)?)?;
    let objects = json["objects"].as_object_mut().context("no links")?;
    let link = objects["checkpoint.json"].as_str().context("no link")?.replace("team/two", "team/one");
    objects.insert("checkpoint.json".into(), link.into());
    fs::write(&links, json.to_string())?;
    refused(
        without_credentials("pageferry-strip")?.args(["verify", &private.location()]),
        "HTTP 403 Forbidden (SignatureDoesNotMatch)",
    )?;
    Ok(())
}
