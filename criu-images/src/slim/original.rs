//! From a slim dump back to the checkpoint: which files it had, and where the bytes of each are now.

use super::{ORIGINAL, PAGEFERRY_DIR, TRIPWIRE};
use crate::{
    Checkpoint, Error, ImageSource, PageRange, PageRun, Pid, Result, Stored, Task,
    pagemap::{Flags, Pagemap},
};
use std::{collections::BTreeMap, sync::Arc};

/// A file, folder or link of the original checkpoint. One with parents comes back flattened: without them, and whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginalFile {
    /// Relative path.
    pub name: String,
    /// How to make it.
    pub content: Content,
}

/// How to make a file of the original checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// An empty folder.
    Dir,
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: String,
    },
    /// The same bytes as a member of the slim dump.
    Copy {
        /// Name of the member.
        member: String,
        /// Length in bytes.
        len: u64,
        /// Permission bits.
        mode: u32,
    },
    /// The pages file of a task: the pieces, one after another, without holes.
    Pages {
        /// Whose.
        pid: Pid,
        /// Length in bytes: the sum of the pieces.
        len: u64,
        /// Permission bits.
        mode: u32,
        /// In the order of the file.
        pieces: Vec<Piece>,
    },
}

/// A part of a pages file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// From the slim dump's file of the same name.
    Slim {
        /// Byte where it begins there.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// From the page store: these pages of the task.
    Store {
        /// Addresses.
        range: PageRange,
    },
}

/// Lists what the original checkpoint of the slim dump `source` consisted of, sorted by name.
///
/// An error if `source` was not made by [`write`](super::write), or if its pagemaps do not fit together.
pub fn original_files(source: Arc<dyn ImageSource>) -> Result<Vec<OriginalFile>> {
    let checkpoint = Checkpoint::open(source.clone())?;
    let mut files: BTreeMap<String, Content> = BTreeMap::new();
    for name in source.names()? {
        let content = copy(&*source, &name)?;
        files.insert(name, content);
    }
    files.extend(source.symlinks()?.into_iter().map(|(name, target)| (name, Content::Symlink { target })));
    files.extend(source.empty_dirs()?.into_iter().map(|name| (name, Content::Dir)));
    files.retain(|name, content| match content {
        // Sources that list `parent` among their links: the tripwire's is ours.
        Content::Symlink { target } => name != "parent" || target != TRIPWIRE,
        _ => name.split('/').next() != Some(PAGEFERRY_DIR),
    });
    for task in &checkpoint.tasks {
        if task.memory.is_some() {
            restore(&*source, task, &mut files)?;
        }
    }
    Ok(files.into_iter().map(|(name, content)| OriginalFile { name, content }).collect())
}

fn copy(source: &dyn ImageSource, name: &str) -> Result<Content> {
    let gone = || Error::io(source.describe(name), std::io::ErrorKind::NotFound);
    let len = source.open(name)?.ok_or_else(gone)?.len();
    Ok(Content::Copy { member: name.to_owned(), len, mode: source.mode(name)? })
}

fn restore(source: &dyn ImageSource, task: &Task, files: &mut BTreeMap<String, Content>) -> Result<()> {
    let Some(memory) = &task.memory else { return Ok(()) };
    let pagemap_name = format!("pagemap-{}.img", task.pid);
    let member = format!("{ORIGINAL}{pagemap_name}");
    let file = source.describe(&member);
    let Some(bytes) = source.read(&member)? else {
        return Err(Error::unsupported(file, "missing, so this is not a slim dump that pageferry-strip wrote"));
    };
    let original = Pagemap::parse(&file, &bytes)?;
    if original.pages_id != memory.pages_id {
        let problem = format!("pages_id is {}, but {} in {pagemap_name}", original.pages_id, memory.pages_id);
        return Err(Error::corrupt(file, "pagemap_head", problem));
    }
    let mut pieces = Vec::new();
    for (number, entry) in original.entries.iter().enumerate() {
        if entry.flags.has(Flags::PRESENT) {
            let place = || format!("entry {number}");
            push(entry.range, &memory.runs, &mut pieces).map_err(|problem| Error::corrupt(&file, place(), problem))?;
        }
    }
    let pages_name = format!("pages-{}.img", memory.pages_id);
    match files.get(&pages_name) {
        Some(Content::Copy { mode, .. }) => {
            let pages = Content::Pages { pid: task.pid, len: original.bytes, mode: *mode, pieces };
            files.insert(pages_name, pages);
        }
        None if original.bytes == 0 => {}
        _ => return Err(Error::corrupt(file, "pagemap_head", format_args!("{pages_name} is missing"))),
    }
    files.insert(pagemap_name, copy(source, &member)?);
    Ok(())
}

/// Appends where the pages of `range` are now.
fn push(range: PageRange, runs: &[PageRun], pieces: &mut Vec<Piece>) -> Result<(), String> {
    let mut at = range.start().get();
    let from = runs.partition_point(|run| run.range.end() <= at);
    for run in &runs[from..] {
        let Some(part) = run.range.intersection(range) else { break };
        if part.start().get() != at {
            break;
        }
        at = part.end();
        match (run.stored, pieces.last_mut()) {
            (Stored::Here { offset, .. }, last) => {
                let begin = offset + (part.start().get() - run.range.start().get());
                match last {
                    Some(Piece::Slim { offset, len }) if *offset + *len == begin => *len += part.bytes(),
                    _ => pieces.push(Piece::Slim { offset: begin, len: part.bytes() }),
                }
            }
            (Stored::Elsewhere, Some(Piece::Store { range })) if range.end() == part.start().get() => {
                *range = joined(*range, part);
            }
            (Stored::Elsewhere, _) => pieces.push(Piece::Store { range: part }),
        }
    }
    if at == range.end() { Ok(()) } else { Err(format!("{range} is not all in the slim dump's pagemap")) }
}

fn joined(a: PageRange, b: PageRange) -> PageRange {
    PageRange::new(a.start(), a.pages() + b.pages()).unwrap_or(a)
}
