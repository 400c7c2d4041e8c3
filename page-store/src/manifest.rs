//! `checkpoint.json`: what names everything else.

mod check;

use crate::{Error, FRAME_PAGES, Result, names};
use criu_images::{PAGE_SIZE, Pid};
use serde::{Deserialize, Serialize};
use std::fmt::Display;

/// [`Manifest::format`].
pub const FORMAT: &str = "pageferry-store";
/// [`Manifest::version`] of a store that has all its packs itself.
pub const VERSION: u32 = 1;
/// [`Manifest::version`] of a store that shares packs of a store beside it: a reader of version 1 would look for them in the wrong place.
pub const VERSION_SHARING: u32 = 2;
/// Most bytes of a manifest: 20 times what a terabyte needs.
pub const MAX_MANIFEST_BYTES: u64 = 64 << 20;

/// `checkpoint.json`, checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always `pageferry-store`.
    pub format: String,
    /// Version of the format: 1, or 2 if it shares packs of stores beside it.
    pub version: u32,
    /// Bytes; 4096.
    pub page_size: u64,
    /// Pages in a full frame; 16.
    pub frame_pages: u64,
    /// Identity of the checkpoint: BLAKE3 over its index objects and the files of its slim dump. The slim dump carries the same
    /// (`.pageferry/checkpoint-id`), so that a store and a slim dump that do not belong together are refused.
    pub checkpoint_id: String,
    /// `inventory.img_version`.
    pub image_version: u32,
    /// In the order of `pstree.img`; an index names tasks by their position here.
    pub tasks: Vec<TaskEntry>,
    /// Parts of the index, in the order of (task, address) and of frame number.
    pub index: Vec<IndexObject>,
    /// In the order of their frames.
    pub packs: Vec<PackObject>,
    /// The slim dump.
    pub slim: SlimObject,
    /// Sums.
    pub totals: Totals,
    /// Frames that are needed first, one set per name. The last one is the default.
    #[serde(default)]
    pub working_sets: Vec<WorkingSetObject>,
}

impl Manifest {
    /// Whether both name the same objects. Working sets, which are added later, may differ.
    pub fn is_same_store(&self, other: &Self) -> bool {
        self.checkpoint_id == other.checkpoint_id
            && self.index == other.index
            && self.packs == other.packs
            && self.slim == other.slim
    }

    /// Parses and checks (`object` is for messages).
    pub fn parse(object: &str, json: &[u8]) -> Result<Self> {
        let corrupt = |place: String, problem: String| Error::Corrupt { object: object.into(), place, problem };
        let unsupported = |what: String| Error::Unsupported { object: object.into(), what };
        let broken = |e: serde_json::Error| corrupt(format!("line {} column {}", e.line(), e.column()), words(&e));

        let is_object = json.trim_ascii_start().first().is_none_or(|&first| first == b'{');
        let head: Head = serde_json::from_slice(json).map_err(|e| match e.is_data() || !is_object {
            true => unsupported("not a page store's manifest; is this a page store?".into()),
            false => broken(e),
        })?;
        if head.format != FORMAT {
            return Err(unsupported(format!("its format is {:?}, a page store's is {FORMAT:?}", head.format)));
        }
        if ![VERSION, VERSION_SHARING].map(u64::from).contains(&head.version) {
            let version = head.version;
            let what = format!(
                "store version {version}, made by a newer pageferry (this one reads versions {VERSION} and {VERSION_SHARING})"
            );
            return Err(unsupported(what));
        }
        let manifest: Self = serde_json::from_slice(json).map_err(broken)?;
        if (manifest.page_size, manifest.frame_pages) != (PAGE_SIZE, FRAME_PAGES) {
            let sizes = format!("pages of {} bytes, {} to a frame", manifest.page_size, manifest.frame_pages);
            return Err(unsupported(format!("{sizes} (this pageferry reads {PAGE_SIZE} and {FRAME_PAGES})")));
        }
        manifest.check().map_err(|(place, problem)| corrupt(place, problem))?;
        Ok(manifest)
    }
    /// The bytes of `checkpoint.json`: always the same for the same manifest.
    ///
    /// An error if it says what [`Manifest::parse`] would refuse, so that nothing is written that cannot be read.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let corrupt = |place: String, problem: String| Error::Corrupt {
            object: format!("{} being written", crate::MANIFEST_NAME),
            place,
            problem,
        };
        self.check().map_err(|(place, problem)| corrupt(place, problem))?;
        let mut json = serde_json::to_vec_pretty(self).map_err(|e| corrupt("end".into(), e.to_string()))?;
        json.push(b'\n');
        Ok(json)
    }
    /// Every object that it names, itself not among them.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectRef> {
        (self.index.iter().map(|part| &part.object))
            .chain(self.packs.iter().map(|pack| &pack.object))
            .chain([&self.slim.object])
            .chain(self.working_sets.iter().map(|set| &set.object))
    }

    /// The objects that are below the store itself: all but packs of stores beside it.
    pub fn own_objects(&self) -> impl Iterator<Item = &ObjectRef> {
        self.objects().filter(|object| object.sibling().is_none())
    }

    /// The same for a place where nothing is beside it: all packs are its own, in the same order.
    pub fn standalone(&self) -> Self {
        let mut manifest = self.clone();
        for pack in &mut manifest.packs {
            if let Some((_, object)) = pack.object.sibling() {
                pack.object.object = object.to_owned();
            }
        }
        manifest.version = Self::version_for(&manifest.packs);
        manifest
    }

    /// The version that its packs call for.
    pub fn version_for(packs: &[PackObject]) -> u32 {
        let shares = packs.iter().any(|pack| pack.object.sibling().is_some());
        if shares { VERSION_SHARING } else { VERSION }
    }

    /// Position of a task in [`Manifest::tasks`].
    pub fn task_position(&self, pid: Pid) -> Option<usize> {
        self.tasks.iter().position(|t| t.pid == pid.get())
    }
}

