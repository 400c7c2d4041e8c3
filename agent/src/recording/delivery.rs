//! A recording, sent to a server with PUT: what is tried again, how often, after how long; and what is said where it was in vain.

use super::{Kept, RecordTo, Recording};
use crate::cli::PagerArgs;
use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use page_store::{HttpAddress, HttpAnswer, HttpOptions, HttpVersion, same_host};
use std::{path::PathBuf, time::Duration};
use tokio::time::{sleep, timeout};

/// Pauses after attempts that failed, so there is one attempt more than that. A server that restarts is back by then.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// A server that asks for a longer pause than that gets the recording by hand.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// An attempt. The server reads the set's frames from its store, and writes them there: a bucket far away takes its time.
const ATTEMPT: Duration = Duration::from_secs(90);
/// The only attempt of an agent that was asked to stop before: whoever stops services kills those that take a minute.
const LAST_ATTEMPT: Duration = Duration::from_secs(10);

/// The error of an agent that a signal ended while it delivered its recording.
#[derive(Debug, thiserror::Error)]
#[error("{told}")]
pub struct Interrupted {
    /// Number of the signal.
    pub signal: i32,
    told: String,
}

/// Where a recording is to be sent, and what its server is shown.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    address: String,
    args: PagerArgs,
    /// The stores of this restore: the token is for their hosts.
    stores: Vec<String>,
}

/// Why an attempt failed.
struct Failure {
    reason: String,
    /// If it may pass: the pause that the server asks for, zero if it asks for none.
    again: Option<Duration>,
}

impl Delivery {
    /// `None` if no server is to have a recording.
    pub(crate) fn of(args: &PagerArgs, stores: &[String]) -> Option<Self> {
        let Some(RecordTo::Server(address)) = &args.record else { return None };
        Some(Self { address: address.clone(), args: args.clone(), stores: stores.to_vec() })
    }

    /// Whether tokens and certificates can be read: told before a restore rather than after.
    pub(crate) fn check(args: &PagerArgs, stores: &[String]) -> Result<()> {
        Self::of(args, stores).map_or(Ok(()), |delivery| delivery.open().map(drop).context("--record"))
    }

    fn options(&self) -> page_store::Result<HttpOptions> {
        // One small request, to a server that need not be the store's.
        let (args, version) = (&self.args, HttpVersion::Http1);
        if args.record_token_file.is_some() {
            return args.access.options_with(version, args.record_token_file.as_deref(), None);
        }
        let mut options = args.access.options(version)?;
        if !self.is_host_of_a_store() {
            options.token = None;
        }
        Ok(options)
    }

    fn is_host_of_a_store(&self) -> bool {
        self.stores.iter().any(|store| same_host(store, &self.address))
    }

    fn open(&self) -> page_store::Result<HttpAddress> {
        HttpAddress::new(&self.address, self.options()?)
    }

    /// Sends what `recording` holds, if it holds something. `stop` gives the number of a signal that ends the waiting; `hurry` if there was one
    /// before.
    pub(crate) async fn deliver(
        &self,
        recording: &Recording,
        stop: impl Future<Output = i32>,
        hurry: bool,
    ) -> Result<()> {
        let Some(kept) = recording.take() else { return Ok(()) };
        let sent = async {
            let address = self.open()?;
            let bytes = kept.bytes()?.into();
            tracing::info!("sending the recording to {}", address.describe());
            let (pauses, patience) = if hurry { (&[][..], LAST_ATTEMPT) } else { (&PAUSES[..], ATTEMPT) };
            self.send(&address, bytes, pauses, patience).await.map(|()| address.describe())
        };
        let outcome = tokio::select! {
            biased;
            signal = stop => {
                let told = format!("stopped before {} had the recording; {}", self.shown(), self.left(&kept));
                Err(Interrupted { signal, told }.into())
            }
            sent = sent => {
                sent.map_err(|reason| anyhow!("the recording was not delivered: {reason:#}; {}", self.left(&kept)))
            }
        };
        match outcome {
            Ok(address) => {
                tracing::info!("{address} has the recording");
                recording.delivered(kept);
                Ok(())
            }
            Err(error) => {
                kept.stays();
                Err(error)
            }
        }
    }

