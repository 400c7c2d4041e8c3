//! The slim dump as an object, written under the eyes of someone who may want to stop.

use super::{ObjectSink, Progress, objects::HashedObject};
use crate::{Error, IndexObject, Result, SlimObject, slim_writer::SlimArchiveWriter};
use criu_images::{
    Checkpoint,
    slim::{self, Entry, SlimSink},
};
use std::io::{self, Read};

/// Writes the slim dump of `checkpoint`; returns it and the checkpoint's id.
pub(super) fn write_slim(
    checkpoint: &Checkpoint,
    sink: &dyn ObjectSink,
    tripwire: bool,
    index: &[IndexObject],
    progress: &dyn Progress,
) -> Result<(SlimObject, String)> {
    let failed = |source| Error::Io { object: "slim dump".into(), source };
    let archive = SlimArchiveWriter::new(HashedObject::begin(sink)?).map_err(failed)?;
    let mut watched = Watched { inner: archive, progress };
    slim::write(checkpoint, tripwire, &mut watched)?;
    let archive = watched.inner.finish(index.iter().map(|part| &part.object.blake3)).map_err(failed)?;
    let object = archive.out.finish("slim", "tar.zst")?;
    Ok((SlimObject { object, unpacked: archive.unpacked, tripwire }, archive.checkpoint_id))
}

/// Passes members on until it is told to stop: shared memory is in the slim dump, and may be large.
struct Watched<'a, S> {
    inner: S,
    progress: &'a dyn Progress,
}

impl<S: SlimSink> SlimSink for Watched<'_, S> {
    fn put(&mut self, name: &str, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        self.inner.put(name, entry, &mut WatchedContent { content, progress: self.progress })
    }
}

struct WatchedContent<'a> {
    content: &'a mut dyn Read,
    progress: &'a dyn Progress,
}

impl Read for WatchedContent<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.progress.cancelled() {
            // Not `Interrupted`: that one is tried again.
            return Err(io::Error::other("stopped"));
        }
        self.content.read(buf)
    }
}
