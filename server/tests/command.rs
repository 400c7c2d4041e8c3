//! The program: what it prints, how it ends, how much memory it takes.

mod common;

use common::{client, program::*, *};
use std::{io::Read, process::Command, thread::sleep, time::Duration};

#[test]
fn prints_where_it_listens_and_stops_when_told() {
    let fixture = Fixture::new();
    for (signal, arguments) in [("TERM", &[][..]), ("INT", &["--json"])] {
        let mut program = Program::start(&fixture.store(), arguments);
        assert_eq!(client::request(program.address, "GET", "/readyz", &[], b"").status, 200);
        for line in program.message.iter().filter_map(|l| l.trim().strip_prefix("curl ")) {
            let path = line.rsplit_once("http://").unwrap().1.split_once('/').unwrap().1;
            assert_eq!(client::request(program.address, "GET", &format!("/{path}"), &[], b"").status, 200, "{line}");
        }
        if arguments.is_empty() {
            assert!(
                program.message[1].contains("3 tasks (first 10, task-20 20, task-30 30), 32 MiB"),
                "{:?}",
                program.message
            );
        }
        let running =
            client::open(program.address, "GET", &format!("/pid/20/pages/{BIG:x}-{:x}", BIG + 4096 * P), &[], b"");
        running.peek(&mut [0]).unwrap();
        program.signal(signal);
        sleep(Duration::from_millis(200));
        assert!(client::read(running, "GET").unwrap().body == expected_range(20, BIG, 4096));
        assert!(program.child.wait().unwrap().success());
        let mut log = String::new();
        program.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert_eq!(log, "", "nothing went wrong, nothing is logged");
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let fixture = Fixture::new();
    let mut program = Program::start(&fixture.store(), &["--grace", "1000"]);
    let never_reads = client::open(program.address, "GET", &big(), &[], b"");
    never_reads.peek(&mut [0]).unwrap();
    program.signal("TERM");
    eventually(|| std::net::TcpStream::connect(program.address).is_err());
    assert!(program.child.try_wait().unwrap().is_none(), "it has an answer to finish");
    program.signal("INT");
    assert_eq!(program.child.wait().unwrap().code(), Some(1));
    drop(never_reads);
}

#[test]
fn says_what_is_wrong() {
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("notes.txt"), "nothing").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (arguments, words) in [
        (&["/nowhere/at/all", "--listen", "127.0.0.1:0"][..], "/nowhere/at/all"),
        (&[other.path().to_str().unwrap(), "--listen", "127.0.0.1:0"], "checkpoint.json"),
        (
            &[other.path().to_str().unwrap(), "--default", "redis", "--listen", "127.0.0.1:0"],
            "no folder of checkpoints",
        ),
        (&["/nowhere/at/all", "--default", "redis", "--listen", "127.0.0.1:0"], "/nowhere/at/all"),
        (&["/", "--default", "a/b", "--listen", "127.0.0.1:0"], "cannot be the name"),
        (&["/nowhere", "--listen", &taken], "cannot listen"),
        (&["/nowhere", "--listen", "nonsense"], "cannot listen"),
        (&[], "Usage"),
    ] {
        let output = Command::new(PROGRAM).args(arguments).output().unwrap();
        assert!(!output.status.success());
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(words), "{arguments:?}: {error}");
    }
}

#[test]
fn logs_can_be_json() {
    let output = Command::new(PROGRAM)
        .args(["/nowhere/at/all", "--listen", "127.0.0.1:0", "--log-format", "json", "-v"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let lines: Vec<serde_json::Value> =
        output.stderr.split_inclusive(|b| *b == b'\n').map(|line| serde_json::from_slice(line).unwrap()).collect();
    let last = lines.last().expect("an error is logged");
    assert_eq!(last["level"], "ERROR");
    assert!(last["fields"]["message"].as_str().unwrap().contains("/nowhere/at/all"), "{last}");
}

#[test]
fn clients_that_do_not_read_hold_no_memory() {
    let fixture = Fixture::new();
    let program = Program::start(&fixture.store(), &[]);
    let big = format!("/pid/20/pages/{BIG:x}-{:x}", BIG + BIG_PAGES * P);
    // Once in full, so that what is allocated once is there.
    client::request(program.address, "GET", &big, &[], b"");
    let before = program.status("VmRSS");
    let held: Vec<_> = (0..60).map(|_| client::open(program.address, "GET", &big, &[], b"")).collect();
    sleep(Duration::from_millis(1500));
    let grown = program.status("VmRSS").saturating_sub(before);
    // 60 bodies of 32 MiB; each may hold what its connection buffers and a chunk of the pack.
    assert!(grown < 48 << 20, "{grown} bytes more");
    drop(held);
}

#[test]
fn a_whole_transfer_takes_little_memory() {
    let fixture = Fixture::new();
    let program = Program::start(&fixture.store(), &[]);
    for headers in [&[][..], &["Accept-Encoding: zstd"]] {
        for _ in 0..20 {
            let big = format!("/pid/20/pages/{BIG:x}-{:x}", BIG + BIG_PAGES * P);
            assert_eq!(client::request(program.address, "GET", &big, headers, b"").status, 200);
        }
    }
    let peak = program.status("VmHWM");
    assert!(peak < 64 << 20, "{peak} bytes");
}
