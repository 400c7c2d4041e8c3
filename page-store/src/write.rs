//! The writer: a checkpoint in, objects out, memory bounded, all cores used.

use crate::{Manifest, Result};
use criu_images::Checkpoint;
use std::io::Write;

/// How to write a store.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// zstd level.
    pub level: i32,
    /// Whether the slim dump carries the tripwire.
    pub tripwire: bool,
}

/// Takes objects. Immutable ones first; the manifest last, and only if all went well.
pub trait ObjectSink: Send + Sync {
    /// Begins an object whose name is known only at its end.
    fn begin(&self) -> Result<Box<dyn ObjectWriter>>;
    /// Makes the store visible: `checkpoint.json`, atomically, durable objects first.
    fn commit(&self, manifest: &[u8]) -> Result<()>;
}

/// An object being written. Dropped without [`ObjectWriter::finish`], nothing of it is left.
pub trait ObjectWriter: Write + Send {
    /// Gives it its name.
    fn finish(self: Box<Self>, name: &str) -> Result<()>;
}

/// Told how far it is.
pub trait Progress: Sync {
    /// `bytes` more of the checkpoint's pages were read and handed on.
    fn advance(&self, bytes: u64);
    /// Asked now and then; when true, the writer stops with an error and leaves nothing.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Writes all objects of `checkpoint` to `sink`.
pub fn split(
    _checkpoint: &Checkpoint,
    _sink: &dyn ObjectSink,
    _options: &Options,
    _progress: &dyn Progress,
) -> Result<Manifest> {
    todo!()
}
