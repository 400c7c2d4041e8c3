//! What the integration tests share: golden dumps, a folder that takes a slim dump, and the way back.
#![allow(dead_code)]

use criu_images::{
    Checkpoint, ImageDir, PAGE_SIZE, PageAddr, PageAt, Pid, Stored,
    slim::{self, Content, Entry, Piece, SlimSink},
};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::Arc,
};
use tempfile::TempDir;

/// A golden dump, unpacked: `criu-4.1` or `criu-4.2`.
pub(crate) fn golden(name: &str) -> (TempDir, PathBuf) {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{name}.tar.zst"));
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("dump");
    let reader = zstd::Decoder::new(fs::File::open(archive).unwrap()).unwrap();
    tar::Archive::new(reader).unpack(&dump).unwrap();
    (dir, dump)
}

pub(crate) fn open(dir: &Path) -> criu_images::Result<Checkpoint> {
    Checkpoint::open(Arc::new(ImageDir::open(dir)?))
}

/// The message of the error that opening `dir` ends in.
pub(crate) fn open_error(dir: &Path) -> String {
    match open(dir) {
        Ok(_) => panic!("{} opened", dir.display()),
        Err(e) => e.to_string(),
    }
}

/// A slim dump as a folder; checks the order that [`SlimSink`] promises.
pub(crate) struct Folder {
    path: PathBuf,
    last: String,
}

impl Folder {
    pub(crate) fn new(path: &Path) -> Self {
        fs::create_dir_all(path).unwrap();
        Self { path: path.into(), last: String::new() }
    }
}

impl SlimSink for Folder {
    fn put(&mut self, name: &str, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        assert!(self.last.as_str() < name, "{name} after {}", self.last);
        self.last = name.into();
        let path = self.path.join(name);
        fs::create_dir_all(path.parent().unwrap())?;
        match entry {
            Entry::Dir => fs::create_dir_all(path),
            Entry::Symlink { target } => symlink(target, path),
            Entry::File { len, mode } => {
                let mut file = fs::File::create_new(path)?;
                assert_eq!(io::copy(content, &mut file)?, *len, "{name}");
                file.set_permissions(fs::Permissions::from_mode(*mode))
            }
        }
    }
}

pub(crate) fn write_slim(dump: &Path, slim: &Path, tripwire: bool) -> criu_images::Result<()> {
    slim::write(&open(dump)?, tripwire, &mut Folder::new(slim))
}

/// Everything in a folder: what it is, its permissions, its bytes or target.
pub(crate) fn snapshot(dir: &Path) -> BTreeMap<String, (char, u32, Vec<u8>)> {
    fn walk(dir: &Path, prefix: &str, all: &mut BTreeMap<String, (char, u32, Vec<u8>)>) {
        for item in fs::read_dir(dir).unwrap() {
            let item = item.unwrap();
            let name = format!("{prefix}{}", item.file_name().to_str().unwrap());
            let meta = fs::symlink_metadata(item.path()).unwrap();
            let mode = meta.permissions().mode() & 0o7777;
            if meta.is_dir() {
                walk(&item.path(), &format!("{name}/"), all);
                all.insert(name, ('d', 0, Vec::new()));
            } else if meta.is_symlink() {
                let target = fs::read_link(item.path()).unwrap().to_str().unwrap().to_owned();
                all.insert(name, ('l', 0, target.into_bytes()));
            } else {
                all.insert(name, ('f', mode, fs::read(item.path()).unwrap()));
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(dir, "", &mut all);
    all
}

/// The bytes of a page, as the checkpoint has it.
pub(crate) fn page_bytes(checkpoint: &Checkpoint, pid: Pid, addr: u64) -> Option<Vec<u8>> {
    let at = checkpoint.page_at(pid, PageAddr::new(addr).unwrap())?;
    let (PageAt::Private { stored, .. } | PageAt::Shared { stored, .. }) = at else { return None };
    let Stored::Here { file, offset } = stored else { return None };
    let mut page = vec![0; PAGE_SIZE as usize];
    checkpoint.read_pages(file, offset, &mut page).unwrap();
    Some(page)
}

/// Joins a slim dump again; lazy pages come from `full`, which stands for the page store.
pub(crate) fn join(slim: &Path, full: &Checkpoint, out: &Path) {
    for file in slim::original_files(Arc::new(ImageDir::open(slim).unwrap())).unwrap() {
        let path = out.join(&file.name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let (len, mode) = match &file.content {
            Content::Dir => {
                fs::create_dir_all(path).unwrap();
                continue;
            }
            Content::Symlink { target } => {
                symlink(target, path).unwrap();
                continue;
            }
            Content::Copy { member, len, mode } => {
                fs::copy(slim.join(member), &path).unwrap();
                (*len, *mode)
            }
            Content::Pages { pid, len, mode, pieces } => {
                let eager = fs::read(slim.join(&file.name)).unwrap();
                let mut out = fs::File::create_new(&path).unwrap();
                for piece in pieces {
                    match *piece {
                        Piece::Slim { offset, len } => {
                            out.write_all(&eager[offset as usize..(offset + len) as usize]).unwrap();
                        }
                        Piece::Store { range } => {
                            for i in 0..range.pages() {
                                let addr = range.start().get() + i * PAGE_SIZE;
                                out.write_all(&page_bytes(full, *pid, addr).unwrap()).unwrap();
                            }
                        }
                    }
                }
                (*len, *mode)
            }
        };
        assert_eq!(fs::metadata(&path).unwrap().len(), len, "{}", file.name);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
}
