//! Objects named by their digest, and packs made of them.

use super::{ObjectSink, ObjectWriter};
use crate::{
    Digest, FrameInfo, ObjectRef, PackEncoding, PackObject, Result,
    pack::{MAX_PACK_BYTES, MAX_PACK_FRAMES, SeekTable},
};
use criu_images::PAGE_SIZE;
use std::io::{self, Write};

/// An object that is hashed while it is written.
pub(super) struct HashedObject {
    writer: Box<dyn ObjectWriter>,
    hasher: blake3::Hasher,
    len: u64,
}

impl HashedObject {
    pub(super) fn begin(sink: &dyn ObjectSink) -> Result<Self> {
        Ok(Self { writer: sink.begin()?, hasher: blake3::Hasher::new(), len: 0 })
    }

    /// Names it `<folder>/<digest>.<extension>`.
    pub(super) fn finish(mut self, folder: &str, extension: &str) -> Result<ObjectRef> {
        let blake3 = self.hasher.finalize().to_hex().to_string();
        let object = format!("{folder}/{blake3}.{extension}");
        self.writer.flush().map_err(|source| io_error(&object, source))?;
        self.writer.finish(&object)?;
        Ok(ObjectRef { object, size: self.len, blake3 })
    }
}

impl Write for HashedObject {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes)?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }
    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// What went wrong while an object was written.
pub(super) fn io_error(object: &str, source: io::Error) -> crate::Error {
    crate::Error::Io { object: object.into(), source }
}

/// Writes a small object in one go.
pub(crate) fn put(sink: &dyn ObjectSink, folder: &str, extension: &str, bytes: &[u8]) -> Result<ObjectRef> {
    let mut object = HashedObject::begin(sink)?;
    object.write_all(bytes).map_err(|source| io_error(folder, source))?;
    object.finish(folder, extension)
}

/// A frame as it will lie in a pack.
pub(super) struct EncodedFrame {
    pub(super) stored: Vec<u8>,
    pub(super) plain_len: u32,
    pub(super) digest: Digest,
}

/// The longest that the first packs get; each is twice as long as the one before, up to [`MAX_PACK_BYTES`]. A pack goes to an object store when it is
/// done: the network has something to do early, and the last pack is not all that is left in the end for a store of few.
const FIRST_PACK_BYTES: u64 = 8 << 20;

/// Lays frames into packs, in order.
pub(super) struct PackWriter<'a> {
    sink: &'a dyn ObjectSink,
    open: Option<(HashedObject, SeekTable)>,
    /// The longest that this pack gets.
    limit: u64,
    /// Those of the base first.
    done: Vec<PackObject>,
}

impl<'a> PackWriter<'a> {
    /// The packs that are written follow those of the base.
    pub(super) fn new(sink: &'a dyn ObjectSink, base: Vec<PackObject>) -> Self {
        Self { sink, open: None, limit: FIRST_PACK_BYTES, done: base }
    }

    /// Appends a frame; begins a new pack when this one is full.
    pub(super) fn push(&mut self, frame: &EncodedFrame) -> Result<FrameInfo> {
        if let Some((object, table)) = &self.open {
            let frames = table.frames().len() as u64 + 1;
            let len = object.len + frame.stored.len() as u64 + SeekTable::encoded_len(frames);
            if len > self.limit || frames > MAX_PACK_FRAMES {
                self.close()?;
            }
        }
        let (object, table) = match &mut self.open {
            Some(open) => open,
            None => self.open.insert((HashedObject::begin(self.sink)?, SeekTable::default())),
        };
        let info = FrameInfo {
            pack: self.done.len() as u32,
            offset: object.len,
            stored_len: frame.stored.len() as u32,
            pages: (u64::from(frame.plain_len) / PAGE_SIZE) as u8,
            digest: frame.digest,
        };
        object.write_all(&frame.stored).map_err(|source| io_error("pack", source))?;
        table.push(info.stored_len, frame.plain_len);
        Ok(info)
    }

    fn close(&mut self) -> Result<()> {
        let Some((mut object, table)) = self.open.take() else { return Ok(()) };
        object.write_all(&table.encode()).map_err(|source| io_error("pack", source))?;
        let object = object.finish("packs", "pack")?;
        self.limit = (self.limit * 2).min(MAX_PACK_BYTES);
        self.done.push(PackObject { object, encoding: PackEncoding::Zstd, frames: table.frames().len() as u64 });
        Ok(())
    }

    /// All packs.
    pub(super) fn finish(mut self) -> Result<Vec<PackObject>> {
        self.close()?;
        Ok(self.done)
    }
}
