//! A recording that is sent to a server when the restore has ended; and what is left of it where that fails.

mod common;

use anyhow::ensure;
use common::{Scene, certificates, scene};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pageferry_tests::{
    Cell, Checkpoint, Host, Pager, Pair, Result, Role, Split, Workdir, agent_restore, criu_restore, eventually, http,
    tools,
};
use std::{
    fs,
    net::TcpListener,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

const READER: &str = "reader-0123456789abcdef";
const RECORDER: &str = "recorder-0123456789abcdef";

/// What a server of the folder calls the store.
const STORE: &str = "/checkpoints/store/store";
const SET: &str = "/checkpoints/store/working-sets/first-reply";

/// A pager in a TMPDIR of its own, and how it ended.
struct Recorded {
    tmp: PathBuf,
    log: String,
    status: ExitStatus,
}

impl Recorded {
    fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The files that are left.
    fn left(&self) -> Result<Vec<PathBuf>> {
        let paths = fs::read_dir(&self.tmp)?.map(|entry| Ok(entry?.path()));
        paths.collect()
    }

    /// The one that is left: whole, and named.
    fn kept(&self) -> Result<PathBuf> {
        let [kept] = self.left()?.try_into().map_err(|left| anyhow::anyhow!("{left:?} are left: {}", self.log))?;
        ensure!(self.log.contains(&kept.display().to_string()), "{}: {}", kept.display(), self.log);
        ensure!(self.log.contains("processes are whole"), "{}", self.log);
        let trace: serde_json::Value = serde_json::from_slice(&fs::read(&kept)?)?;
        ensure!(trace["frames"].as_array().is_some_and(|frames| !frames.is_empty()), "{trace}");
        Ok(kept)
    }
}

fn in_tmp(tmp: &Path) -> impl FnOnce(&Command) -> Command {
    let tmp = format!("TMPDIR={}", tmp.display());
    move |agent| {
        let mut env = Command::new("env");
        env.arg(tmp).arg(agent.get_program()).args(agent.get_args());
        env
    }
}

/// Restores with these options and asks for the first reply; `meanwhile` is called when the process is there.
fn recorded(
    (work, checkpoint, split): (&Workdir, &Checkpoint, &Split),
    name: &str,
    store: &str,
    options: &[&str],
    meanwhile: impl FnOnce(&Path, &mut Pager) -> Result<()>,
) -> Result<Recorded> {
    let (folder, tmp) = (work.folder(name)?, work.folder(&format!("{name}-tmp"))?);
    let cell = Cell::new()?;
    let options = [&["--record-settle", "0.5", "--json"], options].concat();
    let mut pager = Pager::start_by(in_tmp(&tmp), store, &split.slim, &folder, &options)?;
    criu_restore(&cell, &split.slim, &folder, &["--lazy-pages"])?;
    checkpoint.first_reply(&cell)?;
    meanwhile(&folder, &mut pager)?;
    let status = pager.wait()?;
    checkpoint.check(&cell)?;
    Ok(Recorded { tmp, log: fs::read_to_string(folder.join("agent.log"))?, status })
}

fn replayed(log: &str) -> Result<u64> {
    let summary = log.lines().rfind(|line| line.starts_with('{')).unwrap_or_default();
    let summary: serde_json::Value = serde_json::from_str(summary)?;
    Ok(summary["pages_by_working_set"].as_u64().unwrap_or_default())
}

#[test]
fn the_server_has_it_when_the_restore_has_ended_and_the_next_restore_uses_it() -> Result<()> {
    let Scene { work, checkpoint, split } = scene("gunicorn", 20_000)?;
    let of = (&work, &checkpoint, &split);
    let secrets = work.folder("secrets")?;
    let file = |name: &str, text: &str| -> Result<String> {
        fs::write(secrets.join(name), text)?;
        Ok(secrets.join(name).display().to_string())
    };
    let tokens = file("tokens", &format!("agents read {READER}\nrecorder working-sets {RECORDER}\n"))?;
    let (reader, recorder) = (file("reader", READER)?, file("recorder", RECORDER)?);
    // Only the store in it.
    let folder = work.folder("stores")?;
    fs::rename(&split.store, folder.join("store"))?;
    certificates(&secrets);
    let [ca, cert, key] = ["ca.pem", "server.pem", "server.key"].map(|name| secrets.join(name).display().to_string());
    let tls = ["--tls-cert", &cert, "--tls-key", &key, "--token-file", &tokens];
    let host = Host::server_with(&work, &folder, &tls)?;
    let address = |path: &str| format!("https://127.0.0.1:{}{path}", host.port());
    let (store, set) = (address(STORE), address(SET));
    let access = ["--token-file", &reader, "--tls-ca", &ca];
    let record = [&access[..], &["--record", &set]].concat();

    // The store's token is the wrong one: the file stays, and can be used by hand.
    let refused = recorded(of, "refused", &store, &record, |_, _| Ok(()))?;
    assert_eq!(refused.code(), Some(1), "{}", refused.log);
    let kept = refused.kept()?;
    for words in ["HTTP 403", "working-sets", "--record-token-file", "-T /"] {
        assert!(refused.log.contains(words), "{words}: {}", refused.log);
    }
    assert!(!refused.log.contains("0123456789abcdef"), "{}", refused.log);
    let mut strip = Command::new(tools::binary("pageferry-strip")?);
    tools::run(strip.args(["working-set", "--name", "by-hand", "--trace"]).arg(kept).arg(folder.join("store")))?;

    let record = [&record[..], &["--record-token-file", &recorder]].concat();
    let taken = recorded(of, "taken", &store, &record, |_, _| Ok(()))?;
    assert_eq!(taken.code(), Some(0), "{}", taken.log);
    assert!(taken.left()?.is_empty(), "{:?}", taken.left()?);
    let mut list = Command::new(tools::binary("pageferry-strip")?);
    let listed = tools::run(list.args(["list", &address(""), "--json"]).args(access))?;
    let listed = tools::text(&listed.stdout);
    assert!(listed.contains("first-reply"), "{listed}");

    let replay = [&access[..], &["--working-set", "first-reply"]].concat();
    let next = recorded(of, "next", &store, &replay, |_, _| Ok(()))?;
    assert!(next.code() == Some(0) && replayed(&next.log)? > 0, "{}", next.log);
    Ok(())
}

#[test]
fn restore_in_one_command_and_a_server_that_takes_no_sets() -> Result<()> {
    let Scene { work, checkpoint, split } = scene("threads", 1 << 20)?;
    let folder = work.folder("stores")?;
    fs::rename(&split.store, folder.join("store"))?;
    for (round, option) in [&["--allow-working-sets"][..], &[]].into_iter().enumerate() {
        let host = Host::server_with(&work, &folder, option)?;
        let address = |path: &str| format!("http://127.0.0.1:{}{path}", host.port());
        let cell = Cell::new()?;
        let images = work.folder(&format!("images-{round}"))?;
        let set = address(SET);
        let restored =
            agent_restore(&cell, &address(STORE), &images, &["--record", &set, "--record-settle", "0.5"], &[]);
        checkpoint.check(&cell)?;
        match restored {
            Ok(output) => {
                assert_eq!(round, 0);
                let said = tools::text(&output.stderr);
                assert!(said.contains(&format!("{set} has the recording")), "{said}");
                assert!(http::get_with(host.port(), "/checkpoints", &[])?.text().contains("first-reply"));
            }
            Err(error) => {
                let said = format!("{error:#}");
                assert!(round == 1 && said.contains("HTTP 409") && said.contains("takes no working sets"), "{said}");
                let kept = said.split("the recording is in ").nth(1).and_then(|rest| rest.split(". Send").next());
                fs::remove_file(kept.expect("the file is named"))?;
            }
        }
    }
    Ok(())
}

#[test]
fn an_agent_that_is_ended_while_it_delivers_leaves_the_recording_and_says_so() -> Result<()> {
    let Scene { work, checkpoint, split } = scene("threads", 1 << 20)?;
    let of = (&work, &checkpoint, &split);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let set = format!("http://{}/working-sets/first-reply", listener.local_addr()?);
    let store = split.store.display().to_string();

    // It accepts, and never answers.
    let stopped = recorded(of, "stopped", &store, &["--record", &set], |_, pager| {
        let _connection = listener.accept()?;
        kill(Pid::from_raw(pager.daemon().pid()), Signal::SIGTERM)?;
        pager.wait().map(drop)
    })?;
    let code = stopped.code().or(stopped.status.signal().map(|signal| 128 + signal));
    assert_eq!(code, Some(143), "{}", stopped.log);
    stopped.kept()?;

    let killed = recorded(of, "killed", &store, &["--record", &set], |folder, _| {
        let _connection = listener.accept()?;
        let pair = Pair::new(folder);
        assert!(!pair.kill(Role::Agent)?, "another agent delivers");
        Ok(())
    })?;
    assert_eq!(killed.code(), Some(1), "{}", killed.log);
    killed.kept()?;
    Pair::new(&work.path().join("killed")).wait_for_end()
}

#[test]
fn an_agent_that_takes_over_delivers_what_the_one_before_has_recorded() -> Result<()> {
    let Scene { work, checkpoint, split } = scene("redis", 20_000)?;
    let of = (&work, &checkpoint, &split);
    let folder = work.folder("stores")?;
    fs::rename(&split.store, folder.join("store"))?;
    let host = Host::server_with(&work, &folder, &["--allow-working-sets"])?;
    let address = |path: &str| format!("http://127.0.0.1:{}{path}", host.port());
    let set = address(SET);
    let options = ["--record", &set, "--complete", "never"];
    let taken_over = recorded(of, "taken-over", &address(STORE), &options, |folder, pager| {
        // The recording is over, the restore is not.
        let tmp = work.path().join("taken-over-tmp");
        eventually(|| {
            let mut names = fs::read_dir(&tmp)?.flatten().map(|entry| entry.path());
            ensure!(names.any(|path| path.extension().is_some_and(|end| end == "trace")));
            Ok(())
        })?;
        assert!(Pair::new(folder).kill(Role::Agent)?);
        eventually(|| {
            ensure!(pager.daemon().log().contains("took over"));
            Ok(())
        })?;
        kill(Pid::from_raw(pager.daemon().pid()), Signal::SIGTERM)?;
        Ok(())
    })?;
    assert_eq!(taken_over.code(), Some(0), "{}", taken_over.log);
    assert!(taken_over.left()?.is_empty(), "{:?}", taken_over.left()?);
    assert!(http::get_with(host.port(), "/checkpoints", &[])?.text().contains("first-reply"), "{}", taken_over.log);
    Ok(())
}
