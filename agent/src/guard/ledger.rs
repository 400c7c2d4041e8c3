//! All that an agent has to know of a restore to go on with it: what a journal begins with, and what its records change.
//!
//! A record changes it as what it records changed the engine, by the same functions of the address space.

use super::journal::Record;
use crate::{
    address_space::{AddressSpace, apply},
    engine::ProcessId,
    images::Layout,
    tree::Tree,
    uffd::Event,
};
use anyhow::{Context, Result};
use criu_images::{PageRange, Pid};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    os::fd::RawFd,
};

/// What of a process is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Known {
    /// Its userfaultfd.
    pub fd: RawFd,
    pub name: String,
    pub space: AddressSpace,
    /// Whether CRIU has registered all its mappings.
    pub registered: bool,
    /// Pages to be had at once though nothing faults on them.
    pub first: Vec<PageRange>,
    /// Stored pages that are not to come to a child.
    pub wiped: Vec<PageRange>,
}

/// A restore.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Ledger {
    /// `checkpoint.json` as it was when the restore began.
    pub manifest: Vec<u8>,
    /// Tasks that have not come yet.
    pub layouts: HashMap<Pid, Layout>,
    /// Every pid and thread id that the restore takes.
    pub ids: Vec<Pid>,
    pub processes: BTreeMap<ProcessId, Known>,
    pub next_process: u64,
    /// The message from CRIU that brought the last task.
    pub last_mail: Option<u64>,
    /// What `--on-missing kill` would kill.
    pub tree: Tree,
    pub restored: bool,
    pub abandoned: bool,
}

impl Ledger {
    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        postcard::to_stdvec(self).context("writing down the state for the guard")
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        postcard::from_bytes(bytes).context("reading the state that an agent has left")
    }

    /// What the ledger was once all these had happened.
    pub(super) fn replayed(mut self, records: impl IntoIterator<Item = Record>) -> Result<Self> {
        let mut reading = None;
        for record in records {
            if let Record::Reading(id) = record {
                reading = Some(id);
            }
            self.apply(record, reading)?;
        }
        Ok(self)
    }

    fn apply(&mut self, record: Record, reading: Option<ProcessId>) -> Result<()> {
        match record {
            Record::Reading(_) => {}
            Record::Adopted { pid, fd, mail } => {
                let layout = self.layouts.remove(&pid).with_context(|| format!("a task {pid} that was not to come"))?;
                self.last_mail = Some(mail);
                let known = Known::task(layout, fd);
                self.adopt(known);
            }
            Record::Restored => {
                self.restored = true;
                self.processes.values_mut().for_each(|known| known.registered = true);
            }
            Record::Abandoned => self.abandoned = true,
            Record::Installed(id, range) => self.with(id, |known| known.space.installed(range)),
            Record::Settled(id) => self.with(id, |known| known.space.settle()),
            Record::Released(id) => drop(self.processes.remove(&id)),
            Record::Event(words) => {
                let known = reading.and_then(|id| self.processes.get_mut(&id)).context("an event of no process")?;
                let event = Event::parse(words)?;
                apply(&mut known.space, &event);
                if let Event::Fork { fd } = event {
                    let child = known.child(fd);
                    self.adopt(child);
                }
            }
        }
        Ok(())
    }

    fn with(&mut self, id: ProcessId, change: impl FnOnce(&mut Known)) {
        if let Some(known) = self.processes.get_mut(&id) {
            change(known);
        }
    }

    fn adopt(&mut self, known: Known) {
        self.processes.insert(ProcessId(self.next_process), known);
        self.next_process += 1;
    }
}

impl Known {
    /// A task as CRIU hands it over.
    pub(crate) fn task(layout: Layout, fd: RawFd) -> Self {
        let space = AddressSpace::new(layout.task, layout.registered, layout.missing);
        Self { fd, name: layout.name, space, registered: false, first: layout.first, wiped: layout.wiped }
    }

    /// A child, as this process is now.
    pub(crate) fn child(&self, fd: RawFd) -> Self {
        let mut space = self.space.fork();
        let mut empty = Vec::new();
        self.wiped.iter().for_each(|stored| space.places(*stored, &mut empty));
        empty.into_iter().for_each(|place| space.installed(place.runtime));
        Self {
            fd,
            name: format!("a child of {}", self.name),
            space,
            registered: self.registered,
            first: Vec::new(),
            wiped: self.wiped.clone(),
        }
    }
}
