//! A process that is nothing but memory, of any size.

use std::path::Path;

use anyhow::{Context, Result};

use super::{CommandLine, Program, State};
use crate::{http, tools};

const PORT: u16 = 8300;

/// A Python program with one large mapping.
pub struct Memory {
    /// Its size.
    pub bytes: usize,
    /// Whether a second process, forked from it, has the same.
    pub twin: bool,
}

impl Memory {
    /// How long it took to read one byte in each of `count` pages from `first` on, every `step` pages, in seconds: of the
    /// program, or of its twin.
    pub fn touch(&self, twin: bool, first: usize, step: usize, count: usize) -> Result<Vec<f64>> {
        let reply = http::get(PORT + u16::from(twin), &format!("/touch/{first}/{step}/{count}"))?;
        let nanos: Vec<f64> = serde_json::from_str(&reply).with_context(|| reply)?;
        Ok(nanos.into_iter().map(|nanos| nanos / 1e9).collect())
    }
}

impl Program for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn describe(&self) -> String {
        let twin = if self.twin { ", and its twin" } else { "" };
        format!("a Python program with {} MB of memory{twin}", self.bytes / 1_000_000)
    }

    fn port(&self) -> u16 {
        PORT
    }

    fn command(&self, _folder: &Path) -> Result<CommandLine> {
        let mut args = vec![tools::asset("memory.py").display().to_string(), PORT.to_string(), self.bytes.to_string()];
        args.extend(self.twin.then(|| "twin".to_owned()));
        Ok(CommandLine { program: tools::program("python3")?, args, env: Vec::new() })
    }

    fn ready(&self) -> Result<()> {
        http::get(PORT, "/")?;
        if self.twin {
            http::get(PORT + 1, "/")?;
        }
        Ok(())
    }

    fn items(&self) -> usize {
        self.bytes / 4096
    }

    fn reply(&self, item: usize) -> Result<String> {
        http::get(PORT, &format!("/item/{item}"))
    }

    fn state(&self) -> Result<State> {
        let mut state = State::from([("state".to_owned(), http::get(PORT, "/state")?)]);
        if self.twin {
            state.insert("twin".to_owned(), http::get(PORT + 1, "/state")?);
        }
        Ok(state)
    }
}
