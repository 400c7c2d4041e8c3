//! End to end: real CRIU, real programs, real servers.
//!
//! The shape of a test:
//!
//! ```no_run
//! use pageferry_tests::{Cell, Checkpoint, Host, Pager, Result, Workdir, criu_restore, programs::Redis, split};
//! # fn main() -> Result<()> {
//! let work = Workdir::new("example")?;
//! let checkpoint = Checkpoint::take(&work, Redis { keys: 1000 })?; // the original is gone now
//! let split = split(&work, &checkpoint, &[])?; //                    a page store and a slim dump
//! let host = Host::server(&work, &split.store)?; //                  or Host::nginx
//! let cell = Cell::new()?; //                                        namespaces for what is restored
//! let pager = Pager::start(&host.url(), &split.slim, &work.folder("pager")?, &[])?;
//! criu_restore(&cell, &split.slim, pager.work(), &["--lazy-pages"])?;
//! checkpoint.check(&cell)?; //                                       every key, reply and byte
//! # Ok(())
//! # }
//! ```
//!
//! All of it needs root, a CRIU that works and the programs that `cargo xtask setup` fetches; a test that lacks one of
//! them fails. Nothing outlives a test, not even one that is killed: every process runs in a [`Cell`] whose first
//! process ends with the test's, or is a [`Daemon`] that is killed on drop and by the kernel with the test's process.
#![forbid(unsafe_code)]

mod cache;
mod cell;
mod checkpoint;
mod contrib;
mod criu_pager;
mod daemon;
mod fake_systemd;
mod folders;
mod garage;
mod host;
pub mod hostile;
pub mod http;
mod memory;
mod memory_limit;
mod pair;
pub mod programs;
mod restore;
pub mod s3;
mod slow_link;
mod systemd;
pub mod tools;
mod trial;
mod workdir;

pub use anyhow::Result;
pub use cache::{Cache, CacheKind};
pub use cell::Cell;
pub use checkpoint::{Checkpoint, ROOT_PID, Running, Split, split};
pub use criu_pager::CriuPager;
pub use daemon::{Daemon, Usage, free_port};
pub use fake_systemd::FakeSystemd;
pub use folders::{assert_same_files, folder_size};
pub use garage::Garage;
pub use host::Host;
pub use memory::compare_memory;
pub use memory_limit::{MemoryLimit, forget_cached};
pub use pair::{Pair, Role};
pub use restore::{Pager, agent_restore, agent_restore_in, criu_restore};
pub use s3::S3;
pub use slow_link::{SlowLink, Speed};
pub use systemd::Systemd;
pub use trial::{Trial, p99};
pub use workdir::Workdir;

use std::time::{Duration, Instant};

/// How long anything that should happen may take on a busy machine with two cores.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Tries until it works; after [`PATIENCE`] the last error is the answer.
pub fn eventually<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() > PATIENCE => {
                return Err(error.context(format!("still so after {} s", PATIENCE.as_secs())));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
