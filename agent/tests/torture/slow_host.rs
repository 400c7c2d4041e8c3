//! A slow, unreliable web server, so that memory is still missing while things happen to it.

use super::content::Random;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread::sleep,
    time::Duration,
};

/// How it behaves.
#[derive(Clone, Debug)]
pub struct SlowHost {
    /// What it serves.
    pub dir: PathBuf,
    /// Before each answer.
    pub latency: Duration,
    /// Of each connection.
    pub bytes_per_second: u64,
    /// One answer in so many goes wrong: an error, half of the bytes, or none at all.
    pub failures: usize,
}

/// Bytes sent at once.
const CHUNK: u64 = 16 << 10;

impl SlowHost {
    /// Serves on a free port as long as this program runs: the address.
    pub fn start(self) -> io::Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let host = Arc::new(self);
        std::thread::spawn(move || {
            for (number, socket) in listener.incoming().flatten().enumerate() {
                let host = host.clone();
                // Errors end a connection: the other side went away.
                std::thread::spawn(move || host.serve(socket, Random::new(number as u64)));
            }
        });
        Ok(url)
    }

    fn serve(&self, mut socket: TcpStream, mut random: Random) -> io::Result<()> {
        socket.set_nodelay(true)?;
        let mut requests = BufReader::new(socket.try_clone()?).lines();
        while let Some(first) = requests.next() {
            let first = first?;
            let path = first.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
            let mut range = None;
            for line in requests.by_ref() {
                let line = line?.to_ascii_lowercase();
                if line.is_empty() {
                    break;
                }
                if let Some((from, to)) = line.strip_prefix("range: bytes=").and_then(|span| span.split_once('-')) {
                    range = from.parse::<u64>().ok().zip(to.parse::<u64>().ok());
                }
            }
            sleep(self.latency);
            let fails = random.one_in(self.failures) && range.is_some();
            match (random.below(3), fails) {
                (0, true) => return Ok(()),
                (1, true) => socket.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")?,
                (_, fails) => {
                    self.answer(&mut socket, &self.dir.join(path), range, fails)?;
                    if fails {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn answer(&self, socket: &mut TcpStream, path: &Path, range: Option<(u64, u64)>, half: bool) -> io::Result<()> {
        let Ok(file) = File::open(path) else {
            return socket.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        };
        let size = file.metadata()?.len();
        let (from, to) = range.map_or((0, size), |(from, last)| (from.min(size), (last + 1).min(size)));
        let status = match range {
            Some(_) => format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{size}", to.saturating_sub(1)),
            None => "200 OK".into(),
        };
        write!(
            socket,
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nAccept-Ranges: bytes\r\nETag: \"{size}\"\r\n\r\n",
            to - from
        )?;
        let end = if half { from + (to - from) / 2 } else { to };
        let mut at = from;
        while at < end {
            let mut bytes = vec![0; CHUNK.min(end - at) as usize];
            file.read_exact_at(&mut bytes, at)?;
            socket.write_all(&bytes)?;
            at += bytes.len() as u64;
            sleep(Duration::from_micros(bytes.len() as u64 * 1_000_000 / self.bytes_per_second));
        }
        Ok(())
    }
}
