//! As much of an HTTP client as checks need: one request per connection, whole bodies.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
};

use anyhow::{Context, Result, ensure};

use crate::PATIENCE;

/// A reply.
#[derive(Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The header lines as they came.
    pub head: String,
    /// The body as it came.
    pub body: Vec<u8>,
}

impl Reply {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Connects to a port of the loopback address; nothing waits for longer than [`PATIENCE`].
pub fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).with_context(|| format!("port {port}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// `GET path`, with header lines like `Range: bytes=0-9`.
pub fn get_with(port: u16, path: &str, headers: &[&str]) -> Result<Reply> {
    let mut stream = connect(port)?;
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    // HTTP/1.0: the end of the connection is the end of the body, so there is no chunking to undo.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n{headers}\r\n")?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).with_context(|| format!("GET {path} on port {port}"))?;
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.with_context(|| format!("GET {path} on port {port}: no reply"))?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    let status = status.with_context(|| format!("GET {path} on port {port}: not HTTP: {head}"))?;
    Ok(Reply { status, head, body: bytes.split_off(end + 4) })
}

/// The body of a `GET` that succeeds.
pub fn get(port: u16, path: &str) -> Result<String> {
    let reply = get_with(port, path, &[])?;
    ensure!(reply.status == 200, "GET {path} on port {port}: {}\n{}", reply.head, reply.text());
    Ok(reply.text())
}
