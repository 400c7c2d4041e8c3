//! The programs that tests checkpoint. Each can tell its whole state, so that two states can be compared.

mod gunicorn;
mod java;
mod memory;
mod node;
mod redis;
mod sparse;
mod threads;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Result;

pub use gunicorn::Gunicorn;
pub use java::Java;
pub use memory::Memory;
pub use node::Node;
pub use redis::Redis;
pub use sparse::Sparse;
pub use threads::Threads;

use crate::http;

/// What a program answers to everything that can be asked of it, by question. It holds pids as well: they are restored.
pub type State = BTreeMap<String, String>;

/// How to start a program.
pub struct CommandLine {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// What it needs in its environment.
    pub env: Vec<(&'static str, String)>,
}

/// A program that can be checkpointed. All but `command` run inside the program's [`Cell`](crate::Cell).
pub trait Program: Send + Sync {
    /// A word for folders and messages.
    fn name(&self) -> &'static str;

    /// A few words for people: what it is and how large.
    fn describe(&self) -> String;

    /// The port of the cell's loopback address that it listens on.
    fn port(&self) -> u16;

    /// How to start it. `folder` is its own, and is there as long as the checkpoint.
    fn command(&self, folder: &Path) -> Result<CommandLine>;

    /// Succeeds once the program answers.
    fn ready(&self) -> Result<()>;

    /// Gives it its memory, if it does not do that by itself.
    fn fill(&self) -> Result<()> {
        Ok(())
    }

    /// How many items can be asked for.
    fn items(&self) -> usize;

    /// One small request, for one item by number.
    fn reply(&self, item: usize) -> Result<String>;

    /// One small request, as after a cold start.
    fn first_reply(&self) -> Result<String> {
        self.reply(self.items() / 2)
    }

    /// Touches every byte that the program holds.
    fn state(&self) -> Result<State>;
}

/// Asks for some items by number and for the digest over all.
fn http_state(port: u16, items: usize) -> Result<State> {
    let mut state = State::new();
    for n in (0..items).step_by(items / 50 + 1).chain([items - 1]) {
        state.insert(format!("item {n}"), http::get(port, &format!("/item/{n}"))?);
    }
    state.insert("state".to_owned(), http::get(port, "/state")?);
    Ok(state)
}
