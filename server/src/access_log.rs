//! One line for each request: who asked for what, and what came of it. A thread of its own writes, so that a disk or a pipe that is
//! slow holds up nobody's page.

use anyhow::{Context, Result};
use serde_json::json;
use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Write},
    path::Path,
    sync::{
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
    time::Duration,
};
use tracing_subscriber::fmt::{format::Writer, time::FormatTime};

/// Lines that wait to be written. More are dropped and counted.
const WAITING: usize = 4096;
/// Bytes that are written at once.
const BATCH: usize = 64 << 10;

/// Where the lines go.
#[derive(Debug)]
pub struct AccessLog {
    lines: SyncSender<Message>,
    dropped: AtomicU64,
    json: bool,
}

#[derive(Debug)]
enum Message {
    Line(String),
    Reopen,
}

/// What is said about a request.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) peer: &'a str,
    pub(crate) method: &'a str,
    /// Without the query, which may hold a signature.
    pub(crate) path: &'a str,
    pub(crate) status: u16,
    /// Of the body, as far as it was handed to the connection.
    pub(crate) bytes: u64,
    pub(crate) whole: bool,
    pub(crate) duration: Duration,
    pub(crate) request_id: &'a str,
    pub(crate) token: Option<&'a str>,
    pub(crate) user_agent: Option<&'a str>,
}

impl AccessLog {
    /// Appends to a file; `-` is standard output.
    pub fn open(path: &Path, json: bool) -> Result<Self> {
        let target = (path != Path::new("-")).then(|| path.to_owned());
        let out = open(target.as_deref())?;
        let (lines, receiver) = sync_channel(WAITING);
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write(&receiver, out, target.as_deref()))
            .context("cannot start the thread of the access log")?;
        Ok(Self { lines, dropped: AtomicU64::new(0), json })
    }

    /// Opens the file by its name again: the old one was moved away.
    pub(crate) fn reopen(&self) {
        // The thread ends with the last sender, which is this.
        let _ = self.lines.send(Message::Reopen);
    }

    pub(crate) fn note(&self, entry: &Entry<'_>) {
        if self.lines.try_send(Message::Line(line(entry, &now(), self.json))).is_err()
            && self.dropped.fetch_add(1, Relaxed).is_power_of_two()
        {
            tracing::warn!("the access log is written more slowly than requests come: lines are left out");
        }
    }
}

fn now() -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = tracing_subscriber::fmt::time::SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

fn line(entry: &Entry<'_>, time: &str, json: bool) -> String {
    let micros = u64::try_from(entry.duration.as_micros()).unwrap_or(u64::MAX);
    if json {
        let object = json!({
            "time": time, "peer": entry.peer, "method": entry.method, "path": entry.path, "status": entry.status,
            "bytes": entry.bytes, "whole": entry.whole, "micros": micros, "request_id": entry.request_id,
            "token": entry.token, "user_agent": entry.user_agent,
        });
        return format!("{object}\n");
    }
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let Entry { peer, method, status, bytes, request_id, .. } = entry;
    let mut line = format!("{time} {peer} {method} {} {status} {bytes} {micros}us {request_id}", quoted(entry.path));
    let token = entry.token.unwrap_or("-");
    let agent = entry.user_agent.map_or_else(|| "-".to_owned(), quoted);
    let cut = if entry.whole { "" } else { " cut" };
    // Writing to a string does not fail.
    let _ = writeln!(line, " {token} {agent}{cut}");
    line
}

fn open(target: Option<&Path>) -> Result<Box<dyn Write + Send>> {
    Ok(match target {
        None => Box::new(io::stdout()),
        Some(path) => {
            let file = File::options().append(true).create(true).open(path);
            Box::new(file.with_context(|| format!("cannot open the access log {}", path.display()))?)
        }
    })
}

fn write(lines: &Receiver<Message>, mut out: Box<dyn Write + Send>, target: Option<&Path>) {
    let mut failing = false;
    let mut batch = String::new();
    while let Ok(first) = lines.recv() {
        let mut next = Ok(first);
        let mut reopen = false;
        loop {
            match next {
                Ok(Message::Line(line)) => batch += &line,
                Ok(Message::Reopen) => reopen = true,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
            if reopen || batch.len() >= BATCH {
                break;
            }
            next = lines.try_recv();
        }
        match out.write_all(batch.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                tracing::error!(
                    "access log: {error}; requests are served, and not logged until it can be written again"
                );
            }
            Err(_) => {}
        }
        batch.clear();
        if reopen {
            match open(target) {
                Ok(new) => out = new,
                Err(error) => tracing::error!("{error:#}; going on with the old file"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_request_breaks_out_of_its_line() {
        let entry = Entry {
            peer: "127.0.0.1:5",
            method: "GET",
            path: "/a\"b",
            status: 200,
            bytes: 3,
            whole: true,
            duration: Duration::from_micros(7),
            request_id: "id",
            token: Some("agents"),
            user_agent: Some("x\n\"y"),
        };
        let text = line(&entry, "T", false);
        assert_eq!(text, "T 127.0.0.1:5 GET \"/a\\\"b\" 200 3 7us id agents \"x\\n\\\"y\"\n");
        let object: serde_json::Value = serde_json::from_str(&line(&entry, "T", true)).unwrap();
        assert_eq!((object["user_agent"].as_str(), object["bytes"].as_u64()), (Some("x\n\"y"), Some(3)));
    }
}
