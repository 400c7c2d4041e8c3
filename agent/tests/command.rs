//! The command as a user types it, as far as nothing is restored.

use std::{
    net::TcpListener,
    process::{Command, Output},
};

fn agent(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pageferry-agent")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn an_error_is_a_line_of_the_log_that_is_asked_for() {
    let output = agent(&["restore", "/nowhere/at/all"]);
    assert!(!output.status.success());
    assert!(text(&output.stderr).starts_with("pageferry-agent: "), "{}", text(&output.stderr));

    let output = agent(&["restore", "/nowhere/at/all", "--log-format", "json"]);
    assert!(!output.status.success());
    let lines: Vec<serde_json::Value> =
        output.stderr.split_inclusive(|b| *b == b'\n').map(|line| serde_json::from_slice(line).unwrap()).collect();
    let last = lines.last().expect("an error is logged");
    assert_eq!(last["level"], "ERROR");
    assert!(last["fields"]["message"].as_str().unwrap().contains("/nowhere/at/all"), "{last}");
}

#[test]
fn an_error_before_there_is_a_log_is_told_all_the_same() {
    let output = agent(&["restore", "/nowhere/at/all", "--log-format", "json", "--verbosity=many"]);
    assert!(text(&output.stderr).contains("--verbosity takes a number"), "{}", text(&output.stderr));
}

#[test]
fn metrics_on_an_address_that_is_taken_are_refused_before_anything_else() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for arguments in [&["restore", "/nowhere/at/all"][..], &["lazy-pages", "--store", "/nowhere/at/all"]] {
        let output = agent(&[arguments, &["--metrics", &address]].concat());
        assert!(!output.status.success());
        let error = text(&output.stderr);
        assert!(error.contains(&address) && !error.contains("/nowhere"), "{error}");
    }
}
