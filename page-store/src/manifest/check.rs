//! Whether a manifest holds together.

use super::{FORMAT, Manifest, ObjectRef, PackEncoding, PackObject};
use crate::{
    FRAME_BYTES, FRAME_PAGES, MANIFEST_NAME,
    index::{MAX_PAGES, MAX_PART_FRAMES, MAX_PART_STORED},
    names::{self, is_digest},
    working_set::{MAX_SET_BYTES, MAX_SET_FRAMES, check_name},
};
use criu_images::{PAGE_SIZE, PageAddr, Pid};
use std::collections::HashSet;

/// Most tasks: twice what a default `kernel.pid_max` allows.
pub(super) const MAX_TASKS: usize = 1 << 16;
/// Most packs: 64 TiB of them.
const MAX_PACKS: usize = 1 << 20;
/// Most parts of an index: 64 TiB of pages.
const MAX_PARTS: usize = 1 << 14;

/// Most working sets.
const MAX_SETS: usize = 64;

/// (place, problem).
type Check = Result<(), (String, String)>;

fn ensure(ok: bool, place: impl FnOnce() -> String, problem: impl Into<String>) -> Check {
    if ok { Ok(()) } else { Err((place(), problem.into())) }
}

/// `None` if the sum is more than a `u64` holds.
fn sum(values: impl IntoIterator<Item = u64>) -> Option<u64> {
    values.into_iter().try_fold(0u64, u64::checked_add)
}

impl Manifest {
    /// The first thing that cannot be.
    pub(super) fn check(&self) -> Check {
        ensure(self.format == FORMAT, || "format".into(), format!("not {FORMAT:?}"))?;
        ensure(is_digest(&self.checkpoint_id), || "checkpoint_id".into(), "not 64 lower-case hex digits")?;
        self.check_tasks()?;
        self.check_index()?;
        self.check_packs()?;
        let version = Self::version_for(&self.packs);
        let why = format!("{} with packs that call for {version}", self.version);
        ensure(self.version == version, || "version".into(), why)?;
        object(&self.slim.object, "slim", "tar.zst", || "slim".into())?;
        self.check_working_sets()?;
        self.check_totals()
    }

    fn check_tasks(&self) -> Check {
        ensure(self.tasks.len() <= MAX_TASKS, || "tasks".into(), format!("more than {MAX_TASKS}"))?;
        let mut seen = HashSet::new();
        for (i, task) in self.tasks.iter().enumerate() {
            let place = || format!("tasks[{i}]");
            let valid = |&pid: &u32| Pid::new(pid).is_some();
            ensure(valid(&task.pid), place, format!("{} is not a pid", task.pid))?;
            ensure(seen.insert(task.pid), place, format!("pid {} is there twice", task.pid))?;
            ensure(task.parent.iter().chain(&task.threads).all(valid), place, "parent or thread is not a pid")?;
        }
        Ok(())
    }

    fn check_index(&self) -> Check {
        ensure(self.index.len() <= MAX_PARTS, || "index".into(), format!("more than {MAX_PARTS} parts"))?;
        let mut previous = (0, 0);
        for (i, part) in self.index.iter().enumerate() {
            let place = || format!("index[{i}]");
            object(&part.object, "index", "idx", place)?;
            ensure(part.object.size <= MAX_PART_STORED, place, format!("{} bytes are too many", part.object.size))?;
            ensure(part.frames <= MAX_PART_FRAMES, place, format!("{} frames are too many", part.frames))?;
            let address = part.first_address;
            let in_space = address.is_multiple_of(PAGE_SIZE) && address <= PageAddr::LIMIT;
            ensure(in_space, place, format!("first_address {address:#x} is not that of a page"))?;
            let first = (part.first_task, address);
            ensure((part.first_task as usize) < self.tasks.len().max(1), place, "first_task is not a task's position")?;
            ensure(previous <= first, place, "begins before the part before it")?;
            previous = first;
        }
        Ok(())
    }

