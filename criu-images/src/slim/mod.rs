//! Slim dumps: what `criu dump --lazy-pages` would have written, and the way back.
//!
//! A slim dump has every file of the checkpoint, but for each task a pagemap whose lazy entries have no bytes, and a pages
//! file with the eager pages only. Parents are flattened. What is ours lies in a folder that CRIU does not look into:
//!
//! ```text
//! .pageferry/original/pagemap-<pid>.img   the full pagemap, from which `join` lays out pages-<id>.img again
//! .pageferry/tripwire/                    a parent without pages, and `parent`, a link to it (see below)
//! .pageferry/checkpoint-id                written by the page store: which store holds the lazy pages
//! ```
//!
//! # The tripwire
//! `criu restore` without `--lazy-pages` would take the lazy entries for data and spin in `preadv` for ever. So they are
//! marked PE_LAZY and PE_PARENT, and the parent has none of them: CRIU then ends at once with "Missing ... in parent
//! pagemap". With `--lazy-pages` it never looks there. CRIU's own `lazy-pages` daemon does; for it, leave the tripwire out.

mod layout;
mod original;
mod write;

pub use original::{Content, OriginalFile, Piece, original_files};
pub use write::write;

use std::io::Read;

/// Folder in a slim dump for what is ours.
pub const PAGEFERRY_DIR: &str = ".pageferry";
/// In it, the original pagemaps.
const ORIGINAL: &str = ".pageferry/original/";
/// In it, the parent without pages.
const TRIPWIRE: &str = ".pageferry/tripwire";

/// The member of a slim dump that says which page store it belongs to. Whoever makes the store adds it: [`write()`] does not
/// know the store yet.
pub fn checkpoint_id_member() -> &'static str {
    ".pageferry/checkpoint-id"
}

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
