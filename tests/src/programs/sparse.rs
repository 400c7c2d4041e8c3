//! A process with more address space than memory, which does things to it when told.

use std::path::Path;

use anyhow::Result;

use super::{CommandLine, Program, State};
use crate::{http, tools};

const PORT: u16 = 8400;

/// A Python program with one large mapping; every `step`th page has content.
pub struct Sparse {
    /// The mapping's size in bytes: at least 4 GiB.
    pub bytes: usize,
    /// In pages.
    pub step: usize,
}

impl Sparse {
    /// Has it do something: `discard`, `unmap`, `exec`, `exit`.
    pub fn tell(what: &str) -> Result<String> {
        http::get(PORT, &format!("/{what}"))
    }
}

impl Program for Sparse {
    fn name(&self) -> &'static str {
        "sparse"
    }

    fn describe(&self) -> String {
        format!("a Python program with a mapping of {} MB, every {}th page in use", self.bytes / 1_000_000, self.step)
    }

    fn port(&self) -> u16 {
        PORT
    }

    fn command(&self, _folder: &Path) -> Result<CommandLine> {
        let script = tools::asset("sparse.py").display().to_string();
        let args = vec![script, PORT.to_string(), self.bytes.to_string(), self.step.to_string()];
        Ok(CommandLine { program: tools::program("python3")?, args, env: Vec::new() })
    }

    fn ready(&self) -> Result<()> {
        http::get(PORT, "/").map(drop)
    }

    fn items(&self) -> usize {
        self.bytes / 4096 / self.step
    }

    fn reply(&self, item: usize) -> Result<String> {
        http::get(PORT, &format!("/item/{item}"))
    }

    fn state(&self) -> Result<State> {
        Ok(State::from([("state".to_owned(), http::get(PORT, "/state")?)]))
    }
}
