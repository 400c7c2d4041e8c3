//! A slim dump, fetched: an unlinked temporary file and where each member lies in it.

mod archive;
mod unpack;

use crate::{Error, Manifest, Result};
use archive::{MemberKind, Members};
use criu_images::{ImageSource, PagesFile, slim::checkpoint_id_member};
use std::{fs::File, path::Path, sync::Arc};

/// Largest image that is read whole, in bytes (as for a directory on disk).
const MAX_IMAGE: u64 = 1 << 30;
/// Link or folder with the previous dump; here, the tripwire.
const PARENT: &str = "parent";

/// A slim dump. Nothing of it outlives this value on disk.
#[derive(Debug, Clone)]
pub struct SlimDump {
    /// Path or URL of the object that it came from.
    archive: Arc<str>,
    /// Content of all members, one after another.
    content: Arc<File>,
    members: Arc<Members>,
    /// The folder in it that is looked at: empty, or ends in '/'.
    root: String,
}

impl SlimDump {
    /// From the bytes of the object called `archive`, whose digest matched: each member is checked, and that it is of this checkpoint.
    pub(crate) fn from_archive(archive: &str, bytes: File, manifest: &Manifest) -> Result<Self> {
        let (content, members) = archive::index(archive, bytes, manifest.slim.unpacked)?;
        let slim = Self {
            archive: archive.into(),
            content: Arc::new(content),
            members: Arc::new(members),
            root: String::new(),
        };
        match checkpoint_id(&slim)? {
            Some(id) if id == manifest.checkpoint_id => Ok(slim),
            id => Err(Error::Corrupt {
                object: archive.into(),
                place: checkpoint_id_member().into(),
                problem: match id {
                    Some(id) => format!("it is of checkpoint {id}, not {}", manifest.checkpoint_id),
                    None => "missing".into(),
                },
            }),
        }
    }

    /// Writes it to `dir`, which must be empty or not exist: files appear whole, all at once.
    ///
    /// The folder is readable by its owner only (it holds memory), unless it was there before: then it stays as it was.
    pub fn unpack(&self, dir: &Path) -> Result<()> {
        unpack::unpack(self, dir)
    }

    /// Members below [`Self::root`] by their names there, without what `parent` leads to.
    fn visible(&self) -> impl Iterator<Item = (&str, &MemberKind)> {
        self.members.iter().filter_map(|(name, kind)| {
            let name = name.strip_prefix(&self.root)?;
            let in_parent = name.strip_prefix(PARENT).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            (!in_parent || (name == PARENT && matches!(kind, MemberKind::File { .. }))).then_some((name, kind))
        })
    }

    fn file(&self, name: &str) -> Option<PagesFile> {
        match self.members.get(&format!("{}{name}", self.root))? {
            &MemberKind::File { offset, len, .. } => {
                Some(PagesFile::new(self.describe(name), Arc::clone(&self.content), offset, len))
            }
            _ => None,
        }
    }
}

/// Which store a slim dump belongs to ([`Manifest::checkpoint_id`]): what its `.pageferry/checkpoint-id` says. `None` if it has none: it was
/// not made by `pageferry-strip`.
pub fn checkpoint_id(slim: &dyn ImageSource) -> Result<Option<String>> {
    let id = slim.read(checkpoint_id_member())?;
    Ok(id.map(|id| String::from_utf8_lossy(&id).trim().chars().take(64).collect()))
}

impl ImageSource for SlimDump {
    fn describe(&self, name: &str) -> String {
        format!("{}{name} in {}", self.root, self.archive)
    }

    fn names(&self) -> criu_images::Result<Vec<String>> {
        let files = self.visible().filter(|(_, kind)| matches!(kind, MemberKind::File { .. }));
        Ok(files.map(|(name, _)| name.to_owned()).collect())
    }

    fn read(&self, name: &str) -> criu_images::Result<Option<Vec<u8>>> {
        let Some(file) = self.file(name) else { return Ok(None) };
        let corrupt = |problem: String| criu_images::Error::Corrupt {
            file: self.describe(name),
            place: "length".into(),
            problem,
        };
        let len = usize::try_from(file.len()).ok().filter(|&len| len as u64 <= MAX_IMAGE);
        let len = len.ok_or_else(|| corrupt(format!("{} bytes; no image but pages files is so long", file.len())))?;
        // The content was unpacked: it has really so many bytes.
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(Some(bytes))
    }

    fn open(&self, name: &str) -> criu_images::Result<Option<PagesFile>> {
        Ok(self.file(name))
    }

    fn parent(&self) -> criu_images::Result<Option<Box<dyn ImageSource>>> {
        let name = format!("{}{PARENT}", self.root);
        let root = match self.members.get(&name) {
            Some(MemberKind::File { .. }) => return Ok(None),
            Some(MemberKind::Symlink { target }) => archive::resolve(&name, target),
            Some(MemberKind::Dir) => name,
            None if self.members.has_below(&name) => name,
            None => return Ok(None),
        };
        // A link to itself or to the top would be followed for ever.
        if !self.members.has_below(&root) || self.root.starts_with(&format!("{root}/")) {
            return Err(criu_images::Error::Corrupt {
                file: self.describe(PARENT),
                place: "link".into(),
                problem: format!("leads to {root:?}, which is no folder of this dump's own"),
            });
        }
        Ok(Some(Box::new(Self { root: root + "/", ..self.clone() })))
    }

    fn symlinks(&self) -> criu_images::Result<Vec<(String, String)>> {
        let link = |(name, kind): (&str, &MemberKind)| match kind {
            MemberKind::Symlink { target } => Some((name.to_owned(), target.clone())),
            _ => None,
        };
        Ok(self.visible().filter_map(link).collect())
    }

    fn empty_dirs(&self) -> criu_images::Result<Vec<String>> {
        let empty = |(name, kind): &(&str, &MemberKind)| {
            matches!(kind, MemberKind::Dir) && !self.members.has_below(&format!("{}{name}", self.root))
        };
        Ok(self.visible().filter(empty).map(|(name, _)| name.to_owned()).collect())
    }

    fn mode(&self, name: &str) -> criu_images::Result<u32> {
        match self.members.get(&format!("{}{name}", self.root)) {
            Some(MemberKind::File { mode, .. }) => Ok(*mode),
            _ => Ok(0o644),
        }
    }
}
