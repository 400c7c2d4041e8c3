//! What is asked for as soon as `checkpoint.json` is here, beside the slim dump: the working set and the index.

use crate::cli::PagerArgs;
use anyhow::{Result, bail};
use page_store::{Store, WorkingSetObject, working_set::WorkingSet};
use std::time::Duration;
use tokio::task::JoinHandle;

/// A set that has not come by then is given up: a restore is right without it.
const PATIENCE: Duration = Duration::from_secs(30);
const ATTEMPTS: u32 = 3;
/// `--working-set none`.
const NONE: &str = "none";

/// A working set on its way; `None` comes of it if it is given up.
pub(crate) type WorkingSetDownload = JoinHandle<Option<WorkingSet>>;

/// Downloads under way.
pub(crate) struct Early {
    pub(crate) working_set: Option<WorkingSetDownload>,
}

impl Early {
    /// Sends the requests.
    pub(crate) fn start(store: &Store, args: &PagerArgs) -> Result<Self> {
        let index = store.clone();
        tokio::spawn(async move {
            // Whoever needs it asks again, and waits until it works.
            if let Err(error) = index.load_index().await {
                tracing::debug!(%error, "the index, first attempt");
            }
        });
        let working_set = choose(store, args)?.map(|object| {
            let store = store.with_own_connections();
            tokio::spawn(async move {
                match tokio::time::timeout(PATIENCE, download(&store, &object)).await {
                    Ok(set) => set,
                    Err(_) => {
                        tracing::warn!(
                            set = object.name,
                            "the working set is not here after {} s, going on without",
                            PATIENCE.as_secs()
                        );
                        None
                    }
                }
            })
        });
        Ok(Self { working_set })
    }
}

/// The set that the user named; else the one that was added last.
fn choose(store: &Store, args: &PagerArgs) -> Result<Option<WorkingSetObject>> {
    let sets = &store.manifest().working_sets;
    if args.record.is_some() {
        return Ok(None);
    }
    match args.working_set.as_deref() {
        None => Ok(sets.last().cloned()),
        Some(NONE) => Ok(None),
        Some(name) => match sets.iter().find(|set| set.name == name) {
            Some(set) => Ok(Some(set.clone())),
            None => {
                let known: Vec<_> = sets.iter().map(|set| set.name.as_str()).chain([NONE]).collect();
                bail!("the store has no working set {name:?}; --working-set can be {}", known.join(", "))
            }
        },
    }
}

async fn download(store: &Store, object: &WorkingSetObject) -> Option<WorkingSet> {
    for attempt in 1..=ATTEMPTS {
        match store.working_set(object).await {
            Ok(set) => return Some(set),
            Err(error) if attempt == ATTEMPTS || !error.is_transient() => {
                tracing::warn!(set = object.name, %error, "no working set, going on without");
                return None;
            }
            Err(error) => tracing::debug!(set = object.name, %error, "the working set, another attempt"),
        }
    }
    None
}
