//! A checkpoint and those that it builds on, seen as one.

use crate::{
    Error, FileNumber, ImageSource, PageRange, PagesFile, Result, Stored,
    pagemap::{Flags, Pagemap},
};
use std::{collections::BTreeMap, sync::Arc};

/// Longest chain of parents. CRIU's users keep it in single digits; each restore opens every link of it.
const MAX_CHAIN: usize = 256;

/// The checkpoint first, then its parents, and every pages file that was needed so far.
pub(crate) struct Chain {
    sources: Vec<Arc<dyn ImageSource>>,
    pub(crate) files: Vec<PagesFile>,
    /// Which pagemap (of which link in the chain) a pages file belongs to.
    owners: BTreeMap<(usize, u32), String>,
}

/// Neighbouring pages with their place, before they are cut at mappings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) range: PageRange,
    pub(crate) stored: Stored,
    pub(crate) marked_lazy: bool,
}

/// What a pagemap of the checkpoint comes to once its parents are looked through.
#[derive(Debug)]
pub(crate) struct Flat {
    pub(crate) pages_id: u32,
    /// Sorted, not overlapping.
    pub(crate) pieces: Vec<Piece>,
}

struct Layer {
    pagemap: Pagemap,
    /// `None` where the pagemap has no bytes and the file is not there.
    file: Option<FileNumber>,
}

impl Chain {
    pub(crate) fn open(top: Arc<dyn ImageSource>) -> Result<Self> {
        let mut sources = vec![top];
        while let Some(parent) = sources[sources.len() - 1].parent()? {
            if sources.len() == MAX_CHAIN {
                let problem = format!("a chain of more than {MAX_CHAIN} checkpoints");
                return Err(Error::corrupt(parent.describe("inventory.img"), "parent", problem));
            }
            sources.push(Arc::from(parent));
        }
        Ok(Self { sources, files: Vec::new(), owners: BTreeMap::new() })
    }

    /// The checkpoint and its parents, in that order.
    pub(crate) fn sources(&self) -> &[Arc<dyn ImageSource>] {
        &self.sources
    }

    /// Reads the pagemap `name` and, where it refers to them, those of the same name in the parents. `None` if the
    /// checkpoint has none.
    pub(crate) fn flatten(&mut self, name: &str) -> Result<Option<Flat>> {
        let mut layers: Vec<Layer> = Vec::new();
        for depth in 0..self.sources.len() {
            let Some(layer) = self.layer(depth, name)? else { break };
            let refers_on = layer.pagemap.entries.iter().any(|e| e.flags.has(Flags::PARENT));
            layers.push(layer);
            if !refers_on {
                break;
            }
        }
        let Some(top) = layers.first() else { return Ok(None) };
        let mut pieces = Vec::with_capacity(top.pagemap.entries.len());
        for entry in &top.pagemap.entries {
            let before = pieces.len();
            let marked_lazy = entry.flags.has(Flags::LAZY);
            let missing = resolve(&layers, 0, entry.range, marked_lazy, &mut pieces);
            let Err(Missing { depth, range }) = missing else { continue };
            pieces.truncate(before);
            // A slim dump: no bytes, or those of a tripwire, which has none either. CRIU never writes LAZY with PARENT.
            if marked_lazy {
                pieces.push(Piece { range: entry.range, stored: Stored::Elsewhere, marked_lazy });
                continue;
            }
            let Some(parent) = self.sources.get(depth) else {
                let file = self.sources[depth - 1].describe(name);
                let problem = format!("{range} is said to be in the parent, but there is no link `parent`");
                return Err(Error::corrupt(file, "pagemap", problem));
            };
            let problem = format!("lacks {range}, which {} says it has", self.sources[depth - 1].describe(name));
            return Err(Error::corrupt(parent.describe(name), "pagemap", problem));
        }
        Ok(Some(Flat { pages_id: top.pagemap.pages_id, pieces }))
    }

