//! Writes the slim dump of a checkpoint into a folder: `cargo run -p criu-images --example slim DIR OUT [--no-tripwire]`.
//!
//! `pageferry-strip split` does this and stores the pages that are left out, too; here they are lost.

use criu_images::{
    Checkpoint, ImageDir,
    slim::{self, Entry, SlimSink},
};
use std::{
    fs,
    io::{self, Read},
    os::unix::fs::{PermissionsExt, symlink},
    path::PathBuf,
    sync::Arc,
};

struct Folder(PathBuf);

impl SlimSink for Folder {
    fn put(&mut self, name: &str, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        let path = self.0.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        match entry {
            Entry::Dir => fs::create_dir(path),
            Entry::Symlink { target } => symlink(target, path),
            Entry::File { mode, .. } => {
                let mut file = fs::File::create_new(path)?;
                io::copy(content, &mut file)?;
                file.set_permissions(fs::Permissions::from_mode(*mode))
            }
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, out, rest @ ..] = &args[..] else { return Err("usage: slim DIR OUT [--no-tripwire]".into()) };
    let checkpoint = Checkpoint::open(Arc::new(ImageDir::open(dir)?))?;
    slim::write(&checkpoint, !rest.contains(&"--no-tripwire".into()), &mut Folder(out.into()))?;
    println!("{} files in the original", slim::original_files(Arc::new(ImageDir::open(out)?))?.len());
    Ok(())
}
