//! `copy`: a store to another place, every byte verified on the way.

use crate::{
    Meter, Stop, human,
    retry::{open_store, with_retries},
};
use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use page_store::{
    Error, ObjectRef, PackEncoding, Store,
    write::{Conditions, StoreSink, create},
};
use serde::Serialize;
use std::{fmt, io::Write, time::Instant};

/// Objects that are read at once.
const AT_ONCE: usize = 4;

/// What to copy, and where to.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// Path or address of the store.
    pub from: String,
    /// Path or address of the place that it is copied to.
    pub to: String,
    /// Whether a store that is there already is replaced.
    pub replace: bool,
    /// Whether `checkpoint.json` is put only if nobody else has put one meanwhile; for object stores.
    pub conditions: Conditions,
}

/// What was copied. Sizes are in bytes.
#[derive(Debug, Clone, Serialize)]
pub struct CopyReport {
    /// The copy.
    pub store: String,
    /// Identity of the checkpoint.
    pub checkpoint_id: String,
    /// Objects that were copied.
    pub objects: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that were there already.
    pub skipped: usize,
    /// Wall-clock time.
    pub seconds: f64,
}

/// Copies. Objects that are there already, from a run that was cut, are not copied again.
pub async fn copy(options: &CopyOptions, meter: &Meter, stop: &Stop) -> Result<CopyReport> {
    let began = Instant::now();
    let store = open_store(&options.from).await?;
    let manifest = store.manifest();
    let is_raw = manifest.packs.iter().any(|pack| pack.encoding == PackEncoding::Plain);
    ensure!(!is_raw, "{} is a raw checkpoint; `pageferry-strip split` makes a store of it anywhere", options.from);
    let sink = create(&options.to, options.replace, options.conditions)?;
    meter.begin("copy", manifest.objects().map(|object| object.size).sum());
    // What it shares with stores beside it becomes the copy's own.
    let copy = manifest.standalone();
    let one = |(object, name): &(ObjectRef, String)| {
        let (object, name) = (object.clone(), name.clone());
        let (store, sink) = (&store, &*sink);
        async move {
            if sink.has(&ObjectRef { object: name.clone(), ..object.clone() }) {
                meter.advance(object.size);
                return Ok(None);
            }
            with_retries(store, || copy_object(store, sink, &object, &name)).await?;
            meter.advance(object.size);
            Ok::<_, Error>(Some(object.size))
        }
    };
    let objects: Vec<_> = manifest.objects().cloned().zip(copy.objects().map(|object| object.object.clone())).collect();
    let copied = async { Ok(stream::iter(&objects).map(one).buffer_unordered(AT_ONCE).try_collect::<Vec<_>>().await?) };
    let copied = stop.or(copied).await?;
    stop.check()?;
    sink.commit(&copy.to_json()?).with_context(|| format!("cannot finish {}", options.to))?;
    meter.end();
    let sizes: Vec<u64> = copied.iter().flatten().copied().collect();
    Ok(CopyReport {
        store: options.to.clone(),
        checkpoint_id: manifest.checkpoint_id.clone(),
        objects: sizes.len(),
        bytes: sizes.iter().sum(),
        skipped: copied.len() - sizes.len(),
        seconds: began.elapsed().as_secs_f64(),
    })
}

async fn copy_object(store: &Store, sink: &dyn StoreSink, object: &ObjectRef, name: &str) -> Result<(), Error> {
    let mut writer = sink.begin()?;
    let mut hasher = blake3::Hasher::new();
    let failed = |source| Error::Io { object: object.object.clone(), source };
    if object.size > 0 {
        // Exactly so many bytes, or an error.
        let mut body = store.backend().get_range(&object.object, 0..object.size).await?;
        while let Some(chunk) = body.next().await.transpose()? {
            hasher.update(&chunk);
            writer.write_all(&chunk).map_err(failed)?;
        }
    }
    if hasher.finalize().to_hex().as_str() != object.blake3 {
        store.backend().forget(&object.object, &(0..object.size));
        let problem = "not that of the manifest".into();
        return Err(Error::Corrupt {
            object: store.backend().describe(&object.object),
            place: "digest".into(),
            problem,
        });
    }
    writer.flush().map_err(failed)?;
    writer.finish(name)
}

impl fmt::Display for CopyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let skipped = if self.skipped > 0 { format!("; {} were there already", self.skipped) } else { String::new() };
        let (objects, bytes) = (self.objects, human::bytes(self.bytes));
        writeln!(f, "copied {objects} objects, {bytes}, to {} in {:.2} s{skipped}", self.store, self.seconds)
    }
}
