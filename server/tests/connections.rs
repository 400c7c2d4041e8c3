//! Connections that are slow, many, or there when the server stops.

mod common;

use common::{client, *};
use pageferry_server::limits::Limits;
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

/// Waits until the answer begins.
fn begun(stream: &TcpStream) {
    assert_eq!(stream.peek(&mut [0]).unwrap(), 1);
}

fn limits() -> Limits {
    Limits { grace: Duration::ZERO, ..Limits::default() }
}

#[test]
fn a_running_body_is_finished_on_shutdown() {
    let fixture = Fixture::new();
    let mut server = Running::with(&fixture.store(), Limits { grace: Duration::from_secs(20), ..limits() });
    let address = server.address;
    // One that waits for its next request is no reason to wait for it.
    let mut idle = client::open(address, "GET", "/healthz", &[], b"");
    let running = client::open(address, "GET", &big(), &[], b"");
    idle.read_exact(&mut [0; 16]).unwrap();
    begun(&running);
    server.stop();
    eventually(|| TcpStream::connect(address).is_err());
    let reply = client::read(running, "GET").unwrap();
    assert!(reply.body == expected_range(20, BIG, BIG_PAGES));
    assert_eq!(server.wait(), 0);
}

#[test]
fn shutdown_does_not_wait_for_ever() {
    let fixture = Fixture::new();
    let server = Running::with(&fixture.store(), Limits { grace: Duration::from_millis(300), ..limits() });
    let never_reads = client::open(server.address, "GET", &big(), &[], b"");
    begun(&never_reads);
    let start = Instant::now();
    assert_eq!(server.wait(), 1);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn clients_that_do_nothing_are_cut_off() {
    let fixture = Fixture::new();
    let short = Duration::from_millis(300);
    let server = Running::with(&fixture.store(), Limits { header: short, idle: short, stall: short, ..limits() });
    let silent = TcpStream::connect(server.address).unwrap();
    let mut slow_header = TcpStream::connect(server.address).unwrap();
    slow_header.write_all(b"GET /pid HTTP/1.1\r\n").unwrap();
    let never_reads = client::open(server.address, "GET", &big(), &[], b"");
    let headers = ["Content-Type: application/json", "Content-Length: 100"];
    let slow_body = client::open(server.address, "POST", "/pid/10/pages", &headers, b"");
    let idle = client::open(server.address, "GET", "/healthz", &[], b"");

    client::read(slow_body, "POST").unwrap().problem(408, "slow-body");
    for mut stream in [silent, slow_header, idle] {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // The end of the connection, perhaps after an answer.
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
    eventually(|| {
        let metrics = server.get("/metrics").text();
        metrics.contains("pageferry_connections 1\n") && metrics.contains("pageferry_http_bodies_cut_total 1\n")
    });
    assert!(client::read(never_reads, "GET").is_err(), "a cut body does not look whole");
}

#[test]
fn connections_are_limited() {
    let fixture = Fixture::new();
    let hurry = Duration::from_secs(60);
    let server = Running::with(&fixture.store(), Limits { connections: 2, hurry, ..limits() });
    let held: Vec<_> = (0..2).map(|_| client::open(server.address, "GET", &big(), &[], b"")).collect();
    held.iter().for_each(begun);
    // It waits in the queue, and is served as soon as there is a place.
    let third = client::open(server.address, "GET", "/healthz", &[], b"");
    third.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(client::read(third.try_clone().unwrap(), "GET").is_err());
    drop(held);
    third.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(client::read(third, "GET").unwrap().status, 200);
}

#[test]
fn garbage_is_survived() {
    let fixture = Fixture::new();
    let server = Running::start(&fixture.store());
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(200_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(5000));
    for bytes in [
        &b"\0\x01\x02\x03\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\ngarbage that is no frame at all",
        b"POST /pid/10/pages HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /pid/10/pages HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 18446744073709551615\r\n\r\n[",
        long.as_bytes(),
        many.as_bytes(),
    ] {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let head = String::from_utf8_lossy(&answer[..answer.len().min(12)]).into_owned();
        assert!(answer.is_empty() || head.starts_with("HTTP/1.1 4") || !head.starts_with("HTTP"), "{head}");
    }
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn before_the_checkpoint_is_open() {
    let limits = Limits { opening: Duration::from_millis(200), ..limits() };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(pageferry_server::Server::bind("127.0.0.1:0", limits)).unwrap();
    let address = server.address().unwrap();
    let opening = server.open("/nowhere/at/all", None);
    runtime.spawn(server.run(std::future::pending()));
    let get = |path: &str| client::request(address, "GET", path, &[], b"");
    assert_eq!(get("/healthz").status, 200);
    assert_eq!(get("/").status, 200);
    assert!(get("/metrics").text().contains("pageferry_ready 0\n"));
    let start = Instant::now();
    for path in ["/readyz", "/pid", "/pid/1/page/1000", "/store/checkpoint.json", "/checkpoint.json"] {
        let reply = get(path);
        reply.problem(503, "not-ready");
        assert_eq!(reply.header("retry-after"), Some("1"));
    }
    assert!(start.elapsed() > limits.opening, "requests wait a little");
    let error = format!("{:#}", runtime.block_on(opening).unwrap_err());
    assert!(error.contains("/nowhere/at/all"), "{error}");
}

#[test]
fn a_port_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let error = runtime.block_on(pageferry_server::Server::bind(&address, Limits::default())).unwrap_err();
    assert!(format!("{error:#}").contains(&address), "{error:#}");
}
