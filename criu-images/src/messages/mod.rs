//! The protobuf messages of the images that we read, written from CRIU's field numbers and types (`images/*.proto`).
//!
//! Each has a prost struct with the fields that are used here, and a [`Message`](crate::wire::Message) that lists all
//! fields CRIU 4.2 knows. Paths and program names are `bytes`: Linux allows there what a protobuf `string` does not.

mod core;
mod files;
mod inventory;
mod mm;
mod pagemap;
mod pstree;

#[cfg(feature = "testing")]
pub(crate) use self::core::TaskCoreEntry;
pub(crate) use self::core::{CORE_ENTRY, CoreEntry};
pub(crate) use files::{FileEntry, MemfdInodeEntry, RegFileEntry};
pub(crate) use inventory::{INVENTORY_ENTRY, InventoryEntry};
pub(crate) use mm::{MM_ENTRY, MmEntry, VmaEntry};
pub(crate) use pagemap::{PAGEMAP_ENTRY, PAGEMAP_HEAD, PagemapEntry, PagemapHead};
pub(crate) use pstree::{PSTREE_ENTRY, PstreeEntry};

use crate::{Error, Result, frame::Entry, wire};

/// Checks an entry against `message` and decodes it.
pub(crate) fn decode<T: prost::Message + Default>(
    file: &str,
    entry: &Entry<'_>,
    message: &'static wire::Message,
) -> Result<T> {
    wire::check(file, entry.offset, entry.bytes, message)?;
    decode_liberal(file, entry)
}

/// Decodes an entry of an image that is neither interpreted in full nor rewritten: unknown fields pass.
pub(crate) fn decode_liberal<T: prost::Message + Default>(file: &str, entry: &Entry<'_>) -> Result<T> {
    T::decode(entry.bytes)
        .map_err(|e| Error::corrupt(file, format_args!("entry {} at byte {}", entry.number, entry.offset), e))
}

/// As [`decode`], for what is rewritten: encoding the result must give the same bytes.
pub(crate) fn decode_exact<T: prost::Message + Default>(
    file: &str,
    entry: &Entry<'_>,
    message: &'static wire::Message,
) -> Result<T> {
    let decoded: T = decode(file, entry, message)?;
    if decoded.encoded_len() != entry.bytes.len() || decoded.encode_to_vec() != entry.bytes {
        let place = format!("entry {} at byte {}", entry.number, entry.offset);
        return Err(Error::corrupt(file, place, format_args!("{} is not encoded the way CRIU does it", message.name)));
    }
    Ok(decoded)
}