    fn check_packs(&self) -> Check {
        ensure(self.packs.len() <= MAX_PACKS, || "packs".into(), format!("more than {MAX_PACKS}"))?;
        for (i, pack) in self.packs.iter().enumerate() {
            let place = || format!("packs[{i}]");
            pack_object(pack, place)?;
            let frames = format!("{} bytes do not hold {} frames", pack.object.size, pack.frames);
            ensure(frames_fit(pack), place, frames)?;
        }
        let packed = sum(self.packs.iter().map(|p| p.frames));
        let indexed = sum(self.index.iter().map(|p| p.frames));
        ensure(packed == indexed, || "packs".into(), "other frames than in the index")?;
        let few = packed.is_some_and(|frames| frames <= MAX_PAGES / FRAME_PAGES);
        ensure(few, || "packs".into(), "too many frames")
    }

    fn check_working_sets(&self) -> Check {
        let sets = &self.working_sets;
        ensure(sets.len() <= MAX_SETS, || "working_sets".into(), format!("more than {MAX_SETS}"))?;
        let mut seen = HashSet::new();
        for (i, set) in sets.iter().enumerate() {
            let place = || format!("working_sets[{i}]");
            object(&set.object, "working-sets", "set", place)?;
            ensure(set.object.size <= MAX_SET_BYTES, place, format!("{} bytes are too many", set.object.size))?;
            ensure(set.frames <= MAX_SET_FRAMES as u64, place, format!("{} frames are too many", set.frames))?;
            check_name(&set.name).map_err(|problem| (place(), problem))?;
            ensure(seen.insert(&set.name), place, format!("{:?} is there twice", set.name))?;
        }
        Ok(())
    }

    fn check_totals(&self) -> Check {
        let totals = &self.totals;
        let place = || "totals".into();
        let pack_bytes = sum(self.packs.iter().map(|p| p.object.size));
        ensure(pack_bytes == Some(totals.pack_bytes), place, "pack_bytes is not the sum of the packs' sizes")?;
        let lazy = sum(self.tasks.iter().map(|t| t.lazy_pages));
        ensure(lazy == Some(totals.lazy_pages), place, "lazy_pages is not the sum of the tasks'")?;
        ensure(totals.zero_pages <= totals.lazy_pages, place, "more zero pages than lazy ones")?;
        // Every pack may end in a short frame, of one page at least; `check_packs` made sure that this does not overflow.
        let most = self.packs.iter().map(|p| p.frames).sum::<u64>() * FRAME_PAGES;
        let least = most - self.packs.len() as u64 * (FRAME_PAGES - 1);
        let fits = (least..=most).contains(&totals.stored_pages);
        ensure(fits, place, format!("{} stored pages do not fit the packs' frames", totals.stored_pages))?;
        ensure(totals.distinct_pages <= totals.stored_pages, place, "more distinct pages than stored ones")
    }
}

/// Whether the frames of a pack can be in it.
fn frames_fit(pack: &PackObject) -> bool {
    let size = pack.object.size;
    pack.frames > 0
        && match pack.encoding {
            PackEncoding::Zstd => pack.frames <= size,
            PackEncoding::Plain => size.is_multiple_of(PAGE_SIZE) && size.div_ceil(FRAME_BYTES) == pack.frames,
        }
}

/// The name of a pack: below the store, or below one beside it, where only packs of zstd frames are.
fn pack_object(pack: &PackObject, place: impl Fn() -> String + Copy) -> Check {
    let Some((sibling, name)) = pack.object.sibling() else { return object(&pack.object, "packs", "pack", place) };
    object(&ObjectRef { object: name.into(), ..pack.object.clone() }, "packs", "pack", || {
        format!("{} in {sibling}", place())
    })?;
    ensure(pack.encoding == PackEncoding::Zstd, place, "a raw checkpoint's pages file cannot be shared")
}

/// A name that says what the object is and what its bytes hash to, and that cannot lead elsewhere.
fn object(object: &ObjectRef, folder: &str, extension: &str, place: impl Fn() -> String + Copy) -> Check {
    ensure(is_digest(&object.blake3), place, "blake3 is not 64 lower-case hex digits")?;
    let name = format!("{folder}/{}.{extension}", object.blake3);
    debug_assert!(names::is_safe(&name) && name != MANIFEST_NAME);
    ensure(object.object == name, place, format!("{:?} should be called {name:?}", object.object))
}
