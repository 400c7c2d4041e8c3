//! A network between two programs: a TCP proxy that delays and paces what goes through it.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// Bytes that are read at a time: at 200 Mbit/s, 2.6 ms of the link.
const CHUNK: usize = 64 << 10;
/// Chunks under way in one direction of one connection: 64 MiB, what 10 Gbit/s carry in 50 ms.
const UNDER_WAY: usize = 1024;

/// What a link is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// There and back.
    pub round_trip: Duration,
    /// Bits per second, each way, all connections together; `None`: no limit.
    pub rate: Option<f64>,
}

/// A link to a port of this machine. It takes connections until it is dropped; those that are open then go on.
pub struct SlowLink {
    port: u16,
    stop: Arc<AtomicBool>,
}

impl SlowLink {
    /// A link whose far end is `port`.
    pub fn to(port: u16, speed: Speed) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a link")?;
        let near = listener.local_addr()?.port();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        thread::spawn(move || {
            let (there, back) = (Arc::new(Pacer::default()), Arc::new(Pacer::default()));
            for near in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                // Whose other end does not answer is closed, as by a host that refuses.
                let Ok(near) = near else { continue };
                let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { continue };
                let ways = [(near.try_clone(), far.try_clone(), &there), (far.try_clone(), near.try_clone(), &back)];
                for (from, to, pacer) in ways {
                    if let (Ok(from), Ok(to)) = (from, to) {
                        carry(from, to, Arc::clone(pacer), speed);
                    }
                }
            }
        });
        Ok(Self { port: near, stop })
    }

    /// Its near end, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for SlowLink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Ends the wait for the next connection.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

/// One direction of a link: when it is free again.
#[derive(Default)]
struct Pacer(Mutex<Option<Instant>>);

impl Pacer {
    /// When the last of `bytes` leaves, if they queue up now.
    fn leaves(&self, bytes: usize, speed: Speed, earliest: Instant) -> Instant {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = free.unwrap_or(earliest).max(earliest);
        let end = speed.rate.map_or(start, |rate| start + Duration::from_secs_f64(bytes as f64 * 8.0 / rate));
        *free = Some(end);
        end
    }
}

fn carry(from: TcpStream, to: TcpStream, pacer: Arc<Pacer>, speed: Speed) {
    let (sender, receiver) = sync_channel(UNDER_WAY);
    thread::spawn(move || read(from, &sender, &pacer, speed));
    thread::spawn(move || write(to, &receiver));
}

/// Reads as fast as the link takes it, so that a full link is felt at the near end.
fn read(mut from: TcpStream, out: &SyncSender<(Instant, Vec<u8>)>, pacer: &Pacer, speed: Speed) {
    // A connection is there after one round trip of its own.
    let connected = Instant::now() + speed.round_trip;
    let mut buffer = vec![0; CHUNK];
    loop {
        let length = match from.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => return,
            Ok(length) => length,
        };
        let leaves = pacer.leaves(length, speed, Instant::now().max(connected));
        if out.send((leaves + speed.round_trip / 2, buffer[..length].to_vec())).is_err() {
            return;
        }
        if speed.rate.is_some() {
            sleep_until(leaves);
        }
    }
}

fn write(mut to: TcpStream, from: &Receiver<(Instant, Vec<u8>)>) {
    let _ = to.set_nodelay(true);
    while let Ok((arrives, bytes)) = from.recv() {
        sleep_until(arrives);
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

fn sleep_until(moment: Instant) {
    let left = moment.saturating_duration_since(Instant::now());
    if !left.is_zero() {
        thread::sleep(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes is sent back.
    fn echo() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut &stream));
            }
        });
        port
    }

    #[test]
    fn everything_arrives_in_order_and_no_sooner_than_the_link_allows() {
        let speed = Speed { round_trip: Duration::from_millis(20), rate: Some(80e6) };
        let link = SlowLink::to(echo(), speed).unwrap();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, link.port())).unwrap();
        let start = Instant::now();
        let sent: Vec<u8> = (0..1_000_000u32).map(|n| (n / 7) as u8).collect();
        let mut writer = stream.try_clone().unwrap();
        let expected = sent.clone();
        thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        assert!(received == expected);
        // Connecting, there and back; and 8 Mbit at 80 Mbit/s.
        assert!(start.elapsed() >= Duration::from_millis(20 + 20 + 100));
    }
}
