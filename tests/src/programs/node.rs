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
        let script = tools::asset("node_app.js").display().to_string();
        let args = vec![script, PORT.to_string(), self.objects.to_string()];
        Ok(CommandLine { program: tools::program("node")?, args, env: Vec::new() })
    }

    fn ready(&self) -> Result<()> {
        http::get(PORT, "/").map(drop)
    }

    fn first_reply(&self) -> Result<String> {
        http::get(PORT, &format!("/item/{}", self.objects / 2))
    }

    fn state(&self) -> Result<State> {
        http_state(PORT, self.objects)
    }
}
