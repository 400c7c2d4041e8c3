//! A web server on a free port: it reads real requests from real sockets and answers them as a test says.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

/// A request as far as these tests care.
#[derive(Debug, Clone)]
pub struct Request {
    pub path: String,
    /// `a..b` of `Range: bytes=a-(b-1)`.
    pub range: Option<(usize, usize)>,
    pub headers: Vec<String>,
}

/// Bytes that go to the socket; then it is kept open for the next request, or closed.
pub struct Answer {
    pub bytes: Vec<u8>,
    pub close: bool,
    /// How many of the last bytes are held back until a signal comes.
    pub held: Option<(usize, Arc<Notify>)>,
}

impl Answer {
    /// With `Content-Length`.
    pub fn new(status: &str, headers: &[&str], body: &[u8]) -> Self {
        let mut bytes = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
        headers.iter().for_each(|header| bytes += &format!("{header}\r\n"));
        Self { bytes: [bytes.as_bytes(), b"\r\n", body].concat(), close: false, held: None }
    }
    /// Exactly these bytes, then the end.
    pub fn raw(head: &str, body: &[u8]) -> Self {
        Self { bytes: [head.as_bytes(), body].concat(), close: true, held: None }
    }
    /// Stalls before the last `bytes` until `signal` comes.
    pub fn hold(self, bytes: usize, signal: &Arc<Notify>) -> Self {
        Self { held: Some((bytes, Arc::clone(signal))), ..self }
    }
}

/// A server that lives as long as the runtime.
pub struct Server {
    pub url: String,
    pub connections: Arc<AtomicUsize>,
    pub requests: Arc<AtomicUsize>,
}

/// Answers with `answer`.
pub async fn serve(answer: impl Fn(Request) -> Answer + Send + Sync + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let server = Server { url, connections: Arc::clone(&connections), requests: Arc::clone(&requests) };
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            connections.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(connection(socket, Arc::clone(&answer), Arc::clone(&requests)));
        }
    });
    server
}

async fn connection(
    socket: TcpStream,
    answer: Arc<impl Fn(Request) -> Answer + Send + Sync + 'static>,
    requests: Arc<AtomicUsize>,
) {
    let mut socket = BufReader::new(socket);
    while let Some(request) = read_request(&mut socket).await {
        requests.fetch_add(1, Ordering::Relaxed);
        let answer = answer(request);
        let (held, signal) = answer.held.unwrap_or_default();
        let (now, later) = answer.bytes.split_at(answer.bytes.len() - held);
        let mut sent = socket.get_mut().write_all(now).await;
        if held > 0 {
            signal.notified().await;
            sent = sent.and(socket.get_mut().write_all(later).await);
        }
        if sent.is_err() || answer.close {
            return;
        }
    }
}

async fn read_request(socket: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    socket.read_line(&mut line).await.ok().filter(|&n| n > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let (mut range, mut headers) = (None, Vec::new());
    loop {
        let mut line = String::new();
        socket.read_line(&mut line).await.ok().filter(|&n| n > 0)?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            return Some(Request { path, range, headers });
        }
        if let Some(span) = line.strip_prefix("range: bytes=") {
            let (first, last) = span.split_once('-')?;
            range = Some((first.parse().ok()?, last.parse::<usize>().ok()? + 1));
        }
        headers.push(line);
    }
}

/// What a decent static host does with a file.
pub fn file_answer(bytes: Option<Vec<u8>>, range: Option<(usize, usize)>) -> Answer {
    let kind = "Content-Type: application/octet-stream";
    match (bytes, range) {
        (None, _) => Answer::new("404 Not Found", &["Content-Type: text/html"], b"<h1>no</h1>"),
        (Some(bytes), None) => Answer::new("200 OK", &[kind], &bytes),
        (Some(bytes), Some((first, _))) if first >= bytes.len() => {
            let total = format!("Content-Range: bytes */{}", bytes.len());
            Answer::new("416 Range Not Satisfiable", &[&total], b"")
        }
        (Some(bytes), Some((first, end))) => {
            let end = end.min(bytes.len());
            let span = format!("Content-Range: bytes {first}-{}/{}", end - 1, bytes.len());
            Answer::new("206 Partial Content", &[kind, &span], &bytes[first..end])
        }
    }
}

/// Serves a directory below `/some/prefix/`.
pub async fn serve_dir(dir: impl Into<PathBuf>) -> Server {
    let dir = dir.into();
    serve(move |request| {
        let name = request.path.strip_prefix("/some/prefix/").unwrap_or("nowhere");
        file_answer(std::fs::read(dir.join(name)).ok(), request.range)
    })
    .await
}