    fn layer(&mut self, depth: usize, name: &str) -> Result<Option<Layer>> {
        let source = &self.sources[depth];
        let Some(bytes) = source.read(name)? else { return Ok(None) };
        let pagemap = Pagemap::parse(&source.describe(name), &bytes)?;
        let file = self.pages_file(depth, name, &pagemap)?;
        Ok(Some(Layer { pagemap, file }))
    }

    fn pages_file(&mut self, depth: usize, pagemap_name: &str, pagemap: &Pagemap) -> Result<Option<FileNumber>> {
        let source = &self.sources[depth];
        let name = format!("pages-{}.img", pagemap.pages_id);
        let place = source.describe(&name);
        let Some(file) = source.open(&name)? else {
            if pagemap.bytes == 0 {
                return Ok(None);
            }
            let compressed = format!("pages-{}.comp.img", pagemap.pages_id);
            if source.open(&compressed)?.is_some() {
                return Err(Error::unsupported(source.describe(&compressed), "LZ4-compressed pages (CRaC's CRIU)"));
            }
            return Err(Error::corrupt(
                source.describe(pagemap_name),
                "pagemap_head",
                format_args!("{name} is missing"),
            ));
        };
        // Only what has bytes is held to be its own: the stub parent of a tripwire has one empty file for all tasks.
        if pagemap.bytes > 0
            && let Some(owner) = self.owners.insert((depth, pagemap.pages_id), pagemap_name.to_owned())
        {
            return Err(Error::corrupt(place, "owner", format_args!("is named by both {owner} and {pagemap_name}")));
        }
        if file.len() < pagemap.bytes {
            let short = pagemap.bytes - file.len();
            let problem = format!("{short} bytes shorter than {pagemap_name} says");
            return Err(Error::corrupt(place, format_args!("byte {}", file.len()), problem));
        }
        if file.len() > pagemap.bytes {
            let long = file.len() - pagemap.bytes;
            let problem = format!("{long} bytes longer than {pagemap_name} says");
            return Err(Error::corrupt(place, format_args!("byte {}", pagemap.bytes), problem));
        }
        if let Some(hole) = file.first_hole()? {
            let what = format!(
                "pages were punched out of it at byte {hole} (criu --auto-dedup or criu dedup), so it is not a checkpoint \
                 any more; if it only was copied sparsely, or lies where zeros are dropped (ZFS), copy it elsewhere with \
                 `cp --sparse=never`"
            );
            return Err(Error::unsupported(place, what));
        }
        self.files.push(file);
        Ok(Some(FileNumber((self.files.len() - 1) as u32)))
    }
}

/// Pages that a pagemap says are in the parent at `depth`, which has them not.
struct Missing {
    depth: usize,
    range: PageRange,
}

/// Finds the bytes of `range` in the layer at `depth` or below. Each layer's entries are visited once per piece that the
/// layers above cut, so the work is bound by the size of the images.
fn resolve(
    layers: &[Layer],
    depth: usize,
    range: PageRange,
    marked_lazy: bool,
    pieces: &mut Vec<Piece>,
) -> Result<(), Missing> {
    let mut from = range.start().get();
    let missing = |from: u64, to: u64| match PageRange::from_bytes(from, to) {
        Some(range) => Err(Missing { depth, range }),
        None => Ok(()),
    };
    let entries = layers.get(depth).map_or(&[][..], |layer| layer.pagemap.overlapping(range));
    for entry in entries {
        let Some(part) = entry.range.intersection(range) else { continue };
        missing(from, part.start().get())?;
        from = part.end();
        if entry.flags.has(Flags::PARENT) {
            resolve(layers, depth + 1, part, marked_lazy, pieces)?;
        } else if let (true, Some(file)) = (entry.flags.has(Flags::PRESENT), layers[depth].file) {
            let offset = entry.offset + (part.start().get() - entry.range.start().get());
            pieces.push(Piece { range: part, stored: Stored::Here { file, offset }, marked_lazy });
        } else {
            missing(part.start().get(), part.end())?;
        }
    }
    missing(from, range.end())
}
