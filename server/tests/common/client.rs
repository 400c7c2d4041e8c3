//! As much of HTTP/1.1 as it takes to see every byte of an answer.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    /// A header that is there at most once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        let value = values.next().map(|(_, v)| v.as_str());
        assert!(values.next().is_none(), "{name} twice");
        value
    }
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
    /// The body of a problem document, after checking its form.
    pub fn problem(&self, status: u16, kind: &str) -> serde_json::Value {
        let body = self.json();
        assert_eq!(self.status, status, "{body}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(body["status"], status);
        assert_eq!(body["type"], format!("/problems#{kind}"), "{body}");
        for member in ["title", "detail", "next"] {
            assert!(body[member].as_str().is_some_and(|text| text.len() > 5), "{member}: {body}");
        }
        body
    }
}

/// A number in the text of `/metrics`.
pub fn metric(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is not in {text}")).parse().unwrap()
}

/// Sends a request on a connection of its own. Gives the connection, to be read at will.
pub fn open(address: SocketAddr, method: &str, path: &str, headers: &[&str], body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n");
    headers.iter().for_each(|header| head += &format!("{header}\r\n"));
    if !body.is_empty() {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    head += "\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    stream
}

pub fn request(address: SocketAddr, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Reply {
    read(open(address, method, path, headers, body), method).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
}

/// Reads an answer; an error if it is not whole.
pub fn read(stream: impl Read, method: &str) -> std::io::Result<Reply> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or(std::io::ErrorKind::InvalidData)?;
    let mut headers = Vec::new();
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let mut reply = Reply { status, headers, body: Vec::new() };
    if method == "HEAD" || status == 304 {
        return Ok(reply);
    }
    if reply.header("transfer-encoding").is_some() {
        loop {
            line.clear();
            stream.read_line(&mut line)?;
            let len = usize::from_str_radix(line.trim(), 16).map_err(|_| std::io::ErrorKind::InvalidData)?;
            let mut chunk = vec![0; len + 2];
            stream.read_exact(&mut chunk)?;
            if len == 0 {
                return Ok(reply);
            }
            reply.body.extend_from_slice(&chunk[..len]);
        }
    }
    let len: usize = reply.header("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
    reply.body.resize(len, 0);
    stream.read_exact(&mut reply.body)?;
    Ok(reply)
}
