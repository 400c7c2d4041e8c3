//! Clients that are many, slow, or ask for too much: what they get, and that nobody else notices.

mod common;

use common::{client, program::*, *};
use pageferry_server::limits::{Limits, MAX_BODY, MAX_RANGES, raise_open_files};
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

/// Another client, whose pages come as if it were alone.
fn others_are_served(address: std::net::SocketAddr) {
    for page in (0..NOISE_PAGES + 64).step_by(9) {
        let path = format!("/pid/20/page/{:x}", BIG + page * P);
        let reply = client::request(address, "GET", &path, &[], b"");
        assert_eq!((reply.status, Some(reply.body)), (200, expected(20, BIG + page * P)), "{path}");
    }
}

fn limits() -> Limits {
    Limits { grace: Duration::ZERO, ..Limits::default() }
}

fn ended(text: &str, reason: &str) -> u64 {
    client::metric(text, &format!("pageferry_connections_ended_total{{reason=\"{reason}\"}}"))
}

#[test]
fn headers_byte_by_byte() {
    let fixture = Fixture::new();
    let header = Duration::from_secs(1);
    let server = Running::with(&fixture.store(), Limits { header, connections: 300, ..limits() });
    let mut slow: Vec<_> = (0..250).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    for byte in b"GET /healthz HTTP/1.1\r\n" {
        slow.iter_mut().for_each(|stream| drop(stream.write_all(&[*byte])));
        others_are_served(server.address);
    }
    eventually(|| ended(&server.get("/metrics").text(), "slow_header") >= 250);
    for mut stream in slow {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut answer = Vec::new();
        // The end, or a reset for the bytes that nobody read.
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    }
}

#[test]
fn thousands_of_idle_connections() {
    const CONNECTIONS: usize = 3000;
    assert!(raise_open_files() > CONNECTIONS, "this test needs 3300 open files (ulimit -Hn)");
    let fixture = Fixture::new();
    let program = Program::start(&fixture.store(), &[]);
    let most = Limits::default().connections;
    assert!(most < CONNECTIONS);
    others_are_served(program.address);
    let before = program.status("VmRSS");
    let mut held = Vec::new();
    for number in 0..CONNECTIONS {
        // Every other one has had an answer and stays for the next.
        held.push(match number % 2 {
            0 => TcpStream::connect(program.address).unwrap(),
            _ => {
                let mut stream = client::open(program.address, "GET", "/healthz", &[], b"");
                stream.read_exact(&mut [0; 12]).unwrap();
                stream
            }
        });
        if number % 500 == 0 {
            others_are_served(program.address);
        }
    }
    others_are_served(program.address);
    let connections = program.metric("pageferry_connections");
    let grown = program.status("VmRSS").saturating_sub(before);
    println!("{connections} connections: {} KiB each", grown / connections / 1024);
    assert!(connections as usize > most / 2 && connections as usize <= most, "{connections}");
    assert!(grown < 40 << 20, "{grown} bytes for {connections} idle connections");
    let crowded = ended(&program.get("/metrics").text(), "crowded");
    assert!(crowded as usize >= CONNECTIONS - most, "{crowded}");
    drop(held);
}

#[test]
fn more_connections_than_open_files() {
    let fixture = Fixture::new();
    // 256 are for other files, so there is room for 64.
    let program = Program::start_by(&["sh", "-c", "ulimit -n 320; exec \"$@\"", "sh"], &fixture.store(), &[]);
    let held: Vec<_> = (0..400).map(|_| TcpStream::connect(program.address).unwrap()).collect();
    others_are_served(program.address);
    assert!(program.metric("pageferry_connections") <= 64);
    assert_eq!(program.metric("pageferry_accept_errors_total"), 0);
    drop(held);
}

