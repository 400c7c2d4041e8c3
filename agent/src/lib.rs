//! The agent: takes userfaultfds from CRIU and resolves their faults from a page store.
//!
//! ```text
//! address_space   pure: which memory of a process lacks which stored pages
//! uffd            the only unsafe code: typed access to a userfaultfd
//! criu_socket     CRIU's lazy-pages socket
//! engine          one thread: events, faults, installs     ◄──► fetch   frames from the store, on its own threads
//! guard           another process, which keeps the userfaultfds open, and what the next agent has to know
//! fd_store        with systemd: its file descriptor store, which outlives the guard
//! lazy_pages      the command and the pager behind it; restore adds the slim dump and CRIU itself
//! recording       where a recording goes, and that it is not lost on the way
//! doctor          whether a restore would work here
//! status          what was done so far      ──►   observe   tells it over HTTP
//! ```

mod access;
pub mod address_space;
mod cache;
pub mod cli;
mod counting;
mod criu;
pub mod criu_socket;
pub mod daemon;
pub mod doctor;
mod early;
mod engine;
pub mod fd_store;
mod fetch;
pub mod guard;
mod ids;
mod images;
pub mod lazy_pages;
mod link;
mod observe;
mod placement;
mod progress;
mod rate;
pub mod recording;
pub mod restore;
pub mod status;
mod tree;
pub mod uffd;

pub use cache::Refused;
pub use engine::{Complete, OnMissing};
