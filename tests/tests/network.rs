//! Between the agent and its store is a network, with proxies, and names that come to mean another machine.

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use common::{Scene, scene};
use pageferry_tests::{Cell, Daemon, Host, Pager, Result, criu_restore, eventually, tools};

/// A proxy for plain HTTP (RFC 9112, section 3.2.2: requests carry the whole address), which counts its requests, and takes whatever host they
/// name to be on `port`.
fn forward_proxy(port: u16) -> Result<(u16, Arc<AtomicUsize>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let own = listener.local_addr()?.port();
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let counted = counted.clone();
            thread::spawn(move || -> std::io::Result<()> {
                let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
                let (mut answers, mut to_client) = (server.try_clone()?, client.try_clone()?);
                thread::spawn(move || std::io::copy(&mut answers, &mut to_client));
                for line in BufReader::new(client).lines() {
                    let line = line?;
                    let line = match line.split_once(" http://") {
                        Some((method, rest)) => {
                            counted.fetch_add(1, Relaxed);
                            format!("{method} /{}", rest.split_once('/').map_or("", |(_, path)| path))
                        }
                        None => line,
                    };
                    server.write_all(format!("{line}\r\n").as_bytes())?;
                }
                Ok(())
            });
        }
    });
    Ok((own, requests))
}

#[test]
fn a_proxy_is_the_way_if_the_environment_says_so() -> Result<()> {
    let Scene { work, checkpoint, split } = scene("redis", 5_000)?;
    let host = Host::server(&work, &split.store)?;
    let (proxy, requests) = forward_proxy(host.port())?;
    let cell = Cell::new()?;
    let with_proxy = |agent: &Command| {
        let mut command = Command::new(agent.get_program());
        command.args(agent.get_args()).env("http_proxy", format!("http://127.0.0.1:{proxy}")).env_remove("no_proxy");
        command
    };
    // No resolver knows that name (RFC 6761).
    let url = "http://store.invalid/store";
    let pager = Pager::start_by(with_proxy, url, &split.slim, &work.folder("pager")?, &[])?;
    criu_restore(&cell, &split.slim, pager.work(), &["--lazy-pages"])?;
    checkpoint.check(&cell)?;
    pager.finish()?;
    assert!(requests.load(Relaxed) > 0);
    Ok(())
}

#[test]
fn a_name_that_moves_to_another_address_is_followed() -> Result<()> {
    let Scene { work, checkpoint, split } = scene("redis", 20_000)?;
    let mut host = Host::server(&work, &split.store)?;
    let hosts = work.path().join("hosts");
    fs::write(&hosts, "127.0.0.1 store.test\n")?;
    let cell = Cell::new()?;
    let with_hosts = |agent: &Command| {
        const SCRIPT: &str = r#"mount --bind "$0" /etc/hosts && exec "$@""#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", SCRIPT]).arg(&hosts).arg(agent.get_program()).args(agent.get_args());
        command
    };
    let url = format!("http://store.test:{}/store", host.port());
    let options = ["--complete", "never"];
    let mut pager = Pager::start_by(with_hosts, &url, &split.slim, &work.folder("pager")?, &options)?;
    criu_restore(&cell, &split.slim, pager.work(), &["--lazy-pages"])?;
    checkpoint.first_reply(&cell)?;

    host.stop();
    let listen = format!("127.0.0.2:{}", host.port());
    let mut server = Command::new(tools::binary("pageferry-server")?);
    server.arg(&split.store).args(["--listen", &listen]);
    let _moved = Daemon::start("pageferry-server", &server, &work.path().join("moved.log"), None)?;
    eventually(|| answers(&listen))?;
    // The same file: what is mounted is not the name.
    fs::write(&hosts, "127.0.0.2 store.test\n")?;

    checkpoint.check(&cell)?;
    assert!(pager.daemon().is_running()?);
    Ok(())
}

fn answers(address: &str) -> Result<()> {
    let mut server = TcpStream::connect(address)?;
    write!(server, "GET /readyz HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    server.read_to_string(&mut answer)?;
    anyhow::ensure!(answer.contains(" 200 "), "{answer}");
    Ok(())
}
