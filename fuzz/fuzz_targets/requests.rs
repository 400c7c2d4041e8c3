//! Requests to a server of a small store, on one connection after another: paths, ranges, bulk bodies, conditions. Each is answered, and never
//! by "the server's fault".

#![no_main]

mod common;

use common::BASE;
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};
use page_store::MANIFEST_NAME;
use pageferry_server::{Server, limits::Limits};
use std::{
    cell::RefCell,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{LazyLock, mpsc},
};

#[derive(Arbitrary, Debug)]
enum Request<'a> {
    Bulk(&'a [u8]),
    /// Ranges in a well-formed list.
    Ranges(Vec<(u32, u32)>),
    Page(&'a str),
    Pages(&'a str, bool),
    PagesOf(u32, u32),
    Pagemap(&'a str),
    Object(&'a str),
}

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    request: Request<'a>,
    header: Option<(u8, &'a str)>,
}

const HEADERS: [&str; 6] = ["range", "if-none-match", "if-range", "accept", "accept-encoding", "if-match"];

/// A server that lives as long as this process.
static ADDRESS: LazyLock<SocketAddr> = LazyLock::new(|| {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, bytes) in &BASE.0 {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, bytes).expect("written");
        }
        assert!(dir.path().join(MANIFEST_NAME).exists());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let server = Server::bind("127.0.0.1:0", Limits::default()).await.expect("a port");
            server.open(dir.path().to_str().expect("a name"), None).await.expect("a store");
            tell.send(server.address().expect("an address")).expect("told");
            server.run(std::future::pending()).await;
        });
    });
    told.recv().expect("a server")
});

thread_local! {
    static CONNECTION: RefCell<Option<BufReader<TcpStream>>> = const { RefCell::new(None) };
}

/// For a path: what HTTP lets stand in one; the rest escaped.
fn escaped(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'/' | b'?' | b'=' | b'&' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

fn line(reader: &mut impl BufRead) -> Option<String> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).ok().filter(|n| *n > 0)?;
    Some(String::from_utf8_lossy(&line).trim().to_ascii_lowercase())
}

/// The status; `None` if the connection was closed before it came.
fn exchange(reader: &mut BufReader<TcpStream>, request: &[u8]) -> Option<(u16, bool)> {
    reader.get_mut().write_all(request).ok()?;
    let status = line(reader)?.split(' ').nth(1)?.parse().expect("a status");
    let (mut len, mut chunked, mut close) = (0u64, false, false);
    loop {
        let header = line(reader)?;
        match header.split_once(':').map(|(name, value)| (name, value.trim())) {
            None => break,
            Some(("content-length", value)) => len = value.parse().expect("a length"),
            Some(("transfer-encoding", value)) => chunked = value == "chunked",
            Some(("connection", value)) => close = value == "close",
            _ => {}
        }
    }
    let mut skip = |n: u64| std::io::copy(&mut reader.by_ref().take(n), &mut std::io::sink()).expect("a body");
    if !chunked {
        if !matches!(status, 204 | 304) {
            assert_eq!(skip(len), len, "the body breaks off");
        }
        return Some((status, close));
    }
    loop {
        let size = line(reader).expect("a chunk");
        let size = u64::from_str_radix(&size, 16).expect("a chunk's length");
        std::io::copy(&mut reader.by_ref().take(size + 2), &mut std::io::sink()).expect("a chunk");
        if size == 0 {
            return Some((status, close));
        }
    }
}

fuzz_target!(|input: Input| {
    let (path, body) = match input.request {
        Request::Bulk(body) => ("/pid/1/pages".into(), Some(body.to_vec())),
        Request::Ranges(ranges) => {
            let ranges = ranges.iter().map(|(a, b)| format!("\"{a:x}000-{b:x}000\"")).collect::<Vec<_>>();
            ("/pid/1/pages".into(), Some(format!("[{}]", ranges.join(",")).into_bytes()))
        }
        Request::Page(text) => (format!("/pid/1/page/{}", escaped(text)), None),
        Request::Pages(text, zero) => {
            (format!("/pid/1/pages/{}{}", escaped(text), if zero { "?holes=zero" } else { "" }), None)
        }
        Request::PagesOf(a, b) => (format!("/pid/2/pages/{a:x}000-{b:x}000?holes=zero"), None),
        Request::Pagemap(text) => (format!("/pid/{}/pagemap", escaped(text)), None),
        Request::Object("") => (format!("/store/{}", BASE.1.packs[0].object.object), None),
        Request::Object(text) => (format!("/store/{}", escaped(text)), None),
    };
    let mut request = format!("{} {path} HTTP/1.1\r\nhost: fuzz\r\n", if body.is_some() { "POST" } else { "GET" });
    if let Some((which, value)) = input.header {
        // A header that no client library sends would be refused by the HTTP library, which is not what is tried here.
        let value: String = value.chars().filter(|c| (' '..='~').contains(c)).collect();
        request += &format!("{}: {value}\r\n", HEADERS[usize::from(which) % HEADERS.len()]);
    }
    let body = body.unwrap_or_default();
    if request.starts_with("POST") {
        request += &format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
    }
    let request = [request.as_bytes(), b"\r\n", &body].concat();
    CONNECTION.with_borrow_mut(|connection| {
        let reader = connection.get_or_insert_with(|| BufReader::new(TcpStream::connect(*ADDRESS).expect("a server")));
        match exchange(reader, &request) {
            Some((status, close)) => {
                assert!((200..500).contains(&status), "{status} for {}", String::from_utf8_lossy(&request));
                if close {
                    *connection = None;
                }
            }
            None => panic!("no answer to {}", String::from_utf8_lossy(&request)),
        }
    });
});
