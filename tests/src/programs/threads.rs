//! What else a tree can have: threads, shared memory, a live child, a dead one.

use std::path::Path;

use anyhow::Result;

use super::{CommandLine, Program, State};
use crate::{http, tools};

const PORT: u16 = 8200;

/// A Python program with four threads that hold memory, a shared anonymous mapping, a child that reads it, a zombie.
pub struct Threads {
    /// Bytes held by each part.
    pub part_size: usize,
}

impl Program for Threads {
    fn name(&self) -> &'static str {
        "threads"
    }

    fn describe(&self) -> String {
        format!("a Python program with threads, children and shared memory, {} bytes each", self.part_size)
    }

    fn port(&self) -> u16 {
        PORT
    }

    fn command(&self, _folder: &Path) -> Result<CommandLine> {
        let script = tools::asset("threads.py").display().to_string();
        let args = vec![script, PORT.to_string(), self.part_size.to_string()];
        // The interpreter that gunicorn's environment was made from; this program needs no package.
        Ok(CommandLine { program: tools::program("python3")?, args, env: Vec::new() })
    }

    fn ready(&self) -> Result<()> {
        http::get(PORT, "/").map(drop)
    }

    fn items(&self) -> usize {
        1
    }

    fn reply(&self, _item: usize) -> Result<String> {
        http::get(PORT, "/")
    }

    fn state(&self) -> Result<State> {
        Ok(State::from([("state".to_owned(), http::get(PORT, "/state")?)]))
    }
}
