//! A chain made from a full dump: kernels without soft-dirty tracking cannot dump one.

use super::{Counting, LAZY, PARENT, PRESENT, Pages, pagemap};
use crate::{Checkpoint, Error, ImageDir, ImageSource, PAGE_SIZE, PageRun, Result, Stored};
use std::{fs, io, os::unix::fs::symlink, path::Path, sync::Arc};

/// Pages that share a fate.
const GROUP: u64 = 4;

/// Splits the full dump `dump` into the incremental one `child`, which links to its neighbour `parent`: of four groups of
/// pages, two are only in the parent, one only in the child, and one in both, older in the parent.
pub fn split_into_chain(dump: &Path, parent: &Path, child: &Path) -> Result<()> {
    let checkpoint = Checkpoint::open(Arc::new(ImageDir::open(dump)?))?;
    let put = |folder: &Path, name: &str, bytes: &[u8]| {
        fs::write(folder.join(name), bytes).map_err(|e| Error::io(folder.join(name).display().to_string(), e))
    };
    let make = || -> io::Result<()> {
        fs::create_dir_all(parent)?;
        fs::create_dir_all(child)?;
        for name in checkpoint.source.names().map_err(io::Error::other)? {
            fs::copy(dump.join(&name), child.join(&name))?;
        }
        fs::copy(dump.join("inventory.img"), parent.join("inventory.img"))?;
        let link = Path::new("..").join(parent.file_name().ok_or(io::ErrorKind::InvalidInput)?);
        symlink(link, child.join("parent"))
    };
    make().map_err(|e| Error::io(child.display().to_string(), e))?;
    for task in &checkpoint.tasks {
        let Some(memory) = &task.memory else { continue };
        let (mut old, mut new) = (Half::default(), Half::default());
        let mut group = 0;
        for run in &memory.runs {
            let mut done = 0;
            while done < run.range.pages() {
                let pages = GROUP.min(run.range.pages() - done);
                let bytes = bytes(&checkpoint, run, done, pages)?;
                let start = run.range.start().get() + done * PAGE_SIZE;
                let mark = if run.marked_lazy { LAZY } else { 0 };
                match group % 4 {
                    2 => new.push(Pages::new(start, pages, PRESENT | mark), &bytes),
                    3 => {
                        let stale: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
                        old.push(Pages::new(start, pages, PRESENT | mark), &stale);
                        new.push(Pages::new(start, pages, PRESENT | mark), &bytes);
                    }
                    _ => {
                        old.push(Pages::new(start, pages, PRESENT | mark), &bytes);
                        new.push(Pages::new(start, pages, PARENT), &[]);
                    }
                }
                (done, group) = (done + pages, group + 1);
            }
        }
        for (folder, half) in [(parent, old), (child, new)] {
            let image = pagemap(Counting::V42, memory.pages_id, &half.pages);
            put(folder, &format!("pagemap-{}.img", task.pid), &image)?;
            put(folder, &format!("pages-{}.img", memory.pages_id), &half.bytes)?;
        }
    }
    Ok(())
}

#[derive(Default)]
struct Half {
    pages: Vec<Pages>,
    bytes: Vec<u8>,
}

impl Half {
    fn push(&mut self, pages: Pages, bytes: &[u8]) {
        self.pages.push(pages);
        self.bytes.extend_from_slice(bytes);
    }
}

fn bytes(checkpoint: &Checkpoint, run: &PageRun, skip: u64, pages: u64) -> Result<Vec<u8>> {
    let Stored::Here { file, offset } = run.stored else {
        return Err(Error::unsupported(checkpoint.source.describe(""), "a slim dump"));
    };
    let mut bytes = vec![0; (pages * PAGE_SIZE) as usize];
    checkpoint.read_pages(file, offset + skip * PAGE_SIZE, &mut bytes)?;
    Ok(bytes)
}
