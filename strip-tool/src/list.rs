//! `list`: the stores in a folder, below a prefix, or of a server.

mod server;

use crate::{Stop, human};
use anyhow::{Context, Result};
use page_store::Folder;
use serde::Serialize;
use std::fmt;

/// What is there.
#[derive(Debug, Clone, Serialize)]
pub struct ListReport {
    /// Where.
    pub location: String,
    /// Stores by name; the one that the place itself is comes first.
    pub stores: Vec<Listed>,
}

/// A store. Sizes are in bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// Its path or address.
    pub store: String,
    /// Identity of the checkpoint.
    pub checkpoint_id: Option<String>,
    /// Program names of its tasks, each once.
    pub programs: Vec<String>,
    /// How many tasks.
    pub tasks: usize,
    /// Pages of the original dump.
    pub dumped: u64,
    /// Its own objects.
    pub stored: u64,
    /// Packs of stores beside it that it shares.
    pub shared: u64,
    /// Whether it is a checkpoint as CRIU left it, which a server serves like a store.
    pub raw: bool,
    /// Names of working sets.
    pub working_sets: Vec<String>,
    /// Why it cannot be read, if it cannot.
    pub problem: Option<String>,
}

/// Looks.
pub async fn list(location: &str, stop: &Stop) -> Result<ListReport> {
    let stores = async {
        match location.starts_with("http://") || location.starts_with("https://") {
            true => server::stores(location).await,
            false => stores(location).await,
        }
    };
    Ok(ListReport { location: location.into(), stores: stop.or(stores).await? })
}

async fn stores(location: &str) -> Result<Vec<Listed>> {
    let place = Folder::parse(location)?;
    let mut stores = Vec::new();
    for (name, manifest) in
        place.stores(|name, manifest| (name, manifest)).await.with_context(|| format!("cannot list {location}"))?
    {
        let store = if name.is_empty() { place.clone() } else { place.child(&name)? };
        let mut listed = Listed {
            store: store.to_string(),
            checkpoint_id: None,
            programs: Vec::new(),
            tasks: 0,
            dumped: 0,
            stored: 0,
            shared: 0,
            raw: false,
            working_sets: Vec::new(),
            problem: None,
        };
        match manifest {
            Ok(manifest) => {
                listed.programs = manifest.tasks.iter().map(|task| task.comm.clone()).collect();
                listed.programs.sort();
                listed.programs.dedup();
                listed.tasks = manifest.tasks.len();
                listed.dumped = manifest.totals.dumped_pages * criu_images::PAGE_SIZE;
                listed.stored = manifest.own_objects().map(|object| object.size).sum();
                listed.shared = manifest.objects().map(|object| object.size).sum::<u64>() - listed.stored;
                listed.working_sets = manifest.working_sets.iter().map(|set| set.name.clone()).collect();
                listed.checkpoint_id = Some(manifest.checkpoint_id);
            }
            Err(error) => listed.problem = Some(error.to_string()),
        }
        stores.push(listed);
    }
    Ok(stores)
}

impl fmt::Display for ListReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.stores.is_empty() {
            return writeln!(f, "no page store in {}", self.location);
        }
        let width = self.stores.iter().map(|listed| listed.store.len()).max().unwrap_or(0);
        for listed in &self.stores {
            if let Some(problem) = &listed.problem {
                writeln!(f, "{:width$}  {problem}", listed.store)?;
                continue;
            }
            let (stored, dumped) = (human::bytes(listed.stored), human::bytes(listed.dumped));
            let size =
                if listed.raw { format!("{dumped:>10}, not split") } else { format!("{stored:>10} of {dumped:<10}") };
            let (tasks, programs) = (listed.tasks, listed.programs.join(", "));
            let shared = match listed.shared {
                0 => String::new(),
                shared => format!(", shares {}", human::bytes(shared)),
            };
            writeln!(f, "{:width$}  {size:<24}  {tasks} tasks ({programs}){shared}", listed.store)?;
        }
        Ok(())
    }
}
