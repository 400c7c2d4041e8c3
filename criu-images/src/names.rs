//! Which file a mapping is of: `files.img`, or `reg-files.img` of older CRIU, and `memfd.img`.

use crate::{
    ImageSource, Result,
    frame::{Entries, Kind},
    messages::{self, FileEntry, MemfdInodeEntry, RegFileEntry},
};
use std::collections::HashMap;

/// The files that mappings refer to, by CRIU's file id.
#[derive(Debug, Default)]
pub(crate) struct FileNames {
    regular: HashMap<u32, String>,
    /// File id to inode.
    memfd_files: HashMap<u32, u32>,
    memfd_inodes: HashMap<u32, Memfd>,
}

/// One memfd.
#[derive(Debug)]
pub(crate) struct Memfd {
    /// As `/proc/<pid>/maps` shows it.
    pub(crate) name: String,
    /// Its pages are in `pagemap-shmem-<shmid>.img`.
    pub(crate) shmid: u64,
}

impl FileNames {
    /// Reads what there is; absent images leave mappings without a name.
    pub(crate) fn read(source: &dyn ImageSource) -> Result<Self> {
        let mut names = Self::default();
        each(source, "files.img", Kind::FILES, |file: FileEntry| {
            if let Some(regular) = file.reg {
                names.regular.insert(file.id, text(&regular.name));
            }
            if let Some(memfd) = file.memfd {
                names.memfd_files.insert(file.id, memfd.inode_id);
            }
        })?;
        each(source, "reg-files.img", Kind::REG_FILES, |file: RegFileEntry| {
            names.regular.insert(file.id, text(&file.name));
        })?;
        each(source, "memfd.img", Kind::MEMFD_INODE, |inode: MemfdInodeEntry| {
            // Shared anonymous memory is dumped as a memfd, too, under the name that the kernel gives it.
            let name = match text(&inode.name) {
                zero if zero == "/dev/zero" => "/dev/zero (deleted)".into(),
                name => format!("/memfd:{name} (deleted)"),
            };
            let memfd = Memfd { name, shmid: inode.shmid.into() };
            if let Ok(id) = inode.inode_id.try_into() {
                names.memfd_inodes.insert(id, memfd);
            }
        })?;
        Ok(names)
    }

    pub(crate) fn regular(&self, file_id: u64) -> Option<String> {
        self.regular.get(&u32::try_from(file_id).ok()?).cloned()
    }

    pub(crate) fn memfd(&self, file_id: u64) -> Option<&Memfd> {
        self.memfd_inodes.get(self.memfd_files.get(&u32::try_from(file_id).ok()?)?)
    }
}

fn each<T: prost::Message + Default>(
    source: &dyn ImageSource,
    name: &str,
    kind: Kind,
    mut take: impl FnMut(T),
) -> Result<()> {
    let Some(bytes) = source.read(name)? else { return Ok(()) };
    let file = source.describe(name);
    for entry in Entries::new(&file, &bytes, kind)? {
        take(messages::decode_liberal(&file, &entry?)?);
    }
    Ok(())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
