//! The page store: model, writer, reader, object backends.
//!
//! A [`Store`] is opened from a local path, an HTTP address or an object store, or by the links of a file ([`Links`]). It answers where a page of a task is ([`Store::runs`]) and
//! hands out verified frames ([`Store::read_frame`], [`Store::stream_frames`]). [`write::split`] makes a store from a checkpoint;
//! [`raw::RawCheckpoint`] lets a checkpoint directory that was never stripped be read as one.

#![forbid(unsafe_code)]

mod backend;
mod bucket;
mod error;
mod folder;
pub mod format;
pub mod index;
mod links;
pub mod manifest;
mod model;
mod names;
mod node_cache;
pub mod pack;
pub mod raw;
mod scratch;
mod slim;
pub mod slim_writer;
mod store;
pub mod working_set;
pub mod write;

pub use backend::{
    Backend, Buffer, Buffers, ByteStream, Deadlines, HttpAddress, HttpAnswer, HttpBackend, HttpLook, HttpOptions,
    HttpVersion, LocalBackend, Look, Mirrors, ObjectBackend, Token, read_range, same_host,
};
pub use error::{Error, Result, Retry};
pub use folder::{Folder, Neighbours};
pub use links::{LinkSigner, Links, is_of_this_machine};
pub use manifest::{
    IndexObject, Manifest, ObjectRef, PackEncoding, PackObject, SlimObject, TaskEntry, Totals, WorkingSetObject,
};
pub use model::{Digest, FRAME_BYTES, FRAME_PAGES, Frame, FrameInfo, FrameNumber, Location, PageNumber, Run};
pub use node_cache::{CacheCounters, CachePlace, MIN_CACHE_BYTES, NodeCache};
pub use scratch::ScratchDir;
pub use slim::{SlimDump, checkpoint_id};
pub use store::Store;

/// The one mutable name in a store.
pub const MANIFEST_NAME: &str = "checkpoint.json";
