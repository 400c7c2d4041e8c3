//! A host that lies: an HTTP proxy that spoils the answers of a real server.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use anyhow::{Context, Result};

use crate::http::{Reply, get_with};

/// Ways to spoil an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The connection ends somewhere in the body.
    CutBody,
    /// Or in the head.
    CutHead,
    /// Or before it.
    NoAnswer,
    /// One bit of the body is wrong.
    FlippedBit,
    /// As much of another object as should have come of this one.
    OtherObject,
    /// 500.
    Error,
    /// 503 with `Retry-After`, at once or in a second.
    Busy,
    /// 429.
    TooMany,
    /// 404.
    NotFound,
    /// 200 with all of the object, though a range was asked for.
    WholeForRange,
    /// 206 with a part, though all was asked for; another part, if a range was.
    OtherPart,
    /// Fewer bytes than were asked for, said so honestly.
    Short,
    /// More bytes than were asked for, without a length.
    Long,
    /// A `Content-Range` that is not what was asked for, with the right bytes.
    WrongContentRange,
    /// A content coding that nobody asked for.
    Coded,
    /// A right answer; but the connection ends after it, though the head promises that it stays.
    ClosedIdle,
}

/// All of them.
pub const ALL_FAULTS: &[Fault] = &[
    Fault::CutBody,
    Fault::CutHead,
    Fault::NoAnswer,
    Fault::FlippedBit,
    Fault::OtherObject,
    Fault::Error,
    Fault::Busy,
    Fault::TooMany,
    Fault::NotFound,
    Fault::WholeForRange,
    Fault::OtherPart,
    Fault::Short,
    Fault::Long,
    Fault::WrongContentRange,
    Fault::Coded,
    Fault::ClosedIdle,
];

/// All but the one that hands out everything at once: without it, every frame has to be fought for.
pub const WITHOUT_WHOLE: &[Fault] = &[
    Fault::CutBody,
    Fault::CutHead,
    Fault::NoAnswer,
    Fault::FlippedBit,
    Fault::OtherObject,
    Fault::Error,
    Fault::Busy,
    Fault::TooMany,
    Fault::NotFound,
    Fault::OtherPart,
    Fault::Short,
    Fault::Long,
    Fault::WrongContentRange,
    Fault::Coded,
];

/// The proxy. It takes connections until it is dropped.
pub struct Hostile {
    port: u16,
    state: Arc<State>,
}

struct State {
    upstream: u16,
    /// Of ten answers, so many are spoiled.
    bad_of_ten: u64,
    faults: &'static [Fault],
    random: Mutex<u64>,
    /// A body of another object.
    other: Mutex<Vec<u8>>,
    stop: AtomicBool,
    good: AtomicU64,
    bad: AtomicU64,
}

