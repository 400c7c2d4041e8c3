//! `pageferry-strip list` of a server: what it has, what is said where nothing can be listed, and that nobody waits for ever.

mod common;

use anyhow::Context;
use common::{Scene, scene};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pageferry_tests::{Host, Result, tools};
use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    process::{Command, Stdio},
    thread,
    time::Instant,
};

const TOKEN: &str = "reader-0123456789abcdef";

fn list(location: &str, options: &[&str]) -> Result<Command> {
    let mut strip = tools::interruptible("pageferry-strip")?;
    strip.args(["list", location]).args(options);
    Ok(strip)
}

fn stores(location: &str, options: &[&str]) -> Result<Vec<serde_json::Value>> {
    let output = tools::run(list(location, &[options, &["--json"]].concat())?.stderr(Stdio::piped()))?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    report["stores"].as_array().cloned().context("no list")
}

fn refused(location: &str, options: &[&str]) -> Result<String> {
    let output = tools::output(&mut list(location, options)?)?;
    assert_eq!(output.status.code(), Some(1));
    Ok(tools::text(&output.stderr))
}

#[test]
fn a_server_is_listed_as_its_folder_is() -> Result<()> {
    let Scene { work, split, .. } = scene("threads", 1 << 20)?;
    let folder = work.folder("stores")?;
    fs::rename(&split.store, folder.join("one two"))?;
    fs::create_dir(folder.join("broken"))?;
    fs::write(folder.join("broken/checkpoint.json"), "{")?;
    let tokens = work.path().join("tokens");
    fs::write(&tokens, format!("agents read {TOKEN}\nprometheus metrics scraper-0123456789abcdef\n"))?;
    for (name, token) in [("reader", TOKEN), ("scraper", "scraper-0123456789abcdef")] {
        fs::write(work.path().join(name), token)?;
    }
    let file = |name: &str| work.path().join(name).display().to_string();
    let host = Host::server_with(&work, &folder, &["--token-file", &file("tokens")])?;
    let server = format!("http://127.0.0.1:{}", host.port());
    let access = ["--token-file", &file("reader")];

    let expected = stores(&folder.display().to_string(), &[])?;
    for location in [server.clone(), format!("{server}/"), format!("{server}/checkpoints")] {
        let listed = stores(&location, &access)?;
        assert_eq!(listed.len(), 2, "{listed:?}");
        for (listed, expected) in listed.iter().zip(&expected) {
            for (field, value) in expected.as_object().context("no object")? {
                match field.as_str() {
                    "store" => assert!(listed["store"].as_str().is_some_and(|store| store.starts_with(&server))),
                    "problem" => assert_eq!(listed["problem"].is_null(), value.is_null()),
                    _ => assert_eq!(listed[field], *value, "{field}"),
                }
            }
        }
        // The address is a store's.
        let store = listed[1]["store"].as_str().context("no address")?;
        assert_eq!(store, format!("{server}/checkpoints/one%20two/store"));
        tools::run(Command::new(tools::binary("pageferry-strip")?).args(["verify", store]).args(access))?;
    }
    let text = tools::text(&tools::run(&mut list(&server, &access)?)?.stdout);
    assert!(text.contains("tasks (") && text.contains("one%20two/store"), "{text}");

    for (location, options, words) in [
        (server.clone(), &[][..], "--token-file"),
        (server.clone(), &["--token-file", &file("scraper")], "scope read"),
        (format!("{server}/nowhere"), &access, "a plain web server cannot"),
    ] {
        let said = refused(&location, options)?;
        assert!(said.contains(words), "{words}: {said}");
        assert!(said.contains("/checkpoints") && !said.contains("0123456789abcdef"), "{said}");
    }
    let nginx = Host::nginx(&work, &folder)?;
    let said = refused(&nginx.url(), &[])?;
    assert!(said.contains("HTTP 404") && said.contains("a plain web server cannot"), "{said}");
    Ok(())
}

#[test]
fn what_is_no_list_ends_and_so_does_a_host_that_does_not_answer() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let location = format!("http://{}", listener.local_addr()?);
    let json = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";
    for (head, body, times, words) in [
        (json, "[1]", 1, "no list of a pageferry-server"),
        ("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n", "<html>", 1, "web page"),
        (json, &*" ".repeat(1 << 20), 33, "more than 33554432 bytes"),
    ] {
        thread::scope(|scope| -> Result<()> {
            let listener = &listener;
            scope.spawn(move || {
                let (mut stream, _) = listener.accept().expect("a client");
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(head.as_bytes());
                (0..times).for_each(|_| drop(stream.write_all(body.as_bytes())));
            });
            let said = refused(&location, &[])?;
            assert!(said.contains(words), "{words}: {said}");
            Ok(())
        })?;
    }

    // It accepts, and never answers.
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let mut strip = list(&location, &[])?.stderr(Stdio::piped()).spawn()?;
        let _connection = listener.accept()?;
        let start = Instant::now();
        kill(Pid::from_raw(i32::try_from(strip.id())?), signal)?;
        assert_eq!(strip.wait()?.code(), Some(code));
        assert!(start.elapsed().as_secs() < 5);
    }
    Ok(())
}
