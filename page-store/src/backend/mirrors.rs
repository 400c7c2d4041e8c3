//! Several places with the same objects. Each request goes to the one that does best; where it fails, or is late, to another.
//!
//! A mirror that fails is left out and looked at again after a while, by a request of its own for its manifest: what a thread waits for is
//! no probe. All mirrors must hold the same checkpoint; one that holds another, or none, is left out likewise. When all are left out, all
//! are asked, the best first.

mod body;
mod health;

use super::{Backend, ByteStream};
use crate::{Error, Manifest, Result, store::manifest_of};
use async_trait::async_trait;
use body::{Following, Source};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use health::{Health, overlap};
use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::time::{sleep, timeout};

/// Once one mirror has answered, how much longer the first one is waited for: what it holds counts if they differ.
const GRACE: Duration = Duration::from_millis(300);
/// Once the first one has, how much longer the others are, so that they are of use from the beginning: as long again as it took, and this.
const GRACE_FOR_OTHERS: Duration = Duration::from_millis(20);
/// How long a mirror that was left out may take to answer before it is left out again.
const LOOK: Duration = Duration::from_secs(10);
/// Answers that are remembered, to know whose bytes were wrong.
const REMEMBERED: usize = 256;

/// Mirrors of one store.
#[derive(Debug, Clone)]
pub struct Mirrors {
    backends: Vec<Arc<dyn Backend>>,
    shared: Arc<Shared>,
}

/// What connections have in common.
#[derive(Debug)]
struct Shared {
    manifest: Arc<Manifest>,
    health: Vec<Health>,
    served: Mutex<VecDeque<Served>>,
}

/// Who sent what.
#[derive(Debug)]
struct Served {
    object: String,
    range: Range<u64>,
    mirror: usize,
}

impl Mirrors {
    /// Mirrors in the order in which they were given: where they hold different checkpoints, the first one's counts, or that of the one which
    /// answers while the first does not. The manifest is the one that all that are used agree on.
    pub async fn open(backends: Vec<Arc<dyn Backend>>) -> Result<(Self, Arc<Manifest>)> {
        let ask = |at: usize, backend: Arc<dyn Backend>| async move {
            let start = Instant::now();
            (at, manifest_of(&*backend).await, start.elapsed())
        };
        let mut asked: FuturesUnordered<_> = backends.iter().cloned().enumerate().map(|(at, b)| ask(at, b)).collect();
        let mut answers: Vec<_> = backends.iter().map(|_| None).collect();
        // The first one's failure is the one to tell if all fail.
        let start = tokio::time::Instant::now();
        let grace = sleep(Duration::MAX);
        tokio::pin!(grace);
        loop {
            tokio::select! {
                answer = asked.next() => match answer {
                    Some((at, answer, time)) => answers[at] = Some((answer, time)),
                    None => break,
                },
                () = &mut grace => break,
            }
            if answers.iter().flatten().any(|(answer, _)| answer.is_ok()) {
                let now = tokio::time::Instant::now();
                let first_answered = answers.first().is_some_and(Option::is_some);
                let until = now + if first_answered { GRACE_FOR_OTHERS + (now - start) } else { GRACE };
                if until < grace.deadline() {
                    grace.as_mut().reset(until);
                }
            }
        }
        let Some(manifest) = answers.iter().flatten().find_map(|(answer, _)| answer.as_ref().ok()) else {
            let error = answers.into_iter().flatten().find_map(|(answer, _)| answer.err());
            return Err(error.unwrap_or_else(|| Error::unavailable("mirrors", "none was given")));
        };
        let manifest = Arc::new(manifest.clone());
        let health = backends.iter().map(|_| Health::default()).collect();
        let mirrors = Self {
            backends,
            shared: Arc::new(Shared { manifest: Arc::clone(&manifest), health, served: Mutex::default() }),
        };
        for (at, answer) in answers.into_iter().enumerate() {
            match answer {
                Some((answer, time)) => {
                    mirrors.shared.health[at].answered(time);
                    mirrors.judge(at, answer.as_ref());
                }
                // Nobody waits for its answer; it is asked again beside the first request.
                None => mirrors.shared.health[at].look_soon(Instant::now()),
            }
        }
        // Looks at those.
        mirrors.order("", &(0..0));
        Ok((mirrors, manifest))
    }

    /// Mirrors that were open before, with the manifest that they agreed on. Each is looked at beside the first request.
    pub fn again(backends: Vec<Arc<dyn Backend>>, manifest: Arc<Manifest>) -> Self {
        let health: Vec<_> = backends.iter().map(|_| Health::default()).collect();
        health.iter().for_each(|health| health.look_soon(Instant::now()));
        Self { backends, shared: Arc::new(Shared { manifest, health, served: Mutex::default() }) }
    }

    /// How many are not left out just now.
    pub fn used(&self) -> usize {
        self.shared.health.iter().filter(|health| health.cost().is_some()).count()
    }

    /// Takes a mirror in or leaves it out by what its manifest says.
    fn judge(&self, at: usize, answer: Result<&Manifest, &Error>) {
        let health = &self.shared.health[at];
        match answer {
            Ok(manifest) if manifest.is_same_store(&self.shared.manifest) => health.back(),
            _ if !health.leave_out(Instant::now()) => {}
            Ok(manifest) => tracing::warn!(
                "{}: holds checkpoint {}, not {}; left out until it holds the same",
                self.backends[at].describe(""),
                manifest.checkpoint_id,
                self.shared.manifest.checkpoint_id
            ),
            Err(error) => tracing::warn!("{error}; left out until it works"),
        }
    }

