//! A restore from a server that wants a token and a certificate, with all that may happen to both meanwhile.

mod common;

use anyhow::bail;
use common::{Scene, certificates, scene};
use pageferry_tests::{Cell, Daemon, Pager, Pair, Result, Role, criu_restore, eventually, free_port, tools};
use std::{fs, path::Path, process::Command};

const FIRST: &str = "first-0123456789abcdef";
const SECOND: &str = "second-0123456789abcdef";
const SCRAPER: &str = "scraper-0123456789abcdef";

fn replace(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    Ok(fs::rename(new, path)?)
}

#[test]
fn restore_over_mutual_tls_with_a_token_that_changes_and_an_agent_that_is_killed() -> Result<()> {
    let Scene { work, checkpoint, split } = scene("redis", 20_000)?;
    let folder = work.folder("secrets")?;
    certificates(&folder);
    let file = |name: &str| folder.join(name).display().to_string();
    let tokens = folder.join("tokens");
    fs::write(&tokens, format!("agents read {FIRST}\nprometheus metrics {SCRAPER}\n"))?;
    fs::write(folder.join("token"), format!("{FIRST}\n"))?;
    let port = free_port()?;
    let mut server = Command::new(tools::binary("pageferry-server")?);
    server.arg(&split.store).args(["--listen", &format!("127.0.0.1:{port}"), "--token-file"]).arg(&tokens);
    server.args(["--tls-cert", &file("server.pem"), "--tls-key", &file("server.key")]);
    server.args(["--tls-client-ca", &file("ca.pem")]);
    let mut server = Daemon::start("pageferry-server", &server, &work.path().join("server.log"), None)?;
    server.wait_for_port(port)?;
    let url = format!("https://127.0.0.1:{port}/store");
    let access = |token: &str, pair: &str| {
        let [ca, cert, key, token] =
            [file("ca.pem"), file(&format!("{pair}.pem")), file(&format!("{pair}.key")), file(token)];
        ["--tls-ca", &ca, "--tls-client-cert", &cert, "--tls-client-key", &key, "--token-file", &token]
            .map(str::to_owned)
            .to_vec()
    };

    // What is wrong is said with what to do about it.
    fs::write(folder.join("scraper"), SCRAPER)?;
    fs::write(folder.join("unknown"), "unknown-0123456789abcdef")?;
    for (arguments, words) in [
        (Vec::new(), "--tls-ca"),
        (access("token", "client")[..2].to_vec(), "--tls-client-cert"),
        (access("token", "client")[..6].to_vec(), "--token-file"),
        (access("unknown", "client"), "HTTP 401"),
        (access("scraper", "client"), "HTTP 403"),
        (access("token", "past"), "xpired"),
    ] {
        let doctor =
            Command::new(tools::binary("pageferry-agent")?).args(["doctor", &url]).args(&arguments).output()?;
        let said = tools::text(&doctor.stdout);
        assert!(!doctor.status.success() && said.contains(words), "{arguments:?}: {words}: {said}");
    }
    tools::run(Command::new(tools::binary("pageferry-strip")?).args(["verify", &url]).args(access("token", "client")))?;

    let restore = work.folder("restore")?;
    let cell = Cell::new()?;
    let mut arguments = access("token", "client");
    arguments.extend(["--complete".to_owned(), "never".to_owned()]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let pager = Pager::start(&url, &split.slim, &restore, &arguments)?;
    criu_restore(&cell, &split.slim, &restore, &["--lazy-pages"])?;

    // The token changes on both sides, and the agent dies: the one that takes over has the new one.
    replace(&tokens, &format!("agents read {SECOND}\n"))?;
    replace(&folder.join("token"), SECOND)?;
    let pair = Pair::new(&restore);
    eventually(|| match pair.kill(Role::Agent)? {
        true => Ok(()),
        false => bail!("no agent to kill"),
    })?;
    checkpoint.check(&cell)?;
    cell.end();
    pair.wait_for_end()?;
    let log = fs::read_to_string(restore.join("agent.log"))?;
    assert!(log.contains("took over") && !log.contains("0123456789abcdef"), "{log}");
    drop(pager);
    Ok(())
}