/// What every version of a manifest has.
#[derive(Deserialize)]
struct Head {
    format: String,
    version: u64,
}

/// serde_json's message without the place, which is told apart.
fn words(error: &impl Display) -> String {
    let text = error.to_string();
    text.rfind(" at line ").map_or(text.as_str(), |at| &text[..at]).to_owned()
}

/// An immutable object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Name relative to the store; `../<sibling>/packs/<digest>.pack` for a pack that it shares with a store beside it.
    pub object: String,
    /// Bytes.
    pub size: u64,
    /// BLAKE3 of all of it, 64 hex digits.
    pub blake3: String,
}

impl ObjectRef {
    /// The name of the store beside this one that has it, and its name there; `None` for an object of the store itself.
    pub fn sibling(&self) -> Option<(&str, &str)> {
        names::shared(&self.object)
    }

    /// Its name as stores beside the store `name` have it.
    pub fn from_beside(&self, name: &str) -> String {
        if self.sibling().is_some() { self.object.clone() } else { names::in_sibling(name, &self.object) }
    }
}

/// A task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskEntry {
    /// Virtual pid.
    pub pid: u32,
    /// Of its parent; absent for the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<u32>,
    /// Program name.
    pub comm: String,
    /// Thread ids.
    pub threads: Vec<u32>,
    /// `alive`, `stopped`, `dead`.
    pub state: String,
    /// Pages that this store holds for it, zero pages included.
    pub lazy_pages: u64,
    /// Pages that are in the slim dump.
    pub slim_pages: u64,
}

/// A part of the index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexObject {
    /// The object.
    #[serde(flatten)]
    pub object: ObjectRef,
    /// Frames in its frame table; they follow those of the part before.
    pub frames: u64,
    /// Position in `tasks` of its first run.
    pub first_task: u32,
    /// Address of its first run.
    pub first_address: u64,
}

/// How frames lie in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackEncoding {
    /// Each is a zstd frame (perhaps of raw blocks).
    Zstd,
    /// Each is its plain bytes: the pages file of a raw checkpoint.
    Plain,
}

/// A pack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackObject {
    /// The object.
    #[serde(flatten)]
    pub object: ObjectRef,
    /// How frames lie in it.
    pub encoding: PackEncoding,
    /// How many.
    pub frames: u64,
}

/// The slim dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlimObject {
    /// The object: a tar, zstd-compressed.
    #[serde(flatten)]
    pub object: ObjectRef,
    /// Bytes unpacked (content of files).
    pub unpacked: u64,
    /// Whether a restore without `--lazy-pages` fails at once instead of spinning.
    pub tripwire: bool,
}

/// A working set ([`crate::working_set`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkingSetObject {
    /// As the user called it.
    pub name: String,
    /// The object.
    #[serde(flatten)]
    pub object: ObjectRef,
    /// Frames in it.
    pub frames: u64,
}

/// Sums over the checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Pages in the original dump's pages files.
    pub dumped_pages: u64,
    /// Of these, lazy ones.
    pub lazy_pages: u64,
    /// Of the lazy ones, all zeros.
    pub zero_pages: u64,
    /// Pages in the store's array.
    pub stored_pages: u64,
    /// Distinct lazy pages that are not zero (what is stored again to keep memory together is counted once).
    pub distinct_pages: u64,
    /// Bytes of all packs.
    pub pack_bytes: u64,
}

#[cfg(test)]
mod tests;