    /// Mirrors to ask, the best first: those not being asked for the same already, then by cost, then those left out. Looks at those again whose
    /// time has come.
    fn order(&self, object: &str, range: &Range<u64>) -> Vec<usize> {
        let now = Instant::now();
        for at in 0..self.backends.len() {
            if self.shared.health[at].is_due(now) {
                let mirrors = self.clone();
                tokio::spawn(async move {
                    let start = Instant::now();
                    let answer = timeout(LOOK, manifest_of(&*mirrors.backends[at])).await;
                    let late = |_| Err(Error::unavailable(mirrors.backends[at].describe(""), "no answer"));
                    let answer = answer.unwrap_or_else(late);
                    mirrors.shared.health[at].answered(start.elapsed());
                    mirrors.judge(at, answer.as_ref());
                });
            }
        }
        let mut order: Vec<_> = (0..self.backends.len()).collect();
        order.sort_by(|one, other| {
            let key = |at: usize| {
                let health = &self.shared.health[at];
                let cost = health.cost();
                (cost.is_none(), health.is_asked(object, range), cost.unwrap_or_default())
            };
            let ((out, asked, cost), (other_out, other_asked, other_cost)) = (key(*one), key(*other));
            (out, asked).cmp(&(other_out, other_asked)).then(cost.total_cmp(&other_cost))
        });
        order
    }

    fn failed(&self, at: usize, error: &Error) {
        if self.shared.health[at].failed(error, Instant::now()) {
            tracing::warn!("{error}; the other mirrors are asked for a while");
        }
    }

    /// Asks one mirror after the other until one answers; the next one also when one is late.
    async fn first_answer<T: Send>(
        &self,
        order: &[usize],
        patience: impl Fn(&Health) -> Duration + Send,
        ask: impl Fn(usize) -> BoxFuture<'static, Result<T>> + Send,
    ) -> Result<(usize, T)> {
        let mut left = order.iter().copied();
        let mut asked = FuturesUnordered::new();
        let mut failure: Option<Error> = None;
        let mut latest = None;
        loop {
            if asked.is_empty() {
                let Some(at) = left.next() else {
                    return Err(failure.unwrap_or_else(|| Error::unavailable("mirrors", "none was given")));
                };
                asked.push(ask(at).map(move |answer| (at, answer)).boxed());
                latest = Some(at);
            }
            let wait = latest.map_or(Duration::ZERO, |at| patience(&self.shared.health[at]));
            tokio::select! {
                Some((at, answer)) = asked.next() => match answer {
                    Ok(answer) => return Ok((at, answer)),
                    Err(error) => {
                        self.failed(at, &error);
                        // Of several reasons, one that passes.
                        if failure.as_ref().is_none_or(|before| !before.is_transient() && error.is_transient()) {
                            failure = Some(error);
                        }
                    }
                },
                () = sleep(wait) => {
                    // One that is left out is no help against one that is late; but it may be back.
                    let usable = left.clone().next().filter(|at| self.shared.health[*at].cost().is_some());
                    if usable.is_some() && let Some(at) = left.next() {
                        asked.push(ask(at).map(move |answer| (at, answer)).boxed());
                        latest = Some(at);
                    }
                }
            }
        }
    }

    /// A range from the best of `order`.
    async fn source(&self, object: &str, range: &Range<u64>, order: &[usize]) -> Result<Source> {
        let ask = |at: usize| {
            let (mirrors, object, range) = (self.clone(), object.to_owned(), range.clone());
            async move { Source::open(mirrors, at, object, range).await }.boxed()
        };
        Ok(self.first_answer(order, Health::patience, ask).await?.1)
    }

    /// A mirror's bytes arrive.
    fn serves(&self, at: usize, object: &str, range: Range<u64>) {
        let mut served = self.shared.served.lock().unwrap_or_else(PoisonError::into_inner);
        if served.len() >= REMEMBERED {
            served.pop_front();
        }
        served.push_back(Served { object: object.to_owned(), range, mirror: at });
    }
}

#[async_trait]
impl Backend for Mirrors {
    fn describe(&self, object: &str) -> String {
        self.backends.first().map_or_else(|| object.to_owned(), |backend| backend.describe(object))
    }

    async fn get(&self, object: &str, limit: u64) -> Result<Bytes> {
        let order = self.order(object, &(0..limit));
        let ask = |at: usize| {
            let (backend, object) = (self.backends[at].clone(), object.to_owned());
            async move { backend.get(&object, limit).await }.boxed()
        };
        let patience = |health: &Health| health.patience_for(limit);
        let (at, bytes) = self.first_answer(&order, patience, ask).await?;
        self.serves(at, object, 0..limit);
        Ok(bytes)
    }

    async fn get_range(&self, object: &str, range: Range<u64>) -> Result<ByteStream> {
        let source = self.source(object, &range, &self.order(object, &range)).await?;
        Ok(Following::new(self.clone(), object.to_owned(), range, source).stream())
    }

    fn forget(&self, object: &str, range: &Range<u64>) {
        let served = self.shared.served.lock().unwrap_or_else(PoisonError::into_inner);
        let who = served.iter().rev().find(|served| served.object == object && overlap(&served.range, range));
        let who = who.map(|served| served.mirror);
        drop(served);
        match who {
            Some(at) => {
                tracing::warn!(
                    "{}: wrong bytes; the other mirrors are asked for a while",
                    self.backends[at].describe(object)
                );
                self.shared.health[at].was_wrong(Instant::now());
                self.backends[at].forget(object, range);
            }
            None => self.backends.iter().for_each(|backend| backend.forget(object, range)),
        }
    }

    fn copies(&self) -> usize {
        self.backends.len()
    }

    fn fresh(&self) -> Arc<dyn Backend> {
        let backends = self.backends.iter().map(|backend| backend.fresh()).collect();
        Arc::new(Self { backends, shared: Arc::clone(&self.shared) })
    }
}
