//! Memory for answers, handed out piece by piece.
//!
//! First come, first served, until the first has waited for a second: then there is more to do than can be done, and whoever came
//! last is still the likeliest to be there when its turn comes.

use super::{Holder, Place};
use crate::pace::now;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;

/// Milliseconds that the first may wait before the last comes first.
const IN_TURN: u64 = 1000;

/// So many bytes.
#[derive(Debug)]
pub(super) struct Pool {
    state: Mutex<State>,
    size: u64,
}

#[derive(Debug)]
struct State {
    free: u64,
    holders: HashMap<u64, Arc<Holder>>,
    next: u64,
    waiting: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    holder: Arc<Holder>,
    bytes: u64,
    since: u64,
    tell: oneshot::Sender<Place>,
}

/// What a request gets that asks for a place.
pub(super) enum Asked {
    Granted(Place),
    Wait(oneshot::Receiver<Place>),
}

impl Pool {
    pub(super) fn new(size: u64) -> Self {
        let state = State { free: size, holders: HashMap::new(), next: 0, waiting: VecDeque::new() };
        Self { state: Mutex::new(state), size }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for `bytes`, now or as soon as there is some. What is larger than the whole pool gets the whole pool.
    pub(super) fn ask(self: &Arc<Self>, holder: Holder, bytes: u64) -> Asked {
        let (holder, bytes) = (Arc::new(holder), bytes.min(self.size));
        let mut state = self.state();
        if state.waiting.is_empty() && state.free >= bytes {
            let number = state.take(&holder, bytes);
            drop(state);
            return Asked::Granted(Place::new(self, holder, number, bytes));
        }
        let (tell, told) = oneshot::channel();
        state.waiting.push_back(Waiter { holder, bytes, since: now(), tell });
        Asked::Wait(told)
    }

    /// A place is free again.
    pub(super) fn give_back(self: &Arc<Self>, number: u64, bytes: u64) {
        let mut state = self.state();
        state.holders.remove(&number);
        state.free = state.free.saturating_add(bytes);
        drop(state);
        self.hand_out();
    }

    /// Gives what is free to those who wait.
    fn hand_out(self: &Arc<Self>) {
        loop {
            let mut state = self.state();
            let Some((waiter, number)) = state.next_waiter() else { return };
            // A place takes the lock when it is dropped, which it is here if nobody waits for it any more.
            drop(state);
            let _ = waiter.tell.send(Place::new(self, waiter.holder, number, waiter.bytes));
        }
    }

    /// Requests that wait.
    pub(super) fn waiting(self: &Arc<Self>) -> usize {
        // The first of them may have gone away, and there may be room for the second.
        self.hand_out();
        let mut state = self.state();
        state.waiting.retain(|waiter| !waiter.tell.is_closed());
        state.waiting.len()
    }

    /// Bytes that are handed out.
    pub(super) fn used(&self) -> u64 {
        self.size.saturating_sub(self.state().free)
    }

    /// All who hold a place.
    pub(super) fn holders(&self) -> Vec<Arc<Holder>> {
        self.state().holders.values().cloned().collect()
    }
}

impl State {
    fn take(&mut self, holder: &Arc<Holder>, bytes: u64) -> u64 {
        self.free = self.free.saturating_sub(bytes);
        let number = self.next;
        self.next += 1;
        self.holders.insert(number, holder.clone());
        number
    }

    /// Whose turn it is, if there is room for it.
    fn next_waiter(&mut self) -> Option<(Waiter, u64)> {
        while self.waiting.front().is_some_and(|waiter| waiter.tell.is_closed()) {
            self.waiting.pop_front();
        }
        let in_turn = now().saturating_sub(self.waiting.front()?.since) <= IN_TURN;
        let at = if in_turn { 0 } else { self.waiting.len() - 1 };
        if self.waiting.get(at)?.bytes > self.free {
            return None;
        }
        let waiter = self.waiting.remove(at)?;
        let number = self.take(&waiter.holder, waiter.bytes);
        Some((waiter, number))
    }
}
