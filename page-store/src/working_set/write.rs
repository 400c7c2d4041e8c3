//! Adds a working set to a store in place.

use super::{Trace, WorkingSet, merge};
use crate::{
    Error, FrameNumber, Manifest, Result, Store,
    backend::read_range,
    manifest::WorkingSetObject,
    write::{ObjectSink, put},
};
use futures::{StreamExt, TryStreamExt, stream};

/// Frames that are read at once: a thousand of them, one after another from a bucket at 30 ms, would take half a minute.
const READS_AT_ONCE: usize = 16;

/// Writes the frames that `traces` have in common as the set `name`, and a `checkpoint.json` that names it; a set of that name is
/// replaced. Nothing else of the store is written. `sink` must be that store's.
pub async fn add(store: &Store, sink: &dyn ObjectSink, name: &str, traces: &[Trace]) -> Result<WorkingSetObject> {
    let frames =
        stream::iter(merge(traces)).map(|frame| async move { Ok::<_, Error>((frame, stored(store, frame).await?)) });
    let set = WorkingSet { frames: frames.buffered(READS_AT_ONCE).try_collect().await? };
    let object = put(sink, "working-sets", "set", &set.to_bytes())?;
    let entry = WorkingSetObject { name: name.into(), object, frames: set.frames.len() as u64 };
    let mut manifest: Manifest = store.manifest().clone();
    manifest.working_sets.retain(|other| other.name != name);
    manifest.working_sets.push(entry.clone());
    sink.commit(&manifest.to_json()?)?;
    Ok(entry)
}

/// A frame's stored bytes, after a look whether they are good.
async fn stored(store: &Store, frame: FrameNumber) -> Result<bytes::Bytes> {
    let info = store.frame_info(frame).await?;
    let pack = &store.manifest().packs.get(info.pack as usize).ok_or_else(|| store.no_such_frame(frame))?.object;
    let range = info.offset..info.offset + u64::from(info.stored_len);
    let stored = read_range(&**store.backend(), &pack.object, range).await?;
    store.decode_frame(frame, stored.clone()).await?;
    Ok(stored)
}