impl Hostile {
    /// In front of a port of this machine.
    pub fn to(upstream: u16, bad_of_ten: u64, faults: &'static [Fault], seed: u64) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a proxy")?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State {
            upstream,
            bad_of_ten,
            faults,
            random: Mutex::new(seed),
            other: Mutex::default(),
            stop: false.into(),
            good: 0.into(),
            bad: 0.into(),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.stop.load(Relaxed) {
                    return;
                }
                let state = Arc::clone(&shared);
                // An error ends a connection: the other side went away.
                thread::spawn(move || state.serve(&stream));
            }
        });
        Ok(Self { port, state })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Answers that were right, and that were spoiled.
    pub fn answers(&self) -> (u64, u64) {
        (self.state.good.load(Relaxed), self.state.bad.load(Relaxed))
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.state.stop.store(true, Relaxed);
        // Ends the wait for the next connection.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

/// A request, as far as it matters.
struct Request {
    path: String,
    headers: Vec<String>,
    /// First and last byte.
    range: Option<(u64, u64)>,
}

impl State {
    fn serve(&self, stream: &TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let mut requests = BufReader::new(stream.try_clone()?).lines();
        while let Some(first) = requests.next() {
            let path = first?.split(' ').nth(1).context("no path")?.to_owned();
            let mut request = Request { path, headers: Vec::new(), range: None };
            for line in requests.by_ref() {
                let line = line?;
                if line.is_empty() {
                    break;
                }
                let lower = line.to_ascii_lowercase();
                if let Some((from, to)) = lower.strip_prefix("range: bytes=").and_then(|span| span.split_once('-')) {
                    request.range = from.parse().ok().zip(to.parse().ok());
                }
                if lower.starts_with("range:") || lower.starts_with("if-range:") {
                    request.headers.push(line);
                }
            }
            let fault = self.fault(&request);
            let count = if fault.is_some_and(|fault| fault != Fault::ClosedIdle) { &self.bad } else { &self.good };
            count.fetch_add(1, Relaxed);
            if !self.answer(stream, &request, fault)? {
                let _ = stream.shutdown(Shutdown::Both);
                return Ok(());
            }
        }
        Ok(())
    }

    fn fault(&self, request: &Request) -> Option<Fault> {
        if self.below(10) >= self.bad_of_ten {
            return None;
        }
        let fault = self.faults[self.below(self.faults.len() as u64) as usize];
        let unnoticed = matches!(fault, Fault::FlippedBit | Fault::OtherObject);
        // The manifest is what digests begin with: nothing could tell that it is wrong.
        (!unnoticed || !request.path.ends_with("checkpoint.json")).then_some(fault)
    }

    /// Returns whether the connection stays.
    fn answer(&self, mut to: &TcpStream, request: &Request, fault: Option<Fault>) -> Result<bool> {
        let headers: Vec<&str> = request.headers.iter().map(String::as_str).collect();
        let right = get_with(self.upstream, &request.path, &headers)?;
        let Reply { status, mut body, head } = right;
        let kept: String = head
            .lines()
            .skip(1)
            .filter(|line| {
                let line = line.to_ascii_lowercase();
                ["content-range", "etag", "content-type", "cache-control"].iter().any(|name| line.starts_with(name))
            })
            .map(|line| format!("{line}\r\n"))
            .collect();
        let length = |body: &[u8]| format!("Content-Length: {}\r\n", body.len());
        let send = |mut to: &TcpStream, status: &str, headers: &str, body: &[u8]| -> Result<bool> {
            write!(to, "HTTP/1.1 {status} -\r\n{headers}\r\n")?;
            to.write_all(body)?;
            Ok(true)
        };
        let empty = "Content-Length: 0\r\n";
        let status = status.to_string();
        match fault {
            None => send(to, &status, &(kept + &length(&body)), &body),
            Some(Fault::ClosedIdle) => send(to, &status, &(kept + &length(&body)), &body).map(|_| false),
            Some(Fault::CutBody) => {
                let sent = self.below(body.len() as u64 + 1) as usize;
                send(to, &status, &(kept + &length(&body)), &body[..sent]).map(|_| false)
            }
            Some(Fault::CutHead) => {
                to.write_all(b"HTTP/1.1 206 Partial Content\r\nContent-Len")?;
                Ok(false)
            }
            Some(Fault::NoAnswer) => Ok(false),
            Some(Fault::FlippedBit) => {
                if !body.is_empty() {
                    let at = self.below(body.len() as u64) as usize;
                    body[at] ^= 1 << self.below(8);
                }
                send(to, &status, &(kept + &length(&body)), &body)
            }
            Some(Fault::OtherObject) => {
                let mut other = self.other.lock().unwrap_or_else(PoisonError::into_inner);
                let mut sent = other.clone();
                sent.resize(body.len(), 0);
                *other = body;
                drop(other);
                send(to, &status, &(kept + &length(&sent)), &sent)
            }
            Some(Fault::Error) => send(to, "500", empty, b""),
            Some(Fault::Busy) => send(to, "503", &format!("Retry-After: {}\r\n{empty}", self.below(2)), b""),
            Some(Fault::TooMany) => send(to, "429", empty, b""),
            Some(Fault::NotFound) => send(to, "404", empty, b""),
            Some(Fault::WholeForRange) => {
                let whole = get_with(self.upstream, &request.path, &[])?;
                send(to, &whole.status.to_string(), &length(&whole.body), &whole.body)
            }
            Some(Fault::OtherPart) => {
                let (from, last) = request.range.unwrap_or((0, 10));
                let range = format!("Range: bytes={}-{}", from + 1, last + 1);
                let part = get_with(self.upstream, &request.path, &[&range])?;
                let span = part.head.lines().find(|line| line.to_ascii_lowercase().starts_with("content-range"));
                let headers = format!("{}\r\n{}", span.unwrap_or("X-Range: none"), length(&part.body));
                send(to, &part.status.to_string(), &headers, &part.body)
            }
            Some(Fault::Short) => {
                body.truncate(self.below(body.len() as u64 + 1) as usize);
                send(to, &status, &(kept + &length(&body)), &body)
            }
            Some(Fault::Long) => {
                body.extend_from_slice(b"and more");
                send(to, &status, &kept, &body).map(|_| false)
            }
            Some(Fault::WrongContentRange) => {
                let (from, last) = request.range.unwrap_or((0, 0));
                let headers = format!("Content-Range: bytes {}-{}/{}\r\n", from + 1, last + 1, last + 9);
                send(to, "206", &(headers + &length(&body)), &body)
            }
            Some(Fault::Coded) => {
                send(to, &status, &(format!("Content-Encoding: gzip\r\n{kept}") + &length(&body)), &body)
            }
        }
    }

    /// A random number below `end` (splitmix64).
    fn below(&self, end: u64) -> u64 {
        let mut state = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end.max(1)
    }
}
