//! The restored task: a process whose memory somebody else fills, and that does things to it.

use super::{
    content::Random,
    layout::{self, THREADS},
    system,
    worker::{Worker, fail},
};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::{
    io::{IoSlice, Read, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    time::{Duration, Instant},
};
use userfaultfd::{FeatureFlags, UffdBuilder};

/// What threads do most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// Reads and writes.
    Ordinary,
    /// Moves: mremap in all forms, munmap.
    Moves,
}

/// What the fake CRIU tells a task.
#[derive(Clone, Copy, Debug)]
pub struct Orders {
    pub task: u32,
    pub seed: u64,
    pub mix: Mix,
    /// mremap onto memory that is mapped: the kernel reports that in an order which hides things.
    pub replace: bool,
}

impl Orders {
    pub fn to_words(self) -> String {
        format!("{} {} {} {}", self.task, self.seed, u8::from(self.mix == Mix::Moves), u8::from(self.replace))
    }

    pub fn from_words(words: &str) -> Option<Self> {
        let mut words = words.split(' ').map(|word| word.parse::<u64>().ok());
        let mut next = || words.next().flatten();
        let (task, seed) = (next()? as u32, next()?);
        let mix = if next()? == 1 { Mix::Moves } else { Mix::Ordinary };
        Some(Self { task, seed, mix, replace: next()? == 1 })
    }
}

/// Of each thread, at most.
const STEPS: u32 = 5000;
/// For them, at most: a machine may be busy. Then everything is checked.
const TIME: Duration = Duration::from_secs(3);

/// Steps of a restore, one byte each, between the fake CRIU and a task.
pub const REGISTER: u8 = b'r';
pub const REGISTERED: u8 = b'R';
pub const RUN: u8 = b'g';

/// Becomes a task. Its standard input is the socket to the fake CRIU.
pub fn run(orders: Orders) -> ! {
    system::report_crashes();
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().expect("a descriptor");
    let mut criu = UnixStream::from(stdin);
    let mappings = layout::mappings(orders.task);
    for mapping in &mappings {
        system::map_at(mapping.start as usize, mapping.bytes as usize);
    }
    let features =
        FeatureFlags::EVENT_FORK | FeatureFlags::EVENT_REMAP | FeatureFlags::EVENT_REMOVE | FeatureFlags::EVENT_UNMAP;
    // As CRIU does it.
    let uffd = UffdBuilder::new()
        .close_on_exec(true)
        .non_blocking(true)
        .user_mode_only(false)
        .require_features(features)
        .create()
        .expect("userfaultfd(2): this test needs root");
    let fds = [uffd.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(criu.as_raw_fd(), &[IoSlice::new(b"u")], &rights, MsgFlags::empty(), None).expect("CRIU is there");
    wait_for(&mut criu, REGISTER);
    for mapping in &mappings {
        uffd.register(mapping.start as *mut _, mapping.bytes as usize).expect("memory that can be registered");
    }
    // The restorer closes its own: from here on only the pager has one.
    drop(uffd);
    criu.write_all(&[REGISTERED]).expect("CRIU is there");
    wait_for(&mut criu, RUN);

    let shared = Arc::new(mappings.clone());
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let shared = shared.clone();
            let seed = orders.seed ^ u64::from(orders.task * THREADS + thread + 1).wrapping_mul(0xa076_1d64_78bd_642f);
            std::thread::spawn(move || {
                let mut worker = Worker::new(orders, thread, Random::new(seed), &shared);
                worker.work(STEPS, Some(Instant::now() + TIME));
                worker.check_all();
                worker.done
            })
        })
        .collect();
    let mut done = super::worker::Done::default();
    for thread in threads {
        match thread.join() {
            Ok(more) => done.add(more),
            Err(_) => fail("a thread panicked"),
        }
    }
    let _ = criu.write_all(done.to_words().as_bytes());
    std::process::exit(0);
}

fn wait_for(criu: &mut UnixStream, byte: u8) {
    let mut read = [0];
    if criu.read_exact(&mut read).is_err() || read[0] != byte {
        std::process::exit(1);
    }
}
