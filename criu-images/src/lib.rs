//! Reads and edits CRIU image files: framing, inventory, pstree, core, mm, pagemap. No network, no async.
//!
//! A [`Checkpoint`] is read from an [`ImageSource`] (a directory, or a slim dump inside an archive): its tasks, their
//! mappings, and for every page of private memory where its bytes lie. Parent chains are already flattened in it.
//! [`slim`] writes a slim dump from one.

#![forbid(unsafe_code)]

mod checkpoint;
mod error;
pub mod slim;
mod source;
mod types;

pub use checkpoint::{Checkpoint, FileNumber, Mapping, Memory, PageRun, SharedMemory, Stored, Task, TaskState};
pub use error::{Error, Result};
pub use source::{ImageDir, ImageSource, PagesFile};
pub use types::{PAGE_SIZE, PageAddr, PageRange, Pid};
