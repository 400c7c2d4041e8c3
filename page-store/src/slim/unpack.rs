//! Writes a slim dump to a directory.

use super::{MemberKind, SlimDump};
use crate::{Error, Result, ScratchDir};
use std::{
    fs::{self, OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink},
    path::Path,
};

pub(super) fn unpack(slim: &SlimDump, dir: &Path) -> Result<()> {
    let failed = |path: &Path| {
        let object = path.display().to_string();
        move |source| Error::Io { object, source }
    };
    let before = match fs::read_dir(dir) {
        Ok(mut items) => {
            if items.next().is_some() {
                return Err(failed(dir)(io::Error::new(
                    io::ErrorKind::DirectoryNotEmpty,
                    "not empty; name a new folder",
                )));
            }
            Some(fs::metadata(dir).map_err(failed(dir))?.permissions())
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(failed(dir)(e)),
    };
    // Through links in the path, so that the rename stays on one file system and replaces the folder itself.
    let real = match before {
        Some(_) => fs::canonicalize(dir).map_err(failed(dir))?,
        None => dir.to_owned(),
    };
    let beside = real.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = ScratchDir::create(beside, ".pageferry-slim-").map_err(failed(beside))?;
    write_members(slim, temporary.path())?;
    if let Some(permissions) = before {
        fs::set_permissions(temporary.path(), permissions).map_err(failed(temporary.path()))?;
    }
    temporary.rename(&real).map_err(failed(dir))
}

fn write_members(slim: &SlimDump, to: &Path) -> Result<()> {
    let failed = |path: &Path| {
        let object = path.display().to_string();
        move |source| Error::Io { object, source }
    };
    let mut links = Vec::new();
    for (name, kind) in slim.members.iter() {
        let path = to.join(name);
        let folder = if matches!(kind, MemberKind::Dir) { Some(path.as_path()) } else { path.parent() };
        if let Some(folder) = folder {
            fs::create_dir_all(folder).map_err(failed(folder))?;
        }
        match kind {
            MemberKind::Dir => {}
            MemberKind::Symlink { target } => links.push((path, target)),
            MemberKind::File { mode, .. } => {
                let Some(content) = slim.file(name) else { continue };
                let mut file =
                    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed(&path))?;
                io::copy(&mut content.reader(), &mut file).map_err(failed(&path))?;
                file.set_permissions(Permissions::from_mode(*mode)).map_err(failed(&path))?;
            }
        }
    }
    // Last, so that nothing is written through one.
    for (path, target) in links {
        symlink(target, &path).map_err(failed(&path))?;
    }
    Ok(())
}
