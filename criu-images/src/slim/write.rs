//! Writes a slim dump.

use super::{
    Entry, ORIGINAL, PAGEFERRY_DIR, SlimSink, TRIPWIRE,
    layout::{Chunk, eager_chunks, full_pagemap, slim_pagemap},
};
use crate::{Checkpoint, Error, PageRun, PagesFile, PagesReader, Result, Stored, pagemap::PagemapWriter};
use std::{
    collections::BTreeMap,
    io::{self, Read},
};

/// Where the content of a member comes from. Made only when its turn comes: a pagemap may have megabytes.
enum Member<'a> {
    /// As in the checkpoint.
    Copy,
    Dir,
    Symlink(String),
    /// A file of the checkpoint under another name.
    CopyOf(String),
    SlimPagemap(&'a Pages<'a>),
    FullPagemap(&'a Pages<'a>),
    Eager(&'a Pages<'a>),
    /// A pagemap without entries.
    NoPages,
    Empty,
}

/// What is rewritten: the pages of a task, or of a shared segment in a chain.
struct Pages<'a> {
    /// Name of its pagemap.
    pagemap: String,
    pages_id: u32,
    runs: &'a [PageRun],
    shared: bool,
}

/// Writes the slim dump of `checkpoint` to `sink`: deterministic, byte for byte.
///
/// Page bytes are streamed. An error if a page of the checkpoint has no bytes: that is a slim dump already.
pub fn write(checkpoint: &Checkpoint, tripwire: bool, sink: &mut dyn SlimSink) -> Result<()> {
    let source = &checkpoint.source;
    let incremental = source.parent()?.is_some();
    let pages = pages(checkpoint, incremental)?;
    for (name, member) in members(checkpoint, &pages, incremental, tripwire)? {
        let put = |sink: &mut dyn SlimSink, entry: Entry, content: &mut dyn Read| {
            sink.put(&name, &entry, content).map_err(|e| Error::io(&name, e))
        };
        let mode_of = |name: &str| source.mode(name);
        let bytes = |sink: &mut dyn SlimSink, bytes: Vec<u8>, mode: u32| {
            put(sink, Entry::File { len: bytes.len() as u64, mode }, &mut &bytes[..])
        };
        match member {
            Member::Dir => put(sink, Entry::Dir, &mut io::empty())?,
            Member::Symlink(target) => put(sink, Entry::Symlink { target }, &mut io::empty())?,
            Member::Copy => copy(checkpoint, &name, &name, sink)?,
            Member::CopyOf(original) => copy(checkpoint, &original, &name, sink)?,
            Member::NoPages => bytes(sink, PagemapWriter::new(1).finish(), 0o644)?,
            Member::Empty => bytes(sink, Vec::new(), 0o644)?,
            Member::SlimPagemap(p) => {
                bytes(sink, slim_pagemap(p.pages_id, p.runs, tripwire), mode_of(&p.pagemap)?)?;
            }
            Member::FullPagemap(p) => bytes(sink, full_pagemap(p.pages_id, p.runs), mode_of(&p.pagemap)?)?,
            Member::Eager(p) => {
                let chunks = eager_chunks(p.runs);
                let len = chunks.iter().map(|c| c.len).sum();
                // A pages file without bytes need not be there.
                let mode = if source.open(&name)?.is_some() { mode_of(&name)? } else { mode_of(&p.pagemap)? };
                let mut content = Chunks { files: &checkpoint.pages_files, chunks: chunks.into_iter(), now: None };
                put(sink, Entry::File { len, mode }, &mut content)?;
            }
        }
    }
    Ok(())
}

