//! Pages that cannot be had: what `--on-missing` says is done about them. Whatever that is, nobody ever reads zeros in their place.

use super::{Engine, ProcessId, process::Moved, process::Progress};
use crate::{criu_socket::Connection, fd_store::FdStore, tree::Tree};
use anyhow::{Result, ensure};
use criu_images::PageAddr;
use page_store::FrameNumber;
use std::{collections::HashSet, sync::atomic::Ordering::Relaxed};

/// What to do about a page that could not be had for a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnMissing {
    /// Go on trying, for ever; threads that need it wait.
    #[default]
    Wait,
    /// Send SIGBUS to whoever touches it, now and later (UFFDIO_POISON, Linux 6.6).
    Sigbus,
    /// Kill the restored processes, and what they have forked.
    Kill,
}

/// Frames that could not be had, and what was done about them.
#[derive(Debug, Default)]
pub(super) struct GivenUp {
    pub(super) policy: OnMissing,
    frames: HashSet<FrameNumber>,
    /// Whether the log has told that nobody could be killed.
    told: bool,
}

impl GivenUp {
    pub(super) fn new(policy: OnMissing) -> Self {
        Self { policy, ..Self::default() }
    }

    /// Whether pages of it are refused. It is still tried, and no longer refused once it has come.
    pub(super) fn has(&self, frame: FrameNumber) -> bool {
        self.frames.contains(&frame)
    }

    pub(super) fn arrived(&mut self, frame: FrameNumber) {
        if !self.frames.is_empty() {
            self.frames.remove(&frame);
        }
    }
}

impl Engine {
    /// A frame that faults wait for could not be had.
    pub(super) fn give_up(&mut self, frame: FrameNumber) -> Result<()> {
        match self.given_up.policy {
            OnMissing::Wait => {}
            OnMissing::Sigbus => {
                if self.given_up.frames.insert(frame) {
                    tracing::error!(frame = frame.0, "could not be had; who touches its pages gets SIGBUS");
                }
                self.faults.look_again(frame);
                self.answer_faults()?;
            }
            OnMissing::Kill => self.kill_all(frame),
        }
        Ok(())
    }

    /// Poisons a page of a frame that was given up.
    pub(super) fn refuse(&mut self, id: ProcessId, page: PageAddr) -> Result<Progress> {
        let Some(process) = self.processes.get_mut(&id) else { return Ok(Progress::Done) };
        let mut moved = Moved::default();
        let progress = process.poison(page, &mut moved)?;
        self.status.pages_poisoned.fetch_add(moved.installed, Relaxed);
        Ok(progress)
    }

    /// At the end: an error if something could not be had, though everything else was done.
    pub(super) fn check_complete(&self) -> Result<()> {
        let (poisoned, killed) = (self.status.pages_poisoned.load(Relaxed), self.status.processes_killed.load(Relaxed));
        ensure!(killed == 0, "memory could not be had from the store; {killed} restored processes were killed");
        ensure!(poisoned == 0, "{poisoned} pages could not be had from the store; who touched them got SIGBUS");
        Ok(())
    }

    fn kill_all(&mut self, frame: FrameNumber) {
        let killed = self.tree.kill();
        self.status.processes_killed.fetch_add(killed as u64, Relaxed);
        if killed > 0 {
            tracing::error!(frame = frame.0, "could not be had; killed the {killed} restored processes");
        } else if !std::mem::replace(&mut self.given_up.told, true) {
            tracing::error!(
                frame = frame.0,
                "could not be had, and no restored process can be seen from here; they go on waiting"
            );
        }
    }

    /// Looks up which processes CRIU has made, with each that it hands over: when the restore is finished, CRIU may be gone sooner than anybody can
    /// look, and who descended from it cannot be told any more.
    pub(super) fn see_tree(&mut self) {
        if self.given_up.policy == OnMissing::Kill {
            let tasks: HashSet<_> = self.pids.iter().copied().flatten().collect();
            let criu = self.connection.as_ref().and_then(Connection::peer);
            let seen = criu.map(|criu| Tree::restored_by(criu, &tasks)).unwrap_or_default();
            if seen.len() > self.tree.len() {
                self.tree = seen;
            }
        }
    }

    /// The same for the last time.
    pub(super) fn find_tree(&mut self) -> Result<()> {
        if self.given_up.policy != OnMissing::Kill {
            return Ok(());
        }
        self.see_tree();
        let tasks: HashSet<_> = self.pids.iter().copied().flatten().collect();
        if self.tree.len() < tasks.len() {
            tracing::warn!(
                "--on-missing kill: {} of the {} restored processes can be seen from here; start the agent where their pids are visible",
                self.tree.len(),
                tasks.len()
            );
        }
        // Another agent could not find them any more.
        self.guarded.store().map(FdStore::settle);
        self.journal.begin_anew(&self.ledger()?)
    }
}
