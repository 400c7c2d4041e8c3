//! A static web server with Range, which fails now and then if it is told to.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Serves a folder until the test ends.
pub(crate) struct Host {
    pub(crate) url: String,
    requests: Arc<AtomicU64>,
}

impl Host {
    /// Every `fail_every`-th request (0: none) is answered with 503 or, in turn, cut short in the middle of its body.
    pub(crate) fn start(root: &Path, fail_every: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicU64::new(0));
        let (root, counter) = (root.to_path_buf(), requests.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (root, counter) = (root.clone(), counter.clone());
                // A client that goes away is no failure of the test.
                std::thread::spawn(move || serve(stream, &root, &counter, fail_every));
            }
        });
        Self { url, requests }
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

fn serve(stream: TcpStream, root: &Path, counter: &AtomicU64, fail_every: u64) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut out = stream;
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line.trim().is_empty() {
                break;
            }
            lines.push(line.trim().to_lowercase());
        }
        let request = counter.fetch_add(1, Ordering::Relaxed) + 1;
        let fails = fail_every > 0 && request.is_multiple_of(fail_every);
        if fails && (request / fail_every).is_multiple_of(2) {
            out.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        }
        let path = lines[0].split(' ').nth(1).unwrap_or("/").trim_start_matches('/');
        let Ok(body) = fs::read(PathBuf::from(root).join(path)) else {
            out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        };
        let range = lines.iter().find_map(|line| line.strip_prefix("range: bytes="));
        let range = range
            .and_then(|r| r.split_once('-'))
            .map(|(a, b)| (a.parse::<usize>().unwrap(), b.parse::<usize>().unwrap()));
        let (head, slice) = match range {
            None => ("HTTP/1.1 200 OK\r\n".to_owned(), &body[..]),
            Some((first, _)) if first >= body.len() => {
                out.write_all(b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n\r\n")?;
                continue;
            }
            Some((first, last)) => {
                let last = last.min(body.len() - 1);
                let head = format!("HTTP/1.1 206 Partial\r\nContent-Range: bytes {first}-{last}/{}\r\n", body.len());
                (head, &body[first..=last])
            }
        };
        write!(out, "{head}Content-Length: {}\r\n\r\n", slice.len())?;
        if fails {
            out.write_all(&slice[..slice.len() / 2])?;
            return Ok(());
        }
        out.write_all(slice)?;
    }
}
