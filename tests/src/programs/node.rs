//! node with a heap of objects.

use std::path::Path;

use anyhow::Result;

use super::{CommandLine, Program, State, http_state};
use crate::{http, tools};

const PORT: u16 = 3000;

/// An HTTP server over `objects` objects; 300,000 make a dump of about 150 MB.
pub struct Node {
    /// How many.
    pub objects: usize,
}

impl Program for Node {
    fn name(&self) -> &'static str {
        "node"
    }

    fn describe(&self) -> String {
        format!("a node HTTP server over {} objects", self.objects)
    }

    fn port(&self) -> u16 {
        PORT
    }

    fn command(&self, _folder: &Path) -> Result<CommandLine> {
        let launcher = tools::asset("without_io_uring.py").display().to_string();
        let node = tools::program("node")?.display().to_string();
        let script = tools::asset("node_app.js").display().to_string();
        let args = vec![launcher, node, script, PORT.to_string(), self.objects.to_string()];
        Ok(CommandLine { program: tools::program("python3")?, args, env: Vec::new() })
    }

    fn ready(&self) -> Result<()> {
        http::get(PORT, "/").map(drop)
    }

    fn items(&self) -> usize {
        self.objects
    }

    fn reply(&self, item: usize) -> Result<String> {
        http::get(PORT, &format!("/item/{item}"))
    }

    fn state(&self) -> Result<State> {
        http_state(PORT, self.objects)
    }
}
