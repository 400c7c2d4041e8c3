//! Working sets: the frames that a program needs first, together in one object.
//!
//! The object repeats, in the order in which they were first touched, the stored bytes of frames that are in packs too, so that one request
//! brings them. It adds nothing to believe in: a frame out of it is decoded and verified by the index's row, like any other.

mod format;
mod name;
mod trace;
mod write;

pub use format::{MAX_SET_BYTES, MAX_SET_FRAMES, WorkingSet};
pub use name::check_name;
pub use trace::{MAX_TRACE_FRAMES, Trace, merge};
pub use write::add;
