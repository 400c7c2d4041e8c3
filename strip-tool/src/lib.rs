//! `pageferry-strip`: splits a CRIU checkpoint into a slim dump and a page store, and back.
//!
//! Each command is a function here that takes its options, a [`Meter`] to tell how far it is and a [`Stop`] to be told to stop,
//! and returns a report that can be printed for people or as JSON. [`cli`] is what `main` runs.

#![forbid(unsafe_code)]

pub mod cli;
pub mod copy;
mod dry_run;
mod human;
pub mod inspect;
pub mod join;
pub mod list;
mod meter;
mod output;
pub mod presign;
mod retry;
pub mod rm;
pub mod split;
mod stop;
pub mod verify;
pub mod working_set;

pub use meter::{Meter, Mode};
pub use stop::{Stop, Stopped};