#[test]
fn clients_that_stop_reading() {
    const CLIENTS: usize = 400;
    let fixture = Fixture::new();
    let store: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixture.store().join("checkpoint.json")).unwrap()).unwrap();
    let pack = format!("/store/{}", store["packs"][0]["object"].as_str().unwrap());
    for (coding, headers) in [("plain", &[][..]), ("zstd", &["Accept-Encoding: zstd"])] {
        let program = Program::start(&fixture.dump(), &[]);
        let before = program.status("VmRSS");
        let held: Vec<_> = (0..CLIENTS).map(|_| client::open(program.address, "GET", &big(), headers, b"")).collect();
        // Small answers have room of their own.
        others_are_served(program.address);
        // A large one gets the room of somebody who does not use it.
        let reply = client::request(program.address, "GET", &big(), &[], b"");
        assert!(reply.body == expected_range(20, BIG, BIG_PAGES));
        let peak = program.status("VmHWM");
        println!("{coding}: {} MiB before, {} MiB at most", before >> 20, peak >> 20);
        assert!(peak < before + (56 << 20), "{coding}: {peak} bytes, {before} before");
        let metrics = program.get("/metrics").text();
        assert!(ended(&metrics, "slow_while_others_wait") > 0, "{metrics}");
        drop(held);
    }
    let program = Program::start(&fixture.store(), &[]);
    let held: Vec<_> = (0..CLIENTS).map(|_| client::open(program.address, "GET", &pack, &[], b"")).collect();
    others_are_served(program.address);
    assert_eq!(program.get(&pack).status, 200);
    assert!(program.status("VmHWM") < 64 << 20);
    drop(held);
}

#[test]
fn who_finds_no_room_is_told_to_come_again() {
    let fixture = Fixture::new();
    let long = Duration::from_secs(600);
    let queue = Duration::from_millis(300);
    let server = Running::with(
        &fixture.store(),
        Limits { memory: Limits::LEAST_MEMORY, hurry: long, stall: long, queue, ..limits() },
    );
    let held: Vec<_> = (0..20).map(|_| client::open(server.address, "GET", &big(), &[], b"")).collect();
    eventually(|| client::metric(&server.get("/metrics").text(), "pageferry_http_refused_total") > 0);
    let reply = server.get(&big());
    let problem = reply.problem(503, "busy");
    assert!(problem["next"].as_str().unwrap().contains("--memory"), "{problem}");
    assert_eq!(reply.header("retry-after"), Some("1"));
    // What is small still finds room.
    others_are_served(server.address);
    drop(held);
    eventually(|| client::metric(&server.get("/metrics").text(), "pageferry_answers_memory_bytes") == 0);
    assert_eq!(server.get(&big()).status, 200);
}

#[test]
fn more_than_a_request_may_ask_for() {
    let fixture = Fixture::new();
    let program = Program::start(&fixture.store(), &[]);
    let json = "Content-Type: application/json";
    let bulk = |body: &str| client::request(program.address, "POST", "/pid/20/pages", &[json], body.as_bytes());
    let ranges = |count: usize| {
        let ranges: Vec<_> = (0..count as u64).map(|_| format!("\"{BIG:x}-{:x}\"", BIG + P)).collect();
        format!("[{}]", ranges.join(","))
    };
    assert_eq!(bulk(&ranges(MAX_RANGES)).status, 200);
    bulk(&ranges(MAX_RANGES + 1)).problem(413, "too-large");
    // 10,000 ranges are more than the body may have bytes, too.
    for (headers, body) in [
        (vec![json.to_owned(), format!("Content-Length: {}", 10u64 << 30)], ranges(10)),
        (vec![json.to_owned(), format!("Content-Length: {}", MAX_BODY + 1)], String::new()),
        (
            vec![json.to_owned(), "Transfer-Encoding: chunked".to_owned()],
            format!("{:x}\r\n{}", 1 << 30, ranges(10_000)),
        ),
    ] {
        let headers: Vec<_> = headers.iter().map(String::as_str).collect();
        let mut stream = client::open(program.address, "POST", "/pid/20/pages", &headers, b"");
        let _ = stream.write_all(body.as_bytes());
        client::read(stream, "POST").unwrap().problem(413, "too-large");
    }
    let whole = "/pid/20/pages/0-100000000000000?holes=zero";
    program.get(whole).problem(413, "too-large");

    let lines = |count: usize| (0..count).map(|n| format!("X-{n}: y")).collect::<Vec<_>>();
    let long = vec![format!("X: {}", "y".repeat(20_000))];
    for (headers, path, status) in [
        (lines(30), "/healthz".to_owned(), 200),
        (lines(200), "/healthz".to_owned(), 431),
        (long, "/healthz".to_owned(), 431),
        (vec![], format!("/{}", "a".repeat(12_000)), 404),
        (vec![], format!("/{}", "a".repeat(100_000)), 431),
    ] {
        let headers: Vec<_> = headers.iter().map(String::as_str).collect();
        assert_eq!(client::request(program.address, "GET", &path, &headers, b"").status, status, "{}", path.len());
    }
    let peak = program.status("VmHWM");
    assert!(peak < 64 << 20, "{peak} bytes");
}