fn pages(checkpoint: &Checkpoint, incremental: bool) -> Result<Vec<Pages<'_>>> {
    let mut pages = Vec::new();
    for task in &checkpoint.tasks {
        let Some(memory) = &task.memory else { continue };
        let pagemap = format!("pagemap-{}.img", task.pid);
        if let Some(run) = memory.runs.iter().find(|run| run.stored == Stored::Elsewhere) {
            let file = checkpoint.source.describe(&pagemap);
            let what = format!("{} has no bytes: a slim dump already, or one of criu dump --lazy-pages", run.range);
            return Err(Error::unsupported(file, what));
        }
        pages.push(Pages { pagemap, pages_id: memory.pages_id, runs: &memory.runs, shared: false });
    }
    for segment in checkpoint.shared.iter().filter(|_| incremental) {
        let pagemap = format!("pagemap-shmem-{}.img", segment.shmid);
        pages.push(Pages { pagemap, pages_id: segment.pages_id, runs: &segment.runs, shared: true });
    }
    Ok(pages)
}

/// All members by name. The order of a map of names is the order of the slim dump.
fn members<'a>(
    checkpoint: &Checkpoint,
    pages: &'a [Pages<'a>],
    incremental: bool,
    tripwire: bool,
) -> Result<BTreeMap<String, Member<'a>>> {
    let source = &checkpoint.source;
    let mut members: BTreeMap<String, Member<'a>> = BTreeMap::new();
    members.extend(source.names()?.into_iter().map(|name| (name, Member::Copy)));
    members.extend(source.symlinks()?.into_iter().map(|(name, target)| (name, Member::Symlink(target))));
    members.extend(source.empty_dirs()?.into_iter().map(|name| (name, Member::Dir)));
    if let Some(ours) = members.keys().find(|name| name.split('/').next() == Some(PAGEFERRY_DIR)) {
        return Err(Error::unsupported(source.describe(ours), "a slim dump already"));
    }
    for task in pages {
        let original = match (task.shared, incremental) {
            (true, _) => None,
            (false, true) => Some(Member::FullPagemap(task)),
            (false, false) => Some(Member::CopyOf(task.pagemap.clone())),
        };
        if let Some(original) = original {
            members.insert(format!("{ORIGINAL}{}", task.pagemap), original);
        }
        members.insert(task.pagemap.clone(), Member::SlimPagemap(task));
        // Where there is none, the pagemap has no bytes (`Checkpoint::open` checked it); then join must not make one either.
        let pages = format!("pages-{}.img", task.pages_id);
        if incremental || members.contains_key(&pages) {
            members.insert(pages, Member::Eager(task));
        }
        if tripwire && !task.shared {
            members.insert(format!("{TRIPWIRE}/{}", task.pagemap), Member::NoPages);
        }
    }
    if tripwire {
        members.insert(format!("{TRIPWIRE}/inventory.img"), Member::CopyOf("inventory.img".into()));
        members.insert(format!("{TRIPWIRE}/pages-1.img"), Member::Empty);
        let parent = members.insert("parent".into(), Member::Symlink(TRIPWIRE.into()));
        if parent.is_some() {
            return Err(Error::unsupported(source.describe("parent"), "a file where a link to another dump belongs"));
        }
    }
    Ok(members)
}

fn copy(checkpoint: &Checkpoint, from: &str, name: &str, sink: &mut dyn SlimSink) -> Result<()> {
    let gone = || Error::io(checkpoint.source.describe(from), io::ErrorKind::NotFound);
    let file = checkpoint.source.open(from)?.ok_or_else(gone)?;
    let entry = Entry::File { len: file.len(), mode: checkpoint.source.mode(from)? };
    sink.put(name, &entry, &mut file.reader()).map_err(|e| Error::io(name, e))
}

/// Pieces of pages files as one stream.
struct Chunks<'a> {
    files: &'a [PagesFile],
    chunks: std::vec::IntoIter<Chunk>,
    now: Option<PagesReader>,
}

impl Read for Chunks<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            if let Some(now) = &mut self.now {
                match now.read(buf)? {
                    0 => {}
                    n => return Ok(n),
                }
            }
            let Some(chunk) = self.chunks.next() else { return Ok(0) };
            let file = self.files.get(chunk.file.0 as usize).ok_or(io::ErrorKind::NotFound)?;
            self.now = Some(file.slice(chunk.offset, chunk.len));
        }
    }
}
