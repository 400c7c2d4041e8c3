//! A checkpoint directory on disk.
//!
//! Nothing outside of it is read, whatever links lie in it: files are regular files that no link leads to, and `parent` may
//! only point to somewhere below the folder that holds the directory first opened. CRIU's users keep a chain of dumps side
//! by side (`dumps/1`, `dumps/2` with `parent -> ../1`), so that folder is the given tree.

use super::{ImageSource, PagesFile};
use crate::{Error, Result};
use nix::fcntl::OFlag;
use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

/// Name of the link to the previous dump.
const PARENT: &str = "parent";
/// Largest image that is read whole. A pagemap of a process with 100 GiB in single pages is 0.5 GiB.
const MAX_IMAGE: u64 = 1 << 30;

/// A directory on disk.
#[derive(Debug)]
pub struct ImageDir {
    /// As the user typed it.
    path: PathBuf,
    /// No `parent` may lead out of it.
    tree: PathBuf,
    /// Itself and its children in the chain, without symbolic links.
    chain: Vec<PathBuf>,
}

impl ImageDir {
    /// Opens a directory. An error if there is none.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let real = fs::canonicalize(&path).map_err(|e| Error::io(path.display().to_string(), e))?;
        if !real.is_dir() {
            return Err(Error::io(path.display().to_string(), ErrorKind::NotADirectory));
        }
        let tree = real.parent().unwrap_or(&real).to_path_buf();
        Ok(Self { path, tree, chain: vec![real] })
    }

    fn io(&self, name: &str) -> impl Fn(std::io::Error) -> Error {
        let file = self.describe(name);
        move |e| Error::io(&file, e)
    }

    /// The regular file of that name and its length; `None` if it does not exist, an error if it is anything else.
    fn regular(&self, name: &str) -> Result<Option<(File, u64)>> {
        let relative = Path::new(name);
        if !relative.components().all(|c| matches!(c, Component::Normal(_))) {
            return Err(Error::corrupt(self.describe(name), "name", "leads out of its folder"));
        }
        let mut path = self.path.clone();
        for component in relative.components() {
            path.push(component);
            match fs::symlink_metadata(&path) {
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
                Err(e) => return Err(self.io(name)(e)),
                Ok(meta) if meta.is_symlink() => {
                    return Err(Error::unsupported(path.display().to_string(), "a symbolic link in place of an image"));
                }
                Ok(_) => {}
            }
        }
        // The links were just looked for; O_NONBLOCK so that a pipe of that name cannot hold us.
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&path).map_err(self.io(name))?;
        let meta = file.metadata().map_err(self.io(name))?;
        if !meta.is_file() {
            return Err(Error::unsupported(self.describe(name), "not a regular file"));
        }
        Ok(Some((file, meta.len())))
    }

    fn walk(&self, found: &mut dyn FnMut(String, Found)) -> Result<()> {
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            let mut empty = true;
            for item in fs::read_dir(self.path.join(&folder)).map_err(self.io(&folder))? {
                let item = item.map_err(self.io(&folder))?;
                empty = false;
                let Ok(base) = item.file_name().into_string() else {
                    return Err(Error::unsupported(item.path().display().to_string(), "a file name that is not UTF-8"));
                };
                let name = if folder.is_empty() { base } else { format!("{folder}/{base}") };
                let kind = item.file_type().map_err(self.io(&name))?;
                if name == PARENT && !kind.is_file() {
                    continue;
                } else if kind.is_dir() {
                    folders.push(name);
                } else if kind.is_symlink() {
                    let target = fs::read_link(item.path()).map_err(self.io(&name))?;
                    let Some(target) = target.to_str() else {
                        return Err(Error::unsupported(self.describe(&name), "a link to a name that is not UTF-8"));
                    };
                    found(name, Found::Symlink(target.to_owned()));
                } else if kind.is_file() {
                    found(name, Found::File);
                }
                // Anything else is left behind by a run of CRIU (`lazy-pages.socket`) and is not part of a checkpoint.
            }
            if empty && !folder.is_empty() {
                found(folder, Found::EmptyDir);
            }
        }
        Ok(())
    }
}

enum Found {
    File,
    Symlink(String),
    EmptyDir,
}

impl ImageSource for ImageDir {
    fn describe(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        self.walk(&mut |name, found| {
            if matches!(found, Found::File) {
                names.push(name);
            }
        })?;
        names.sort_unstable();
        Ok(names)
    }

    fn symlinks(&self) -> Result<Vec<(String, String)>> {
        let mut links = Vec::new();
        self.walk(&mut |name, found| {
            if let Found::Symlink(target) = found {
                links.push((name, target));
            }
        })?;
        links.sort_unstable();
        Ok(links)
    }

    fn empty_dirs(&self) -> Result<Vec<String>> {
        let mut dirs = Vec::new();
        self.walk(&mut |name, found| {
            if matches!(found, Found::EmptyDir) {
                dirs.push(name);
            }
        })?;
        dirs.sort_unstable();
        Ok(dirs)
    }

    fn mode(&self, name: &str) -> Result<u32> {
        let meta = fs::symlink_metadata(self.path.join(name)).map_err(self.io(name))?;
        Ok(meta.permissions().mode() & 0o7777)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some((file, len)) = self.regular(name)? else { return Ok(None) };
        if len > MAX_IMAGE {
            let problem = format!("{len} bytes long; no image but pages files grows past {MAX_IMAGE}");
            return Err(Error::corrupt(self.describe(name), "length", problem));
        }
        let mut bytes = Vec::new();
        file.take(MAX_IMAGE).read_to_end(&mut bytes).map_err(self.io(name))?;
        Ok(Some(bytes))
    }

    fn open(&self, name: &str) -> Result<Option<PagesFile>> {
        let file = self.regular(name)?;
        Ok(file.map(|(file, len)| PagesFile::new(self.describe(name), Arc::new(file), 0, len)))
    }

    fn parent(&self) -> Result<Option<Box<dyn ImageSource>>> {
        let link = self.path.join(PARENT);
        let refuse = |problem: String| Err(Error::corrupt(link.display().to_string(), "link", problem));
        let kind = match fs::symlink_metadata(&link) {
            Ok(meta) => meta.file_type(),
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(self.io(PARENT)(e)),
        };
        let target = if kind.is_symlink() { fs::read_link(&link).map_err(self.io(PARENT))? } else { link.clone() };
        let target = target.display();
        let real = match fs::canonicalize(&link) {
            Ok(real) => real,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return refuse(format!("the checkpoint that this one builds on, {target}, is missing: bring it along"));
            }
            Err(e) => return Err(self.io(PARENT)(e)),
        };
        if !real.is_dir() {
            return refuse(format!("{target} is not a folder"));
        }
        if !real.starts_with(&self.tree) {
            let tree = self.tree.display();
            return refuse(format!("{target} leads out of {tree}: keep all checkpoints of a chain in that folder"));
        }
        if self.chain.contains(&real) {
            return refuse(format!("{target} leads back to a checkpoint that builds on it"));
        }
        // Shown as the user would get there: dumps/2/parent/parent.
        let chain = self.chain.iter().cloned().chain([real]).collect();
        Ok(Some(Box::new(Self { path: link, tree: self.tree.clone(), chain })))
    }
}
