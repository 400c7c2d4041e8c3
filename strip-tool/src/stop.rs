//! Being told to stop: Ctrl-C and its like.

use anyhow::{Context, Result};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Says whether the user wants the run to end. Clones ask the same.
#[derive(Debug, Clone)]
pub struct Stop {
    /// Number of the signal, 0 for none.
    signal: watch::Receiver<i32>,
}

/// The error of a run that was stopped. Whatever it had begun is gone by the time it is reported.
#[derive(Debug)]
pub struct Stopped {
    /// Number of the signal.
    pub signal: i32,
}

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("stopped; nothing was left behind")
    }
}

impl std::error::Error for Stopped {}

/// Signals that this process was started with as ignored (`nohup` does that to SIGHUP, a shell's `&` to SIGINT) stay so.
fn ignored(signal: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal.as_raw_value() - 1) & 1 == 1
}

impl Stop {
    /// Stops on SIGINT, SIGTERM and SIGHUP. Within a runtime only.
    pub fn on_signals() -> Result<Self> {
        let (sender, receiver) = watch::channel(0);
        for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
            if ignored(kind) {
                continue;
            }
            let mut signals = signal(kind).context("cannot wait for signals")?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    // The first one counts; who waits is told once.
                    sender.send_if_modified(|now| std::mem::replace(now, kind.as_raw_value()) == 0);
                }
            });
        }
        Ok(Self { signal: receiver })
    }

    /// Stops when a number is sent (for tests, and for programs that link this library).
    pub fn on(signal: watch::Receiver<i32>) -> Self {
        Self { signal }
    }

    /// Never stops.
    pub fn never() -> Self {
        Self { signal: watch::channel(0).1 }
    }

    /// The signal that asked for it.
    pub fn requested(&self) -> Option<Stopped> {
        match *self.signal.borrow() {
            0 => None,
            signal => Some(Stopped { signal }),
        }
    }

    /// An error once the run is to stop.
    pub fn check(&self) -> Result<()> {
        self.requested().map_or(Ok(()), |stopped| Err(stopped.into()))
    }

    /// Runs `work` until it is done or is to stop; what it had begun is dropped then.
    pub async fn or<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut signal = self.signal.clone();
        let stopped = async {
            match signal.wait_for(|signal| *signal != 0).await.map(|signal| *signal) {
                Ok(signal) => Stopped { signal },
                // Nobody is left who could stop it.
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            done = work => done,
            stopped = stopped => Err(stopped.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_signal_ends_the_work() {
        let (sender, receiver) = watch::channel(0);
        let stop = Stop::on(receiver);
        assert_eq!(stop.or(async { Ok(7) }).await.unwrap(), 7);
        assert!(stop.check().is_ok());
        let waiting = stop.or(std::future::pending::<Result<()>>());
        sender.send(2).unwrap();
        let error = waiting.await.unwrap_err();
        assert_eq!(error.downcast_ref::<Stopped>().unwrap().signal, 2);
        assert!(stop.check().is_err());
    }

    #[tokio::test]
    async fn nobody_to_stop_it() {
        let work = async {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            Ok(())
        };
        Stop::never().or(work).await.unwrap();
    }
}
