//! HTTP/2, spoken by clients that mean no good.

mod common;

use common::{program::*, *};
use pageferry_server::limits::Limits;
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const END_STREAM_AND_HEADERS: u8 = 5;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// `GET path`, without a table (RFC 7541, appendix A has the numbers).
fn get(stream: u32, path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x41, 1, b'a', 0x04, path.len() as u8];
    block.extend(path.as_bytes());
    frame(HEADERS, END_STREAM_AND_HEADERS, stream, &block)
}

fn connect(address: SocketAddr, settings: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, settings)).unwrap();
    stream
}

/// Whether it ends, by an end or by a reset.
fn ends(mut stream: TcpStream) -> bool {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn streams_that_are_taken_back_at_once() {
    let fixture = Fixture::new();
    let program = Program::start(&fixture.store(), &[]);
    let page = format!("/pid/20/page/{BIG:x}");
    assert_eq!(program.get(&page).status, 200);
    let before = program.status("VmRSS");
    for _ in 0..4 {
        let mut stream = connect(program.address, &[]);
        let attack: Vec<u8> = (0..50_000)
            .flat_map(|n| [get(2 * n + 1, &page), frame(RST_STREAM, 0, 2 * n + 1, &8u32.to_be_bytes())].concat())
            .collect();
        // It need not take all of it.
        let _ = stream.write_all(&attack);
        assert!(ends(stream), "it goes on as if nothing had happened");
        assert_eq!(program.get(&page).status, 200);
    }
    let grown = program.status("VmHWM").saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more");
}

#[test]
fn streams_without_a_window() {
    let fixture = Fixture::new();
    let stall = Duration::from_secs(1);
    let server = Running::with(&fixture.store(), Limits { stall, grace: Duration::ZERO, ..Limits::default() });
    // SETTINGS_INITIAL_WINDOW_SIZE 0: every answer is wanted, and no byte of it may be sent.
    let mut stream = connect(server.address, &[0, 4, 0, 0, 0, 0]);
    for number in 0..20 {
        stream.write_all(&get(2 * number + 1, &big())).unwrap();
    }
    assert!(ends(stream));
    let metrics = server.get("/metrics").text();
    assert!(metrics.contains("pageferry_connections_ended_total{reason=\"slow\"} 1\n"), "{metrics}");
    eventually(|| server.get("/metrics").text().contains("pageferry_answers_memory_bytes 0\n"));
}
