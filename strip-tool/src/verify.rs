//! `verify`: every object, every frame, every digest.
//!
//! Checked: each object's length and digest; the structure of the index; every frame's place, encoding and digest, and the
//! seek table behind them; each working set's frames; that the slim dump opens as a checkpoint, is of this store, and lacks exactly the pages that the
//! index has; the sums in the manifest. The manifest itself is what all this is held against.

mod index;
mod packs;
mod sets;
mod slim;

use crate::{
    Meter, Stop, human,
    retry::{open_store, with_retries},
};
use anyhow::Result;
use futures::StreamExt;
use index::IndexCheck;
use page_store::{Error, MANIFEST_NAME, ObjectRef, PackEncoding, Store};
use serde::Serialize;
use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Instant,
};

/// Problems that are listed; a store that has more is told to have more.
const MAX_LISTED: usize = 1000;

/// Something wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Path or URL of the object.
    pub object: String,
    /// Where in it.
    pub place: String,
    /// What is wrong there.
    pub problem: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.object, self.place, self.problem)
    }
}

/// What was checked, and what was found.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyReport {
    /// Path or address.
    pub store: String,
    /// Identity of the checkpoint.
    pub checkpoint_id: String,
    /// Whether nothing is wrong.
    pub ok: bool,
    /// Objects that were read.
    pub objects: usize,
    /// Bytes in them.
    pub bytes: u64,
    /// Frames whose digest matched.
    pub frames: u64,
    /// How many problems there are.
    pub problem_count: usize,
    /// The first thousand of them.
    pub problems: Vec<Problem>,
    /// Wall-clock time.
    pub seconds: f64,
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        if self.problem_count > self.problems.len() {
            writeln!(f, "... and {} more", self.problem_count - self.problems.len())?;
        }
        let (frames, size) = (human::count(self.frames), human::bytes(self.bytes));
        let result = match self.problem_count {
            0 => "all is well".into(),
            1 => "1 problem".into(),
            n => format!("{n} problems"),
        };
        writeln!(
            f,
            "{}: {result}: {} objects, {frames} good frames, {size}, {:.2} s",
            self.store, self.objects, self.seconds
        )
    }
}

/// What all checks share.
#[derive(Debug)]
struct Check {
    store: Store,
    meter: Arc<Meter>,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    problems: Vec<Problem>,
    count: usize,
    good_frames: u64,
}

impl Check {
    fn found(&self) -> std::sync::MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn problem(&self, object: &str, place: impl Into<String>, problem: impl Into<String>) {
        let object = self.store.backend().describe(object);
        self.add(Problem { object, place: place.into(), problem: problem.into() });
    }

    fn add(&self, problem: Problem) {
        let mut found = self.found();
        found.count += 1;
        if found.problems.len() < MAX_LISTED {
            found.problems.push(problem);
        }
    }

    /// An error that ended the reading of `object`.
    fn error(&self, object: &str, error: Error) {
        match error {
            Error::Corrupt { object, place, problem } => self.add(Problem { object, place, problem }),
            error => self.problem(object, "reading it", error.to_string()),
        }
    }

    /// Whether the object goes on behind its end; told apart because nobody reads there.
    async fn check_end(&self, object: &ObjectRef) {
        let byte = object.size..object.size.saturating_add(1);
        let Ok(mut stream) = self.store.backend().get_range(&object.object, byte).await else { return };
        if matches!(stream.next().await, Some(Ok(_))) {
            let problem = format!("longer than the {} bytes that the manifest says", object.size);
            self.problem(&object.object, "length", problem);
        }
    }

    fn check_digest(&self, object: &ObjectRef, digest: blake3::Hash) {
        if digest.to_hex().as_str() != object.blake3 {
            self.problem(&object.object, "digest", format!("{digest}, not what the manifest says"));
        }
    }
}

/// Verifies a store at a path or address. An error means that it could not be opened at all.
pub async fn verify(location: &str, meter: Arc<Meter>, stop: &Stop) -> Result<VerifyReport> {
    stop.or(run(location, meter)).await
}

async fn run(location: &str, meter: Arc<Meter>) -> Result<VerifyReport> {
    let began = Instant::now();
    let store = open_store(location).await?;
    let manifest = store.manifest().clone();
    let objects: Vec<&ObjectRef> = manifest.objects().collect();
    let bytes = objects.iter().fold(0u64, |sum, object| sum.saturating_add(object.size));
    meter.begin("verify", bytes);
    let check = Arc::new(Check { store, meter, found: Mutex::default() });
    let held = IndexCheck::run(&check).await?;
    slim::check(&check, &held).await;
    sets::check(&check).await;
    check.meter.end();
    let found = std::mem::take(&mut *check.found());
    Ok(VerifyReport {
        store: location.into(),
        checkpoint_id: manifest.checkpoint_id.clone(),
        ok: found.count == 0,
        objects: objects.len() + 1,
        bytes,
        frames: found.good_frames,
        problem_count: found.count,
        problems: found.problems,
        seconds: began.elapsed().as_secs_f64(),
    })
}
