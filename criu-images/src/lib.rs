//! Reads and edits CRIU image files: framing, inventory, pstree, core, mm, pagemap. No network, no async.
//!
//! A [`Checkpoint`] is read from an [`ImageSource`] (a directory, or a slim dump inside an archive): its tasks, their
//! mappings, and for every page of private memory where its bytes lie. Parent chains are already flattened in it.
//! [`slim`] writes a slim dump from one.

#![forbid(unsafe_code)]

pub mod bits;
mod chain;
mod checkpoint;
mod error;
mod frame;
mod lazy;
mod mapping;
mod messages;
mod names;
mod open;
mod page_at;
mod pagemap;
mod runs;
pub mod slim;
mod source;
#[cfg(feature = "testing")]
pub mod testing;
mod types;
mod wire;

pub use checkpoint::{
    Checkpoint, FileNumber, Machine, Mapping, Memory, PageRun, SharedMemory, Stored, Task, TaskState,
};
pub use error::{Error, Result};
pub use frame::Kind as ImageKind;
pub use page_at::PageAt;
pub use source::{ImageDir, ImageSource, PagesFile, PagesReader};
pub use types::{PAGE_SIZE, PageAddr, PageRange, Pid};
