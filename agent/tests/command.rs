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

/// The checks of a cache that a doctor makes: name, outcome, all that it says.
fn cache_checks(arguments: &[&str]) -> Vec<(String, String, String)> {
    let output = agent(&[&["doctor", "--json"], arguments].concat());
    let checks: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let word = |check: &serde_json::Value, name: &str| check[name].as_str().unwrap_or_default().to_owned();
    let checks = checks.iter().map(|check| {
        (word(check, "check"), word(check, "outcome"), word(check, "detail") + " -> " + &word(check, "advice"))
    });
    checks.filter(|(name, ..)| name.starts_with("cache-")).collect()
}

#[test]
fn a_doctor_looks_at_the_folder_of_a_cache_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    assert!(cache_checks(&[]).is_empty());

    let checks = cache_checks(&["--cache-dir", &at("a/b"), "--cache-size", "16777216"]);
    let names: Vec<_> = checks.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["cache-folder", "cache-files", "cache-disk", "cache-room"]);
    assert!(checks.iter().all(|(name, outcome, _)| outcome == "ok" || name == "cache-disk"), "{checks:?}");
    assert!(checks[0].2.contains("will be made"), "{checks:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

    let checks = cache_checks(&["--cache-dir", &at(""), "--cache-size", "10000000T"]);
    let (name, outcome, said) = checks.last().unwrap();
    assert!(name == "cache-room" && outcome == "warn" && said.contains("--cache-size "), "{checks:?}");

    std::fs::write(at("letter"), "dear").unwrap();
    let checks = cache_checks(&["--cache-dir", &at("")]);
    assert!(checks.len() == 1 && checks[0].1 == "fail" && checks[0].2.contains("no node cache"), "{checks:?}");
    let checks = cache_checks(&["--cache-dir", &at("letter")]);
    assert!(checks.len() == 1 && checks[0].1 == "warn" && checks[0].2.contains("folder of this machine"), "{checks:?}");

    let output = agent(&["doctor", "--cache-size", "10G"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn an_address_for_a_recording_is_looked_at_before_anything_begins() {
    for (address, words) in [
        ("http://127.0.0.1:1/checkpoints/redis/store", "/working-sets/NAME"),
        ("http://127.0.0.1:1/checkpoints/redis/working-sets/a%20b", "no name"),
        ("s3://bucket/working-sets/a", "http(s)://"),
    ] {
        let output = agent(&["restore", "/nowhere/at/all", "--record", address]);
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(words) && !said.contains("/nowhere"), "{said}");
    }
    let record = "http://127.0.0.1:1/working-sets/a";
    let output = agent(&["restore", "/nowhere", "--record", record, "--record-token-file", "/nowhere/token"]);
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("--record: /nowhere/token"), "{said}");
}