    async fn send(&self, address: &HttpAddress, trace: Bytes, pauses: &[Duration], patience: Duration) -> Result<()> {
        let mut pauses = pauses.iter();
        loop {
            let failure = match self.attempt(address, trace.clone(), patience).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            let (Some(asked), Some(pause)) = (failure.again, pauses.next()) else {
                return Err(anyhow!(failure.reason));
            };
            let pause = pause_for(asked, *pause);
            tracing::warn!("{}; sending the recording again in {:.1} s", failure.reason, pause.as_secs_f32());
            sleep(pause).await;
        }
    }

    async fn attempt(&self, address: &HttpAddress, trace: Bytes, patience: Duration) -> Result<(), Failure> {
        match timeout(patience, address.put(trace, patience)).await {
            Ok(Ok(answer)) => self.judged(&answer).map_err(|failure| Failure {
                reason: format!("{}: {}", address.describe(), failure.reason),
                ..failure
            }),
            Ok(Err(error)) => {
                let again = error.is_transient().then_some(Duration::ZERO);
                Err(Failure { reason: error.to_string(), again })
            }
            Err(_) => {
                let reason = format!("{}: no whole answer within {} s", address.describe(), patience.as_secs());
                Err(Failure { reason, again: Some(Duration::ZERO) })
            }
        }
    }

    fn judged(&self, answer: &HttpAnswer) -> Result<(), Failure> {
        let said = answer.said();
        let last = |advice: &str| Failure { reason: format!("{}; {advice}", said.trim_end_matches('.')), again: None };
        match answer.status {
            200 | 201 if answer.is_html => {
                Err(last("a web page came for it; is this the address of a pageferry-server?"))
            }
            200 | 201 => Ok(()),
            401 | 403 => Err(last(&self.token_advice())),
            404 | 405 => Err(last("does a pageferry-server serve this checkpoint there?")),
            300..=399 => {
                let to = answer.location.as_deref().unwrap_or("another address");
                Err(last(&format!("it sends us to {to}: give that address with --record if it is meant")))
            }
            // Not that it knows no PUT.
            501 => Err(last("is this a pageferry-server?")),
            429 | 500..=599 => Err(Failure { reason: said, again: Some(answer.retry_after.unwrap_or_default()) }),
            _ => Err(Failure { reason: said, again: None }),
        }
    }

    fn token_advice(&self) -> String {
        let token = "a token that has the scope working-sets there";
        match (&self.args.record_token_file, self.is_host_of_a_store()) {
            (Some(file), _) => format!("put {token} into {} (--record-token-file)", file.display()),
            (None, true) => format!(
                "give {token}: with --record-token-file, or one that may read, too, with --token-file or PAGEFERRY_TOKEN"
            ),
            (None, false) => format!(
                "give {token} with --record-token-file: the one of --token-file and PAGEFERRY_TOKEN goes to the store's own host only"
            ),
        }
    }

    /// The address without its query.
    fn shown(&self) -> String {
        self.address.split(['?', '#']).next().unwrap_or_default().to_owned()
    }

    /// Where the recording is, and what to do with it.
    fn left(&self, kept: &Kept) -> String {
        let address = self.shown();
        let set = address.rsplit('/').next().unwrap_or_default();
        let option = |name: &str, file: &Option<PathBuf>| {
            file.as_ref().map(|file| format!("{name} {} ", file.display())).unwrap_or_default()
        };
        let access = &self.args.access;
        let tls = option("--cacert", &access.tls_ca)
            + &option("--cert", &access.tls_client_cert)
            + &option("--key", &access.tls_client_key);
        match kept {
            Kept::File(path, _) => format!(
                "the restored processes are whole, and the recording is in {file}. Send it with `curl {tls}-T {file} -H \"Authorization: Bearer $TOKEN\" \
                 {address}`, or add it to the store with `pageferry-strip working-set STORE --trace {file} --name {set}`",
                file = path.display()
            ),
            Kept::Memory(_, why) => format!(
                "the restored processes are whole, but the recording is lost: it could not be kept in {} either ({why}). Name a place for it with TMPDIR, \
                 or record to a file",
                std::env::temp_dir().display()
            ),
        }
    }
}

/// What the server asks for, but neither much longer nor shorter than we would wait by ourselves.
fn pause_for(asked: Duration, own: Duration) -> Duration {
    asked.min(LONGEST_PAUSE).max(own)
}

#[cfg(test)]
mod tests;
