//! The program as a process of its own, whose memory can be looked at.

use super::client;
use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_pageferry-server");

pub struct Program {
    pub child: Child,
    pub address: SocketAddr,
    pub message: Vec<String>,
}

impl Program {
    pub fn start(location: &Path, arguments: &[&str]) -> Self {
        Self::start_by(&[PROGRAM], location, arguments)
    }

    /// Started by a command that is given the program's name, if it is not that itself.
    pub fn start_by(command: &[&str], location: &Path, arguments: &[&str]) -> Self {
        let program = Some(PROGRAM).filter(|program| !command.contains(program));
        let mut child = Command::new(command[0])
            .args(&command[1..])
            .args(program)
            .arg(location)
            .args(if arguments.contains(&"--listen") { &[][..] } else { &["--listen", "127.0.0.1:0"] })
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let first = lines.next().expect("it says where it listens");
        let url = match serde_json::from_str::<serde_json::Value>(&first) {
            Ok(json) => json["url"].as_str().unwrap().to_owned(),
            Err(_) => first.strip_prefix("listening on ").unwrap().to_owned(),
        };
        let tcp = url.strip_prefix("http://").or(url.strip_prefix("https://"));
        // A unix socket has none.
        let address = tcp.map_or(([0, 0, 0, 0], 0).into(), |tcp| tcp.parse().unwrap());
        let mut message = vec![first];
        if !message[0].starts_with('{') {
            // An agent cannot restore from a unix socket, so no line says how.
            message.extend(lines.by_ref().take(if url.starts_with("unix:") { 5 } else { 6 }));
        }
        Self { child, address, message }
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args(["-s", signal, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// A size in `/proc/<pid>/status`, in bytes.
    pub fn status(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':')).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

impl Program {
    pub fn get(&self, path: &str) -> client::Reply {
        client::request(self.address, "GET", path, &[], b"")
    }

    /// A number of `/metrics`.
    pub fn metric(&self, name: &str) -> u64 {
        client::metric(&self.get("/metrics").text(), name)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
