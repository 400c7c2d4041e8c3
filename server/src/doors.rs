//! How a server is reached, and by whom.

use crate::{access_log::AccessLog, auth::Tokens, cors::Origin, reload, tls::Tls};
use std::sync::Arc;

/// Who may come in, and what is noted about them. The default: everybody, nothing.
#[derive(Clone, Debug, Default)]
pub struct Doors {
    /// Requests need one of these.
    pub tokens: Option<Arc<Tokens>>,
    /// TCP connections speak TLS. Unix sockets do not: nothing is between their ends.
    pub tls: Option<Arc<Tls>>,
    /// Working sets are taken also where no token could allow it.
    pub allow_working_sets: bool,
    /// Origins whose pages may read what is served.
    pub cors: Vec<Origin>,
    /// Where requests are noted.
    pub access_log: Option<Arc<AccessLog>>,
}

impl Doors {
    /// Whether not everybody gets an answer.
    pub fn are_closed(&self) -> bool {
        self.tokens.is_some() || self.tls.as_ref().is_some_and(|tls| tls.knows_clients())
    }

    /// Whether a request that came through may bring a working set.
    pub(crate) fn take_working_sets(&self) -> bool {
        self.tokens.is_some() || self.allow_working_sets
    }

    /// Whether anything here is in a file that may change.
    pub fn have_files(&self) -> bool {
        self.tokens.is_some() || self.tls.is_some() || self.access_log.is_some()
    }

    /// Looks at the files at once: what SIGHUP asks for.
    pub fn hang_up(&self) {
        self.look();
        if let Some(log) = &self.access_log {
            log.reopen();
        }
    }

    fn look(&self) {
        if let Some(tokens) = &self.tokens {
            tokens.reload();
        }
        if let Some(tls) = &self.tls {
            tls.reload();
        }
    }

    /// Looks at the files now and then, for ever.
    pub(crate) async fn watch(self) {
        if self.tokens.is_none() && self.tls.is_none() {
            return;
        }
        loop {
            tokio::time::sleep(reload::PAUSE).await;
            let doors = self.clone();
            // A file system that hangs must not hold up requests. An error here is a panic, which was reported.
            let _ = tokio::task::spawn_blocking(move || doors.look()).await;
        }
    }
}
