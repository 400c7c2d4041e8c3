//! What is tried again, how often, after how long.

use page_store::{Error, HttpAddress, HttpAnswer, HttpOptions, Store, is_of_this_machine};
use std::{sync::OnceLock, time::Duration};

/// Waits between attempts at what may succeed later: 6 s in all. A host that restarts is back by then; a user at a terminal still
/// waits.
const RETRY_AFTER: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(900),
    Duration::from_millis(1700),
    Duration::from_millis(3000),
];

/// What the hosts of this run are shown: one for all, as the options are.
static ACCESS: OnceLock<HttpOptions> = OnceLock::new();

/// From now on stores are opened with these. Only the first call has an effect.
pub(crate) fn show(access: HttpOptions) {
    // The only error is that it was called before.
    let _ = ACCESS.set(access);
}

/// Counts attempts in a row that failed.
#[derive(Debug)]
pub(crate) struct Retries {
    /// A file of this machine reads the same every time; a host may have a bad mirror.
    local: bool,
    failed: usize,
}

impl Retries {
    pub(crate) fn new(store: &Store) -> Self {
        Self::at(&store.backend().describe(""))
    }

    fn at(location: &str) -> Self {
        Self { local: is_of_this_machine(location), failed: 0 }
    }

    /// Something succeeded: the next failure is the first.
    pub(crate) fn succeeded(&mut self) {
        self.failed = 0;
    }

    /// Whether it is worth another attempt after `error`; if so, waits.
    pub(crate) async fn another(&mut self, error: &Error) -> bool {
        let wait = RETRY_AFTER.get(self.failed).filter(|_| error.is_transient() && !self.local);
        self.failed += 1;
        if let Some(wait) = wait {
            tracing::warn!("{error}; trying again");
            tokio::time::sleep(*wait).await;
        }
        wait.is_some()
    }
}

/// Runs `work` again after errors that may pass.
pub(crate) async fn with_retries<T, F>(store: &Store, work: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    repeat(Retries::new(store), work).await
}

/// Opens a store at a path or address.
pub(crate) async fn open_store(location: &str) -> Result<Store, Error> {
    repeat(Retries::at(location), || Store::open_by(location, ACCESS.get().cloned().unwrap_or_default())).await
}

/// Asks an address that is no store's, at most `limit` bytes. An answer that says that it may be another one soon is tried again.
pub(crate) async fn ask(address: &str, limit: u64) -> Result<HttpAnswer, Error> {
    let address = HttpAddress::new(address, ACCESS.get().cloned().unwrap_or_default())?;
    repeat(Retries { local: false, failed: 0 }, || async {
        let answer = address.get(limit).await?;
        match answer.status {
            // Not that the server does not know how.
            501 => Ok(answer),
            429 | 500..=599 => Err(Error::unavailable(address.describe(), answer.said())),
            _ => Ok(answer),
        }
    })
    .await
}

async fn repeat<T, F>(mut retries: Retries, work: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    loop {
        match work().await {
            Err(e) if retries.another(&e).await => {}
            done => return done,
        }
    }
}
