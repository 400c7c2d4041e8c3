//! Writes a slim dump: what `criu dump --lazy-pages` would have written, with or without the tripwire.

use crate::{Checkpoint, Result};
use std::io::Read;

/// Folder in a slim dump for what is ours: the original pagemaps, needed to join it again, and `checkpoint-id`.
pub const PAGEFERRY_DIR: &str = ".pageferry";

/// A member of a slim dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A folder (only those that would otherwise not exist).
    Dir,
    /// A regular file of that many bytes.
    File {
        /// Length in bytes.
        len: u64,
        /// Permission bits.
        mode: u32,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: String,
    },
}

/// Takes the members of a slim dump, one after another, sorted by name.
pub trait SlimSink {
    /// `content` has as many bytes as `entry` says (none unless it is a file).
    fn put(&mut self, name: &str, entry: &Entry, content: &mut dyn Read) -> std::io::Result<()>;
}

/// Writes the slim dump of `checkpoint` to `sink`: deterministic, byte for byte.
pub fn write(_checkpoint: &Checkpoint, _tripwire: bool, _sink: &mut dyn SlimSink) -> Result<()> {
    todo!()
}
