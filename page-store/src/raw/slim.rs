//! The slim dump of a raw checkpoint, made when it is opened.

use crate::{Error, IndexObject, Result, SlimObject, slim_writer::SlimArchiveWriter};
use criu_images::{Checkpoint, slim};
use std::{
    fs::File,
    io::{self, BufWriter, Write},
    sync::Arc,
};

/// A slim dump in an unlinked temporary file.
pub(super) struct Slim {
    pub(super) object: SlimObject,
    pub(super) file: Arc<File>,
    pub(super) checkpoint_id: String,
}

/// Makes it, with the tripwire.
pub(super) fn make(checkpoint: &Checkpoint, index: &[IndexObject]) -> Result<Slim> {
    let temporary = Error::temporary_file;
    let file = tempfile::tempfile().map_err(temporary)?;
    let out = Hashed { out: BufWriter::with_capacity(128 << 10, file), hasher: blake3::Hasher::new(), len: 0 };
    let mut archive = SlimArchiveWriter::new(out).map_err(temporary)?;
    slim::write(checkpoint, true, &mut archive)?;
    let archive = archive.finish(index.iter().map(|part| &part.object.blake3)).map_err(temporary)?;
    let object = super::object("slim", "tar.zst", archive.out.hasher.finalize(), archive.out.len);
    let file = archive.out.out.into_inner().map_err(|e| temporary(e.into_error()))?;
    Ok(Slim {
        object: SlimObject { object, unpacked: archive.unpacked, tripwire: true },
        file: Arc::new(file),
        checkpoint_id: archive.checkpoint_id,
    })
}

/// Hashes what goes through it.
struct Hashed<W> {
    out: W,
    hasher: blake3::Hasher,
    len: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.len += written as u64;
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
